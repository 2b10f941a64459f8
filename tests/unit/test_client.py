"""Starting an agent in the background, and what its failure looks like."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from reconciler.agent.client import is_serving, start_background
from runtime.errors import Unavailable

SERVER = """
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("serving", flush=True)
time.sleep(60)
"""


def test_a_background_agent_outlives_the_caller_and_logs_to_its_file(tmp_path: Path) -> None:
    path, log = str(tmp_path / "agent.sock"), str(tmp_path / "run" / "agent.log")
    pid = start_background([sys.executable, "-c", SERVER, path], log, path)
    try:
        assert is_serving(path)
        assert os.getsid(pid) == pid
        assert Path(log).read_text() == "serving\n"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not is_serving(path)


def test_an_agent_that_dies_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"ended with code 3.*agent\.log"):
        start_background(
            [sys.executable, "-c", "raise SystemExit(3)"], str(tmp_path / "agent.log"), str(tmp_path / "s")
        )


def test_an_agent_that_never_serves_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    begun = time.monotonic()
    words = [sys.executable, "-c", "import os,time; print(os.getpid(), flush=True); time.sleep(60)"]
    with pytest.raises(Unavailable, match="does not serve"):
        start_background(words, str(tmp_path / "agent.log"), str(tmp_path / "s"), timeout=0.5)
    assert time.monotonic() - begun < 5
    pid = int((tmp_path / "agent.log").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot start the agent"):
        start_background([str(tmp_path / "nothing")], str(tmp_path / "agent.log"), str(tmp_path / "s"))
