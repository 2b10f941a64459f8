"""Descriptors that must survive the supervisor: it keeps them under a key, and so does the keeper."""

from __future__ import annotations

import os
import socket

from runtime.supervise import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class HeldDescriptors:
    """`table` is shared with the keeper by fork, and follows it by message afterwards."""

    def __init__(self, table: dict[str, list[int]], keeper: socket.socket) -> None:
        self.table = table
        self.keeper = keeper
        self.keeper_died = False

    def put(self, key: str, fds: list[int], *, append: bool = False, pid: int = 0) -> None:
        """Take over `fds`; those formerly under `key` are closed unless `append`. `pid`: whose they are."""
        self.tell_keeper({"op": "hold", "key": key, "append": append, "pid": pid}, fds)
        if append:
            self.table.setdefault(key, []).extend(fds)
            return
        former = self.table.get(key, [])
        self.table[key] = list(fds)
        for fd in former:
            os.close(fd)

    def release(self, key: str) -> None:
        fds = self.table.pop(key, None)
        if fds is None:
            return
        self.tell_keeper({"op": "release", "key": key})
        for fd in fds:
            os.close(fd)

    def tell_keeper(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """In order, and it reads even what a supervisor sent just before its death: no answer is needed."""
        try:
            wire.send(self.keeper, message, fds or [])
        except OSError:
            self.keeper_died = True  # this process, which has it all too, is about to be the keeper
