"""Runs a container in the caller's foreground: its input, its output, its signals, its exit code."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from runtime.container.attach import proxy_terminal
from runtime.container.attended import attended
from runtime.container.lifecycle import Lifecycle
from runtime.container.store import ContainerRecord, OutputToCome
from runtime.errors import EngineError
from runtime.files import write_all
from runtime.supervise.logfile import read_log

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
LOST = 125
"""Nobody could read how the program ended."""


def run_foreground(lifecycle: Lifecycle, record: ContainerRecord, stdio: tuple[int, int, int]) -> int:
    """Start, follow the log to the caller's stdout and stderr, and return the exit code (128+n by signal)."""
    id, spec = record.id, record.spec
    log = f"{lifecycle.layout.container(id)}/log"
    with attended(lifecycle.layout, id), forwarded_signals(lifecycle, id):
        lifecycle.start(id, "fd" if spec.stdin_open else "null", stdio if spec.stdin_open else None)

        alive = OutputToCome(lifecycle.store, id)
        if spec.tty:
            master = lifecycle.client.attach(id)
            follower = threading.Thread(target=_follow_terminal, args=(log, stdio[1], alive), daemon=True)
            follower.start()
            try:
                if spec.stdin_open:
                    proxy_terminal(master, stdio[0], None, lambda: not alive())
                follower.join()
            finally:
                os.close(master)
        else:
            for _, stream, line in read_log(log, True, 0.0, 0.0, -1, alive):
                write_all(stdio[1] if stream == 1 else stdio[2], line + b"\n")
        run = lifecycle.wait(id, None)
    return LOST if run is None or run.exit_code is None else run.exit_code


def _follow_terminal(log: str, stdout: int, alive: Callable[[], bool]) -> None:
    from runtime.supervise.logfile import follow_raw

    for chunk in follow_raw(log, alive):
        write_all(stdout, chunk)


@contextmanager
def forwarded_signals(lifecycle: Lifecycle, id: str) -> Iterator[None]:
    """Signals that reach us go to the program while this holds, as a shell's job would get them."""

    def send(number: int) -> None:
        # Not started yet, or gone already: the foreground finds out by itself.
        with suppress(EngineError):
            lifecycle.client.signal(id, number)

    def forward(number: int, _: FrameType | None) -> None:
        # From a thread: a handler may interrupt anything, the client included.
        threading.Thread(target=send, args=(number,), daemon=True).start()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
