"""What the supervisor knows of one container and of one program run inside it, and how their ends are read."""

from __future__ import annotations

import os
import signal
import socket

from runtime import syscalls
from runtime.supervise import wire
from runtime.supervise.init import REACHED_EXEC
from runtime.supervise.logfile import LogWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

with open("/proc/sys/kernel/random/boot_id") as _file:
    BOOT = _file.read().strip()

ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Child:
    """A process by pid and start time, with a pidfd. It need not be our child: a former supervisor may have made it."""

    def __init__(self, pid: int, starttime: int, pidfd: int) -> None:
        self.pid = pid
        self.starttime = starttime
        self.pidfd = pidfd

    def send(self, number: int) -> None:
        """A signal; one that has ended already is no error."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def reap(self, exits: str, *, gone: bool) -> dict[str, Any] | None:
        """{"code", "signal", "lost"} once the process has ended, None while it has not.

        `gone`: somebody has reaped it (POLLHUP). Then its end is in the keeper's record, or with the pidfd itself
        (Linux 6.15), or lost.
        """
        try:
            found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG) if self.pidfd >= 0 else None
            if found is not None:
                exited = found.si_code == os.CLD_EXITED
                return _ending(found.si_status if exited else None, 0 if exited else found.si_status)
            if self.pidfd >= 0:
                return None
        except ChildProcessError:
            if not gone:
                return None
        path = f"{exits}/{self.pid}.{self.starttime}"
        record = wire.read_file(path)
        if record is not None:
            wire.forget(path)
            return _ending(record["code"], record["signal"])
        status = syscalls.pidfd_exit_status(self.pidfd) if self.pidfd >= 0 else None
        if status is not None:
            return _ending(None if status & 0x7F else status >> 8 & 0xFF, status & 0x7F)
        return {"code": None, "signal": 0, "lost": True}


def _ending(code: int | None, signum: int) -> dict[str, Any]:
    return {"code": code, "signal": signum, "lost": False}


def open_pidfd(pid: int, starttime: int) -> int:
    """A pidfd of exactly this process, -1 when it is gone (a zombie is not)."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return -1
    if wire.process_starttime(pid) != starttime:
        os.close(fd)
        return -1
    return fd


class Container:
    """One run of a container, from the fork to the exit record."""

    def __init__(self, id: str, directory: str) -> None:
        self.id = id
        self.directory = directory
        self.name = id[:12]
        self.token = ""
        """Of the request that started it."""
        self.cgroup = ""
        self.child = Child(0, 0, -1)
        self.started_at = 0.0
        self.out = self.err = -1
        self.status = self.report = -1
        """The status pipe's read end (its end means exec or death) and the file with the reason of a failure."""
        self.master = -1
        self.channel: socket.socket | None = None
        self.log: LogWriter | None = None
        self.log_request: dict[str, Any] | None = None
        self.oom_base = 0
        self.by_us = False
        self.stop_signal = int(signal.SIGTERM)
        self.tty = False
        self.running = False
        """The program was exec'd."""
        self.starters: list[Any] = []
        self.waiters: list[Any] = []
        self.sessions: dict[str, Session] = {}

    @property
    def key(self) -> str:
        return f"container:{self.id}"

    def open_log(self) -> None:
        if self.log is None and self.log_request:
            wanted = self.log_request
            self.log = LogWriter(
                wanted["dir"], int(wanted.get("max_size") or 20 << 20), int(wanted.get("max_files") or 5)
            )

    def write_meta(self) -> None:
        wire.write_file(
            f"{self.directory}/meta",
            {
                "pid": self.child.pid,
                "starttime": self.child.starttime,
                "started_at": self.started_at,
                "boot": BOOT,
                "token": self.token,
                "name": self.name,
                "cgroup": self.cgroup,
                "log": self.log_request,
                "oom_base": self.oom_base,
                "by_us": self.by_us,
                "tty": self.tty,
                "stop_signal": self.stop_signal,
            },
        )

    def read_meta(self, meta: dict[str, Any]) -> None:
        self.child = Child(int(meta["pid"]), int(meta["starttime"]), -1)
        self.started_at = meta["started_at"]
        self.name, self.cgroup, self.token = meta["name"], meta["cgroup"], meta["token"]
        self.log_request = meta["log"]
        self.oom_base, self.by_us = meta["oom_base"], meta["by_us"]
        self.tty, self.stop_signal = meta["tty"], meta["stop_signal"]

    def failure(self) -> dict[str, Any] | None:
        """Why the program was not exec'd, None when it was. Known once the status pipe is at its end."""
        return None if self.report < 0 else read_report(self.report)

    def drain(self) -> None:
        """Everything that is in the pipes or the terminal now."""
        for fd, stream in ((self.out, 1), (self.err, 2)):
            while fd >= 0 and self.take(fd, stream):
                pass
        while self.master >= 0 and self.take_terminal():
            pass

    def take(self, fd: int, stream: int) -> bool:
        if self.log is not None:
            return self.log.take(fd, stream)
        try:
            return bool(os.read(fd, 1 << 16))
        except BlockingIOError:
            return False

    def take_terminal(self) -> bool:
        """EIO: no process has the other side open now."""
        import select

        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        if not any(event & select.POLLIN for _, event in poll.poll(0)):
            return False
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:
            return False
        if data and self.log is not None:
            self.log.write(data, 1)
        return bool(data)


class Session:
    """One program run inside a container by exec."""

    def __init__(self, container: Container, key: str) -> None:
        self.container = container
        self.key = key
        self.child = Child(0, 0, -1)
        self.status = self.report = -1
        self.channel: socket.socket | None = None
        self.connection: Any = None
        self.tty = False
        self.answered = False
        self.failure: dict[str, Any] | None = None

    @property
    def path(self) -> str:
        """Beside it: .json (request, until it is read), .meta (while it runs), .exit (when no client was there)."""
        return f"{self.container.directory}/exec-{self.key}"

    def write_meta(self) -> None:
        child = self.child
        wire.write_file(f"{self.path}.meta", {"pid": child.pid, "starttime": child.starttime, "boot": BOOT})


def read_report(fd: int) -> dict[str, Any] | None:
    data = os.pread(fd, 1 << 16, 0)
    if data == REACHED_EXEC:
        return None
    data = data.removeprefix(REACHED_EXEC)
    if not data:
        return {"message": "its first process was killed before it could run anything", "code": 125}
    try:
        return dict(wire.decode(data))
    except ValueError:
        return {"message": data.decode(errors="replace"), "code": 125}


def receive_fds(channel: socket.socket) -> list[int]:
    channel.setblocking(False)
    try:
        return list(socket.recv_fds(channel, 64, 4, socket.MSG_CMSG_CLOEXEC)[1])
    except OSError:
        return []
