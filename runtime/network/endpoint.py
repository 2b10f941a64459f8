"""What a running container offers to its networks: names, addresses, published ports, health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from runtime.api import Health, Port
from runtime.value import value


@value
class Endpoint:
    """`names` and `addresses` are keyed by network. Replicas that share a published port have one `group`.

    `dns` are the container's own upstream resolvers for names outside; empty means the host's.
    """

    names: Mapping[str, Sequence[str]]
    addresses: Mapping[str, Sequence[str]]
    ports: Sequence[Port] = ()
    health: Health = "none"
    group: str = ""
    dns: Sequence[str] = field(default=())
