"""Fifty services with network from one compose file: the whole `apply`, and the apply that finds nothing to do.

python -m tests.bench.bench_stack [SERVICES] [ROUNDS]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tests.bench import peers
from tests.bench.measure import interleave, ratio, report, summary
from tests.support.roots import engine_with_busybox


def compose_file(services: int, image: str) -> str:
    """Plain Compose that both sides read."""
    service = {"image": image, "command": ["/bin/sleep", "100000"], "stop_grace_period": "0s", "init": False}
    return yaml.safe_dump({"version": "3.8", "services": {f"s{n:03}": service for n in range(services)}})


def main(services: int, rounds: int) -> None:
    figures: dict[str, list[float]] = {"apply": [], "docker-compose up -d": []}
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as directory:
        base = Path(directory)
        docker = peers.Docker(base / "dockerd", peers.make_rootfs(base / "rootfs"))
        try:
            with engine_with_busybox(base / "root") as engine:
                engine.tag_image("busybox", "bench")
                stack = base / "stack"
                stack.mkdir()
                file = stack / "compose.yaml"
                file.write_text(compose_file(services, "bench"))
                holdfast = [str(Path(sys.executable).parent / "holdfast"), "--root", str(base / "root")]
                apply = [*holdfast, "apply", "--yes", "-f", str(file)]
                destroy = [*holdfast, "destroy", "--yes", "stack"]
                for _ in range(rounds):
                    for name, up, down in (
                        ("apply", lambda: run(apply), lambda: run(destroy)),
                        ("docker-compose up -d", lambda: docker.compose(file, "up", "-d"),
                         lambda: docker.compose(file, "down", "-t", "0")),
                    ):  # fmt: skip
                        began = time.perf_counter()
                        up()
                        figures[name].append(time.perf_counter() - began)
                        if len(figures[name]) < rounds:
                            down()
                again = interleave(
                    {
                        "apply again": lambda: run(apply),
                        "docker-compose up -d again": lambda: docker.compose(file, "up", "-d"),
                    },
                    max(5, rounds),
                )
                run(destroy)
                docker.compose(file, "down", "-t", "0")
        finally:
            docker.close()
    report(
        "stack",
        {
            "services": services,
            "figures": {name: summary(values) for name, values in {**figures, **again}.items()},
            "apply is so many times faster": ratio(figures["apply"], figures["docker-compose up -d"]),
            "apply again is so many times faster": ratio(again["apply again"], again["docker-compose up -d again"]),
        },
    )


def run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
