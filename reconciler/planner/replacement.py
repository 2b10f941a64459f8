"""Chooses whether a new container may start before the old one ends, and says why."""

from __future__ import annotations

from typing import Any

from reconciler.model import Resource
from reconciler.observed import Instance
from reconciler.plan import Order


def choose_order(resource: Resource) -> tuple[Order, str]:
    """The manifest's own order wins. Published ports do not stand in the way: replicas share them."""
    spec, policy = resource.spec, resource.policy or {}
    wanted = (policy.get("update") or {}).get("order")
    if wanted in ("start-first", "stop-first"):
        return wanted, "the manifest says so"
    if resource.key.kind == "job" or policy.get("run_to_completion"):
        return "stop-first", "it never runs twice at once"
    if policy.get("container_name"):
        return "stop-first", f"its name {policy['container_name']} is fixed"
    if spec.get("network_mode") == "host":
        return "stop-first", "it uses the host's own ports"
    for item in spec.get("networks") or []:
        fixed = item.get("ipv4") or item.get("ipv6") or item.get("mac")
        if fixed:
            return "stop-first", f"its address {fixed} is fixed"
    for mount in spec.get("mounts") or []:
        if mount.get("read_only"):
            continue
        if mount.get("kind") == "volume" and mount.get("source"):
            return "stop-first", f"volume {mount['source']} must not have two writers"
        if mount.get("kind") == "bind":
            return "stop-first", f"{mount['target']} is a writable bind mount, which must not have two writers"
    return "start-first", "it holds nothing that cannot be shared"


def fixed_ports(spec: Any) -> set[tuple[int, str]]:
    """(host port, protocol) that a service publishes by number."""
    ports = spec.get("ports") or [] if isinstance(spec, dict) else []
    return {(int(port["host_port"]), str(port.get("protocol", "tcp"))) for port in ports if port.get("host_port")}


def published(one: Instance) -> set[tuple[int, str]]:
    """(host port, protocol) that a container holds now."""
    return {(port.host_port, port.protocol) for port in one.state.ports if port.host_port} | fixed_ports(one.spec)
