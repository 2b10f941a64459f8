"""The real `holdfast` on a root of the test's own, as a user runs it: processes, exit codes, stdout and stderr."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reconciler.agent.client import is_serving
from runtime.layout import Layout
from tests.support.roots import demolish, engine_with_busybox

EXAMPLES = Path(__file__).resolve().parents[2] / "manifests" / "examples"
PROGRAM = str(Path(sys.executable).parent / "holdfast")


class Holdfast:
    """Commands run in `directory`, where `write` puts the stack's compose.yaml; the root lies outside of it."""

    def __init__(self, layout: Layout, directory: Path) -> None:
        self.layout = layout
        self.directory = directory
        self.environment = {**os.environ, "NO_COLOR": "1"}
        for name in ("HOLDFAST_TRACEBACK", "HOLDFAST_ROOT", "COMPOSE_PROFILES"):
            self.environment.pop(name, None)

    def argv(self, *words: str) -> list[str]:
        return [PROGRAM, "--root", self.layout.root, *words]

    def run(
        self, *words: str, code: int | None = 0, stdin: str = "", timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; `code` is the exit code that it must have (None: any). A traceback always fails."""
        done = subprocess.run(
            self.argv(*words), input=stdin, capture_output=True, text=True, timeout=timeout, check=False,
            cwd=self.directory, env=self.environment,
        )  # fmt: skip
        said = f"holdfast {' '.join(words)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, said
        assert code is None or done.returncode == code, said
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start and leave running; its output is piped."""
        return subprocess.Popen(
            self.argv(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=self.directory, env=self.environment,
        )  # fmt: skip

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def write(self, text: str, name: str = "compose.yaml") -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def apply(self, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.run("apply", "--yes", code=code)

    def containers(self, all: bool = False, **filters: str) -> list[dict[str, Any]]:
        """What `container ls` lists, by name."""
        words = [word for key, value in filters.items() for word in ("--filter", f"{key}={value}")]
        found: list[dict[str, Any]] = self.json("container", "ls", *(["--all"] if all else []), *words)
        return sorted(found, key=lambda item: str(item["name"]))

    @contextmanager
    def agent(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """An agent in the foreground, serving; ended by SIGTERM afterwards if the test has not done it."""
        log = self.directory.parent / "agent.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.argv("agent", *words), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=self.directory, env=self.environment,
            )  # fmt: skip
        try:
            wait_until(
                lambda: process.poll() is not None or self.agent_pid() == process.pid, "the agent serves its socket"
            )
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            assert "Traceback" not in log.read_text(), log.read_text()

    def agent_pid(self) -> int:
        from reconciler.agent.client import AgentClient

        return (
            int(AgentClient(self.layout.agent_socket).version()["pid"]) if is_serving(self.layout.agent_socket) else 0
        )


@contextmanager
def holdfast_root(path: Path) -> Iterator[Holdfast]:
    """A fresh root below `path` that holds a busybox image, and a directory for manifests beside it."""
    directory = path / "manifests"
    directory.mkdir(parents=True, exist_ok=True)
    with engine_with_busybox(path / "root") as engine:
        yield Holdfast(engine.layout, directory)
        stop_agent(engine.layout)


@contextmanager
def bare_root(path: Path) -> Iterator[Holdfast]:
    """A root as a new user has it: nothing in it."""
    directory = path / "manifests"
    directory.mkdir(parents=True, exist_ok=True)
    layout = Layout(str(path / "root"))
    try:
        yield Holdfast(layout, directory)
    finally:
        stop_agent(layout)
        if os.path.isdir(layout.root):
            demolish(layout)


def stop_agent(layout: Layout) -> None:
    subprocess.run([PROGRAM, "--root", layout.root, "agent", "--stop"], capture_output=True, check=False, timeout=60)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def fetch(url: str, deadline: float = 10.0) -> str:
    """The page, once the server answers with success; the last failure is raised when it never does."""
    end = time.monotonic() + deadline
    while True:
        try:
            with urllib.request.urlopen(url, timeout=3) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def wait_until(condition: Callable[[], Any], what: str, deadline: float = 20.0) -> Any:
    """The first true value of `condition`; fails when there is none within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {deadline:g} s: {what}"
        time.sleep(0.05)
    return found
