"""Parsers of the small languages inside manifest values: durations, sizes, ports, mounts, signals, limits.

Each takes what stands in the manifest and returns the canonical value, or raises ValueError with a message for users.
"""

# ruff: noqa: TRY004 - pydantic turns ValueError, and only that, into a problem of the value

from __future__ import annotations

import ipaddress
import math
import re
import shlex
import signal
from collections.abc import Mapping
from typing import Any

CAPABILITIES = frozenset(
    [
        "AUDIT_CONTROL",
        "AUDIT_READ",
        "AUDIT_WRITE",
        "BLOCK_SUSPEND",
        "BPF",
        "CHECKPOINT_RESTORE",
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "IPC_OWNER",
        "KILL",
        "LEASE",
        "LINUX_IMMUTABLE",
        "MAC_ADMIN",
        "MAC_OVERRIDE",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_RAW",
        "PERFMON",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYSLOG",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_CHROOT",
        "SYS_MODULE",
        "SYS_NICE",
        "SYS_PACCT",
        "SYS_PTRACE",
        "SYS_RAWIO",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "WAKE_ALARM",
    ]
)
ULIMITS = frozenset(
    [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)

_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})(ns|us|µs|ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*(b|kb?|mb?|gb?|tb?|pb?|kib|mib|gib|tib|pib)?", re.IGNORECASE)
_SIZE_POWERS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_OCTAL_BY_MISTAKE = frozenset(
    (400, 440, 444, 500, 550, 555, 600, 640, 644, 660, 664, 666, 700, 710, 711, 750, 755, 770, 775, 777, 1770, 1777)
)
_SYSCTL = re.compile(r"[a-z0-9][a-z0-9_\-]*(?:[./][A-Za-z0-9_\-]+)+")
_HOSTNAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62}))*")


def parse_duration(value: Any) -> float:
    """Seconds, from Go's spelling (`1m30s`, `500ms`, `1.5h`, also `2d`); a bare 0 needs no unit."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a duration such as 10s or 1m30s")
    text = str(value).strip()
    if text in ("0", "0.0"):
        return 0.0
    if re.fullmatch(r"[0-9.]+", text):
        raise ValueError(f'"{text}" is not a duration: add a unit (did you mean "{text}s"?)')
    position, seconds = 0, 0.0
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            raise ValueError(f'"{text}" is not a duration such as 10s or 1m30s')
        seconds += float(part[1]) * _DURATION_UNITS[part[2]]
        position = part.end()
    if not text:
        raise ValueError("must be a duration such as 10s or 1m30s, not an empty string")
    return round(seconds, 9)


def parse_size(value: Any) -> int:
    """Bytes, from `64m`, `1.5GB`, `512KiB` or a number; the units are powers of 1024, as in Compose."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a size such as 64m or 1g")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value} is not a whole number of bytes")
    text = str(value).strip().removesuffix(".0") if isinstance(value, float) else str(value).strip()
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a size such as 512k, 64m or 1g')
    unit = (match[2] or "").lower().removesuffix("ib")
    unit = unit if unit in _SIZE_POWERS else unit.removesuffix("b")
    size = (
        int(float(match[1]) * 1024 ** _SIZE_POWERS[unit])
        if "." in match[1]
        else int(match[1]) << 10 * _SIZE_POWERS[unit]
    )
    if size >= 1 << 63:
        raise ValueError(f'"{text}" is more than any machine holds')
    return size


def parse_cpus(value: Any) -> float:
    """A number of CPUs, at least 0.01 (the kernel's smallest quota); 0 means no limit."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a number of CPUs such as 0.5")
    try:
        cpus = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f'"{value}" is not a number of CPUs such as 0.5') from None
    if cpus != 0 and not 0.01 <= cpus <= 10_000:
        raise ValueError(f"{value} CPUs is out of range: at least 0.01, or 0 for no limit")
    return cpus


def parse_mode(value: Any) -> int:
    """Permission bits: a string or a number with a leading zero is octal, as in Compose; a plain number is itself."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError('must be permission bits such as 0440 or "0440"')
    try:
        mode = int(value.removeprefix("0o"), 8) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f'"{value}" is not octal permission bits such as 0440') from None
    if value in _OCTAL_BY_MISTAKE:
        raise ValueError(f"{value} is decimal and means 0{value:o}: write 0{value}")
    if not 0 <= mode <= 0o7777:
        raise ValueError(f"{value} is out of range for permission bits (0 to 07777, octal)")
    return mode


def parse_signal(value: Any) -> str:
    """`SIGTERM`, from `SIGTERM`, `term`, `15` or `SIGRTMIN+3`."""
    text = str(value).strip().upper()
    if isinstance(value, bool) or not text:
        raise ValueError("must be a signal such as SIGTERM")
    if text.isascii() and text.isdigit():
        try:
            return signal.Signals(int(text)).name
        except ValueError:
            if signal.SIGRTMIN < int(text) < signal.SIGRTMAX:
                return f"SIGRTMIN+{int(text) - signal.SIGRTMIN}"
            raise ValueError(f"there is no signal {text[:20]}") from None
    name = text if text.startswith("SIG") else f"SIG{text}"
    offset = re.fullmatch(r"SIGRT(MIN\+|MAX-)([0-9]{1,2})", name)
    if offset:
        span = signal.SIGRTMAX - signal.SIGRTMIN
        if int(offset[2]) <= span:
            return f"SIGRTMIN+{int(offset[2]) if offset[1] == 'MIN+' else span - int(offset[2])}"
    elif name in signal.Signals.__members__:
        return name
    from schemas.suggest import did_you_mean

    raise ValueError(f'there is no signal "{str(value)[:40]}"{did_you_mean(name, list(signal.Signals.__members__))}')


def parse_capability(value: str) -> str:
    """The bare upper-case name, `NET_ADMIN` or `ALL`."""
    name = value.strip().upper().removeprefix("CAP_")
    if name != "ALL" and name not in CAPABILITIES:
        from schemas.suggest import did_you_mean

        raise ValueError(f'there is no capability "{value}"{did_you_mean(name, [*CAPABILITIES, "ALL"])}')
    return name


def parse_command(value: Any) -> list[str]:
    """A list stays as it is; a string is split as a shell would, without running one."""
    if isinstance(value, list):
        for item in value:
            if not isinstance(item, str):
                raise ValueError(f"every word must be a string: put {item!r} in quotes")
            if "\0" in item:
                raise ValueError("a word cannot hold a NUL byte")
        return value
    if not isinstance(value, str):
        raise ValueError("must be a string or a list of strings")
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"cannot be split into words: {str(error).lower()}") from None
    if "\0" in value:
        raise ValueError("a word cannot hold a NUL byte")
    return words


def check_hostname(text: str) -> str:
    if not _HOSTNAME.fullmatch(text):
        raise ValueError(f'"{text}" is not a host name')
    return text


def parse_extra_hosts(value: Any) -> dict[str, str]:
    """host -> address, from `host:ip`, `host=ip` entries or a mapping; `host-gateway` stays as it is."""
    pairs: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, str):
                raise ValueError("every entry must be a string such as somehost=10.0.0.5")
            name, separator, address = item.partition("=") if "=" in item else item.partition(":")
            if not separator:
                raise ValueError(f'"{item}" is not of the form HOST=ADDRESS')
            pairs.append((name.strip(), address.strip()))
    else:
        raise ValueError("must be a list of HOST=ADDRESS or a mapping")
    hosts: dict[str, str] = {}
    for name, address in pairs:
        check_hostname(name)
        if not isinstance(address, str):
            raise ValueError(f'several addresses for host "{name}" are not supported yet')
        if address != "host-gateway":
            address = parse_host_ip_any(address)
        if hosts.get(name, address) != address:
            raise ValueError(f'several addresses for host "{name}" are not supported yet')
        hosts[name] = address
    return hosts


def parse_host_ip_any(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise ValueError(f'"{text}" is not an IP address') from None


def parse_sysctl_name(name: str) -> str:
    """Dotted name of a setting that a container can have for itself."""
    dotted = name.replace("/", ".") if "/" in name and "." not in name.split("/", maxsplit=1)[0] else name
    if not _SYSCTL.fullmatch(dotted):
        raise ValueError(f'"{name}" is not the name of a kernel setting')
    if not (
        dotted.startswith(("net.", "fs.mqueue.", "kernel.shm", "kernel.msg"))
        or dotted in ("kernel.sem", "kernel.domainname")
    ):
        raise ValueError(f'kernel setting "{name}" is shared by the whole host and cannot be set for one container')
    return dotted


def parse_subnet(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=True))
    except ValueError:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f'"{text}" is not a subnet such as 10.5.0.0/24') from None
        raise ValueError(f'"{text}" has bits set outside its prefix (did you mean "{network}"?)') from None


def parse_mac(text: str) -> str:
    mac = text.lower().replace("-", ":")
    if not re.fullmatch(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", mac):
        raise ValueError(f'"{text}" is not a MAC address')
    if int(mac[:2], 16) & 1:
        raise ValueError(f'"{text}" is a multicast address and cannot be an interface\'s own')
    return mac


def scalar_text(value: Any) -> str:
    """A YAML scalar as the string a program gets in its environment."""
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            return {"inf": "+Inf", "-inf": "-Inf"}.get(repr(value), "NaN")
        return repr(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
    return str(value)
