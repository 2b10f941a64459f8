"""Marked accepts in other programs' firewall chains that would drop our bridges' traffic: Docker's, firewalld's, ufw's.

The only rules of ours outside our table. An accept there ends only that program's chain: isolation between networks
and the refusal of direct routing stay in our own table, where a drop is final.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from runtime.files import read_json, write_json
from runtime.network.nft import Nft, NftError
from runtime.network.records import Records

HOOKS = ("forward", "input")
USER_CHAIN = "DOCKER-USER"
DNS = {"tcp", "udp"}
LEGACY_LOOK = 10.0


@dataclass(frozen=True, slots=True, order=True)
class Accept:
    """One rule: traffic whose `direction` (iifname, oifname) link matches `links`; `protocol` for names on port 53."""

    family: str
    table: str
    chain: str
    direction: str
    links: str
    protocol: str = ""

    def insertion(self, comment: str) -> str:
        port = f" {self.protocol} dport 53" if self.protocol else ""
        return (
            f"insert rule {self.family} {self.table} {self.chain} "
            f'{self.direction} "{self.links}"{port} accept comment "{comment}"'
        )

    def describe(self) -> str:
        port = f" {self.protocol} dport 53" if self.protocol else ""
        return f'{self.family} {self.table} {self.chain}: {self.direction} "{self.links}"{port} accept'


class ForeignRules:
    """Found and placed by `comment`; looked at again only when some table has changed."""

    def __init__(self, records: Records, nft: Nft) -> None:
        self.records = records
        self.nft = nft
        self.comment = f"holdfast:{records.layout.id}"
        self._state = f"{records.run}/foreign.json"

    def missing(self) -> list[str]:
        """Rules that should be there and are not, in words."""
        patterns = self._patterns()
        seen = [self.nft.generation(), *patterns]
        state = read_json(self._state)
        # Changes of legacy tables move no generation: there, a look is good for a while only.
        if state and state["seen"] == seen and (not _legacy_tables() or 0 <= time.time() - state["time"] < LEGACY_LOOK):
            return []
        wanted, present = self._look(patterns)
        found = sorted(accept.describe() for accept in wanted - present.keys())
        found += self._legacy(patterns, "missing")
        if not found and os.path.isdir(self.records.run):
            write_json(self._state, {"seen": seen, "time": time.time()})
        return found

    def place(self) -> None:
        """Insert what is missing and take away what is no longer wanted."""
        patterns = self._patterns()
        wanted, present = self._look(patterns)
        for accept in sorted(wanted - present.keys()):
            self._run(accept.insertion(self.comment))
        for accept, handles in present.items():
            for handle in handles if accept not in wanted else handles[1:]:
                self._run(f"delete rule {accept.family} {accept.table} {accept.chain} handle {handle}")
        self._legacy(patterns, "insert")

    def remove(self) -> None:
        _, present = self._look(())
        for accept, handles in present.items():
            for handle in handles:
                self._run(f"delete rule {accept.family} {accept.table} {accept.chain} handle {handle}")
        self._legacy((), "remove")

    def listing(self) -> list[str]:
        _, present = self._look(())
        return sorted(accept.describe() for accept in present) + self._legacy((), "list")

    def _patterns(self) -> tuple[str, ...]:
        """Our bridges as few link patterns: all that we named, and each that the user did."""
        prefix = f"{self.records.layout.link_prefix}b"
        names = [record.bridge for record in self.records.all()]
        ours = [f"{prefix}*"] if any(name.startswith(prefix) for name in names) else []
        return tuple(ours + sorted(name for name in names if not name.startswith(prefix)))

    def _run(self, script: str) -> None:
        try:
            self.nft.run(script)
        except NftError:
            pass  # Its owner rewrote the chain meanwhile; the next look sees what is still missing.

    def _look(self, patterns: tuple[str, ...]) -> tuple[set[Accept], dict[Accept, list[int]]]:
        """(wanted, present with their handles) over all foreign tables."""
        wanted: set[Accept] = set()
        present: dict[Accept, list[int]] = {}
        chains = self.nft.read("list chains")
        tables: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        for item in chains["nftables"] if chains else ():
            chain = item.get("chain")
            if chain and chain["family"] in ("ip", "ip6", "inet") and not chain["table"].startswith("holdfast_"):
                tables.setdefault((chain["family"], chain["table"]), {})[chain["name"]] = chain
        for (family, table), names in tables.items():
            bases = {
                hook: [chain for chain in names.values() if chain.get("hook") == hook and chain.get("type") == "filter"]
                for hook in HOOKS
            }
            if not bases["forward"] and not bases["input"]:
                continue
            for chain in names:
                if chain == USER_CHAIN or any(chain == base["name"] for hook in HOOKS for base in bases[hook]):
                    for accept, handle in self._ours(family, table, chain):
                        present.setdefault(accept, []).append(handle)
            for base in bases["forward"]:
                if self._may_drop(family, table, base):
                    target = USER_CHAIN if self._jumps_to_user_chain(family, table, base["name"]) else base["name"]
                    for direction in ("iifname", "oifname"):
                        wanted |= {Accept(family, table, target, direction, one) for one in patterns}
            for base in bases["input"]:
                if self._may_drop(family, table, base):
                    for one in patterns:
                        wanted |= {Accept(family, table, base["name"], "iifname", one, protocol) for protocol in DNS}
        return wanted, present

    def _rules(self, family: str, table: str, chain: str) -> Iterator[dict[str, Any]]:
        listing = self.nft.read(f"list chain {family} {table} {chain}")
        for item in listing["nftables"] if listing else ():
            if "rule" in item:
                yield item["rule"]

    def _may_drop(self, family: str, table: str, base: dict[str, Any]) -> bool:
        if base.get("policy") == "drop":
            return True
        return any(
            "drop" in expression or "reject" in expression
            for rule in self._rules(family, table, base["name"])
            for expression in rule["expr"]
            if isinstance(expression, dict)
        )

    def _jumps_to_user_chain(self, family: str, table: str, chain: str) -> bool:
        return any(
            expression.get("jump", {}).get("target") == USER_CHAIN
            for rule in self._rules(family, table, chain)
            for expression in rule["expr"]
            if isinstance(expression, dict) and isinstance(expression.get("jump"), dict)
        )

    def _ours(self, family: str, table: str, chain: str) -> Iterable[tuple[Accept, int]]:
        for rule in self._rules(family, table, chain):
            if rule.get("comment") != self.comment:
                continue
            direction = links = protocol = ""
            for expression in rule["expr"]:
                match = expression.get("match") if isinstance(expression, dict) else None
                if match and "meta" in match["left"]:
                    direction, links = match["left"]["meta"]["key"], str(match["right"])
                elif match and "payload" in match["left"]:
                    protocol = match["left"]["payload"]["protocol"]
            yield Accept(family, table, chain, direction, links, protocol), rule["handle"]

    # ---- the older iptables, which nft cannot see

    def _legacy(self, patterns: tuple[str, ...], act: str) -> list[str]:
        """`act`: "missing", "insert", "remove" or "list". Does nothing unless legacy filter tables are loaded."""
        return [
            line for version in _legacy_tables() for line in self._legacy_version(f"{version}-legacy", patterns, act)
        ]

    def _legacy_version(self, program: str, patterns: tuple[str, ...], act: str) -> list[str]:
        rules = _iptables(program, "-S")
        if rules is None:
            return []
        chain = USER_CHAIN if f"-A FORWARD -j {USER_CHAIN}" in rules else "FORWARD"
        present = [rule for rule in rules if f"--comment {self.comment} " in rule.replace('"', "") + " "]
        if act == "list":
            return [f"{program}: {rule}" for rule in present]
        wanted = []
        if "-P FORWARD DROP" in rules and act != "remove":
            for pattern in patterns:
                links = pattern.replace("*", "+")
                wanted += [["-i", links], ["-o", links]]
        if act == "remove":
            for rule in present:
                _iptables(program, "-D", *rule.replace('"', "").split()[1:])
            return []
        found = []
        for words in wanted:
            arguments = [chain, *words, "-m", "comment", "--comment", self.comment, "-j", "ACCEPT"]
            if _iptables(program, "-C", *arguments) is None:
                found.append(f"{program}: {' '.join(arguments)}")
                if act == "insert":
                    _iptables(program, "-I", *arguments)
        return found


def _legacy_tables() -> list[str]:
    """Which of iptables and ip6tables have a filter table that nft does not see."""
    found = []
    for program, names in (("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")):
        try:
            with open(f"/proc/self/net/{names}") as file:
                if "filter" in file.read().split():
                    found.append(program)
        except OSError:
            continue
    return found


def _iptables(program: str, *arguments: str) -> list[str] | None:
    """Lines printed; None when it fails or is not installed."""
    import subprocess

    try:
        done = subprocess.run([program, "-w", "5", *arguments], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None
