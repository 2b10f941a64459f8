"""Containers straight through the supervisor, without images, networks or an engine: a busybox root and a request."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.errors import EngineError
from runtime.layout import Layout
from runtime.sandbox import capabilities, seccomp
from runtime.supervise.client import SupervisorClient
from runtime.supervise.logfile import read_log

APPLETS = (
    "sh true false sleep echo cat ls mount ps id env seq kill hostname mknod dd stty tty head grep touch wc ping ip "
    "unshare mkdir chroot printf readlink ulimit date yes cut test stat df nc"
)


class BareContainers:
    """One state root; `end` kills what still runs and lets keeper and supervisor go."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(str(root))
        self.layout.create()
        self.client = SupervisorClient(self.layout)
        self.lower = f"{self.layout.root}/busybox"
        for name in ("bin", "etc", "tmp"):
            os.makedirs(f"{self.lower}/{name}", exist_ok=True)
        if not os.path.exists(f"{self.lower}/bin/busybox"):
            shutil.copy("/usr/bin/busybox", f"{self.lower}/bin/busybox")
            for applet in APPLETS.split():
                os.symlink("busybox", f"{self.lower}/bin/{applet}")
        self.count = 0

    def request(self, argv: Sequence[str], id: str = "", **changes: Any) -> str:
        """Write a launch request with docker's defaults, changed as told; returns the container's id."""
        self.count += 1
        id = id or f"c{self.count}"
        directory = self.layout.container(id)
        for name in ("upper", "work", "merged"):
            os.makedirs(f"{directory}/{name}", exist_ok=True)
        os.makedirs(self.layout.run_container(id), exist_ok=True)
        value = {
            "id": id, "name": id, "hostname": id, "domainname": "", "lowers": [self.lower],
            "upper": f"{directory}/upper", "work": f"{directory}/work", "merged": f"{directory}/merged",
            "volatile": True, "read_only": False, "argv": list(argv), "env": ["PATH=/bin"], "cwd": "/",
            "uid": 0, "gid": 0, "groups": [], "tty": False, "stdin": "null", "init": False, "mounts": [],
            "capabilities": list(capabilities.DEFAULT), "ambient": [], "no_new_privs": True,
            "seccomp": seccomp.bpf_for(self.layout, frozenset(capabilities.DEFAULT), None),
            "masked": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonly_paths": ["/proc/bus", "/proc/sys"], "privileged": False, "rlimits": [], "sysctls": {},
            "shm_size": 64 << 20, "oom_score_adj": 0, "cgroup": id,
            "resources": {"cpus": 0, "memory": 0, "memory_reservation": 0, "pids": 0},
            "net": {"mode": "none", "interfaces": []},
            "log": {"dir": f"{directory}/log", "max_size": 20 << 20, "max_files": 5}, "stop_signal": 15,
        }  # fmt: skip
        value.update(changes)
        Path(self.layout.run_container(id), "request.json").write_text(json.dumps(value))
        return id

    def start(self, argv: Sequence[str], id: str = "", **changes: Any) -> str:
        made = self.request(argv, id, **changes)
        self.client.start(made)
        return made

    def run(self, argv: Sequence[str], **changes: Any) -> tuple[int | None, str]:
        """Exit code and output, stdout and stderr together."""
        id = self.start(argv, **changes)
        record = self.client.wait(id, 30.0)
        assert record is not None, f"{argv} did not end"
        return record["code"], b"".join(line + b"\n" for line in self.lines(id)).decode()

    def shell(self, script: str, **changes: Any) -> tuple[int | None, str]:
        return self.run(["/bin/sh", "-c", script], **changes)

    def lines(self, id: str) -> list[bytes]:
        return [line for _, _, line in read_log(f"{self.layout.container(id)}/log")]

    def exec(self, id: str, argv: Sequence[str], **request: Any) -> tuple[int | None, str]:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            session = self.client.exec(id, {"argv": list(argv), **request}, (null, write_end, write_end))
            os.close(write_end)
            write_end = -1
            output = b""
            while data := os.read(read_end, 65536):
                output += data
            code = session.wait(10.0)
            session.close()
            return code, output.decode()
        finally:
            for fd in (read_end, write_end, null):
                if fd >= 0:
                    os.close(fd)

    def pid(self, role: str) -> int:
        """Of "keeper" or "supervisor"."""
        return int(json.loads(Path(self.layout.run, f"{role}.json").read_text())["pid"])

    def end(self) -> None:
        self.client.names(None)
        for key in self.client.held():
            self.client.release(key)
        for id in self.client.running():
            try:
                self.client.signal(id, 9)
                self.client.wait(id, 10.0)
            except EngineError:
                continue
        deadline = time.monotonic() + 10.0
        while os.path.exists(f"{self.layout.run}/keeper.json") and time.monotonic() < deadline:
            self.client.shutdown_if_idle()
            time.sleep(0.02)
