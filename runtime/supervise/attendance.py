"""Running containers: launched, attended (pipes, terminal, end), recorded, and found again after a crash.

Nothing is kept in memory that could not be found again: a new supervisor, an upgraded one and a first one run the
same `recover`. Nothing is ever restarted here: that is for the reconciler to decide.
"""

from __future__ import annotations

import os
import select
import time

from runtime.supervise import wire
from runtime.supervise.children import BOOT, ENDING, Container, open_pidfd, receive_fds
from runtime.supervise.init import REACHED_EXEC
from runtime.supervise.launcher import Launcher, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.supervise.connection import Connection
    from runtime.supervise.held import HeldDescriptors
    from runtime.supervise.loop import Loop
    from runtime.supervise.sessions import Sessions

SPARE_DELAY = 0.01
NETWORKS_END = 0.08
REMOVE_DELAYS = (0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0)


class Attendance:
    """`tell` passes an event to everyone who watches; `drop` ends a connection that does not read."""

    def __init__(
        self,
        run: str,
        loop: Loop,
        held: HeldDescriptors,
        launcher: Launcher,
        sessions: Sessions,
        tell: Callable[[dict[str, Any]], None],
        drop: Callable[[Connection], None],
    ) -> None:
        self.directory = f"{run}/containers"
        self.exits = f"{run}/exits"
        self.loop = loop
        self.held = held
        self.launcher = launcher
        self.cgroups = launcher.cgroups
        self.sessions = sessions
        self.tell = tell
        self.drop = drop
        self.containers: dict[str, Container] = {}
        self._spare_planned = False

    def find(self, message: dict[str, Any]) -> Container:
        container = self.containers.get(message["id"])
        if container is None:
            raise Refused("not_found", f'cannot {message["op"]} container "{message["id"][:12]}": it is not running')
        return container

    def start(self, connection: Connection, message: dict[str, Any], fds: list[int]) -> dict[str, Any] | None:
        id = message["id"]
        container = self.containers.get(id)
        if container is None:
            directory = f"{self.directory}/{id}"
            answer = self._answer_again(directory, message.get("token"))
            if answer is not None:
                return answer
            text = wire.read_bytes(f"{directory}/request.json")
            if not text:
                raise Refused("not_found", f'cannot start container "{id[:12]}": it has no launch request')
            container = Container(id, directory)
            container.token = message.get("token") or ""
            self.launcher.start(container, text, fds[0] if fds else -1, self._keep)
            self.containers[id] = container
            self._attend(container)
        elif container.running:
            return {"pid": container.child.pid, "starttime": container.child.starttime}
        container.starters.append(connection)
        return None

    def _answer_again(self, directory: str, token: str | None) -> dict[str, Any] | None:
        """The answer to a request that a dead supervisor had carried out, and whose container has ended since."""
        meta = wire.read_file(f"{directory}/meta") if token else None
        ended = wire.read_file(f"{directory}/exit") if meta and meta.get("token") == token else None
        if meta is None or ended is None:
            return None
        if "error" in ended:
            return _start_answer(meta["name"], {"message": ended["error"], "code": ended["code"] or 125})
        return {"pid": meta["pid"], "starttime": meta["starttime"]}

    def _keep(self, container: Container) -> None:
        """The keeper gets what a successor cannot open again: data in a pipe dies with its last holder."""
        fds = [container.out, container.err, container.status, container.report, container.child.pidfd]
        self.held.put(container.key, [fd for fd in fds if fd >= 0], pid=container.child.pid)

    def _attend(self, container: Container) -> None:
        self.loop.watch(container.child.pidfd, lambda event: self._on_exit(container, event))
        if container.out >= 0:
            self.loop.watch(container.out, lambda _: self._on_log(container, container.out, 1))
            self.loop.watch(container.err, lambda _: self._on_log(container, container.err, 2))
        if container.master >= 0:
            self._watch_terminal(container)
        if container.status >= 0:
            self.loop.watch(container.status, lambda _: self._on_status(container))
        else:
            container.running = True

    def _watch_terminal(self, container: Container) -> None:
        self.loop.watch(container.master, lambda event: self._on_terminal(container, event))

    def _on_log(self, container: Container, fd: int, stream: int) -> None:
        for _ in range(8):  # others must have their turn
            if not container.take(fd, stream):
                return

    def _on_terminal(self, container: Container, event: int) -> None:
        if event & select.EPOLLIN:
            container.take_terminal()
        elif event & select.EPOLLHUP:
            # Nobody has the other side open. It may be opened again: look once in a while instead of spinning.
            self.loop.forget(container.master)
            self.loop.after(0.2, lambda: self._resume_terminal(container))

    def _resume_terminal(self, container: Container) -> None:
        if self.containers.get(container.id) is container and not self.loop.is_watched(container.master):
            self._watch_terminal(container)

    def _on_status(self, container: Container) -> None:
        """End of the status pipe: the program was exec'd, or a step failed and the process is about to end."""
        self.loop.forget(container.status)
        self._receive_terminal(container)
        if container.failure() is not None:
            return  # answered in _finish, when nothing of it is left
        container.running = True
        reply = {"pid": container.child.pid, "starttime": container.child.starttime}
        for connection in container.starters:
            if not connection.answer(reply):
                self.loop.after(0.0, lambda connection=connection: self.drop(connection))  # type: ignore[misc]
        container.starters = []
        self.tell({"event": "start", "id": container.id})
        self._plan_spare(SPARE_DELAY)

    def _receive_terminal(self, container: Container) -> None:
        if container.channel is None:
            return
        fds = receive_fds(container.channel)
        container.channel.close()
        container.channel = None
        if fds:
            container.master = fds[0]
            self.held.put(f"terminal:{container.id}", fds)
            self._watch_terminal(container)

    def _on_exit(self, container: Container, event: int) -> None:
        # Read the pipes while the process is a zombie: whoever sees it gone finds its log complete.
        container.drain()
        ending = container.child.reap(self.exits, gone=bool(event & select.EPOLLHUP))
        if ending is None:
            # A zombie of somebody else's. Its end can be read once it is reaped, which is EPOLLHUP.
            self.loop.watch_end_only(container.child.pidfd)
            return
        self._finish(container, ending)

    def _finish(self, container: Container, ending: dict[str, Any]) -> None:
        id = container.id
        if self.loop.is_watched(container.status):
            self._on_status(container)
        self._receive_terminal(container)
        container.drain()
        failure = container.failure()
        record = {
            "pid": container.child.pid,
            "started_at": container.started_at,
            "finished_at": time.time(),
            **ending,
            "oom": self._was_oom(container, ending),
            "by_us": container.by_us,
        }
        if failure is not None:
            record["error"] = failure["message"]
        if failure is not None and (container.starters or failure.get("again")):
            wire.forget(f"{container.directory}/meta")  # it never ran
        else:
            wire.write_file(f"{container.directory}/exit", record)
        for fd in (container.child.pidfd, container.out, container.err, container.status, container.master):
            if fd >= 0:
                self.loop.forget(fd)
        if container.log is not None:
            container.log.close()
        del self.containers[id]
        for connection in container.waiters:
            connection.answer({"record": record})
        for connection in container.starters:
            started = {"pid": container.child.pid, "starttime": container.child.starttime}
            connection.answer(started if failure is None else _start_answer(container.name, failure))
        self.tell({"event": "exit", "id": id, "record": record})
        self.sessions.end(container)
        if container.key not in self.held.table:
            for fd in (container.out, container.err, container.child.pidfd):
                if fd >= 0:
                    os.close(fd)
        self.held.release(container.key)
        self.held.release(f"terminal:{id}")
        self._remove_cgroup(container.cgroup, 0)
        self.launcher.calm_from = time.monotonic() + NETWORKS_END
        self._plan_spare(0.0)

    def _plan_spare(self, delay: float) -> None:
        """Have a child ready for the next start, made when there is nothing else to do."""
        if not self._spare_planned and self.launcher.spare.wanted():
            self._spare_planned = True
            self.loop.after(delay, self._make_spare)

    def _make_spare(self) -> None:
        self._spare_planned = False
        # Among many starts at once it would take a processor from those that are wanted already.
        if not self.loop.is_quiet() or any(not container.running for container in self.containers.values()):
            self._plan_spare(SPARE_DELAY)
            return
        try:
            self.launcher.spare.make()
        except OSError as error:
            os.write(2, f"{time.time():.3f} cannot make the spare child: {error}\n".encode())

    def _was_oom(self, container: Container, ending: dict[str, Any]) -> bool:
        """The killer struck in this cgroup, and the program ended badly, by its own or a child's death."""
        return bool(
            (ending["signal"] or ending["code"]) and self.cgroups.oom_kills(container.cgroup) > container.oom_base
        )

    def _remove_cgroup(self, name: str, attempt: int) -> None:
        """Off the critical path: dying processes may pin it for a moment."""
        if name.rpartition("/")[2] in self.containers or self.cgroups.remove(name):
            return
        if attempt < len(REMOVE_DELAYS):
            self.loop.after(REMOVE_DELAYS[attempt], lambda: self._remove_cgroup(name, attempt + 1))

    def signal(self, message: dict[str, Any]) -> dict[str, Any]:
        container = self.find(message)
        number = int(message["signal"])
        if not container.by_us and (number in ENDING or number == container.stop_signal):
            container.by_us = True
            container.write_meta()  # before the signal: a successor must know
        container.child.send(number)
        if number == 9 and self.cgroups.frozen(container.cgroup):
            self.cgroups.thaw(container.cgroup)  # version 1 keeps even SIGKILL from the frozen
        return {}

    def wait(self, connection: Connection, message: dict[str, Any]) -> dict[str, Any] | None:
        container = self.containers.get(message["id"])
        if container is not None:
            container.waiters.append(connection)
            return None
        record = wire.read_file(f"{self.directory}/{message['id']}/exit")
        if record is None:
            raise Refused("not_found", f'cannot wait for container "{message["id"][:12]}": it never ran')
        return {"record": record}

    def attach(self, connection: Connection, message: dict[str, Any]) -> dict[str, Any] | None:
        container = self.find(message)
        if container.master < 0:
            raise Refused("conflict", f'cannot attach to container "{container.name}": it has no terminal')
        if not connection.answer({}, [container.master]):
            self.drop(connection)
        return None

    def recover(self) -> None:
        """Find every container that was running: alive ones are attended again, the ends of others written down."""
        directory = self.directory
        try:
            ids = os.listdir(directory)
        except FileNotFoundError:
            ids = []
        for id in ids:
            meta = wire.read_file(f"{directory}/{id}/meta")
            if meta is None or os.path.exists(f"{directory}/{id}/exit"):
                continue
            try:
                self._recover_one(id, f"{directory}/{id}", meta)
            except (OSError, KeyError, ValueError, TypeError) as error:
                os.write(2, f"{time.time():.3f} cannot recover {id}: {error!r}\n".encode())
        for key in list(self.held.table):
            kind, _, id = key.partition(":")
            if kind in ("container", "terminal") and id not in self.containers:
                self.held.release(key)

    def _recover_one(self, id: str, directory: str, meta: dict[str, Any]) -> None:
        container = Container(id, directory)
        container.read_meta(meta)
        self.containers[id] = container
        held = self.held.table.get(container.key)
        if held and container.tty:
            container.status, container.report, container.child.pidfd = held
        elif held:
            container.out, container.err, container.status, container.report, container.child.pidfd = held
        elif meta["boot"] == BOOT:
            container.child.pidfd = open_pidfd(container.child.pid, container.child.starttime)
            for name in () if container.tty else ("out", "err"):
                path = f"{directory}/{name}"
                if os.path.exists(path):
                    setattr(container, name, os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            if container.child.pidfd >= 0:
                self.held.put(container.key, self._recovered_fds(container))
        terminal = self.held.table.get(f"terminal:{id}")
        if terminal:
            container.master = terminal[0]
        try:
            container.open_log()
        except OSError as error:
            os.write(2, f"{time.time():.3f} cannot open the log of {id}: {error!r}\n".encode())
        if container.child.pidfd < 0:
            self._finish(container, container.child.reap(self.exits, gone=True) or {})
            return
        self.sessions.recover(container)
        self._attend(container)

    def _recovered_fds(self, container: Container) -> list[int]:
        """The same five (three with a terminal) as `_keep` gives: an ended pipe and a report of success stand in."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        os.close(write_end)
        container.status, container.report = read_end, os.memfd_create("report", os.MFD_CLOEXEC)
        os.write(container.report, REACHED_EXEC)
        streams = [] if container.tty else [container.out, container.err]
        return [*streams, container.status, container.report, container.child.pidfd]

    def forget_connection(self, connection: Connection) -> None:
        for container in self.containers.values():
            for waiting in (container.starters, container.waiters):
                if connection in waiting:
                    waiting.remove(connection)
            for session in container.sessions.values():
                if session.connection is connection:
                    session.connection = None

    def let_go(self) -> None:
        """Close what the next supervisor opens for itself; what is held stays open."""
        for container in self.containers.values():
            if container.log is not None:
                container.log.close()
            for session in container.sessions.values():
                for fd in (session.status, session.report, session.child.pidfd):
                    if fd >= 0:
                        os.close(fd)


def _start_answer(name: str, failure: dict[str, Any]) -> dict[str, Any]:
    return {
        "error": "again" if failure.get("again") else "start_failed",
        "message": f'cannot start container "{name}": {failure["message"]}',
        "exit_code": int(failure["code"]),
    }
