"""The text of our one nftables table, and the comparison of what the kernel holds with what it should hold.

The chains never change. A network is a few set elements, a published port one map element and one chain of one rule,
so adding and removing is a small transaction, and a look at the table is a comparison of sets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.network.records import NetworkRecord
from runtime.value import value

SETS = {
    "bridges": "type ifname",
    "open": "type ifname",
    "same": "type ifname . ifname",
    "inside4": "type ipv4_addr . ifname; flags interval",
    "inside6": "type ipv6_addr . ifname; flags interval",
    "egress4": "type ipv4_addr; flags interval",
    "egress6": "type ipv6_addr; flags interval",
    "gateways4": "type ipv4_addr",
    "gateways6": "type ipv6_addr",
}
MAPS = {
    "ports4": "type ipv4_addr . inet_proto . inet_service : verdict",
    "any4": "type inet_proto . inet_service : verdict",
    "ports6": "type ipv6_addr . inet_proto . inet_service : verdict",
    "any6": "type inet_proto . inet_service : verdict",
}

# - raw: with route_localnet a container could reach the host's loopback services (CVE-2020-8558). What was DNATed back
#   to 127.0.0.1 is not meant: its address changes after this hook.
# - published: queries to a gateway's port 53 are for the names process, whatever else is published there. [::1] is left
#   out: IPv6 has no route_localnet.
# - prerouting: nobody outside reaches a port published on 127.0.0.1, though DNAT comes before the martian check.
# - postrouting: connections from 127.0.0.1, and from a neighbour on the same bridge, must come back through us.
# - forward: bridges are isolated from each other and from direct routing; what was published passes by its DNAT.
#   Accepting here ends only our own chain.
CHAINS = """
  chain raw {
    type filter hook prerouting priority raw; policy accept;
    iifname @bridges ip daddr 127.0.0.0/8 drop
    iifname @bridges ip saddr 127.0.0.0/8 drop
  }
  chain published {
    iifname @bridges ip daddr @gateways4 meta l4proto { tcp, udp } th dport 53 return
    iifname @bridges ip6 daddr @gateways6 meta l4proto { tcp, udp } th dport 53 return
    ip daddr . meta l4proto . th dport vmap @ports4
    meta nfproto ipv4 meta l4proto . th dport vmap @any4
    ip6 daddr ::1 return
    ip6 daddr . meta l4proto . th dport vmap @ports6
    meta nfproto ipv6 meta l4proto . th dport vmap @any6
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr 127.0.0.0/8 return
    fib daddr type local jump published
  }
  chain output {
    type nat hook output priority -100; policy accept;
    fib daddr type local jump published
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname @bridges ip saddr 127.0.0.0/8 masquerade
    ct status dnat ip saddr . oifname @inside4 masquerade
    ct status dnat ip6 saddr . oifname @inside6 masquerade
    ip saddr @egress4 oifname != @bridges masquerade
    ip6 saddr @egress6 oifname != @bridges masquerade
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname . oifname @same accept
    iifname @bridges iifname != @open drop
    oifname @bridges oifname != @open drop
    ct state established,related accept
    oifname @open ct status dnat accept
    oifname @bridges drop
  }
"""


@value
class Published:
    """One published port and the backends behind it: (address, port) of each replica that answers."""

    protocol: str
    host_ip: str
    host_port: int
    version: int
    backends: tuple[tuple[str, int], ...]

    @property
    def map_name(self) -> str:
        return f"{'ports' if self.host_ip else 'any'}{self.version}"

    @property
    def chain(self) -> str:
        text = f"{self.protocol}/{self.host_ip}/{self.host_port}"
        return f"p{self.version}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def key(self) -> str:
        address = f"{self.host_ip} . " if self.host_ip else ""
        return f"{address}{self.protocol} . {self.host_port}"

    def rule(self) -> str:
        family = "ip" if self.version == 4 else "ip6"
        if len(self.backends) == 1:
            address, port = self.backends[0]
            target = f"{address}:{port}" if self.version == 4 else f"[{address}]:{port}"
        else:
            listed = ", ".join(f"{i} : {address} . {port}" for i, (address, port) in enumerate(self.backends))
            target = f"numgen inc mod {len(self.backends)} map {{ {listed} }}"
        return f"meta l4proto {self.protocol} dnat {family} to {target}"


@dataclass(slots=True)
class Table:
    """What our table should hold."""

    elements: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in SETS})
    ports: dict[str, Published] = field(default_factory=dict)

    def add_network(self, record: NetworkRecord) -> None:
        for name, elements in network_elements(record).items():
            self.elements[name].update(elements)

    def add_ports(self, ports: Sequence[Published]) -> None:
        self.ports.update({port.chain: port for port in ports})

    def fingerprint(self) -> str:
        value = [
            {name: sorted(elements) for name, elements in self.elements.items()},
            {name: [port.key, port.backends] for name, port in sorted(self.ports.items())},
        ]
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def network_elements(record: NetworkRecord) -> dict[str, set[str]]:
    bridge = f'"{record.bridge}"'
    found = {"bridges": {bridge}, "same": {f"{bridge} . {bridge}"}}
    if not record.spec.internal:
        found["open"] = {bridge}
    for subnet in record.subnets:
        found.setdefault(f"inside{subnet.version}", set()).add(f"{subnet.cidr} . {bridge}")
        found.setdefault(f"gateways{subnet.version}", set()).add(subnet.gateway)
        if record.spec.masquerade and not record.spec.internal:
            found.setdefault(f"egress{subnet.version}", set()).add(subnet.cidr)
    return found


def whole_table(name: str, table: Table) -> str:
    """One transaction that replaces whatever the table held."""
    lines = [f"add table inet {name}", f"delete table inet {name}", f"table inet {name} {{"]
    lines += [f"  set {one} {{ {kind}; }}" for one, kind in SETS.items()]
    lines += [f"  map {one} {{ {kind}; }}" for one, kind in MAPS.items()]
    lines += [CHAINS, "}"]
    for one, elements in table.elements.items():
        lines += [_add(name, one, element) for element in sorted(elements)]
    for port in table.ports.values():
        lines += set_port(name, port)
    return "\n".join(lines) + "\n"


def add_network(name: str, record: NetworkRecord) -> str:
    found = network_elements(record).items()
    return "".join(_add(name, one, element) + "\n" for one, elements in found for element in sorted(elements))


def remove_network(name: str, record: NetworkRecord) -> str:
    """Adding before deleting makes it succeed when the element is absent: `destroy` is too new to count on."""
    found = network_elements(record).items()
    return "".join(
        f"{_add(name, one, element)}\ndelete element inet {name} {one} {{ {element} }}\n"
        for one, elements in found
        for element in sorted(elements)
    )


def change_ports(name: str, old: Mapping[str, Published], new: Mapping[str, Published]) -> str:
    """One transaction from the old backends to the new; established connections stay where they are."""
    lines: list[str] = []
    for chain, port in old.items():
        if chain not in new:
            element = f"{{ {port.key} : goto {chain} }}"
            lines += [
                f"add chain inet {name} {chain}",
                f"add element inet {name} {port.map_name} {element}",
                f"delete element inet {name} {port.map_name} {element}",
                f"flush chain inet {name} {chain}",
                f"delete chain inet {name} {chain}",
            ]
    for chain, port in new.items():
        if old.get(chain) != port:
            lines += set_port(name, port)
    return "\n".join(lines) + "\n" if lines else ""


def set_port(name: str, port: Published) -> list[str]:
    return [
        f"add chain inet {name} {port.chain}",
        f"flush chain inet {name} {port.chain}",
        f"add rule inet {name} {port.chain} {port.rule()}",
        f"add element inet {name} {port.map_name} {{ {port.key} : goto {port.chain} }}",
    ]


def _add(table: str, one: str, element: str) -> str:
    return f"add element inet {table} {one} {{ {element} }}"


# ---- what the kernel holds, as listed by nft -j


def static_digest(listing: Any) -> str:
    """Of the chains that never change and their rules, handles left out."""
    found = []
    for item in listing["nftables"]:
        if "chain" in item and not _is_port_chain(item["chain"]["name"]):
            chain = item["chain"]
            found.append([chain["name"], chain.get("hook"), chain.get("prio"), chain.get("policy")])
        elif "rule" in item and not _is_port_chain(item["rule"]["chain"]):
            found.append([item["rule"]["chain"], item["rule"]["expr"]])
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def differences(listing: Any, table: Table, static: str) -> list[str]:
    """Words for each way in which the listed table is not `table`."""
    found = []
    if static_digest(listing) != static:
        found.append("chains or rules were changed")
    sets: dict[str, set[str]] = {}
    maps: dict[str, set[str]] = {}
    chains: dict[str, list[Any]] = {}
    for item in listing["nftables"]:
        if "set" in item:
            sets[item["set"]["name"]] = {_element(one) for one in item["set"].get("elem", [])}
        elif "map" in item:
            elements = item["map"].get("elem", [])
            maps[item["map"]["name"]] = {f"{_element(key)} -> {_target(verdict)}" for key, verdict in elements}
        elif "chain" in item and _is_port_chain(item["chain"]["name"]):
            chains.setdefault(item["chain"]["name"], [])
        elif "rule" in item and _is_port_chain(item["rule"]["chain"]):
            chains.setdefault(item["rule"]["chain"], []).append(item["rule"]["expr"])
    for name, elements in table.elements.items():
        wanted = {element.replace('"', "") for element in elements}
        _compare(found, f"set {name}", wanted, sets.get(name))
    for name in MAPS:
        wanted = {f"{port.key} -> {chain}" for chain, port in table.ports.items() if port.map_name == name}
        _compare(found, f"map {name}", wanted, maps.get(name))
    for chain, port in table.ports.items():
        rules = chains.get(chain, [])
        if len(rules) != 1 or _backends(rules[0]) != list(port.backends):
            found.append(f"published port {port.key}: rule missing or changed")
    return found


def _compare(found: list[str], what: str, wanted: set[str], actual: set[str] | None) -> None:
    if actual is None:
        found.append(f"{what}: missing")
        return
    found += [f"{what}: {element} missing" for element in sorted(wanted - actual)]
    found += [f"{what}: {element} is not ours" for element in sorted(actual - wanted)]


def _is_port_chain(name: str) -> bool:
    return name.startswith(("p4_", "p6_"))


def _element(value: Any) -> str:
    if isinstance(value, dict):
        if "concat" in value:
            return " . ".join(_element(part) for part in value["concat"])
        if "prefix" in value:
            return f"{value['prefix']['addr']}/{value['prefix']['len']}"
        if "elem" in value:
            return _element(value["elem"]["val"])
    return str(value)


def _target(verdict: Any) -> str:
    return str(verdict.get("goto", {}).get("target", "")) if isinstance(verdict, dict) else ""


def _backends(expressions: Any) -> list[tuple[str, int]]:
    for expression in expressions:
        if "dnat" in expression:
            dnat = expression["dnat"]
            if isinstance(dnat["addr"], str):
                return [(dnat["addr"], dnat.get("port", 0))]
            pairs = dnat["addr"].get("map", {}).get("data", {}).get("set", [])
            return [(value["concat"][0], value["concat"][1]) for _, value in sorted(pairs, key=lambda pair: pair[0])]
    return []
