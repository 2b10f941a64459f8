"""What a container's spec must be before anything is made of it.

Manifests are checked where they are read, but specs also come from the command line and through the agent's socket:
here is the one place that all pass. Names end up in /etc/hosts, resolv.conf, firewall rules, file names and terminals,
so that none may hold a space, a line's end or an escape sequence.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from typing import Any

from runtime import api
from runtime.container.spec import SecurityOptions, argument_vector, signal_number
from runtime.errors import InvalidSpec
from runtime.sandbox import capabilities, sysctls

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,199})?\Z")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\Z")
_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}\Z")
_KERNEL_NAME = 64
"""__NEW_UTS_LEN: what sethostname(2) takes."""
_LARGEST_ID = 0xFFFFFFFE
PROPAGATIONS = frozenset(("", "private", "rprivate", "shared", "rshared", "slave", "rslave"))


def check_spec(spec: api.ContainerSpec, config: dict[str, Any]) -> None:
    """Everything that can be refused before anything is made. Raises InvalidSpec."""
    if not _NAME.match(spec.name):
        raise InvalidSpec(
            f"cannot create container {_quoted(spec.name)}: bad name", "letters, digits, and then also _ . -"
        )
    argument_vector(spec, config)
    signal_number(spec.stop_signal or config.get("StopSignal"))
    SecurityOptions(spec.security_opt, spec.privileged)
    capabilities.resolve(list(spec.cap_add), list(spec.cap_drop), spec.privileged)
    for problem in (*_program(spec), *_names(spec), *_networking(spec), *_mounts(spec), *_files(spec), *_limits(spec)):
        raise InvalidSpec(f'cannot create container "{spec.name}": {problem}')
    for mount in spec.mounts:
        if mount.kind == "bind" and not os.path.exists(mount.source):
            raise InvalidSpec(
                f'cannot create container "{spec.name}": bind source {mount.source} does not exist',
                "create it first; a missing bind source is never made up",
            )


def _quoted(text: str) -> str:
    """Safe to print, whatever is in it."""
    return '"' + text[:80].encode("unicode_escape", "replace").decode() + '"'


def _is_address(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


def _program(spec: api.ContainerSpec) -> Iterable[str]:
    words = (*(spec.command or ()), *(spec.entrypoint or ()), *spec.env.values(), spec.user or "", *spec.group_add)
    if any("\0" in word for word in words):
        yield "a command, a variable or a user holds a NUL byte"
    for key in spec.env:
        if not key or "=" in key or "\0" in key:
            yield f"{_quoted(key)} cannot be the name of an environment variable"
    if spec.working_dir and not spec.working_dir.startswith("/"):
        yield f"the working directory {_quoted(spec.working_dir)} is not an absolute path"


def _names(spec: api.ContainerSpec) -> Iterable[str]:
    for what, text in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if text and not _HOST.match(text):
            yield f"{_quoted(text)} is not a {what}"
        if len(text) > _KERNEL_NAME:
            yield f"the {what} is longer than the kernel's {_KERNEL_NAME} characters"
    for name, address in spec.extra_hosts.items():
        if not _HOST.match(name):
            yield f"{_quoted(name)} is not a host name"
        if address != "host-gateway" and not _is_address(address.strip("[]")):
            yield f"{_quoted(address)} is not an address of extra host {name}"
    for address in spec.dns:
        if not _is_address(address):
            yield f"dns {_quoted(address)} is not an address"


def _networking(spec: api.ContainerSpec) -> Iterable[str]:
    for attachment in spec.networks:
        for alias in attachment.aliases:
            if not _HOST.match(alias):
                yield f"alias {_quoted(alias)} is not a host name"
        for address in filter(None, (attachment.ipv4, attachment.ipv6)):
            if not _is_address(address):
                yield f"{_quoted(address)} is not an address"
        if attachment.mac and not _MAC.match(attachment.mac):
            yield f"{_quoted(attachment.mac)} is not a MAC address"
    for port in spec.ports:
        if port.protocol not in ("tcp", "udp"):
            yield f"port protocol {_quoted(str(port.protocol))} is neither tcp nor udp"
        if not 0 < port.container_port <= 65535 or not 0 <= port.host_port <= 65535:
            yield f"port {port.host_port}:{port.container_port} is out of range"
        if port.host_ip and not _is_address(port.host_ip.strip("[]")):
            yield f"host address {_quoted(port.host_ip)} of a port is not an address"
    for name in spec.sysctls:
        refusal = sysctls.refusal(name, host_network=spec.network_mode == "host")
        if refusal:
            yield refusal if name.isprintable() else f"sysctl {_quoted(name)}: not a parameter's name"


def _mounts(spec: api.ContainerSpec) -> Iterable[str]:
    seen = set()
    for mount in spec.mounts:
        yield from _target(mount.target)
        target = os.path.normpath(mount.target)
        if target in seen:
            yield f"two mounts at {_quoted(target)}"
        seen.add(target)
        if mount.propagation not in PROPAGATIONS:
            yield f"no mount propagation {_quoted(mount.propagation)}"
        if "\0" in mount.source or "\0" in mount.subpath:
            yield f"the source of {_quoted(target)} holds a NUL byte"
        for option in mount.tmpfs_options:
            # One option must not become several: a size behind a comma would take the place of the limit.
            if "," in option or not option.isprintable():
                yield f"tmpfs option {_quoted(option)} is not one option"


def _target(path: str) -> Iterable[str]:
    if not path.startswith("/") or "\0" in path:
        yield f"the target {_quoted(path)} is not an absolute path"


def _files(spec: api.ContainerSpec) -> Iterable[str]:
    for file in spec.files:
        yield from _target(file.target)
        if not 0 <= file.uid <= _LARGEST_ID or not 0 <= file.gid <= _LARGEST_ID or not 0 <= file.mode <= 0o7777:
            yield f"owner or mode of {_quoted(file.target)} is out of range"
        if len(file.digest) != 64 or not all(digit in "0123456789abcdef" for digit in file.digest):
            yield f"the content of {_quoted(file.target)} is not named by a digest"


def _limits(spec: api.ContainerSpec) -> Iterable[str]:
    resources = spec.resources
    # Written so that NaN, which compares with nothing, is refused as well.
    if not 0 <= resources.cpus <= 10_000:
        yield f"{resources.cpus} CPUs is out of range"
    for what, value in (
        ("memory", resources.memory), ("memory reservation", resources.memory_reservation), ("pids", resources.pids),
        ("shm_size", spec.shm_size), ("log size", spec.log_max_size), ("number of log files", spec.log_max_files),
    ):  # fmt: skip
        if not 0 <= value < 1 << 63:
            yield f"{what} {value} is out of range"
    if not 0 <= spec.stop_grace <= 1e9:
        yield f"a stop grace of {spec.stop_grace} seconds is out of range"
