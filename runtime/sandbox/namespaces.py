"""A container's own namespaces: which ones, its network links inside, and joining those of a running container."""

from __future__ import annotations

import errno
import os

from runtime import syscalls
from runtime.netlink import (
    NetlinkSocket,
    address_message,
    delete_message,
    route_message,
    up_message,
    veth_message,
)

JOINED = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWCGROUP
)  # fmt: skip

# Docker's: any user may bind low ports and ping, since the namespace holds nothing else.
NET_DEFAULTS = (
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
)
NET_OF_KIND: dict[str, tuple[tuple[str, str], ...]] = {
    "alone": (),
    # Also a fifth faster: no link-local address, no multicast group for each link. The loopback keeps ::1.
    "ipv4": (("net/ipv6/conf/default/disable_ipv6", "1"),),
    # Addresses come from the engine; a router on the bridge must not add more.
    "ipv6": (("net/ipv6/conf/default/accept_ra", "0"),),
}


def fork_into_pid_namespace(cgroup: int = -1) -> tuple[int, int]:
    """(pid, pidfd) in the parent, (0, -1) in the child, which is process 1 of a new pid namespace."""
    return syscalls.clone3(syscalls.CLONE_NEWPID, cgroup)


class Links:
    """A new network namespace, with a way to the host's bridges and one to its own inside."""

    def __init__(self, host: NetlinkSocket, kind: str) -> None:
        """In the new namespace, with a socket that was made in the host's."""
        self.host = host
        self._kind = kind
        self._former = _write_sysctls(NET_OF_KIND[kind])
        _write_sysctls(NET_DEFAULTS)
        self.inner = NetlinkSocket()
        self.inner.request(up_message(1))
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def prepare(self, interfaces: list[dict[str, object]]) -> list[bytes]:
        """The messages that make the links: they are not made yet."""
        kind = kind_of(interfaces)
        if kind != self._kind:
            _write_sysctls(self._former)
            _write_sysctls(NET_OF_KIND[kind])
        return pair_messages(self.host, self._own, interfaces)

    def make(self, pairs: list[bytes], interfaces: list[dict[str, object]]) -> None:
        make_pairs(self.host, pairs, interfaces)

    def configure(self, interfaces: list[dict[str, object]]) -> None:
        """Give the links addresses and routes, in as few messages as can be."""
        messages, routes = [], []
        for interface in interfaces:
            index = self.inner.link_index(str(interface["ifname"]))
            messages += [address_message(index, address) for address in _texts(interface["addresses"])]
            messages.append(up_message(index))
            # A gateway is accepted only when its link is up, so routes follow all links.
            routes += [route_message("default", gateway, index) for gateway in _texts(interface.get("gateways"))]
        self.inner.request(*messages, *routes)


def pair_messages(host: NetlinkSocket, netns: int, interfaces: list[dict[str, object]]) -> list[bytes]:
    """Each makes a link pair between the host's bridge and the namespace."""
    pairs = []
    for interface in interfaces:
        mac, mtu = str(interface.get("mac") or ""), int(str(interface.get("mtu") or 0))
        name, peer, bridge = (str(interface[key]) for key in ("host_ifname", "ifname", "bridge"))
        try:
            master = host.link_index(bridge)
        except OSError as error:
            raise OSError(error.errno, "no such bridge", bridge) from None
        pairs.append(veth_message(name, peer, master, netns, mac=mac, mtu=mtu))
    return pairs


def make_pairs(host: NetlinkSocket, pairs: list[bytes], interfaces: list[dict[str, object]]) -> None:
    for pair, interface in zip(pairs, interfaces, strict=True):
        try:
            host.request(pair)
        except FileExistsError:
            # The former run's namespace is still being torn down in the background, and holds the name.
            try:
                host.request(delete_message(str(interface["host_ifname"])))
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
            host.request(pair)


def network_kind(net: dict[str, object]) -> str:
    """What must be known of a network namespace before links are made: "host", "alone", "ipv4" or "ipv6"."""
    interfaces = net.get("interfaces")
    return "host" if net["mode"] == "host" else kind_of(interfaces if isinstance(interfaces, list) else [])


def kind_of(interfaces: list[dict[str, object]]) -> str:
    if not interfaces:
        return "alone"
    return "ipv6" if any(":" in address for each in interfaces for address in _texts(each["addresses"])) else "ipv4"


def enter_new(kind: str) -> Links | None:
    """Leave the host's uts, ipc, cgroup and network namespaces; its mount namespace is left later.

    The cgroup namespace is made here, after the process joined its cgroups: their place becomes its root.
    """
    flags = syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWCGROUP
    if kind == "host":
        syscalls.unshare(flags)
        return None
    host = NetlinkSocket()  # on the host's side: it stays there after unshare
    syscalls.unshare(flags | syscalls.CLONE_NEWNET)
    return Links(host, kind)


def _texts(values: object) -> list[str]:
    return [str(value) for value in values] if isinstance(values, (list, tuple)) else []


def _write_sysctls(values: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Returns the former values. A kernel without IPv6 has no such file: then there is nothing to turn off."""
    former = []
    for name, value in values:
        try:
            fd = os.open(f"/proc/sys/{name}", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            former.append((name, os.pread(fd, 64, 0).decode().strip()))
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    return tuple(former)


def join(pidfd: int) -> None:
    """Enter all namespaces of a running container but the pid one, which only children can enter."""
    syscalls.setns(pidfd, JOINED)
