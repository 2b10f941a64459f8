"""Holds published ports: a bound socket for each, in the keeper's hands, so that no other program takes it unseen."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, Protocol

from runtime.api import Port
from runtime.errors import InvalidSpec, PortBusy
from runtime.files import read_json, remove_file, write_json
from runtime.lock import locked
from runtime.network.records import Records, list_names

TIME_WAIT = 6


class SocketHolder(Protocol):
    """The part of the supervisor's client that keeps sockets alive after this process."""

    def hold(self, key: str, fds: list[int]) -> None: ...
    def release(self, key: str) -> None: ...
    def held(self) -> list[str]: ...


class Ports:
    """Reservations of one root. Replicas of a group share one; anything else that wants the port is refused."""

    def __init__(self, records: Records, holder: SocketHolder) -> None:
        self.records = records
        self.holder = holder

    def reserve(self, id: str, ports: Sequence[Port], group: str) -> list[Port]:
        """All or none; `host_port` 0 becomes a free one. Raises PortBusy naming who has it."""
        if not ports:
            return []
        given = []
        with locked(f"{self.records.layout.locks}/ports"):
            held = set(self.holder.held())
            before = set(self._keys_of(id))
            # Written first, so that a kill anywhere below leaves a holder to be found.
            write_json(f"{self.records.run}/holds-{id}.json", sorted(before))
            taken: list[str] = []
            try:
                for wish in ports:
                    port = canonical(wish)
                    if port.host_port:
                        self._reserve(id, port, group, held)
                    else:
                        port = self._reserve_any(id, port, group)
                    taken.append(key_of(port))
                    given.append(port)
            except BaseException:
                for key in set(taken) - before:
                    self._drop(id, key)
                if not before:
                    remove_file(f"{self.records.run}/holds-{id}.json")
                raise
            write_json(f"{self.records.run}/holds-{id}.json", sorted(before | set(taken)))
        return given

    def release(self, id: str) -> None:
        path = f"{self.records.run}/holds-{id}.json"
        if not os.path.exists(path):
            return
        with locked(f"{self.records.layout.locks}/ports"):
            mine = (key for key in list_names(self.records.ports) if id in (self._claim(key) or {"ids": ()})["ids"])
            for key in {*self._keys_of(id), *mine}:
                self._drop(id, key)
            remove_file(path)

    def busy(self, ports: Sequence[Port], group: str) -> list[str]:
        """One line for each port that `reserve` would refuse now; takes nothing."""
        found = []
        for wish in ports:
            port = canonical(wish)
            claim = self._claim(key_of(port))
            if not port.host_port or (claim and claim["group"] == group):
                continue
            try:
                if claim:
                    raise self._refusal(port)
                for one in self._bind(port):
                    one.close()
            except PortBusy as error:
                found.append(str(error))
        return found

    def holders(self) -> set[str]:
        """Containers with a reservation, also one that a kill left half made."""
        found = set(list_names(self.records.run, prefix="holds-"))
        for key in list_names(self.records.ports):
            found.update((self._claim(key) or {"ids": ()})["ids"])
        return found

    def restore(self) -> None:
        """Take again the sockets that a dead keeper lost; let go of those that nobody claims."""
        keys = list_names(self.records.ports)
        held = {key for key in self.holder.held() if key.startswith("port:")}
        if held == {f"port:{key}" for key in keys}:
            return
        with locked(f"{self.records.layout.locks}/ports"):
            wanted = {f"port:{key}": key for key in list_names(self.records.ports)}
            held = {key for key in self.holder.held() if key.startswith("port:")}
            for name in held - wanted.keys():
                self.holder.release(name)
            for name in wanted.keys() - held:
                try:
                    self._hold(port_of(wanted[name]))
                except (PortBusy, InvalidSpec):
                    pass  # Somebody was quicker, or the address left. The rules still send what comes to the container.

    def _reserve(self, id: str, port: Port, group: str, held: set[str]) -> None:
        key = key_of(port)
        claim = self._claim(key)
        if claim and claim["group"] != group:
            raise self._refusal(port)
        if f"port:{key}" not in held:
            self._hold(port)
        ids = set(claim["ids"] if claim else ()) | {id}
        write_json(f"{self.records.ports}/{key}.json", {"group": group, "ids": sorted(ids)})

    def _reserve_any(self, id: str, port: Port, group: str) -> Port:
        """A port that is free for every address it is to be bound on; the first bind proposes, the rest may refuse."""
        for _ in range(50):
            sockets = _bind_sockets(port)
            chosen = replace(port, host_port=sockets[0].getsockname()[1])
            for one in sockets:
                one.close()
            try:
                self._reserve(id, chosen, group, set())
            except PortBusy:
                continue
            return chosen
        raise PortBusy(f"cannot publish port {port.container_port}: no free host port was found")

    def _hold(self, port: Port) -> None:
        sockets = self._bind(port)
        try:
            self.holder.hold(f"port:{key_of(port)}", [one.fileno() for one in sockets])
        finally:
            for one in sockets:
                one.close()

    def _bind(self, port: Port) -> list[socket.socket]:
        try:
            return _bind_sockets(port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise self._refusal(port) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidSpec(
                    f"cannot publish port {port.host_port}/{port.protocol}: {port.host_ip} is no address of this host"
                ) from None
            raise

    def _refusal(self, port: Port) -> PortBusy:
        where = f"{port.host_ip}:" if port.host_ip else ""
        who, hint = self._holder_of(port)
        return PortBusy(f"cannot publish port {where}{port.host_port}/{port.protocol}: {who}", hint)

    def _holder_of(self, port: Port) -> tuple[str, str]:
        layout = self.records.layout
        base = os.path.dirname(layout.run)
        for root in [layout.id, *(name for name in list_names(base, suffix="") if name != layout.id)]:
            directory = f"{base}/{root}/network/ports"
            for key in list_names(directory):
                other = port_of(key)
                if (other.protocol, other.host_port) == (port.protocol, port.host_port):
                    claim = read_json(f"{directory}/{key}.json") or {"group": "?"}
                    where = "" if root == layout.id else f" of another state root ({root})"
                    return f'it is published by "{claim["group"]}"{where}', "choose another host port"
        owner = socket_owner(port)
        return f"it is in use by {owner or 'another program'}", "stop that program or choose another host port"

    def _keys_of(self, id: str) -> list[str]:
        return read_json(f"{self.records.run}/holds-{id}.json") or []

    def _claim(self, key: str) -> dict[str, Any] | None:
        return read_json(f"{self.records.ports}/{key}.json") or None

    def _drop(self, id: str, key: str) -> None:
        claim = self._claim(key)
        ids = [one for one in claim["ids"] if one != id] if claim else []
        if claim and ids:
            write_json(f"{self.records.ports}/{key}.json", {**claim, "ids": ids})
            return
        self.holder.release(f"port:{key}")
        remove_file(f"{self.records.ports}/{key}.json")


def canonical(port: Port) -> Port:
    """One spelling for each host address; raises InvalidSpec for what is none."""
    if not port.host_ip:
        return port
    try:
        return replace(port, host_ip=str(ip_address(port.host_ip.strip("[]"))))
    except ValueError:
        raise InvalidSpec(f'cannot publish port {port.host_port}: bad host address "{port.host_ip}"') from None


def key_of(port: Port) -> str:
    return f"{port.protocol}_{port.host_ip or 'any'}_{port.host_port}"


def port_of(key: str) -> Port:
    protocol, host_ip, number = key.split("_")
    return Port(0, int(number), "udp" if protocol == "udp" else "tcp", "" if host_ip == "any" else host_ip)


def _bind_sockets(port: Port) -> list[socket.socket]:
    """Bound, never listening: a TCP client that gets past the rules is refused at once instead of left hanging."""
    addresses = [port.host_ip] if port.host_ip else ["0.0.0.0", "::"] if has_ipv6() else ["0.0.0.0"]
    sockets: list[socket.socket] = []
    number = port.host_port
    try:
        for address in addresses:
            sockets.append(_bind_one(port.protocol, address, number))
            number = number or sockets[0].getsockname()[1]
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def _bind_one(protocol: str, address: str, number: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = socket.socket(family, (socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM) | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "udp":
            # What arrives before the rules do, or over [::1], is nobody's: keep no more of it than must be.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        try:
            one.bind((address, number))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or protocol == "udp" or not _only_time_wait(number):
                raise
            # A server that ended a moment ago left connections in TIME_WAIT: they do not hold the port.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address, number))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        one.close()
        raise
    return one


def has_ipv6() -> bool:
    return os.path.exists("/proc/self/net/if_inet6") and bool(_lines("/proc/self/net/if_inet6"))


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def _sockets(protocol: str, number: int) -> list[tuple[int, str]]:
    """(state, inode) of every socket with this local port, of both IP versions."""
    found = []
    for version in ("", "6"):
        for line in _lines(f"/proc/self/net/{protocol}{version}")[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == number:
                found.append((int(fields[3], 16), fields[9]))
    return found


def _only_time_wait(number: int) -> bool:
    states = [state for state, _ in _sockets("tcp", number)]
    return bool(states) and all(state == TIME_WAIT for state in states)


def socket_owner(port: Port) -> str:
    """The program and pid that hold the port, "" when nobody is found."""
    wanted = {f"socket:[{inode}]" for state, inode in _sockets(port.protocol, port.host_port) if state != TIME_WAIT}
    if not wanted:
        return ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in wanted:
                    with open(f"/proc/{pid}/comm") as file:
                        return f"{file.read().strip()} (pid {pid})"
        except OSError:
            continue
    return ""
