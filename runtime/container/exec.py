"""Runs further programs inside a running container, with its namespaces, limits and restrictions."""

from __future__ import annotations

import os
import select
import time
from typing import Any

from runtime import api
from runtime.container.attach import CHUNK, proxy_terminal
from runtime.container.lifecycle import Lifecycle, image_config
from runtime.container.rootfs import Rootfs
from runtime.container.spec import SecurityOptions, environment
from runtime.container.store import ContainerRecord
from runtime.container.users import resolve_user
from runtime.errors import Conflict, InvalidSpec
from runtime.sandbox import capabilities, seccomp

KEPT_OUTPUT = 64 << 10


class Executor:
    """`exec`, captured for health checks and attached for people."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle
        self.layout = lifecycle.layout
        self.client = lifecycle.client

    def _request(self, record: ContainerRecord, wanted: api.ExecSpec) -> dict[str, Any]:
        if not wanted.argv:
            raise InvalidSpec(f'cannot exec in container "{record.name}": no command given')
        image = self.lifecycle.images.get(record.image_id)
        config = image_config(image) if image else {}
        lowers = self.lifecycle.images.lower_dirs(image) if image else []
        rootfs = Rootfs(self.layout.container(record.id), lowers)
        spec = record.spec
        user = wanted.user if wanted.user is not None else spec.user
        identity = resolve_user(
            user if user is not None else config.get("User") or "", spec.group_add, rootfs.read_text
        )
        values = dict(
            item.partition("=")[::2]
            for item in environment(spec, config, spec.hostname or record.id[:12], identity.home)
        )
        if wanted.tty:
            values.setdefault("TERM", "xterm")
        values.update(wanted.env)
        privileged = wanted.privileged or spec.privileged
        caps = capabilities.resolve(list(spec.cap_add), list(spec.cap_drop), privileged)
        security = SecurityOptions(spec.security_opt, privileged)
        profile = None if security.seccomp in (None, "unconfined") else security.seccomp
        unconfined = security.seccomp == "unconfined"
        return {
            "argv": list(wanted.argv),
            "env": [f"{key}={value}" for key, value in values.items()],
            "cwd": wanted.working_dir or spec.working_dir or config.get("WorkingDir") or "/",
            "uid": identity.uid,
            "gid": identity.gid,
            "groups": list(identity.groups),
            "tty": wanted.tty,
            "capabilities": caps,
            "no_new_privs": security.no_new_privileges,
            "seccomp": "" if unconfined else seccomp.bpf_for(self.layout, frozenset(caps), profile),
        }

    def _running(self, id: str) -> ContainerRecord:
        record = self.lifecycle.store.get(id)
        if not self.lifecycle.store.live_pid(id):
            raise Conflict(f'cannot exec in container "{record.name}": it is not running')
        return record

    def capture(self, id: str, spec: api.ExecSpec, timeout: float) -> api.ExecResult:
        """Run to the end or for `timeout` seconds, after which the program is killed."""
        record = self._running(id)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            session = self.client.exec(id, self._request(record, spec), (null, write_end, write_end))
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(null)
            os.close(write_end)
        output = bytearray()
        ready = select.poll()  # an agent may have more descriptors open than select(2) can tell apart
        ready.register(read_end, select.POLLIN)
        deadline = time.monotonic() + timeout
        try:
            while (left := deadline - time.monotonic()) > 0:
                # A background child may keep the pipe open; the program's own end is what counts.
                if ready.poll(min(left, 0.02) * 1000):
                    data = os.read(read_end, CHUNK)
                    if len(output) < KEPT_OUTPUT:
                        output += data[: KEPT_OUTPUT - len(output)]
                    if not data:
                        code = session.wait(max(0.0, deadline - time.monotonic()))
                        break
                elif (code := session.wait(0.0)) is not None:
                    break
            else:
                code = None
            if code is None:
                session.kill()
                session.wait(1.0)
                return api.ExecResult(137, bytes(output), timed_out=True)
            return api.ExecResult(code, bytes(output))
        finally:
            session.close()
            os.close(read_end)

    def attached(self, id: str, spec: api.ExecSpec, stdio: tuple[int, int, int]) -> int:
        record = self._running(id)
        session = self.client.exec(id, self._request(record, spec), stdio)
        try:
            if spec.tty:
                proxy_terminal(session.master, stdio[0], stdio[1], lambda: session.wait(0.0) is not None)
            code = session.wait(None)
            return 137 if code is None else code
        finally:
            session.close()
