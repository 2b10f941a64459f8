"""Runs one step of a build in a container of our own: the same launch, the same restrictions, a layer as its root."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Callable

from runtime import api
from runtime.container.lifecycle import Lifecycle, network_addresses
from runtime.container.rootfs import Rootfs
from runtime.container.spec import launch_request
from runtime.container.store import OutputToCome, new_id, process_start_time
from runtime.container.users import resolve_user
from runtime.errors import NotFound
from runtime.files import read_json, write_json
from runtime.sandbox import capabilities, seccomp
from runtime.snapshot import overlay
from runtime.supervise.logfile import read_log

STEP_FILES = ("/etc/hosts", "/etc/resolv.conf")


def run_step(
    lifecycle: Lifecycle,
    lowers: list[str],
    upper: str,
    work: str,
    argv: list[str],
    env: list[str],
    cwd: str,
    user: str,
    network: str,
    output: Callable[[bytes], None],
    timeout: float | None,
) -> int:
    """Run `argv` on `lowers` (top first) with `upper` taking the changes; returns its exit code, 124 after `timeout`.

    `network` is "none", "host" or "default" (the root's default bridge). The run directory names its owner, so that
    `collect_steps` can end what a killed build left running.
    """
    layout = lifecycle.layout
    id = f"step{new_id()[4:]}"
    run = layout.run_container(id)
    merged = f"{os.path.dirname(upper)}/merged-{id[:12]}"
    os.makedirs(run, mode=0o700)
    os.makedirs(merged, exist_ok=True)
    write_json(f"{run}/owner", {"pid": os.getpid(), "starttime": process_start_time(os.getpid())})
    spec = api.ContainerSpec(
        name=id[:12],
        image="",
        command=tuple(argv),
        networks=(api.Attachment(lifecycle.networks.ensure_default().name),) if network == "default" else (),
        network_mode="host" if network == "host" else "none" if network == "none" else "bridge",
    )
    rootfs = Rootfs(os.path.dirname(upper), lowers)
    rootfs.upper = upper
    try:
        interfaces = lifecycle.networks.attach(id, spec.networks) if spec.networks else []
        identity = resolve_user(user, (), rootfs.read_text)
        hosts, resolv = lifecycle.networks.hosts_and_resolv(id, spec.name, "", {}, (), interfaces)
        mounts = []
        for path, text in zip(STEP_FILES, (hosts, resolv), strict=True):
            source = f"{run}/{os.path.basename(path)}"
            with open(source, "w") as file:
                file.write(text)
            mounts.append(
                {
                    "kind": "bind", "source": source, "target": path, "read_only": False, "options": "",
                    "propagation": "rprivate", "recursive": False, "file": True,
                }
            )  # fmt: skip
        if network == "host":
            mounts[0]["source"], mounts[1]["source"] = STEP_FILES
        caps = capabilities.resolve([], [], False)
        request = launch_request(
            id, spec, {"WorkingDir": cwd}, identity,
            hostname=spec.name,
            rootfs={"lowers": lowers, "upper": upper, "work": work, "merged": merged, "volatile": True},
            mounts=mounts,
            interfaces=interfaces,
            seccomp=seccomp.bpf_for(layout, frozenset(caps), None),
            log={"dir": f"{run}/log", "max_size": 20 << 20, "max_files": 1},
        )  # fmt: skip
        request["env"] = env if any(item.startswith("HOME=") for item in env) else [*env, f"HOME={identity.home}"]
        write_json(f"{run}/request.json", request)
        lifecycle.client.start(id)
        if interfaces:
            lifecycle.networks.publish(id, _step_endpoint(lifecycle, id, spec, interfaces))
        return _follow(lifecycle, id, output, timeout)
    finally:
        end_step(lifecycle, id)
        shutil.rmtree(merged, ignore_errors=True)
        _forget_mount_points(lowers, upper)


def _step_endpoint(lifecycle: Lifecycle, id: str, spec: api.ContainerSpec, interfaces: list[dict[str, object]]):  # type: ignore[no-untyped-def]
    from runtime.network import Endpoint

    return Endpoint(
        names={attachment.network: [] for attachment in spec.networks},
        addresses=network_addresses(spec.networks, interfaces),
        ports=(),
        health="none",
        group=id,
    )


def _follow(lifecycle: Lifecycle, id: str, output: Callable[[bytes], None], timeout: float | None) -> int:
    import time

    deadline = None if timeout is None else time.monotonic() + timeout
    run = lifecycle.layout.run_container(id)

    to_come = OutputToCome(lifecycle.store, id)

    def alive() -> bool:
        if deadline is not None and time.monotonic() > deadline and lifecycle.store.live_pid(id):
            try:
                lifecycle.client.signal(id, signal.SIGKILL)
            except NotFound:
                pass  # it ended by itself at this instant
        return to_come()

    for _, _, line in read_log(f"{run}/log", True, 0.0, 0.0, -1, alive):
        output(line)
    record = lifecycle.client.wait(id, 10.0) or read_json(f"{run}/exit") or {}
    if deadline is not None and time.monotonic() > deadline:
        return 124
    if record.get("signal"):
        return 128 + int(record["signal"])
    code = record.get("code")
    return 125 if code is None else int(code)


def end_step(lifecycle: Lifecycle, id: str) -> None:
    """Kill what still runs of a step and forget it; idempotent."""
    if lifecycle.store.live_pid(id):
        try:
            lifecycle.client.signal(id, signal.SIGKILL)
            lifecycle.client.wait(id, 10.0)
        except NotFound:
            pass
    lifecycle.networks.detach(id)
    shutil.rmtree(lifecycle.layout.run_container(id), ignore_errors=True)


def _forget_mount_points(lowers: list[str], upper: str) -> None:
    """The empty files on which /etc/hosts and /etc/resolv.conf were mounted do not belong to the layer.

    The step may have made /etc a link to a directory of the host's: nothing here follows one.
    """
    try:
        folder = os.open(f"{upper}/etc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for path in STEP_FILES:
            name = os.path.basename(path)
            try:
                info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                empty = stat.S_ISREG(info.st_mode) and info.st_size == 0
                if empty and overlay.path_in_layers(lowers, None, path) is None:
                    os.unlink(name, dir_fd=folder)
            except OSError:
                continue
    finally:
        os.close(folder)
    try:
        if overlay.path_in_layers(lowers, None, "/etc") is None:
            os.rmdir(f"{upper}/etc")
    except OSError:
        pass


def collect_steps(lifecycle: Lifecycle) -> None:
    """End the steps whose build is dead."""
    try:
        names = os.listdir(lifecycle.layout.run_containers)
    except FileNotFoundError:
        return
    for name in names:
        owner = read_json(f"{lifecycle.layout.run_container(name)}/owner")
        if name.startswith("step") and owner and process_start_time(owner["pid"]) != owner["starttime"]:
            end_step(lifecycle, name)
