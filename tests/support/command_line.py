"""Runs command lines in this process, on an engine of the test's choice, and catches what they print."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli import engine as cli_engine
from reconciler.cli.errors import run_command
from reconciler.cli.main import root as root_command
from tests.support.fake_engine import FakeEngine


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class CommandLine:
    """`run("container", "ls")` is `holdfast container ls` on a fake engine and a state root of its own."""

    def __init__(self, directory: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = FakeEngine()
        self.root = directory / "root"
        self.directory = directory
        self._capfd = capfd
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(cli_engine, "open_engine", lambda root, run_base="": self.engine)
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.delenv("HOLDFAST_TRACEBACK", raising=False)
        monkeypatch.delenv("COMPOSE_PROFILES", raising=False)
        monkeypatch.chdir(directory)

    def run(self, *words: str, stdin: str = "") -> Ended:
        self._monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        self._capfd.readouterr()
        code = run_command(root_command, ["--root", str(self.root), *words])
        out, err = self._capfd.readouterr()
        return Ended(code, out, err)

    def ok(self, *words: str, stdin: str = "") -> Ended:
        ended = self.run(*words, stdin=stdin)
        assert ended.code == 0, ended.out + ended.err
        return ended

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path
