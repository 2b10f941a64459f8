"""Which replicas of a group stand behind each published port, from the group's state file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.network.rules import Published

Group = dict[str, Any]
READY = ("none", "healthy")


def new_group(name: str) -> Group:
    return {"group": name, "members": {}}


def member(ports: Sequence[Sequence[Any]], v4: str, v6: str, health: str) -> dict[str, Any]:
    """`ports` are (container_port, host_port, protocol, host_ip)."""
    return {"ports": [list(port) for port in ports], "v4": v4, "v6": v6, "health": health}


def published_ports(group: Group) -> dict[str, Published]:
    """Chain name -> port. Only ready replicas count, unless none is: then all that run do."""
    backends: dict[tuple[str, str, int, int], list[tuple[bool, str, int]]] = {}
    for _, one in sorted(group["members"].items()):
        ready = one["health"] in READY
        for container_port, host_port, protocol, host_ip in one["ports"]:
            for version, address in ((4, one["v4"]), (6, one["v6"])):
                if address and serves(host_ip, version):
                    ip = "" if host_ip in ("0.0.0.0", "::") else host_ip
                    key = (protocol, ip, host_port, version)
                    backends.setdefault(key, []).append((ready, address, container_port))
    found = {}
    for (protocol, ip, host_port, version), all_of_it in backends.items():
        chosen = [one for one in all_of_it if one[0]] or all_of_it
        port = Published(protocol, ip, host_port, version, tuple((address, port) for _, address, port in chosen))
        found[port.chain] = port
    return found


def serves(host_ip: str, version: int) -> bool:
    """Whether a port published on `host_ip` is reachable over that IP version. [::1] never is: see `rules`."""
    if not host_ip:
        return True
    return host_ip != "::1" and (":" in host_ip) == (version == 6)
