"""Whatever is taken and however containers come and go, subnets never overlap and no address has two owners."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.api import NetworkSpec
from runtime.errors import Conflict, SubnetCollision
from runtime.network.ipam import POOLS, Subnet, Taken, next_address, plan_subnets

pool_networks = st.builds(
    lambda pool, number, prefix: ip_network(
        (int(ip_network(pool).network_address) + (number << 8), prefix), strict=False
    ),
    st.sampled_from(POOLS),
    st.integers(0, 255),
    st.integers(10, 30),
)
any_networks = st.builds(
    lambda number, prefix: IPv4Network((number >> (32 - prefix) << (32 - prefix), prefix)),
    st.integers(1 << 24, (224 << 24) - 1),
    st.integers(8, 32),
)
routes = st.lists(st.one_of(pool_networks, any_networks), max_size=30)


@given(routes, st.integers(1, 12), st.text("abc123", min_size=1, max_size=8))
def test_chosen_subnets_overlap_neither_routes_nor_each_other(found: list[IPv4Network], count: int, root: str) -> None:
    taken = [Taken(network, "route") for network in found]
    for number in range(count):
        try:
            subnets = plan_subnets(NetworkSpec(f"n{number}", ipv6=True), taken, root)
        except SubnetCollision:
            continue
        assert [subnet.version for subnet in subnets] == [4, 6]
        for subnet in subnets:
            network = ip_network(subnet.cidr)
            assert not [
                one for one in taken if one.network.version == network.version and network.overlaps(one.network)
            ]
            assert ip_address(subnet.gateway) == network.network_address + 1
            taken.append(Taken(network, "ours"))


@given(any_networks.filter(lambda one: one.prefixlen <= 30), routes)
def test_an_explicit_subnet_is_refused_exactly_when_it_overlaps(wish: IPv4Network, found: list[IPv4Network]) -> None:
    if wish.is_loopback or wish.is_multicast:
        return
    spec = NetworkSpec("n", subnets=(str(wish),))
    taken = [Taken(network, "route of vpn0") for network in found]
    if any(wish.overlaps(network) for network in found):
        with pytest.raises(SubnetCollision, match="vpn0"):
            plan_subnets(spec, taken, "root")
    else:
        assert plan_subnets(spec, taken, "root")[0].cidr == str(wish)


steps = st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=80)


@given(
    st.sampled_from(
        [
            Subnet("10.1.0.0/28", "10.1.0.1"),
            Subnet("10.1.0.0/28", "10.1.0.14"),
            Subnet("10.1.0.0/24", "10.1.0.65", "10.1.0.64/29"),
            Subnet("fd00::/125", "fd00::1"),
            Subnet("192.168.7.0/30", "192.168.7.2"),
        ]
    ),
    steps,
)
def test_addresses_have_one_owner_lie_in_range_and_come_back_late(
    subnet: Subnet, history: list[tuple[bool, int]]
) -> None:
    whole, part = ip_network(subnet.cidr), ip_network(subnet.ip_range or subnet.cidr)
    reserved = {whole.network_address, ip_address(subnet.gateway)}
    if whole.version == 4:
        reserved.add(whole.broadcast_address)
    usable = {address for address in part if address not in reserved}
    owned: dict[int, str] = {}
    last = released = ""
    for join, who in history:
        if not join:
            released = owned.pop(who, released)
            continue
        if who in owned:
            continue
        if len(owned) == len(usable):
            with pytest.raises(Conflict):
                next_address(subnet, owned.values(), last, "net")
            continue
        address = next_address(subnet, owned.values(), last, "net")
        assert ip_address(address) in usable
        assert address not in owned.values()
        if len(usable) - len(owned) > 1:
            assert address != last, "the latest one given back is not given again at once"
        owned[who] = last = address
