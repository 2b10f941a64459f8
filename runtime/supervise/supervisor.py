"""The supervisor: one thread and one epoll over clients, pidfds and log pipes; the only process that forks containers.

It keeps nothing in memory that it could not find again: a new supervisor, an upgraded one and a first one run the
same `recover`. It never restarts anything: that is for the reconciler to decide.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time

from runtime import cgroup as cgroup_module
from runtime.supervise import wire
from runtime.supervise.children import BOOT, ENDING, Child, Container, Session, open_pidfd, read_report
from runtime.supervise.init import REACHED_EXEC
from runtime.supervise.launcher import Launcher, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.supervise.keeper import State

IDLE_DELAY = 1.0
REMOVE_DELAYS = (0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0)
USER_KEY = "user:"


class Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.watching = False

    def answer(self, value: dict[str, Any], fds: list[int] | None = None) -> bool:
        """False when the client is gone, or does not read: then it is to be dropped."""
        try:
            wire.send(self.socket, value, fds or [])
        except OSError:
            return False
        return True


class Supervisor:
    def __init__(self, state: State, keeper: socket.socket) -> None:
        self.state = state
        self.keeper = keeper
        self.epoll = select.epoll()
        self.calls: dict[int, Callable[[int], None]] = {}
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.containers: dict[str, Container] = {}
        self.connections: dict[int, Connection] = {}
        self.cgroups = cgroup_module.detect()
        self.launcher = Launcher(state.run, state.cgroup, self.cgroups)
        self.exits = f"{state.run}/exits"
        self.idle_since = time.monotonic()
        self.keeper_died = False
        self.operations: dict[str, Callable[[Connection, dict[str, Any], list[int]], dict[str, Any] | None]] = {
            "start": self._start, "signal": self._signal, "wait": self._wait, "exec": self._exec,
            "exec_wait": self._exec_wait, "exec_signal": self._exec_signal, "attach": self._attach,
            "freeze": self._freeze, "thaw": self._thaw, "update": self._update, "hold": self._hold,
            "release": self._release, "held": self._held, "names": self._names, "running": self._running,
            "watch": self._watch, "upgrade": self._upgrade, "shutdown_if_idle": self._shutdown_if_idle,
        }  # fmt: skip

    # ---- the loop

    def run(self) -> None:
        """Serve until the keeper dies; then let go of everything that the next supervisor opens for itself."""
        self.state.listener.setblocking(False)
        self.keeper.setblocking(True)
        self._watch_fd(self.keeper.fileno(), self._on_keeper)
        self._recover()
        self._watch_fd(self.state.listener.fileno(), self._on_accept)
        while not self.keeper_died:
            for fd, event in self.epoll.poll(self._timeout()):
                call = self.calls.get(fd)
                if call is not None:
                    call(event)
            self._run_timers()
            self._leave_when_idle()
        self._let_go()

    def _watch_fd(self, fd: int, call: Callable[[int], None], mask: int = select.EPOLLIN) -> None:
        self.calls[fd] = call
        self.epoll.register(fd, mask)

    def _forget_fd(self, fd: int) -> None:
        if self.calls.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def _timeout(self) -> float:
        now = time.monotonic()
        moments = [moment for moment, _ in self.timers]
        if self._is_idle():
            moments.append(self.idle_since + IDLE_DELAY)
        return max(0.0, min(moments) - now) + 0.0005 if moments else -1

    def _run_timers(self) -> None:
        if not self.timers:
            return
        now = time.monotonic()
        due = [call for moment, call in self.timers if moment <= now]
        self.timers = [timer for timer in self.timers if timer[0] > now]
        for call in due:
            call()

    def _is_idle(self) -> bool:
        return not (self.containers or self.state.held or self.connections or self.timers) and not os.path.exists(
            f"{self.state.run}/names.json"
        )

    def _leave_when_idle(self) -> None:
        if not self._is_idle():
            self.idle_since = time.monotonic()
        elif time.monotonic() - self.idle_since >= IDLE_DELAY and not self.epoll.poll(0):
            os._exit(0)  # the keeper follows; a client that comes right now starts a new pair

    def _on_keeper(self, _: int) -> None:
        self.keeper_died = True

    def _let_go(self) -> None:
        for container in self.containers.values():
            if container.log is not None:
                container.log.close()
            for session in container.sessions.values():
                for fd in (session.status, session.report, session.child.pidfd):
                    if fd >= 0:
                        os.close(fd)
        for connection in self.connections.values():
            connection.socket.close()
        self.epoll.close()
        self.launcher.close()

    # ---- clients

    def _on_accept(self, _: int) -> None:
        while True:
            try:
                sock, _address = self.state.listener.accept()
            except BlockingIOError:
                return
            except OSError:
                return
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", credentials)[1] not in (0, os.geteuid()):
                sock.close()
                continue
            sock.setblocking(False)
            connection = Connection(sock)
            self.connections[sock.fileno()] = connection
            self._watch_fd(sock.fileno(), lambda event, connection=connection: self._on_client(connection))  # type: ignore[misc]
            self._on_client(connection)  # most have sent by now

    def _on_client(self, connection: Connection) -> None:
        try:
            message, fds = wire.receive(connection.socket)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            message, fds = None, []
        if message is None:
            self._drop(connection)
            return
        try:
            operation = self.operations.get(message.get("op", ""))
            if operation is None:
                raise Refused("invalid", f"no operation {message.get('op')!r}")
            if "id" in message and ("/" in message["id"] or message["id"] in ("", ".", "..")):
                raise Refused("invalid", f"no container can be named {message['id']!r}")
            reply = operation(connection, message, fds)
        except Refused as error:
            reply = {"error": error.kind, "message": str(error), "hint": error.hint, "exit_code": 125}
        except (OSError, KeyError, TypeError, ValueError) as error:
            cause = (error.strerror or str(error)).lower() if isinstance(error, OSError) else repr(error)
            reply = {"error": "failed", "message": f"cannot {message.get('op')} {message.get('id', '')}: {cause}"}
        finally:
            if message.get("op") != "hold":
                for fd in fds:
                    os.close(fd)
        if reply is not None and not connection.answer(reply):
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        fd = connection.socket.fileno()
        self._forget_fd(fd)
        self.connections.pop(fd, None)
        for container in self.containers.values():
            for waiting in (container.starters, container.waiters):
                if connection in waiting:
                    waiting.remove(connection)
            for session in container.sessions.values():
                if session.connection is connection:
                    session.connection = None
        connection.socket.close()

    def _tell(self, event: dict[str, Any]) -> None:
        for connection in list(self.connections.values()):
            if connection.watching and not connection.answer(event):
                self._drop(connection)

    def _find(self, message: dict[str, Any]) -> Container:
        container = self.containers.get(message["id"])
        if container is None:
            raise Refused("not_found", f'cannot {message["op"]} container "{message["id"][:12]}": it is not running')
        return container

    # ---- containers

    def _start(self, connection: Connection, message: dict[str, Any], fds: list[int]) -> dict[str, Any] | None:
        id = message["id"]
        container = self.containers.get(id)
        if container is None:
            directory = f"{self.state.run}/containers/{id}"
            request = wire.read_file(f"{directory}/request.json")
            if request is None:
                raise Refused("not_found", f'cannot start container "{id[:12]}": it has no launch request')
            container = Container(id, directory)
            stdin = fds[0] if fds and request.get("stdin") == "fd" else -1
            self.launcher.start(container, request, stdin)
            self.containers[id] = container
            self._keep(container)
            self._attend(container)
        elif container.running:
            return {"pid": container.child.pid, "starttime": container.child.starttime}
        container.starters.append(connection)
        return None

    def _keep(self, container: Container) -> None:
        """The keeper gets what a successor cannot open again: data in a pipe dies with its last holder."""
        fds = [container.out, container.err, container.status, container.report, container.child.pidfd]
        self._put(container.key, [fd for fd in fds if fd >= 0])

    def _attend(self, container: Container) -> None:
        self._watch_fd(container.child.pidfd, lambda event: self._on_exit(container, event))
        if container.out >= 0:
            self._watch_fd(container.out, lambda _: self._on_log(container, container.out, 1))
            self._watch_fd(container.err, lambda _: self._on_log(container, container.err, 2))
        if container.master >= 0:
            self._watch_terminal(container)
        if container.status >= 0:
            self._watch_fd(container.status, lambda _: self._on_status(container))
        else:
            container.running = True

    def _watch_terminal(self, container: Container) -> None:
        self._watch_fd(container.master, lambda event: self._on_terminal(container, event))

    def _on_log(self, container: Container, fd: int, stream: int) -> None:
        for _ in range(8):  # others must have their turn
            if not container.take(fd, stream):
                return

    def _on_terminal(self, container: Container, event: int) -> None:
        if event & select.EPOLLIN:
            container.take_terminal()
        elif event & select.EPOLLHUP:
            # Nobody has the other side open. It may be opened again: look once in a while instead of spinning.
            self._forget_fd(container.master)
            self._after(0.2, lambda: self._resume_terminal(container))

    def _resume_terminal(self, container: Container) -> None:
        if self.containers.get(container.id) is container and container.master not in self.calls:
            self._watch_terminal(container)

    def _on_status(self, container: Container) -> None:
        """End of the status pipe: the program was exec'd, or a step failed and the process is about to end."""
        self._forget_fd(container.status)
        self._receive_terminal(container)
        if container.failure() is not None:
            return  # answered in _finish, when nothing of it is left
        container.running = True
        reply = {"pid": container.child.pid, "starttime": container.child.starttime}
        for connection in container.starters:
            if not connection.answer(reply):
                self._after(0.0, lambda connection=connection: self._drop(connection))  # type: ignore[misc]
        container.starters = []
        self._tell({"event": "start", "id": container.id})

    def _receive_terminal(self, container: Container) -> None:
        if container.channel is None:
            return
        fds = _receive_fds(container.channel)
        container.channel.close()
        container.channel = None
        if fds:
            container.master = fds[0]
            self._put(f"terminal:{container.id}", fds)
            self._watch_terminal(container)

    def _on_exit(self, container: Container, event: int) -> None:
        # Read the pipes while the process is a zombie: whoever sees it gone finds its log complete.
        container.drain()
        ending = container.child.reap(self.exits, gone=bool(event & select.EPOLLHUP))
        if ending is None:
            # A zombie of somebody else's. Its end can be read once it is reaped, which is EPOLLHUP.
            self.epoll.modify(container.child.pidfd, 0)
            return
        self._finish(container, ending)

    def _finish(self, container: Container, ending: dict[str, Any]) -> None:
        id = container.id
        if container.status in self.calls:
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
        if failure is not None and container.starters:
            wire.forget(f"{container.directory}/meta")  # it never ran
        else:
            wire.write_file(f"{container.directory}/exit", record)
        for fd in (container.child.pidfd, container.out, container.err, container.status, container.master):
            if fd >= 0:
                self._forget_fd(fd)
        if container.log is not None:
            container.log.close()
        del self.containers[id]
        for connection in container.waiters:
            connection.answer({"record": record})
        if failure is not None:
            for connection in container.starters:
                connection.answer(_start_answer(container, failure))
        self._tell({"event": "exit", "id": id, "record": record})
        self._end_sessions(container)
        if container.key not in self.state.held:
            for fd in (container.out, container.err, container.child.pidfd):
                if fd >= 0:
                    os.close(fd)
        self._release_key(container.key)
        self._release_key(f"terminal:{id}")
        self._remove_cgroup(container.cgroup, 0)

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
            self._after(REMOVE_DELAYS[attempt], lambda: self._remove_cgroup(name, attempt + 1))

    def _after(self, delay: float, call: Callable[[], None]) -> None:
        self.timers.append((time.monotonic() + delay, call))

    def _signal(self, _: Connection, message: dict[str, Any], __: list[int]) -> dict[str, Any]:
        container = self._find(message)
        number = int(message["signal"])
        if not container.by_us and (number in ENDING or number == container.stop_signal):
            container.by_us = True
            container.write_meta()  # before the signal: a successor must know
        container.child.send(number)
        if number == 9 and self.cgroups.frozen(container.cgroup):
            self.cgroups.thaw(container.cgroup)  # version 1 keeps even SIGKILL from the frozen
        return {}

    def _wait(self, connection: Connection, message: dict[str, Any], _: list[int]) -> dict[str, Any] | None:
        container = self.containers.get(message["id"])
        if container is not None:
            container.waiters.append(connection)
            return None
        record = wire.read_file(f"{self.state.run}/containers/{message['id']}/exit")
        if record is None:
            raise Refused("not_found", f'cannot wait for container "{message["id"][:12]}": it never ran')
        return {"record": record}

    def _attach(self, connection: Connection, message: dict[str, Any], _: list[int]) -> dict[str, Any] | None:
        container = self._find(message)
        if container.master < 0:
            raise Refused("conflict", f'cannot attach to container "{container.name}": it has no terminal')
        if not connection.answer({}, [container.master]):
            self._drop(connection)
        return None

    def _freeze(self, _: Connection, message: dict[str, Any], __: list[int]) -> dict[str, Any]:
        self.cgroups.freeze(self._find(message).cgroup)
        return {}

    def _thaw(self, _: Connection, message: dict[str, Any], __: list[int]) -> dict[str, Any]:
        self.cgroups.thaw(self._find(message).cgroup)
        return {}

    def _update(self, _: Connection, message: dict[str, Any], __: list[int]) -> dict[str, Any]:
        self.cgroups.set_limits(self._find(message).cgroup, message["resources"])
        return {}

    def _running(self, *_: object) -> dict[str, Any]:
        return {"ids": [container.id for container in self.containers.values() if container.running]}

    def _watch(self, connection: Connection, _: dict[str, Any], __: list[int]) -> dict[str, Any]:
        connection.watching = True
        return {}

    # ---- programs inside

    def _exec(self, connection: Connection, message: dict[str, Any], fds: list[int]) -> dict[str, Any] | None:
        container = self._find(message)
        key = str(message["exec"])
        session = container.sessions.get(key)
        if session is not None:  # the client lost its connection and asks again
            session.connection = connection
            return self._exec_reply(session) if session.answered else None
        session = Session(container, key)
        if not key.isalnum():
            raise Refused("invalid", "no such exec")
        request = wire.read_file(f"{session.path}.json")
        own = wire.read_file(f"{container.directory}/request.json")
        if request is None or own is None:
            raise Refused("not_found", f'cannot exec in container "{container.name}": it has no request')
        if not container.running:
            raise Refused("conflict", f'cannot exec in container "{container.name}": it is only starting')
        if not request.get("tty") and len(fds) != 3:
            raise Refused("invalid", "exec needs three descriptors")
        self.launcher.exec(session, request, fds, own)
        wire.forget(f"{session.path}.json")
        session.connection = connection
        container.sessions[key] = session
        self._watch_fd(session.child.pidfd, lambda event: self._on_session_exit(session, event))
        self._watch_fd(session.status, lambda _: self._on_session_status(session))
        return None

    def _exec_reply(self, session: Session) -> dict[str, Any]:
        if session.tty:
            return {"error": "unavailable", "message": "cannot exec: its terminal was lost with the supervisor"}
        return {"pid": session.child.pid}

    def _on_session_status(self, session: Session) -> None:
        self._forget_fd(session.status)
        os.close(session.status)
        session.status = -1
        session.failure = read_report(session.report)
        os.close(session.report)
        session.report = -1
        fds: list[int] = []
        if session.channel is not None:
            fds = _receive_fds(session.channel)
            session.channel.close()
            session.channel = None
        if session.failure is None:
            session.answered = True
            if session.connection is not None:
                session.connection.answer({"pid": session.child.pid}, fds)
        for fd in fds:
            os.close(fd)

    def _on_session_exit(self, session: Session, event: int) -> None:
        ending = session.child.reap(self.exits, gone=bool(event & select.EPOLLHUP))
        if ending is None:
            self.epoll.modify(session.child.pidfd, 0)
            return
        self._finish_session(session, ending)

    def _finish_session(self, session: Session, ending: dict[str, Any]) -> None:
        container = session.container
        if session.status >= 0:
            self._on_session_status(session)
        container.sessions.pop(session.key, None)
        if session.child.pidfd >= 0:
            self._forget_fd(session.child.pidfd)
            os.close(session.child.pidfd)
            session.child.pidfd = -1
        if session.failure is not None:
            answer = {
                "error": "start_failed",
                "message": f'cannot exec in container "{container.name}": {session.failure["message"]}',
                "exit_code": session.failure["code"],
            }
        else:
            answer = {"exit": ending}
        if session.connection is None or not session.connection.answer(answer):
            try:
                wire.write_file(f"{session.path}.exit", answer)
            except OSError:
                pass  # the container's run directory is gone, and with it everyone who could ask
        wire.forget(f"{session.path}.meta")

    def _end_sessions(self, container: Container) -> None:
        """They died with process 1 of their pid namespace."""
        for session in list(container.sessions.values()):
            ending = session.child.reap(self.exits, gone=session.child.pidfd < 0)
            if ending is not None:
                self._finish_session(session, ending)

    def _exec_wait(self, connection: Connection, message: dict[str, Any], _: list[int]) -> dict[str, Any] | None:
        container = self.containers.get(message["id"])
        session = container.sessions.get(str(message["exec"])) if container else None
        if session is not None:
            session.connection = connection
            return None
        if not str(message["exec"]).isalnum():
            raise Refused("invalid", "no such exec")
        path = f"{self.state.run}/containers/{message['id']}/exec-{message['exec']}.exit"
        answer: dict[str, Any] | None = wire.read_file(path)
        if answer is None:
            return {"exit": {"code": None, "signal": 9, "lost": True}}
        wire.forget(path)
        return answer

    def _exec_signal(self, _: Connection, message: dict[str, Any], __: list[int]) -> dict[str, Any]:
        session = self._find(message).sessions.get(str(message["exec"]))
        if session is not None:
            session.child.send(int(message["signal"]))
        return {}

    # ---- things held

    def _put(self, key: str, fds: list[int], append: bool = False) -> None:
        self._send_keeper({"op": "hold", "key": key, "append": append}, fds)
        if append:
            self.state.held.setdefault(key, []).extend(fds)
        else:
            former = self.state.held.get(key, [])
            self.state.held[key] = list(fds)
            for fd in former:
                os.close(fd)

    def _send_keeper(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """In order, and it reads even what a supervisor sent just before its death: no answer is needed."""
        try:
            wire.send(self.keeper, message, fds or [])
        except OSError:
            self.keeper_died = True  # this process, which has it all too, is about to be the keeper

    def _release_key(self, key: str) -> None:
        fds = self.state.held.pop(key, None)
        if fds is None:
            return
        self._send_keeper({"op": "release", "key": key})
        for fd in fds:
            os.close(fd)

    def _hold(self, _: Connection, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        self._put(USER_KEY + message["key"], fds, bool(message.get("append")))
        return {}

    def _release(self, _: Connection, message: dict[str, Any], __: list[int]) -> dict[str, Any]:
        self._release_key(USER_KEY + message["key"])
        return {}

    def _held(self, *_: object) -> dict[str, Any]:
        return {"keys": [key.removeprefix(USER_KEY) for key in self.state.held if key.startswith(USER_KEY)]}

    def _names(self, _: Connection, message: dict[str, Any], __: list[int]) -> dict[str, Any]:
        argv = message["argv"]
        path = f"{self.state.run}/names.json"
        if argv is None:
            wire.forget(path)
        elif (wire.read_file(path) or {}).get("argv") != argv:
            wire.write_file(path, {"argv": argv})
        self._send_keeper({"op": "names", "argv": argv})
        return {}

    def _shutdown_if_idle(self, connection: Connection, _: dict[str, Any], __: list[int]) -> dict[str, Any] | None:
        self.idle_since = time.monotonic() - IDLE_DELAY
        connection.answer({})
        self._drop(connection)
        if self._is_idle() and not self.epoll.poll(0):
            os._exit(0)
        return None

    # ---- succession

    def _upgrade(self, connection: Connection, _: dict[str, Any], __: list[int]) -> dict[str, Any] | None:
        """execv in place: the same process, so children stay children. Clients connect again."""
        connection.answer({})
        for container in self.containers.values():
            container.drain()
        held = self.state.held
        fds = [
            self.state.listener.fileno(),
            self.state.lock,
            self.keeper.fileno(),
            *(f for v in held.values() for f in v),
        ]
        saved = {"listener": fds[0], "lock": fds[1], "keeper": fds[2], "held": held}
        state = os.memfd_create("state")
        os.write(state, wire.encode(saved))
        for fd in (*fds, state):
            os.set_inheritable(fd, True)
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "start.py")
        command = [sys.executable, "-I", "-S", script, "supervisor", self.state.run, self.state.cgroup, str(state)]
        os.execv(sys.executable, command)  # noqa: S606

    def _recover(self) -> None:
        """Find every container that was running: alive ones are attended again, the ends of others written down."""
        directory = f"{self.state.run}/containers"
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
        for key in list(self.state.held):
            kind, _, id = key.partition(":")
            if kind in ("container", "terminal") and id not in self.containers:
                self._release_key(key)

    def _recover_one(self, id: str, directory: str, meta: dict[str, Any]) -> None:
        container = Container(id, directory)
        container.read_meta(meta)
        self.containers[id] = container
        held = self.state.held.get(container.key)
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
                self._put(container.key, self._recovered_fds(container))
        terminal = self.state.held.get(f"terminal:{id}")
        if terminal:
            container.master = terminal[0]
        try:
            container.open_log()
        except OSError as error:
            os.write(2, f"{time.time():.3f} cannot open the log of {id}: {error!r}\n".encode())
        if container.child.pidfd < 0:
            self._finish(container, container.child.reap(self.exits, gone=True) or {})
            return
        self._recover_sessions(container)
        self._attend(container)

    def _recovered_fds(self, container: Container) -> list[int]:
        """The same five (three with a terminal) as `_keep` gives: an ended pipe and a report of success stand in."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        os.close(write_end)
        container.status, container.report = read_end, os.memfd_create("report", os.MFD_CLOEXEC)
        os.write(container.report, REACHED_EXEC)
        streams = [] if container.tty else [container.out, container.err]
        return [*streams, container.status, container.report, container.child.pidfd]

    def _recover_sessions(self, container: Container) -> None:
        for name in os.listdir(container.directory):
            if not (name.startswith("exec-") and name.endswith(".meta")):
                continue
            meta = wire.read_file(f"{container.directory}/{name}")
            if meta is None or meta["boot"] != BOOT:
                continue
            session = Session(container, name[len("exec-") : -len(".meta")])
            session.answered = True
            pid, starttime = int(meta["pid"]), int(meta["starttime"])
            session.child = Child(pid, starttime, open_pidfd(pid, starttime))
            container.sessions[session.key] = session
            if session.child.pidfd < 0:
                self._finish_session(session, session.child.reap(self.exits, gone=True) or {})
            else:
                self._watch_fd(
                    session.child.pidfd,
                    lambda event, session=session: self._on_session_exit(session, event),  # type: ignore[misc]
                )


def _receive_fds(channel: socket.socket) -> list[int]:
    channel.setblocking(False)
    try:
        return list(socket.recv_fds(channel, 64, 4, socket.MSG_CMSG_CLOEXEC)[1])
    except OSError:
        return []


def _start_answer(container: Container, failure: dict[str, Any]) -> dict[str, Any]:
    return {
        "error": "start_failed",
        "message": f'cannot start container "{container.name}": {failure["message"]}',
        "exit_code": int(failure["code"]),
    }
