"""Advisory locks between processes: one file per object, released by the kernel when the holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import Unavailable


@contextmanager
def locked(path: str, timeout: float = 60.0) -> Iterator[None]:
    """Hold `path` exclusively. Raises Unavailable after `timeout` seconds.

    The file is never unlinked: removing it would let two holders lock two different inodes of one name.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout
        pause = 0.0005
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f'cannot lock "{os.path.basename(path)}": another process holds it for over {timeout:g} s'
                    ) from None
                time.sleep(pause)
                pause = min(pause * 2, 0.02)
        yield
    finally:
        os.close(fd)
