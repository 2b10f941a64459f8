"""Mounts as services write them: binds, volumes and tmpfs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from schemas.values import parse_mode, parse_size

PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """A volume entry of a service before names and paths are resolved; tmpfs sizes in bytes."""

    type: str
    target: str
    source: str = ""
    read_only: bool = False
    nocopy: bool = False
    subpath: str = ""
    propagation: str = "rprivate"
    tmpfs_size: int = 0
    tmpfs_mode: int = 0o1777
    tmpfs_options: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)


def clean_target(text: str) -> str:
    """An absolute path in the container without `.`, `..` and doubled slashes."""
    if "\0" in text or "\n" in text:
        raise ValueError("a path cannot hold a NUL byte or a newline")
    if not text.startswith("/"):
        raise ValueError(f'container path "{text}" must be absolute')
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            raise ValueError(f'container path "{text}" must not hold ".."')
        if part not in ("", "."):
            parts.append(part)
    if not parts:
        raise ValueError('cannot mount over "/"')
    return "/" + "/".join(parts)


def is_path(source: str) -> bool:
    return source.startswith(("/", ".", "~"))


def parse_volume(value: str) -> MountEntry:
    """The short form: `[SOURCE:]TARGET[:MODE]`; a source that begins with `/`, `.` or `~` is a bind mount."""
    if re.match(r"[A-Za-z]:\\|[A-Za-z]:/[^:]*:[/\\A-Za-z]:?[/\\]", value) or value.startswith("\\\\"):
        raise ValueError(f'"{value}" is a Windows path, which cannot work on a Linux host')
    parts = value.split(":")
    if len(parts) > 3 or not all(parts):
        raise ValueError(f'"{value}" is not of the form SOURCE:TARGET[:MODE]')
    if len(parts) == 1:
        return MountEntry("volume", clean_target(parts[0]))
    source, target = parts[0], clean_target(parts[1])
    read_only, nocopy, propagation, notes = False, False, "rprivate", []
    for option in parts[2].split(",") if len(parts) == 3 else ():
        if option in ("ro", "rw"):
            read_only = option == "ro"
        elif option == "nocopy":
            nocopy = True
        elif option in PROPAGATIONS:
            propagation = option
        elif option in ("z", "Z"):
            notes.append(f'option "{option}" has no effect: no SELinux relabelling is done')
        elif option not in ("cached", "delegated", "consistent"):
            raise ValueError(f'unknown mount option "{option}": ro, rw, nocopy, z, Z or a propagation such as rshared')
    if is_path(source):
        return MountEntry("bind", target, source, read_only, propagation=propagation, notes=tuple(notes))
    return MountEntry("volume", target, source, read_only, nocopy, notes=tuple(notes))


def parse_tmpfs(value: str) -> MountEntry:
    """`/run` or `/run:size=64m,mode=1770,noexec`."""
    target, _, options = value.partition(":")
    size, mode, read_only, rest = 0, 0o1777, False, []
    for option in filter(None, options.split(",")):
        key, equals, setting = option.partition("=")
        if key == "size" and equals:
            size = parse_size(setting)
        elif key == "mode" and equals:
            mode = parse_mode(setting)
        elif option in ("ro", "rw"):
            read_only = option == "ro"
        elif option in ("exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime") or (
            key in ("uid", "gid", "nr_inodes") and re.fullmatch(r"[0-9]{1,10}[kmg]?", setting)
        ):
            rest.append(option)
        else:
            raise ValueError(f'unknown tmpfs option "{option}"')
    return MountEntry(
        "tmpfs",
        clean_target(target),
        "",
        read_only,
        tmpfs_size=size,
        tmpfs_mode=mode,
        tmpfs_options=tuple(sorted(set(rest))),
    )
