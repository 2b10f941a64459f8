"""One container with network, start to known exit code, cleaned up: our engine and command beside the peers'.

python -m tests.bench.bench_containers [ROUNDS]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from runtime import api
from runtime.engine import Engine
from tests.bench import peers
from tests.bench.measure import interleave, ratio, report, summary
from tests.support.roots import engine_with_busybox


def run_once(engine: Engine, number: list[int]) -> None:
    number[0] += 1
    spec = api.ContainerSpec(
        name=f"bench-{number[0]}", image="busybox", command=("/bin/true",),  # joins the root's default bridge
        resources=api.Resources(memory=64 << 20, pids=64, cpus=0.5),
    )  # fmt: skip
    id = engine.create_container(spec)
    engine.start_container(id)
    run = engine.wait_container(id, 10)
    engine.remove_container(id)
    if run is None or run.exit_code != 0:
        raise RuntimeError(f"the container ended with {run}")


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as directory:
        base = Path(directory)
        others = peers.available(base, peers.make_rootfs(base / "rootfs"))
        try:
            with engine_with_busybox(base / "root") as engine:
                holdfast = str(Path(sys.executable).parent / "holdfast")
                command = [holdfast, "--root", str(base / "root"), "container", "run", "--rm", "busybox", "/bin/true"]
                number = [0]
                variants = {
                    "engine call": lambda: run_once(engine, number),
                    "holdfast container run --rm": lambda: subprocess.run(command, check=True) and None,
                    **{peer.name: peer.run_once for peer in others},
                }
                times = interleave(variants, rounds)
        finally:
            for peer in others:
                peer.close()
    ours, whole = times["engine call"], times["holdfast container run --rm"]
    report(
        "containers",
        {
            "figures": {name: summary(values) for name, values in times.items()},
            "engine call is so many times faster than": {peer.name: ratio(ours, times[peer.name]) for peer in others},
            "whole command is so many times faster than": {
                peer.name: ratio(whole, times[peer.name]) for peer in others
            },
            "note": "crun sets up no network, overlay, seccomp filter, limits or log",
        },
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
