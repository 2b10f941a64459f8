"""Compose's interpolation: `$VAR ${VAR} ${VAR:-d} ${VAR-d} ${VAR:?e} ${VAR?e} ${VAR:+a} ${VAR+a}`, nested, `$$`."""

from __future__ import annotations

import re

from reconciler.manifest.texts import Variables
from reconciler.manifest.tree import Node
from reconciler.model import Mark, Problem
from schemas.suggest import did_you_mean

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATORS = (":-", ":?", ":+", "-", "?", "+")
MAX_DEPTH = 20
MAX_OUTPUT = 16 << 20
"""Characters that all values of one file may grow to."""


class InterpolationError(Exception):
    """`offset` counts from the beginning of the text to the `$` that is meant."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def expand(text: str, variables: Variables) -> str:
    """Raises InterpolationError for a malformed expression, an unset variable without default or a required one."""
    result, position = _expand(text, 0, variables, depth=0, live=True)
    assert position == len(text)
    return result


def _expand(text: str, position: int, variables: Variables, depth: int, live: bool) -> tuple[str, int]:
    """Up to the end of text or, inside braces (depth > 0), to the closing brace; not `live`: only find the end."""
    parts: list[str] = []
    while position < len(text):
        dollar = text.find("$", position)
        if depth:
            brace = text.find("}", position)
            if brace >= 0 and (dollar < 0 or brace < dollar):
                parts.append(text[position:brace])
                return "".join(parts), brace
        if dollar < 0:
            parts.append(text[position:])
            position = len(text)
            break
        parts.append(text[position:dollar])
        if text.startswith("$$", dollar):
            parts.append("$")
            position = dollar + 2
        elif text.startswith("${", dollar):
            value, position = _braced(text, dollar, variables, depth, live)
            parts.append(value)
        else:
            match = _NAME.match(text, dollar + 1)
            if match is None:
                raise InterpolationError('"$" is not followed by a variable: write "$$" for a plain "$"', dollar)
            parts.append(_value(match[0], variables, dollar) if live else "")
            position = match.end()
    return "".join(parts), position


def _braced(text: str, start: int, variables: Variables, depth: int, live: bool) -> tuple[str, int]:
    if depth >= MAX_DEPTH:
        raise InterpolationError(f"interpolation nests deeper than {MAX_DEPTH} levels", start)
    match = _NAME.match(text, start + 2)
    if match is None:
        raise InterpolationError('"${" is not followed by the name of a variable', start)
    name, position = match[0], match.end()
    if text.startswith("}", position):
        return (_value(name, variables, start) if live else ""), position + 1
    operator = next((word for word in _OPERATORS if text.startswith(word, position)), None)
    if operator is None:
        what = "is not closed" if position >= len(text) else f'has "{text[position]}" after its name'
        raise InterpolationError(f'"${{{name}" {what}', start)
    value = variables.get(name)
    missing = value is None or (operator[0] == ":" and value == "")
    wanted = live and (missing if operator[-1] in "-?" else not missing)
    word, position = _expand(text, position + len(operator), variables, depth + 1, wanted)
    if not text.startswith("}", position):
        raise InterpolationError(f'"${{{name}{operator}" is not closed', start)
    position += 1
    if not live:
        return "", position
    if operator[-1] == "+":
        return ("" if missing else word), position
    if not missing:
        return value or "", position
    if operator[-1] == "?":
        raise InterpolationError(f'variable "{name}" is required' + (f": {word}" if word else ""), start)
    return word, position


def _value(name: str, variables: Variables, offset: int) -> str:
    value = variables.get(name)
    if value is None:
        near = did_you_mean(name, variables.names())
        raise InterpolationError(f'variable "{name}" is not set{near}', offset)
    return value


def interpolate(root: Node, variables: Variables, problems: list[Problem], skip: frozenset[str] = frozenset()) -> Node:
    """A copy in which every string value is expanded; a value that cannot be becomes a hole (see `is_hole`).

    Keys are left alone, and so is what stands under the top-level keys in `skip`.
    """
    return _Interpolation(variables, problems).walk(root, skip)


class Hole:
    """Stands for a value that could not be computed and was reported; nothing else is said about it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "HOLE"


HOLE = Hole()


class _Interpolation:
    def __init__(self, variables: Variables, problems: list[Problem]) -> None:
        self.variables = variables
        self.problems = problems
        self.done: dict[int, Node] = {}
        self.keep: list[Node] = []
        self.output = 0

    def walk(self, node: Node, skip: frozenset[str] = frozenset()) -> Node:
        known = self.done.get(id(node))
        if known is not None:
            return known
        value = node.value
        if isinstance(value, dict):
            made = node.replace({key: item if key in skip else self.walk(item) for key, item in value.items()})
        elif isinstance(value, list):
            made = node.replace([self.walk(item) for item in value])
        elif isinstance(value, str) and "$" in value:
            made = self.scalar(node, value)
        else:
            return node
        # an aliased node is walked once; `keep` holds it so that its id is not given to another
        self.done[id(node)] = made
        self.keep.append(node)
        return made

    def scalar(self, node: Node, value: str) -> Node:
        try:
            text = expand(value, self.variables)
        except InterpolationError as error:
            mark = node.mark
            if node.inline >= 0:
                mark = Mark(mark.file, mark.line, mark.column + node.inline + error.offset)
            self.problems.append(Problem(str(error), mark))
            return node.replace(HOLE)
        self.output += len(text)
        if self.output > MAX_OUTPUT:
            if self.output - len(text) <= MAX_OUTPUT:
                self.problems.append(Problem("interpolation makes the file too large", node.mark))
            return node.replace(HOLE)
        return node.replace(text)
