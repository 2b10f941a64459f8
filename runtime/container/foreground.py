"""Runs a container in the caller's foreground: its input, its output, its signals, its exit code."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from runtime.container.attach import proxy_terminal
from runtime.container.attended import attended
from runtime.container.lifecycle import Lifecycle
from runtime.container.store import ContainerRecord, OutputToCome
from runtime.errors import EngineError
from runtime.files import write_all
from runtime.supervise.logfile import read_log


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
    return 137 if run is None or run.exit_code is None else run.exit_code


def _follow_terminal(log: str, stdout: int, alive: Callable[[], bool]) -> None:
    from runtime.supervise.logfile import follow_raw

    for chunk in follow_raw(log, alive):
        write_all(stdout, chunk)


@contextmanager
def forwarded_signals(lifecycle: Lifecycle, id: str) -> Iterator[None]:
    """INT, TERM, HUP and QUIT go to the program while this holds, as a shell's job would get them."""

    def forward(number: int, _: FrameType | None) -> None:
        try:
            lifecycle.client.signal(id, number)
        except EngineError:
            raise KeyboardInterrupt from None  # not started yet, or gone already

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {
        number: signal.signal(number, forward)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
