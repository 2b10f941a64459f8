"""Networks of one state root: bridges, addresses, names, published ports.

The names are loaded when first used, so that the names process, which runs from this package, stays small.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.network.endpoint import Endpoint
    from runtime.network.store import Networks

__all__ = ["Endpoint", "Networks"]


def __getattr__(name: str) -> object:
    if name == "Endpoint":
        from runtime.network.endpoint import Endpoint

        return Endpoint
    if name == "Networks":
        from runtime.network.store import Networks

        return Networks
    raise AttributeError(name)
