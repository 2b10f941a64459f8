"""Who has which address: per-network claims on tmpfs, and what was given to each container."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from typing import Any

from runtime.api import Attachment
from runtime.errors import Conflict, InvalidSpec
from runtime.files import read_json, remove_file, write_json
from runtime.lock import locked
from runtime.network.ipam import next_address, static_address
from runtime.network.records import NetworkRecord, Records, list_names

Interface = dict[str, Any]


class Addresses:
    """Claims and gives back addresses, one network at a time, each under its lock."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def attach(
        self, id: str, attachments: Sequence[Attachment], prepare: Callable[[NetworkRecord], None]
    ) -> list[Interface]:
        """The interfaces, in the order of the attachments; all or none. `prepare` sees each network first.

        The first network that is not internal gives the default route, for IPv4 and IPv6 each.
        """
        names = [one.network for one in attachments]
        if len(set(names)) < len(names):
            raise InvalidSpec(f'cannot attach container "{id[:12]}": one network is named twice')
        interfaces: list[Interface] = []
        routed: set[int] = set()
        try:
            for number, attachment in enumerate(attachments):
                record = self.records.get(attachment.network)
                prepare(record)
                addresses = self._claim(id, record, attachment)
                gateways = []
                for subnet in record.subnets:
                    if not record.spec.internal and subnet.version not in routed:
                        gateways.append(subnet.gateway)
                        routed.add(subnet.version)
                interfaces.append(
                    {
                        "ifname": f"eth{number}",
                        "host_ifname": new_link_name(self.records.layout.link_prefix),
                        "bridge": record.bridge,
                        "mac": attachment.mac or _mac(addresses[0]),
                        "mtu": record.spec.mtu,
                        "addresses": addresses,
                        "gateways": gateways,
                        "network": record.name,
                        "resolvers": list(record.gateways),
                    }
                )
            write_json(f"{self.records.attached}/{id}.json", interfaces)
        except BaseException:
            for attachment in attachments[: len(interfaces) + 1]:
                self._release(id, attachment.network)
            raise
        return interfaces

    def interfaces(self, id: str) -> list[Interface]:
        return read_json(f"{self.records.attached}/{id}.json") or []

    def rename_link(self, id: str, old: str, new: str) -> None:
        interfaces = self.interfaces(id)
        for interface in interfaces:
            if interface["host_ifname"] == old:
                interface["host_ifname"] = new
        write_json(f"{self.records.attached}/{id}.json", interfaces)

    def detach(self, id: str) -> list[Interface]:
        """Gives everything back; returns what it was."""
        interfaces = self.interfaces(id)
        for interface in interfaces:
            self._release(id, interface["network"])
        remove_file(f"{self.records.attached}/{id}.json")
        return interfaces

    def members(self, name: str) -> list[str]:
        """Containers that hold an address and have not left an exit record."""
        claims = self._read(name)["claims"]
        run = self.records.layout.run_container
        return sorted(id for id in claims if not os.path.exists(f"{run(id)}/exit"))

    def attached_ids(self) -> list[str]:
        return list_names(self.records.attached)

    def claimants(self) -> set[str]:
        """Containers with a claim, recorded as attached or, after a kill in between, not."""
        found = set(self.attached_ids())
        for name in list_names(self.records.run, prefix="claims-"):
            found.update(self._read(name)["claims"])
        return found

    def collect(self, id: str) -> None:
        """Frees every claim of a dead container."""
        for name in list_names(self.records.run, prefix="claims-"):
            if id in self._read(name)["claims"]:
                self._release(id, name)

    def _claim(self, id: str, record: NetworkRecord, attachment: Attachment) -> list[str]:
        with locked(self.records.lock(record.name)):
            state = self._read(record.name)
            claims: dict[str, list[str]] = state["claims"]
            claims.pop(id, None)
            chosen: dict[str, str] = {}
            used = {address.partition("/")[0]: owner for owner, owned in claims.items() for address in owned}
            for text in (attachment.ipv4, attachment.ipv6):
                if text:
                    subnet, address = static_address(record.subnets, text, record.name)
                    if address in used and not self._reclaim(state, used[address]):
                        raise Conflict(
                            f'cannot attach to network "{record.name}": address {address} is in use by '
                            f'container "{used[address][:12]}"'
                        )
                    chosen[subnet.cidr] = address
            versions = {4: any(":" not in one for one in chosen), 6: any(":" in one for one in chosen)}
            for subnet in record.subnets:
                # One address for each family; further subnets of a family are for static addresses.
                if versions[subnet.version]:
                    continue
                versions[subnet.version] = True
                last = state["last"].get(subnet.cidr, "")
                try:
                    address = next_address(subnet, used, last, record.name)
                except Conflict:
                    if not [owner for owner in list(claims) if self._reclaim(state, owner)]:
                        raise
                    used = {one.partition("/")[0]: owner for owner, owned in claims.items() for one in owned}
                    address = next_address(subnet, used, last, record.name)
                chosen[subnet.cidr] = address
                state["last"][subnet.cidr] = address
            found = [f"{chosen[one.cidr]}/{one.prefix}" for one in record.subnets if one.cidr in chosen]
            claims[id] = found
            write_json(self.records.claims(record.name), state)
            return found

    def _reclaim(self, state: dict[str, Any], owner: str) -> bool:
        """Drop the claim of a container whose run directory says, or whose absence says, that it is dead."""
        run = self.records.layout.run_container(owner)
        if os.path.isdir(run) and not os.path.exists(f"{run}/exit"):
            return False
        state["claims"].pop(owner, None)
        return True

    def _release(self, id: str, name: str) -> None:
        with locked(self.records.lock(name)):
            state = self._read(name)
            if state["claims"].pop(id, None) is not None:
                write_json(self.records.claims(name), state)

    def _read(self, name: str) -> dict[str, Any]:
        return read_json(self.records.claims(name)) or {"claims": {}, "last": {}}


def new_link_name(prefix: str) -> str:
    """40 random bits: a name given back a moment ago may still belong to a dying link, so none is used again."""
    return f"{prefix}v" + base64.b32encode(os.urandom(5)).decode().lower()


def _mac(address: str) -> str:
    """Follows the address, so that an address that comes back does so with the neighbours' cached entry."""
    text = address.partition("/")[0]
    if ":" in text:
        return "02:" + os.urandom(5).hex(":")
    return "02:48:" + bytes(int(part) for part in text.split(".")).hex(":")
