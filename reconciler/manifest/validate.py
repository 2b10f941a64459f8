"""Holds a marked tree against a model and says every problem at its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from reconciler.manifest.interpolate import HOLE
from reconciler.manifest.tree import Node, locate, to_data
from reconciler.model import Mark, Problem
from schemas.suggest import did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from schemas.fields import Strict

    Model = TypeVar("Model", bound=Strict)

Path = tuple[Any, ...]
ROUNDS = 8


class Validated:
    """A model's instance with what was left out of it to get one: `broken` paths hold no value to reason about."""

    __slots__ = ("broken", "model", "node")

    def __init__(self, model: Any, node: Node, broken: set[Path]) -> None:
        self.model = model
        self.node = node
        self.broken = broken


def validate(
    model: type[Model], node: Node, describe: Callable[[Sequence[Any]], str], problems: list[Problem]
) -> Validated | None:
    """An instance made of all that is right; None when what remains cannot be one. `describe` names a path."""
    from pydantic import ValidationError

    broken: set[Path] = set()
    node = _drop_holes(node, (), broken)
    made: dict[int, Node] = {}
    data = to_data(node, made)
    unknown: list[tuple[type[Strict], str, int]] = []
    found: dict[tuple[Mark, str], Problem] = {}
    instance = None
    for _ in range(ROUNDS):
        try:
            instance = model.model_validate(data, context={"unknown": unknown})
            break
        except ValidationError as error:
            details = error.errors(include_url=False)
        places: set[Path] = set()
        for detail in details:
            for path, message in _explain(detail):
                path = _existing(data, path)
                if not _follows_from(path, broken, detail["type"] in ("missing", "value_error")):
                    problem = Problem(describe(path) + message, locate(node, path))
                    assert problem.mark is not None
                    found.setdefault((problem.mark, problem.message), problem)
                places.add(path)
        broken |= places
        if () in places or not places:
            break
        for path in sorted(places, key=_removal_order, reverse=True):
            _remove(data, path)
    for owner, key, identity in unknown:
        parent = made.get(identity)
        if parent is not None:
            child = parent.mapping.get(key)
            mark = child.key_mark if child is not None and child.key_mark is not None else parent.mark
            message = describe(_path_to(node, parent)) + _unknown(owner, key)
            found.setdefault((mark, message), Problem(message, mark))
    problems.extend(found.values())
    return None if instance is None else Validated(instance, node, broken)


def _drop_holes(node: Node, path: Path, broken: set[Path]) -> Node:
    if isinstance(node.value, dict):
        kept: Any = {}
        for key, item in node.value.items():
            if item.value is HOLE:
                broken.add((*path, key))
            else:
                kept[key] = _drop_holes(item, (*path, key), broken)
        return node.replace(kept)
    if isinstance(node.value, list):
        kept = []
        for index, item in enumerate(node.value):
            if item.value is HOLE:
                broken.add((*path, index))
            else:
                kept.append(_drop_holes(item, (*path, index), broken))
        return node.replace(kept)
    return node


def _follows_from(path: Path, broken: set[Path], of_the_whole: bool) -> bool:
    """Whether the error is only that something reported before is now missing."""
    return any(path[: len(other)] == other or (of_the_whole and other[: len(path)] == path) for other in broken)


def _existing(data: Any, path: Path) -> Path:
    """The longest part of a pydantic location that is a place in the data: tags of unions and defaults are not."""
    steps: list[Any] = []
    for step in path:
        if (isinstance(data, dict) and step in data) or (
            isinstance(data, list) and isinstance(step, int) and step < len(data)
        ):
            data = data[step]
        else:
            continue
        steps.append(step)
    return tuple(steps)


def _removal_order(path: Path) -> tuple[Any, ...]:
    return tuple((isinstance(step, int), step if isinstance(step, int) else 0, str(step)) for step in path)


def _remove(data: Any, path: Path) -> None:
    for step in path[:-1]:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return
    try:
        del data[path[-1]]
    except (KeyError, IndexError, TypeError):
        return


def _path_to(root: Node, wanted: Node) -> Path:
    stack: list[tuple[Node, Path]] = [(root, ())]
    while stack:
        node, path = stack.pop()
        if node is wanted:
            return path
        items: Iterable[tuple[Any, Node]] = ()
        if isinstance(node.value, dict):
            items = node.value.items()
        elif isinstance(node.value, list):
            items = enumerate(node.value)
        stack.extend((item, (*path, step)) for step, item in items)
    return ()


def _unknown(owner: type[Strict], key: str) -> str:
    if key in owner.later:
        reason = owner.later[key]
        if not reason:
            return f'attribute "{key}" is not supported yet'
        return f'attribute "{key}" cannot be used here: {reason}'
    known = [*owner.attribute_names(), *owner.later]
    return f'unknown attribute "{key}"{did_you_mean(key, known)}'


def _explain(detail: ErrorDetails) -> list[tuple[Path, str]]:
    """Where and what, in the manifest's words."""
    from schemas.fields import type_name

    path, kind, value = tuple(detail["loc"]), detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "several":
        return [((*path, at), message) for at, message in context["found"]]
    if kind == "value_error":
        return [(path, str(context["error"]))]
    if kind == "missing":
        return [(path[:-1], f'attribute "{path[-1]}" is required')]
    if kind == "string_type":
        quotes = ": put it in quotes" if isinstance(value, int | float) else ""
        return [(path, f"must be a string, not {type_name(value)}{quotes}")]
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return [(path, f"must be a mapping, not {type_name(value)}")]
    if kind == "list_type":
        return [(path, f"must be a list, not {type_name(value)}")]
    if kind == "literal_error":
        expected = context["expected"].replace("'", "")
        words = expected.replace(" or ", ", ").split(", ")
        near = did_you_mean(value, words) if isinstance(value, str) else ""
        return [(path, f"must be {expected}, not {type_name(value)}{near}")]
    return [(path, detail["msg"])]
