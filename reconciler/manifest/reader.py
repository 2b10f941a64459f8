"""Reads YAML text into marked nodes, by the rules of YAML 1.2's core schema, within fixed bounds.

Built on libyaml's events rather than on PyYAML's composer: events come from a flat loop, so that no depth of nesting
reaches a C stack, and the bounds hold while reading and not after.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from reconciler.manifest.tree import Node
from reconciler.model import Mark, Problem

MAX_BYTES = 8 << 20
MAX_DEPTH = 64
MAX_NODES = 500_000
"""Nodes of one file with every alias counted as often as it is used."""
FREE_EXPANSION = 20_000
"""Nodes that aliases may add in any file; beyond, at most ten times what is written out."""
MAX_PROBLEMS = 200

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_TAG = "tag:yaml.org,2002:"
MERGE = "<<"


def read_yaml(text: str, name: str, problems: list[Problem]) -> list[Node]:
    """One node per non-empty document. What is wrong goes to `problems`; what stands before a syntax error is kept."""
    if len(text) > MAX_BYTES:
        problems.append(Problem(f"the file is larger than {MAX_BYTES >> 20} MiB", Mark(name, 1, 1)))
        return []
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        problems.append(Problem("half of a surrogate pair is not a character", _mark_at(name, text, error.start)))
        return []
    return _Reader(text, name, problems).read()


def _mark_at(name: str, text: str, position: int) -> Mark:
    before = text[:position]
    return Mark(name, before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


class _TooMuch(Exception):
    pass


class _Reader:
    def __init__(self, text: str, name: str, problems: list[Problem]) -> None:
        self.text = text
        self.name = name
        self.problems = problems
        self.anchors: dict[str, tuple[Node, int] | None] = {}
        self.total = 0
        self.expanded = 0

    def read(self) -> list[Node]:
        import yaml

        documents: list[Node] = []
        try:
            self.events: Iterator[Any] = yaml.parse(self.text, Loader=yaml.CSafeLoader)
            for event in self.events:
                kind = type(event).__name__
                if kind == "DocumentStartEvent":
                    self.anchors = {}
                elif kind not in ("StreamStartEvent", "StreamEndEvent", "DocumentEndEvent"):
                    node, _ = self.compose(event, kind)
                    if node.value is not None:
                        documents.append(node)
        except yaml.reader.ReaderError as error:
            position = error.position if isinstance(error.position, int) else 0
            self.report(f"is not text: {error.reason}", _mark_at(self.name, self.text, position))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = _mark_at(self.name, self.text, mark.index) if mark else Mark(self.name, 1, 1)
            context = f" {error.context}" if error.context else ""
            line = self.text.split("\n")[where.line - 1]
            hint = ' (inside { } and [ ] a value with "${" needs quotes)' if "${" in line else ""
            self.report(f"is not YAML: {error.problem}{context}{hint}", where)
        except yaml.YAMLError as error:
            self.report(f"is not YAML: {str(error).splitlines()[0]}", Mark(self.name, 1, 1))
        except _TooMuch:
            pass
        return documents

    def report(self, message: str, mark: Mark) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(message, mark))

    def give_up(self, message: str, mark: Mark) -> _TooMuch:
        self.report(message, mark)
        return _TooMuch()

    def mark(self, event: Any) -> Mark:
        return Mark(self.name, event.start_mark.line + 1, event.start_mark.column + 1)

    def compose(self, event: Any, kind: str) -> tuple[Node, int]:
        """The node that begins with `event`, and its weight. Iterative: `stack` holds the open collections."""
        stack: list[_Open] = []
        while True:
            if kind in ("MappingStartEvent", "SequenceStartEvent"):
                if len(stack) >= MAX_DEPTH:
                    raise self.give_up(f"nests deeper than {MAX_DEPTH} levels", self.mark(event))
                opened = _Open(self.mark(event), event.anchor, kind == "MappingStartEvent")
                opened.directive = self.collection_tag(event, opened)
                if event.anchor:
                    self.anchors[event.anchor] = None
                stack.append(opened)
            else:
                if kind in ("MappingEndEvent", "SequenceEndEvent"):
                    opened = stack.pop()
                    node, weight = self.close(opened), opened.weight
                    if opened.anchor:
                        self.anchors[opened.anchor] = (node, weight)
                elif kind == "AliasEvent":
                    node, weight = self.alias(event)
                else:
                    node = self.scalar(event)
                    weight = 1 + len(event.value) // 64
                    if event.anchor:
                        self.anchors[event.anchor] = (node, weight)
                self.total += weight if kind in ("AliasEvent", "ScalarEvent") else 1
                self.expanded += weight if kind == "AliasEvent" else 0
                if self.total > MAX_NODES or self.expanded > FREE_EXPANSION + 10 * (self.total - self.expanded):
                    raise self.give_up("expands to too many values: aliases multiply", self.mark(event))
                if not stack:
                    return node, weight
                self.add(stack[-1], node, weight, self.mark(event) if kind == "AliasEvent" else node.mark)
            event = next(self.events)
            kind = type(event).__name__

    def add(self, parent: _Open, node: Node, weight: int, mark: Mark) -> None:
        parent.weight += weight
        if parent.weight > MAX_NODES:
            raise self.give_up("expands to too many values: aliases multiply", mark)
        if not parent.is_mapping:
            parent.items.append(node)
        elif parent.key is None:
            parent.key = (node, mark)
        else:
            key, key_mark = parent.key
            parent.key = None
            parent.pairs.append((key, key_mark, node))

    def alias(self, event: Any) -> tuple[Node, int]:
        mark = self.mark(event)
        if event.anchor not in self.anchors:
            self.report(f'alias "*{event.anchor}" has no anchor before it', mark)
            return Node(None, mark), 1
        known = self.anchors[event.anchor]
        if known is None:
            self.report(f'alias "*{event.anchor}" lies inside its own anchor', mark)
            return Node(None, mark), 1
        return known

    def collection_tag(self, event: Any, opened: _Open) -> str:
        tag = event.tag
        if tag in ("!reset", "!override"):
            return str(tag[1:])
        if tag not in (None, "!", _TAG + ("map" if opened.is_mapping else "seq")):
            self.report(f'tag "{_short(tag)}" is not supported here', opened.mark)
        return ""

    def scalar(self, event: Any) -> Node:
        mark = self.mark(event)
        text: str = event.value
        if "\0" in text:
            self.report("a string cannot hold a NUL byte", mark)
            text = text.replace("\0", "")
        tag, directive, plain = event.tag, "", event.implicit[0]
        if tag in ("!reset", "!override"):
            directive, tag, plain = tag[1:], None, not event.style
        one_line = event.end_mark.line == event.start_mark.line and not event.anchor and event.tag is None
        style = event.style or ""
        inline = (
            (0 if not style else 1 if style == "'" or (style == '"' and "\\" not in self.source(event)) else -1)
            if one_line
            else -1
        )
        if tag in (None, "!"):
            value = self.plain(text, mark) if plain and tag is None else text
        else:
            value = self.tagged(tag, text, mark)
        return Node(value, mark, None, directive, inline)

    def source(self, event: Any) -> str:
        return self.text[event.start_mark.index : event.end_mark.index]

    def plain(self, text: str, mark: Mark) -> Any:
        if not text or text[0] not in "-+.0123456789~nNtTfF":
            return text or None
        if text in _NULL:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if _INT.fullmatch(text):
            return self.integer(text, mark)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _SPECIAL.fullmatch(text):
            return float(text.replace(".", "", 1))
        return text

    def integer(self, text: str, mark: Mark) -> Any:
        digits = text.lstrip("+-")
        if len(digits) > 40:
            self.report("is too long a number: put it in quotes if it is text", mark)
            return 0
        if digits.startswith(("0o", "0x")):
            return int(digits, 0)
        # a leading zero is octal to some readers and decimal to others: the text is kept, and the attribute decides
        return text if len(digits) > 1 and digits[0] == "0" else int(text)

    def tagged(self, tag: str, text: str, mark: Mark) -> Any:
        name = tag.removeprefix(_TAG)
        if name == "str":
            return text
        value = self.plain(text, mark)
        if name == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        expected = {"int": int, "float": float, "bool": bool, "null": type(None)}.get(name)
        if expected is None or not tag.startswith(_TAG):
            self.report(f'tag "{_short(tag)}" is not supported', mark)
        elif type(value) is not expected:
            self.report(f'"{text[:40]}" is not of type "{_short(tag)}"', mark)
        return value

    def close(self, opened: _Open) -> Node:
        if not opened.is_mapping:
            return Node(opened.items, opened.mark, None, opened.directive)
        result: dict[str, Node] = {}
        merged: list[tuple[Node, Mark]] = []
        for key, key_mark, value in opened.pairs:
            if key.value == MERGE and key.inline == 0:
                merged.append((value, key_mark))
            elif not isinstance(key.value, str):
                shown = "a list or mapping" if isinstance(key.value, dict | list) else f"{_yaml_text(key.value)}"
                self.report(f"key {shown} is not a string: put it in quotes", key_mark)
            elif key.value in result:
                first = result[key.value].key_mark
                self.report(f'duplicate key "{key.value}" (first at {first})', key_mark)
            else:
                result[key.value] = value.keyed(key_mark)
        for value, key_mark in merged:
            for source in value.value if isinstance(value.value, list) else [value]:
                if not isinstance(source.value, dict):
                    self.report('"<<" needs a mapping or a list of mappings', key_mark)
                    continue
                for name, item in source.value.items():
                    result.setdefault(name, item)
        return Node(result, opened.mark, None, opened.directive)


class _Open:
    """A collection whose end has not been read yet."""

    __slots__ = ("anchor", "directive", "is_mapping", "items", "key", "mark", "pairs", "weight")

    def __init__(self, mark: Mark, anchor: str | None, is_mapping: bool) -> None:
        self.mark = mark
        self.anchor = anchor
        self.is_mapping = is_mapping
        self.directive = ""
        self.items: list[Node] = []
        self.pairs: list[tuple[Node, Mark, Node]] = []
        self.key: tuple[Node, Mark] | None = None
        self.weight = 1


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def _yaml_text(value: Any) -> str:
    return (
        {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)
    )
