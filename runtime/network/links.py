"""Repairs links in a live system through pyroute2: bridges with their ports, a running container's interfaces.

Everything here is rare, so the library's 160 ms of import are paid by whoever repairs and by nobody else.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from runtime.errors import EngineError, Unavailable
from runtime.network.addresses import new_link_name
from runtime.network.host import configure_bridge
from runtime.network.records import NetworkRecord

T = TypeVar("T")
CLONE_NEWNET = 0x40000000


def restore_bridge(record: NetworkRecord, alias: str, ports: Iterable[str]) -> None:
    """Bridge, state, addresses as on record, and every link of `ports` that exists enslaved to it."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ip:
            if not ip.link_lookup(ifname=record.bridge):
                ip.link("add", ifname=record.bridge, kind="bridge", address=record.mac, mtu=record.spec.mtu)
            index = ip.link_lookup(ifname=record.bridge)[0]
            configure_bridge(record)
            ip.link("set", index=index, state="up", address=record.mac, mtu=record.spec.mtu, ifalias=alias)
            _set_addresses(ip, index, record.gateway_addresses)
            for name in ports:
                found = ip.link_lookup(ifname=name)
                if found:
                    ip.link("set", index=found[0], master=index, state="up")
    except NetlinkError as error:
        raise EngineError(f'cannot repair network "{record.name}": {error}') from None


def restore_interface(pid: int, wanted: Mapping[str, Any], prefix: str) -> str:
    """One interface of the container `pid`: pair, bridge, state, addresses, routes. Returns the host link's name.

    A pair that is gone is born again inside the namespace under a new host name: the old one may still be dying.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    host_name = str(wanted["host_ifname"])
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        raise Unavailable(f"cannot repair the links of process {pid}: it is gone") from None

    def inside() -> None:
        with IPRoute() as ip:
            index = ip.link_lookup(ifname=wanted["ifname"])[0]
            loopback = ip.link_lookup(ifname="lo")[0]
            ip.link("set", index=loopback, state="up")
            ip.link("set", index=index, state="up")
            _set_addresses(ip, index, wanted["addresses"])
            for gateway in wanted["gateways"]:
                family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
                ip.route("replace", family=family, dst="default", gateway=gateway, oif=index)

    def missing_inside() -> bool:
        with IPRoute() as ip:
            return not ip.link_lookup(ifname=wanted["ifname"])

    try:
        with IPRoute() as ip:
            bridge = ip.link_lookup(ifname=wanted["bridge"])
            if not bridge:
                raise EngineError(f'cannot repair interface "{wanted["ifname"]}": bridge {wanted["bridge"]} is missing')
            found = ip.link_lookup(ifname=host_name)
            if found and in_namespace(namespace, missing_inside):
                ip.link("del", index=found[0])
                found = []
            if not found:
                host_name = new_link_name(prefix)
                peer = {"ifname": wanted["ifname"], "net_ns_fd": namespace, "address": wanted["mac"]}
                peer["mtu"] = wanted["mtu"]
                ip.link("add", ifname=host_name, kind="veth", master=bridge[0], mtu=wanted["mtu"], peer=peer)
                found = ip.link_lookup(ifname=host_name)
            ip.link("set", index=found[0], master=bridge[0], state="up")
        in_namespace(namespace, inside)
    except NetlinkError as error:
        raise EngineError(f'cannot repair interface "{wanted["ifname"]}" of process {pid}: {error}') from None
    finally:
        os.close(namespace)
    return host_name


def _set_addresses(ip: Any, index: int, wanted: Iterable[str]) -> None:
    """Add the missing. Addresses that somebody added by hand are left: they are not ours to judge."""
    present = set()
    for one in ip.get_addr(index=index):
        present.add(f"{one.get_attr('IFA_LOCAL') or one.get_attr('IFA_ADDRESS')}/{one['prefixlen']}")
    for address in wanted:
        if address not in present:
            text, _, length = address.partition("/")
            options = {"flags": 2} if ":" in text else {}  # IFA_F_NODAD
            ip.addr("add", index=index, address=text, prefixlen=int(length), **options)


def in_namespace(fd: int, act: Callable[[], T]) -> T:
    """Run `act` in a thread of its own inside the network namespace: setns moves the calling thread only."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            outcome.append(act())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(30.0)
    if failure:
        raise failure[0]
    if not outcome:
        raise Unavailable("cannot work in the network namespace: the kernel did not answer within 30 s")
    return outcome[0]
