"""Start to known exit code to cleaned up, through the supervisor, with network: one JSON object on stdout.

python -m tests.bench.bench_launch [ROUNDS]
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from runtime import netlink
from tests.support.bare import BareContainers

PAUSE = 0.1


class Rounds:
    """Containers on a bridge of their own; every id and link name is used once, as the engine does."""

    def __init__(self, bare: BareContainers) -> None:
        self.bare = bare
        self.number = 0
        self.bridge = f"{bare.layout.link_prefix}b0"
        with netlink.NetlinkSocket() as links:
            links.request(netlink.bridge_message(self.bridge))
            links.request(netlink.address_message(socket.if_nametoindex(self.bridge), "10.231.0.1/16"))

    def close(self) -> None:
        with netlink.NetlinkSocket() as links:
            links.request(netlink.delete_message(self.bridge))

    def prepare(self, argv: list[str], *, network: bool = True) -> str:
        self.number += 1
        number = self.number
        interface = {
            "ifname": "eth0", "host_ifname": f"{self.bare.layout.link_prefix}{number:x}", "bridge": self.bridge,
            "mac": "", "mtu": 1500, "addresses": [f"10.231.{1 + number // 250}.{1 + number % 250}/16"],
            "gateways": ["10.231.0.1"],
        }  # fmt: skip
        net = {"mode": "bridge", "interfaces": [interface]} if network else {"mode": "none", "interfaces": []}
        limits = {"cpus": 0.5, "memory": 64 << 20, "memory_reservation": 0, "pids": 64}
        return self.bare.request(argv, f"r{number}", net=net, resources=limits)

    def one(self, id: str) -> float:
        """Seconds from the start request until nothing of it is left: cgroups, layers and run files."""
        started = time.perf_counter()
        self.bare.client.start(id)
        self.bare.client.wait(id, 30.0)
        for path in (self.bare.layout.container(id), self.bare.layout.run_container(id)):
            shutil.rmtree(path)
        while os.path.exists(f"/sys/fs/cgroup/memory/{self.bare.layout.cgroup}/{id}"):
            time.sleep(0.0002)
        return time.perf_counter() - started


def milliseconds(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered) * 1000, 2),
        "min": round(ordered[0] * 1000, 2),
        "p90": round(ordered[int(len(ordered) * 0.9)] * 1000, 2),
    }


def in_parallel(rounds: Rounds, ids: list[str]) -> float:
    threads = [threading.Thread(target=rounds.one, args=(id,)) for id in ids]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    root = tempfile.mkdtemp(prefix="holdfast-bench-")
    bare = BareContainers(Path(root))
    rounds = Rounds(bare)
    try:
        rounds.one(rounds.prepare(["true"]))  # starts the pair
        bridged: list[float] = []
        lonely: list[float] = []
        exec_times: list[float] = []
        for _ in range(count):
            for values, network in ((bridged, True), (lonely, False)):
                id = rounds.prepare(["true"], network=network)
                time.sleep(PAUSE)  # without pauses the cgroup lock stays warm and flatters
                values.append(rounds.one(id))
        fifty = in_parallel(rounds, [rounds.prepare(["true"]) for _ in range(50)])
        id = rounds.prepare(["sleep", "1000"])
        bare.client.start(id)
        for _ in range(count):
            started = time.perf_counter()
            bare.exec(id, ["true"])
            exec_times.append(time.perf_counter() - started)
        print(
            json.dumps(
                {
                    "rounds": count,
                    "bridge_ms": milliseconds(bridged),
                    "no_network_ms": milliseconds(lonely),
                    "exec_ms": milliseconds(exec_times),
                    "fifty_parallel_ms": round(fifty * 1000, 1),
                },
                indent=1,
            )
        )
    finally:
        bare.end()
        rounds.close()
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(bare.layout.run, ignore_errors=True)


if __name__ == "__main__":
    main()
