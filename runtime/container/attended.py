"""Who waits for a container's end: one that goes by itself is not taken from under their hands."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.layout import Layout


@contextmanager
def attended(layout: Layout, id: str) -> Iterator[None]:
    """Hold while the end's exit code and log are still to be read. The kernel lets go when the holder dies."""
    directory = layout.run_container(id)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    fd = os.open(f"{directory}/attended", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def is_attended(layout: Layout, id: str) -> bool:
    try:
        fd = os.open(f"{layout.run_container(id)}/attended", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
