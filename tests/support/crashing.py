"""A root to hurt: commands begun on it and killed at random instants, with those that serve it or without."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runtime.layout import Layout
from tests.support.leftovers import find_leftovers
from tests.support.roots import processes_of

HOLDFAST = str(Path(sys.executable).parent / "holdfast")
STACK = """
name: crash
services:
  db:
    image: busybox
    command: ["sleep", "100000"]
    stop_grace_period: 0s
    volumes: ["data:/data"]
    healthcheck: {test: ["CMD", "true"], interval: 200ms}
  web:
    image: %(image)s
    command: ["httpd", "-f", "-p", "80", "-h", "/etc"]
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
TEMPORARY = re.compile(r"^\.tmp|\.new$|\.[0-9]+$|\.[0-9]+\.[0-9a-f]{6,8}$")


class Scene:
    """One root with one stack. `kills` counts the processes that were killed."""

    def __init__(self, layout: Layout, directory: Path) -> None:
        self.layout = layout
        self.directory = directory
        self.file = directory / "compose.yaml"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.file.write_text(STACK % {"port": self.port, "image": "busybox"})
        self.kills = 0
        self.agent: subprocess.Popen[bytes] | None = None

    # ---- commands

    def argv(self, *arguments: str) -> list[str]:
        return [HOLDFAST, "--root", self.layout.root, *arguments]

    def apply(self) -> list[str]:
        return self.argv("apply", "--yes", "-f", str(self.file))

    def destroy(self) -> list[str]:
        return self.argv("destroy", "--yes", "--volumes", "crash")

    def run(self, argv: list[str], code: int | None = 0) -> str:
        """To its end: what it printed. A traceback fails, and so does any exit code but `code` (None: any)."""
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        said = f"{' '.join(argv[3:])}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr and code in (None, done.returncode), said
        return done.stdout

    def start_agent(self) -> None:
        log = self.directory / "agent.log"
        with log.open("ab") as output:
            self.agent = subprocess.Popen(self.argv("agent"), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.until(lambda: "keeps" in log.read_text().rpartition(f"agent {self.agent_pid()} ")[2], "the agent serves")

    def stop_agent(self) -> None:
        if self.agent is not None:
            self.agent.send_signal(signal.SIGTERM)
            self.agent.wait(30)
            self.agent = None
        log = self.directory / "agent.log"
        assert not log.exists() or "Traceback" not in log.read_text(), log.read_text()

    def agent_pid(self) -> int:
        return self.agent.pid if self.agent else 0

    # ---- harm

    def pid_of(self, role: str) -> int:
        """The keeper, the supervisor or the names process of this root; 0 when it does not run."""
        ours = processes_of(self.layout)
        for pid in ours:
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            found = "names" if b"names" in line else "supervisor" if parent in ours else "keeper"
            if found == role:
                return pid
        return 0

    def hurt(self, argv: list[str], victims: Sequence[str], delay: float) -> None:
        """Begin `argv`, and after `delay` seconds kill -9 the victims, the command itself ("cli") among them."""
        with (self.directory / "hurt.log").open("ab") as log:
            command = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        time.sleep(delay)
        for victim in victims:
            pid = {"cli": command.pid, "agent": self.agent_pid()}.get(victim) or self.pid_of(victim)
            try:
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    self.kills += 1
            except ProcessLookupError:
                continue
            if victim == "agent" and self.agent is not None:
                self.agent.wait()
                self.agent = None
        command.wait(120)
        assert b"Traceback" not in (self.directory / "hurt.log").read_bytes(), (self.directory / "hurt.log").read_text()

    def lose_power(self) -> None:
        """What a power cut does to us: every process, link and rule is gone, and all of /run; only the disk stays."""
        killed = set()
        for _ in range(20):
            mine = [line.split()[1] for line in find_leftovers([self.layout]) if line.startswith("process ")]
            for pid in mine:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                    killed.add(pid)
                except ProcessLookupError:
                    continue
            time.sleep(0.02)
        self.kills += len(killed)
        subprocess.run(["nft", "delete", "table", "inet", self.layout.table], capture_output=True, check=False)
        for name in os.listdir("/sys/class/net"):
            if name.startswith(self.layout.link_prefix):
                subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)
        shutil.rmtree(self.layout.run)

    # ---- what must hold

    def converges(self) -> None:
        """One apply does it; a second plan is empty, every container is there once, and the published port answers."""
        self.run(self.apply())
        self.run(self.argv("plan", "-f", str(self.file)))
        self.is_whole()

    def settles(self) -> None:
        """The agent does by itself what is left to do, if the request ever reached it."""
        found = json.loads(self.run(self.argv("status", "--json"), code=None))
        if not any(stack["stack"] == "crash" and not stack["intent"].startswith("destroyed") for stack in found):
            return

        def settled() -> bool:
            done = subprocess.run(self.argv("plan", "-f", str(self.file)), capture_output=True, timeout=60, check=False)
            return done.returncode == 0

        self.until(settled, "the agent settles")
        self.is_whole()

    def is_whole(self) -> None:
        names = sorted(one["name"] for one in json.loads(self.run(self.argv("container", "ls", "--json"))))
        assert names == ["crash/db-1", "crash/web-1", "crash/web-2", "crash/web-3"], names
        self.until(self._answers, "the published port answers")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
                connection.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")
                return b"200 OK" in connection.recv(100)
        except OSError:
            return False

    def is_clean(self) -> None:
        """Nothing of ours is left but the root's own directories, its images and its records."""
        left: list[str] = []

        def clean() -> bool:
            left[:] = [*find_leftovers([self.layout]), *self._files()]
            return not left

        self.until(clean, f"nothing is left: {left}", lambda: "\n".join(left))

    def _files(self) -> list[str]:
        layout, found = self.layout, []
        for directory in (
            f"{layout.root}/ingest", f"{layout.root}/trash", layout.containers, layout.volumes, layout.networks,
            layout.run_containers, layout.zone, layout.run_secrets,
            *(f"{layout.run}/network/{name}" for name in ("attached", "groups", "ports")),
        ):  # fmt: skip
            if os.path.isdir(directory):
                found += [f"{directory}/{name}" for name in os.listdir(directory)]
        if os.path.isdir(f"{layout.run}/network"):
            found += [
                f"{layout.run}/network/{name}"
                for name in os.listdir(f"{layout.run}/network")
                if name.startswith(("claims-", "holds-"))
            ]
        for base in (layout.root, layout.run):
            for folder, _, files in os.walk(base):
                found += [f"{folder}/{name}" for name in files if TEMPORARY.search(name)]
        return found

    def until(self, condition: object, what: str, detail: object = None) -> None:
        assert callable(condition)
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, f"not within 20 s: {what} {detail() if callable(detail) else ''}"
            time.sleep(0.05)


class Dice(random.Random):
    """Random instants that can be had again: HOLDFAST_SEED."""

    def __init__(self) -> None:
        self.seed_number = int(os.environ.get("HOLDFAST_SEED", time.time_ns() % 1_000_000))
        super().__init__(self.seed_number)
        print(f"HOLDFAST_SEED={self.seed_number}")
