"""The keeper: as little as can be, so that it lives on. It starts the supervisor again and again, keeps descriptors
open across its deaths, reaps what a dead supervisor left, and runs the names process.

When the keeper itself dies, the supervisor, which is the parent of the containers and has every descriptor too,
becomes the keeper and forks a new supervisor: `run` is one loop in which a process changes its role.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
import select
import signal
import socket
import sys
import time

from runtime import cgroup as cgroups
from runtime import syscalls
from runtime.supervise import wire
from runtime.supervise.supervisor import Supervisor

SUBREAPER = syscalls.PR_SET_CHILD_SUBREAPER
LOCK_DEADLINE = 2.0
MOST_FILES = 1 << 20
IDLE_EXIT = 0
NAMES_KILL_DELAY = 2.0
LEAVE_DEADLINE = 3.0
LONGEST_BACKOFF = 5.0


class State:
    """What keeper and supervisor share, and hand to each other when one of them is replaced."""

    def __init__(self, run: str, cgroup: str, listener: socket.socket, lock: int) -> None:
        self.run = run
        self.cgroup = cgroup
        self.listener = listener
        self.lock = lock
        self.held: dict[str, list[int]] = {}


def start(run_directory: str, cgroup: str) -> None:
    """Take the lock, listen, go into the background. Returns in no process: the caller's child exits 0 when done."""
    os.makedirs(run_directory, mode=0o700, exist_ok=True)
    lock = _take_lock(run_directory)
    if lock < 0:
        os._exit(0)  # another keeper lives: its socket is as good
    # A socket path may hold 107 bytes only, hence relative to the directory.
    os.chdir(run_directory)
    wire.forget("supervisor.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("supervisor.sock")
    os.chmod("supervisor.sock", 0o600)
    listener.listen(1024)
    os.chdir("/")
    if os.fork():
        os._exit(0)
    _leave_caller(run_directory)
    try:
        cgroups.detect().adopt_self(f"{cgroup}/{cgroups.KEEPER}")
    except OSError as error:
        _note(f"stays in its caller's cgroup: {error}")
    run(State(run_directory, cgroup, listener, lock))


def resume(run_directory: str, cgroup: str, state_fd: int) -> None:
    """Go on as the supervisor whose program was replaced: same process, descriptors by number."""
    os.set_inheritable(state_fd, False)
    os.lseek(state_fd, 0, os.SEEK_SET)
    saved = wire.decode(wire.read_all(state_fd))
    os.close(state_fd)
    state = State(run_directory, cgroup, socket.socket(fileno=saved["listener"]), saved["lock"])
    state.held = {key: list(fds) for key, fds in saved["held"].items()}
    for fd in (saved["listener"], saved["lock"], saved["keeper"], *(fd for fds in state.held.values() for fd in fds)):
        os.set_inheritable(fd, False)
    run(state, socket.socket(fileno=saved["keeper"]))


def run(state: State, keeper: socket.socket | None = None) -> None:
    """Never returns. With `keeper`, begin as the supervisor at the other end of that socket."""
    try:
        _collect_and_freeze()
        while True:
            if keeper is None:
                keeper = Keeper(state).run()  # returns in each forked child only
            Supervisor(state, keeper).run()  # returns when the keeper has died
            keeper.close()
            keeper = None
    except BaseException as error:
        import traceback

        _note("".join(traceback.format_exception(error)))
        os._exit(70)


def _collect_and_freeze() -> None:
    """Pages that no collection touches stay shared between keeper, supervisor and a child before its exec."""
    gc.collect()
    gc.freeze()


def _take_lock(run_directory: str) -> int:
    """A descriptor with the root's keeper lock, or -1. Inherited: held as long as one of the pair lives."""
    lock = os.open(f"{run_directory}/keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_DEADLINE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if os.path.exists(f"{run_directory}/supervisor.sock") or time.monotonic() > deadline:
                return -1
            time.sleep(0.01)  # a keeper that is just leaving
        else:
            return lock


def _leave_caller(run_directory: str) -> None:
    os.setsid()
    os.umask(0o077)
    for each in signal.valid_signals():
        try:
            signal.signal(each, signal.SIG_DFL)
        except (OSError, ValueError):
            continue
    syscalls.reset_libc_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    notes = os.open(f"{run_directory}/keeper.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for number, fd in enumerate((null, null, notes)):
        os.dup2(fd, number)
    os.close(null)
    os.close(notes)
    # A container takes seven descriptors here. More than a million would slow programs that close all they could have.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        # Containers die first; they set their own score. Lowering needs CAP_SYS_RESOURCE.
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-500")
    except OSError:
        pass


def _note(text: str) -> None:
    os.write(2, f"{time.time():.3f} {os.getpid()} {text}\n".encode())


class Names:
    """The one further child: the process that answers names on the bridges' gateways."""

    def __init__(self, run_directory: str) -> None:
        self.file = f"{run_directory}/names.json"
        self.notes = f"{run_directory}/names.err"
        self.argv: list[str] | None = None
        self.pid = 0
        self.pidfd = -1
        self.start_at = 0.0
        self.kill_at = 0.0
        self._backoff = 0.05
        self._started = 0.0

    def adopt(self) -> None:
        """Take over a process that a former keeper started."""
        saved = wire.read_file(self.file) or {}
        self.argv = saved.get("argv")
        pid = int(saved.get("pid") or 0)
        if self.argv and pid and wire.process_starttime(pid) == saved.get("starttime"):
            try:
                self.pidfd = os.pidfd_open(pid)
                self.pid = pid
            except OSError:
                pass
        if self.argv and self.pidfd < 0:
            self.start_at = time.monotonic()

    def want(self, argv: list[str] | None) -> None:
        if argv == self.argv and (argv is None or self.pidfd >= 0):
            return
        self.argv = argv
        self._backoff = 0.05
        if self.pidfd >= 0:
            self._signal(signal.SIGTERM)
            self.kill_at = time.monotonic() + NAMES_KILL_DELAY
        elif argv:
            self.start_at = time.monotonic()

    def _signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except OSError:
            pass

    def died(self) -> None:
        os.close(self.pidfd)
        self.pidfd, self.pid, self.kill_at = -1, 0, 0.0
        if self.argv:
            if time.monotonic() - self._started > LONGEST_BACKOFF * 2:
                self._backoff = 0.05
            self.start_at = time.monotonic() + self._backoff
            self._backoff = min(self._backoff * 2, LONGEST_BACKOFF)

    def tick(self, now: float) -> None:
        if self.start_at and now >= self.start_at and self.pidfd < 0 and self.argv:
            self._spawn(self.argv)
        if self.kill_at and now >= self.kill_at:
            self._signal(signal.SIGKILL)
            self.kill_at = now + NAMES_KILL_DELAY

    def _spawn(self, argv: list[str]) -> None:
        self.start_at = 0.0
        self._started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            try:
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                notes = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                os.dup2(notes, 2)
                os.execv(argv[0], argv)  # noqa: S606
            finally:
                os._exit(127)
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        # Only when it is still wanted: the supervisor removes the file when names are not.
        if os.path.exists(self.file):
            wire.write_file(self.file, {"argv": argv, "pid": pid, "starttime": wire.process_starttime(pid)})

    def deadline(self) -> float:
        moments = [
            moment for moment in (self.start_at if self.pidfd < 0 and self.argv else 0.0, self.kill_at) if moment
        ]
        return min(moments, default=0.0)


class Keeper:
    def __init__(self, state: State) -> None:
        self.state = state
        self.supervisor = 0
        self.spawn_at = 0.0
        self.socket: socket.socket | None = None
        self.names = Names(state.run)
        self.spares: set[int] = set()
        """Children of the supervisor's that wait for a container to become."""
        self._started = 0.0
        self._backoff = 0.0

    def run(self) -> socket.socket:
        """Keep. Returns only in a forked child, which is to be the supervisor, with its socket to the keeper."""
        syscalls.prctl(SUBREAPER, 1)
        wire.write_file(f"{self.state.run}/keeper.json", {"pid": os.getpid()})
        # Woken by every start, it must not take the processor from those that the client waits for.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.makedirs(f"{self.state.run}/exits", mode=0o700, exist_ok=True)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        former = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.names.adopt()
        while True:
            if not self.supervisor and time.monotonic() >= self.spawn_at:
                child = self._spawn()
                if child is not None:
                    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
                    signal.set_wakeup_fd(former)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.close(wake_read)
                    os.close(wake_write)
                    if self.names.pidfd >= 0:
                        os.close(self.names.pidfd)
                    return child
            self._wait(wake_read)
            self._reap()
            self.names.tick(time.monotonic())

    def _spawn(self) -> socket.socket | None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            mine.close()  # while the supervisor held it, the keeper's death could not be seen
            return theirs
        theirs.close()
        self.supervisor = pid
        self.socket = mine
        wire.write_file(f"{self.state.run}/supervisor.json", {"pid": pid})
        return None

    def _wait(self, wake: int) -> None:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        if self.socket is not None:
            poll.register(self.socket.fileno(), select.POLLIN)
        if self.names.pidfd >= 0:
            poll.register(self.names.pidfd, select.POLLIN)
        moments = [self.names.deadline(), self.spawn_at if not self.supervisor else 0.0]
        nearest = min((moment for moment in moments if moment), default=0.0)
        timeout = max(0.0, nearest - time.monotonic()) * 1000 + 1 if nearest else None
        for fd, _ in poll.poll(timeout):
            if fd == wake:
                try:
                    os.read(wake, 4096)
                except BlockingIOError:
                    pass
            elif self.socket is not None and fd == self.socket.fileno():
                self._read_one()
            elif fd == self.names.pidfd and not self._is_child(self.names.pid):
                self.names.died()

    def _is_child(self, pid: int) -> bool:
        """Children are noticed by `_reap`, which alone waits for them."""
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def _read_one(self) -> bool:
        """One message of the supervisor's; False when there is none."""
        if self.socket is None:
            return False
        try:
            message, fds = wire.receive(self.socket)
        except (OSError, ValueError):
            message, fds = None, []
        if message is None:
            self.socket.close()
            self.socket = None
            return False
        key = message.get("key", "")
        if message["op"] == "hold":
            self.spares.discard(message.get("pid", 0))  # it is a container's now
            if not message.get("append"):
                self._drop(key)
            self.state.held.setdefault(key, []).extend(fds)
        elif message["op"] == "release":
            self._drop(key)
        elif message["op"] == "spare":
            (self.spares.discard if message["gone"] else self.spares.add)(message["pid"])
        elif message["op"] == "names":
            self.names.want(message["argv"])
        return True

    def _drop(self, key: str) -> None:
        for fd in self.state.held.pop(key, ()):
            os.close(fd)

    def _drain(self) -> None:
        """What a dead supervisor had sent: it counted on it."""
        while self.socket is not None:
            if not select.select([self.socket], [], [], 0)[0]:
                return
            self._read_one()

    def _reap(self) -> None:
        while True:
            try:
                # WNOWAIT: the zombie pins pid and start time until the record is written.
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            if pid not in (self.supervisor, self.names.pid):
                self._drain()  # what it was is known by what the supervisor had said of it
                if pid in self.spares:
                    self.spares.discard(pid)
                else:
                    self._record(pid, found.si_code, found.si_status)
            os.waitid(os.P_PID, pid, os.WEXITED)
            if pid == self.supervisor:
                self._supervisor_died(found.si_code, found.si_status)
            elif pid == self.names.pid:
                self.names.died()

    def _record(self, pid: int, code: int, status: int) -> None:
        """Children of a dead supervisor come here; its successor looks for their ends in <run>/exits."""
        starttime = wire.process_starttime(pid)
        exited = code == os.CLD_EXITED
        record = {"code": status if exited else None, "signal": 0 if exited else status, "time": time.time()}
        try:
            wire.write_file(f"{self.state.run}/exits/{pid}.{starttime}", record)
        except OSError as error:
            _note(f"cannot record the end of {pid}: {error}")

    def _supervisor_died(self, code: int, status: int) -> None:
        self._drain()
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        self.supervisor = 0
        if code == os.CLD_EXITED and status == IDLE_EXIT and not self.state.held and not self.names.argv:
            self._leave()
        _note(f"the supervisor ended: {'exit' if code == os.CLD_EXITED else 'signal'} {status}")
        # At once, unless it dies again and again.
        lived = time.monotonic() - self._started
        self._backoff = 0.0 if lived > 1.0 else min(max(self._backoff * 2, 0.005), 1.0)
        self.spawn_at = time.monotonic() + self._backoff

    def _leave(self) -> None:
        run = self.state.run
        for name in ("supervisor.sock", "keeper.json", "supervisor.json"):
            wire.forget(f"{run}/{name}")
        try:
            for name in os.listdir(f"{run}/exits"):
                wire.forget(f"{run}/exits/{name}")
            if not os.path.getsize(f"{run}/keeper.err"):
                wire.forget(f"{run}/keeper.err")
        except OSError as error:
            if error.errno != errno.ENOENT:
                _note(str(error))
        self.state.listener.close()
        if self.names.pidfd >= 0:
            # It was told to end, and lives in the cgroup that is to go.
            select.select([self.names.pidfd], [], [], NAMES_KILL_DELAY)
        found = cgroups.detect()
        deadline = time.monotonic() + LEAVE_DEADLINE
        try:
            found.leave_self(f"{self.state.cgroup}/{cgroups.KEEPER}")
            # A process that has just ended pins its cgroup a moment longer.
            while not found.remove(self.state.cgroup) and time.monotonic() < deadline:
                time.sleep(0.005)
        except OSError:
            pass
        sys.stderr.flush()
        os._exit(0)
