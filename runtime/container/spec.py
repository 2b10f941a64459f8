"""Turns a container spec and its image's config into the one fully resolved launch request.

The request's shape is the supervisor's (`runtime.supervise.wire`); nothing below the wall looks anything up.
"""

from __future__ import annotations

import signal
from typing import Any

from runtime import api
from runtime.container.users import Identity
from runtime.errors import InvalidSpec
from runtime.sandbox import capabilities

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The lists are Docker's (moby oci/defaults.go): what the kernel shows of the host, or lets root change on it.
MASKED_PATHS = [
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
]  # fmt: skip
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def argument_vector(spec: api.ContainerSpec, config: dict[str, Any]) -> list[str]:
    """Docker's rule: an entrypoint of the spec's own drops the image's command. Raises InvalidSpec when empty."""
    entrypoint = spec.entrypoint if spec.entrypoint is not None else tuple(config.get("Entrypoint") or ())
    if spec.command is not None:
        command = spec.command
    else:
        command = () if spec.entrypoint is not None else tuple(config.get("Cmd") or ())
    argv = [*entrypoint, *command]
    if not argv or not argv[0]:
        raise InvalidSpec(
            f'cannot start container "{spec.name}": neither it nor its image says what to run',
            "set command or entrypoint",
        )
    return argv


def environment(spec: api.ContainerSpec, config: dict[str, Any], hostname: str, home: str) -> list[str]:
    """PATH, HOSTNAME and HOME have defaults; the image's values go before them, the spec's before all."""
    values = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": home}
    if spec.tty:
        values["TERM"] = "xterm"
    for item in config.get("Env") or ():
        key, _, value = item.partition("=")
        values[key] = value
    values.update(spec.env)
    return [f"{key}={value}" for key, value in values.items()]


def signal_number(name: str | None, otherwise: int = signal.SIGTERM) -> int:
    """From "SIGTERM", "TERM", "15" or "SIGRTMIN+3". Raises InvalidSpec."""
    if not name:
        return otherwise
    text = name.upper()
    if text.isascii() and text.isdigit() and len(text) < 4 and 0 < int(text) <= signal.SIGRTMAX:
        return int(text)
    base, plus, offset = text.removeprefix("SIG").partition("+")
    number = getattr(signal, f"SIG{base}", None)
    shift = int(offset) if offset.isascii() and offset.isdigit() and len(offset) < 4 else -1
    if not isinstance(number, signal.Signals) or (plus and not 0 <= shift <= signal.SIGRTMAX - number):
        raise InvalidSpec(f'cannot use signal "{name}": no such signal')
    return int(number) + (shift if plus else 0)


def health_check(spec: api.ContainerSpec, config: dict[str, Any]) -> api.HealthCheck | None:
    """The spec's check, else the image's (whose durations are nanoseconds); None when there is none or it is NONE."""
    check = spec.health
    image = config.get("Healthcheck")
    if check is None and image and image.get("Test"):
        check = api.HealthCheck(
            test=tuple(image["Test"]),
            interval=image.get("Interval", 0) / 1e9 or 30.0,
            timeout=image.get("Timeout", 0) / 1e9 or 30.0,
            retries=image.get("Retries", 0) or 3,
            start_period=image.get("StartPeriod", 0) / 1e9,
            start_interval=image.get("StartInterval", 0) / 1e9 or 5.0,
        )
    return check if check is not None and check.test and check.test[0] != "NONE" else None


class SecurityOptions:
    """`security_opt`, understood. Raises InvalidSpec for a word that is unknown or cannot be honoured here."""

    def __init__(self, options: tuple[str, ...], privileged: bool) -> None:
        self.no_new_privileges = not privileged
        self.seccomp: str | None = "unconfined" if privileged else None
        for option in options:
            key, separator, value = option.partition("=") if "=" in option else option.partition(":")
            if key == "no-new-privileges":
                self.no_new_privileges = not separator or value.lower() == "true"
            elif key == "seccomp" and value:
                self.seccomp = value
            elif key in ("apparmor", "label") and value in ("unconfined", "disable"):
                continue
            else:
                raise InvalidSpec(
                    f'cannot use security_opt "{option}": not supported',
                    "no-new-privileges:true|false, seccomp=unconfined|FILE, apparmor=unconfined, label=disable",
                )


def launch_request(
    id: str,
    spec: api.ContainerSpec,
    config: dict[str, Any],
    identity: Identity,
    *,
    hostname: str,
    rootfs: dict[str, Any],
    mounts: list[dict[str, Any]],
    interfaces: list[dict[str, Any]],
    seccomp: str,
    log: dict[str, Any] | None,
    stdin: str = "null",
) -> dict[str, Any]:
    security = SecurityOptions(spec.security_opt, spec.privileged)
    caps = capabilities.resolve(list(spec.cap_add), list(spec.cap_drop), spec.privileged)
    networked = spec.network_mode == "bridge" and interfaces
    return {
        "id": id,
        "name": spec.name,
        "hostname": hostname,
        "domainname": spec.domainname,
        **rootfs,
        "read_only": spec.read_only,
        "argv": argument_vector(spec, config),
        "env": environment(spec, config, hostname, identity.home),
        "cwd": spec.working_dir or config.get("WorkingDir") or "/",
        "uid": identity.uid,
        "gid": identity.gid,
        "groups": list(identity.groups),
        "tty": spec.tty,
        "stdin": stdin,
        "init": spec.init,
        "mounts": mounts,
        "capabilities": caps,
        "ambient": [],
        "no_new_privs": security.no_new_privileges,
        "seccomp": seccomp,
        "masked": [] if spec.privileged else MASKED_PATHS,
        "readonly_paths": [] if spec.privileged else READONLY_PATHS,
        "privileged": spec.privileged,
        "rlimits": [[limit.name, limit.soft, limit.hard] for limit in spec.ulimits],
        "sysctls": dict(spec.sysctls),
        "shm_size": spec.shm_size,
        "oom_score_adj": 0,
        "cgroup": id,
        "resources": resources_request(spec.resources),
        "net": {
            "mode": "host" if spec.network_mode == "host" else "bridge" if networked else "none",
            "interfaces": interfaces,
        },
        "log": log,
        "stop_signal": signal_number(spec.stop_signal or config.get("StopSignal")),
    }


def resources_request(resources: api.Resources) -> dict[str, Any]:
    return {
        "cpus": resources.cpus,
        "memory": resources.memory,
        "memory_reservation": resources.memory_reservation,
        "pids": resources.pids,
    }


def tmpfs_options(mount: api.Mount) -> str:
    options = [f"mode={mount.tmpfs_mode:o}"]
    if mount.tmpfs_size:
        options.append(f"size={mount.tmpfs_size}")
    return ",".join([*options, *mount.tmpfs_options])
