"""The supervisor: one thread that answers clients; the only process that forks containers."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

from runtime import cgroup as cgroup_module
from runtime.supervise import wire
from runtime.supervise.attendance import Attendance
from runtime.supervise.connection import Connection
from runtime.supervise.held import HeldDescriptors
from runtime.supervise.launcher import Launcher, Refused
from runtime.supervise.loop import Loop
from runtime.supervise.sessions import Sessions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.supervise.keeper import State

IDLE_DELAY = 1.0
USER_KEY = "user:"


class Supervisor:
    def __init__(self, state: State, keeper: socket.socket) -> None:
        self.state = state
        self.loop = Loop()
        self.held = HeldDescriptors(state.held, keeper)
        self.connections: dict[int, Connection] = {}
        self.launcher = Launcher(state.run, state.cgroup, cgroup_module.detect(), self._note_spare)
        self.cgroups = self.launcher.cgroups
        sessions = Sessions(self.loop, self.launcher, f"{state.run}/exits")
        self.attendance = Attendance(
            state.run, self.loop, self.held, self.launcher, sessions, tell=self._tell, drop=self._drop
        )
        self.idle_since = time.monotonic()
        self.operations: dict[str, Callable[[Connection, dict[str, Any], list[int]], dict[str, Any] | None]] = {
            "start": self.attendance.start,
            "signal": lambda _, message, __: self.attendance.signal(message),
            "wait": lambda connection, message, _: self.attendance.wait(connection, message),
            "attach": lambda connection, message, _: self.attendance.attach(connection, message),
            "exec": self._exec,
            "exec_wait": self._exec_wait,
            "exec_signal": self._exec_signal,
            "freeze": self._freeze,
            "thaw": self._thaw,
            "update": self._update,
            "running": self._running,
            "watch": self._watch,
            "hold": self._hold,
            "release": self._release,
            "held": self._held,
            "names": self._names,
            "upgrade": self._upgrade,
            "shutdown_if_idle": self._shutdown_if_idle,
        }

    def run(self) -> None:
        """Serve until the keeper dies; then let go of everything that the next supervisor opens for itself."""
        self.state.listener.setblocking(False)
        self.held.keeper.setblocking(True)
        self.loop.watch(self.held.keeper.fileno(), self._on_keeper)
        self.attendance.recover()
        self.loop.watch(self.state.listener.fileno(), self._on_accept)
        while not self.held.keeper_died:
            self.loop.step(self.idle_since + IDLE_DELAY if self._is_idle() else None)
            self._leave_when_idle()
        self.attendance.let_go()
        for connection in self.connections.values():
            connection.socket.close()
        self.loop.close()
        self.launcher.close()

    def _note_spare(self, pid: int, gone: bool) -> None:
        """The end of a child that never was a container's is nothing to record."""
        self.held.tell_keeper({"op": "spare", "pid": pid, "gone": gone})

    def _on_keeper(self, _: int) -> None:
        self.held.keeper_died = True

    def _is_idle(self) -> bool:
        busy = self.attendance.containers or self.state.held or self.connections or self.loop.timers
        return not busy and not os.path.exists(f"{self.state.run}/names.json")

    def _leave_when_idle(self) -> None:
        if not self._is_idle():
            self.idle_since = time.monotonic()
        elif time.monotonic() - self.idle_since >= IDLE_DELAY and self.loop.is_quiet():
            self.launcher.spare.discard()
            os._exit(0)  # the keeper follows; a client that comes right now starts a new pair

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
            self.loop.watch(sock.fileno(), lambda event, connection=connection: self._on_client(connection))  # type: ignore[misc]
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
        self.loop.forget(fd)
        self.connections.pop(fd, None)
        self.attendance.forget_connection(connection)
        connection.socket.close()

    def _tell(self, event: dict[str, Any]) -> None:
        for connection in list(self.connections.values()):
            if connection.watching and not connection.answer(event):
                self._drop(connection)

    def _watch(self, connection: Connection, _: dict[str, Any], __: list[int]) -> dict[str, Any]:
        connection.watching = True
        return {}

    # ---- running containers and programs inside them

    def _freeze(self, _: Connection, message: dict[str, Any], __: list[int]) -> dict[str, Any]:
        self.cgroups.freeze(self.attendance.find(message).cgroup)
        return {}

    def _thaw(self, _: Connection, message: dict[str, Any], __: list[int]) -> dict[str, Any]:
        self.cgroups.thaw(self.attendance.find(message).cgroup)
        return {}

    def _update(self, _: Connection, message: dict[str, Any], __: list[int]) -> dict[str, Any]:
        self.cgroups.set_limits(self.attendance.find(message).cgroup, message["resources"])
        return {}

    def _running(self, *_: object) -> dict[str, Any]:
        return {"ids": [container.id for container in self.attendance.containers.values() if container.running]}

    def _exec(self, connection: Connection, message: dict[str, Any], fds: list[int]) -> dict[str, Any] | None:
        return self.attendance.sessions.start(self.attendance.find(message), connection, message, fds)

    def _exec_wait(self, connection: Connection, message: dict[str, Any], _: list[int]) -> dict[str, Any] | None:
        container = self.attendance.containers.get(message["id"])
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
        session = self.attendance.find(message).sessions.get(str(message["exec"]))
        if session is not None:
            session.child.send(int(message["signal"]))
        return {}

    # ---- things held

    def _hold(self, _: Connection, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        self.held.put(USER_KEY + message["key"], fds, append=bool(message.get("append")))
        return {}

    def _release(self, _: Connection, message: dict[str, Any], __: list[int]) -> dict[str, Any]:
        self.held.release(USER_KEY + message["key"])
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
        self.held.tell_keeper({"op": "names", "argv": argv})
        return {}

    def _shutdown_if_idle(self, connection: Connection, _: dict[str, Any], __: list[int]) -> dict[str, Any] | None:
        self.idle_since = time.monotonic() - IDLE_DELAY
        connection.answer({})
        self._drop(connection)
        if self._is_idle() and self.loop.is_quiet():
            self.launcher.spare.discard()
            os._exit(0)
        return None

    # ---- succession

    def _upgrade(self, connection: Connection, _: dict[str, Any], __: list[int]) -> dict[str, Any] | None:
        """execv in place: the same process, so children stay children. Clients connect again."""
        connection.answer({})
        self.launcher.spare.discard()  # of the old program
        for container in self.attendance.containers.values():
            container.drain()
        held = self.state.held
        fds = [
            self.state.listener.fileno(),
            self.state.lock,
            self.held.keeper.fileno(),
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
