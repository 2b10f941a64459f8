"""Programs run inside running containers: started, waited for by whoever asks, found again after a crash."""

from __future__ import annotations

import os
import select

from runtime.supervise import wire
from runtime.supervise.children import BOOT, Child, Container, Session, open_pidfd, read_report, receive_fds
from runtime.supervise.launcher import Launcher, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.supervise.connection import Connection
    from runtime.supervise.loop import Loop


class Sessions:
    def __init__(self, loop: Loop, launcher: Launcher, exits: str) -> None:
        self.loop = loop
        self.launcher = launcher
        self.exits = exits

    def start(
        self, container: Container, connection: Connection, message: dict[str, Any], fds: list[int]
    ) -> dict[str, Any] | None:
        key = str(message["exec"])
        session = container.sessions.get(key)
        if session is not None:  # the client lost its connection and asks again
            session.connection = connection
            return self._reply(session) if session.answered else None
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
        self.loop.watch(session.child.pidfd, lambda event: self._on_exit(session, event))
        self.loop.watch(session.status, lambda _: self._on_status(session))
        return None

    def _reply(self, session: Session) -> dict[str, Any]:
        if session.tty:
            return {"error": "unavailable", "message": "cannot exec: its terminal was lost with the supervisor"}
        return {"pid": session.child.pid}

    def _on_status(self, session: Session) -> None:
        self.loop.forget(session.status)
        os.close(session.status)
        session.status = -1
        session.failure = read_report(session.report)
        os.close(session.report)
        session.report = -1
        fds: list[int] = []
        if session.channel is not None:
            fds = receive_fds(session.channel)
            session.channel.close()
            session.channel = None
        if session.failure is None:
            session.answered = True
            if session.connection is not None:
                session.connection.answer({"pid": session.child.pid}, fds)
        for fd in fds:
            os.close(fd)

    def _on_exit(self, session: Session, event: int) -> None:
        ending = session.child.reap(self.exits, gone=bool(event & select.EPOLLHUP))
        if ending is None:
            self.loop.watch_end_only(session.child.pidfd)
            return
        self._finish(session, ending)

    def _finish(self, session: Session, ending: dict[str, Any]) -> None:
        container = session.container
        if session.status >= 0:
            self._on_status(session)
        container.sessions.pop(session.key, None)
        if session.child.pidfd >= 0:
            self.loop.forget(session.child.pidfd)
            os.close(session.child.pidfd)
            session.child.pidfd = -1
        if session.failure is not None:
            answer = {
                "error": "again" if session.failure.get("again") else "start_failed",
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

    def end(self, container: Container) -> None:
        """They died with process 1 of their pid namespace."""
        for session in list(container.sessions.values()):
            ending = session.child.reap(self.exits, gone=session.child.pidfd < 0)
            if ending is not None:
                self._finish(session, ending)

    def recover(self, container: Container) -> None:
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
                self._finish(session, session.child.reap(self.exits, gone=True) or {})
            else:
                self.loop.watch(
                    session.child.pidfd,
                    lambda event, session=session: self._on_exit(session, event),  # type: ignore[misc]
                )
