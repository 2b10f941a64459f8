"""A host of one's own: a private network namespace with neighbours and containers that are namespaces only."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from runtime import netlink
from runtime.api import Attachment, Health, Port
from runtime.layout import Layout
from runtime.network import Endpoint, Networks

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)

SERVE = """
import socket, sys, threading
name, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
def tcp():
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    print("tcp", flush=True)
    while True:
        connection, peer = listener.accept()
        connection.sendall(f"{name} {peer[0]}".encode()); connection.close()
def udp():
    one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    one.bind(("::", port)); print("udp", flush=True)
    while True:
        data, peer = one.recvfrom(2000); one.sendto(f"{name} {peer[0]}".encode(), peer)
threading.Thread(target=tcp, daemon=True).start(); udp()
"""


def enter_namespace(fd: int) -> None:
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def new_namespace() -> None:
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    with netlink.NetlinkSocket() as kernel:
        kernel.request(netlink.up_message(1))


@contextmanager
def private_host() -> Iterator[None]:
    """The calling thread is alone in a new network namespace until the end."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    new_namespace()
    try:
        yield
    finally:
        enter_namespace(home)
        os.close(home)


class FakeKeeper:
    """Keeps descriptors and the names process, in this process."""

    def __init__(self) -> None:
        self.fds: dict[str, list[int]] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def hold(self, key: str, fds: Sequence[int]) -> None:
        self.release(key)
        self.fds[key] = [os.dup(fd) for fd in fds]

    def release(self, key: str) -> None:
        for fd in self.fds.pop(key, []):
            os.close(fd)

    def held(self) -> list[str]:
        return sorted(self.fds)

    def names(self, argv: Sequence[str] | None) -> None:
        self.end_names()
        if argv is not None:
            self.process = subprocess.Popen(list(argv))

    def end_names(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def close(self) -> None:
        self.end_names()
        for key in list(self.fds):
            self.release(key)


class Space:
    """A process in a network namespace of its own: another host, or a container."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["/usr/bin/unshare", "-n", "/usr/bin/busybox", "sleep", "600"], stdin=subprocess.DEVNULL
        )
        self.pid = self.process.pid
        own = os.stat("/proc/self/ns/net").st_ino
        deadline = time.monotonic() + 10
        while os.stat(f"/proc/{self.pid}/ns/net").st_ino == own:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        self.servers: list[subprocess.Popen[str]] = []

    @contextmanager
    def inside(self) -> Iterator[None]:
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter_namespace(there)
            yield
        finally:
            enter_namespace(home)
            os.close(home)
            os.close(there)

    def join(self, host_link: str, master: int, link: str, addresses: Sequence[str], gateways: Sequence[str]) -> None:
        fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        with netlink.NetlinkSocket() as kernel:
            kernel.request(netlink.veth_message(host_link, link, master, fd))
        os.close(fd)
        with self.inside(), netlink.NetlinkSocket() as kernel:
            index = socket.if_nametoindex(link)
            messages = [netlink.up_message(1), *(netlink.address_message(index, one) for one in addresses)]
            messages += [netlink.up_message(index)]
            messages += [netlink.route_message("default", gateway, index) for gateway in gateways]
            kernel.request(*messages)

    def serve(self, name: str, port: int) -> None:
        with self.inside():
            server = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", SERVE, name, str(port)], stdout=subprocess.PIPE, text=True
            )
        assert server.stdout is not None
        for _ in range(2):
            assert server.stdout.readline().strip() in ("tcp", "udp")
        self.servers.append(server)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for server in self.servers:
            server.kill()
            server.wait(10)
            if server.stdout:
                server.stdout.close()


class Container(Space):
    """Attached to networks as the supervisor would do it."""

    def __init__(self, networks: Networks, id: str, attachments: Sequence[Attachment]) -> None:
        super().__init__()
        self.networks = networks
        self.id = id
        os.makedirs(networks.layout.run_container(id), exist_ok=True)
        self.attachments = attachments
        self.interfaces = networks.attach(id, attachments)
        for one in self.interfaces:
            master = socket.if_nametoindex(one["bridge"])
            self.join(one["host_ifname"], master, one["ifname"], one["addresses"], one["gateways"])

    @property
    def addresses(self) -> list[str]:
        return [address.partition("/")[0] for one in self.interfaces for address in one["addresses"]]

    def publish(
        self, names: Sequence[str] = (), ports: Sequence[Port] = (), group: str = "", health: Health = "none",
        dns: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.networks.publish(
            self.id,
            Endpoint(
                names={one.network: [*one.aliases, *names] for one in self.attachments},
                addresses={
                    one["network"]: [address.partition("/")[0] for address in one["addresses"]]
                    for one in self.interfaces
                },
                ports=ports,
                health=health,
                group=group or self.id,
                dns=dns,
            ),
        )

    def end(self) -> None:
        super().end()
        self.networks.detach(self.id)


def talk_tcp(address: str, port: int, timeout: float = 2.0) -> str:
    """What the server says; "" when refused, dropped or out of reach."""
    try:
        with socket.create_connection((address, port), timeout=timeout) as one:
            return one.recv(200).decode()
    except OSError:
        return ""


def talk_udp(address: str, port: int, timeout: float = 1.0, one: socket.socket | None = None) -> str:
    made = one or socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.settimeout(timeout)
        made.sendto(b"hello", (address, port))
        return made.recvfrom(200)[0].decode()
    except OSError:
        return ""
    finally:
        if one is None:
            made.close()


def make_networks(tmp: str, resolv: str) -> Networks:
    layout = Layout(f"{tmp}/root", run_base=f"{tmp}/run")
    layout.create()
    return Networks(layout, FakeKeeper(), resolv)
