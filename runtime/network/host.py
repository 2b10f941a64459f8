"""The host's side of the networks through raw netlink: links, addresses, routes; the making of bridges.

A dump takes 0.05 ms this way; the library that does the rare work (see `links`) takes 160 ms to import, which a
command that only looks, or only makes its first bridge, need not pay.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import ip_network

from runtime import netlink
from runtime.errors import Conflict
from runtime.network.ipam import Taken
from runtime.network.records import NetworkRecord
from runtime.value import value

IFF_LOWER_UP = 1 << 16
IFLA_BR_MCAST_SNOOPING = 23
RTN_UNICAST, RTN_LOCAL = 1, 2
RTM_SETLINK, AF_BRIDGE = 19, 7
IFLA_PROTINFO, IFLA_BRPORT_MODE, NLA_F_NESTED = 12, 4, 0x8000


@value
class Link:
    index: int
    name: str
    up: bool
    carrier: bool
    """For one end of a veth pair: the other end exists and is up."""
    mtu: int
    master: int
    alias: str


class Host:
    """One look at the links and addresses of the namespace of the calling thread."""

    def __init__(self) -> None:
        with netlink.NetlinkSocket() as kernel:
            found = [_link(body) for body in kernel.dump(netlink.RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0))]
            self.links = {link.name: link for link in found}
            self.addresses: dict[int, set[str]] = {}
            for one in kernel.dump_addresses():
                self.addresses.setdefault(int(str(one["index"])), set()).add(str(one["cidr"]))

    def addresses_of(self, name: str) -> set[str]:
        link = self.links.get(name)
        return self.addresses.get(link.index, set()) if link else set()


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
    values = netlink.parse_attributes(body, 16)

    def text(kind: int) -> str:
        return values.get(kind, b"").rstrip(b"\0").decode(errors="replace")

    def number(kind: int) -> int:
        return int(struct.unpack("=I", values[kind][:4])[0]) if kind in values else 0

    return Link(
        index, text(netlink.IFLA_IFNAME), bool(flags & netlink.IFF_UP), bool(flags & IFF_LOWER_UP),
        number(netlink.IFLA_MTU), number(netlink.IFLA_MASTER), text(netlink.IFLA_IFALIAS),
    )  # fmt: skip


def taken_space(except_link: str = "") -> list[Taken]:
    """Address space that the host's routes (of all tables, default routes excepted) and addresses use."""
    taken = []
    with netlink.NetlinkSocket() as kernel:
        names = {int(str(link["index"])): str(link["name"]) for link in kernel.dump_links()}
        for body in kernel.dump(netlink.RTM_GETROUTE, struct.pack("=BBBBBBBBI", 0, 0, 0, 0, 0, 0, 0, 0, 0)):
            family, length, _, _, _, _, _, kind = struct.unpack_from("=BBBBBBBB", body)
            values = netlink.parse_attributes(body, 12)
            destination = values.get(netlink.RTA_DST)
            if family not in (socket.AF_INET, socket.AF_INET6) or kind not in (RTN_UNICAST, RTN_LOCAL):
                continue
            if not length or destination is None:
                continue
            index = int(struct.unpack("=I", values[netlink.RTA_OIF])[0]) if netlink.RTA_OIF in values else 0
            network = ip_network((destination, length), strict=False)
            name = names.get(index, "?")
            if name != except_link and not network.is_link_local and not network.is_loopback:
                taken.append(Taken(network, f"route of {name}"))
    return taken


def ensure_bridge(record: NetworkRecord, alias: str) -> None:
    """The bridge is there, ours, up, with its gateway addresses. Raises Conflict for somebody else's link.

    It has a hardware address of its own: one without changes it with its ports, and neighbours' caches go stale.
    """
    with netlink.NetlinkSocket() as kernel:
        made = True
        try:
            kernel.request(netlink.bridge_message(record.bridge, mac=record.mac, mtu=record.spec.mtu))
        except FileExistsError:
            made = False
        index = socket.if_nametoindex(record.bridge)
        if not made:
            found = Host().links.get(record.bridge)
            # Without an alias it may be ours, left by a kill between the two messages, if the name is one of ours.
            if found and found.alias != alias and (found.alias or record.spec.bridge_name):
                raise Conflict(
                    f'cannot create network "{record.name}": link "{record.bridge}" exists and is not ours',
                    "choose another bridge name",
                )
        # The alias is refused at creation, and marks the link as ours.
        body = struct.pack("=BxHiII", 0, 0, index, netlink.IFF_UP, netlink.IFF_UP)
        body += netlink.attribute(netlink.IFLA_IFALIAS, alias.encode())
        body += netlink.attribute(netlink.IFLA_MTU, struct.pack("=I", record.spec.mtu))
        # Snooping would lose neighbour solicitations until a querier speaks; nobody does on these bridges.
        data = netlink.attribute(IFLA_BR_MCAST_SNOOPING, b"\0")
        info = netlink.attribute(netlink.IFLA_INFO_KIND, b"bridge") + netlink.attribute(netlink.IFLA_INFO_DATA, data)
        body += netlink.attribute(netlink.IFLA_LINKINFO, info)
        configure_bridge(record)
        kernel.request(netlink.message(netlink.RTM_NEWLINK, netlink.NLM_F_ACK, body))
        for address in record.gateway_addresses:
            try:
                kernel.request(netlink.address_message(index, address))
            except FileExistsError:
                pass


def reflect(name: str) -> None:
    """Let the bridge send frames back out of the port they came in by (hairpin mode); absent is fine.

    Where br_netfilter is loaded, as beside Docker, a container's packet to its own published port is DNATed while
    still on the bridge, and would be dropped for having to leave by the port that it entered.
    """
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return
    body = struct.pack("=BxHiII", AF_BRIDGE, 0, index, 0, 0)
    body += netlink.attribute(IFLA_PROTINFO | NLA_F_NESTED, netlink.attribute(IFLA_BRPORT_MODE, b"\1"))
    with netlink.NetlinkSocket() as kernel:
        try:
            kernel.request(netlink.message(RTM_SETLINK, netlink.NLM_F_ACK, body))
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EINVAL):
                raise


def remove_link(name: str) -> None:
    with netlink.NetlinkSocket() as kernel:
        try:
            kernel.request(netlink.delete_message(name))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


# ---- sysctls


def configure_bridge(record: NetworkRecord) -> None:
    """What forwarding and publishing on 127.0.0.1 need, for this bridge alone."""
    v6 = any(subnet.version == 6 for subnet in record.subnets)
    # IPv6 off saves a third of the time that links on the bridge cost.
    write_sysctl(f"net/ipv6/conf/{record.bridge}/disable_ipv6", "0" if v6 else "1")
    for name, setting in (("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0")):
        write_sysctl(f"net/ipv6/conf/{record.bridge}/{name}", setting)
    # Answers to connections from 127.0.0.1 come in here; strict reverse paths keep containers from forging sources.
    for name, setting in (("route_localnet", "1"), ("rp_filter", "1"), ("forwarding", "1")):
        write_sysctl(f"net/ipv4/conf/{record.bridge}/{name}", setting)


def enable_forwarding(v6: bool) -> list[str]:
    """Turn on what is off; returns what was changed.

    Forwarding makes the kernel stop listening to router advertisements, from which the host may have its own IPv6
    address and route: 2 makes it go on.
    """
    changed = []
    if read_sysctl("net/ipv4/ip_forward") == "0":
        write_sysctl("net/ipv4/ip_forward", "1")
        changed.append("net.ipv4.ip_forward")
    if v6 and read_sysctl("net/ipv6/conf/all/forwarding") == "0":
        for name in os.listdir("/proc/sys/net/ipv6/conf"):
            if name not in ("all", "lo") and read_sysctl(f"net/ipv6/conf/{name}/accept_ra") == "1":
                write_sysctl(f"net/ipv6/conf/{name}/accept_ra", "2")
        write_sysctl("net/ipv6/conf/all/forwarding", "1")
        changed.append("net.ipv6.conf.all.forwarding")
    return changed


def read_sysctl(name: str) -> str:
    try:
        with open(f"/proc/sys/{name}") as file:
            return file.read().strip()
    except OSError:
        return ""


def write_sysctl(name: str, value: str) -> None:
    """A key that this kernel lacks (IPv6 compiled out) is passed over."""
    if read_sysctl(name) == value:
        return
    try:
        with open(f"/proc/sys/{name}", "w") as file:
            file.write(value)
    except FileNotFoundError:
        pass
