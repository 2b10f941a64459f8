"""Named volumes: data that outlives containers, in directories below the state root."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from typing import Any

from runtime import api
from runtime.errors import Conflict, InvalidSpec, NotFound, Unsupported
from runtime.files import read_json
from runtime.layout import Layout
from runtime.lock import locked

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,200}\Z")


class Volumes:
    """`<root>/volumes/<name>/{volume.json,_data}`; the definition and the data are separate things."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def _directory(self, name: str) -> str:
        if not _NAME.match(name):
            raise InvalidSpec(f'cannot use volume "{name}": a name is letters, digits, "_", "." and "-"')
        return f"{self.layout.volumes}/{name}"

    def create(self, spec: api.VolumeSpec) -> api.VolumeInfo:
        """Make it, or take it as it is when it exists with the same driver options. Raises Conflict otherwise."""
        directory = self._directory(spec.name)
        _check_driver(spec)
        with locked(f"{self.layout.locks}/volumes"):
            present = read_json(f"{directory}/volume.json")
            if present is not None and present["driver_opts"] != dict(spec.driver_opts):
                raise Conflict(
                    f'cannot create volume "{spec.name}": it exists with other driver options',
                    "its data would be left behind; remove the volume by name, or keep the options",
                )
            value = {
                "name": spec.name,
                "labels": dict(spec.labels),
                "declared": spec.declared,
                "driver_opts": dict(spec.driver_opts),
                "created_at": present["created_at"] if present else time.time(),
            }
            os.makedirs(directory, mode=0o700, exist_ok=True)
            if present is None:
                # Before the record: whoever finds that takes a missing directory for lost data.
                os.makedirs(f"{directory}/_data", mode=0o755, exist_ok=True)
            self._write_durably(directory, value)
        return self.get(spec.name)

    def _write_durably(self, directory: str, value: dict[str, Any]) -> None:
        temporary = f"{directory}/.volume.json"
        with open(temporary, "w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, f"{directory}/volume.json")

    def get(self, name: str) -> api.VolumeInfo:
        directory = self._directory(name)
        value = read_json(f"{directory}/volume.json")
        if value is None:
            raise NotFound(f'cannot find volume "{name}": no such volume')
        return api.VolumeInfo(
            name=value["name"],
            labels=value["labels"],
            declared=value["declared"],
            path=f"{directory}/_data",
            created_at=value["created_at"],
            driver_opts=value["driver_opts"],
            damage=self._damage(f"{directory}/_data"),
        )

    def _damage(self, path: str) -> tuple[api.Damage, ...]:
        if os.path.isdir(path):
            return ()
        return (api.Damage("directory", path, "missing: its data is gone"),)

    def list(self) -> list[api.VolumeInfo]:
        try:
            names = sorted(os.listdir(self.layout.volumes))
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            try:
                found.append(self.get(name))
            except (NotFound, InvalidSpec):
                continue
        return found

    def repair(self, name: str) -> None:
        """Make a vanished data directory anew; what was in it is lost, and the caller says so loudly."""
        os.makedirs(self.get(name).path, mode=0o755, exist_ok=True)

    def remove(self, name: str) -> None:
        directory = self._directory(name)
        with locked(f"{self.layout.locks}/volumes"):
            grave = f"{self.layout.trash}/volume-{name}-{time.time_ns():x}"
            try:
                os.rename(directory, grave)
            except FileNotFoundError:
                return
        shutil.rmtree(grave, ignore_errors=True)

    def mount(self, mount: api.Mount) -> dict[str, Any]:
        """The launch request's entry for a volume mount."""
        volume = self.get(mount.source)
        entry: dict[str, Any] = {
            "kind": "bind", "source": volume.path, "target": mount.target, "read_only": mount.read_only,
            "propagation": "rprivate", "recursive": True, "file": False, "options": "",
        }  # fmt: skip
        options = volume.driver_opts
        if options.get("type") == "tmpfs":
            entry |= {"kind": "tmpfs", "source": "tmpfs", "options": options.get("o", "")}
        elif options.get("device"):
            if not os.path.isdir(options["device"]):
                raise InvalidSpec(
                    f'cannot mount volume "{mount.source}": its device {options["device"]} is not a directory'
                )
            entry["source"] = options["device"]
            entry["read_only"] = mount.read_only or "ro" in options["o"].split(",")
        elif volume.damage:
            raise NotFound(
                f'cannot mount volume "{mount.source}": its directory {volume.path} is missing',
                "an apply or the agent makes it anew",
            )
        if mount.subpath:
            if entry["kind"] == "tmpfs":
                raise InvalidSpec(f'cannot mount volume "{mount.source}": a tmpfs begins empty and has no subpath')
            _check_beneath(entry["source"], mount.subpath, mount.source)
            entry["subpath"] = mount.subpath
        return entry


def _check_driver(spec: api.VolumeSpec) -> None:
    options = spec.driver_opts
    unknown = sorted(set(options) - {"type", "device", "o"})
    if unknown:
        raise InvalidSpec(f'cannot create volume "{spec.name}": unknown driver option "{unknown[0]}"')
    kind = options.get("type", "")
    words = options.get("o", "").split(",")
    binding = "bind" in words or "rbind" in words
    if binding and (ignored := sorted(set(words) - {"bind", "rbind", "ro", "rw"})):
        raise Unsupported(
            f'cannot create volume "{spec.name}": option "{ignored[0]}" of a bind is not supported yet',
            "bind, rbind, ro and rw are",
        )
    if not options or kind == "tmpfs" or (kind in ("", "none") and binding and options.get("device")):
        return
    raise Unsupported(
        f'cannot create volume "{spec.name}": volumes of type "{kind}" are not supported yet',
        "a directory, type: tmpfs, or o: bind with a device",
    )


def _check_beneath(base: str, subpath: str, volume: str) -> None:
    """For a clear message only: the launch resolves `subpath` again, beneath the volume, when it mounts it."""
    path = os.path.realpath(f"{base}/{subpath}")
    if path != os.path.realpath(base) and not path.startswith(os.path.realpath(base) + "/"):
        raise InvalidSpec(f'cannot mount volume "{volume}": subpath "{subpath}" leads out of it')
    if not os.path.exists(path):
        raise InvalidSpec(f'cannot mount volume "{volume}": subpath "{subpath}" does not exist in it')
