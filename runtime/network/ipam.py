"""Which subnets a network gets and which address a container gets in them: arithmetic only."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from runtime.api import NetworkSpec
from runtime.errors import Conflict, InvalidSpec, SubnetCollision
from runtime.value import value

# Docker takes 172.17-31 and 192.168, Kubernetes 10.96 and 10.244, clouds the low end of 10: the upper middle is quiet.
POOLS = ("10.208.0.0/12", "172.16.0.0/12", "192.168.0.0/16")

Network = IPv4Network | IPv6Network


@value
class Taken:
    """A piece of address space that is in use, and by what, in words."""

    network: Network
    user: str


@value
class Subnet:
    cidr: str
    gateway: str
    ip_range: str = ""

    @property
    def version(self) -> int:
        return 6 if ":" in self.cidr else 4

    @property
    def prefix(self) -> str:
        return self.cidr.partition("/")[2]


def plan_subnets(spec: NetworkSpec, taken: Collection[Taken], root_id: str) -> tuple[Subnet, ...]:
    """The wanted subnets, checked against `taken`, or free ones. Raises InvalidSpec and SubnetCollision."""
    wanted = [_parse(spec, text) for text in spec.subnets]
    for i, one in enumerate(wanted):
        for other in wanted[:i]:
            if one.version == other.version and one.overlaps(other):
                raise InvalidSpec(f'cannot create network "{spec.name}": its subnets {other} and {one} overlap')
        _refuse_collision(spec, one, taken)
    if not any(one.version == 4 for one in wanted):
        wanted.insert(0, _free_subnet(spec, taken, root_id))
    if spec.ipv6 and not any(one.version == 6 for one in wanted):
        wanted.append(_unique_local(spec, taken, root_id))
    return _with_gateways(spec, wanted)


def _parse(spec: NetworkSpec, text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise InvalidSpec(f'cannot create network "{spec.name}": bad subnet "{text}": {error}') from None
    if network.num_addresses < 4 or network.prefixlen < 8 or network.is_multicast or network.is_loopback:
        raise InvalidSpec(f'cannot create network "{spec.name}": subnet {text} cannot hold containers')
    return network


def _refuse_collision(spec: NetworkSpec, network: Network, taken: Collection[Taken]) -> None:
    for other in taken:
        if other.network.version == network.version and network.overlaps(other.network):
            raise SubnetCollision(
                f'cannot create network "{spec.name}": subnet {network} overlaps {other.network} ({other.user})',
                "choose another subnet, or leave it out to get a free one",
            )


def _free_subnet(spec: NetworkSpec, taken: Collection[Taken], root_id: str) -> IPv4Network:
    used = [
        (int(one.network.network_address), int(one.network.broadcast_address))
        for one in taken
        if one.network.version == 4
    ]
    # Roots start at different places, so that two of them, made at once, rarely want the same.
    start = int(hashlib.sha256(root_id.encode()).hexdigest()[:4], 16)
    for pool in POOLS:
        whole = IPv4Network(pool)
        count = whole.num_addresses >> 8
        for step in range(count):
            first = int(whole.network_address) + (((start + step) % count) << 8)
            if all(last < first or low > first + 255 for low, last in used):
                return IPv4Network((first, 24))
    raise SubnetCollision(
        f'cannot create network "{spec.name}": every /24 of {", ".join(POOLS)} is in use', "give it a subnet"
    )


def _unique_local(spec: NetworkSpec, taken: Collection[Taken], root_id: str) -> IPv6Network:
    """RFC 4193; derived from root and name, so that a network made again gets the same addresses."""
    for attempt in range(64):
        digest = hashlib.sha256(f"{root_id}/{spec.name}/{attempt}".encode()).digest()
        network = IPv6Network((b"\xfd" + digest[:7] + bytes(8), 64))
        if not any(one.network.version == 6 and network.overlaps(one.network) for one in taken):
            return network
    raise SubnetCollision(f'cannot create network "{spec.name}": no free IPv6 subnet', "give it a subnet")


def _with_gateways(spec: NetworkSpec, wanted: Sequence[Network]) -> tuple[Subnet, ...]:
    gateways = {}
    for text in spec.gateways:
        try:
            address = ip_address(text)
        except ValueError:
            raise InvalidSpec(f'cannot create network "{spec.name}": bad gateway "{text}"') from None
        home = next((one for one in wanted if address in one), None)
        if home is None or address in (home.network_address, home.broadcast_address):
            raise InvalidSpec(
                f'cannot create network "{spec.name}": gateway {text} is not a host address of its subnets'
            )
        gateways[home] = str(address)
    ranges = {}
    if spec.ip_range:
        try:
            part = ip_network(spec.ip_range)
        except ValueError as error:
            raise InvalidSpec(f'cannot create network "{spec.name}": bad ip_range: {error}') from None
        home = next((one for one in wanted if one.version == part.version and _within(part, one)), None)
        if home is None:
            raise InvalidSpec(f'cannot create network "{spec.name}": ip_range {part} lies outside its subnets')
        ranges[home] = str(part)
    return tuple(
        Subnet(str(one), gateways.get(one, str(one.network_address + 1)), ranges.get(one, "")) for one in wanted
    )


def _within(part: Network, whole: Network) -> bool:
    return whole.network_address <= part.network_address and part.broadcast_address <= whole.broadcast_address  # type: ignore[operator]


def static_address(subnets: Sequence[Subnet], text: str, network: str) -> tuple[Subnet, str]:
    """The subnet of an address that the user chose, and its canonical text. Raises InvalidSpec."""
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidSpec(f'cannot attach to network "{network}": bad address "{text}"') from None
    for subnet in subnets:
        whole = ip_network(subnet.cidr)
        if address in whole:
            reserved = [whole.network_address, ip_address(subnet.gateway)]
            if whole.version == 4:
                reserved.append(whole.broadcast_address)
            if address in reserved:
                raise InvalidSpec(f'cannot attach to network "{network}": address {text} is reserved')
            return subnet, str(address)
    listed = ", ".join(subnet.cidr for subnet in subnets)
    raise InvalidSpec(f'cannot attach to network "{network}": address {text} is outside {listed}')


def next_address(subnet: Subnet, used: Collection[str], last: str, network: str) -> str:
    """The next free address after `last`, round and round: one just given back is not taken at once.

    Neighbours' caches and connections tracked by the kernel still know the former owner. Raises Conflict when full.
    """
    occupied = set(used)
    tried = 0
    for address in _candidates(subnet, last):
        if address not in occupied:
            return address
        tried += 1
    raise Conflict(f'cannot attach to network "{network}": all {tried} addresses of {subnet.cidr} are in use')


def _candidates(subnet: Subnet, last: str) -> Iterator[str]:
    whole = ip_network(subnet.cidr)
    part = ip_network(subnet.ip_range or subnet.cidr)
    first, end = int(part.network_address), int(part.broadcast_address)
    if first == int(whole.network_address):
        first += 1
    if whole.version == 4 and end == int(whole.broadcast_address):
        end -= 1
    gateway = int(ip_address(subnet.gateway))
    kind = type(whole.network_address)
    start = int(ip_address(last)) + 1 if last else first
    if not first <= start <= end:
        start = first
    for number in _around(first, end, start):
        if number != gateway:
            yield str(kind(number))


def _around(first: int, end: int, start: int) -> Iterator[int]:
    number = start
    while number <= end:
        yield number
        number += 1
    number = first
    while number < start:
        yield number
        number += 1
