"""Finds what a state root left on the host: mounts, links, nftables tables, cgroups and processes that carry its id."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from runtime.layout import Layout


def find_leftovers(layouts: Iterable[Layout]) -> list[str]:
    """One line for each thing of these roots that is still there. Names carry a root's id: other roots never show."""
    roots = list(layouts)
    if not roots:
        return []
    return [
        *_mounts(roots),
        *_links(roots),
        *_cgroups(roots),
        *_processes(roots),
        *_tables(roots),
    ]


def wait_until_clean(layouts: Iterable[Layout], deadline: float = 6.0) -> list[str]:
    """What is left after `deadline` seconds at most: the keeper and the supervisor stay for a moment when idle."""
    roots = list(layouts)
    end = time.monotonic() + deadline
    while (found := find_leftovers(roots)) and time.monotonic() < end:
        time.sleep(0.03)
    return found


def forget_run_directories(layouts: Iterable[Layout]) -> None:
    """Remove the roots' directories on tmpfs; nothing lives there any more once `find_leftovers` is empty."""
    for layout in layouts:
        shutil.rmtree(layout.run, ignore_errors=True)


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")


def _mounts(roots: list[Layout]) -> list[str]:
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [
        f"mount {point}"
        for point in points
        for root in roots
        # A test may put a whole root on a small tmpfs: that mount is the test's own.
        if _below(point, os.path.realpath(root.run)) or (_below(point, root.root) and point != root.root)
    ]


def _links(roots: list[Layout]) -> list[str]:
    names = os.listdir("/sys/class/net")
    return [f"link {name}" for name in names for root in roots if name.startswith(root.link_prefix)]


def _cgroups(roots: list[Layout]) -> list[str]:
    wanted = {root.cgroup for root in roots}
    base = "/sys/fs/cgroup"
    with os.scandir(base) as entries:
        hierarchies = [base, *(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))]
    return [
        f"cgroup {hierarchy}/{name}"
        for hierarchy in hierarchies
        for name in wanted
        if os.path.isdir(f"{hierarchy}/{name}") and _has_children_or_processes(f"{hierarchy}/{name}")
    ]


def _has_children_or_processes(path: str) -> bool:
    """An empty parent directory is kept for the next container; anything below or inside it is a leftover."""
    try:
        with os.scandir(path) as entries:
            if any(entry.is_dir() for entry in entries):
                return True
        return bool(Path(path, "cgroup.procs").read_text().strip())
    except OSError:
        return False


def _processes(roots: list[Layout]) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            groups = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        if any(root.cgroup in groups or root.run in command or root.root in command.split() for root in roots):
            found.append(f"process {pid} {command[:120]}")
    return found


def _tables(roots: list[Layout]) -> list[str]:
    if not any(os.path.isdir(root.root) for root in roots) or shutil.which("nft") is None:
        return []
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    return [f"nftables table {root.table}" for root in roots if f" {root.table}\n" in listed]
