"""Forks containers and the programs run inside them: what is prepared before the child's own steps."""

from __future__ import annotations

import fcntl
import os
import socket
import time

from runtime import syscalls
from runtime.netlink import NetlinkSocket
from runtime.sandbox import namespaces
from runtime.supervise import init, spare, wire
from runtime.supervise.children import Child, Container, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.cgroup import CgroupV1, CgroupV2

F_SETPIPE_SZ = 1031
PIPE_SIZE = 1 << 20
EXEC_KEYS = (
    "env", "cwd", "uid", "gid", "groups", "capabilities", "ambient", "no_new_privs", "seccomp", "rlimits", "privileged",
)  # fmt: skip


class Refused(Exception):
    """An operation's answer is an error: `kind` as in the client's table."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.hint = hint


class Launcher:
    def __init__(
        self, run: str, cgroup: str, cgroups: CgroupV1 | CgroupV2, note_spare: Callable[[int, bool], None]
    ) -> None:
        self.run = run
        self.cgroup = cgroup
        self.cgroups = cgroups
        self.spare = spare.SpareChild(run, cgroup, cgroups, note_spare)
        self.links = NetlinkSocket()
        self.calm_from = 0.0
        """When the kernel should have taken apart the network namespaces of those that ended."""
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        self.spare.discard()
        self.links.close()
        os.close(self._own_pid_namespace)

    def cgroup_name(self, request: dict[str, Any]) -> str:
        name = str(request.get("cgroup") or request["id"])
        return name if "/" in name else f"{self.cgroup}/{name}"

    def start(self, container: Container, text: bytes, stdin: int, keep: Callable[[Container], None]) -> None:
        """Fork process 1, or use the spare. On return the container has pid, pidfd, pipes, status pipe; errors leave

        nothing. `text` is the request.

        The child waits before exec until it is recorded and `keep` has been called: were this process killed
        before, the child would end, and not run on unknown to everyone.
        """
        self.spare.offer(text)
        request = wire.decode(text)
        container.cgroup = self.cgroup_name(request)
        container.name = str(request.get("name") or container.id[:12])
        container.log_request = request.get("log")
        container.tty = bool(request.get("tty"))
        container.stop_signal = int(request.get("stop_signal") or 15)
        launch = init.Launch(request, self.cgroups, container.cgroup, self.spare.staging)
        if request.get("stdin") == "fd":
            launch.stdin = stdin
        resources = request.get("resources") or {}
        shape = init.shape_of(request)
        network = namespaces.network_kind(request["net"])
        self.spare.learn(shape, network)
        opened: list[int] = []
        try:
            ready = self.spare.take(shape, text, container.cgroup, resources)
            if ready is not None:
                container.child, container.status, container.report = ready.child, ready.status, ready.report
            elif not self.cgroups.create(container.cgroup, resources, all_devices=launch.all_devices):
                container.oom_base = self.cgroups.oom_kills(container.cgroup)
            container.open_log()
            if container.log is not None:
                container.log.begin()
            self._open_streams(container, launch, opened)
            for name in ("exit", "meta"):
                wire.forget(f"{container.directory}/{name}")
            container.started_at = time.time()
            if ready is None:
                self._fork(container, launch, opened)
            keep(container)
            container.write_meta()
            if ready is None:
                os.write(launch.go_write, init.GO)
            else:
                self._go_on(ready, launch, network)
        except OSError as error:
            self._undo(container)
            cause = (error.strerror or str(error)).lower()
            subject = f"{error.filename}: " if error.filename else ""
            raise Refused("start_failed", f'cannot start container "{container.name}": {subject}{cause}') from None
        finally:
            for fd in opened:
                os.close(fd)

    def _go_on(self, ready: spare.Spare, launch: init.Launch, network: str) -> None:
        """Let the spare go on, and make its links while it mounts: each takes half a millisecond.

        Not while namespaces are being taken apart, which keeps everyone from making links for 30 ms: this process
        must not wait for that. Nor when the spare must first prepare its namespace, or sysctls may be for a link.
        """
        interfaces = launch.request["net"].get("interfaces") or []
        netns = -1
        suits = ready.network == network and not launch.request.get("sysctls")
        if interfaces and suits and time.monotonic() > self.calm_from:
            netns = ready.open_network()
        spare.send_go(ready.channel, launch, links_follow=netns >= 0)
        if netns >= 0:
            try:
                pairs = namespaces.pair_messages(self.links, netns, interfaces)
                namespaces.make_pairs(self.links, pairs, interfaces)
                ready.channel.send(init.LINKED)
            except OSError:
                pass  # it sees the end of the channel, and tries by itself
            os.close(netns)
        ready.channel.close()

    def _fork(self, container: Container, launch: init.Launch, opened: list[int]) -> None:
        container.status, container.report = self._open_status(launch, opened)
        cgroup_fd = self.cgroups.open(container.cgroup)
        if cgroup_fd >= 0:
            opened.append(cgroup_fd)
        pid, pidfd = namespaces.fork_into_pid_namespace(cgroup_fd)
        if pid == 0:
            init.run_container(launch)
        container.child = Child(pid, wire.process_starttime(pid), pidfd)

    def _undo(self, container: Container) -> None:
        if container.child.pidfd >= 0:
            container.child.send(9)
            try:
                os.waitid(os.P_PIDFD, container.child.pidfd, os.WEXITED)
            except ChildProcessError:
                pass
        for fd in (container.out, container.err, container.status, container.report, container.child.pidfd):
            if fd >= 0:
                os.close(fd)
        container.out = container.err = container.status = container.report = -1
        if container.channel is not None:
            container.channel.close()
        if container.log is not None:
            container.log.close()
        self.cgroups.remove(container.cgroup)

    def _open_streams(self, container: Container, launch: init.Launch, opened: list[int]) -> None:
        """The program gets FIFOs opened for reading and writing: it holds its own reader, so that it never sees EPIPE,

        and up to a megabyte waits for whoever supervises next.
        """
        if container.tty:
            container.channel, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            launch.channel = inner.detach()
            opened.append(launch.channel)
            return
        for name in ("out", "err"):
            path = f"{container.directory}/{name}"
            try:
                os.mkfifo(path, 0o600)
            except FileExistsError:
                pass
            ours = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            setattr(container, name, ours)
            try:
                fcntl.fcntl(ours, F_SETPIPE_SZ, PIPE_SIZE)
            except OSError:
                pass  # over the user's quota: 64 KiB must do
            opened.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        launch.stdout, launch.stderr = opened[-2:]

    def _open_status(self, launch: init.Launch, opened: list[int]) -> tuple[int, int]:
        read_end, launch.status = os.pipe2(os.O_CLOEXEC)
        report = os.memfd_create("report", os.MFD_CLOEXEC)
        launch.report = report
        launch.go_read, launch.go_write = os.pipe2(os.O_CLOEXEC)
        opened += [launch.status, launch.go_read, launch.go_write]
        return read_end, report

    def exec(
        self, session: Session, request: dict[str, Any], stdio: list[int], container_request: dict[str, Any]
    ) -> None:
        """Fork a program into a running container."""
        container = session.container
        full = {key: container_request[key] for key in EXEC_KEYS if key in container_request} | request
        session.tty = bool(full.get("tty"))
        launch = init.Launch(full, self.cgroups, container.cgroup)
        launch.pidfd = container.child.pidfd
        opened: list[int] = []
        if session.tty:
            session.channel, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            launch.channel = inner.detach()
            opened.append(launch.channel)
        else:
            launch.stdin, launch.stdout, launch.stderr = stdio
        try:
            session.status, session.report = self._open_status(launch, opened)
            cgroup_fd = self.cgroups.open(container.cgroup)
            if cgroup_fd >= 0:
                opened.append(cgroup_fd)
            # Only children enter a pid namespace: point ours there for one fork. They stay our own children.
            syscalls.setns(container.child.pidfd, syscalls.CLONE_NEWPID)
            try:
                pid, pidfd = syscalls.clone3(0, cgroup_fd)
                if pid == 0:
                    init.run_exec(launch)
            finally:
                syscalls.setns(self._own_pid_namespace, syscalls.CLONE_NEWPID)
            session.child = Child(pid, wire.process_starttime(pid), pidfd)
            session.write_meta()
            os.write(launch.go_write, init.GO)
        except OSError as error:
            for fd in (session.status, session.report):
                if fd >= 0:
                    os.close(fd)
            cause = (error.strerror or str(error)).lower()
            raise Refused("conflict", f'cannot exec in container "{container.name}": {cause}') from None
        finally:
            for fd in opened:
                os.close(fd)
