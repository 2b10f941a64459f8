"""What must hold inside one service and between the services and networks of a stack."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reconciler.desired.workload import published_ports, replicas
from reconciler.model import Mark, Problem

if TYPE_CHECKING:
    from reconciler.manifest.documents import Document


def check_workload(document: Document, problems: list[Problem]) -> None:
    """Attributes that contradict each other."""
    spec, deploy = document.spec, document.spec.deploy

    def report(attribute: str, message: str) -> None:
        problems.append(Problem(f"{document.title}: {attribute}: {message}", document.where(attribute)))

    if spec.networks is not None and spec.network_mode is not None:
        report("network_mode", f'"{spec.network_mode}" and networks exclude each other')
    if spec.ports and spec.network_mode in ("none", "host"):
        report("ports", f'cannot be published with network_mode "{spec.network_mode}"')
    if spec.network_mode == "host" and any(name.startswith("net.") for name in spec.sysctls):
        report("sysctls", 'settings of "net." would change the host with network_mode "host"')
    limits = deploy.resources.limits if deploy else None
    reservations = deploy.resources.reservations if deploy else None
    twice = (
        ("mem_limit", spec.mem_limit, limits.memory if limits else 0, "deploy.resources.limits.memory"),
        ("cpus", spec.cpus, limits.cpus if limits else 0, "deploy.resources.limits.cpus"),
        ("pids_limit", spec.pids_limit, limits.pids if limits else 0, "deploy.resources.limits.pids"),
        (
            "mem_reservation",
            spec.mem_reservation,
            reservations.memory if reservations else 0,
            "deploy.resources.reservations.memory",
        ),
        ("scale", spec.scale, (deploy.replicas if deploy else None), "deploy.replicas"),
    )
    for attribute, first, second, other in twice:
        if first is not None and second not in (None, 0) and first != second:
            report(attribute, f"{first} contradicts {other}, which is {second}")
    count = replicas(spec)
    if count > 1 and document.kind == "Service":
        if spec.container_name:
            report("container_name", f"one name cannot serve {count} replicas")
        fixed = [
            name
            for name, entry in (spec.networks or {}).items()
            if entry.ipv4_address or entry.ipv6_address or entry.mac_address
        ]
        if fixed:
            report("networks", f'{count} replicas cannot share the fixed address on network "{fixed[0]}"')
    if document.kind == "Job":
        if spec.restart in ("always", "unless-stopped"):
            report("restart", f'a job runs to its end, so it cannot be "{spec.restart}": no or on-failure')
        if count != 1:
            report("deploy" if deploy and deploy.replicas is not None else "scale", "a job has no replicas")
        if deploy and deploy.restart_policy is not None:
            report("deploy", "a job is restarted by backoff_limit, not by restart_policy")
    _check_addresses(document, problems)
    if document.name in spec.depends_on:
        where = document.where("depends_on", document.name, at_key=True)
        problems.append(Problem(f"{document.title}: depends_on: it depends on itself", where))
    memory = spec.mem_limit or (limits.memory if limits else 0)
    if 0 < memory < 512 << 10:
        report("mem_limit" if spec.mem_limit else "deploy", f"{memory} bytes of memory are too few for any program")


def _check_addresses(document: Document, problems: list[Problem]) -> None:
    for name, entry in (document.spec.networks or {}).items():
        for attribute, address, version in (
            ("ipv4_address", entry.ipv4_address, 4),
            ("ipv6_address", entry.ipv6_address, 6),
        ):
            if address and ipaddress.ip_address(address).version != version:
                where = document.where("networks", name, attribute)
                problems.append(
                    Problem(f'{document.title}: networks: "{address}" is not an IPv{version} address', where)
                )


def check_ports(documents: Sequence[Document], problems: list[Problem]) -> None:
    """No two services, and no two ports of one, may want the same host port."""
    taken: dict[tuple[str, int], list[tuple[str, Document, Any, Mark]]] = {}
    for document in documents:
        for index, port in published_ports(document.spec):
            if not port.published:
                continue
            where = document.where("ports", index)
            users = taken.setdefault((port.protocol, port.published), [])
            for address, other, entry, mark in users:
                if _overlap(address, port.host_ip):
                    shown = f"{port.host_ip or '*'}:{port.published}/{port.protocol}"
                    whose = (
                        f"{other.title} at {mark}"
                        if other is not document
                        else f"container port {entry.target} at {mark}"
                    )
                    problems.append(
                        Problem(f"{document.title}: ports: host port {shown} is already published by {whose}", where)
                    )
                    break
            users.append((port.host_ip, document, port, where))


def _overlap(first: str, second: str) -> bool:
    if first == second or not first or not second:
        return True
    a, b = ipaddress.ip_address(first), ipaddress.ip_address(second)
    return a.version == b.version and (a.is_unspecified or b.is_unspecified)


def check_networks(documents: Sequence[Document], problems: list[Problem]) -> None:
    """Subnets of one stack may not overlap."""
    taken: list[tuple[Any, Document, Mark]] = []
    for document in documents:
        for index, entry in enumerate(document.spec.ipam.config):
            if entry.subnet is None:
                continue
            subnet = ipaddress.ip_network(entry.subnet)
            where = document.where("ipam", "config", index, "subnet")
            for other, owner, mark in taken:
                if other.version == subnet.version and other.overlaps(subnet):
                    problems.append(
                        Problem(f"{document.title}: subnet {subnet} overlaps {other} of {owner.title} at {mark}", where)
                    )
            taken.append((subnet, document, where))
