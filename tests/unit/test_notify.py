"""systemd hears what it listens for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from reconciler.notify import notify, watchdog_interval


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_reaches_the_named_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"holdfast-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name if abstract else name)
        receiver.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        assert notify("READY=1\nSTATUS=up")
        assert receiver.recv(100) == b"READY=1\nSTATUS=up"


@pytest.mark.parametrize("value", ["", "relative", "/does/not/exist"])
def test_nobody_listening_is_no_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", value)
    assert not notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [("4000000", None, 2.0), ("4000000", "self", 2.0), ("4000000", "1", 0.0), ("no", None, 0.0), ("0", None, 0.0)],
)
def test_the_watchdog_is_fed_at_half_its_limit_and_only_by_the_process_it_watches(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, expected: float
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "self" else pid)
    assert watchdog_interval() == expected
