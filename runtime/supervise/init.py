"""The ordered steps of a new process from fork to exec, each with the reason why it sits where it does.

    supervisor                                child
    clone3 ---------------------------------> join cgroups (version 1)
                                              leave the host's namespaces, stage proc, dev and sys
    request (to a spare only) --------------> open sources of mounts
    go, once it is recorded ----------------> (waits for it; at its end without it, ends too: the supervisor died)
                                              make network links
                                              build the root, pivot
    (terminal's master) <-------------------- open the terminal inside
                                              close all descriptors of the host
                                              limits, user, capabilities, no_new_privs, seccomp
    status pipe at its end <----------------- exec (the pipe is close-on-exec)

What comes before the request depends only on its shape: a spare child (see spare.py) has done it before anyone asks.

The report holds "+" once exec is next, then {"message", "code"} if it failed, as any step before does. So end of pipe
with "+" alone means that the program ran, and with an empty report that something killed the child on its way.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import struct
import termios

from runtime import syscalls
from runtime.sandbox import capabilities, identity, mounts, namespaces, rlimits, sysctls
from runtime.supervise import pid1, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.cgroup import CgroupV1, CgroupV2

REACHED_EXEC = GO = LINKED = b"+"
GO_LINKS_FOLLOW = b"*"
STATUS, REPORT = 3, 4
"""Where the two descriptors that outlive `close_descriptors` are put."""
TIOCSPTLCK, TIOCGPTPEER, TIOCGPTN = 0x40045431, 0x5441, 0x80045430


class Unrecorded(Exception):
    """The supervisor died before it had recorded this process: its successor must start another."""


class Launch:
    """What the child needs from the supervisor, opened before the fork."""

    def __init__(self, request: dict[str, Any], cgroups: CgroupV1 | CgroupV2, cgroup: str, staging: str = "") -> None:
        self.request = request
        self.cgroups = cgroups
        self.cgroup = cgroup
        self.staging = staging
        """A directory of the host, on which the child mounts in a namespace of its own."""
        self.status = self.report = -1
        self.go_read = self.go_write = -1
        self.go_is_socket = False
        self.stdin = self.stdout = self.stderr = -1
        self.channel = -1
        """One end of a socket pair, to hand the terminal's master out."""
        self.pidfd = -1
        """The container to join, for exec."""
        self.step = "set up"
        self.again = False
        """Whether a failure says nothing about the request, so that it is to be tried anew."""

    @property
    def all_devices(self) -> bool:
        return bool(self.request.get("privileged"))


class Prepared:
    """What has been made for a shape."""

    def __init__(self, shape: dict[str, Any], links: namespaces.Links | None, trees: dict[str, int]) -> None:
        self.shape = shape
        self.links = links
        self.trees = trees
        self.filter = Filter(shape["seccomp"])


class Filter:
    """A seccomp filter as it was in its file when it was read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.state = self._look()
        self.program = _read_filter(path)

    def _look(self) -> tuple[int, int, int]:
        if not self.path:
            return 0, 0, 0
        status = os.stat(self.path)
        return status.st_ino, status.st_mtime_ns, status.st_size

    def newest(self) -> syscalls.SeccompFilter | None:
        return self.program if self.state == self._look() else _read_filter(self.path)


def shape_of(request: dict[str, Any]) -> dict[str, Any]:
    """All that `_prepare` needs to know: requests of one shape can use the same spare."""
    return {
        "own_network": request["net"]["mode"] != "host",
        "oom_score_adj": int(request.get("oom_score_adj") or 0),
        "privileged": bool(request.get("privileged")),
        "shm_size": int(request.get("shm_size") or 0),
        "seccomp": request.get("seccomp") or "",
        "capabilities": list(request.get("capabilities") or []),
        "masked": mounts.closed_early(request, "masked"),
        "readonly_paths": mounts.closed_early(request, "readonly_paths"),
    }


def run_spare(launch: Launch, shape: dict[str, Any], network: str) -> None:
    """Process 1 of a container that nobody has asked for yet, and whose network is likely to be of that kind; never

    returns.
    """
    launch.again = True
    _run(launch, lambda launch: _spare_steps(launch, shape, network))


def run_container(launch: Launch) -> None:
    """Process 1 of a new container; never returns."""
    _run(launch, _container_steps)


def run_exec(launch: Launch) -> None:
    """A further process of a running container; never returns."""
    _run(launch, _exec_steps)


def _run(launch: Launch, steps: Callable[[Launch], None]) -> None:
    code = 125
    try:
        os.close(launch.go_write)
        steps(launch)
    except Unrecorded:
        launch.again = True
        _report(launch, "the supervisor died meanwhile", code)
    except identity.ProgramError as error:
        code = error.exit_code
        _report(launch, str(error), code)
    except (mounts.MountRefused, ValueError) as error:
        _report(launch, str(error), code)
    except OSError as error:
        subject = f" {error.filename}" if error.filename else ""
        _report(launch, f"{launch.step}{subject}: {(error.strerror or str(error)).lower()}", code)
    except BaseException as error:
        _report(launch, f"{launch.step}: {type(error).__name__}: {error}", code)
    finally:
        os._exit(code)


def _report(launch: Launch, message: str, code: int) -> None:
    try:
        os.write(launch.report, wire.encode({"message": message, "code": code, "again": launch.again}))
    except OSError:
        pass


def _container_steps(launch: Launch) -> None:
    _become_inconspicuous()
    _join_cgroup(launch)
    sources = mounts.open_sources(launch.request)
    launch.step = "make namespaces"
    mounts.leave_host(slave=mounts.wants_slave(launch.request))
    network = namespaces.network_kind(launch.request["net"])
    prepared = _prepare(launch, shape_of(launch.request), network, detached=False)
    _complete(launch, prepared, sources)


def _spare_steps(launch: Launch, shape: dict[str, Any], network: str) -> None:
    _become_inconspicuous()
    _keep_only(launch.status, launch.report, launch.go_read)
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    _join_cgroup(launch)
    launch.step = "make namespaces"
    mounts.leave_host()
    prepared = _prepare(launch, shape, network, detached=True)
    # Back: what is mounted and unmounted on the host until the request comes counts, and nothing is kept busy by us.
    syscalls.setns(home, syscalls.CLONE_NEWNS)
    os.close(home)
    processors = os.sched_getaffinity(0)
    request = os.read(launch.go_read, wire.MAX_PACKET)
    if not request:
        os._exit(0)  # not wanted any more, or the supervisor has died
    launch.again = False
    launch.request = wire.decode(request)
    sources = mounts.open_sources(launch.request)
    launch.step = "make namespaces"
    mounts.leave_host(slave=mounts.wants_slave(launch.request))
    _complete(launch, prepared, sources, processors)


def _keep_only(*kept: int) -> None:
    """Pipes, terminals and sockets of the supervisor's would stay open as long as the spare waits."""
    first = 3
    for fd in sorted(kept):
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = fd + 1
    syscalls.close_range(first)


def _prepare(launch: Launch, shape: dict[str, Any], network: str, *, detached: bool) -> Prepared:
    """In new namespaces; nothing of it can be seen from outside or has a name there."""
    launch.step = "set oom_score_adj"
    rlimits.set_oom_score(shape["oom_score_adj"])  # while /proc is the host's
    launch.step = "make namespaces"
    links = namespaces.enter_new(network)
    os.setsid()
    syscalls.new_session_keyring()
    launch.step = "drop capabilities"
    capabilities.shrink_bounding_set(shape["capabilities"])
    launch.step = "mount"
    trees = mounts.stage(launch.staging, shape, launch.cgroups.mounts_inside(), detached=detached)
    launch.step = "read seccomp filter"
    return Prepared(shape, links, trees)


def _complete(
    launch: Launch, prepared: Prepared, sources: dict[int, mounts.Source], processors: set[int] | None = None
) -> None:
    request, links = launch.request, prepared.links
    interfaces = request["net"].get("interfaces") or []
    launch.step = "read seccomp filter"
    filter_ = prepared.filter.newest()  # a file of the host's
    launch.step = "make network links"
    pairs = links.prepare(interfaces) if links else []
    links_follow = _wait_for_go(launch)
    if processors:
        os.sched_setaffinity(0, processors)  # the supervisor took its own off
    if links and not links_follow:
        links.make(pairs, interfaces)
        links.configure(interfaces)
    launch.step = "set sysctl"
    sysctls.apply(request.get("sysctls") or {}, host_network=links is None)
    launch.step = "mount"
    mounts.enter_root(request, prepared.trees, sources)
    launch.step = "set hostname"
    if links or request.get("hostname"):
        identity.set_names(request.get("hostname") or "", request.get("domainname") or "")
    launch.step = "open terminal"
    terminal = _open_terminal(launch, console=True) if request.get("tty") else -1
    launch.step = "mask"
    mounts.close_paths(request, prepared.shape)
    if links and links_follow:
        launch.step = "make network links"
        if os.read(launch.go_read, 1) != LINKED:
            links.make(pairs, interfaces)  # whoever was about to do it is gone, or was refused: the cause comes again
        links.configure(interfaces)
    launch.step = "set up standard streams"
    _place_streams(launch, terminal)
    _close_descriptors(launch)
    _limit_and_exec(launch, filter_, request, as_init=bool(request.get("init")))


def _exec_steps(launch: Launch) -> None:
    request = launch.request
    _become_inconspicuous()
    _join_cgroup(launch)
    filter_ = _read_filter(request.get("seccomp") or "")
    _wait_for_go(launch)
    launch.step = "join namespaces"
    namespaces.join(launch.pidfd)
    os.setsid()
    launch.step = "open terminal"
    terminal = _open_terminal(launch, console=False) if request.get("tty") else -1
    syscalls.new_session_keyring()
    launch.step = "set up standard streams"
    _place_streams(launch, terminal)
    _close_descriptors(launch)
    launch.step = "drop capabilities"
    capabilities.shrink_bounding_set(list(request.get("capabilities") or []))
    _limit_and_exec(launch, filter_, request, as_init=False)


def _become_inconspicuous() -> None:
    """Not traceable by the container, whose processes may see this one before its exec.

    Its memory and /proc/self/exe are the host's (CVE-2016-9962, CVE-2019-5736); exec sets it back. Of signals, only
    what is ignored survives an exec, and Python ignores two; the mask has been empty since the keeper's start.
    """
    gc.disable()  # a collection would copy every page that is still shared with the supervisor
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def _join_cgroup(launch: Launch) -> None:
    """Before anything is allocated, so that all of it is charged to the container."""
    launch.step = "join cgroup"
    if launch.cgroups.into_clone:
        return
    try:
        launch.cgroups.join(launch.cgroup, all_devices=launch.all_devices)
    except FileNotFoundError:
        # A garbage collection took the new, still empty directories for those of a dead container.
        launch.cgroups.create(launch.cgroup, launch.request.get("resources") or {}, all_devices=launch.all_devices)
        launch.cgroups.join(launch.cgroup, all_devices=launch.all_devices)


def _read_filter(path: str) -> syscalls.SeccompFilter | None:
    if not path:
        return None
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return syscalls.SeccompFilter(wire.read_all(fd))
    finally:
        os.close(fd)


def _open_terminal(launch: Launch, *, console: bool) -> int:
    """A terminal of the container's own devpts; the master goes out to the supervisor, the slave is returned."""
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    slave = int(fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY))
    os.fchown(slave, int(launch.request["uid"]), -1)
    if console:
        number = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, b"\0" * 4))[0]
        os.close(os.open("/dev/console", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        syscalls.mount(b"/dev/pts/%d" % number, b"/dev/console", None, syscalls.MS_BIND)
    with socket.socket(fileno=os.dup(launch.channel)) as channel:
        socket.send_fds(channel, [b"terminal"], [master])
    os.close(master)
    return slave


def _place_streams(launch: Launch, terminal: int) -> None:
    if terminal >= 0:
        sources = [terminal, terminal, terminal]
    else:
        null = os.open("/dev/null", os.O_RDWR)
        sources = [null if fd < 0 else fd for fd in (launch.stdin, launch.stdout, launch.stderr)]
        for fd in (launch.stdout, launch.stderr):
            if fd >= 0 and launch.pidfd < 0:
                # A plain user's program may open /dev/stdout anew: the pipe must be its own.
                os.fchown(fd, int(launch.request["uid"]), int(launch.request["gid"]))
    # Away from 0..4 first: a source must not be overwritten before it is copied.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (*sources, launch.status, launch.report)]
    for number, fd in enumerate(moved):
        os.dup2(fd, number, inheritable=number < 3)
    launch.status, launch.report = STATUS, REPORT


def _wait_for_go(launch: Launch) -> bool:
    """Before anything that a successor of the supervisor, which starts another child, could stumble over.

    A pipe, or a spare's socket, where the descriptors come with it. True when the supervisor makes the links.
    """
    if launch.go_is_socket:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=launch.go_read)
        go, fds, _, _ = socket.recv_fds(channel, 64, 4, socket.MSG_CMSG_CLOEXEC)
        channel.detach()
    else:
        go, fds = os.read(launch.go_read, 1), []
    if go[:1] not in (GO, GO_LINKS_FOLLOW):
        raise Unrecorded
    for index, kind in enumerate(go[1:].decode().split()):
        setattr(launch, kind, fds[index])
    return go[:1] == GO_LINKS_FOLLOW


def _close_descriptors(launch: Launch) -> None:
    """Really closed, not only at exec: the working directory is entered next, and must not be reached through one."""
    syscalls.close_range(REPORT + 1)


def _limit_and_exec(
    launch: Launch, filter_: syscalls.SeccompFilter | None, request: dict[str, Any], *, as_init: bool
) -> None:
    names, ambient = list(request.get("capabilities") or []), list(request.get("ambient") or [])
    environment = dict(item.partition("=")[::2] for item in request["env"])
    launch.step = "enter working directory"
    identity.enter_directory(request.get("cwd") or "/")  # as root: its own user may not read the way there
    launch.step = "set ulimit"
    rlimits.apply(request.get("rlimits") or [])
    no_new_privileges = bool(request.get("no_new_privs"))
    launch.step = "load seccomp filter"
    if filter_ is not None and not no_new_privileges:
        filter_.load()  # needs CAP_SYS_ADMIN, so before capabilities go
    launch.step = "change user"
    identity.become(
        int(request["uid"]), int(request["gid"]), list(request.get("groups") or []), keep_capabilities=bool(ambient)
    )
    launch.step = "set capabilities"
    capabilities.limit(names if not request["uid"] or ambient else [], ambient)
    if no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if as_init:
        launch.step = "fork"
        pid1.continue_as_child(launch)
    if request.get("tty"):
        launch.step = "take terminal"
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.umask(0o022)
    os.write(launch.report, REACHED_EXEC)
    if filter_ is not None and no_new_privileges:
        launch.step = "load seccomp filter"
        filter_.load()  # last: it may forbid what the steps above need
    launch.step = "exec"
    identity.execute(list(request["argv"]), environment)
