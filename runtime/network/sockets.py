"""What the names process needs of the kernel: its sockets, a watch on the zone, being the only one of its root."""

from __future__ import annotations

import os
import signal
import socket
import time

IN_CLOSE_WRITE, IN_MOVED_TO, IN_MOVED_FROM, IN_DELETE, IN_Q_OVERFLOW = 8, 0x80, 0x40, 0x200, 0x4000
IP_FREEBIND, IPV6_FREEBIND = 15, 78
SO_RCVBUFFORCE = 33
PR_SET_NAME = 15


def bind(address: str) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP on one gateway address; free binding lets the bridge be repaired before or after us."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            one = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            made.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Room for a burst while the machine is busy elsewhere: a lost question costs its client five seconds.
            one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            else:
                one.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            one.bind((address, 53))
        made[1].listen(128)
    except OSError:
        for one in made:
            one.close()
        raise
    return made[0], made[1]


def watch(directory: str) -> int:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    mask = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE
    if fd < 0 or libc.inotify_add_watch(fd, directory.encode(), mask) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
    libc.prctl(PR_SET_NAME, b"holdfast-names", 0, 0, 0)
    return fd


def replace_former(lock: str) -> int:
    """Be the only one of this root: a former process, orphaned by the keeper's death, makes room."""
    import fcntl

    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + 10.0
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # Whoever holds the lock wrote this pid, so it names no stranger.
            former = os.pread(fd, 20, 0).strip()
            if former.isdigit():
                try:
                    os.kill(int(former), signal.SIGTERM)
                except ProcessLookupError:
                    pass
            if time.monotonic() > deadline:
                raise SystemExit("names: another process of this root does not make room") from None
            time.sleep(0.01)
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d" % os.getpid(), 0)
    return fd
