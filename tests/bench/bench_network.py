"""What networks cost: joining, publishing, a look for damage, and the memory of the names process.

Run as `python -m tests.bench.bench_network`; prints one line per figure and exits 1 when one is missed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from runtime.api import Attachment, NetworkSpec, Port
from runtime.network import Endpoint, Networks
from tests.support.fake_host import make_networks, private_host

CONTAINERS = 200


def milliseconds(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun) * 1e3


def endpoint(networks: Networks, id: str, ports: list[Port], group: str) -> Endpoint:
    addresses = [address.partition("/")[0] for address in networks.addresses.interfaces(id)[0]["addresses"]]
    return Endpoint({"front": ["web", id]}, {"front": addresses}, ports, "none", group)


def proportional_memory(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1]) / 1024


def measure(networks: Networks) -> list[tuple[str, float, float, str]]:
    attach, publish, published, grown = [], [], [], []
    networks.create(NetworkSpec("front", subnets=("10.201.0.0/20",)))
    for number in range(CONTAINERS):
        id = f"c{number:03}"
        os.makedirs(networks.layout.run_container(id))
        attach.append(milliseconds(lambda id=id: networks.attach(id, [Attachment("front")])))  # type: ignore[misc]
        plain = endpoint(networks, id, [], "")
        publish.append(milliseconds(lambda id=id, plain=plain: networks.publish(id, plain)))  # type: ignore[misc]
    for number in range(50):
        id = f"c{number:03}"
        ports = networks.reserve_ports(id, [Port(80, 20000 + number)], id)
        own = endpoint(networks, id, ports, id)
        published.append(milliseconds(lambda id=id, own=own: networks.publish(id, own)))  # type: ignore[misc]
    for number in range(50, 60):
        id = f"c{number:03}"
        ports = networks.reserve_ports(id, [Port(80, 30000)], "shared")
        own = endpoint(networks, id, ports, "shared")
        grown.append(milliseconds(lambda id=id, own=own: networks.publish(id, own)))  # type: ignore[misc]
    assert networks.list()[0].damage == ()
    looks = [milliseconds(networks.list) for _ in range(20)]
    networks.names.wait(networks.get("front").gateways)
    median = statistics.median
    process = networks.client.process  # type: ignore[attr-defined]
    return [
        (f"attach, {CONTAINERS} containers on one network", median(attach), 2.0, "ms"),
        ("publish without ports", median(publish), 1.0, "ms"),
        ("publish one port", median(published), 4.0, "ms"),
        ("publish one more replica of a port", median(grown), 4.0, "ms"),
        ("look for damage, nothing changed", median(looks), 10.0, "ms"),
        (f"names process with {CONTAINERS} containers (PSS)", proportional_memory(process.pid), 15.0, "MB"),
    ]


def start_path_imports() -> str:
    """Modules that the start path must not load, comma-separated."""
    program = (
        "import sys; from runtime.network import Networks, Endpoint; "
        "print(','.join(sorted({'pyroute2', 'dnslib', 'asyncio', 'subprocess', 'networkx'} & set(sys.modules))))"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    missed = 0
    with tempfile.TemporaryDirectory() as tmp, private_host():
        networks = make_networks(tmp, "/etc/resolv.conf")
        try:
            for name, value, limit, unit in measure(networks):
                missed += value > limit
                print(f"{name:52} {value:8.2f} {unit}  (owed {limit:g}){'  MISSED' if value > limit else ''}")
        finally:
            networks.collect_garbage(set())
            networks.remove("front")
            networks.client.close()  # type: ignore[attr-defined]
    loaded = start_path_imports()
    print(f"{'modules that the start path must not load':52} {loaded or 'none'}")
    return 1 if missed or loaded else 0


if __name__ == "__main__":
    sys.exit(main())
