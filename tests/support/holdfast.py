"""The real `holdfast` on a root of the test's own, as a user runs it: processes, exit codes, stdout and stderr."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.layout import Layout
from tests.support.roots import demolish

EXAMPLES = Path(__file__).resolve().parents[2] / "manifests" / "examples"


class Holdfast:
    def __init__(self, root: Path, **environment: str) -> None:
        self.layout = Layout(str(root))
        self.environment = {
            **os.environ,
            "HOLDFAST_ROOT": str(root),
            "NO_COLOR": "1",
            "SUITE": host_suite(),
            **environment,
        }
        self.environment.pop("HOLDFAST_TRACEBACK", None)

    def run(
        self, *words: str, stdin: str | None = None, timeout: float = 240.0, expect: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; `expect` is the exit code that it must have (None: any)."""
        done = subprocess.run(
            self.command(*words),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**self.environment, **environment},
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if expect is not None:
            assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Start and leave running; output is piped."""
        return subprocess.Popen(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, **environment},
        )

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "reconciler.cli.main", *words]

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def containers(self, **filters: str) -> list[dict[str, Any]]:
        words = [word for key, value in filters.items() for word in ("--filter", f"{key}={value}")]
        found: list[dict[str, Any]] = self.json("container", "ls", "-a", *words)
        return sorted(found, key=lambda item: str(item["name"]))

    def demolish(self) -> None:
        self.run("agent", "--stop", expect=None)
        if os.path.isdir(self.layout.root):
            demolish(self.layout)


def host_suite() -> str:
    """The release that this host runs: its packages are what the host's own sources offer."""
    with open("/etc/os-release", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VERSION_CODENAME="):
                return line.partition("=")[2].strip().strip('"')
    return "bookworm"


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


def wait_for(condition: Callable[[], Any], deadline: float = 20.0, what: str = "condition") -> Any:
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not within {deadline:g} s"
        time.sleep(0.05)
    return found
