"""What a container sees below its root: image layers, its own writable layer, volumes, files, tmpfs.

Everything is made ready here; the launch mounts it inside the container's own mount namespace, so that nothing is
ever mounted on the host and a kill at any instant leaves no mount behind.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from runtime import api
from runtime.container.spec import tmpfs_options
from runtime.container.store import ContainerRecord
from runtime.errors import InvalidSpec, NotFound, Unsupported
from runtime.layout import Layout
from runtime.lock import locked
from runtime.snapshot import overlay
from runtime.supervise.wire import write_all
from runtime.volume import Volumes


class Rootfs:
    """The layers of one container: `lowers` top first, `upper` its writable layer."""

    def __init__(self, directory: str, lowers: Sequence[str]) -> None:
        self.lowers = list(lowers)
        self.upper = f"{directory}/upper"
        self.directory = directory

    def prepare(self, layout: Layout, merged: str) -> dict[str, Any]:
        """The launch request's part. `merged` is where the container's own mount namespace mounts it all."""
        writable = overlay.prepare(self.directory, merged)
        return {
            "lowers": [*self.lowers, mount_points(layout)],
            "upper": writable.upper,
            "work": writable.work,
            "merged": writable.merged,
            "volatile": True,
        }

    def read_text(self, path: str) -> str:
        """The text of a file as the container would see it, at most 1 MiB; "" when there is none."""
        upper = self.upper if os.path.isdir(self.upper) else None
        return (overlay.read_in_layers(self.lowers, upper, path) or b"").decode("utf-8", "replace")


def mount_points(layout: Layout) -> str:
    """A layer below all others with the files and directories that every container has something mounted on.

    Without it each start would make them in the writable layer, wait for the disk, and leave them there.
    """
    base = f"{layout.root}/mount-points"
    if not os.path.exists(f"{base}/etc/hostname"):
        os.makedirs(base, mode=0o700, exist_ok=True)
        for name in ("dev", "etc", "proc", "sys"):
            os.makedirs(f"{base}/{name}", mode=0o755, exist_ok=True)
            os.chmod(f"{base}/{name}", 0o755)  # noqa: S103 - what containers see, whatever the umask
        for name in ("hosts", "resolv.conf", "hostname"):
            os.close(os.open(f"{base}/etc/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    return base


def volume_targets(spec: api.ContainerSpec, config: dict[str, Any]) -> list[str]:
    """The image's VOLUMEs that no mount of the spec covers: each gets an anonymous volume."""
    covered = {os.path.normpath(mount.target) for mount in spec.mounts}
    return sorted(path for path in (config.get("Volumes") or {}) if os.path.normpath(path) not in covered)


def container_mounts(
    record: ContainerRecord, rootfs: Rootfs, volumes: Volumes, layout: Layout, texts: dict[str, str]
) -> list[dict[str, Any]]:
    """Mount entries in the order in which they must happen: parents before what lies beneath them.

    `texts` holds the files that the engine writes for each start: /etc/hosts and its kin.
    """
    entries = [_mount_entry(mount, rootfs, volumes) for mount in record.spec.mounts]
    entries.sort(key=lambda entry: entry["target"].count("/"))
    run = layout.run_container(record.id)
    covered = {entry["target"] for entry in entries}
    for path, text in texts.items():
        if path not in covered:
            host_path = f"{run}/{os.path.basename(path)}"
            _write(host_path, text.encode(), 0o644)
            entries.append(_bind(host_path, path, read_only=False, file=True))
    for index, file in enumerate(record.spec.files):
        entries.append(_file_entry(index, file, record, layout))
    return entries


def _mount_entry(mount: api.Mount, rootfs: Rootfs, volumes: Volumes) -> dict[str, Any]:
    if not mount.target.startswith("/"):
        raise InvalidSpec(f'cannot mount at "{mount.target}": the target must be an absolute path')
    if mount.kind == "tmpfs":
        return {
            "kind": "tmpfs", "source": "tmpfs", "target": mount.target, "read_only": mount.read_only,
            "options": tmpfs_options(mount), "propagation": "rprivate", "recursive": False, "file": False,
        }  # fmt: skip
    if mount.kind == "volume":
        entry = volumes.mount(mount)
        sealed = entry["read_only"] and not mount.read_only  # by the volume's own options
        if entry["kind"] == "bind" and not mount.nocopy and not mount.subpath and not sealed:
            # Replicas that start at once share the volume: one fills it, the others find it full.
            with locked(f"{volumes.layout.locks}/fill-{mount.source}"):
                fill_volume(entry["source"], f"{volumes.layout.volumes}/{mount.source}", rootfs, mount.target)
        return entry
    if not os.path.exists(mount.source):
        raise InvalidSpec(
            f'cannot mount "{mount.source}": it does not exist on this host',
            "create it first; a missing bind source is never made up",
        )
    entry = _bind(mount.source, mount.target, mount.read_only, not os.path.isdir(mount.source))
    entry["propagation"] = mount.propagation
    entry["recursive"] = True
    return entry


def fill_volume(data: str, staging: str, rootfs: Rootfs, target: str) -> None:
    """Copy what the image has at `target` into a volume that is still empty, with the directory's owner and mode.

    All of it or nothing, whenever a kill comes: the copy is made in `staging`, and moved from there once it is whole; a
    later call goes on moving. Only a device on another file system is copied to directly.
    """
    half, whole = f"{staging}/filling", f"{staging}/filled"
    if os.stat(data).st_dev != os.stat(staging).st_dev:
        half = whole = data
    if whole == data or not os.path.isdir(whole):
        if os.listdir(data):
            return
        source = overlay.path_in_layers(rootfs.lowers, None, target)
        if source is None or not os.path.isdir(source):
            return
        if half != data:
            overlay.remove_tree(half)
        overlay.copy_from_layers(rootfs.lowers, None, target, half)
        os.rename(half, whole)
    if whole == data:
        return
    for name in os.listdir(whole):
        if not os.path.lexists(f"{data}/{name}"):
            os.rename(f"{whole}/{name}", f"{data}/{name}")
    status = os.stat(whole)
    os.chown(data, status.st_uid, status.st_gid)
    os.chmod(data, status.st_mode & 0o7777)
    overlay.remove_tree(whole)


def _bind(source: str, target: str, read_only: bool, file: bool) -> dict[str, Any]:
    return {
        "kind": "bind", "source": source, "target": target, "read_only": read_only, "options": "",
        "propagation": "rprivate", "recursive": False, "file": file,
    }  # fmt: skip


def _file_entry(index: int, file: api.File, record: ContainerRecord, layout: Layout) -> dict[str, Any]:
    """A private copy with the wanted owner and mode; a secret's copy lies on tmpfs only."""
    store = layout.secrets if file.secret else layout.configs
    try:
        with open(f"{store}/{file.digest}", "rb") as source:
            content = source.read()
    except FileNotFoundError:
        kind = "secret" if file.secret else "config"
        raise NotFound(
            f'cannot give container "{record.name}" the {kind} for {file.target}: its content is not kept here',
            "apply the manifest again",
        ) from None
    if file.secret:
        directory = f"{layout.run_secrets}/{record.id}"
        if not layout.run_secrets:
            raise Unsupported(
                f'cannot give container "{record.name}" its secrets: neither /run nor /dev/shm is a tmpfs here',
                "mount one: secrets are never written to a disk in the clear",
            )
    else:
        directory = f"{layout.container(record.id)}/configs"
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = f"{directory}/{index}"
    _write(path, content, 0o600)
    os.chown(path, file.uid, file.gid)
    os.chmod(path, file.mode)
    return _bind(path, file.target, read_only=True, file=True)


def _write(path: str, content: bytes, mode: int) -> None:
    """Write anew: an old container process may still have the former file mounted."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        write_all(fd, content)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
