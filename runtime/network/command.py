"""The command line of the names process."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

PROGRAM = "import sys; sys.path[:0] = sys.argv[1:3]; from runtime.network.names import main; main(*sys.argv[3:])"


def names_command(zone: str, run_containers: str, state: str, resolv: str = "/etc/resolv.conf") -> list[str]:
    """Isolated and without site-packages, which keeps the process at a third of the memory."""
    spec = find_spec("dnslib")
    assert spec is not None and spec.origin is not None
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    theirs = os.path.dirname(os.path.dirname(spec.origin))
    return [sys.executable, "-I", "-S", "-c", PROGRAM, ours, theirs, zone, run_containers, state, resolv]
