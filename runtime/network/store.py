"""The networks of one state root: made, looked at, joined, left, repaired and removed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, Protocol

from runtime.api import Attachment, Damage, NetworkInfo, NetworkSpec, Port
from runtime.errors import Conflict, EngineError, Unsupported
from runtime.files import remove_file, write_json
from runtime.layout import Layout
from runtime.lock import locked
from runtime.network.addresses import Addresses
from runtime.network.command import NamesProcess, NamesRunner
from runtime.network.endpoint import Endpoint
from runtime.network.firewall import Firewall
from runtime.network.foreign import ForeignRules
from runtime.network.host import Host, enable_forwarding, ensure_bridge, reflect, remove_link, taken_space
from runtime.network.ipam import Taken, plan_subnets
from runtime.network.liveness import proven_dead
from runtime.network.nft import Nft
from runtime.network.ports import Ports, SocketHolder
from runtime.network.publish import Publisher
from runtime.network.records import NetworkRecord, Records, check_names, list_names, same_network
from runtime.network.resolv import hosts_text, read_host_resolv, resolv_text

Damages = list[Damage]
Lines = list[str]
PortList = list[Port]
TakenSpace = list[Taken]
Interfaces = list[dict[str, Any]]
DEFAULT = "default"


class Keeper(SocketHolder, NamesRunner, Protocol):
    """The supervisor's client, as far as networks use it."""


class Networks:
    """Cheap to construct. Safe from several threads and processes: each change is under a lock of its object."""

    def __init__(self, layout: Layout, client: Keeper, resolv: str = "/etc/resolv.conf") -> None:
        self.layout = layout
        self.client = client
        self.records = Records(layout)
        self.addresses = Addresses(self.records)
        self.nft = Nft()
        self.firewall = Firewall(self.records, self.nft)
        self.foreign = ForeignRules(self.records, self.nft)
        self.ports = Ports(self.records, client)
        self.publisher = Publisher(self.records, self.firewall)
        self.names = NamesProcess(self.records, client, resolv)

    # ---- networks

    def check(self, spec: NetworkSpec) -> None:
        """Raise what `create` would raise for the spec itself, were the network of that name gone; touches nothing."""
        check_names(spec)
        record = self.records.find(spec.name)
        if record is not None and same_network(record.spec, spec):
            return
        own = record.bridge if record is not None else self.records.bridge_name(spec)
        plan_subnets(spec, self._taken(spec.name, own), self.layout.id)

    def create(self, spec: NetworkSpec) -> NetworkInfo:
        """Make it, or make sure of what is on record (after a boot all but the record is gone).

        Raises SubnetCollision, InvalidSpec, and Conflict when another network has the name.
        """
        check_names(spec)
        self.records.make_directories()
        with locked(self._lock(spec.name)):
            record = self.records.find(spec.name)
            if record is not None and not same_network(record.spec, spec):
                raise _different(spec.name)
            if record is not None and record.spec != spec:
                record = replace(record, spec=spec)
                self.records.save(record)
            # Two roots that choose at once must not choose the same: routes show only once the bridge is up.
            with locked(self._subnets_lock()):
                if record is None:
                    bridge = self.records.bridge_name(spec)
                    self._refuse_shared_bridge(spec, bridge)
                    subnets = plan_subnets(spec, self._taken(spec.name, bridge), self.layout.id)
                    record = NetworkRecord(spec, bridge, subnets, time.time())
                    self.records.save(record)
                record = self._ensure_bridge(record)
            self._ensure_rest(record)
        return self._info(record, [])

    def ensure_default(self) -> NetworkInfo:
        """The bridge that `container run` joins when told nothing else."""
        record = self.records.find(DEFAULT)
        if record is not None and self._bridge_exists(record):
            return self._info(record, [])
        return self.create(record.spec if record else NetworkSpec(DEFAULT))

    def get(self, name: str, deep: bool = True) -> NetworkInfo:
        record = self.records.get(name)
        return self._info(record, self.network_damage(name) if deep else [])

    def list(self, deep: bool = True) -> list[NetworkInfo]:
        """`deep` looks for damage: two netlink dumps and, while nobody touched any firewall, one message more."""
        records = self.records.all()
        if not records:
            return []
        if not deep:
            return [self._info(record, []) for record in records]
        host, shared = Host(), self._shared_damage(records)
        from runtime.network.damage import bridge_damage

        return [self._info(record, [*bridge_damage(record, host), *shared]) for record in records]

    def remove(self, name: str) -> None:
        """Raises Conflict while containers are on it. With the last network everything of ours leaves the host."""
        record = self.records.find(name)
        if record is None:
            return
        with locked(self._lock(name)):
            record = self.records.find(name)
            if record is None:
                return
            users = [id for id in self.addresses.members(name) if os.path.isdir(self.layout.run_container(id))]
            if users:
                raise Conflict(f'cannot remove network "{name}": container "{users[0][:12]}" is on it', "stop it first")
            link = Host().links.get(record.bridge)
            if link is not None and link.alias in ("", self.records.alias(name)):
                remove_link(record.bridge)
            remove_file(self.records.zone_network(name))
            remove_file(self.records.claims(name))
            with locked(f"{self.layout.locks}/last-network"):
                last = [one.name for one in self.records.all()] == [name]
                if last:
                    self.foreign.remove()
                self.firewall.remove_network(record, self.names.stop)
                self.records.forget(name)
            if not last:
                self.foreign.place()

    def repair(self, name: str) -> None:
        """Put back whatever `network_damage` names: bridge with its ports, addresses, rules, names."""
        from runtime.network.links import restore_bridge

        record = self.records.get(name)
        self.records.make_directories()
        with locked(self._lock(name)):
            host_links = [
                interface["host_ifname"]
                for id in self.addresses.attached_ids()
                for interface in self.addresses.interfaces(id)
                if interface["network"] == name
            ]
            restore_bridge(record, self.records.alias(name), host_links)
            for link in host_links:
                reflect(link)
            self._ensure_rest(record)
            if self.firewall.damage():
                self.firewall.install()

    def network_damage(self, name: str) -> Damages:
        record = self.records.get(name)
        from runtime.network.damage import bridge_damage

        return [*bridge_damage(record, Host()), *self._shared_damage([record])]

    # ---- containers

    def attach(self, container_id: str, attachments: Sequence[Attachment]) -> Interfaces:
        """Addresses and names of links for a start; a network whose bridge a boot took away is made again first."""
        return self.addresses.attach(container_id, attachments, self._prepare)

    def detach(self, container_id: str) -> None:
        """Addresses back, names, rules and port claims gone."""
        self.publisher.withdraw(container_id, ended=True)
        self.addresses.detach(container_id)
        self.ports.release(container_id)

    def publish(self, container_id: str, endpoint: Endpoint) -> None:
        """From now on names and published ports lead to it, as its health allows."""
        for interface in self.addresses.interfaces(container_id) if endpoint.ports else ():
            reflect(interface["host_ifname"])
        self.publisher.publish(container_id, endpoint)

    def withdraw(self, container_id: str) -> None:
        """Names and published ports lead to it no more; it keeps its addresses and connections."""
        self.publisher.withdraw(container_id, ended=False)

    def is_published(self, container_id: str) -> bool:
        return self.publisher.is_published(container_id)

    def set_health(self, container_id: str, health: str) -> None:
        self.publisher.set_health(container_id, health)

    def publishable(self, networks: Sequence[str]) -> bool:
        """Whether a container on these networks can publish ports: internal networks alone cannot."""
        return any(not self.records.get(name).spec.internal for name in networks)

    def container_damage(self, container_id: str, pid: int, host: Host | None = None) -> Damages:
        interfaces = self.addresses.interfaces(container_id)
        from runtime.network.damage import interface_damage

        return interface_damage(pid, interfaces, host or Host()) if interfaces else []

    def repair_container(self, container_id: str, pid: int) -> None:
        from runtime.network.links import restore_interface

        for interface in self.addresses.interfaces(container_id):
            if not self._bridge_exists(self.records.get(interface["network"])):
                self.repair(interface["network"])
            name = restore_interface(pid, interface, self.layout.link_prefix)
            if name != interface["host_ifname"]:
                self.addresses.rename_link(container_id, interface["host_ifname"], name)
            reflect(name)

    def hosts_and_resolv(
        self,
        container_id: str,
        hostname: str,
        domainname: str,
        extra_hosts: Any,
        dns: Sequence[str],
        interfaces: Sequence[dict[str, Any]],
    ) -> tuple[str, str]:
        """Texts of /etc/hosts and /etc/resolv.conf. With networks, `dns` goes into `Endpoint.dns` instead."""
        hosts = hosts_text(hostname, domainname, extra_hosts, interfaces)
        return hosts, resolv_text(read_host_resolv(), domainname, dns, interfaces)

    # ---- published ports

    def reserve_ports(self, container_id: str, ports: Sequence[Port], group: str) -> PortList:
        """The ports with host ports chosen, each held by a bound socket. Raises PortBusy."""
        self.records.make_directories()
        return self.ports.reserve(container_id, ports, group or container_id)

    def release_ports(self, container_id: str) -> None:
        self.ports.release(container_id)

    def busy_ports(self, ports: Sequence[Port], group: str) -> Lines:
        """Why `reserve_ports` would refuse, a line each."""
        return self.ports.busy(ports, group)

    # ---- the host

    def foreign_rules(self) -> Lines:
        return self.foreign.listing()

    def collect_garbage(self, live: set[str]) -> None:
        """Free what dead containers held; remove links and rules of ours that no record explains."""
        if not os.path.isdir(self.records.run):
            return
        for id in self._claimants() - live:
            with proven_dead(self.layout, id) as dead:
                if dead:
                    self.detach(id)
                    self.publisher.collect(id)
                    self.addresses.collect(id)
        self.ports.restore()
        if self._stray_bridges():
            with locked(self._subnets_lock()):
                for link in self._stray_bridges():
                    remove_link(link)
        for name in list_names(self.layout.zone, prefix="n-"):
            if self.records.find(name) is None:
                remove_file(self.records.zone_network(name))
        if not self.records.all() and self.firewall.exists():
            self.foreign.remove()
            self.firewall.remove_unused(self.names.stop)

    # ---- parts

    def _claimants(self) -> set[str]:
        """Every container that holds anything here, whole or half."""
        return {
            *self.addresses.claimants(),
            *self.publisher.members(),
            *self.ports.holders(),
            *list_names(self.layout.zone, prefix="c-"),
        }

    def _stray_bridges(self) -> Lines:
        """Ours, and of no network. Links are listed before records: a network is recorded before it has a bridge."""
        links = Host().links.values()
        kept = {record.bridge for record in self.records.all()}
        marker, prefix = f"holdfast:{self.layout.id}:", f"{self.layout.link_prefix}b"
        # A kill before the alias is set leaves the name alone to tell.
        ours = [one.name for one in links if (one.alias or one.name).startswith(marker if one.alias else prefix)]
        return [name for name in ours if name not in kept]

    def _taken(self, name: str, bridge: str) -> TakenSpace:
        """What others use: the host's routes, and networks of ours on record whose bridges a boot took or a kill."""
        own = [
            Taken(ip_network(subnet.cidr), f'network "{record.name}"')
            for record in self.records.all()
            if record.name != name
            for subnet in record.subnets
        ]
        return [*taken_space(bridge), *own]

    def _subnets_lock(self) -> str:
        return f"{os.path.dirname(self.layout.run)}/subnets.lock"

    def _lock(self, name: str) -> str:
        return f"{self.layout.locks}/make-{name}"

    def _refuse_shared_bridge(self, spec: NetworkSpec, bridge: str) -> None:
        for other in self.records.all():
            if other.bridge == bridge:
                raise Conflict(
                    f'cannot create network "{spec.name}": bridge "{bridge}" belongs to network "{other.name}"',
                    "choose another bridge name",
                )

    def _bridge_exists(self, record: NetworkRecord) -> bool:
        import socket

        try:
            socket.if_nametoindex(record.bridge)
        except OSError:
            return False
        return os.path.exists(self.records.zone_network(record.name))

    def _prepare(self, record: NetworkRecord) -> None:
        if not self._bridge_exists(record):
            self.create(record.spec)
        self.names.wait(record.gateways)

    def _ensure_bridge(self, record: NetworkRecord) -> NetworkRecord:
        """After a boot another network may sit where ours was: choose again, unless the user chose."""
        try:
            if record.bridge not in Host().links and not self.addresses.members(record.name):
                wish = record.spec if record.spec.subnets else self._same_again(record)
                taken = self._taken(record.name, record.bridge)
                try:
                    plan_subnets(wish, taken, self.layout.id)
                except EngineError:
                    if record.spec.subnets:
                        raise
                    subnets = plan_subnets(record.spec, taken, self.layout.id)
                    record = replace(record, subnets=subnets)
                    self.records.save(record)
            ensure_bridge(record, self.records.alias(record.name))
        except PermissionError:
            raise Unsupported(
                f'cannot create network "{record.name}": not permitted', "Holdfast needs root for networks"
            ) from None
        return record

    def _same_again(self, record: NetworkRecord) -> NetworkSpec:
        return replace(record.spec, subnets=tuple(one.cidr for one in record.subnets), gateways=record.gateways)

    def _ensure_rest(self, record: NetworkRecord) -> None:
        changed = enable_forwarding(any(subnet.version == 6 for subnet in record.subnets))
        if changed:
            # Kept for the report: it is the one setting of the host that is not put back.
            write_json(f"{self.records.run}/forwarding.json", changed)
        self.firewall.add_network(record)
        self.foreign.place()
        write_json(
            self.records.zone_network(record.name),
            {
                "gateways": list(record.gateways),
                "subnets": [subnet.cidr for subnet in record.subnets],
                "internal": record.spec.internal,
            },
        )
        self.names.start()

    def _shared_damage(self, records: Sequence[NetworkRecord]) -> Damages:
        from runtime.network.damage import forwarding_damage

        found = forwarding_damage(any(subnet.version == 6 for record in records for subnet in record.subnets))
        found += [Damage("firewall rules", "as made", text) for text in self.firewall.damage()]
        found += [Damage("accept in another program's chain", text, "missing") for text in self.foreign.missing()]
        if self.names.has_died():
            found.append(Damage("names process", "running", "gone"))
        return found

    def _info(self, record: NetworkRecord, damage: Sequence[Damage]) -> NetworkInfo:
        return NetworkInfo(
            record.name,
            record.spec.labels,
            record.spec.declared,
            record.bridge,
            tuple(subnet.cidr for subnet in record.subnets),
            record.gateways,
            record.spec.internal,
            record.created_at,
            tuple(self.addresses.members(record.name)),
            tuple(damage),
        )


def _different(name: str) -> Conflict:
    return Conflict(
        f'cannot create network "{name}": it exists with other settings', "remove it first, or give the new one a name"
    )
