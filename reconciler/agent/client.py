"""Talks to the agent through its socket: plain HTTP/1.1 over a Unix socket, with the standard library only.

The command line uses it on every start, so it stays clear of the server's libraries.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from runtime.errors import Conflict, EngineError, InvalidSpec, NotFound, Unavailable

API_VERSION = "v1"
_CONNECT_TIMEOUT = 2.0
_LINE_LIMIT = 16 << 20


class AgentError(EngineError):
    """The agent refused or failed a request; the message is its own."""


def is_serving(path: str) -> bool:
    """Whether an agent accepts connections on the socket at `path`: one connect, no request."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.settimeout(_CONNECT_TIMEOUT)
            probe.connect(path)
    except OSError:
        return False
    return True


class AgentClient:
    """One agent at one socket. Each call is one connection; every failure is an EngineError."""

    def __init__(self, path: str, timeout: float = 30.0) -> None:
        self.path = path
        self._timeout = timeout

    def version(self) -> dict[str, Any]:
        """{"holdfast", "api", "pid", "root", "started_at"}"""
        return self._call("GET", "/v1/version")

    def status(self, stack: str | None = None) -> dict[str, Any]:
        """{"agent": {...}, "stacks": [StackStatus JSON]}"""
        return self._call("GET", "/v1/status" + (f"?stack={_escape(stack)}" if stack is not None else ""))

    def wake(self, stack: str | None = None) -> None:
        """Look again now: the caller changed something beside the agent (intent, generations)."""
        self._call("POST", "/v1/wake", {"stack": stack})

    def apply(
        self,
        desired: Any,
        *,
        revision: str = "",
        source: str = "",
        prune: bool = True,
        wait: bool = True,
        timeout: float = 600.0,
        lock_wait: float = 0.0,
        allow_deletions: bool = False,
        refresh: bool = False,
        expected: Any = None,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> dict[str, Any]:
        """Apply a desired state (`reconciler.desired.to_json` form); its files must have been put to the engine before.

        `on_event` gets each Progress as JSON; the value is the Outcome as JSON.
        """
        body = {
            "desired": desired, "revision": revision, "source": source, "prune": prune, "wait": wait,
            "timeout": timeout, "lock_wait": lock_wait,
            "allow_deletions": allow_deletions, "refresh": refresh, "expected": expected,
        }  # fmt: skip
        return self._stream_outcome("/v1/apply", body, timeout + lock_wait, on_event)

    def destroy(
        self,
        stack: str,
        *,
        volumes: bool = False,
        timeout: float = 600.0,
        lock_wait: float = 0.0,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> dict[str, Any]:
        body = {"stack": stack, "volumes": volumes, "timeout": timeout, "lock_wait": lock_wait}
        return self._stream_outcome("/v1/destroy", body, timeout + lock_wait, on_event)

    def events(self, stack: str | None = None, after: int = 0, *, follow: bool = True) -> Iterator[dict[str, Any]]:
        """Recorded events with an id above `after`, then, with `follow`, each new one until the agent goes."""
        query = f"?after={after}&follow={int(follow)}" + (f"&stack={_escape(stack)}" if stack is not None else "")
        for line in self._lines("GET", f"/v1/events{query}", None, None):
            if line.get("kind") != "alive":
                yield line

    # ---- wire ---------------------------------------------------------------------------------------------------

    def _call(self, method: str, target: str, body: Any = None) -> dict[str, Any]:
        with _translated(self.path):
            connection = _UnixConnection(self.path, self._timeout)
            try:
                response = _send(connection, method, target, body)
                value = json.loads(response.read(_LINE_LIMIT) or b"{}")
                assert isinstance(value, dict)
                return value
            finally:
                connection.close()

    def _lines(self, method: str, target: str, body: Any, timeout: float | None) -> Iterator[dict[str, Any]]:
        with _translated(self.path):
            # The agent sends a line at least every few seconds; silence for `timeout` means that it hangs or is gone.
            connection = _UnixConnection(self.path, timeout if timeout is not None else self._timeout)
            try:
                response = _send(connection, method, target, body)
                while line := response.readline(_LINE_LIMIT):
                    yield json.loads(line)
            finally:
                connection.close()

    def _stream_outcome(
        self, target: str, body: Any, timeout: float, on_event: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        for line in self._lines("POST", target, body, self._timeout):
            kind = line.get("kind")
            if kind == "outcome":
                value = line["outcome"]
                assert isinstance(value, dict)
                return value
            if kind == "error":
                raise _error(line)
            if kind != "alive":
                on_event(line)
        raise Unavailable(
            "cannot follow the apply: the agent went away",
            "its successor takes the work up again; see `holdfast status`",
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _translated:
    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OSError, http.client.HTTPException, ValueError)):
            what = "it does not answer" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            raise Unavailable(
                f'cannot reach the agent at "{self._path}": {what}', "does `holdfast agent` run?"
            ) from None


def _send(connection: http.client.HTTPConnection, method: str, target: str, body: Any) -> http.client.HTTPResponse:
    data = None if body is None else json.dumps(body).encode()
    connection.request(method, target, data, {"Content-Type": "application/json"} if data is not None else {})
    response = connection.getresponse()
    if response.status >= 400:
        text = response.read(_LINE_LIMIT)
        try:
            value = json.loads(text)
        except ValueError:
            value = {"error": text.decode(errors="replace")[:500] or response.reason}
        raise _error(value)
    return response


def _error(value: dict[str, Any]) -> Exception:
    """The exception that the agent met, as the same class where it is one that callers tell apart."""
    from reconciler.lock import Holder, StackLocked
    from reconciler.model import InputError, Problem

    message, hint = str(value.get("error", "")), str(value.get("hint", ""))
    name = value.get("class")
    if name == "StackLocked":
        holder = value.get("holder") or {}
        return StackLocked(
            str(value.get("stack", "")),
            Holder(int(holder.get("pid", 0)), str(holder.get("command", "")), float(holder.get("since", 0.0))),
        )
    if name == "InputError":
        return InputError([Problem(str(text)) for text in value.get("problems", [message])])
    kinds: dict[str, type[EngineError]] = {
        kind.__name__: kind for kind in (Conflict, InvalidSpec, NotFound, Unavailable)
    }
    return kinds.get(str(name), AgentError)(message, hint)


def _escape(text: str) -> str:
    return "".join(
        c if c.isascii() and (c.isalnum() or c in "._-") else "".join(f"%{b:02X}" for b in c.encode()) for c in text
    )


# ---- starting one in the background -----------------------------------------------------------------------------


def start_background(command: Sequence[str], log: str, socket_path: str, *, timeout: float = 15.0) -> int:
    """Start an agent that outlives this process, and return its pid once it serves `socket_path`.

    `command` is the whole argument vector, e.g. (sys.executable, "-m", "reconciler.cli.main", "--root", root, "agent").
    An agent that serves already is left as it is (the value is then its pid). What it prints goes to the file `log`.
    """
    if is_serving(socket_path):
        return int(AgentClient(socket_path).version()["pid"])
    try:
        os.makedirs(os.path.dirname(log), mode=0o700, exist_ok=True)
        with open(log, "ab", buffering=0) as output:
            # The file must not grow for ever over many starts; one start's output is small.
            if output.tell() > 4 << 20:
                output.truncate(0)
            process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
                env={name: text for name, text in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")},
            )  # fmt: skip
    except OSError as error:
        raise Unavailable(f"cannot start the agent: {error.strerror}", f"is {log} writable?") from None
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if is_serving(socket_path):
            # Popen warns about a child that nobody waited for; this one is meant to stay.
            process.returncode = 0
            return process.pid
        if process.poll() is not None:
            raise Unavailable(f"cannot start the agent: it ended with code {process.returncode}", f"see {log}")
        time.sleep(0.05)
    # One that hangs must not come to life later, behind the back of whoever was told that it failed.
    process.kill()
    process.wait()
    raise Unavailable(f"cannot start the agent: it does not serve after {timeout:g} s", f"see {log}")


def agent_command(root: str, arguments: Sequence[str] = ()) -> list[str]:
    """How this installation starts its own agent for `root`."""
    return [sys.executable, "-m", "reconciler.cli.main", "--root", root, "agent", *arguments]
