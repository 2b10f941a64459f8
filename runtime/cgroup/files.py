"""Reads and writes the control files of a cgroup."""

from __future__ import annotations

import errno
import os


def write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """The file's text, "" when it or its cgroup is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 1 << 16).decode().strip()
    except OSError:
        return ""
    finally:
        os.close(fd)


def read_keyed(path: str, key: str) -> int:
    """The number beside `key` in a flat-keyed file such as memory.events; 0 when absent."""
    for line in read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def make(path: str) -> bool:
    """True when made now, False when it was there. Parents are made too."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return False
    except FileNotFoundError:
        make(os.path.dirname(path))
        return make(path)
    return True


def directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def remove(path: str) -> bool:
    """Remove a cgroup and those below it; False while a dying process still pins one (EBUSY)."""
    for name in directories(path):
        if not remove(f"{path}/{name}"):
            return False
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True
