"""Compares networks and running containers' interfaces with what was made. Reads only; cheap enough for every look."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtime.api import Damage
from runtime.network.host import Host, read_sysctl
from runtime.network.records import NetworkRecord


def bridge_damage(record: NetworkRecord, host: Host) -> list[Damage]:
    link = host.links.get(record.bridge)
    if link is None:
        return [Damage(f"bridge {record.bridge}", "present", "missing")]
    found = []
    if not link.up:
        found.append(Damage(f"bridge {record.bridge}", "up", "down"))
    if link.mtu != record.spec.mtu:
        found.append(Damage(f"mtu of bridge {record.bridge}", str(record.spec.mtu), str(link.mtu)))
    present = host.addresses_of(record.bridge)
    found += [
        Damage(f"gateway address of {record.bridge}", address, "missing")
        for address in record.gateway_addresses
        if address not in present
    ]
    return found


def forwarding_damage(v6: bool) -> list[Damage]:
    found = []
    if read_sysctl("net/ipv4/ip_forward") == "0":
        found.append(Damage("net.ipv4.ip_forward", "1", "0"))
    if v6 and read_sysctl("net/ipv6/conf/all/forwarding") == "0":
        found.append(Damage("net.ipv6.conf.all.forwarding", "1", "0"))
    return found


def interface_damage(pid: int, interfaces: Sequence[Mapping[str, Any]], host: Host) -> list[Damage]:
    """Of a container's end through /proc/PID/net, which shows its namespace without entering it."""
    found = []
    local = _local_addresses(pid)
    if local is None:
        return []  # The process is gone: nothing to compare.
    names, addresses, routed = local
    for one in interfaces:
        name, host_name = str(one["ifname"]), str(one["host_ifname"])
        link = host.links.get(host_name)
        bridge = host.links.get(str(one["bridge"]))
        if name not in names:
            found.append(Damage(f"link {name}", "present", "missing"))
            continue
        if link is None:
            found.append(Damage(f"link {host_name} of {name}", "present", "missing"))
            continue
        if not link.up:
            found.append(Damage(f"link {host_name} of {name}", "up", "down"))
        elif not link.carrier:
            found.append(Damage(f"link {name}", "up", "down"))
        if bridge and link.master != bridge.index:
            found.append(Damage(f"link {host_name} of {name}", f"on bridge {bridge.name}", "not on it"))
        for address in one["addresses"]:
            if address.partition("/")[0] not in addresses:
                found.append(Damage(f"address of {name}", address, "missing"))
        for gateway in one["gateways"]:
            if (name, 6 if ":" in gateway else 4) not in routed:
                found.append(Damage(f"default route of {name}", gateway, "missing"))
    return found


def _local_addresses(pid: int) -> tuple[set[str], set[str], set[tuple[str, int]]] | None:
    """Names of links, local addresses, and (link, IP version) of default routes."""
    try:
        names = {line.partition(":")[0].strip() for line in _lines(pid, "dev")[2:]}
        addresses = set(_tree_addresses(_lines(pid, "fib_trie")))
        routed = {(fields[0], 4) for fields in map(str.split, _lines(pid, "route")[1:]) if _is_default(fields)}
    except OSError:
        return None
    try:
        for fields in map(str.split, _lines(pid, "if_inet6")):
            addresses.add(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0])))
        for fields in map(str.split, _lines(pid, "ipv6_route")):
            if fields[1] == "00" and fields[9] != "lo" and int(fields[4], 16):
                routed.add((fields[9], 6))
    except OSError:
        pass  # IPv6 is off.
    return names, addresses, routed


def _is_default(fields: list[str]) -> bool:
    return fields[1] == "00000000" and fields[7] == "00000000"


def _tree_addresses(lines: Iterable[str]) -> Iterable[str]:
    """Addresses marked `/32 host LOCAL` in the routing tree."""
    leaf = ""
    for line in lines:
        match = re.search(r"\|-- ([0-9.]+)", line)
        if match:
            leaf = match.group(1)
        elif "/32 host LOCAL" in line:
            yield leaf


def _lines(pid: int, name: str) -> list[str]:
    with open(f"/proc/{pid}/net/{name}") as file:
        return file.read().splitlines()
