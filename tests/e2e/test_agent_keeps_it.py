"""The agent: heals what breaks, respects what people mean, and can come and go without a container noticing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.holdfast import Holdfast, holdfast_root, wait_until
from tests.support.roots import processes_of

pytestmark = pytest.mark.root

STACK = """
name: stack
services:
  web:
    image: busybox
    command: ["sh", "-c", "while :; do nc -l -p 80 -e cat; done"]
    stop_grace_period: 0s
    restart: always
    mem_limit: 64m
    ports: ["127.0.0.1:%d:80"]
    volumes: ["data:/data"]
volumes:
  data: {}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def holdfast(tmp_path: Path) -> Iterator[Holdfast]:
    with holdfast_root(tmp_path) as holdfast:
        yield holdfast


def pid_of(holdfast: Holdfast, name: str = "stack/web-1") -> int:
    return next((int(one["pid"]) for one in holdfast.containers() if one["name"] == name), 0)


def test_a_container_killed_from_outside_runs_again(holdfast: Holdfast) -> None:
    holdfast.write(STACK % free_port())
    holdfast.apply()
    with holdfast.agent():
        pid = pid_of(holdfast)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid_of(holdfast) not in (0, pid), "the container runs again")


def test_a_container_removed_by_force_comes_back(holdfast: Holdfast) -> None:
    holdfast.write(STACK % free_port())
    holdfast.apply()
    with holdfast.agent("--interval", "1s"):
        pid = pid_of(holdfast)
        holdfast.run("container", "rm", "-f", "stack/web-1")
        wait_until(lambda: pid_of(holdfast) not in (0, pid), "the container is back")


def test_a_stop_by_hand_is_not_fought(holdfast: Holdfast) -> None:
    holdfast.write(STACK % free_port())
    holdfast.apply()
    with holdfast.agent("--interval", "1s"):
        holdfast.run("container", "stop", "stack/web-1")
        time.sleep(3)
        assert pid_of(holdfast) == 0
        assert "stop" in holdfast.run("status", "stack").stdout
        holdfast.run("container", "start", "stack/web-1")
        assert pid_of(holdfast) != 0


def test_damage_to_bridge_rules_limits_and_volume_is_repaired(holdfast: Holdfast) -> None:
    port = free_port()
    holdfast.write(STACK % port)
    holdfast.apply()
    assert echo(port) == b"hello\n"
    bridge = next(
        name for name in os.listdir("/sys/class/net")
        if name.startswith(holdfast.layout.link_prefix) and os.path.isdir(f"/sys/class/net/{name}/bridge")
    )  # fmt: skip
    pid = pid_of(holdfast)
    with holdfast.agent("--interval", "1s") as _:
        subprocess.run(["nft", "delete", "table", "inet", holdfast.layout.table], check=True)
        subprocess.run(["ip", "link", "delete", bridge], check=True)
        wait_until(lambda: echo(port) == b"hello\n", "traffic flows again through the new bridge and rules")
        volume = Path(holdfast.layout.volumes, "stack_data", "_data")
        shutil.rmtree(volume)
        wait_until(volume.is_dir, "the volume's directory is made anew")
        events = holdfast.run("events").stdout
        assert "stack_data" in events or "volume/data" in events, events
    del pid


def echo(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"hello\n")
            return connection.recv(100)
    except OSError:
        return b""


def test_an_open_connection_survives_the_agents_death_and_its_successor(holdfast: Holdfast) -> None:
    port = free_port()
    holdfast.write(STACK % port)
    holdfast.apply()
    pid = pid_of(holdfast)
    with holdfast.agent() as agent, socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"one\n")
        assert connection.recv(100) == b"one\n"
        agent.kill()
        agent.wait()
        connection.sendall(b"two\n")
        assert connection.recv(100) == b"two\n"
        with holdfast.agent():
            connection.sendall(b"three\n")
            assert connection.recv(100) == b"three\n"
            for victim in processes_of(holdfast.layout):
                with contextlib.suppress(ProcessLookupError):  # the spare child goes with its supervisor
                    os.kill(victim, signal.SIGKILL)
                time.sleep(0.3)
                connection.sendall(b"four\n")
                assert connection.recv(100) == b"four\n"
            assert pid_of(holdfast) == pid


def test_after_a_boot_everything_comes_back_in_order(holdfast: Holdfast) -> None:
    holdfast.write(
        """
name: stack
services:
  db:
    image: busybox
    command: ["sh", "-c", "sleep 0.5; touch /tmp/ready; sleep 100000"]
    stop_grace_period: 0s
    healthcheck: {test: ["CMD", "test", "-e", "/tmp/ready"], interval: 1s, retries: 20}
  web:
    image: busybox
    command: ["sleep", "100000"]
    stop_grace_period: 0s
    depends_on: {db: {condition: service_healthy}}
"""
    )
    holdfast.apply()
    lose_power(holdfast)
    assert holdfast.containers() == []
    with holdfast.agent():
        wait_until(lambda: len(holdfast.containers()) == 2, "both services run")
        started = {one["name"]: one["created"] for one in holdfast.containers()}
        assert started["stack/db-1"] <= started["stack/web-1"]


def lose_power(holdfast: Holdfast) -> None:
    """What a power cut does to us: every process, link and rule is gone, and all of /run; only the disk stays."""
    for one in holdfast.containers():
        os.kill(int(one["pid"]), signal.SIGKILL)
    for _ in range(20):
        for pid in processes_of(holdfast.layout):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    subprocess.run(["nft", "delete", "table", "inet", holdfast.layout.table], check=False)
    for name in os.listdir("/sys/class/net"):
        if name.startswith(holdfast.layout.link_prefix):
            subprocess.run(["ip", "link", "delete", name], check=False)
    shutil.rmtree(holdfast.layout.run)


def test_a_changed_file_converges_without_a_command(holdfast: Holdfast) -> None:
    file = holdfast.write(STACK % free_port())
    with holdfast.agent("-f", str(holdfast.directory)):
        wait_until(lambda: pid_of(holdfast) != 0, "the stack runs")
        file.write_text(
            file.read_text().replace("  web:", "  web2:\n    image: busybox\n    command: [sleep, '9999']\n  web:")
        )
        wait_until(lambda: pid_of(holdfast, "stack/web2-1") != 0, "the new service runs")
        file.write_text("services: [broken")
        time.sleep(2)
        assert pid_of(holdfast) != 0, "a broken source stopped what ran"


def test_the_agent_stops_at_sigterm_and_leaves_the_containers(holdfast: Holdfast) -> None:
    holdfast.write(STACK % free_port())
    holdfast.apply()
    pid = pid_of(holdfast)
    with holdfast.agent() as agent:
        done = threading.Event()
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(15) == 0 and not done.is_set()
    assert pid_of(holdfast) == pid


def test_a_container_that_is_to_go_when_it_ends_goes_although_nobody_waits(holdfast: Holdfast) -> None:
    def records() -> list[str]:
        return os.listdir(holdfast.layout.containers)

    run = ("container", "run", "--detach", "--rm", "--name", "brief", "busybox", "sleep")
    holdfast.run(*run, "0.1")
    time.sleep(0.5)
    assert holdfast.containers(all=True) == [] and records() == []
    with holdfast.agent("--interval", "1h"):
        holdfast.run(*run, "0.3")
        wait_until(lambda: records() == [], "the agent removes it at its end", 5.0)
        assert (
            holdfast.run("container", "run", "--rm", "busybox", "sh", "-c", "echo seen; exit 3", code=3).stdout
            == "seen\n"
        )
    assert records() == []
