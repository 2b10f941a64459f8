"""The names process as the engine sees it: started through the keeper, waited for, found dead, stopped."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from importlib.util import find_spec
from typing import Protocol

from runtime.files import read_json, remove_file
from runtime.network.records import Records

PROGRAM = "import sys; sys.path[:0] = sys.argv[1:3]; from runtime.network.names import main; main(*sys.argv[3:])"
PATIENCE = 3.0


class NamesRunner(Protocol):
    """The part of the supervisor's client that keeps the process running."""

    def names(self, argv: list[str] | None) -> None: ...


class NamesProcess:
    """It says in a file which addresses it serves; that file, with its pid, is all there is to ask."""

    def __init__(self, records: Records, runner: NamesRunner, resolv: str) -> None:
        self.zone = records.layout.zone
        self.run_containers = records.layout.run_containers
        self.runner = runner
        self.resolv = resolv
        self.state = f"{records.run}/serving.json"

    def command(self) -> list[str]:
        """Isolated and without site-packages, which keeps the process at a third of the memory."""
        spec = find_spec("dnslib")
        assert spec is not None and spec.origin is not None
        ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        theirs = os.path.dirname(os.path.dirname(spec.origin))
        paths = [ours, theirs, self.zone, self.run_containers, self.state, self.resolv]
        return [sys.executable, "-I", "-S", "-c", PROGRAM, *paths]

    def start(self) -> None:
        if self._pid_runs():
            return
        remove_file(self.state)
        self.runner.names(self.command())

    def stop(self) -> None:
        self.runner.names(None)
        for path in (self.state, f"{self.state}.lock"):
            remove_file(path)

    def has_died(self) -> bool:
        """It served, and is gone."""
        return os.path.exists(self.state) and not self._pid_runs()

    def wait(self, addresses: Collection[str]) -> None:
        """A program's first question must not come before the answers. Normally one read of a file on tmpfs."""
        begun = time.monotonic()
        while True:
            serving = read_json(self.state) or {"serving": [], "failed": {}}
            waited = time.monotonic() - begun
            # What cannot be bound, because another name server sits on every address, is not waited for as long.
            known = {*serving["serving"], *(serving["failed"] if waited > 1.0 else ())}
            if known.issuperset(addresses) or waited > PATIENCE:
                return
            time.sleep(0.003)

    def _pid_runs(self) -> bool:
        """The process is there and is ours: pids are used again."""
        serving = read_json(self.state)
        if not serving:
            return False
        try:
            with open(f"/proc/{serving['pid']}/cmdline", "rb") as file:
                return self.zone.encode() in file.read().split(b"\0")
        except OSError:
            return False
