"""Docker's words for ports, mounts, limits and health into one ContainerSpec."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import click

from reconciler.cli.values import parse_environment, parse_pairs, parse_size
from runtime.api import Attachment, ContainerSpec, HealthCheck, Mount, Port, Resources, Ulimit

_RESERVED_LABELS = "holdfast."
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


def container_spec(options: Mapping[str, Any], *, auto_remove: bool) -> ContainerSpec:
    """The spec that the options of `container run` ask for; click.UsageError names the option that cannot be."""
    if options["restart"] not in ("no", ""):
        raise click.BadParameter(
            f'"{options["restart"]}" cannot be had here: the engine never restarts, the reconciler decides. '
            "Declare a service with `restart:` in a manifest and apply it",
            param_hint="--restart",
        )
    labels = parse_pairs(options["label"], "--label")
    if mine := [name for name in labels if name.startswith(_RESERVED_LABELS)]:
        raise click.BadParameter(f'"{mine[0]}" is reserved for stacks', param_hint="--label")
    mode, attachments = _networks(options)
    entrypoint = None
    if options["entrypoint"] is not None:
        entrypoint = (options["entrypoint"],) if options["entrypoint"] else ()
    command = tuple(options["command"]) or None
    if command is None and entrypoint:
        # An entrypoint of one's own takes the image's command out of the way, as docker has it.
        command = ()
    ports = tuple(port for text in options["publish"] for port in parse_port(text))
    if ports and mode != "bridge":
        raise click.BadParameter(f'nothing can be published from network "{mode}"', param_hint="--publish")
    log = _log_options(options["log_opt"])
    return ContainerSpec(
        name=options["name"],
        image=options["image"],
        labels=labels,
        command=command,
        entrypoint=entrypoint,
        env=parse_environment(options["env"], options["env_file"]),
        working_dir=options["workdir"],
        user=options["user"],
        group_add=tuple(options["group_add"]),
        hostname=options["hostname"],
        domainname=options["domainname"],
        extra_hosts=_hosts(options["add_host"]),
        dns=tuple(options["dns"]),
        networks=attachments,
        network_mode=mode,
        ports=ports,
        expose=tuple(options["expose"]),
        mounts=(
            *(parse_volume(text) for text in options["volume"]),
            *(parse_mount(text) for text in options["mount"]),
            *(parse_tmpfs(text) for text in options["tmpfs"]),
        ),
        cap_add=tuple(options["cap_add"]),
        cap_drop=tuple(options["cap_drop"]),
        security_opt=tuple(options["security_opt"]),
        privileged=options["privileged"],
        read_only=options["read_only"],
        init=options["init"],
        tty=options["tty"],
        stdin_open=options["interactive"],
        stop_signal=options["stop_signal"],
        stop_grace=options["stop_timeout"],
        ulimits=tuple(parse_ulimit(text) for text in options["ulimit"]),
        sysctls=parse_pairs(options["sysctl"], "--sysctl"),
        shm_size=options["shm_size"],
        resources=Resources(
            options["cpus"], options["memory"], options["memory_reservation"], max(0, options["pids_limit"])
        ),
        health=_health(options),
        auto_remove=auto_remove,
        log_max_size=log.get("max-size", 20 << 20),
        log_max_files=log.get("max-file", 5),
    )


def _networks(options: Mapping[str, Any]) -> tuple[Literal["bridge", "none", "host"], tuple[Attachment, ...]]:
    names: list[str] = list(options["network"])
    if "none" in names or "host" in names:
        if len(names) > 1:
            raise click.BadParameter(f'"{names[0]}" excludes every other network', param_hint="--network")
        return ("none", ()) if names[0] == "none" else ("host", ())
    aliases = tuple(options["network_alias"])
    own = {"ipv4": options["ip"], "ipv6": options["ip6"], "mac": options["mac_address"]}
    if any(own.values()) and len(names) != 1:
        raise click.BadParameter("an address of one's own needs exactly one --network", param_hint="--ip")
    names = [name for name in names if name not in ("bridge", "default")] or ([] if not aliases else ["default"])
    return "bridge", tuple(Attachment(name, aliases, **own) for name in names)


def parse_port(text: str) -> list[Port]:
    """`[IP:][HOST:]PORT[/PROTO]`; both may be ranges of the same length, and `[::1]` stands in brackets."""

    def bad(cause: str) -> click.BadParameter:
        return click.BadParameter(f'"{text}": {cause}', param_hint="--publish")

    rest, _, protocol = text.partition("/")
    protocol = protocol or "tcp"
    if protocol not in ("tcp", "udp"):
        raise bad(f'no protocol "{protocol}" (tcp or udp)')
    match = re.fullmatch(r"(?:(\[[^\]]*\]|[^:]*):)?(?:([\d-]*):)?([\d-]+)", rest)
    if not match:
        raise bad("not [IP:][HOST:]PORT[/PROTO]")
    address, host, inner = match[1] or "", match[2], match[3]
    if host is None and re.fullmatch(r"[\d-]*", address):
        address, host = "", address
    address = address.strip("[]")
    if address:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise bad(f'"{address}" is no address') from None
    inside = _range(inner, bad)
    outside = _range(host, bad) if host else [0] * len(inside)
    if len(inside) == 1 and len(outside) > 1:
        raise bad("a range of host ports for one port")
    if len(inside) != len(outside):
        raise bad("the two ranges differ in length")
    kind: Literal["tcp", "udp"] = "udp" if protocol == "udp" else "tcp"
    return [Port(container, published, kind, address) for container, published in zip(inside, outside, strict=True)]


def _range(text: str, bad: Any) -> list[int]:
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise bad(f'"{text}" is no port')
    start, end = int(first), int(last) if dash else int(first)
    if not 0 < start <= end <= 65535:
        raise bad(f'"{text}" is not within 1-65535')
    return list(range(start, end + 1))


def parse_volume(text: str) -> Mount:
    """`SRC:DST[:OPTS]`, or `DST` alone for an anonymous volume. A SRC with a slash or a leading dot is a host path."""

    def bad(cause: str) -> click.BadParameter:
        return click.BadParameter(f'"{text}": {cause}', param_hint="--volume")

    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise bad("not SRC:DST[:OPTS]")
    source, target = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    if not target.startswith("/"):
        raise bad(f'"{target}" is not an absolute path in the container')
    read_only, nocopy, propagation = False, False, "rprivate"
    for word in parts[2].split(",") if len(parts) == 3 else ():
        if word in ("ro", "rw"):
            read_only = word == "ro"
        elif word == "nocopy":
            nocopy = True
        elif word in PROPAGATIONS:
            propagation = word
        elif word not in ("z", "Z", "cached", "delegated", "consistent"):
            raise bad(f'no option "{word}"')
    if source.startswith((".", "~")) or "/" in source:
        return Mount("bind", target, _host_path(source, bad), read_only, propagation=propagation)
    if source and not _NAME.fullmatch(source):
        raise bad(f'"{source}" is no name of a volume')
    return Mount("volume", target, source, read_only, nocopy)


def _host_path(source: str, bad: Any) -> str:
    path = os.path.abspath(os.path.expanduser(source))
    if not os.path.exists(path):
        raise bad(f'no such file or directory: "{path}"')
    return path


_MOUNT_WORDS = {
    "src": "source",
    "source": "source",
    "dst": "target",
    "destination": "target",
    "target": "target",
    "type": "type",
    "ro": "ro",
    "readonly": "ro",
    "bind-propagation": "propagation",
    "volume-nocopy": "nocopy",
    "volume-subpath": "subpath",
    "tmpfs-size": "size",
    "tmpfs-mode": "mode",
}


def parse_mount(text: str) -> Mount:
    """`type=bind|volume|tmpfs,src=…,dst=…[,readonly]…`."""

    def bad(cause: str) -> click.BadParameter:
        return click.BadParameter(f'"{text}": {cause}', param_hint="--mount")

    found: dict[str, str] = {}
    for word in text.split(","):
        key, is_given, value = word.partition("=")
        if key not in _MOUNT_WORDS:
            raise bad(f'no key "{key}"')
        found[_MOUNT_WORDS[key]] = value if is_given else "true"
    target = found.get("target", "")
    if not target.startswith("/"):
        raise bad("dst= must be an absolute path")
    read_only = found.get("ro", "false").lower() in ("true", "1")
    nocopy = found.get("nocopy", "false").lower() in ("true", "1")
    match found.get("type", "volume"):
        case "bind":
            propagation = found.get("propagation", "rprivate")
            if propagation not in PROPAGATIONS:
                raise bad(f'no propagation "{propagation}"')
            return Mount("bind", target, _host_path(found.get("source", ""), bad), read_only, propagation=propagation)
        case "volume":
            return Mount("volume", target, found.get("source", ""), read_only, nocopy, subpath=found.get("subpath", ""))
        case "tmpfs":
            try:
                size, mode = parse_size(found.get("size", "0")), int(found.get("mode", "1777"), 8)
            except ValueError as error:
                raise bad(str(error)) from None
            return Mount("tmpfs", target, read_only=read_only, tmpfs_size=size, tmpfs_mode=mode)
    raise bad(f'no type "{found["type"]}" (bind, volume or tmpfs)')


def parse_tmpfs(text: str) -> Mount:
    """`DST[:OPTS]` with mount options; size and mode are understood, the others handed on."""
    target, _, words = text.partition(":")
    size, mode, read_only, others = 0, 0o1777, False, []
    if not target.startswith("/"):
        raise click.BadParameter(f'"{target}" is not an absolute path', param_hint="--tmpfs")
    try:
        for word in filter(None, words.split(",")):
            key, _, value = word.partition("=")
            if key == "size":
                size = parse_size(value)
            elif key == "mode":
                mode = int(value, 8)
            elif word in ("ro", "rw"):
                read_only = word == "ro"
            else:
                others.append(word)
    except ValueError as error:
        raise click.BadParameter(f'"{text}": {error}', param_hint="--tmpfs") from None
    return Mount("tmpfs", target, read_only=read_only, tmpfs_size=size, tmpfs_mode=mode, tmpfs_options=tuple(others))


def parse_ulimit(text: str) -> Ulimit:
    match = re.fullmatch(r"([a-z]+)=(-?\d+|unlimited)(?::(-?\d+|unlimited))?", text)
    if not match:
        raise click.BadParameter(f'"{text}" is not NAME=SOFT[:HARD]', param_hint="--ulimit")
    soft = -1 if match[2] == "unlimited" else int(match[2])
    hard = soft if match[3] is None else -1 if match[3] == "unlimited" else int(match[3])
    return Ulimit(match[1], soft, hard)


def _hosts(texts: Iterable[str]) -> dict[str, str]:
    hosts = {}
    for text in texts:
        name, separator, address = text.partition("=" if "=" in text else ":")
        if not name or not separator:
            raise click.BadParameter(f'"{text}" is not HOST:IP', param_hint="--add-host")
        address = address.strip("[]")
        if address != "host-gateway":
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise click.BadParameter(f'"{address}" is no address', param_hint="--add-host") from None
        hosts[name] = address
    return hosts


def _log_options(texts: Iterable[str]) -> dict[str, int]:
    result = {}
    for key, value in parse_pairs(texts, "--log-opt").items():
        try:
            if key == "max-size":
                result[key] = parse_size(value)
            elif key == "max-file":
                result[key] = int(value)
            else:
                raise ValueError("only max-size and max-file are known")
        except ValueError as error:
            raise click.BadParameter(f'"{key}={value}": {error}', param_hint="--log-opt") from None
    return result


def _health(options: Mapping[str, Any]) -> HealthCheck | None:
    if options["no_healthcheck"]:
        if options["health_cmd"]:
            raise click.UsageError("--no-healthcheck and --health-cmd exclude each other")
        return HealthCheck(("NONE",))
    if not options["health_cmd"]:
        return None
    return HealthCheck(
        ("CMD-SHELL", options["health_cmd"]),
        interval=options["health_interval"],
        timeout=options["health_timeout"],
        retries=options["health_retries"],
        start_period=options["health_start_period"],
        start_interval=options["health_start_interval"],
    )
