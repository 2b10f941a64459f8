"""Talks to the supervisor of a state root, and starts keeper and supervisor when none runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import sys
import termios
import time
from collections.abc import Sequence
from typing import Any

from runtime import errors
from runtime.layout import Layout
from runtime.supervise import wire

START_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "start.py")
ANSWER_DEADLINE = 30.0
START_DEADLINE = 120.0
"""A start may wait for the disk; the supervisor's death ends the wait earlier."""

_ERRORS: dict[str, type[errors.EngineError]] = {
    "not_found": errors.NotFound,
    "conflict": errors.Conflict,
    "invalid": errors.InvalidSpec,
    "unsupported": errors.Unsupported,
    "unavailable": errors.Unavailable,
}


class SupervisorClient:
    """Cheap to construct; safe for several threads (each operation has a connection of its own)."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def close(self) -> None:
        """Nothing is held between operations."""

    # ---- containers

    def start(self, id: str, stdio: tuple[int, int, int] | None = None) -> dict[str, Any]:
        """Launch from <run>/containers/<id>/request.json; returns {"pid", "starttime"} once the program was exec'd.

        Raises StartFailed (125 set-up, 126 not executable, 127 not found). Running already is success.
        """
        # The token tells a repeated request from a new one, when the supervisor died after a short program had run.
        message = {"op": "start", "id": id, "token": os.urandom(6).hex()}
        return self._ask(message, stdio or (), timeout=START_DEADLINE)

    def signal(self, id: str, signum: int) -> None:
        """Signal the container's first process; recorded as ours in the exit record. Raises NotFound."""
        self._ask({"op": "signal", "id": id, "signal": int(signum)})

    def wait(self, id: str, timeout: float | None) -> dict[str, Any] | None:
        """The exit record, or None when `timeout` passes first. Raises NotFound for a container that never ran."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            record = wire.read_file(f"{self.layout.run_container(id)}/exit")
            if record is not None:
                return dict(record)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                answer = self._ask({"op": "wait", "id": id}, timeout=left, retry=False)
            except (ConnectionError, errors.Unavailable):
                if left == 0.0:
                    return None
                time.sleep(0.002)
                continue
            except TimeoutError:
                return None
            return dict(answer["record"])

    def freeze(self, id: str) -> None:
        self._ask({"op": "freeze", "id": id})

    def thaw(self, id: str) -> None:
        self._ask({"op": "thaw", "id": id})

    def update(self, id: str, resources: dict[str, Any]) -> None:
        """Rewrite the limits of a running container; keys as in the request's "resources"."""
        self._ask({"op": "update", "id": id, "resources": resources})

    def attach(self, id: str) -> int:
        """A descriptor of the master of a container's terminal: write input to it, resize it. Output is in the log."""
        answer, fds, connection = self._exchange({"op": "attach", "id": id}, (), ANSWER_DEADLINE, True)
        connection.close()
        self._check(answer)
        return fds[0]

    def exec(self, id: str, request: dict[str, Any], stdio: tuple[int, int, int]) -> ExecSession:
        """Run a program inside. Keys that `request` lacks are taken from the container's own request.

        With "tty", `stdio` is unused and the session's `master` is the terminal. Raises StartFailed, NotFound.
        """
        key = os.urandom(6).hex()
        path = f"{self.layout.run_container(id)}/exec-{key}.json"
        try:
            # Environment may hold secrets and be long: a private file on tmpfs, removed by the supervisor once read.
            wire.write_file(path, request)
        except FileNotFoundError:
            raise errors.NotFound(f'cannot exec in container "{id[:12]}": it is not running') from None
        message = {"op": "exec", "id": id, "exec": key}
        fds = () if request.get("tty") else stdio
        try:
            answer, received, connection = self._exchange(message, fds, START_DEADLINE, True)
        except BaseException:
            wire.forget(path)
            raise
        try:
            self._check(answer)
        except BaseException:
            connection.close()
            wire.forget(path)
            raise
        master = received[0] if received else -1
        return ExecSession(self, id, key, int(answer["pid"]), connection=connection, master=master)

    def running(self) -> list[str]:
        """Ids of running containers. Starts a supervisor, which first writes the exit records that are owed."""
        return list(self._ask({"op": "running"})["ids"])

    def watch(self, start: bool = True) -> Watch:
        answer, _, connection = self._exchange({"op": "watch"}, (), ANSWER_DEADLINE, start)
        self._check(answer)
        return Watch(connection)

    # ---- things kept open for the engine

    def hold(self, key: str, fds: Sequence[int]) -> None:
        """Have keeper and supervisor keep duplicates of `fds` until `release`; a second `hold` replaces the first."""
        for index in range(0, len(fds), wire.MAX_DESCRIPTORS):
            part = list(fds[index : index + wire.MAX_DESCRIPTORS])
            self._ask({"op": "hold", "key": key, "append": index > 0}, part)

    def release(self, key: str) -> None:
        with contextlib.suppress(errors.Unavailable):
            self._ask({"op": "release", "key": key}, start=False)

    def held(self) -> list[str]:
        try:
            return list(self._ask({"op": "held"}, start=False)["keys"])
        except errors.Unavailable:
            return []

    def names(self, argv: Sequence[str] | None) -> None:
        """Keep one process running `argv`, again and again if need be; None ends it."""
        if argv is None and not os.path.exists(f"{self.layout.run}/names.json"):
            return
        self._ask({"op": "names", "argv": None if argv is None else list(argv)})

    # ---- the pair itself

    def upgrade(self) -> None:
        """Have the supervisor replace its own program in place, with the files that are on disk now."""
        self._ask({"op": "upgrade"}, start=False)

    def shutdown_if_idle(self) -> None:
        with contextlib.suppress(errors.Unavailable):
            self._ask({"op": "shutdown_if_idle"}, start=False)

    def _ask(
        self,
        message: dict[str, Any],
        fds: Sequence[int] = (),
        timeout: float | None = ANSWER_DEADLINE,
        start: bool = True,
        retry: bool = True,
    ) -> dict[str, Any]:
        answer, received, connection = self._exchange(message, fds, timeout, start, retry)
        connection.close()
        for fd in received:
            os.close(fd)
        self._check(answer)
        return answer

    def _exchange(
        self, message: dict[str, Any], fds: Sequence[int], timeout: float | None, start: bool, retry: bool = True
    ) -> tuple[dict[str, Any], list[int], socket.socket]:
        """Send and receive, again after a supervisor's death; without `retry`, ConnectionError and TimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            connection = self._connect(start)
            try:
                wire.send(connection, message, list(fds))
                connection.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
                answer, received = wire.receive(connection)
                if answer is not None and answer.get("error") != "again":
                    connection.settimeout(None)
                    return dict(answer), received, connection
                cause: OSError = ConnectionResetError("the supervisor died meanwhile")
            except OSError as error:
                cause = error
            except BaseException:
                connection.close()
                raise
            connection.close()
            if not retry:
                raise cause
            if not isinstance(cause, ConnectionError) or (deadline is not None and time.monotonic() > deadline):
                raise errors.Unavailable(
                    f"cannot {message['op']} through the supervisor: {cause.strerror or cause}",
                    f"look into {self.layout.run}/keeper.err",
                ) from None
            time.sleep(0.002)

    def _check(self, answer: dict[str, Any]) -> None:
        kind = answer.get("error")
        if kind is None:
            return
        text, hint = str(answer.get("message", kind)), str(answer.get("hint", ""))
        if kind == "start_failed":
            raise errors.StartFailed(text, hint, int(answer.get("exit_code", 125)))
        raise _ERRORS.get(kind, errors.EngineError)(text, hint)

    def _connect(self, start: bool) -> socket.socket:
        deadline = time.monotonic() + ANSWER_DEADLINE
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                connection.settimeout(ANSWER_DEADLINE)
                self._connect_path(connection)
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                if not start:
                    raise errors.Unavailable("cannot reach the supervisor: none runs") from None
            except OSError as error:
                connection.close()
                raise errors.Unavailable(f"cannot reach the supervisor: {error.strerror or error}") from None
            else:
                return connection
            if time.monotonic() > deadline:
                raise errors.Unavailable(
                    "cannot start the supervisor: it does not answer", f"look into {self.layout.run}/keeper.err"
                )
            self._start_keeper()

    def _connect_path(self, connection: socket.socket) -> None:
        if len(self.layout.socket.encode()) < 100:
            connection.connect(self.layout.socket)
            return
        # sun_path holds 107 bytes: reach a deeper directory through its descriptor.
        directory = os.open(self.layout.run, os.O_PATH | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{os.path.basename(self.layout.socket)}")
        finally:
            os.close(directory)

    def _start_keeper(self) -> None:
        """Returns when the socket listens; another process may have been faster, which is as good."""
        import subprocess

        self.layout.create()
        # The interpreter itself, not the virtual environment's link: with -S there is nothing to find through it.
        command = [
            os.path.realpath(sys.executable),
            "-I",
            "-S",
            START_SCRIPT,
            "keeper",
            self.layout.run,
            self.layout.cgroup,
        ]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
            start_new_session=True, cwd="/", env={"PATH": os.environ.get("PATH", os.defpath)},
        )  # fmt: skip
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise errors.Unavailable(f"cannot start the supervisor: {lines[-1] if lines else done.returncode}")


class ExecSession:
    """One program run inside a container; losing this object or its process does not end the program."""

    def __init__(
        self, client: SupervisorClient, id: str, key: str, pid: int, *, connection: socket.socket, master: int
    ) -> None:
        self._client = client
        self._connection: socket.socket | None = connection
        self._exit: int | None = None
        self.id = id
        self.key = key
        self.pid = pid
        self.master = master

    def fileno(self) -> int:
        """Readable when the program has ended; -1 after `close`."""
        return -1 if self._connection is None else self._connection.fileno()

    def wait(self, timeout: float | None) -> int | None:
        """The exit code (128+n for death by signal n), or None when `timeout` passes first."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._exit is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            answer = self._read(left)
            if answer is not None:
                self._exit = _exit_code(answer)
            elif left == 0.0:
                return None
        return self._exit

    def _read(self, timeout: float | None) -> dict[str, Any] | None:
        try:
            if self._connection is None:
                self._connection = self._reconnect()
            if not _is_readable(self._connection, timeout):
                return None
            answer, _ = wire.receive(self._connection)
        except ConnectionError:
            answer = None
        if answer is None:
            # The supervisor died or was replaced; its successor knows the program by its key.
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            time.sleep(0.002)
            return None
        if "exit" in answer:
            return dict(answer["exit"])
        self._client._check(answer)
        return None

    def _reconnect(self) -> socket.socket:
        connection = self._client._connect(True)
        wire.send(connection, {"op": "exec_wait", "id": self.id, "exec": self.key})
        return connection

    def kill(self, signum: int = 9) -> None:
        with contextlib.suppress(errors.NotFound):
            self._client._ask({"op": "exec_signal", "id": self.id, "exec": self.key, "signal": int(signum)})

    def resize(self, rows: int, cols: int) -> None:
        if self.master >= 0:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self.master >= 0:
            os.close(self.master)
            self.master = -1


class Watch:
    """Events as the supervisor sees them: {"event": "start", "id"} and {"event": "exit", "id", "record"}."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def fileno(self) -> int:
        return self._connection.fileno()

    def read(self, timeout: float | None) -> list[dict[str, Any]]:
        """What happened, at least one event unless `timeout` passes. Unavailable when the supervisor is gone."""
        events: list[dict[str, Any]] = []
        while _is_readable(self._connection, timeout if not events else 0.0):
            try:
                event, _ = wire.receive(self._connection)
            except ConnectionError:
                event = None
            if event is None:
                if events:
                    return events
                raise errors.Unavailable("cannot watch the supervisor: it closed the connection")
            events.append(dict(event))
        return events

    def close(self) -> None:
        self._connection.close()


def _is_readable(connection: socket.socket, timeout: float | None) -> bool:
    """poll(2): an agent may have more descriptors open than the 1024 that select(2) can tell apart."""
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    return bool(waiting.poll(None if timeout is None else timeout * 1000))


def _exit_code(record: dict[str, Any]) -> int:
    if record.get("signal"):
        return 128 + int(record["signal"])
    return 137 if record.get("code") is None else int(record["code"])
