"""Looks at everything below a state root and reports it as values; changes nothing."""

from __future__ import annotations

import dataclasses
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runtime import api
from runtime.cgroup import detect, normal_limits
from runtime.container.lifecycle import image_config
from runtime.container.spec import health_check, resources_request
from runtime.container.store import ContainerRecord, ContainerStore
from runtime.files import read_json
from runtime.image.store import ImageRecord, ImageStore
from runtime.layout import Layout
from runtime.network import Networks

if TYPE_CHECKING:
    from runtime.network.host import Host


class Observer:
    """One look; built anew for each snapshot so that nothing is remembered."""

    def __init__(self, layout: Layout, store: ContainerStore, images: ImageStore, networks: Networks) -> None:
        self.layout = layout
        self.store = store
        self.images = images
        self.networks = networks
        self._cgroups = detect()
        self._images: dict[str, ImageRecord | None] = {}

    def container(self, record: ContainerRecord, deep: bool) -> api.ContainerState:
        id = record.id
        pid = self.store.live_pid(id)
        starts, runs = self.store.runs(id)
        status: api.ContainerStatus = "created" if not runs else "stopped"
        if pid:
            status = "paused" if os.path.exists(self.store.run_file(id, "paused")) else "running"
        check = self._health_check(record)
        net = (read_json(self.store.run_file(id, "net")) or {}) if pid else {}
        health, detail = self._health(id, check) if pid else ("none", "")
        damage: tuple[api.Damage, ...] = ()
        if not pid and runs and not runs[-1].finished_at:
            damage = (self._unclean(id),)
        elif pid and deep:
            damage = (*self._limits_damage(record), *self._network_damage(record, pid))
        return api.ContainerState(
            id=id,
            name=record.name,
            image=record.spec.image,
            image_id=record.image_id,
            labels=record.labels,
            declared=record.declared,
            status=status,
            created_at=record.created_at,
            pid=pid,
            runs=tuple(runs),
            starts=starts,
            health=health,
            health_detail=detail,
            addresses=self._addresses(record, net.get("interfaces", [])),
            ports=tuple(api.Port(**port) for port in net["ports"]) if net.get("ports") else record.spec.ports,
            health_check=check,
            intent=self.store.intent(id),
            damage=damage,
            auto_remove=record.spec.auto_remove,
        )

    def _unclean(self, id: str) -> api.Damage:
        """A run without an end: the machine went down, or keeper and supervisor died with the container."""
        return api.Damage("unclean-boot", "an exit record", "none: its writable layer may be torn")

    def _health_check(self, record: ContainerRecord) -> api.HealthCheck | None:
        if record.image_id not in self._images:
            self._images[record.image_id] = self.images.get(record.image_id)
        image = self._images[record.image_id]
        return health_check(record.spec, image_config(image) if image else {})

    def _health(self, id: str, check: api.HealthCheck | None) -> tuple[api.Health, str]:
        value = read_json(self.store.run_file(id, "health"))
        if value is not None:
            return value["health"], value["detail"]
        return ("starting" if check else "none"), ""

    def _addresses(self, record: ContainerRecord, interfaces: list[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
        return {
            attachment.network: tuple(address.partition("/")[0] for address in interface["addresses"])
            for attachment, interface in zip(record.spec.networks, interfaces, strict=False)
        }

    def _limits_damage(self, record: ContainerRecord) -> tuple[api.Damage, ...]:
        actual = self._cgroups.read_limits(f"{self.layout.cgroup}/{record.id}")
        wanted = normal_limits(resources_request(record.spec.resources))
        return tuple(
            api.Damage(f"limit {name}", str(wanted[name]), str(actual[name]))
            for name in wanted
            if name in actual and wanted[name] != actual[name]
        )

    def _network_damage(self, record: ContainerRecord, pid: int) -> tuple[api.Damage, ...]:
        if not record.spec.networks or record.spec.network_mode != "bridge":
            return ()
        found = self.networks.container_damage(record.id, pid, self._host)
        if not self.networks.is_published(record.id):
            from runtime.network.liveness import is_in_hand

            # Whoever has it in hand is about to publish it, or has just withdrawn it. Looked at twice: it may be done.
            free = not is_in_hand(self.layout, record.id) and self.store.live_pid(record.id) == pid
            if free and not self.networks.is_published(record.id):
                found.append(api.Damage("names and published ports", "lead to it", "do not"))
        return tuple(found)

    @cached_property
    def _host(self) -> Host:
        """The host's links and addresses, read once for all containers of this look."""
        from runtime.network.host import Host

        return Host()

    def volumes(self, found: list[api.VolumeInfo], records: list[ContainerRecord]) -> tuple[api.VolumeInfo, ...]:
        users: dict[str, list[str]] = {}
        for record in records:
            for mount in record.spec.mounts:
                if mount.kind == "volume":
                    users.setdefault(mount.source, []).append(record.id)
        return tuple(dataclasses.replace(volume, users=tuple(users.get(volume.name, ()))) for volume in found)
