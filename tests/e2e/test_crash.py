"""kill -9 at random instants of apply and destroy: the next apply converges, and nothing of ours is left over."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.layout import Layout
from tests.support.leftovers import find_leftovers
from tests.support.roots import engine_with_busybox, processes_of

pytestmark = pytest.mark.root

HOLDFAST = str(Path(sys.executable).parent / "holdfast")
STACK = """
name: crash
services:
  db:
    image: busybox
    command: ["sleep", "100000"]
    stop_grace_period: 0s
    volumes: ["data:/data"]
    healthcheck: {test: ["CMD", "true"], interval: 1s}
  web:
    image: busybox
    command: ["sleep", "100000"]
    stop_grace_period: 0s
    depends_on: {db: {condition: service_healthy}}
    deploy: {replicas: 3}
    networks: [front, default]
    ports: ["127.0.0.1:%(port)d:80"]
networks:
  front: {}
volumes:
  data: {}
"""


class Scene:
    """One root with one stack, and the means to hurt it."""

    def __init__(self, layout: Layout, directory: Path) -> None:
        self.layout = layout
        self.file = directory / "compose.yaml"
        self.file.write_text(STACK % {"port": random.randint(20000, 30000)})

    def argv(self, *arguments: str) -> list[str]:
        return [HOLDFAST, "--root", self.layout.root, *arguments]

    def apply(self) -> list[str]:
        return self.argv("apply", "--yes", "-f", str(self.file))

    def destroy(self) -> list[str]:
        return self.argv("destroy", "--yes", "--volumes", "crash")

    def run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    def converges(self) -> None:
        """One apply, or a second where the first met the ruins of a dying process."""
        done = self.run(self.apply())
        assert done.returncode == 0, done.stdout + done.stderr
        plan = self.run(self.argv("plan", "-f", str(self.file)))
        assert plan.returncode == 0, "a second plan is not empty:\n" + plan.stdout + plan.stderr
        names = self.run(self.argv("container", "ls", "--quiet")).stdout.split()
        assert len(names) == 4, names

    def pid_of(self, role: str) -> int:
        """The keeper, the supervisor or the names process of this root; 0 when it does not run."""
        for pid in processes_of(self.layout):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            found = "names" if b"names" in line else "supervisor" if parent in processes_of(self.layout) else "keeper"
            if found == role:
                return pid
        return 0

    def hurt(self, argv: list[str], victims: list[str], delay: float) -> None:
        """Begin `argv`, and after `delay` seconds kill -9 the victims, the command itself ("cli") among them."""
        command = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        for victim in victims:
            try:
                pid = command.pid if victim == "cli" else self.pid_of(victim)
                if pid:
                    os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, FileNotFoundError):
                continue
        command.wait(60)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    path = tmp_path_factory.mktemp("crash")
    with engine_with_busybox(path / "root") as engine:
        yield Scene(engine.layout, path)


VICTIMS = (["cli"], ["supervisor"], ["keeper"], ["cli", "supervisor", "keeper"], ["names"], ["cli", "keeper"])
INSTANTS = 240 if os.environ.get("HOLDFAST_LONG") == "1" else 12


@pytest.mark.timeout(3600)
def test_a_kill_at_any_instant_is_mended_by_the_next_apply(scene: Scene) -> None:
    seed = int(os.environ.get("HOLDFAST_SEED", time.time_ns() % 1_000_000))
    dice = random.Random(seed)
    print(f"HOLDFAST_SEED={seed}")
    began = time.monotonic()
    scene.converges()
    length = max(0.3, min(2.0, time.monotonic() - began))
    for number in range(INSTANTS):
        victims = VICTIMS[number % len(VICTIMS)]
        if number % 2:
            scene.run(scene.destroy())
        scene.hurt(scene.destroy() if number % 2 == 0 else scene.apply(), victims, dice.uniform(0.0, length))
        scene.converges()
    done = scene.run(scene.destroy())
    assert done.returncode == 0, done.stdout + done.stderr
    deadline = time.monotonic() + 10
    while (left := find_leftovers([scene.layout])) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, left
    for directory in ("ingest", "trash", "containers"):
        assert os.listdir(f"{scene.layout.root}/{directory}") == [], directory
    assert os.listdir(scene.layout.run_containers) == []
