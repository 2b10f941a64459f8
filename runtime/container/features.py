"""What a container needs of the host: told by name, and before anything is made, where the host lacks it."""

from __future__ import annotations

import os

from runtime import api
from runtime.errors import StartFailed, Unsupported

CGROUP_ROOT = "/sys/fs/cgroup"
FILESYSTEMS = "/proc/filesystems"
_CONTROLLERS = {"cpus": "cpu", "memory": "memory", "memory_reservation": "memory", "pids": "pids"}


def check_cgroups(name: str, resources: api.Resources) -> None:
    """Raises Unsupported: a limit that nothing enforces is no limit."""
    wanted = [key for key in _CONTROLLERS if getattr(resources, key)]
    if not wanted and _has_entries(CGROUP_ROOT):
        return
    from runtime import cgroup  # not on the path of a plain start

    found = cgroup.detect()
    if isinstance(found, cgroup.CgroupV2) and not os.path.exists(f"{found.root}/cgroup.procs"):
        raise Unsupported(
            f'cannot create container "{name}": no cgroup hierarchy is mounted',
            f"mount -t cgroup2 cgroup2 {CGROUP_ROOT}",
        )
    for key in wanted:
        controller = _CONTROLLERS[key]
        if controller in found.lacks:
            raise Unsupported(
                f'cannot create container "{name}": its limit of {key} cannot be kept, because the {controller} '
                "controller of cgroups is missing",
                f"boot with cgroup_enable={controller}, or have it delegated to this machine; or set no such limit",
            )


def _has_entries(directory: str) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def explain_failure(error: StartFailed) -> StartFailed | None:
    """Better words for a failed set-up whose cause is the kernel; the kernel loads the module itself when it can."""
    if error.exit_code == 125 and not has_filesystem("overlay"):
        return StartFailed(
            f"{error.message}; this kernel has no overlayfs",
            "load it with `modprobe overlay`, or boot a kernel that has it",
        )
    return None


def has_filesystem(name: str) -> bool:
    """Present now: one that is a module, and was never used, is not."""
    with open(FILESYSTEMS) as file:
        return any(line.split()[-1] == name for line in file)
