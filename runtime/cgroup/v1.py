"""Cgroup version 1, alone or beside a version 2 hierarchy without controllers (hybrid)."""

from __future__ import annotations

import os
import time

from runtime.cgroup import devices, files

USED = ("cpu", "memory", "pids", "devices", "freezer")
CPU_PERIOD = 100_000
UNLIMITED = 1 << 62
"""Memory limits from here on mean none: the kernel shows the largest page-aligned long."""


class CgroupV1:
    """`controllers`: controller -> mount point. A container joins only the hierarchies in USED that exist."""

    into_clone = False

    def __init__(self, controllers: dict[str, str], unified: str = "") -> None:
        self.controllers = {name: controllers[name] for name in USED if name in controllers}
        self.unified = unified
        # A service manager keeps its books in these: the keeper leaves its starter's cgroup there too.
        self.books = [point for point in (controllers.get("name=systemd", ""), unified) if point]
        self.lacks = [name for name in USED if name not in controllers]
        self._made_parents: set[str] = set()

    @property
    def kind(self) -> str:
        return "hybrid" if self.unified else "v1"

    def describe(self) -> str:
        return f"{self.kind} ({', '.join(self.controllers)})"

    def degraded(self) -> list[str]:
        return [f"no {name} controller: its limits are not enforced" for name in self.lacks]

    def _path(self, controller: str, name: str) -> str:
        return f"{self.controllers[controller]}/{name}"

    def _points(self) -> list[str]:
        return list(dict.fromkeys(self.controllers.values()))

    def create(self, name: str, resources: dict[str, float], *, all_devices: bool = False) -> bool:
        """Make the cgroup with its limits; False when it was there already (its counters are not at zero).

        Devices are denied by default, once in the parent: children inherit its list when they are made. A cgroup
        for `all_devices` is made in no devices hierarchy at all, since a child cannot be allowed more.
        """
        self._make_parent(os.path.dirname(name))
        fresh = True
        skipped = self.controllers.get("devices") if all_devices else None
        for point in self._points():
            if point != skipped:
                fresh = files.make(f"{point}/{name}") and fresh
        self.set_limits(name, resources, fresh=fresh)
        return fresh

    def _make_parent(self, parent: str) -> None:
        if parent in self._made_parents:
            return
        for point in self._points():
            made = files.make(f"{point}/{parent}")
            if made and point == self.controllers.get("devices"):
                files.write(f"{point}/{parent}/devices.deny", "a")
                for rule in devices.RULES:
                    files.write(f"{point}/{parent}/devices.allow", rule)
        self._made_parents.add(parent)

    def join_paths(self, name: str, *, all_devices: bool = False) -> list[str]:
        """Files into which the joining process itself writes "0".

        `tasks`, not cgroup.procs: a single thread that moves itself takes no threadgroup lock, so that it does not
        wait 12-15 ms for RCU.
        """
        skipped = self.controllers.get("devices") if all_devices else None
        return [f"{point}/{name}/tasks" for point in self._points() if point != skipped]

    def join(self, name: str, *, all_devices: bool = False) -> None:
        for path in self.join_paths(name, all_devices=all_devices):
            files.write(path, "0")

    def rename(self, name: str, new: str) -> None:
        """With the processes inside: a third of what making and joining cost. OSError when `new` is there already."""
        for point in self._points():
            os.rename(f"{point}/{name}", f"{point}/{new}")

    def open(self, name: str) -> int:
        """No descriptor to clone into: the child joins by itself."""
        return -1

    def set_limits(self, name: str, resources: dict[str, float], *, fresh: bool = False) -> None:
        """Write every limit; on a `fresh` cgroup those of none are there already."""
        cpus, memory = resources.get("cpus") or 0, int(resources.get("memory") or 0)
        reservation, pids = int(resources.get("memory_reservation") or 0), int(resources.get("pids") or 0)
        if "cpu" in self.controllers and (cpus or not fresh):
            path = self._path("cpu", name)
            files.write(f"{path}/cpu.cfs_period_us", str(CPU_PERIOD))
            files.write(f"{path}/cpu.cfs_quota_us", str(max(1000, int(cpus * CPU_PERIOD)) if cpus else -1))
        if "memory" in self.controllers:
            path = self._path("memory", name)
            if memory or not fresh:
                self._set_memory(path, memory)
            if reservation or not fresh:
                files.write(f"{path}/memory.soft_limit_in_bytes", str(reservation or -1))
        if "pids" in self.controllers and (pids or not fresh):
            files.write(f"{self._path('pids', name)}/pids.max", str(pids or "max"))

    def _set_memory(self, path: str, memory: int) -> None:
        """Memory plus swap is twice the memory, as docker has it; the kernel wants the sum never below the memory."""
        writes = [
            (f"{path}/memory.limit_in_bytes", str(memory or -1)),
            (f"{path}/memory.memsw.limit_in_bytes", str(2 * memory or -1)),
        ]
        swap = os.path.exists(writes[1][0])
        if not swap:
            files.write(*writes[0])
            return
        try:
            files.write(*writes[0])
        except OSError:
            files.write(*writes[1])
            files.write(*writes[0])
        else:
            files.write(*writes[1])

    def read_limits(self, name: str) -> dict[str, float]:
        found: dict[str, float] = {}
        if "cpu" in self.controllers:
            quota = files.read(f"{self._path('cpu', name)}/cpu.cfs_quota_us")
            period = files.read(f"{self._path('cpu', name)}/cpu.cfs_period_us")
            if quota and period:
                found["cpus"] = max(0, int(quota)) / int(period)
        if "memory" in self.controllers:
            for key, file in (("memory", "limit"), ("memory_reservation", "soft_limit")):
                text = files.read(f"{self._path('memory', name)}/memory.{file}_in_bytes")
                if text:
                    found[key] = int(text) if int(text) < UNLIMITED else 0
        if "pids" in self.controllers:
            text = files.read(f"{self._path('pids', name)}/pids.max")
            if text:
                found["pids"] = 0 if text == "max" else int(text)
        return found

    def oom_kills(self, name: str) -> int:
        if "memory" not in self.controllers:
            return 0
        return files.read_keyed(f"{self._path('memory', name)}/memory.oom_control", "oom_kill")

    def freeze(self, name: str, deadline: float = 5.0) -> None:
        path = f"{self._path('freezer', name)}/freezer.state"
        end = time.monotonic() + deadline
        files.write(path, "FROZEN")
        while files.read(path) != "FROZEN":
            if time.monotonic() > end:
                files.write(path, "THAWED")
                raise TimeoutError("the processes do not freeze")
            time.sleep(0.001)
            files.write(path, "FROZEN")  # the kernel tries again only when asked again

    def thaw(self, name: str) -> None:
        files.write(f"{self._path('freezer', name)}/freezer.state", "THAWED")

    def frozen(self, name: str) -> bool:
        if "freezer" not in self.controllers:
            return False
        return files.read(f"{self._path('freezer', name)}/freezer.state") in ("FROZEN", "FREEZING")

    def processes(self, name: str) -> list[int]:
        for point in self._points():
            text = files.read(f"{point}/{name}/cgroup.procs")
            if text:
                return [int(line) for line in text.split()]
        return []

    def remove(self, name: str) -> bool:
        """False while something still pins one of the directories."""
        self._made_parents.discard(name)
        results = [files.remove(f"{point}/{name}") for point in dict.fromkeys([*self._points(), *self.books])]
        return all(results)

    def children(self, name: str) -> list[str]:
        found: dict[str, None] = {}
        for point in [*self._points(), *self.books]:
            found.update(dict.fromkeys(files.directories(f"{point}/{name}")))
        return list(found)

    def adopt_self(self, name: str) -> None:
        """Move this process out of its starter's cgroups into `name`, in all hierarchies that limit or keep books."""
        for point in [*self._points(), *self.books]:
            if point == self.controllers.get("devices"):
                continue
            files.make(f"{point}/{name}")
            # A v2 hierarchy has no tasks file, and this happens once in a keeper's life.
            file = "cgroup.procs" if point == self.unified else "tasks"
            files.write(f"{point}/{name}/{file}", "0")

    def leave_self(self, name: str) -> None:
        """Back to the roots, and the directory goes."""
        for point in [*self._points(), *self.books]:
            if point != self.controllers.get("devices"):
                files.write(f"{point}/{'cgroup.procs' if point == self.unified else 'tasks'}", "0")
        self.remove(name)

    def mounts_inside(self) -> list[tuple[str, bytes, bytes]]:
        """What a container sees under /sys/fs/cgroup: (directory, file system, options), its own part only."""
        return [
            (os.path.basename(self.controllers[name]), b"cgroup", os.path.basename(self.controllers[name]).encode())
            for name in ("cpu", "memory", "pids")
            if name in self.controllers
        ]
