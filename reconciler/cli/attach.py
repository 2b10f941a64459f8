"""Runs a container in the foreground: its output on ours, our signals on it, its exit code as ours."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.api import Engine, Run

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def exit_code_of(run: Run | None) -> int:
    """As a shell would see it: 128 + signal for a killed program; 125 when nobody could read the status."""
    if run is None:
        return 125
    if run.exit_code is not None and not run.signal:
        return run.exit_code
    if run.signal:
        return 128 + run.signal
    return 125


def run_in_foreground(engine: Engine, id: str, *, interactive: bool = False, tty: bool = False) -> int:
    """Start `id` and stay with it until it ends."""
    if interactive or tty:
        return engine.start_attached(id, (0, 1, 2))
    with forwarded_signals(engine, id):
        engine.start_container(id)
        return follow_to_the_end(engine, id)


def follow_to_the_end(engine: Engine, id: str) -> int:
    """Copy output until the program ends; two streams stay two streams."""
    for line in engine.logs(id, follow=True):
        write_all(2 if line.stream == "stderr" else 1, line.data + b"\n")
    return exit_code_of(engine.wait_container(id))


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextmanager
def forwarded_signals(engine: Engine, id: str) -> Iterator[None]:
    """Signals that reach us go to the program. The engine is called from a thread: a handler may interrupt anything."""

    def forward(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        threading.Thread(target=_send, args=(engine, id, name), daemon=True).start()

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(engine: Engine, id: str, name: str) -> None:
    from runtime.errors import EngineError

    try:
        engine.kill_container(id, name)
    except EngineError:
        # It has ended meanwhile, or has not begun: the foreground finds out by itself.
        return
