"""Forgets tracked connections that would keep sending packets to a replica that has left.

A UDP flow stays bound to its backend for as long as the client keeps sending, and a flow seen before the port was
published stays bound to the host itself: new rules do not apply to it. A new first packet is looked at afresh.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection

from runtime.netlink import attribute, parse_attributes

NFNL_SUBSYS_CTNETLINK = 1
CT_GET, CT_DELETE = 1, 2
TUPLE_ORIG, TUPLE_REPLY, ZONE, ID = 1, 2, 18, 12
NESTED = 0x8000
NETLINK_NETFILTER = 12
PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}

Endpoint = tuple[str, str, int, int, int]  # source, destination, protocol, source port, destination port


def forget_flows(
    protocol: str, host_port: int, version: int, backends: Collection[str], gone: Collection[str] = ()
) -> int:
    """Drop flows to `host_port` that go to an address in `gone`, or for UDP to anything but `backends`.

    Returns how many. A flow that was not translated and does not end here is left alone: it is somebody's own.
    """
    number = PROTOCOLS[protocol]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    doomed = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as link:
        link.settimeout(5.0)
        for body in _dump(link, family):
            values = parse_attributes(body, 4)
            if TUPLE_ORIG not in values or TUPLE_REPLY not in values:
                continue
            original, reply = _tuple(values[TUPLE_ORIG], family), _tuple(values[TUPLE_REPLY], family)
            if original[2] != number or original[4] != host_port:
                continue
            server = reply[0]
            untouched = server == original[1] and reply[1] == original[0]
            translated = server != original[1]
            stale = server in gone or (protocol == "udp" and (translated or untouched) and server not in backends)
            if stale:
                doomed.append(attribute(TUPLE_ORIG | NESTED, values[TUPLE_ORIG]) + _optional(values))
        for identity in doomed:
            _delete(link, family, identity)
    return len(doomed)


def _optional(values: dict[int, bytes]) -> bytes:
    return b"".join(attribute(kind, values[kind]) for kind in (ZONE, ID) if kind in values)


def _tuple(raw: bytes, family: int) -> Endpoint:
    parts = parse_attributes(raw, 0)
    ip = parse_attributes(parts.get(1, b""), 0)
    proto = parse_attributes(parts.get(2, b""), 0)
    first, second = (1, 2) if family == socket.AF_INET else (3, 4)
    empty = bytes(4 if family == socket.AF_INET else 16)
    return (
        socket.inet_ntop(family, ip.get(first, empty)),
        socket.inet_ntop(family, ip.get(second, empty)),
        proto.get(1, b"\0")[0],
        int.from_bytes(proto.get(2, b"\0\0"), "big"),
        int.from_bytes(proto.get(3, b"\0\0"), "big"),
    )


def _message(kind: int, flags: int, family: int, body: bytes) -> bytes:
    kind |= NFNL_SUBSYS_CTNETLINK << 8
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, flags, 1, 0, family, 0, 0) + body


def _dump(link: socket.socket, family: int) -> list[bytes]:
    link.send(_message(CT_GET, 0x301, family, b""))
    found: list[bytes] = []
    while True:
        data = link.recv(1 << 18)
        offset = 0
        while offset + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, offset)
            if kind in (2, 3):
                return found
            found.append(data[offset + 16 : offset + length])
            offset += (length + 3) & ~3


def _delete(link: socket.socket, family: int, identity: bytes) -> None:
    """Gone already is fine."""
    link.send(_message(CT_DELETE, 5, family, identity))
    link.recv(1 << 16)
