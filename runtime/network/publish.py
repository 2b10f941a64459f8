"""What a running container offers, made known: its zone record and its place behind its group's published ports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.errors import InvalidSpec
from runtime.files import read_json, remove_file, write_json
from runtime.network.balance import member, new_group, published_ports
from runtime.network.endpoint import Endpoint
from runtime.network.firewall import Firewall
from runtime.network.records import Records, list_names
from runtime.network.rules import Published


class Publisher:
    """A group's file is the truth; the kernel's rules follow it under the firewall's lock."""

    def __init__(self, records: Records, firewall: Firewall) -> None:
        self.records = records
        self.firewall = firewall

    def publish(self, id: str, endpoint: Endpoint) -> None:
        """Raises InvalidSpec for ports of a container that is on internal networks only."""
        group = endpoint.group or id
        record = {
            "names": {network: list(names) for network, names in endpoint.names.items()},
            "addresses": {network: list(addresses) for network, addresses in endpoint.addresses.items()},
            "health": endpoint.health,
            "dns": list(endpoint.dns),
            "group": group if endpoint.ports else "",
        }
        if endpoint.ports:
            v4, v6 = self._targets(endpoint.addresses)
            if not v4 and not v6:
                raise InvalidSpec(
                    f'cannot publish ports of container "{id[:12]}": it is on internal networks only',
                    "internal networks have no way in; add another network or drop the ports",
                )
            ports = [(one.container_port, one.host_port, one.protocol, one.host_ip) for one in endpoint.ports]
            with self.firewall.lock():
                self._change(group, id, member(ports, v4, v6, endpoint.health), ())
        write_json(self.records.zone_container(id), record)

    def set_health(self, id: str, health: str) -> None:
        record = read_json(self.records.zone_container(id))
        if record is None or record["health"] == health:
            return
        with self.firewall.lock():
            # Read again: a withdrawal that came first must not be undone.
            record = read_json(self.records.zone_container(id))
            if record is None:
                return
            write_json(self.records.zone_container(id), {**record, "health": health})
            if record["group"]:
                group = read_json(self.records.group(record["group"])) or new_group(record["group"])
                old = group["members"].get(id)
                if old is not None:
                    self._change(record["group"], id, {**old, "health": health}, ())

    def withdraw(self, id: str, ended: bool) -> None:
        """`ended`: the container is dead, so connections that lead to it are forgotten too."""
        record = read_json(self.records.zone_container(id))
        if record is None:
            return
        if not record["group"]:
            remove_file(self.records.zone_container(id))
            return
        with self.firewall.lock():
            if ended:
                remove_file(self.records.zone_container(id))
            else:
                # Without names, but known: the end, when it comes, has connections to forget.
                write_json(self.records.zone_container(id), {**record, "names": {}})
            gone = [one for addresses in record["addresses"].values() for one in addresses] if ended else []
            self._change(record["group"], id, None, gone)

    def is_published(self, id: str) -> bool:
        """Whether names lead to it. Not so after a withdrawal, nor when a kill came between its start and this."""
        record = read_json(self.records.zone_container(id))
        return bool(record and record["names"])

    def members(self) -> set[str]:
        """Containers behind any published port."""
        return {id for group in self._groups() for id in group["members"]}

    def collect(self, id: str) -> None:
        """Take a dead container out of its groups, though its zone record is gone or was never written."""
        for group in self._groups():
            if id in group["members"]:
                with self.firewall.lock():
                    self._change(group["group"], id, None, ())

    def _groups(self) -> list[dict[str, Any]]:
        found = (read_json(f"{self.records.groups}/{name}.json") for name in list_names(self.records.groups))
        return [group for group in found if group]

    def _targets(self, addresses: Mapping[str, Any]) -> tuple[str, str]:
        """Where outside traffic goes: the first network that is not internal, as for the default route."""
        v4 = v6 = ""
        for network, listed in addresses.items():
            record = self.records.find(network)
            if record is None or record.spec.internal:
                continue
            v4 = v4 or next((one for one in listed if ":" not in one), "")
            v6 = v6 or next((one for one in listed if ":" in one), "")
        return v4, v6

    def _change(self, name: str, id: str, new: dict[str, Any] | None, gone: Any) -> None:
        path = self.records.group(name)
        group = read_json(path) or new_group(name)
        before = group["members"].get(id)
        old = published_ports(group)
        if new is None:
            group["members"].pop(id, None)
        else:
            group["members"][id] = new
        current = published_ports(group)
        if group["members"]:
            write_json(path, group)
        else:
            remove_file(path)
        if old != current:
            self.firewall.change_ports(old, current)
        if old != current or (gone and before):
            _forget_flows({**old, **current}, current, gone)


def _forget_flows(touched: Mapping[str, Published], current: Mapping[str, Published], gone: Any) -> None:
    udp = [port for port in touched.values() if port.protocol == "udp"]
    if not udp and not gone:
        return
    from runtime.network.conntrack import forget_flows

    for chain, port in touched.items():
        backends = [address for address, _ in current[chain].backends] if chain in current else []
        if port.protocol == "udp" or gone:
            try:
                forget_flows(port.protocol, port.host_port, port.version, backends, gone)
            except OSError:
                pass  # No connection tracking by netlink in this kernel: flows end by their own time-outs.
