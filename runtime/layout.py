"""Where everything of one state root lies, and the id that keeps several roots on one host apart."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from functools import cached_property

from runtime.errors import Unsupported

RUN_BASE = "/run/holdfast"
DEFAULT_ROOT = "/var/lib/holdfast"


class Layout:
    """Paths of a state root (durable, on disk) and of its run directory (tmpfs, gone after a boot).

    `id` is eight hex digits of the root's real path; every bridge, table, cgroup and run directory carries it.
    """

    def __init__(self, root: str = DEFAULT_ROOT, run_base: str = RUN_BASE) -> None:
        self.root = os.path.realpath(root)
        self.id = hashlib.sha256(self.root.encode()).hexdigest()[:8]
        self.run = f"{run_base}/{self.id}"
        # durable
        self.blobs = f"{self.root}/blobs/sha256"
        self.layers = f"{self.root}/layers"
        self.images = f"{self.root}/images"
        self.ingest = f"{self.root}/ingest"
        self.build_cache = f"{self.root}/build-cache"
        self.containers = f"{self.root}/containers"
        self.volumes = f"{self.root}/volumes"
        self.networks = f"{self.root}/networks"
        self.configs = f"{self.root}/configs"
        self.secrets = f"{self.root}/secrets"
        self.seccomp = f"{self.root}/seccomp"
        self.trash = f"{self.root}/trash"
        self.state_db = f"{self.root}/state.db"
        # run time
        self.socket = f"{self.run}/supervisor.sock"
        self.agent_socket = f"{self.run}/agent.sock"
        self.run_containers = f"{self.run}/containers"
        self.zone = f"{self.run}/zone"
        self.locks = f"{self.run}/locks"
        # host objects
        self.table = f"holdfast_{self.id}"
        self.cgroup = f"holdfast-{self.id}"
        self.link_prefix = f"hf{self.id[:4]}"

    def create(self) -> None:
        """Make the directories. The root is 0711 for those that a bootstrap drops its privileges to.

        Below, what containers write is for root alone: a host user who could walk to it would run the set-uid programs
        that a container made, and read its volumes (CVE-2021-41091).
        """
        os.makedirs(self.root, mode=0o711, exist_ok=True)
        for path in (
            os.path.dirname(self.blobs), self.blobs,
            self.layers, self.images, self.ingest, self.build_cache, self.networks, self.seccomp,
        ):  # fmt: skip
            os.makedirs(path, mode=0o711, exist_ok=True)
        for path in (self.containers, self.volumes, self.configs, self.secrets, self.trash):
            os.makedirs(path, mode=0o700, exist_ok=True)
        self._forget_former_boot()
        os.makedirs(self.run, mode=0o700, exist_ok=True)
        for path in (self.run_containers, self.zone, self.locks):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def container(self, id: str) -> str:
        return f"{self.containers}/{id}"

    def run_container(self, id: str) -> str:
        return f"{self.run_containers}/{id}"

    def _forget_former_boot(self) -> None:
        """Where /run is no tmpfs, run files outlive a boot and would name processes that are others by now."""
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read()
        marker = f"{self.run}/boot"
        if _read(marker) == boot:
            return
        base = os.path.dirname(self.run)
        _make_in_memory(base)
        lock = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _read(marker) != boot:
                import shutil

                shutil.rmtree(self.run, ignore_errors=True)
                os.makedirs(self.run, mode=0o700)
                with open(marker, "w") as file:
                    file.write(boot)
        finally:
            os.close(lock)

    @cached_property
    def run_secrets(self) -> str:
        """A directory that is never on a disk; "" where the run directory is on one."""
        return f"{self.run}/secrets" if _is_memory(self.run) else ""


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _make_in_memory(base: str) -> None:
    """Make `base`, as a link into /dev/shm where its own file system is a disk: renames there would wait for a journal,
    and secrets would be written to it."""
    if os.path.isdir(base):
        return
    parent, shared = os.path.dirname(base), "/dev/shm"
    os.makedirs(parent, exist_ok=True)
    if _is_memory(parent) or not os.path.isdir(shared) or not _is_memory(shared):
        os.makedirs(base, mode=0o711, exist_ok=True)
        return
    target = f"{shared}/{os.path.basename(base)}"
    try:
        os.mkdir(target, 0o711)
    except FileExistsError:
        pass
    # /dev/shm is open to everybody: a directory that another user put there first must not become ours.
    status = os.lstat(target)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Unsupported(f"cannot use {target} for run-time files: it is not a directory of ours", "remove it")
    try:
        os.symlink(target, base)
    except FileExistsError:
        pass


def _is_memory(path: str) -> bool:
    """Whether the file system that holds `path` is tmpfs or ramfs (proc(5): mountinfo)."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            if fields.split(" ", 3)[2] == wanted:
                return rest.split(" ", 1)[0] in ("tmpfs", "ramfs")
    return False
