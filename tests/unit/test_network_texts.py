"""Firewall text and its comparison, balancing, zone look-ups, resolver files: no kernel needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from runtime.api import NetworkSpec, Port
from runtime.errors import InvalidSpec
from runtime.files import read_json, write_json
from runtime.network.balance import member, new_group, published_ports, serves
from runtime.network.damage import _tree_addresses
from runtime.network.forward import question_end
from runtime.network.ipam import Subnet, plan_subnets
from runtime.network.names import reverse_address
from runtime.network.ports import canonical, key_of, port_of
from runtime.network.records import NetworkRecord, check_names, list_names
from runtime.network.resolv import hosts_text, parse_resolv, resolv_text
from runtime.network.rules import Table, add_network, change_ports, network_elements, remove_network
from runtime.network.zone import Zone

FRONT = NetworkRecord(NetworkSpec("front"), "hfb1", (Subnet("10.1.0.0/24", "10.1.0.1"),), 0.0)
CLOSED = NetworkRecord(NetworkSpec("closed", internal=True), "hfb2", (Subnet("10.2.0.0/24", "10.2.0.1"),), 0.0)
INTERFACE = {
    "addresses": ["10.1.0.7/24", "fd00::7/64"], "gateways": ["10.1.0.1"], "resolvers": ["fd00::1", "10.1.0.1"],
}  # fmt: skip


def group(*members: tuple[str, str], ip: str = "") -> dict[str, object]:
    made = new_group("g")
    for number, (name, health) in enumerate(members):
        made["members"][name] = member([(80, 8080, "tcp", ip)], f"10.1.0.{number + 2}", f"fd00::{number + 2}", health)
    return made


def test_only_ready_replicas_stand_behind_a_port_unless_none_is() -> None:
    four = next(port for port in published_ports(group(("a", "none"), ("b", "starting"))).values() if port.version == 4)
    assert four.backends == (("10.1.0.2", 80),)
    four = next(
        port for port in published_ports(group(("a", "unknown"), ("b", "starting"))).values() if port.version == 4
    )
    assert four.backends == (("10.1.0.2", 80), ("10.1.0.3", 80))
    assert "numgen inc mod 2" in four.rule()
    assert published_ports(new_group("g")) == {}


@pytest.mark.parametrize(
    ("ip", "v4", "v6"),
    [
        ("", True, True),
        ("0.0.0.0", True, False),
        ("::", False, True),
        ("::1", False, False),
        ("127.0.0.1", True, False),
    ],
)
def test_a_host_address_serves_its_own_ip_version_and_loopback_of_ipv6_none(ip: str, v4: bool, v6: bool) -> None:
    assert (serves(ip, 4), serves(ip, 6)) == (v4, v6)
    assert {port.version for port in published_ports(group(("a", "none"), ip=ip)).values()} == {
        version for version, wanted in ((4, v4), (6, v6)) if wanted
    }


def test_nothing_changed_is_no_transaction_and_a_new_backend_touches_one_chain() -> None:
    old, new = published_ports(group(("a", "none"))), published_ports(group(("a", "none"), ("b", "none")))
    assert change_ports("t", old, old) == ""
    assert change_ports("t", old, new).count("flush chain") == 2
    assert "delete chain" in change_ports("t", old, {})


def test_internal_networks_have_no_egress() -> None:
    assert "egress4" in network_elements(FRONT)
    assert {"egress4", "open"}.isdisjoint(network_elements(CLOSED))
    for line in remove_network("t", FRONT).splitlines()[1::2]:
        assert line.startswith("delete element")
    assert add_network("t", FRONT).count("\n") == len(remove_network("t", FRONT).splitlines()) // 2
    table = Table()
    before = table.fingerprint()
    table.add_network(FRONT)
    assert table.fingerprint() != before


def zone_of(tmp_path: Path, containers: Mapping[str, object]) -> Zone:
    directory = tmp_path / "zone"
    directory.mkdir(exist_ok=True)
    networks = {"front": ("10.1.0.0/24", False), "back.end": ("10.2.0.0/24", True)}
    for name, (cidr, internal) in networks.items():
        record = {"gateways": [cidr.replace("0/24", "1")], "subnets": [cidr], "internal": internal}
        write_json(str(directory / f"n-{name}.json"), record)
    for id, container in containers.items():
        write_json(str(directory / f"c-{id}.json"), container)
    zone = Zone(str(directory), str(tmp_path / "run"))
    zone.load()
    return zone


def test_a_source_is_known_by_its_address_then_by_its_subnet(tmp_path: Path) -> None:
    both = {
        "names": {"front": ["a"], "back.end": ["a"]},
        "addresses": {"front": ["10.1.0.2"], "back.end": ["10.2.0.2"]},
    }
    zone = zone_of(tmp_path, {"a": both})
    assert zone.networks_of("10.1.0.2") == ["front", "back.end"]
    assert zone.networks_of("10.1.0.77") == ["front"]
    assert zone.networks_of("192.0.2.1") is None
    assert zone.may_leave(["front", "back.end"])
    assert not zone.may_leave(["back.end"])
    assert zone.find(["back.end"], "a.back.end", 4) == ["10.2.0.2"]
    assert zone.find(["front"], "a.back.end", 4) is None
    assert zone.find(["front"], "a", 6) == []


def test_a_changed_or_broken_record_replaces_the_old_one_whole(tmp_path: Path) -> None:
    record = {"names": {"front": ["old"]}, "addresses": {"front": ["10.1.0.2"]}}
    zone = zone_of(tmp_path, {"a": record})
    write_json(f"{zone.directory}/c-a.json", {"names": {"front": ["new"]}, "addresses": {"front": ["10.1.0.3"]}})
    zone.refresh("c-a.json")
    assert zone.find(["front"], "old", 4) is None
    assert zone.find(["front"], "new", 4) == ["10.1.0.3"]
    assert zone.reverse(["front"], "10.1.0.2") == ""
    assert zone.reverse(["front"], "10.1.0.3") == "new.front"
    assert zone.reverse(["front"], "10.9.0.3") is None
    Path(zone.directory, "c-a.json").write_text(json.dumps({"names": 7}))
    zone.refresh("c-a.json")
    assert zone.find(["front"], "new", 4) is None
    assert (zone.by_name, zone.by_address) == ({}, {})


def test_hosts_and_resolv_conf() -> None:
    text = hosts_text("web", "example.org", {"db": "10.9.9.9", "host": "host-gateway"}, [INTERFACE])
    for line in ("10.1.0.7\tweb.example.org web", "fd00::7\tweb.example.org web", "10.9.9.9\tdb", "10.1.0.1\thost"):
        assert line in text.splitlines()
    host = "# c\nnameserver 192.0.2.53\nsearch corp.example\noptions edns0\n"
    assert parse_resolv(host) == (["192.0.2.53"], ["search corp.example", "options edns0"])
    assert resolv_text(host, "", (), [INTERFACE]).splitlines() == [
        "nameserver 10.1.0.1", "nameserver fd00::1", "search corp.example", "options ndots:0",
    ]  # fmt: skip
    assert resolv_text(host, "", ("9.9.9.9",), []).splitlines()[0] == "nameserver 9.9.9.9"


def test_ports_have_one_spelling() -> None:
    port = canonical(Port(80, 8080, host_ip="[FD00:0::1]"))
    assert port.host_ip == "fd00::1"
    assert port_of(key_of(port)) == Port(0, 8080, "tcp", "fd00::1")
    with pytest.raises(InvalidSpec):
        canonical(Port(80, 8080, host_ip="localhost"))


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec("../up"), NetworkSpec(""), NetworkSpec("n", bridge_name="a/b"), NetworkSpec("n", mtu=10),
        NetworkSpec("n", subnets=("10.0.0.1/24",)), NetworkSpec("n", subnets=("10.0.0.0/31",)),
        NetworkSpec("n", subnets=("127.1.0.0/16",)), NetworkSpec("n", subnets=("x",)),
        NetworkSpec("n", subnets=("10.0.0.0/24", "10.0.0.0/25")), NetworkSpec("n", gateways=("10.0.0.1",)),
        NetworkSpec("n", subnets=("10.0.0.0/24",), gateways=("10.0.0.255",)),
        NetworkSpec("n", subnets=("10.0.0.0/24",), ip_range="10.0.1.0/28"),
    ],
)  # fmt: skip
def test_specs_that_can_never_work_are_refused(spec: NetworkSpec) -> None:
    with pytest.raises(InvalidSpec):
        check_names(spec)
        plan_subnets(spec, [], "root")


def test_names_below_arpa_become_addresses() -> None:
    assert reverse_address("4.3.2.1.in-addr.arpa.") == "1.2.3.4"
    assert reverse_address("1." + "0." * 23 + "0.0.0.0.0.0.d.f.ip6.arpa") == "fd00::1"
    for name in ("example.org", "300.3.2.1.in-addr.arpa", "x.in-addr.arpa"):
        assert reverse_address(name) == ""


def test_a_question_that_is_cut_short_or_compressed_has_no_end() -> None:
    packet = bytes(12) + b"\3web\0\0\1\0\1"
    assert question_end(packet) == len(packet)
    assert question_end(packet[:-1]) == question_end(bytes(12) + b"\xc0\x0c\0\1\0\1") == 0


def test_local_addresses_are_read_from_the_routing_tree() -> None:
    tree = ["Main:", "  |-- 10.0.0.0", "     /24 link UNICAST", "  |-- 10.0.0.5", "     /32 host LOCAL"]
    assert list(_tree_addresses(tree)) == ["10.0.0.5"]


def test_half_written_files_are_neither_listed_nor_read(tmp_path: Path) -> None:
    (tmp_path / ".a.json.1").write_text("{")
    (tmp_path / "b.json").write_text("{")
    write_json(str(tmp_path / "c.json"), {"x": 1})
    assert list_names(str(tmp_path)) == ["b", "c"]
    assert read_json(str(tmp_path / "b.json")) is None
    assert read_json(str(tmp_path / "c.json")) == {"x": 1}
