"""The engines we are measured against, each with the same busybox root filesystem, each in directories of its own.

Debian packages: docker.io, docker-compose, podman, crun. A peer that is not installed is left out and said so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from runtime import syscalls

CLONE_NEWNS = 0x00020000
BUSYBOX = "/usr/bin/busybox"
APPLETS = ("sh", "true", "sleep")


def make_rootfs(path: Path) -> Path:
    """A root filesystem of one static busybox."""
    (path / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for applet in APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    for name in ("proc", "sys", "dev", "tmp", "etc"):
        (path / name).mkdir()
    return path


def run_quietly(argv: list[str], **options: object) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


class Docker:
    """A dockerd of our own: nothing of the machine's is touched, but its chains in the ip filter table."""

    name = "docker run --rm"

    def __init__(self, base: Path, rootfs: Path) -> None:
        self.base = base
        self.binary = "/usr/bin/docker"
        self.host = f"unix://{base}/sock"
        base.mkdir()
        self.daemon = subprocess.Popen(
            [
                "dockerd", "--data-root", f"{base}/data", "--exec-root", f"{base}/exec", "--pidfile", f"{base}/pid",
                "--host", self.host,
            ],
            stdout=(base / "log").open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while subprocess.run([*self.docker, "version"], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or self.daemon.poll() is not None:
                raise RuntimeError((base / "log").read_text()[-2000:])
            time.sleep(0.1)
        archive = subprocess.run(["tar", "-C", str(rootfs), "-c", "."], capture_output=True, check=True).stdout
        run_quietly([*self.docker, "import", "-", "bench"], input=archive)

    @property
    def docker(self) -> list[str]:
        return [self.binary, "-H", self.host]

    def run_once(self) -> None:
        run_quietly([*self.docker, "run", "--rm", "bench", "/bin/true"])

    def compose(self, file: Path, *arguments: str) -> None:
        run_quietly(
            ["docker-compose", "-H", self.host, "-f", str(file), *arguments],
            env={**os.environ, "COMPOSE_HTTP_TIMEOUT": "300", "COMPOSE_PARALLEL_LIMIT": "64"},
        )

    def close(self) -> None:
        self.daemon.terminate()
        self.daemon.wait(60)
        shutil.rmtree(self.base, ignore_errors=True)
        for command in (["ip", "link", "del", "docker0"],):
            subprocess.run(command, capture_output=True, check=False)


class Podman:
    name = "podman run --rm"

    def __init__(self, base: Path, rootfs: Path) -> None:
        self.base = base
        # crun, its default runtime, refuses the hybrid cgroup layout; runc takes every layout.
        runtime = ["--runtime", "runc", "--cgroup-manager", "cgroupfs"]
        self.podman = ["podman", *runtime, "--root", f"{base}/root", "--runroot", f"{base}/run"]
        archive = subprocess.run(["tar", "-C", str(rootfs), "-c", "."], capture_output=True, check=True).stdout
        run_quietly([*self.podman, "import", "-", "bench"], input=archive)

    def run_once(self) -> None:
        # Its default limits exceed what a root without CAP_SYS_RESOURCE may set.
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
        run_quietly([*self.podman, "run", "--rm", *limits, "bench", "/bin/true"])

    def close(self) -> None:
        subprocess.run([*self.podman, "system", "reset", "--force"], capture_output=True, check=False)
        shutil.rmtree(self.base, ignore_errors=True)
        subprocess.run(["ip", "link", "del", "cni-podman0"], capture_output=True, check=False)


class Crun:
    """The fastest bare runtime: it sets up no network, no overlay, no seccomp filter and no log."""

    name = "crun run"

    def __init__(self, base: Path, rootfs: Path) -> None:
        self.base = base
        base.mkdir()
        shutil.copytree(rootfs, base / "rootfs", symlinks=True)
        subprocess.run(["crun", "spec"], cwd=base, check=True)
        config = json.loads((base / "config.json").read_text())
        config["process"]["args"] = ["/bin/true"]
        config["process"]["terminal"] = False
        config["process"].pop("rlimits", None)
        (base / "config.json").write_text(json.dumps(config))
        self.count = 0
        # crun refuses a hybrid layout whose version 2 hierarchy has controllers: show it the version 1 ones alone.
        self.view = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", "umount /sys/fs/cgroup/unified; echo ready; exec sleep 100000"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.view.stdout is not None
        self.view.stdout.readline()
        self.namespace = os.open(f"/proc/{self.view.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def run_once(self) -> None:
        self.count += 1
        run_quietly(["crun", "run", "-b", str(self.base), f"bench-{os.getpid()}-{self.count}"], preexec_fn=self._enter)

    def _enter(self) -> None:
        syscalls.setns(self.namespace, CLONE_NEWNS)

    def close(self) -> None:
        os.close(self.namespace)
        self.view.kill()
        self.view.wait()
        shutil.rmtree(self.base, ignore_errors=True)


def available(base: Path, rootfs: Path) -> list[Docker | Podman | Crun]:
    """Those that are installed and start; the others are named on standard error."""
    import sys

    found: list[Docker | Podman | Crun] = []
    for kind, program in ((Docker, "dockerd"), (Podman, "podman"), (Crun, "crun")):
        if shutil.which(program) is None:
            print(f"{kind.name}: not installed, left out", file=sys.stderr)
            continue
        found.append(kind(base / program, rootfs))
    return found
