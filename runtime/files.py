"""Small files that are old or new and never torn: a temporary name, then a rename."""

from __future__ import annotations

import json
import os
from typing import Any


def read_text(path: str) -> str | None:
    """None for a file that is absent. Plain system calls: a container's start reads a dozen of these."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
            if len(part) < 1 << 16:
                break
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "replace")


def read_json(path: str) -> Any:
    """None for a file that is absent or that nobody could have written whole."""
    text = read_text(path)
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def write_json(path: str, value: Any, durable: bool = False) -> None:
    write_text(path, json.dumps(value, separators=(",", ":")), durable)


def write_text(path: str, text: str, durable: bool = False) -> None:
    """Replace `path` whole or not at all, readable by root alone; `durable` also survives a power failure."""
    directory, name = os.path.split(path)
    # A dot: listings pass over what is being written, or was when its writer died.
    temporary = f"{directory}/.{name}.{os.getpid()}.{os.urandom(3).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, text.encode())
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if durable:
        sync_directory(directory)


def write_all(fd: int, data: bytes) -> None:
    """A disk that runs full in the middle takes a part; the next write then says so."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_file(path: str) -> None:
    """Removing what is absent succeeds."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
