"""Keeps our one nftables table equal to the networks and published ports on record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from runtime.files import read_json, remove_file, write_json
from runtime.lock import locked
from runtime.network.balance import published_ports
from runtime.network.nft import Nft, NftError
from runtime.network.records import NetworkRecord, Records, list_names
from runtime.network.rules import (
    Published,
    Table,
    add_network,
    change_ports,
    differences,
    remove_network,
    static_digest,
    whole_table,
)


class Firewall:
    """Every change happens under `lock()`, state file first, kernel second; `damage` sees what a crash left between."""

    def __init__(self, records: Records, nft: Nft) -> None:
        self.records = records
        self.nft = nft
        self.table = records.layout.table
        self._state = f"{records.run}/firewall.json"

    def lock(self) -> AbstractContextManager[None]:
        return locked(self.records.firewall_lock)

    def wanted(self) -> Table:
        table = Table()
        for record in self.records.all():
            table.add_network(record)
        for name in list_names(self.records.groups):
            group = read_json(f"{self.records.groups}/{name}.json")
            if group:
                table.add_ports(list(published_ports(group).values()))
        return table

    def install(self) -> None:
        """Write the whole table, whatever it held; connections that exist go on."""
        with self.lock():
            self._install()

    def add_network(self, record: NetworkRecord) -> None:
        """The first network makes the table."""
        with self.lock():
            if read_json(self._state) is None:
                self._install()
                return
            try:
                self.nft.run(add_network(self.table, record))
            except NftError:
                self._install()

    def remove_network(self, record: NetworkRecord, on_last: Callable[[], None]) -> None:
        """Called while the record still stands; with the last one the table goes.

        `on_last` is called then, still under the lock: a new network records itself first and comes here next, so that
        what it starts afterwards is not ended by the former one's removal.
        """
        with self.lock():
            if all(one.name == record.name for one in self.records.all()):
                self._remove_table()
                on_last()
                return
            try:
                self.nft.run(remove_network(self.table, record))
            except NftError:
                pass  # Somebody removed the table: the damage is seen and healed with the remaining networks.

    def change_ports(self, old: Mapping[str, Published], new: Mapping[str, Published]) -> None:
        """The caller holds the lock and has written the group's file."""
        script = change_ports(self.table, old, new)
        try:
            self.nft.run(script)
        except NftError:
            # The table is gone or was tampered with: write all of it, with this group's new state.
            if self.records.all():
                self._install()

    def remove_unused(self, on_last: Callable[[], None]) -> None:
        """The table goes, unless a network has come meanwhile; `on_last` as above."""
        with self.lock():
            if not self.records.all():
                self._remove_table()
                on_last()

    def exists(self) -> bool:
        return self.nft.read(f"list table inet {self.table}") is not None

    def damage(self) -> list[str]:
        """Differences between kernel and record. One netlink message long while nobody changed any table."""
        table = self.wanted()
        state = read_json(self._state)
        if state is None:
            return [f"table {self.table} was not written since boot"] if table.elements["bridges"] else []
        if state.get("seen") == self._seen(table):
            return []
        with self.lock():
            table = self.wanted()
            state = read_json(self._state) or {}
            seen = self._seen(table)
            listing = self.nft.read(f"list table inet {self.table}")
            if listing is None:
                return [f"table {self.table} is missing"]
            found = differences(listing, table, state.get("static", ""))
            if not found:
                write_json(self._state, {**state, "seen": seen})
            return found

    def _seen(self, table: Table) -> str:
        return hashlib.sha256(f"{self.nft.generation()} {table.fingerprint()}".encode()).hexdigest()

    def _install(self) -> None:
        self.nft.run(whole_table(self.table, self.wanted()))
        listing: Any = self.nft.read(f"list table inet {self.table}")
        write_json(self._state, {"static": static_digest(listing or json.loads('{"nftables": []}'))})

    def _remove_table(self) -> None:
        self.nft.run(f"add table inet {self.table}\ndelete table inet {self.table}\n")
        remove_file(self._state)
