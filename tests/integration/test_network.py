"""Bridges, egress, isolation and published ports, in a host of one's own with a neighbour and fake containers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime import netlink
from runtime.api import Attachment, NetworkSpec, Port
from runtime.errors import Conflict, InvalidSpec, PortBusy, SubnetCollision
from runtime.network import Networks
from runtime.network.conntrack import forget_flows
from tests.support.fake_host import Container, Space, make_networks, private_host, talk_tcp, talk_udp

pytestmark = pytest.mark.root
HOST, NEIGHBOUR = "198.51.100.1", "198.51.100.2"
HOST6, NEIGHBOUR6 = "2001:db8:5::1", "2001:db8:5::2"

Start = Callable[..., Container]


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[Networks]:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.9\n")
    with private_host():
        made = make_networks(str(tmp_path), str(tmp_path / "resolv.conf"))
        yield made
        for record in made.records.all():
            made.remove(record.name)
        made.client.close()  # type: ignore[attr-defined]
        left = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
        assert made.layout.table not in left
        with netlink.NetlinkSocket() as kernel:
            names = [str(link["name"]) for link in kernel.dump_links()]
        assert not [name for name in names if name.startswith(f"{made.layout.link_prefix}b")]


@pytest.fixture
def start(networks: Networks) -> Iterator[Start]:
    made: list[Container] = []

    def begin(id: str, *attachments: Attachment | str) -> Container:
        listed = [Attachment(one) if isinstance(one, str) else one for one in attachments]
        made.append(Container(networks, id, listed))
        return made[-1]

    yield begin
    for one in made:
        one.end()


@pytest.fixture
def neighbour(networks: Networks) -> Iterator[Space]:
    """Another host on a wire of its own; its default route leads to us."""
    space = Space()
    space.join("wire", 0, "eth0", [f"{NEIGHBOUR}/24", f"{NEIGHBOUR6}/64"], [HOST, HOST6])
    with netlink.NetlinkSocket() as kernel:
        index = socket.if_nametoindex("wire")
        kernel.request(netlink.address_message(index, f"{HOST}/24"), netlink.address_message(index, f"{HOST6}/64"))
    yield space
    space.end()


def publish(one: Container, *ports: Port, group: str = "") -> list[Port]:
    given = one.networks.reserve_ports(one.id, ports, group)
    one.publish(["web"], given, group)
    return given


def test_a_published_port_answers_on_loopback_on_host_addresses_to_other_hosts_and_to_containers(
    networks: Networks, start: Start, neighbour: Space
) -> None:
    info = networks.create(NetworkSpec("front", ipv6=True))
    networks.create(NetworkSpec("back"))
    web, friend, stranger = start("web", "front"), start("friend", "front"), start("stranger", "back")
    web.serve("web", 80)
    publish(web, Port(80, 8080), Port(80, 8080, "udp"))
    for address in ("127.0.0.1", HOST, HOST6, *info.gateways):
        assert talk_tcp(address, 8080).startswith("web "), address
        assert talk_udp(address, 8080).startswith("web "), address
    assert talk_tcp("::1", 8080, 0.5) == ""
    with neighbour.inside():
        # The neighbour's own address arrives: nothing between it and the container hides it.
        assert talk_tcp(HOST, 8080) == f"web ::ffff:{NEIGHBOUR}"
        assert talk_tcp(HOST6, 8080) == f"web {NEIGHBOUR6}"
        assert talk_udp(HOST, 8080) == f"web ::ffff:{NEIGHBOUR}"
    for container in (web, friend, stranger):
        with container.inside():
            assert talk_tcp(info.gateways[0], 8080).startswith("web "), container.id
            assert talk_udp(HOST, 8080).startswith("web "), container.id


def test_containers_reach_the_world_masqueraded_but_not_from_internal_networks(
    networks: Networks, start: Start, neighbour: Space
) -> None:
    networks.create(NetworkSpec("open", ipv6=True))
    networks.create(NetworkSpec("closed", internal=True))
    outgoing, locked_in, mate = start("o", "open"), start("i", "closed"), start("m", "closed")
    neighbour.serve("neighbour", 7000)
    mate.serve("mate", 7001)
    with outgoing.inside():
        assert talk_tcp(NEIGHBOUR, 7000) == f"neighbour ::ffff:{HOST}"
        assert talk_tcp(NEIGHBOUR6, 7000) == f"neighbour {HOST6}"
    with locked_in.inside():
        assert talk_tcp(mate.addresses[0], 7001).startswith("mate")
        assert talk_tcp(NEIGHBOUR, 7000, 0.5) == ""
        # Even with a route of its own making it does not get out.
        with netlink.NetlinkSocket() as kernel:
            kernel.request(netlink.route_message("default", networks.get("closed").gateways[0]))
        assert talk_tcp(NEIGHBOUR, 7000, 0.5) == ""
    with pytest.raises(InvalidSpec, match="internal"):
        mate.publish(["mate"], [Port(7001, 7001)])


def test_networks_are_isolated_from_each_other_and_from_direct_routing(
    networks: Networks, start: Start, neighbour: Space
) -> None:
    networks.create(NetworkSpec("one"))
    networks.create(NetworkSpec("two"))
    first, second = start("a", "one"), start("b", "two")
    second.serve("second", 80)
    with first.inside():
        assert talk_tcp(second.addresses[0], 80, 0.5) == ""
    with neighbour.inside():
        assert talk_tcp(second.addresses[0], 80, 0.5) == ""
    assert talk_tcp(second.addresses[0], 80).startswith("second")
    # The same way is open once our table is gone: the checks above can fail.
    networks.nft.run(f"delete table inet {networks.layout.table}\n")
    with first.inside():
        assert talk_tcp(second.addresses[0], 80).startswith("second")
    networks.repair("one")
    with first.inside():
        assert talk_tcp(second.addresses[0], 80, 0.5) == ""


def test_a_container_cannot_reach_the_loopback_services_of_the_host(networks: Networks, start: Start) -> None:
    info = networks.create(NetworkSpec("front"))
    inside = start("a", "front")
    with socket.create_server(("127.0.0.1", 9999)), inside.inside():
        with netlink.NetlinkSocket() as kernel:
            kernel.request(netlink.delete_address_message(1, "127.0.0.1/8"))
            kernel.request(netlink.route_message("127.0.0.1/32", info.gateways[0]))
        Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")
        with socket.socket() as one:
            one.settimeout(0.5)
            one.bind((inside.addresses[0], 0))
            with pytest.raises(OSError):
                one.connect(("127.0.0.1", 9999))


def test_a_port_published_on_one_address_is_open_there_only(networks: Networks, start: Start, neighbour: Space) -> None:
    networks.create(NetworkSpec("front"))
    web = start("web", "front")
    web.serve("web", 80)
    publish(web, Port(80, 8081, host_ip="127.0.0.1"), Port(80, 8082, host_ip=HOST))
    assert talk_tcp("127.0.0.1", 8081).startswith("web")
    assert talk_tcp(HOST, 8081, 0.5) == ""
    assert talk_tcp(HOST, 8082).startswith("web")
    assert talk_tcp("127.0.0.1", 8082, 0.5) == ""
    with neighbour.inside():
        with netlink.NetlinkSocket() as kernel:
            kernel.request(netlink.delete_address_message(1, "127.0.0.1/8"))
            kernel.request(netlink.route_message("127.0.0.1/32", HOST))
        Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")
        with socket.socket() as one:
            one.settimeout(0.5)
            one.bind((NEIGHBOUR, 0))
            with pytest.raises(OSError):
                one.connect(("127.0.0.1", 8081))


def balanced(times: int, port: int) -> set[str]:
    return {talk_tcp("127.0.0.1", port).partition(" ")[0] for _ in range(times)}


def test_replicas_share_a_port_and_only_healthy_ones_answer(networks: Networks, start: Start) -> None:
    networks.create(NetworkSpec("front"))
    replicas = [start(f"r{number}", "front") for number in range(3)]
    for number, one in enumerate(replicas):
        one.serve(f"r{number}", 80)
        publish(one, Port(80, 8080), group="shop/web")
    assert balanced(6, 8080) == {"r0", "r1", "r2"}
    networks.set_health("r0", "unhealthy")
    assert balanced(6, 8080) == {"r1", "r2"}
    networks.set_health("r1", "starting")
    networks.set_health("r2", "unhealthy")
    assert balanced(6, 8080) == {"r0", "r1", "r2"}, "when none is healthy all that run answer"
    networks.set_health("r1", "healthy")
    assert balanced(4, 8080) == {"r1"}
    networks.withdraw("r1")
    assert balanced(4, 8080) == {"r0", "r2"}
    networks.detach("r0")
    networks.detach("r2")
    assert balanced(2, 8080) == {""}
    assert networks.list()[0].damage == ()


def test_a_connection_outlives_changes_of_the_replicas_around_it(networks: Networks, start: Start) -> None:
    networks.create(NetworkSpec("front"))
    first, second = start("r1", "front"), start("r2", "front")
    with first.inside():
        listener = socket.create_server(("0.0.0.0", 80))
    publish(first, Port(80, 8080), group="g")
    with listener, socket.create_connection(("127.0.0.1", 8080), 2) as client:
        served, _ = listener.accept()
        publish(second, Port(80, 8080), group="g")
        networks.set_health("r1", "unhealthy")
        networks.firewall.install()
        with served:
            served.sendall(b"still here")
            client.settimeout(2)
            assert client.recv(100) == b"still here"


def test_a_udp_flow_moves_to_another_replica_when_its_own_leaves(networks: Networks, start: Start) -> None:
    networks.create(NetworkSpec("front"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        first = start("r1", "front")
        first.serve("r1", 53)
        given = networks.reserve_ports("r1", [Port(53, 5353, "udp")], "g")
        # Sent before anybody listens: the kernel tracks a flow to the host itself, which would swallow the rest.
        assert talk_udp("127.0.0.1", 5353, 0.3, client) == ""
        first.publish([], given, "g")
        assert talk_udp("127.0.0.1", 5353, 1, client).startswith("r1")
        second = start("r2", "front")
        second.serve("r2", 53)
        publish(second, Port(53, 5353, "udp"), group="g")
        assert talk_udp("127.0.0.1", 5353, 1, client).startswith("r1"), "a flow stays where it is"
        networks.detach("r1")
        assert talk_udp("127.0.0.1", 5353, 1, client).startswith("r2")
        assert forget_flows("udp", 5353, 4, []) == 1


def test_a_busy_port_is_refused_with_the_name_of_who_holds_it(networks: Networks, tmp_path: Path) -> None:
    networks.create(NetworkSpec("front"))
    networks.reserve_ports("a", [Port(80, 8080)], "shop/web")
    assert networks.reserve_ports("b", [Port(80, 8080)], "shop/web") == [Port(80, 8080)]
    with pytest.raises(PortBusy, match='published by "shop/web"'):
        networks.reserve_ports("c", [Port(80, 9090), Port(81, 8080)], "other")
    assert networks.busy_ports([Port(80, 9090)], "other") == [], "a refusal takes nothing"
    assert "shop/web" in networks.busy_ports([Port(80, 8080, host_ip="127.0.0.1")], "other")[0]
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 7777)); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        busy = networks.busy_ports([Port(80, 7777)], "other")
        other.kill()
    assert f"pid {other.pid}" in busy[0]
    (tmp_path / "two").mkdir()
    second = make_networks(str(tmp_path / "two"), "/dev/null")
    second.layout.run = f"{tmp_path}/run/other"
    with pytest.raises(PortBusy):
        second.reserve_ports("x", [Port(80, 8080)], "elsewhere")
    networks.release_ports("a")
    assert networks.busy_ports([Port(80, 8080)], "other")
    networks.release_ports("b")
    assert networks.busy_ports([Port(80, 8080)], "other") == []
    with pytest.raises(InvalidSpec, match="no address of this host"):
        networks.reserve_ports("c", [Port(80, 8080, host_ip="203.0.113.9")], "other")


def test_a_port_held_by_connections_in_time_wait_can_be_published(networks: Networks) -> None:
    address = ("127.0.0.1", 8080)
    with socket.create_server(address) as server, socket.create_connection(address) as client:
        accepted, _ = server.accept()
        accepted.close()
        assert client.recv(1) == b""
    networks.reserve_ports("a", [Port(80, 8080)], "g")
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError):
            rival.bind(("127.0.0.1", 8080))
            rival.listen()
    networks.release_ports("a")


def test_subnets_avoid_the_hosts_routes_and_explicit_ones_that_collide_are_refused(networks: Networks) -> None:
    first = networks.create(NetworkSpec("probe")).subnets[0]
    networks.remove("probe")
    with netlink.NetlinkSocket() as kernel:
        kernel.request(netlink.bridge_message("vpn0"))
        kernel.request(netlink.address_message(socket.if_nametoindex("vpn0"), first.replace("0/24", "9/24")))
    with pytest.raises(SubnetCollision, match="vpn0"):
        networks.check(NetworkSpec("front", subnets=(first,)))
    with pytest.raises(SubnetCollision, match="vpn0"):
        networks.create(NetworkSpec("front", subnets=(first,)))
    assert networks.list() == []
    assert networks.create(NetworkSpec("front")).subnets[0] != first
    with pytest.raises(SubnetCollision):
        networks.create(NetworkSpec("again", subnets=networks.get("front").subnets))


def test_static_addresses_ranges_and_gateways_are_obeyed(networks: Networks) -> None:
    networks.create(
        NetworkSpec("front", subnets=("10.9.8.0/24",), gateways=("10.9.8.254",), ip_range="10.9.8.64/30", mtu=1400)
    )
    fixed = networks.attach("a", [Attachment("front", ipv4="10.9.8.7")])
    assert (fixed[0]["addresses"], fixed[0]["gateways"], fixed[0]["mtu"]) == (["10.9.8.7/24"], ["10.9.8.254"], 1400)
    os.makedirs(networks.layout.run_container("a"))
    with pytest.raises(Conflict, match='container "a"'):
        networks.attach("b", [Attachment("front", ipv4="10.9.8.7")])
    with pytest.raises(InvalidSpec, match="reserved"):
        networks.attach("b", [Attachment("front", ipv4="10.9.8.254")])
    given = []
    for number in range(4):
        os.makedirs(networks.layout.run_container(f"c{number}"))
        given += networks.attach(f"c{number}", [Attachment("front")])[0]["addresses"]
    assert sorted(given) == [f"10.9.8.{last}/24" for last in (64, 65, 66, 67)]
    with pytest.raises(Conflict, match="all 4 addresses"):
        networks.attach("d", [Attachment("front")])
    assert networks.get("front").members == ("a", "c0", "c1", "c2", "c3")
    # A dead one's address is taken back when there is no other.
    Path(networks.layout.run_container("c2"), "exit").write_text("{}")
    assert networks.attach("d", [Attachment("front")])[0]["addresses"] == ["10.9.8.66/24"]
    networks.collect_garbage(live=set())
    assert networks.get("front").members == ()


def test_a_network_in_use_or_with_other_settings_or_on_a_foreign_bridge_is_a_conflict(
    networks: Networks, start: Start
) -> None:
    networks.create(NetworkSpec("front", labels={"a": "1"}))
    assert networks.create(NetworkSpec("front", labels={"a": "2"})).labels == {"a": "2"}
    with pytest.raises(Conflict, match="other settings"):
        networks.create(NetworkSpec("front", internal=True))
    one = start("a", "front")
    with pytest.raises(Conflict, match='container "a"'):
        networks.remove("front")
    with netlink.NetlinkSocket() as kernel:
        kernel.request(netlink.bridge_message("docker0"))
    with pytest.raises(Conflict, match="not ours"):
        networks.create(NetworkSpec("taken", bridge_name="docker0"))
    networks.records.forget("taken")
    assert networks.create(NetworkSpec("named", bridge_name="br-mine")).bridge == "br-mine"
    one.end()
    networks.remove("front")
    networks.remove("front")


def test_two_roots_live_side_by_side_and_leave_each_other_alone(networks: Networks, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_networks(str(tmp_path / "other"), "/dev/null")
    one, two = networks.create(NetworkSpec("front")), other.create(NetworkSpec("front"))
    assert one.bridge != two.bridge
    assert one.subnets != two.subnets
    with pytest.raises(SubnetCollision, match=one.bridge):
        other.create(NetworkSpec("same", subnets=one.subnets))
    other.collect_garbage(set())
    other.remove("front")
    assert networks.list()[0].damage == ()
    other.client.close()  # type: ignore[attr-defined]
