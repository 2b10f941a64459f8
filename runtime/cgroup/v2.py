"""Cgroup version 2, the unified hierarchy."""

from __future__ import annotations

import os
import time

from runtime.cgroup import devices, files

WANTED = ("cpu", "memory", "pids")
CPU_PERIOD = 100_000


class CgroupV2:
    into_clone = True

    def __init__(self, root: str) -> None:
        self.root = root
        present = files.read(f"{root}/cgroup.controllers").split()
        self.controllers = [name for name in WANTED if name in present]
        self.lacks = [name for name in WANTED if name not in present]
        self._made_parents: set[str] = set()

    kind = "v2"

    def describe(self) -> str:
        return f"v2 ({', '.join(self.controllers) or 'no controllers'})"

    def degraded(self) -> list[str]:
        return [f"no {name} controller: its limits are not enforced" for name in self.lacks]

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def create(self, name: str, resources: dict[str, float], *, all_devices: bool = False) -> bool:
        """Make the cgroup with its limits and its device filter; False when it was there already."""
        self._make_parent(os.path.dirname(name))
        fresh = files.make(self._path(name))
        self.set_limits(name, resources, fresh=fresh)
        if fresh and not all_devices:
            devices.attach(self._path(name))
        return fresh

    def _make_parent(self, parent: str) -> None:
        """Controllers are handed down level by level, in every directory but the leaves that hold processes."""
        if parent in self._made_parents:
            return
        files.make(self._path(parent))
        wanted = " ".join(f"+{name}" for name in self.controllers)
        if wanted:
            for level in ("", *_prefixes(parent)):
                control = (
                    f"{self.root}/{level}/cgroup.subtree_control" if level else f"{self.root}/cgroup.subtree_control"
                )
                if not set(self.controllers) <= set(files.read(control).split()):
                    files.write(control, wanted)
        self._made_parents.add(parent)

    def join_paths(self, name: str, *, all_devices: bool = False) -> list[str]:
        """None: processes are born inside by clone3 (see `open`)."""
        return []

    def join(self, name: str, *, all_devices: bool = False) -> None:
        files.write(f"{self._path(name)}/cgroup.procs", "0")

    def open(self, name: str) -> int:
        """A descriptor for clone3(CLONE_INTO_CGROUP)."""
        return os.open(self._path(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def set_limits(self, name: str, resources: dict[str, float], *, fresh: bool = False) -> None:
        """Write every limit; on a `fresh` cgroup those of none are there already."""
        path = self._path(name)
        cpus, memory = resources.get("cpus") or 0, int(resources.get("memory") or 0)
        reservation, pids = int(resources.get("memory_reservation") or 0), int(resources.get("pids") or 0)
        if "cpu" in self.controllers and (cpus or not fresh):
            quota = str(max(1000, int(cpus * CPU_PERIOD))) if cpus else "max"
            files.write(f"{path}/cpu.max", f"{quota} {CPU_PERIOD}")
        if "memory" in self.controllers:
            if memory or not fresh:
                files.write(f"{path}/memory.max", str(memory or "max"))
                # As much swap as memory, as docker has it; the file is absent without swap accounting.
                if os.path.exists(f"{path}/memory.swap.max"):
                    files.write(f"{path}/memory.swap.max", str(memory or "max"))
            if reservation or not fresh:
                files.write(f"{path}/memory.low", str(reservation))
        if "pids" in self.controllers and (pids or not fresh):
            files.write(f"{path}/pids.max", str(pids or "max"))

    def read_limits(self, name: str) -> dict[str, float]:
        path = self._path(name)
        found: dict[str, float] = {}
        quota, _, period = files.read(f"{path}/cpu.max").partition(" ")
        if quota and period:
            found["cpus"] = 0 if quota == "max" else int(quota) / int(period)
        for key, file in (("memory", "memory.max"), ("memory_reservation", "memory.low"), ("pids", "pids.max")):
            text = files.read(f"{path}/{file}")
            if text:
                found[key] = 0 if text == "max" else int(text)
        return found

    def oom_kills(self, name: str) -> int:
        return files.read_keyed(f"{self._path(name)}/memory.events", "oom_kill")

    def freeze(self, name: str, deadline: float = 5.0) -> None:
        path = self._path(name)
        files.write(f"{path}/cgroup.freeze", "1")
        end = time.monotonic() + deadline
        while not files.read_keyed(f"{path}/cgroup.events", "frozen"):
            if time.monotonic() > end:
                files.write(f"{path}/cgroup.freeze", "0")
                raise TimeoutError("the processes do not freeze")
            time.sleep(0.001)

    def thaw(self, name: str) -> None:
        files.write(f"{self._path(name)}/cgroup.freeze", "0")

    def frozen(self, name: str) -> bool:
        return files.read(f"{self._path(name)}/cgroup.freeze") == "1"

    def processes(self, name: str) -> list[int]:
        return [int(line) for line in files.read(f"{self._path(name)}/cgroup.procs").split()]

    def remove(self, name: str) -> bool:
        self._made_parents.discard(name)
        return files.remove(self._path(name))

    def children(self, name: str) -> list[str]:
        return files.directories(self._path(name))

    def adopt_self(self, name: str) -> None:
        """Move this process out of its starter's cgroup into `name` (once in a keeper's life)."""
        self._make_parent(os.path.dirname(name))
        files.make(self._path(name))
        files.write(f"{self._path(name)}/cgroup.procs", "0")

    def leave_self(self, name: str) -> None:
        files.write(f"{self.root}/cgroup.procs", "0")
        self.remove(name)

    def mounts_inside(self) -> list[tuple[str, bytes, bytes]]:
        return [("", b"cgroup2", b"")]


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: index + 1]) for index in range(len(parts)) if parts[index]]
