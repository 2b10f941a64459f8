"""The names process, asked with real packets from fake containers, with a real upstream behind it."""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.reversename
import dns.rrset
import pytest

from runtime.api import Attachment, NetworkSpec
from runtime.network import Networks
from tests.integration.test_network import Start, networks, start  # noqa: F401
from tests.support.fake_host import Container

pytestmark = pytest.mark.root


def ask(
    client: Container, name: str, kind: str = "A", server: str = "", tcp: bool = False, timeout: float = 5.0
) -> dns.message.Message:
    with client.inside():
        query = dns.message.make_query(name, kind)
        send = dns.query.tcp if tcp else dns.query.udp
        return send(query, server or client.interfaces[0]["resolvers"][0], timeout=timeout)


def addresses(answer: dns.message.Message) -> list[str]:
    return [str(item) for rrset in answer.answer for item in rrset]


class Upstream:
    """A resolver on 127.0.0.9 of the private host; answers what `reply` says, over UDP and TCP."""

    def __init__(self, address: str = "127.0.0.9") -> None:
        self.asked: list[str] = []
        self.delay = 0.0
        self.many = 0
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((address, 53))
        self.tcp = socket.create_server((address, 53))
        for target in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=target, daemon=True).start()

    def _reply(self, data: bytes, tcp: bool) -> bytes:
        if len(data) < 12:
            raise OSError("closed")
        query = dns.message.from_wire(data)
        name = query.question[0].name
        self.asked.append(str(name))
        reply = dns.message.make_response(query)
        if str(name).startswith("missing"):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif str(name).startswith("big") and not tcp:
            reply.flags |= dns.flags.TC
        else:
            count = 100 if str(name).startswith("big") else 1
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", *(f"203.0.113.{i}" for i in range(count))))
        return reply.to_wire(max_size=65535)

    def _serve_udp(self) -> None:
        while True:
            try:
                data, peer = self.udp.recvfrom(4096)
                if b"slow" in data:
                    continue
                self.udp.sendto(self._reply(data, False), peer)
            except OSError:
                return

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection:
                head = connection.recv(2)
                data = connection.recv(int.from_bytes(head, "big"))
                reply = self._reply(data, True)
                connection.sendall(len(reply).to_bytes(2, "big") + reply)

    def close(self) -> None:
        for one in (self.udp, self.tcp):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()


@pytest.fixture
def upstream(networks: Networks) -> Iterator[Upstream]:  # noqa: F811
    made = Upstream()
    yield made
    made.close()


def test_names_aliases_and_qualified_names_of_both_ip_versions(networks: Networks, start: Start) -> None:  # noqa: F811
    networks.create(NetworkSpec("front", ipv6=True))
    web, client = start("web1", Attachment("front", aliases=("www",))), start("client", "front")
    web.publish(["web", "web-1"])
    v4, v6 = web.addresses
    for name in ("web", "WEB", "web-1", "www", "web.front"):
        assert addresses(ask(client, name)) == [v4]
        assert addresses(ask(client, name, "AAAA")) == [v6]
    assert addresses(ask(client, "web", tcp=True)) == [v4]
    assert addresses(ask(client, "web", server=client.interfaces[0]["resolvers"][1])) == [v4]
    for kind in ("MX", "TXT", "HTTPS"):
        answer = ask(client, "web", kind)
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, []), "the name exists, the data does not"
    assert ask(client, "wep").rcode() == dns.rcode.NXDOMAIN
    assert addresses(ask(client, dns.reversename.from_address(v4).to_text(), "PTR")) == ["www.front."]
    assert addresses(ask(client, dns.reversename.from_address(v6).to_text(), "PTR")) == ["www.front."]
    nobody = v4.rpartition(".")[0] + ".99"
    assert ask(client, dns.reversename.from_address(nobody).to_text(), "PTR").rcode() == dns.rcode.NXDOMAIN


def test_a_name_without_ipv6_has_no_data_rather_than_no_existence(networks: Networks, start: Start) -> None:  # noqa: F811
    networks.create(NetworkSpec("front"))
    web = start("web", "front")
    web.publish(["web"])
    answer = ask(web, "web", "AAAA")
    assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])


def test_replicas_take_turns_and_the_unhealthy_and_the_dead_leave_at_once(
    networks: Networks,  # noqa: F811
    start: Start,  # noqa: F811
) -> None:
    networks.create(NetworkSpec("front"))
    client = start("client", "front")
    replicas = [start(f"r{number}", "front") for number in range(3)]
    for one in replicas:
        one.publish(["web"], health="healthy")
    first, second, third = (one.addresses[0] for one in replicas)
    answers = [addresses(ask(client, "web")) for _ in range(6)]
    assert {answer[0] for answer in answers} == {first, second, third}
    assert all(sorted(answer) == sorted([first, second, third]) for answer in answers)
    networks.set_health("r0", "unhealthy")
    assert set(addresses(ask(client, "web"))) == {second, third}
    # Dead, with nobody there to tell the zone: the exit record alone speaks.
    Path(networks.layout.run_container("r1"), "exit").write_text("{}")
    assert addresses(ask(client, "web")) == [third]
    networks.set_health("r2", "unhealthy")
    assert set(addresses(ask(client, "web"))) == {first, third}, "when none is healthy all that run answer"
    networks.withdraw("r0")
    assert addresses(ask(client, "web")) == [third]
    networks.detach("r2")
    assert ask(client, "web").rcode() == dns.rcode.NXDOMAIN


def test_names_are_seen_only_by_members_of_the_network_at_any_of_their_gateways(
    networks: Networks,  # noqa: F811
    start: Start,  # noqa: F811
) -> None:
    networks.create(NetworkSpec("front"))
    networks.create(NetworkSpec("back", internal=True))
    web, api = start("web", "front", "back"), start("api", "back")
    outsider = start("outsider", "front")
    web.publish(["web"])
    api.publish(["api"])
    for server in (one["resolvers"][0] for one in web.interfaces):
        assert addresses(ask(web, "api", server=server)) == api.addresses
    assert addresses(ask(api, "web")) == [web.addresses[1]]
    assert addresses(ask(outsider, "web")) == [web.addresses[0]]
    assert ask(outsider, "api").rcode() == dns.rcode.NXDOMAIN
    query = dns.message.make_query("web", "A")
    answer = dns.query.udp(query, networks.get("front").gateways[0], timeout=5, source="127.0.0.1")
    assert answer.rcode() in (dns.rcode.REFUSED, dns.rcode.NXDOMAIN), "a stranger learns nothing"


def test_names_outside_are_forwarded_and_a_slow_one_delays_nobody(
    networks: Networks,  # noqa: F811
    start: Start,  # noqa: F811
    upstream: Upstream,
) -> None:
    networks.create(NetworkSpec("front"))
    networks.create(NetworkSpec("closed", internal=True))
    client, locked_in = start("client", "front"), start("locked", "closed")
    client.publish(["client"])
    assert addresses(ask(client, "example.org")) == ["203.0.113.0"]
    assert addresses(ask(client, "example.org", tcp=True)) == ["203.0.113.0"]
    assert ask(client, "missing.example.org").rcode() == dns.rcode.NXDOMAIN
    assert ask(client, "big.example.org").flags & dns.flags.TC
    assert len(addresses(ask(client, "big.example.org", tcp=True))) == 100
    before = list(upstream.asked)
    assert ask(client, "word").rcode() == dns.rcode.NXDOMAIN
    assert ask(locked_in, "example.org").rcode() == dns.rcode.NXDOMAIN
    assert upstream.asked == before, "single words and internal networks' questions stay here"
    slow: list[int] = []
    with client.inside():
        patient = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        patient.sendto(
            dns.message.make_query("slow.example.org", "A").to_wire(), (client.interfaces[0]["resolvers"][0], 53)
        )
    begun = time.monotonic()
    assert addresses(ask(client, "client")) == client.addresses
    assert time.monotonic() - begun < 1.0
    patient.settimeout(8)
    slow.append(dns.message.from_wire(patient.recv(4096)).rcode())
    patient.close()
    assert slow == [dns.rcode.SERVFAIL]


def test_the_next_upstream_is_asked_when_the_first_is_silent_and_a_changed_list_is_read(
    networks: Networks,  # noqa: F811
    start: Start,  # noqa: F811
    upstream: Upstream,
) -> None:
    Path(networks.names.resolv).write_text("nameserver 127.0.0.66\nnameserver 127.0.0.9\n")
    networks.create(NetworkSpec("front"))
    client = start("client", "front")
    assert addresses(ask(client, "example.org")) == ["203.0.113.0"]
    gateway = networks.get("front").gateways[0]
    Path(networks.names.resolv).write_text(f"nameserver {gateway}\n")
    assert ask(client, "example.org").rcode() == dns.rcode.SERVFAIL, "it does not ask itself"
    client.publish(["client"], dns=["127.0.0.9"])
    assert addresses(ask(client, "example.org")) == ["203.0.113.0"], "a container's own resolvers come first"


def test_bad_packets_do_not_end_the_names(networks: Networks, start: Start) -> None:  # noqa: F811
    networks.create(NetworkSpec("front"))
    client = start("client", "front")
    client.publish(["client"])
    server = (client.interfaces[0]["resolvers"][0], 53)
    noise = random.Random(7)
    good = dns.message.make_query("client", "A").to_wire()
    with client.inside():
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        stream = socket.create_connection(server, 5)
    for _ in range(500):
        packet = bytearray(good if noise.random() < 0.7 else noise.randbytes(noise.randrange(600)))
        for _ in range(noise.randrange(1, 6)):
            if packet:
                packet[noise.randrange(len(packet))] = noise.randrange(256)
        one.sendto(bytes(packet), server)
    one.sendto(b"\0" * 12 + b"\xc0\x0c" * 200, server)
    stream.sendall(b"\xff\xff" + b"x" * 1000)
    pid = networks.client.process.pid  # type: ignore[attr-defined]
    assert addresses(ask(client, "client")) == client.addresses
    assert addresses(ask(client, "client", tcp=True)) == client.addresses
    assert networks.client.process.poll() is None  # type: ignore[attr-defined]
    assert pid == networks.client.process.pid  # type: ignore[attr-defined]
    one.close()
    stream.close()


def test_an_answer_too_long_for_the_client_is_cut_and_whole_over_tcp(networks: Networks, start: Start) -> None:  # noqa: F811
    networks.create(NetworkSpec("front"))
    client = start("client", "front")
    listed = [f"10.255.0.{number}" for number in range(1, 61)]
    for number, address in enumerate(listed):
        record = {"names": {"front": ["many"]}, "addresses": {"front": [address]}, "health": "none"}
        path = Path(networks.layout.zone, f"c-m{number}.json")
        path.with_suffix(".tmp").write_text(json.dumps(record))
        os.rename(path.with_suffix(".tmp"), path)
    answer = ask(client, "many")
    assert answer.flags & dns.flags.TC
    assert len(addresses(answer)) >= 20
    assert sorted(addresses(ask(client, "many", tcp=True))) == sorted(listed)
    for number in range(len(listed)):
        os.unlink(Path(networks.layout.zone, f"c-m{number}.json"))


def test_a_second_names_process_replaces_an_orphaned_one(networks: Networks, start: Start) -> None:  # noqa: F811
    networks.create(NetworkSpec("front"))
    client = start("client", "front")
    client.publish(["client"])
    former = networks.client.process  # type: ignore[attr-defined]
    networks.client.process = None  # type: ignore[attr-defined]
    networks.client.names(networks.names.command())
    assert former.wait(10) == 0
    deadline = time.monotonic() + 10
    while json.loads(Path(networks.names.state).read_text())["pid"] == former.pid:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    networks.names.wait(networks.get("front").gateways)
    assert addresses(ask(client, "client")) == client.addresses
