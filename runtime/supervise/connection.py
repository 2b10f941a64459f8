"""A client's connection, as the supervisor sees it."""

from __future__ import annotations

import socket

from runtime.supervise import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.watching = False

    def answer(self, value: dict[str, Any], fds: list[int] | None = None) -> bool:
        """False when the client is gone, or does not read: then it is to be dropped."""
        try:
            wire.send(self.socket, value, fds or [])
        except OSError:
            return False
        return True
