"""Where everything of one state root lies, and the id that keeps several roots on one host apart."""

from __future__ import annotations

import hashlib
import os

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
        """Make the directories. The root is 0711, secrets 0700, run files 0700."""
        os.makedirs(self.root, mode=0o711, exist_ok=True)
        for path in (
            self.blobs, self.layers, self.images, self.ingest, self.build_cache, self.containers,
            self.volumes, self.networks, self.configs, self.seccomp, self.trash,
        ):  # fmt: skip
            os.makedirs(path, mode=0o711, exist_ok=True)
        os.makedirs(self.secrets, mode=0o700, exist_ok=True)
        os.makedirs(self.run, mode=0o700, exist_ok=True)
        for path in (self.run_containers, self.zone, self.locks):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def container(self, id: str) -> str:
        return f"{self.containers}/{id}"

    def run_container(self, id: str) -> str:
        return f"{self.run_containers}/{id}"

    @property
    def boot_marker(self) -> str:
        """A file on tmpfs made by the first command after a boot; its absence means run-time state is gone."""
        return f"{self.run}/booted"
