"""Messages between client, supervisor and keeper: one JSON object a SEQPACKET packet, descriptors beside it.

    client -> supervisor                         answer (one packet; errors: {"error": kind, "message": text, …})
    start      id            + stdio fds         {"pid", "starttime"} after the program was exec'd
    signal     id signal     | exec_signal       {}
    wait       id                                {"record": exit record}, when it has ended
    exec       id exec       + stdio fds         {"pid"} (+ terminal master), later {"exit": {"code", "signal"}}
    exec_wait  id exec                           {"exit": …}; for clients that lost their connection
    attach     id                                {} + terminal master
    freeze thaw update hold release held names running upgrade shutdown_if_idle
    watch                                        {}, then {"event": "start" | "exit", "id", …} without end

Every operation is idempotent by id: a client that loses its connection sends it again.
"""

from __future__ import annotations

import _json  # the C half of json: the other half imports re, a megabyte that two resident processes need not have
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_PACKET = 256 << 10
MAX_DESCRIPTORS = 250  # SCM_MAX_FD is 253


class _Scanner:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float

    def __init__(self) -> None:
        self.memo: dict[str, str] = {}


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no JSON form")


_scan = _json.make_scanner(_Scanner())  # type: ignore[arg-type]
_encode = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, False)


def encode(value: object) -> bytes:
    return "".join(_encode(value, 0)).encode()


def decode(data: bytes) -> Any:
    """Raises ValueError for anything but one JSON value."""
    text = data.decode("utf-8", "surrogateescape").strip()
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError("text after the JSON value")
    return value


def read_file(path: str) -> Any:
    """The JSON value in a file, or None when it is absent or torn."""
    try:
        data = read_bytes(path)
        return decode(data) if data else None
    except (ValueError, OSError):
        return None


def read_bytes(path: str) -> bytes:
    """What is in a file, nothing when it is absent."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return read_all(fd)
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def write_file(path: str, value: object) -> None:
    """Old or new, never half: a temporary name, then rename. No fsync: run-time state does not outlive a boot."""
    temporary = f"{path}.{os.getpid()}.{os.urandom(3).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, encode(value))
    finally:
        os.close(fd)
    os.rename(temporary, path)


def write_all(fd: int, data: bytes) -> None:
    """A disk that runs full takes a part and says no more than how much: the next call then tells the cause."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def forget(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def send(connection: socket.socket, value: object, fds: list[int] | tuple[int, ...] = ()) -> None:
    if fds:
        socket.send_fds(connection, [encode(value)], list(fds))
    else:
        connection.send(encode(value))


def receive(connection: socket.socket) -> tuple[Any, list[int]]:
    """One message and its descriptors (close-on-exec); (None, []) at the end of the connection."""
    data, fds, flags, _ = socket.recv_fds(connection, MAX_PACKET, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None, []
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise ValueError("message too long")
    return decode(data), fds


def process_starttime(pid: int) -> int:
    """Clock ticks between boot and the start of `pid`, zombies included; 0 when there is none.

    Only pid and start time together name a process: pids are used again.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        # The command's name may hold blanks and parentheses; the last one closes it.
        return int(os.read(fd, 1024).rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0
    finally:
        os.close(fd)
