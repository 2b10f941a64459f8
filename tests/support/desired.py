"""Desired states built by hand, in the canonical shapes that resolving a manifest gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from reconciler.model import Desired, Key, Kind, Need, Resource, StackSettings

STACK = "shop"


def fingerprint(spec: Any) -> str:
    return "1:" + hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def make_spec(**changes: Any) -> dict[str, Any]:
    """A service's spec with every key present."""
    spec: dict[str, Any] = {
        "image": "busybox", "image_fingerprint": "", "labels": {}, "command": ["sleep", "infinity"], "entrypoint": None,
        "env": {}, "working_dir": None, "user": None, "group_add": [], "hostname": "", "domainname": "",
        "extra_hosts": {}, "dns": [], "networks": [], "network_mode": "bridge", "ports": [], "expose": [], "mounts": [],
        "files": [], "cap_add": [], "cap_drop": [], "security_opt": [], "privileged": False, "read_only": False,
        "init": False, "tty": False, "stdin_open": False, "stop_signal": None, "ulimits": [], "sysctls": {},
        "shm_size": 64 << 20, "resources": {"cpus": 0.0, "memory": 0, "memory_reservation": 0, "pids": 0},
        "auto_remove": False, "log_max_size": 20 << 20, "log_max_files": 5,
    }  # fmt: skip
    return spec | changes


def make_policy(**changes: Any) -> dict[str, Any]:
    policy: dict[str, Any] = {
        "replicas": 1,
        "restart": {"condition": "always", "max_attempts": None, "delay": None, "window": None},
        "health": None,
        "stop_grace": 10.0,
        "update": {"order": None, "parallelism": 1, "delay": 0.0, "failure_action": "pause"},
        "container_name": None,
        "run_to_completion": False,
    }
    return policy | changes


def restart(condition: str, **changes: Any) -> dict[str, Any]:
    return {"condition": condition, "max_attempts": None, "delay": None, "window": None} | changes


def health(**changes: Any) -> dict[str, Any]:
    check: dict[str, Any] = {
        "test": ["CMD", "check"], "interval": 30.0, "timeout": 5.0, "retries": 3, "start_period": 0.0,
        "start_interval": 5.0,
    }  # fmt: skip
    return check | changes


def needs(*items: tuple[Kind, str, str] | tuple[Kind, str]) -> tuple[Need, ...]:
    """("service", "db", "healthy") or ("network", "front")."""
    return tuple(Need(Key(item[0], item[1]), item[2] if len(item) > 2 else "exists") for item in items)  # type: ignore[misc,arg-type]


def make_service(
    name: str,
    *,
    needs: Iterable[Need] = (),
    policy: Mapping[str, Any] | None = None,
    kind: Kind = "service",
    networks: Iterable[str] = (),
    fixed_networks: Iterable[Mapping[str, Any]] = (),
    **spec: Any,
) -> Resource:
    """`networks` are resources of the stack: the edges to them are added. `fixed_networks` are taken as they are."""
    joined = list(networks)
    if fixed_networks:
        spec["networks"] = [dict(item) for item in fixed_networks]
    if joined:
        spec["networks"] = [
            {"network": f"{STACK}_{one}", "aliases": [], "ipv4": "", "ipv6": "", "mac": ""} for one in joined
        ]
    whole = make_spec(**spec)
    edges = (*needs, *(Need(Key("network", one)) for one in joined))
    return Resource(Key(kind, name), whole, make_policy(**(policy or {})), edges, fingerprint(whole))


def make_job(name: str, *, policy: Mapping[str, Any] | None = None, **rest: Any) -> Resource:
    settings = {
        "backoff_limit": 6, "completions": 1, "parallelism": 1, "restart": restart("no"),
    } | dict(policy or {})  # fmt: skip
    return make_service(name, kind="job", policy=settings, **({"command": ["true"]} | rest))


def make_network(name: str, *, external: bool = False, object_name: str = "", **spec: Any) -> Resource:
    whole = {
        "internal": False, "subnets": [], "gateways": [], "ip_range": "", "ipv6": False, "mtu": 1500, "bridge_name": "",
        "masquerade": True, "labels": {},
    } | spec  # fmt: skip
    return Resource(
        Key("network", name), whole, {}, (), fingerprint(whole), None, object_name or f"{STACK}_{name}", external
    )


def make_volume(name: str, *, retain: bool = False, external: bool = False, **spec: Any) -> Resource:
    whole = {"driver_opts": {}, "labels": {}} | spec
    return Resource(
        Key("volume", name), whole, {"retain": retain}, (), fingerprint(whole), None, f"{STACK}_{name}", external
    )


def make_image(name: str, *, digest: str = "a" * 64, pull_policy: str = "missing", kind: str = "build") -> Resource:
    parts: dict[str, Any] = {"build": None, "bootstrap": None, "archive": None}
    parts[kind] = {
        "build": {
            "context": f"/src/{name}", "dockerfile": "Dockerfile", "dockerfile_inline": "", "args": {}, "target": "",
            "labels": {}, "digest": f"sha256:{digest}",
        },
        "bootstrap": {"suite": "bookworm", "packages": [name], "variant": "minbase", "mirror": "", "config": None},
        "archive": {"path": f"/src/{name}.tar", "ref": "", "digest": f"sha256:{digest}"},
    }[kind]  # fmt: skip
    return Resource(
        Key("image", name), parts, {"pull_policy": pull_policy, "retain": False}, (), fingerprint(parts), None, name
    )


def make_desired(
    *resources: Resource,
    budget: int | None = None,
    files: Mapping[str, tuple[bytes, bool]] | None = None,
    stack: str = STACK,
) -> Desired:
    return Desired(StackSettings(stack, True, budget), {one.key: one for one in resources}, dict(files or {}))


def mount(volume: str, target: str = "/data", read_only: bool = False) -> dict[str, Any]:
    return {
        "kind": "volume", "target": target, "source": f"{STACK}_{volume}", "read_only": read_only, "nocopy": False,
        "subpath": "", "propagation": "rprivate", "tmpfs_size": 0, "tmpfs_mode": 0o1777, "tmpfs_options": [],
    }  # fmt: skip


def port(host: int, container: int = 80, protocol: str = "tcp") -> dict[str, Any]:
    return {"container_port": container, "host_port": host, "protocol": protocol, "host_ip": ""}


def file(target: str, digest: str, secret: bool = False) -> dict[str, Any]:
    return {"target": target, "digest": digest, "secret": secret, "uid": 0, "gid": 0, "mode": 0o444}
