"""Who a container runs as: names are looked up in the image's own /etc/passwd and /etc/group, never the host's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from runtime.errors import InvalidSpec

ReadFile = Callable[[str], str]
"""Returns the text of a path inside the container's root, "" when it does not exist."""


class Identity(NamedTuple):
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve_user(user: str, group_add: tuple[str, ...], read: ReadFile) -> Identity:
    """`user` is "", "name", "uid", "name:group", "uid:gid", as in a Dockerfile's USER. Raises InvalidSpec."""
    name, _, group = user.partition(":")
    passwd = _records(read("/etc/passwd"), 7)
    groups = _records(read("/etc/group"), 4)
    wanted = name or "0"
    entry = next((row for row in passwd if row[0] == wanted), None) or next(
        (row for row in passwd if _is_id(wanted) and row[2] == wanted), None
    )
    if entry is None and not _is_id(wanted):
        raise InvalidSpec(f'cannot find user "{wanted}": the image\'s /etc/passwd has no such name')
    uid = int(entry[2]) if entry else int(wanted)
    gid = _group_id(group, groups) if group else int(entry[3]) if entry else 0
    supplementary = set() if group else {int(row[2]) for row in groups if entry and entry[0] in row[3].split(",")}
    supplementary.update(_group_id(item, groups) for item in group_add)
    return Identity(uid, gid, tuple(sorted(supplementary | {gid})), entry[5] if entry and entry[5] else "/")


def _records(text: str, width: int) -> list[list[str]]:
    rows = (line.split(":") for line in text.splitlines())
    return [row for row in rows if len(row) >= width and _is_id(row[2]) and (width < 7 or _is_id(row[3]))]


def _is_id(text: str) -> bool:
    """A number that setresuid(2) takes; the files are the image's and may hold anything."""
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 0xFFFFFFFF


def _group_id(group: str, groups: list[list[str]]) -> int:
    for row in groups:
        if row[0] == group:
            return int(row[2])
    if _is_id(group):
        return int(group)
    raise InvalidSpec(f'cannot find group "{group}": the image\'s /etc/group has no such name')
