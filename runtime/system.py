"""What this host can do for the engine, and what the state root holds."""

from __future__ import annotations

import os
import platform
from typing import Any

from runtime import cgroup
from runtime.container.features import has_filesystem
from runtime.container.store import ContainerStore
from runtime.image.store import ImageStore
from runtime.layout import Layout
from runtime.network import Networks
from runtime.snapshot.overlay import tree_size


def describe_host(layout: Layout, networks: Networks) -> dict[str, Any]:
    """Facts for `system info`; `degraded` holds one clear line for each thing that works less well here."""
    found = cgroup.detect()
    degraded: list[str] = []
    overlay = has_filesystem("overlay")
    if not overlay:
        degraded.append("overlayfs is not loaded: containers cannot start where it is missing (modprobe overlay)")
    if not networks.nft.is_installed():
        degraded.append("neither libnftables nor nft is there: networks cannot be made (install nftables)")
    degraded.extend(f"cgroup: {line}" for line in found.degraded())
    if not _bounding_set() >> 24 & 1:
        degraded.append("CAP_SYS_RESOURCE is missing: limits above this process's own hard limits cannot be raised")
    return {
        "root": layout.root,
        "run": layout.run,
        "id": layout.id,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cgroup": found.describe(),
        "overlay": overlay,
        "seccomp": os.path.exists("/proc/sys/kernel/seccomp/actions_avail"),
        "networks": len(networks.list(deep=False)),
        "foreign_rules": networks.foreign_rules(),
        "degraded": degraded,
    }


def _bounding_set() -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("CapBnd:"):
                return int(line.split()[1], 16)
    return 0


def disk_usage(layout: Layout, images: ImageStore, store: ContainerStore) -> dict[str, Any]:
    """Bytes by kind, with the shared part of images told from the unique one."""
    return {
        "images": images.usage(),
        "containers": {
            record.id: {
                "name": record.name,
                "writable": tree_size(f"{layout.container(record.id)}/upper"),
                "log": tree_size(f"{layout.container(record.id)}/log"),
            }
            for record in store.all()
        },
        "volumes": {name: tree_size(f"{layout.volumes}/{name}/_data") for name in sorted(os.listdir(layout.volumes))},
        "build_cache": tree_size(layout.build_cache),
        "trash": tree_size(layout.trash),
    }
