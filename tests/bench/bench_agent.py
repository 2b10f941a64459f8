"""What the agent costs: its memory with nothing and with a busy root, and how soon a dead container runs again.

Run as `python -m tests.bench.bench_agent`; the engine is the one in memory, so the figures are the agent's own share.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from typing import Any

LIMIT_MB = 90.0
STACKS = 10
SERVICES = 20


def proportional_mb() -> float:
    """PSS of this process: shared pages counted by share."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    raise AssertionError("the kernel reports no PSS")


def measure() -> dict[str, float]:
    from reconciler.agent.client import AgentClient
    from reconciler.agent.daemon import Agent
    from reconciler.convergence import ConvergeOptions, converge
    from reconciler.generations import Generations
    from tests.support.desired import health, make_desired, make_service
    from tests.support.fake_engine import FakeEngine

    with tempfile.TemporaryDirectory() as root:
        engine = FakeEngine(now=time.time())
        records = Generations(f"{root}/state", engine.clock)
        agent = Agent(engine, f"{root}/state", f"{root}/agent.sock", [], load=_nothing, log=lambda line: None)
        agent.start()
        client = AgentClient(f"{root}/agent.sock")
        client.status()
        idle = proportional_mb()
        for number in range(STACKS):
            check = {"health": health(interval=1.0)}
            services = [make_service(f"s{index}", policy=check) for index in range(SERVICES)]
            desired = make_desired(*services, stack=f"stack{number}")
            converge(engine, records, desired, ConvergeOptions(timeout=30), clock=engine.clock)
        agent.loop.look()
        time.sleep(3.0)
        client.status()
        busy = proportional_mb()
        healed = [_heal(engine, f"stack{number % STACKS}/s1-1") for number in range(30)]
        agent.stop()
        records.close()
    return {
        "agent idle, MB PSS": round(idle, 1),
        f"agent with {STACKS * SERVICES} probed containers, MB PSS": round(busy, 1),
        "killed container runs again, agent's share, ms (median)": round(statistics.median(healed) * 1000, 1),
    }


def _heal(engine: object, name: str) -> float:
    from tests.support.fake_engine import FakeEngine

    assert isinstance(engine, FakeEngine)
    id = engine.container(name).id
    begun = time.monotonic()
    engine.exit(id, signal=9)
    while engine.container(id).status != "running":
        assert time.monotonic() - begun < 10, f"{name} was not started again"
        time.sleep(0.0005)
    return time.monotonic() - begun


def _nothing() -> Any:
    raise AssertionError("an agent without manifests loads none")


def main() -> int:
    figures = measure()
    print(json.dumps(figures, indent=2))
    worst = max(value for name, value in figures.items() if "MB" in name)
    return 0 if worst <= LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
