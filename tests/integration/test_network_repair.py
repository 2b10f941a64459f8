"""What others do to our links and rules is seen and put back; what a crash or a boot takes away is made again."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import netlink
from runtime.api import Attachment, NetworkSpec, Port
from runtime.lock import locked
from runtime.network import Networks
from tests.integration.test_network import HOST, Start, neighbour, networks, publish, start  # noqa: F401
from tests.support.fake_host import Container, Space, libc, make_networks, talk_tcp

pytestmark = pytest.mark.root


def change(*messages: bytes) -> None:
    with netlink.NetlinkSocket() as kernel:
        kernel.request(*messages)


def index(name: str) -> int:
    return socket.if_nametoindex(name)


def damaged(networks: Networks) -> list[str]:  # noqa: F811
    return [one.what for one in networks.list()[0].damage]


def test_every_way_to_harm_a_network_is_seen_and_repaired(networks: Networks, start: Start) -> None:  # noqa: F811
    info = networks.create(NetworkSpec("front", ipv6=True))
    web = start("web", "front")
    web.serve("web", 80)
    publish(web, Port(80, 8080))
    table, bridge = networks.layout.table, info.bridge
    chain = next(iter(networks.firewall.wanted().ports))
    harms: list[tuple[str, Callable[[], None]]] = [
        ("bridge", lambda: change(netlink.delete_message(bridge))),
        ("bridge", lambda: change(netlink.down_message(index(bridge)))),
        ("mtu", lambda: change(netlink.mtu_message(index(bridge), 1280))),
        ("gateway", lambda: change(netlink.delete_address_message(index(bridge), f"{info.gateways[0]}/24"))),
        ("gateway", lambda: change(netlink.delete_address_message(index(bridge), f"{info.gateways[1]}/64"))),
        ("firewall", lambda: networks.nft.run(f"delete table inet {table}\n")),
        ("firewall", lambda: networks.nft.run("flush ruleset\n")),
        ("firewall", lambda: networks.nft.run(f"flush chain inet {table} forward\n")),
        ("firewall", lambda: networks.nft.run(f"flush chain inet {table} {chain}\n")),
        ("firewall", lambda: networks.nft.run(f"add rule inet {table} {chain} drop\n")),
        ("firewall", lambda: networks.nft.run(f"flush map inet {table} any4\n")),
        ("firewall", lambda: networks.nft.run(f"delete element inet {table} egress4 {{ {info.subnets[0]} }}\n")),
        ("firewall", lambda: networks.nft.run(f"add element inet {table} gateways4 {{ 9.9.9.9 }}\n")),
        ("net.ipv4.ip_forward", lambda: _write("/proc/sys/net/ipv4/ip_forward", "0")),
    ]
    assert damaged(networks) == []
    for number, (word, harm) in enumerate(harms):
        harm()
        assert any(what.startswith(word) for what in damaged(networks)), (number, word)
        networks.repair("front")
        assert damaged(networks) == [], (number, word)
        assert networks.container_damage("web", web.pid) == [], (number, word)
        assert talk_tcp("127.0.0.1", 8080).startswith("web"), (number, word)
        with web.inside():
            assert talk_tcp(info.gateways[0], 8080).startswith("web"), (number, word)


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


def test_somebody_elses_change_of_other_tables_is_no_damage(networks: Networks) -> None:  # noqa: F811
    networks.create(NetworkSpec("front"))
    assert damaged(networks) == []
    networks.nft.run("add table inet other\nadd chain inet other c\n")
    assert damaged(networks) == []
    networks.nft.run("delete table inet other\n")
    assert damaged(networks) == []


def test_every_way_to_harm_a_containers_link_is_seen_and_repaired(
    networks: Networks,  # noqa: F811
    start: Start,  # noqa: F811
) -> None:
    networks.create(NetworkSpec("front", ipv6=True))
    web, friend = start("web", "front"), start("friend", "front")
    web.serve("web", 80)

    def host_link() -> str:
        return str(networks.addresses.interfaces("web")[0]["host_ifname"])

    def inside(*messages: bytes) -> None:
        with web.inside():
            change(*messages)

    def eth0() -> int:
        with web.inside():
            return index("eth0")

    v4, v6 = web.interfaces[0]["addresses"]
    harms: list[tuple[str, Callable[[], None]]] = [
        ("link eth0", lambda: change(netlink.delete_message(host_link()))),
        ("link eth0", lambda: inside(netlink.delete_message("eth0"))),
        ("link", lambda: change(netlink.down_message(index(host_link())))),
        ("link", lambda: change(netlink.master_message(index(host_link()), 0))),
        ("link eth0", lambda: inside(netlink.down_message(eth0()))),
        ("address", lambda: inside(netlink.delete_address_message(eth0(), v4))),
        ("address", lambda: inside(netlink.delete_address_message(eth0(), v6))),
        ("default route", lambda: inside(netlink.delete_route_message("default", web.interfaces[0]["gateways"][0]))),
    ]
    assert networks.container_damage("web", web.pid) == []
    for number, (word, harm) in enumerate(harms):
        harm()
        found = [one.what for one in networks.container_damage("web", web.pid)]
        assert any(what.startswith(word) for what in found), (number, found)
        networks.repair_container("web", web.pid)
        assert networks.container_damage("web", web.pid) == [], number
        with friend.inside():
            for address in web.addresses:
                assert talk_tcp(address, 80).startswith("web"), (number, address)


def test_after_a_boot_the_network_is_made_again_by_whoever_needs_it(
    networks: Networks,  # noqa: F811
    start: Start,  # noqa: F811
) -> None:
    before = networks.create(NetworkSpec("front"))
    networks.client.end_names()  # type: ignore[attr-defined]
    change(netlink.delete_message(before.bridge))
    networks.nft.run("flush ruleset\n")
    shutil.rmtree(networks.layout.run)
    networks.layout.create()
    assert [one.what for one in networks.list()[0].damage]
    web = start("web", "front")
    web.serve("web", 80)
    publish(web, Port(80, 8080))
    assert networks.get("front").subnets == before.subnets
    assert damaged(networks) == []
    assert talk_tcp("127.0.0.1", 8080).startswith("web")


def test_after_a_boot_a_subnet_that_somebody_else_took_is_chosen_again(networks: Networks) -> None:  # noqa: F811
    before = networks.create(NetworkSpec("front"))
    change(netlink.delete_message(before.bridge), netlink.bridge_message("vpn0"))
    change(netlink.address_message(index("vpn0"), before.subnets[0].replace("0/24", "1/24")))
    networks.client.end_names()  # type: ignore[attr-defined]
    shutil.rmtree(networks.layout.run)
    networks.layout.create()
    assert networks.create(NetworkSpec("front")).subnets != before.subnets


def test_a_network_that_is_recorded_but_has_no_bridge_yet_keeps_its_subnet(networks: Networks) -> None:  # noqa: F811
    """A kill came between its record and its bridge, or a boot: nobody may choose the same meanwhile."""
    before = networks.create(NetworkSpec("front"))
    change(netlink.delete_message(before.bridge))
    after = networks.create(NetworkSpec("back"))
    assert after.subnets != before.subnets
    networks.repair("front")
    assert damaged(networks) == []


def test_the_ports_that_a_dead_keeper_lost_are_taken_again(networks: Networks, start: Start) -> None:  # noqa: F811
    networks.create(NetworkSpec("front"))
    web = start("web", "front")
    publish(web, Port(80, 8080))
    held = networks.client.held()
    networks.client.close()  # type: ignore[attr-defined]
    networks.collect_garbage({"web"})
    assert networks.client.held() == held
    assert damaged(networks) == ["names process"]
    networks.repair("front")
    assert damaged(networks) == []


def test_what_a_container_that_is_being_started_holds_is_no_garbage(
    networks: Networks,  # noqa: F811
    start: Start,  # noqa: F811
) -> None:
    networks.create(NetworkSpec("front"))
    web = start("web", "front")
    publish(web, Port(80, 8080))
    with locked(f"{networks.layout.locks}/container-web"):
        networks.collect_garbage(set())
        assert networks.get("front").members == ("web",)
        assert networks.client.held()
    meta = Path(networks.layout.run_container("web"), "meta")
    fields = Path(f"/proc/{web.pid}/stat").read_text().rpartition(")")[2].split()
    meta.write_text(json.dumps({"pid": web.pid, "starttime": int(fields[19])}))
    networks.collect_garbage(set())
    assert networks.get("front").members == ("web",), "it was started after the list of the living was made"
    meta.unlink()
    networks.collect_garbage(set())
    assert networks.get("front").members == ()
    assert networks.client.held() == []


def test_garbage_of_a_removed_network_and_of_dead_containers_is_collected(networks: Networks) -> None:  # noqa: F811
    info = networks.create(NetworkSpec("front"))
    dead = Container(networks, "dead", [Attachment("front")])
    dead.process.kill()
    publish(dead, Port(80, 8080))
    networks.collect_garbage(set())
    assert networks.client.held() == []
    assert networks.get("front").members == ()
    assert os.listdir(networks.records.groups) == []
    dead.end()
    networks.records.forget("front")
    networks.collect_garbage(set())
    with netlink.NetlinkSocket() as kernel:
        assert info.bridge not in [link["name"] for link in kernel.dump_links()]
    assert not networks.firewall.exists()


DOCKER = """
table ip filter {
  chain DOCKER-USER { return; }
  chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
}
"""
FIREWALLD = """
table inet firewalld {
  chain filter_INPUT { type filter hook input priority 10; policy accept; ct state established,related accept; reject; }
  chain filter_FORWARD { type filter hook forward priority 10; policy accept; reject; }
}
"""


@pytest.mark.parametrize(("ruleset", "chain"), [(DOCKER, "DOCKER-USER"), (FIREWALLD, "filter_FORWARD")])
def test_a_foreign_chain_that_drops_gets_marked_accepts_which_are_healed_and_removed(
    networks: Networks,  # noqa: F811
    start: Start,  # noqa: F811
    neighbour: Space,  # noqa: F811
    ruleset: str,
    chain: str,
) -> None:
    info = networks.create(NetworkSpec("front"))
    web = start("web", "front")
    web.serve("web", 80)
    publish(web, Port(80, 8080))
    networks.nft.run(ruleset)

    def reaches() -> bool:
        with neighbour.inside():
            return talk_tcp(HOST, 8080, 0.5).startswith("web")

    assert not reaches(), "the simulated firewall drops"
    assert "accept in another program's chain" in damaged(networks)
    networks.repair("front")
    assert damaged(networks) == []
    assert reaches()
    assert any(chain in line for line in networks.foreign_rules())
    networks.nft.run(f"flush chain {'ip filter' if 'ip filter' in ruleset else 'inet firewalld'} {chain}\n")
    if chain == "DOCKER-USER":
        assert not reaches()
    networks.repair("front")
    assert reaches()
    web.end()
    networks.release_ports("web")
    networks.remove("front")
    listed = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert "holdfast" not in listed
    assert chain in listed
    assert info.bridge not in listed


@pytest.mark.skipif(not shutil.which("iptables-legacy"), reason="no iptables-legacy on this host")
def test_the_older_iptables_gets_its_accepts_too(networks: Networks, start: Start, neighbour: Space) -> None:  # noqa: F811
    networks.create(NetworkSpec("front"))
    web = start("web", "front")
    web.serve("web", 80)
    publish(web, Port(80, 8080))
    rules = ["-P FORWARD DROP", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER"]
    for rule in rules:
        subprocess.run(["iptables-legacy", *rule.split()], check=True)
    with neighbour.inside():
        assert talk_tcp(HOST, 8080, 0.5) == ""
    assert "accept in another program's chain" in damaged(networks)
    networks.repair("front")
    assert damaged(networks) == []
    assert len(networks.foreign_rules()) == 2
    with neighbour.inside():
        assert talk_tcp(HOST, 8080).startswith("web")
    web.end()
    networks.remove("front")
    listed = subprocess.run(["iptables-legacy", "-S"], capture_output=True, text=True, check=True).stdout
    assert "holdfast" not in listed


def test_rules_are_written_by_the_command_where_the_library_does_not_load(
    networks: Networks,  # noqa: F811
    start: Start,  # noqa: F811
) -> None:
    networks.nft._loaded = True
    networks.create(NetworkSpec("front"))
    web = start("web", "front")
    web.serve("web", 80)
    publish(web, Port(80, 8080))
    assert damaged(networks) == []
    assert talk_tcp("127.0.0.1", 8080).startswith("web")


def test_making_a_network_without_privileges_says_so(networks: Networks, tmp_path: Path) -> None:  # noqa: F811
    from runtime.errors import Unsupported

    (tmp_path / "other").mkdir()
    other = make_networks(str(tmp_path / "other"), "/dev/null")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            # The uid stays, so that files are in reach; every capability goes.
            header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
            assert libc.capset(header, none) == 0
            other.create(NetworkSpec("front"))
        except (Unsupported, PermissionError) as error:
            code = 0 if isinstance(error, Unsupported) and "root" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
