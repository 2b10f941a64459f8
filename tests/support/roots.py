"""State roots of tests: made in a temporary directory, taken down with everything that runs on them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.container.store import process_start_time
from runtime.engine import Engine
from runtime.errors import EngineError
from runtime.layout import Layout
from tests.support.images import busybox_image


@contextmanager
def state_root(path: Path) -> Iterator[Layout]:
    """A layout whose every container, network and process is gone afterwards."""
    layout = Layout(str(path))
    try:
        yield layout
    finally:
        demolish(layout)


@contextmanager
def engine_with_busybox(path: Path) -> Iterator[Engine]:
    with state_root(path) as layout:
        engine = Engine(layout)
        busybox_image(engine.images)
        try:
            yield engine
        finally:
            engine.close()


def demolish(layout: Layout) -> None:
    """Remove all that runs on a root, then end its keeper and supervisor. Raises when something does not go."""
    engine = Engine(layout)
    try:
        for record in engine.store.all():
            engine.remove_container(record.id, force=True)
        for network in engine.networks.list():
            engine.remove_network(network.name)
        engine.collect_garbage()
    finally:
        engine.close()
    deadline = time.monotonic() + 10
    while (pids := processes_of(layout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(layout.run, ignore_errors=True)
    shutil.rmtree(layout.root, ignore_errors=True)
    if pids:
        raise EngineError(f"cannot take down root {layout.root}: processes {pids} stayed")


def processes_of(layout: Layout) -> list[int]:
    """Processes whose command line names this root's run directory: keeper, supervisor, names."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if layout.run.encode() in line and int(name) != os.getpid() and process_start_time(int(name)):
            found.append(int(name))
    return found
