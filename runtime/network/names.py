"""The names process: answers DNS on port 53 of every bridge's gateway address, from the zone directory.

It lives from the first network to the last, needs no agent, and never trusts a packet. Who asks is known by the
source address; a container on several networks may ask any of their gateways and hears the names of all of them.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import struct
import sys
import time

import dnslib  # type: ignore[import-untyped, unused-ignore]

from runtime.network.forward import Forwarder, Question
from runtime.network.sockets import IN_Q_OVERFLOW, bind, replace_former, watch
from runtime.network.zone import LOCAL_TTL, Zone

MAX_CLIENTS = 256
IDLE = 10.0
A, PTR, AAAA, ANY = 1, 12, 28, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)


class Client:
    """One TCP connection: what came in and has not been used, what goes out and has not been taken."""

    __slots__ = ("address", "buffer", "output", "seen", "socket")

    def __init__(self, connection: socket.socket, address: str) -> None:
        self.socket = connection
        self.address = address
        self.buffer = b""
        self.output = b""
        self.seen = time.monotonic()


class Server:
    def __init__(self, zone: Zone, state: str, resolv: str) -> None:
        self.zone = zone
        self.state = state
        self.resolv = resolv
        self.selector = selectors.DefaultSelector()
        self.forwarder = Forwarder(self.selector)
        self.listening: dict[str, tuple[socket.socket, socket.socket]] = {}
        self.failed: dict[str, str] = {}
        self.clients: set[Client] = set()
        self.upstreams: list[str] = []
        self.resolv_seen: tuple[int, int, int] | None = None
        self.parent = os.getppid()
        self.inotify = watch(zone.directory)
        self.selector.register(self.inotify, selectors.EVENT_READ, "zone")
        zone.load()
        self.listen()

    # ---- the zone and the sockets

    def zone_changed(self) -> None:
        try:
            data = os.read(self.inotify, 65536)
        except BlockingIOError:
            return
        offset, everything, networks = 0, False, False
        names = set()
        while offset < len(data):
            _, mask, _, length = struct.unpack_from("=iIII", data, offset)
            name = data[offset + 16 : offset + 16 + length].rstrip(b"\0").decode(errors="replace")
            offset += 16 + length
            everything = everything or bool(mask & IN_Q_OVERFLOW)
            networks = networks or name.startswith("n-")
            names.add(name)
        if everything:
            self.zone.load()
        for name in names:
            self.zone.refresh(name)
        if everything or networks:
            self.listen()

    def listen(self) -> None:
        """Be on port 53 of every gateway address, and nowhere else; what fails is tried again."""
        wanted = self.zone.gateways()
        for address in set(self.listening) - wanted:
            for one in self.listening.pop(address):
                self.selector.unregister(one)
                one.close()
        failed = {}
        for address in wanted - set(self.listening):
            try:
                pair = bind(address)
            except OSError as error:
                failed[address] = error.strerror or str(error)
                continue
            self.listening[address] = pair
            self.selector.register(pair[0], selectors.EVENT_READ, "udp")
            self.selector.register(pair[1], selectors.EVENT_READ, "tcp")
        self.failed = failed
        self._report()

    def _report(self) -> None:
        import json

        text = json.dumps({"pid": os.getpid(), "serving": sorted(self.listening), "failed": self.failed})
        temporary = f"{self.state}.{os.getpid()}"
        try:
            with open(temporary, "w") as file:
                file.write(text)
            os.rename(temporary, self.state)
        except OSError:
            pass  # The run directory is being removed.

    def close(self) -> None:
        for pair in self.listening.values():
            for one in pair:
                one.close()

    # ---- the loop

    def run(self) -> None:
        while True:
            for key, mask in self.selector.select(self._timeout()):
                self._dispatch(key, mask)
            self.forwarder.expire()
            self._drop_idle()
            if self.failed:
                self.listen()
            if os.getppid() != self.parent and not self.zone.networks:
                return

    def _dispatch(self, key: selectors.SelectorKey, mask: int) -> None:
        try:
            if key.data == "zone":
                self.zone_changed()
            elif key.data == "udp":
                self._datagram(key.fileobj)  # type: ignore[arg-type]
            elif key.data == "tcp":
                self._accept(key.fileobj)  # type: ignore[arg-type]
            elif isinstance(key.data, Question):
                if key.data in self.forwarder.pending:
                    self.forwarder.ready(key.data, mask)
            elif isinstance(key.data, Client) and key.data in self.clients:
                self._stream(key.data, mask)
        except Exception as error:  # One bad packet must not end the names of every container.
            print(f"names: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def _timeout(self) -> float:
        deadline = self.forwarder.next_deadline()
        limit = 0.05 if self.failed else 2.0 if self.clients else 30.0 if os.getppid() == self.parent else 2.0
        return limit if deadline is None else max(0.0, min(limit, deadline - time.monotonic()))

    def _datagram(self, one: socket.socket) -> None:
        for _ in range(64):
            try:
                data, peer = one.recvfrom(65535)
            except OSError:
                return

            def send(reply: bytes, one: socket.socket = one, peer: tuple[str, int] = peer) -> None:
                try:
                    one.sendto(reply, peer)
                except OSError:
                    pass  # The gateway or the client is gone.

            self.question(data, peer[0].partition("%")[0], send, by_tcp=False)

    def _accept(self, one: socket.socket) -> None:
        connection, peer = one.accept()
        if len(self.clients) >= MAX_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = Client(connection, peer[0].partition("%")[0])
        self.clients.add(client)
        self.selector.register(connection, selectors.EVENT_READ, client)

    def _stream(self, client: Client, mask: int) -> None:
        client.seen = time.monotonic()
        try:
            if mask & selectors.EVENT_WRITE:
                self._flush(client)
            if mask & selectors.EVENT_READ:
                data = client.socket.recv(65535)
                if not data:
                    self._close(client)
                    return
                client.buffer += data
        except OSError:
            self._close(client)
            return
        while len(client.buffer) >= 2:
            length = struct.unpack_from("!H", client.buffer)[0]
            if len(client.buffer) < length + 2:
                return
            packet, client.buffer = client.buffer[2 : length + 2], client.buffer[length + 2 :]

            def send(reply: bytes) -> None:
                if client in self.clients:
                    client.output += struct.pack("!H", len(reply)) + reply
                    self._flush(client)

            self.question(packet, client.address, send, by_tcp=True)

    def _flush(self, client: Client) -> None:
        try:
            sent = client.socket.send(client.output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(client)
            return
        client.output = client.output[sent:]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.output else 0)
        self.selector.modify(client.socket, events, client)

    def _close(self, client: Client) -> None:
        self.clients.discard(client)
        try:
            self.selector.unregister(client.socket)
        except KeyError:
            pass
        client.socket.close()

    def _drop_idle(self) -> None:
        limit = time.monotonic() - IDLE
        for client in [one for one in self.clients if one.seen < limit]:
            self._close(client)

    # ---- questions

    def question(self, data: bytes, source: str, send, by_tcp: bool) -> None:  # type: ignore[no-untyped-def]
        if len(data) < 12 or data[2] & 0x80:
            return  # Too short to answer, or an answer itself: replying to those makes loops.
        try:
            query = dnslib.DNSRecord.parse(data)
        except Exception:  # The parser is told lies.
            send(data[:2] + struct.pack("!HHHHH", 0x8000 | FORMERR, 0, 0, 0, 0))
            return
        if query.header.opcode:
            send(_reply(query, NOTIMP).pack())
            return
        if len(query.questions) != 1:
            send(data[:2] + struct.pack("!HHHHH", 0x8000 | FORMERR, 0, 0, 0, 0))
            return
        # What was renamed into the zone before this question was sent is in its answer.
        self.zone_changed()
        networks = self.zone.networks_of(source)
        if networks is None:
            send(_reply(query, REFUSED).pack())
            return
        name, kind = str(query.q.qname), query.q.qtype
        limit = 65535 if by_tcp else _payload_size(query)
        local = self._local(query, networks, name, kind)
        if local is not None:
            send(_fit(local, limit))
            return
        # A single word is a name of ours or of nobody: a resolver outside might answer it with anything.
        if not self.zone.may_leave(networks) or "." not in name.rstrip("."):
            send(_reply(query, NXDOMAIN).pack())
            return

        def answered(reply: bytes | None) -> None:
            if reply is None:
                send(_reply(query, SERVFAIL).pack())
            elif len(reply) <= limit:
                send(reply)
            else:
                cut = _reply(query, NOERROR)
                cut.header.tc = 1
                send(cut.pack())

        upstreams = self.zone.resolvers_of(source) or self.host_resolvers()
        ours = self.zone.gateways()
        self.forwarder.ask(data, [one for one in upstreams if one not in ours], by_tcp, answered)

    def _local(self, query, networks: list[str], name: str, kind: int):  # type: ignore[no-untyped-def]
        """The answer to a question about us, None for one about the world outside."""
        if kind == PTR:
            address = reverse_address(name)
            found = self.zone.reverse(networks, address) if address else None
            if found is None:
                return None
            reply = _reply(query, NOERROR if found else NXDOMAIN)
            if found:
                reply.add_answer(dnslib.RR(name, PTR, ttl=LOCAL_TTL, rdata=dnslib.PTR(found)))
            return reply
        versions = {A: (4,), AAAA: (6,), ANY: (4, 6)}.get(kind, ())
        reply = _reply(query, NOERROR)
        for version in versions or (4,):
            addresses = self.zone.find(networks, name, version)
            if addresses is None:
                return None
            for address in addresses if versions else ():
                data = dnslib.A(address) if version == 4 else dnslib.AAAA(address)
                reply.add_answer(dnslib.RR(name, A if version == 4 else AAAA, ttl=LOCAL_TTL, rdata=data))
        return reply

    def host_resolvers(self) -> list[str]:
        """The host's, read again when its file changed; those on 127.0.0.x work, for this is the host's namespace."""
        try:
            status = os.stat(self.resolv)
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen != self.resolv_seen:
                self.resolv_seen = seen
                with open(self.resolv) as file:
                    lines = [line.split() for line in file]
                self.upstreams = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
        except OSError:
            pass
        return self.upstreams


def _reply(query, code: int):  # type: ignore[no-untyped-def]
    reply = query.reply(ra=1, aa=0)
    reply.rr = []
    reply.header.rcode = code
    return reply


def _payload_size(query) -> int:  # type: ignore[no-untyped-def]
    for record in query.ar:
        if record.rtype == 41:
            return max(512, min(int(record.rclass), 4096))
    return 512


def _fit(reply, limit: int) -> bytes:  # type: ignore[no-untyped-def]
    """Cut to the client's measure. Addresses are in turns, so a part of them is as good as another."""
    packed: bytes = reply.pack()
    while len(packed) > limit:
        reply.header.tc = 1
        reply.rr = reply.rr[: max(0, len(reply.rr) - 1 - (len(packed) - limit) // 32)]
        packed = reply.pack()
    return packed


def reverse_address(name: str) -> str:
    """The address of a name below in-addr.arpa or ip6.arpa, "" for any other name."""
    labels = name.lower().rstrip(".").split(".")
    try:
        if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
            return socket.inet_ntop(socket.AF_INET, bytes(int(label) for label in reversed(labels[:4])))
        if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34:
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex("".join(reversed(labels[:32]))))
    except (ValueError, OSError):
        pass
    return ""


def _stop(*_: object) -> None:
    raise SystemExit(0)


def main(zone: str, run_containers: str, state: str, resolv: str) -> None:
    import gc

    lock = replace_former(f"{state}.lock")
    server = Server(Zone(zone, run_containers), state, resolv)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    try:
        server.run()
    finally:
        # In this order: whoever waits for the lock must find the addresses free.
        server.close()
        os.close(lock)
