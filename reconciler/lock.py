"""One apply per stack at a time: a file lock that names its holder and dies with its process.

Open-file-description locks, not flock(2): they alone can be asked about without being taken, so that `status` never
makes an apply that starts at the same instant believe the stack is busy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.errors import Conflict, DiskFull, EngineError, Unavailable

_POLL = 0.05
_FLOCK = "hhqqi4x"
_WHOLE_FILE = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Holder:
    pid: int
    command: str
    since: float

    def __str__(self) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(self.since)) if self.since else "an unknown time"
        return f"process {self.pid} ({self.command}) since {since}" if self.pid else "another process"


class StackLocked(EngineError):
    """Another process works on the stack. Exit code 5."""

    retryable = True

    def __init__(self, stack: str, holder: Holder) -> None:
        super().__init__(f'cannot lock stack "{stack}": held by {holder}', "wait for it to end, or give --timeout")
        self.stack = stack
        self.holder = holder


@contextlib.contextmanager
def agent_lock(root: str) -> Iterator[None]:
    """Hold the root as its only agent; raises Conflict that names the one there is."""
    fd = _open(f"{root}/agent.lock", "agent")
    try:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        except OSError:
            raise Conflict(
                f'cannot start the agent on "{root}": it is served by {_read_holder(fd)}', "one root has one agent"
            ) from None
        _write_holder(fd)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def stack_lock(root: str, stack: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the stack; raises StackLocked when another thread or process still has it after `wait` seconds."""
    path = _path(root, stack)
    fd = _open(path, stack)
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EINTR):
                    raise Unavailable(f'cannot lock stack "{stack}": {error.strerror}') from None
            if time.monotonic() >= deadline:
                raise StackLocked(stack, _read_holder(fd))
            time.sleep(min(_POLL, max(0.0, deadline - time.monotonic())) or 0.001)
        _write_holder(fd)
        yield
    finally:
        # Closing is what unlocks; the file stays, because removing it would let two holders lock two inodes.
        os.close(fd)


def lock_holder(root: str, stack: str) -> Holder | None:
    """Who works on the stack now, without waiting or locking; None when nobody does."""
    try:
        fd = os.open(_path(root, stack), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE_FILE))
        return None if found[0] == fcntl.F_UNLCK else _read_holder(fd)
    except OSError:
        return None
    finally:
        os.close(fd)


def _path(root: str, stack: str) -> str:
    name = stack if _SAFE.fullmatch(stack) else hashlib.sha256(stack.encode()).hexdigest()
    return f"{root}/locks/{name}.lock"


def _open(path: str, stack: str) -> int:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
        raise kind(f'cannot lock stack "{stack}": {path}: {error.strerror}', "is the state root writable?") from None


def _write_holder(fd: int) -> None:
    command = os.path.basename(sys.argv[0] or "python") + "".join(f" {word}" for word in sys.argv[1:3])
    text = json.dumps({"pid": os.getpid(), "command": command[:200], "since": time.time()})
    # The text only informs; on a full disk the lock itself still works.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)


def _read_holder(fd: int) -> Holder:
    try:
        value = json.loads(os.pread(fd, 4096, 0))
        return Holder(int(value["pid"]), str(value["command"]), float(value["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder(0, "", 0.0)
