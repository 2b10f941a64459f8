"""Control groups of containers: what this host has, and the same verbs on version 1 and version 2.

A cgroup's name is relative to the hierarchy: "<root's cgroup>/<container id>". "<root's cgroup>/keeper" holds keeper
and supervisor, so that they outlive the cgroup of whoever started them.
"""

from __future__ import annotations

import os

from runtime.cgroup.v1 import CgroupV1
from runtime.cgroup.v2 import CgroupV2

__all__ = ("CgroupV1", "CgroupV2", "detect", "normal_limits", "read_limits", "sweep_cgroups")

CGROUP_ROOT = "/sys/fs/cgroup"
KEEPER = "keeper"
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

LIMITS = ("cpus", "memory", "memory_reservation", "pids")


def detect(mountinfo: str = "/proc/self/mountinfo") -> CgroupV1 | CgroupV2:
    """Version 2 where its root has controllers or stands alone, else version 1 (pure or hybrid)."""
    controllers: dict[str, str] = {}
    unified = ""
    with open(mountinfo) as file:
        for line in file:
            left, _, right = line.partition(" - ")
            fstype, _, options = right.split(" ", 2)
            point = left.split(" ")[4]
            if fstype == "cgroup2" and not unified:
                unified = point
            elif fstype == "cgroup":
                for option in options.strip().split(","):
                    controllers.setdefault(option, point)
    if any(name in controllers for name in ("cpu", "memory", "pids")):
        return CgroupV1(controllers, unified)
    return CgroupV2(unified or CGROUP_ROOT)


def read_limits(root_cgroup: str, id: str) -> dict[str, float]:
    """A container's present limits ("cpus", "memory", "memory_reservation", "pids"; 0 is none), as the kernel has them.

    A key is absent when its controller is; {} when the cgroup is gone. The kernel rounds memory down to pages.
    """
    return detect().read_limits(f"{root_cgroup}/{id}")


def normal_limits(resources: dict[str, float]) -> dict[str, float]:
    """`resources` as `read_limits` reports them once set: memory in whole pages, CPU time in microseconds."""
    page = os.sysconf("SC_PAGE_SIZE")
    found: dict[str, float] = {}
    for name in LIMITS:
        value = resources.get(name) or 0
        if name in ("memory", "memory_reservation"):
            value = int(value) // page * page
        elif name == "cpus":
            value = max(1000, int(value * 100_000)) / 100_000 if value else 0
        found[name] = value
    return found


def sweep_cgroups(root_cgroup: str, abandoned: Callable[[str], AbstractContextManager[bool]]) -> list[str]:
    """Remove the cgroups that are `abandoned`, and the root's own when nothing is left in it.

    `abandoned(name)` tells whether nobody uses the cgroup, and keeps it so while its block lasts: a new cgroup is empty
    until its process joins. `KEEPER` stands for all of the root: without a keeper nobody can start anything.
    Returns the names removed. A cgroup with processes stays: it is not ours to kill them from here.
    """
    cgroups = detect()
    removed = []
    for name in cgroups.children(root_cgroup):
        with abandoned(name) as gone:
            if gone and cgroups.remove(f"{root_cgroup}/{name}"):
                removed.append(name)
    with abandoned(KEEPER) as gone:
        if gone and not cgroups.children(root_cgroup):
            cgroups.remove(root_cgroup)
    return sorted(removed)
