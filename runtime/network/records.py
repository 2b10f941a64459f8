"""Files of the networks: durable records under the root, run-time state on tmpfs, each renamed into place."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict, replace
from typing import Any

from runtime.api import NetworkSpec
from runtime.errors import InvalidSpec, NotFound
from runtime.files import read_json, remove_file, write_json
from runtime.layout import Layout
from runtime.network.ipam import Subnet
from runtime.value import value

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
LINK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")


@value
class NetworkRecord:
    """A network as it was made: the wish and what was chosen for it."""

    spec: NetworkSpec
    bridge: str
    subnets: tuple[Subnet, ...]
    created_at: float

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def gateways(self) -> tuple[str, ...]:
        return tuple(subnet.gateway for subnet in self.subnets)

    @property
    def gateway_addresses(self) -> tuple[str, ...]:
        return tuple(f"{subnet.gateway}/{subnet.prefix}" for subnet in self.subnets)

    @property
    def mac(self) -> str:
        """Fixed for the life of the network, so that containers' neighbour caches survive a repair."""
        digest = hashlib.sha256(f"{self.bridge}/{self.subnets[0].cidr}".encode()).digest()
        return "02:" + digest[:5].hex(":")


def check_names(spec: NetworkSpec) -> None:
    if not NAME.match(spec.name):
        raise InvalidSpec(
            f'cannot create network "{spec.name[:40]}": bad name', "use letters, digits, and then also _ . -"
        )
    if spec.bridge_name and not LINK.match(spec.bridge_name):
        raise InvalidSpec(
            f'cannot create network "{spec.name}": bad bridge name "{spec.bridge_name[:40]}"', "15 characters at most"
        )
    if not 576 <= spec.mtu <= 65535 or (spec.ipv6 and spec.mtu < 1280):
        raise InvalidSpec(f'cannot create network "{spec.name}": mtu {spec.mtu} is out of range')


def list_names(directory: str, prefix: str = "", suffix: str = ".json") -> list[str]:
    """Names without prefix and suffix, sorted; half-written files left out."""
    try:
        found = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    kept = (name for name in found if not name.startswith(".") and name.startswith(prefix) and name.endswith(suffix))
    return sorted(name[len(prefix) : len(name) - len(suffix)] for name in kept)


class Records:
    """Paths and records of one root's networks."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.run = f"{layout.run}/network"
        self._known: dict[str, tuple[tuple[int, int, int], NetworkRecord]] = {}
        self.attached = f"{self.run}/attached"
        self.groups = f"{self.run}/groups"
        self.ports = f"{self.run}/ports"

    def make_directories(self) -> None:
        for path in (self.attached, self.groups, self.ports, self.layout.zone, self.layout.locks):
            os.makedirs(path, mode=0o700, exist_ok=True)
        os.makedirs(self.layout.networks, mode=0o711, exist_ok=True)

    def bridge_name(self, spec: NetworkSpec) -> str:
        digest = hashlib.sha256(f"{self.layout.id}/{spec.name}".encode()).hexdigest()[:8]
        return spec.bridge_name or f"{self.layout.link_prefix}b{digest}"

    def alias(self, name: str) -> str:
        """Written on the bridge, so that nobody else's link is taken for ours."""
        return f"holdfast:{self.layout.id}:{name}"

    def lock(self, name: str) -> str:
        return f"{self.layout.locks}/network-{name}"

    @property
    def firewall_lock(self) -> str:
        return f"{self.layout.locks}/firewall"

    def claims(self, name: str) -> str:
        return f"{self.run}/claims-{name}.json"

    def group(self, group: str) -> str:
        return f"{self.groups}/{hashlib.sha256(group.encode()).hexdigest()[:16]}.json"

    def zone_network(self, name: str) -> str:
        return f"{self.layout.zone}/n-{name}.json"

    def zone_container(self, id: str) -> str:
        return f"{self.layout.zone}/c-{id}.json"

    def find(self, name: str) -> NetworkRecord | None:
        if not NAME.match(name):
            return None
        path = f"{self.layout.networks}/{name}.json"
        try:
            status = os.stat(path)
        except FileNotFoundError:
            self._known.pop(name, None)
            return None
        # Records are replaced by rename only: the same inode, time and size is the same record.
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._known.get(name)
        if known is None or known[0] != version:
            data = read_json(path)
            if data is None:
                return None
            known = self._known[name] = (version, _record(data))
        return known[1]

    def get(self, name: str) -> NetworkRecord:
        record = self.find(name)
        if record is None:
            raise NotFound(f'cannot find network "{name}": there is none of that name')
        return record

    def all(self) -> list[NetworkRecord]:
        found = (self.find(name) for name in list_names(self.layout.networks))
        return [record for record in found if record is not None]

    def save(self, record: NetworkRecord) -> None:
        data = asdict(record)
        data["spec"]["labels"] = dict(record.spec.labels)
        write_json(f"{self.layout.networks}/{record.name}.json", data, durable=True)

    def forget(self, name: str) -> None:
        remove_file(f"{self.layout.networks}/{name}.json")


def same_network(one: NetworkSpec, other: NetworkSpec) -> bool:
    """Equal but for bookkeeping."""
    return replace(one, labels={}, declared=None) == replace(other, labels={}, declared=None)


def _record(data: dict[str, Any]) -> NetworkRecord:
    spec = data["spec"]
    spec["subnets"], spec["gateways"] = tuple(spec["subnets"]), tuple(spec["gateways"])
    return NetworkRecord(
        NetworkSpec(**spec), data["bridge"], tuple(Subnet(**one) for one in data["subnets"]), data["created_at"]
    )
