"""Memory of keeper, supervisor and names while many idle containers run.

python -m tests.bench.bench_memory [CONTAINERS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from runtime import api
from tests.bench.measure import proportional_memory, report
from tests.support.roots import engine_with_busybox, processes_of


def main(containers: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as directory,
        engine_with_busybox(Path(directory) / "root") as engine,
    ):
        network = engine.networks.ensure_default().name
        began = time.perf_counter()
        for number in range(containers):
            spec = api.ContainerSpec(
                name=f"idle-{number}", image="busybox", command=("sleep", "100000"), networks=(api.Attachment(network),)
            )
            engine.start_container(engine.create_container(spec))
        started = time.perf_counter() - began
        time.sleep(2)
        memory: dict[str, int] = {}
        for pid in processes_of(engine.layout):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            kind = "names" if "names" in line else "keeper and supervisor"
            memory[kind] = memory.get(kind, 0) + proportional_memory(pid)
    report(
        "memory",
        {
            "containers": containers,
            "started_in_s": round(started, 2),
            "pss_mb": {kind: round(size / 1e6, 2) for kind, size in memory.items()},
        },
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
