"""Ports as services write them: ranges, protocols, host addresses."""

# ruff: noqa: TRY004 - pydantic turns ValueError, and only that, into a problem of the value

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

MAX_RANGE = 1000
"""A range of more ports than this in one entry is taken for a mistake."""


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """One port of one entry; `published` 0 lets the engine choose."""

    target: int
    published: int = 0
    protocol: str = "tcp"
    host_ip: str = ""


def parse_port_range(text: str, what: str = "port") -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if match is None:
        raise ValueError(f'"{text}" is not a {what} or a range of them')
    first, last = int(match[1]), int(match[2] or match[1])
    if not (1 <= first <= 65535 and 1 <= last <= 65535):
        raise ValueError(f'{what} "{text}" is out of range (1 to 65535)')
    if last < first:
        raise ValueError(f'range "{text}" ends before it begins')
    if last - first >= MAX_RANGE:
        raise ValueError(f'range "{text}" holds more than {MAX_RANGE} ports')
    return first, last


def parse_host_ip(text: str) -> str:
    """Canonical address, "" for every address."""
    if not text or text == "*":
        return ""
    try:
        address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f'"{text}" is not an IP address') from None
    if str(address) == "::1":
        raise ValueError("cannot publish on [::1]: the kernel forwards no IPv6 loopback traffic; use 127.0.0.1")
    return str(address)


def expand_port(target: str, published: str, protocol: str, host_ip: str) -> list[PublishedPort]:
    """One entry per port of the ranges. Raises ValueError when they do not match."""
    if protocol not in ("tcp", "udp"):
        raise ValueError(f'protocol "{protocol}" is not supported: tcp or udp')
    first, last = parse_port_range(target, "container port")
    address = parse_host_ip(host_ip)
    if published in ("", "0"):
        return [PublishedPort(port, 0, protocol, address) for port in range(first, last + 1)]
    host_first, host_last = parse_port_range(published, "host port")
    if host_last - host_first != last - first:
        if first == last:
            raise ValueError(
                f'a range of host ports ("{published}") for one container port is not supported yet: '
                "name one host port, or none to have one chosen"
            )
        raise ValueError(f'ranges "{published}" and "{target}" differ in length')
    return [PublishedPort(first + n, host_first + n, protocol, address) for n in range(last - first + 1)]


def parse_port(value: Any) -> list[PublishedPort]:
    """The short form: `[[HOST_IP:]HOST:]CONTAINER[/PROTOCOL]`, each part possibly a range."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError('must be a port such as "8080:80"')
    text, slash, protocol = str(value).strip().partition("/")
    rest, colon, target = text.rpartition(":")
    if not colon:
        return expand_port(text, "", protocol.lower() if slash else "tcp", "")
    host_ip, _, published = rest.rpartition(":")
    if host_ip.startswith("[") != host_ip.endswith("]"):
        raise ValueError(f'"{text}" is not a port such as "8080:80"')
    return expand_port(target, published, protocol.lower() if slash else "tcp", host_ip)


def parse_expose(value: Any) -> str:
    """`8000/tcp` or `8000-8010/udp`, from a number or a string."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a port such as 8000 or 53/udp")
    text, slash, protocol = str(value).strip().partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in ("tcp", "udp"):
        raise ValueError(f'protocol "{protocol}" is not supported: tcp or udp')
    first, last = parse_port_range(text)
    return f"{first}/{protocol}" if first == last else f"{first}-{last}/{protocol}"
