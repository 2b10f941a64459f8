"""A container's own namespaces: which ones, its network links inside, and joining those of a running container."""

from __future__ import annotations

import errno
import os
import socket

from runtime import syscalls
from runtime.netlink import (
    NetlinkSocket,
    address_message,
    delete_message,
    route_message,
    up_message,
    veth_message,
)

OWN = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
JOINED = OWN | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWCGROUP

# Docker's: any user may bind low ports and ping, since the namespace holds nothing else.
NET_DEFAULTS = (
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
)


def fork_into_pid_namespace(cgroup: int = -1) -> tuple[int, int]:
    """(pid, pidfd) in the parent, (0, -1) in the child, which is process 1 of a new pid namespace."""
    return syscalls.clone3(syscalls.CLONE_NEWPID, cgroup)


def enter_new(*, own_network: bool, interfaces: list[dict[str, object]]) -> None:
    """Leave the host's mount, uts, ipc, cgroup and network namespaces.

    The cgroup namespace is made here, after the process joined its cgroups: their place becomes its root.
    """
    flags = OWN | syscalls.CLONE_NEWCGROUP
    if not own_network:
        syscalls.unshare(flags)
        return
    if not interfaces:
        syscalls.unshare(flags | syscalls.CLONE_NEWNET)
        _write_sysctls(NET_DEFAULTS)
        with NetlinkSocket() as inner:
            inner.request(up_message(1))
        return
    # Opened on the host's side: it stays there after unshare.
    with NetlinkSocket() as host:
        bridges = [_index(str(interface["bridge"])) for interface in interfaces]
        syscalls.unshare(flags | syscalls.CLONE_NEWNET)
        connect(host, bridges, interfaces)


def _index(bridge: str) -> int:
    try:
        return socket.if_nametoindex(bridge)
    except OSError:
        raise OSError(errno.ENODEV, "no such bridge", bridge) from None


def connect(host: NetlinkSocket, bridges: list[int], interfaces: list[dict[str, object]]) -> None:
    """Give this process's new network namespace its links, addresses and routes, in as few messages as can be."""
    has_ipv6 = any(":" in address for interface in interfaces for address in _texts(interface["addresses"]))
    defaults = list(NET_DEFAULTS)
    if has_ipv6:
        # Addresses come from the engine; a router on the bridge must not add more.
        defaults += [("net/ipv6/conf/default/accept_ra", "0")]
    else:
        # Also a fifth faster: no link-local address, no multicast group for each link. The loopback keeps ::1.
        defaults += [("net/ipv6/conf/default/disable_ipv6", "1")]
    _write_sysctls(defaults)
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        messages = [up_message(1)]
        routes = []
        for bridge, interface in zip(bridges, interfaces, strict=True):
            _make_link(host, bridge, interface, own)
            index = socket.if_nametoindex(str(interface["ifname"]))
            messages += [address_message(index, address) for address in _texts(interface["addresses"])]
            messages.append(up_message(index))
            # A gateway is accepted only when its link is up, so routes follow all links.
            routes += [route_message("default", gateway, index) for gateway in _texts(interface.get("gateways"))]
        with NetlinkSocket() as inner:
            inner.request(*messages, *routes)
    finally:
        os.close(own)


def _make_link(host: NetlinkSocket, bridge: int, interface: dict[str, object], netns: int) -> None:
    name = str(interface["host_ifname"])
    mac, mtu = str(interface.get("mac") or ""), int(str(interface.get("mtu") or 0))
    pair = veth_message(name, str(interface["ifname"]), bridge, netns, mac=mac, mtu=mtu)
    try:
        host.request(pair)
    except FileExistsError:
        # The former run's namespace is still being torn down in the background, and holds the name.
        try:
            host.request(delete_message(name))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        host.request(pair)


def _texts(values: object) -> list[str]:
    return [str(value) for value in values] if isinstance(values, (list, tuple)) else []


def _write_sysctls(values: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> None:
    """A kernel without IPv6 has no such file: then there is nothing to turn off."""
    for name, value in values:
        try:
            fd = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def join(pidfd: int) -> None:
    """Enter all namespaces of a running container but the pid one, which only children can enter."""
    syscalls.setns(pidfd, JOINED)
