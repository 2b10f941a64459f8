"""The canonical spec and policy of one service or job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.desired.requests import path_of, seccomp_files

if TYPE_CHECKING:
    from reconciler.manifest.documents import Document
    from schemas.mounts import MountEntry
    from schemas.ports import PublishedPort

Json = Any


def environment(document: Document, from_files: Mapping[str, str]) -> dict[str, str]:
    """Env files beneath, `environment` above; a variable without a value takes the caller's or is left out."""
    values = dict(from_files)
    for key, value in document.spec.environment.items():
        if value is None:
            inherited = document.variables.get(key)
            if inherited is None:
                values.pop(key, None)
                continue
            value = inherited
        values[key] = value
    return dict(sorted(values.items()))


def published_ports(spec: Any) -> list[tuple[int, PublishedPort]]:
    """(index of the entry, port), each distinct port once, in canonical order."""
    seen: dict[PublishedPort, int] = {}
    for index, entry in enumerate(spec.ports):
        for port in entry.expand():
            seen.setdefault(port, index)
    return sorted(
        ((index, port) for port, index in seen.items()),
        key=lambda item: (item[1].protocol, item[1].target, item[1].published, item[1].host_ip),
    )


def mount(entry: MountEntry, source: str) -> Json:
    return {
        "kind": entry.type,
        "target": entry.target,
        "source": source,
        "read_only": entry.read_only,
        "nocopy": entry.nocopy,
        "subpath": entry.subpath,
        "propagation": entry.propagation,
        "tmpfs_size": entry.tmpfs_size,
        "tmpfs_mode": entry.tmpfs_mode,
        "tmpfs_options": list(entry.tmpfs_options),
    }


def file_target(kind: str, reference: Any) -> str:
    """Compose's places: configs at /NAME, secrets below /run/secrets."""
    from schemas.mounts import clean_target

    target = reference.target or reference.source
    if not target.startswith("/"):
        target = f"/{target}" if kind == "config" else f"/run/secrets/{target}"
    return clean_target(target)


def resources(spec: Any) -> Json:
    """One set of limits from Compose's two places for each; where both are given the checks make sure they agree."""
    deploy = spec.deploy.resources if spec.deploy else None
    limits, reservations = (deploy.limits, deploy.reservations) if deploy else (None, None)
    pids = spec.pids_limit if spec.pids_limit is not None else limits.pids if limits else 0
    return {
        "cpus": float(spec.cpus or (limits.cpus if limits else 0.0)),
        "memory": spec.mem_limit or (limits.memory if limits else 0),
        "memory_reservation": spec.mem_reservation or (reservations.memory if reservations else 0),
        "pids": max(pids, 0),
    }


def capabilities(names: Sequence[str]) -> list[str]:
    return ["ALL"] if "ALL" in names else sorted(set(names))


def security_options(document: Document) -> list[str]:
    """Profiles by absolute path; what only says that nothing is confined by AppArmor or SELinux is left out."""
    files = dict(seccomp_files(document))
    options = {
        f"seccomp={files[option]}" if option in files else option
        for option in document.spec.security_opt
        if not option.startswith(("apparmor=", "label="))
    }
    return sorted(options)


def network_mode(spec: Any) -> str:
    return str(spec.network_mode or "bridge")


def workload_spec(document: Document, from_files: Mapping[str, str], parts: Mapping[str, Json]) -> Json:
    """`parts` are the fields that name other resources: image, networks, mounts, files, image_fingerprint."""
    spec = document.spec
    made: dict[str, Json] = {
        "command": spec.command,
        "entrypoint": spec.entrypoint,
        "env": environment(document, from_files),
        "working_dir": spec.working_dir,
        "user": spec.user,
        "group_add": sorted(set(spec.group_add)),
        "hostname": spec.hostname,
        "domainname": spec.domainname,
        "extra_hosts": dict(sorted(spec.extra_hosts.items())),
        "dns": list(dict.fromkeys(spec.dns)),
        "network_mode": network_mode(spec),
        "ports": [
            {
                "container_port": port.target,
                "host_port": port.published,
                "protocol": port.protocol,
                "host_ip": port.host_ip,
            }
            for _, port in published_ports(spec)
        ],
        "expose": sorted(set(spec.expose)),
        "cap_add": capabilities(spec.cap_add),
        "cap_drop": capabilities(spec.cap_drop),
        "security_opt": security_options(document),
        "privileged": spec.privileged,
        "read_only": spec.read_only,
        "init": spec.init,
        "tty": spec.tty,
        "stdin_open": spec.stdin_open,
        "stop_signal": spec.stop_signal,
        "ulimits": [
            {"name": name, "soft": limit.soft, "hard": limit.hard} for name, limit in sorted(spec.ulimits.items())
        ],
        "sysctls": dict(sorted(spec.sysctls.items())),
        "shm_size": spec.shm_size,
        "resources": resources(spec),
        "labels": dict(sorted({**document.labels, **spec.labels}.items())),
        "auto_remove": False,
        "log_max_size": spec.logging.options.max_size,
        "log_max_files": spec.logging.options.max_file,
        **parts,
    }
    return dict(sorted(made.items()))


def replicas(spec: Any) -> int:
    if spec.deploy is not None and spec.deploy.replicas is not None:
        return int(spec.deploy.replicas)
    return 1 if spec.scale is None else int(spec.scale)


def restart(document: Document, awaited: bool) -> Json:
    """Compose's `restart` or, before it, `deploy.restart_policy`; what is awaited to complete is not run for ever."""
    spec, policy = document.spec, document.spec.deploy.restart_policy if document.spec.deploy else None
    made: dict[str, Json] = {"condition": "no", "max_attempts": None, "delay": None, "window": None}
    if document.kind == "Job":
        word, _, attempts = (spec.restart or "on-failure").partition(":")
        limit = 0 if word == "no" else int(attempts) if attempts else spec.backoff_limit
        made.update(condition="on-failure" if limit else "no", max_attempts=limit)
    elif policy is not None:
        condition = {"none": "no", "any": "always"}.get(policy.condition, policy.condition)
        made.update(condition=condition, max_attempts=policy.max_attempts, delay=policy.delay, window=policy.window)
    elif spec.restart is not None:
        word, _, attempts = spec.restart.partition(":")
        made.update(condition=word, max_attempts=int(attempts) if attempts else None)
    elif document.native:
        made.update(condition="on-failure" if awaited else "always")
    return dict(sorted(made.items()))


def health(spec: Any) -> Json:
    """None leaves the image's own check in force."""
    check = spec.healthcheck
    if check is None:
        return None
    off = check.disable or list(check.test)[:1] == ["NONE"]
    return {
        "interval": check.interval,
        "retries": max(check.retries, 1),
        "start_interval": check.start_interval,
        "start_period": check.start_period,
        "test": ["NONE"] if off else list(check.test),
        "timeout": check.timeout,
    }


def workload_policy(document: Document, awaited: bool) -> Json:
    spec = document.spec
    update = spec.deploy.update_config if spec.deploy else None
    made: dict[str, Json] = {
        "container_name": spec.container_name,
        "health": health(spec),
        "replicas": 1 if document.kind == "Job" else replicas(spec),
        "restart": restart(document, awaited),
        "run_to_completion": awaited or document.kind == "Job",
        "stop_grace": spec.stop_grace_period,
        "update": {
            "delay": update.delay if update else 0.0,
            "failure_action": update.failure_action if update else "pause",
            "order": update.order if update else None,
            "parallelism": update.parallelism if update else 1,
        },
    }
    if document.kind == "Job":
        made.update(
            backoff_limit=made["restart"]["max_attempts"],
            completions=spec.completions,
            parallelism=spec.parallelism,
        )
    return dict(sorted(made.items()))


def source_of(document: Document, entry: MountEntry) -> str:
    return path_of(document, entry.source) if entry.type == "bind" else ""
