"""How long a container killed from outside is away under the agent, and the agent's memory meanwhile.

python -m tests.bench.bench_heal [ROUNDS]
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.measure import proportional_memory, report, summary
from tests.support.holdfast import Holdfast, holdfast_root, wait_until

STACK = """
name: stack
services:
  web: {image: busybox, command: [sleep, "100000"], restart: always, stop_grace_period: 0s}
"""


def running_pid(holdfast: Holdfast, other: int) -> int:
    """Read from the run directory: a command would take longer than what it measures."""
    import json

    for name in os.listdir(holdfast.layout.run_containers):
        try:
            meta = json.loads(Path(holdfast.layout.run_containers, name, "meta").read_text())
        except (OSError, ValueError):
            continue
        gone = Path(holdfast.layout.run_containers, name, "exit").exists()
        if not gone and meta["pid"] != other:
            return int(meta["pid"])
    return 0


def main(rounds: int) -> None:
    away = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as directory,
        holdfast_root(Path(directory)) as holdfast,
    ):
        holdfast.write(STACK)
        holdfast.apply()
        with holdfast.agent() as agent:
            time.sleep(3)
            pid = running_pid(holdfast, 0)
            for _ in range(rounds):
                # A run of over ten seconds counts as a good one: the next start has no back-off.
                time.sleep(11)
                os.kill(pid, signal.SIGKILL)
                began = time.perf_counter()
                wait_until(lambda pid=pid: running_pid(holdfast, pid) != 0, "it runs again")  # type: ignore[misc]
                away.append(time.perf_counter() - began)
                pid = running_pid(holdfast, pid)
            memory = proportional_memory(agent.pid)
    report("heal", {"killed container runs again": summary(away), "agent_pss_mb": round(memory / 1e6, 1)})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
