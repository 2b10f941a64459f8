"""A YAML document as data in which every node knows where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reconciler.model import Mark


class Node:
    """A scalar, a list of nodes or a mapping of names to nodes; `key_mark` is where a mapping's key for it stands.

    `inline` tells that the scalar's text follows its mark by so many characters on the same line, so that a position
    inside the text can be named; -1 when it cannot. `directive` is "reset" or "override" (Compose's tags).
    """

    __slots__ = ("directive", "inline", "key_mark", "mark", "value")

    def __init__(
        self, value: Any, mark: Mark, key_mark: Mark | None = None, directive: str = "", inline: int = -1
    ) -> None:
        self.value = value
        self.mark = mark
        self.key_mark = key_mark
        self.directive = directive
        self.inline = inline

    def keyed(self, key_mark: Mark) -> Node:
        """The same value under another key."""
        return Node(self.value, self.mark, key_mark, self.directive, self.inline)

    def replace(self, value: Any) -> Node:
        return Node(value, self.mark, self.key_mark, self.directive, self.inline)

    @property
    def mapping(self) -> dict[str, Node]:
        return self.value if isinstance(self.value, dict) else {}

    def get(self, *path: str) -> Node | None:
        """The node below mapping keys, None when any is absent."""
        node: Node | None = self
        for key in path:
            node = node.mapping.get(key) if node is not None else None
        return node

    def text(self, *path: str) -> str | None:
        node = self.get(*path)
        return node.value if node is not None and isinstance(node.value, str) else None


def to_data(node: Node, seen: dict[int, Node] | None = None) -> Any:
    """Plain data; `seen` receives the node of every mapping and list made, by the made object's id."""
    if isinstance(node.value, dict):
        made: Any = {key: to_data(item, seen) for key, item in node.value.items()}
    elif isinstance(node.value, list):
        made = [to_data(item, seen) for item in node.value]
    else:
        return node.value
    if seen is not None:
        seen[id(made)] = node
    return made


def locate(node: Node, path: Sequence[Any], at_key: bool = False) -> Mark:
    """The mark of the nearest existing node on `path`.

    A name inside a list finds the entry that says it in short form (`db`, `KEY=value`, `source:target`) or in long
    form (source, target, name); `at_key` prefers where the last key stands to where its value begins.
    """
    mark = node.mark
    for position, step in enumerate(path):
        found: Node | None = None
        if isinstance(node.value, dict) and isinstance(step, str):
            found = node.value.get(step)
        elif isinstance(node.value, list):
            if isinstance(step, int):
                found = node.value[step] if 0 <= step < len(node.value) else None
            else:
                found = _find_entry(node.value, str(step))
        if found is None:
            if isinstance(node.value, dict | list):
                continue
            break
        node = found
        last = position == len(path) - 1
        mark = node.key_mark if at_key and last and node.key_mark is not None else node.mark
    return mark


def _find_entry(items: list[Node], name: str) -> Node | None:
    for item in items:
        if isinstance(item.value, str) and (
            item.value == name or item.value.startswith((f"{name}=", f"{name}:")) or f":{name}" in item.value
        ):
            return item
        for key in ("source", "target", "name", "path"):
            if item.text(key) == name:
                return item
    return None
