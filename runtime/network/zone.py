"""Who has which name, for whom: the records that the engine renames into the zone directory, and the look-up in them.

One file per network (`n-NAME.json`: gateways, subnets, internal) and one per container (`c-ID.json`: names and
addresses per network, health, own resolvers). Read by the names process, so: little memory, few imports.
"""

from __future__ import annotations

import json
import os
import socket

READY = ("none", "healthy")
LOCAL_TTL = 2


class Zone:
    """The zone directory in memory. `run_containers` tells who is dead: an `exit` file outlives no start."""

    def __init__(self, directory: str, run_containers: str) -> None:
        self.directory = directory
        self.run_containers = run_containers
        self.networks: dict[str, dict] = {}  # type: ignore[type-arg]
        self.containers: dict[str, dict] = {}  # type: ignore[type-arg]
        self.by_address: dict[str, str] = {}
        self.by_name: dict[tuple[str, str], list[str]] = {}
        self.turn = 0

    def load(self) -> None:
        """Read everything afresh."""
        self.networks.clear()
        self.containers.clear()
        self.by_address.clear()
        self.by_name.clear()
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return
        for name in names:
            self.refresh(name)

    def refresh(self, name: str) -> None:
        """Take in the change of one file: written, replaced or gone. A record that cannot be understood is left out."""
        if not name.endswith(".json") or name[:2] not in ("n-", "c-"):
            return
        key = name[2:-5]
        try:
            with open(f"{self.directory}/{name}", "rb") as file:
                record = json.loads(file.read())
        except (OSError, ValueError):
            record = None
        try:
            if name[0] == "n":
                self._set_network(key, record)
            else:
                self._set_container(key, record)
        except (KeyError, TypeError, ValueError, AttributeError, OSError):
            return

    def gateways(self) -> set[str]:
        return {gateway for network in self.networks.values() for gateway in network["gateways"]}

    def networks_of(self, source: str) -> list[str] | None:
        """The networks whose names `source` may ask for; None for a stranger."""
        container = self.containers.get(self.by_address.get(source, ""))
        if container is not None:
            return [name for name in container["addresses"] if name in self.networks]
        number, version = _number(source)
        for name, network in self.networks.items():
            if any(kind == version and low <= number <= high for kind, low, high in network["spans"]):
                return [name]
        return None

    def resolvers_of(self, source: str) -> list[str]:
        container = self.containers.get(self.by_address.get(source, ""))
        return list(container.get("dns") or ()) if container else []

    def may_leave(self, networks: list[str]) -> bool:
        """Whether questions about the world outside are passed on: not from internal networks alone."""
        return any(not self.networks[name]["internal"] for name in networks)

    def find(self, networks: list[str], name: str, version: int) -> list[str] | None:
        """Addresses of `name`, in turns; None when there is no such name, [] when it has none of that IP version."""
        wanted = name.lower().rstrip(".")
        found = self._candidates(networks, wanted)
        if not found:
            stem, _, network = wanted.rpartition(".")
            same = [one for one in networks if one.lower() == network]
            # NAME.NETWORK; a network's name may itself have dots.
            for one in networks:
                if wanted.endswith("." + one.lower()):
                    stem, same = wanted[: -len(one) - 1], [one]
            if stem and same:
                found = self._candidates(same, stem)
        alive = [(id, network) for id, network in found if not self._dead(id)]
        if not alive:
            return None
        ready = [one for one in alive if self.containers[one[0]].get("health", "none") in READY] or alive
        addresses = []
        seen = set()
        for id, network in ready:
            own = [one for one in self.containers[id]["addresses"].get(network, ()) if (":" in one) == (version == 6)]
            if id not in seen and own:
                seen.add(id)
                addresses += own
        self.turn += 1
        shift = self.turn % len(addresses) if addresses else 0
        return addresses[shift:] + addresses[:shift]

    def reverse(self, networks: list[str], address: str) -> str | None:
        """NAME.NETWORK of an address in the networks; "" when it is nobody's there; None when it lies outside."""
        number, version = _number(address)
        for name in networks:
            network = self.networks[name]
            if not any(kind == version and low <= number <= high for kind, low, high in network["spans"]):
                continue
            id = self.by_address.get(address)
            if id and not self._dead(id):
                names = self.containers[id]["names"].get(name) or [id[:12]]
                return f"{next((one for one in names if '/' not in one), id[:12])}.{name}"
            return ""
        return None

    def _candidates(self, networks: list[str], name: str) -> list[tuple[str, str]]:
        return [(id, network) for network in networks for id in self.by_name.get((network, name), ())]

    def _dead(self, id: str) -> bool:
        return os.path.exists(f"{self.run_containers}/{id}/exit")

    def _set_network(self, name: str, record: dict | None) -> None:  # type: ignore[type-arg]
        self.networks.pop(name, None)
        if record is None:
            return
        record["spans"] = [_span(cidr) for cidr in record["subnets"]]
        record["gateways"] = [str(one) for one in record["gateways"]]
        record["internal"] = bool(record["internal"])
        self.networks[name] = record

    def _set_container(self, id: str, record: dict | None) -> None:  # type: ignore[type-arg]
        old = self.containers.pop(id, None)
        if old is not None:
            for network, names in old["names"].items():
                for name in names:
                    listed = self.by_name.get((network, name.lower()), [])
                    if id in listed:
                        listed.remove(id)
                    if not listed:
                        self.by_name.pop((network, name.lower()), None)
            for addresses in old["addresses"].values():
                for address in addresses:
                    if self.by_address.get(address) == id:
                        del self.by_address[address]
        if record is None:
            return
        kept = {"names": record["names"], "addresses": record["addresses"]}
        kept["health"], kept["dns"] = record.get("health", "none"), record.get("dns", [])
        self.containers[id] = kept
        for network, names in kept["names"].items():
            for name in names:
                listed = self.by_name.setdefault((network, name.lower()), [])
                if id not in listed:
                    listed.append(id)
        for addresses in kept["addresses"].values():
            for address in addresses:
                self.by_address[address] = id


def _number(address: str) -> tuple[int, int]:
    """(-1, 0) for what is no address."""
    try:
        if ":" in address:
            return int.from_bytes(socket.inet_pton(socket.AF_INET6, address), "big"), 6
        return int.from_bytes(socket.inet_pton(socket.AF_INET, address), "big"), 4
    except OSError:
        return -1, 0


def _span(cidr: str) -> tuple[int, int, int]:
    address, _, prefix = cidr.partition("/")
    number, version = _number(address)
    size = (128 if version == 6 else 32) - int(prefix)
    low = number >> size << size
    return version, low, low + (1 << size) - 1
