"""One child kept ready: process 1 of the next container, with all done that does not depend on the request.

A start then sends it the request instead of forking: two milliseconds less, in which the client would wait. It has
joined a cgroup of its own, which takes the container's name when it is used. It belongs to nobody while it waits, and
ends when its socket does: with the supervisor, however that ends. Requests of another shape, and version 2 cgroups,
whose processes must be born in them, go without it.
"""

from __future__ import annotations

import os
import select
import signal
import socket

from runtime import syscalls
from runtime.cgroup import CgroupV1
from runtime.sandbox import namespaces
from runtime.supervise import init, wire
from runtime.supervise.children import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.cgroup import CgroupV2

NAME = "spare"
MAX_REQUEST = 64 << 10
"""A longer request might not fit into the socket."""


class Spare:
    """Supervisor's side of the child."""

    def __init__(
        self, shape: dict[str, Any], network: str, child: Child, channel: socket.socket, status: int, report: int
    ) -> None:
        self.shape = shape
        self.network = network
        self.child = child
        self.channel = channel
        self.status = status
        self.report = report
        self.request: bytes | None = None
        """What it was sent; it can read no second one."""
        self.processors = os.sched_getaffinity(0)

    def move_aside(self) -> None:
        """To another processor than ours: the kernel likes to wake a reader where its writer runs, who is not done."""
        others = self.processors - {syscalls.current_processor()}
        if others:
            os.sched_setaffinity(self.child.pid, others)

    def open_network(self) -> int:
        """Its network namespace, -1 while it is still being made."""
        try:
            fd = os.open(f"/proc/{self.child.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1
        if os.fstat(fd).st_ino == os.stat("/proc/self/ns/net").st_ino:
            os.close(fd)
            return -1
        return fd

    def lives(self) -> bool:
        poll = select.poll()
        poll.register(self.child.pidfd, select.POLLIN)
        return not poll.poll(0)

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        self.channel.close()
        self.child.send(signal.SIGKILL)
        try:
            os.waitid(os.P_PIDFD, self.child.pidfd, os.WEXITED)
        except ChildProcessError:
            pass
        for fd in (self.status, self.report, self.child.pidfd):
            os.close(fd)


class SpareChild:
    """Makes the spare, gives it away, and ends it. `note` tells the keeper its pid, and whether it is gone."""

    def __init__(self, run: str, cgroup: str, cgroups: CgroupV1 | CgroupV2, note: Callable[[int, bool], None]) -> None:
        self.staging = f"{run}/staging"
        self.cgroup = f"{cgroup}/{NAME}"
        self.cgroups = cgroups if isinstance(cgroups, CgroupV1) else None
        self.note = note
        self.present: Spare | None = None
        self.shape: dict[str, Any] | None = None
        """Of the latest request: most likely that of the next."""
        self.network = ""
        """The same of the kind of its network; another one costs the spare a moment only."""
        os.makedirs(self.staging, mode=0o700, exist_ok=True)

    def learn(self, shape: dict[str, Any], network: str) -> None:
        if self.cgroups and not shape["privileged"] and shape["own_network"]:
            self.shape, self.network = shape, network

    def wanted(self) -> bool:
        spare = self.present
        return self.shape is not None and (spare is None or spare.request is not None or spare.shape != self.shape)

    def make(self) -> None:
        """When nothing else is to be done. OSError: then there is none."""
        self.discard()
        shape = self.shape
        if shape is None or self.cgroups is None:
            return
        if not self.cgroups.create(self.cgroup, {}):
            # A former one's, which may have been killed together with its supervisor.
            if not self.cgroups.remove(self.cgroup):
                return
            self.cgroups.create(self.cgroup, {})
        launch = init.Launch({}, self.cgroups, self.cgroup, self.staging)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launch.go_read, launch.go_write, launch.go_is_socket = theirs.fileno(), ours.fileno(), True
        status, launch.status = os.pipe2(os.O_CLOEXEC)
        launch.report = os.memfd_create("report", os.MFD_CLOEXEC)
        try:
            pid, pidfd = namespaces.fork_into_pid_namespace()
            if pid == 0:
                init.run_spare(launch, shape, self.network)
        except OSError:
            ours.close()
            os.close(status)
            os.close(launch.report)
            raise
        finally:
            theirs.close()
            os.close(launch.status)
        self.note(pid, False)
        child = Child(pid, wire.process_starttime(pid), pidfd)
        self.present = Spare(shape, self.network, child, ours, status, launch.report)

    def offer(self, request: bytes) -> None:
        """Let it read the request while we do. Should another shape be wanted, it will be replaced anyway."""
        spare = self.present
        if spare is None or spare.request is not None or len(request) > MAX_REQUEST:
            return
        try:
            if not spare.lives():
                raise ChildProcessError
            spare.move_aside()
            spare.channel.send(request)
        except OSError:
            self.discard()
        else:
            spare.request = request

    def take(self, shape: dict[str, Any], request: bytes, cgroup: str, resources: dict[str, float]) -> Spare | None:
        """The spare that was offered this request, with the name `cgroup` now; None when there is none that fits."""
        spare = self.present
        if spare is None or self.cgroups is None or spare.request is not request or spare.shape != shape:
            return None
        try:
            self.cgroups.rename(self.cgroup, cgroup)
            self.cgroups.set_limits(cgroup, resources, fresh=True)
        except OSError:
            self.discard()
            return None
        self.present = None
        return spare

    def discard(self) -> None:
        spare, self.present = self.present, None
        if spare is None or self.cgroups is None:
            return
        spare.end()
        self.note(spare.child.pid, True)
        self.cgroups.remove(self.cgroup)


def send_go(channel: socket.socket, launch: init.Launch, *, links_follow: bool) -> None:
    """Let it go on, with the descriptors that it is to have. `links_follow`: its links are made for it meanwhile."""
    kinds = [kind for kind in ("stdin", "stdout", "stderr", "channel") if getattr(launch, kind) >= 0]
    go = init.GO_LINKS_FOLLOW if links_follow else init.GO
    try:
        socket.send_fds(channel, [go + " ".join(kinds).encode()], [getattr(launch, kind) for kind in kinds])
    except OSError:
        return  # it died just now, which its pidfd tells as well
