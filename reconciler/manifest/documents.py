"""Turns a source's texts into validated documents: native ones, and those a Compose file stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from reconciler.manifest.interpolate import interpolate
from reconciler.manifest.merge import drop_directives, lay_over_defaults, merge_documents
from reconciler.manifest.reader import read_yaml
from reconciler.manifest.texts import Source, SourceFile, Variables
from reconciler.manifest.tree import Node, locate
from reconciler.manifest.validate import Path, Validated, validate
from reconciler.model import InputError, Mark, Problem
from schemas import KINDS, NOT_YET
from schemas.suggest import did_you_mean

API_VERSION = "holdfast/v1"
STACK_NAME = re.compile(r"[a-z0-9]+(?:(?:__?|-+)[a-z0-9]+)*")
RESOURCE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
IMAGE_NAME = re.compile(
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
)
_SINGULAR = {
    "services": "service",
    "networks": "network",
    "volumes": "volume",
    "configs": "config",
    "secrets": "secret",
}
_COMPOSE_KINDS = {
    "services": "Service",
    "networks": "Network",
    "volumes": "Volume",
    "configs": "Config",
    "secrets": "Secret",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One declared resource: `spec` is the model's instance, `node` the marked tree that it was read from."""

    kind: str
    name: str
    spec: Any
    mark: Mark
    node: Node = field(repr=False)
    directory: str = ""
    """Absolute; where relative paths of the spec begin."""
    native: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    variables: Variables = field(default_factory=lambda: Variables({}), repr=False, compare=False)
    broken: frozenset[Path] = frozenset()
    """Places in `spec` that were reported as wrong and left out."""

    def where(self, *path: Any, at_key: bool = False) -> Mark:
        return locate(self.node, path, at_key) if path else self.mark

    def lacks(self, *path: Any) -> bool:
        """Whether what stands at `path` was wrong, so that its absence says nothing."""
        return any(other[: len(path)] == path or path[: len(other)] == other for other in self.broken)

    @property
    def title(self) -> str:
        return f'{self.kind.lower()} "{self.name}"'


@dataclass(slots=True)
class Reading:
    """What could be read, and all that was wrong."""

    documents: list[Document]
    problems: list[Problem]
    named: set[tuple[str, str]] = field(default_factory=set)
    """(kind, name) of everything declared, also of what could not be read: no reference to it is called undefined."""


def load(source: Source) -> list[Document]:
    """All documents of the source. Raises InputError with every problem found."""
    reading = read_documents(source)
    if reading.problems:
        raise InputError(sort_problems(reading.problems))
    return reading.documents


def sort_problems(problems: Sequence[Problem]) -> list[Problem]:
    """By file, line and column, each said once."""

    def order(problem: Problem) -> tuple[Any, ...]:
        mark = problem.mark
        return (mark is not None, *((mark.file, mark.line, mark.column) if mark else ("", 0, 0)), problem.message)

    return sorted(dict.fromkeys(problems), key=order)


@dataclass(slots=True)
class _Raw:
    """A document before validation, with the file that its relative paths belong to."""

    node: Node
    file: SourceFile
    variables: Variables


def read_documents(source: Source) -> Reading:
    reading = Reading([], [])
    problems = reading.problems
    compose: dict[int, _Raw] = {}
    native: dict[tuple[Any, ...], _Raw] = {}
    declared: list[Any] = []
    for file in source.files:
        before = len(problems)
        nodes = read_yaml(file.text, file.path, problems)
        if not nodes and len(problems) == before and not _only_comments(file.text):
            problems.append(Problem("the file is empty", Mark(file.path, 1, 1)))
        for node in nodes:
            _sort_document(node, file, compose, native, declared, problems)
    stack_node = _stack_defaults(native, problems)
    for origin in dict.fromkeys(declared):
        if isinstance(origin, int):
            _read_compose(compose[origin], stack_node, reading)
        else:
            _read_native(native[origin], stack_node, reading)
    _find_duplicates(reading)
    if not problems and not any(document.kind != "Stack" for document in reading.documents):
        problems.append(
            Problem("the source declares no resource: nothing would be left of the stack (use destroy for that)")
        )
    return reading


def _only_comments(text: str) -> bool:
    return any(line.strip() for line in text.splitlines())


def _sort_document(
    node: Node, file: SourceFile, compose: dict[int, _Raw], native: dict[tuple[Any, ...], _Raw],
    declared: list[Any], problems: list[Problem],
) -> None:  # fmt: skip
    """Put a document among the native ones or the Compose files, merged over what it belongs to."""
    if not isinstance(node.value, dict):
        problems.append(Problem("the document must be a mapping", node.mark))
        return
    if "apiVersion" not in node.value:
        kind = node.get("kind")
        if kind is not None:
            problems.append(Problem(f'a document with "kind" needs "apiVersion: {API_VERSION}"', kind.key_mark))
            return
        variables = _with_project_name(node, file)
        node = interpolate(node, variables, problems)
        known = compose.get(file.group)
        if known is not None:
            known.node = merge_documents(known.node, node, compose=True)
        else:
            compose[file.group] = _Raw(node, file, variables)
            declared.append(file.group)
        return
    if not _is_ours(node, problems):
        return
    node = interpolate(node, file.variables, problems)
    kind_text, name_text = node.text("kind"), node.text("metadata", "name")
    place: tuple[Any, ...] = (file.group, kind_text, name_text if kind_text != "Stack" else "")
    earlier = native.get(place)
    if earlier is not None and earlier.file is not file:
        earlier.node = merge_documents(earlier.node, node, compose=False)
        return
    if earlier is not None:
        place = (*place, len(native))
    native[place] = _Raw(node, file, file.variables)
    declared.append(place)


def _with_project_name(node: Node, file: SourceFile) -> Variables:
    """COMPOSE_PROJECT_NAME is what the file says or, without a `name`, what its directory does."""
    name = node.text("name") or default_stack_name(file.project_dir)
    if not name or "$" in name or file.variables.get("COMPOSE_PROJECT_NAME") is not None:
        return file.variables
    return file.variables.with_file({"COMPOSE_PROJECT_NAME": name})


def _is_ours(node: Node, problems: list[Problem]) -> bool:
    version, kind = node.mapping["apiVersion"], node.get("kind")
    if version.value != API_VERSION:
        known = isinstance(version.value, str) and re.fullmatch(
            r"([a-z0-9.]+/)?v[0-9]+((alpha|beta)[0-9]+)?", version.value
        )
        if known and not version.value.startswith("holdfast"):
            shown = f" (kind {kind.value})" if kind is not None else ""
            problems.append(Problem(f"Kubernetes objects are not supported yet{shown}", version.mark))
        else:
            near = did_you_mean(str(version.value), (API_VERSION,))
            problems.append(Problem(f'unknown apiVersion "{version.value}"{near}', version.mark))
        return False
    if kind is None or not isinstance(kind.value, str):
        problems.append(Problem(f'"kind" must be one of {", ".join(KINDS)}', kind.mark if kind else node.mark))
        return False
    if kind.value in NOT_YET:
        problems.append(Problem(f"kind {kind.value} is not supported yet", kind.mark))
        return False
    if kind.value not in KINDS:
        problems.append(Problem(f'unknown kind "{kind.value}"{did_you_mean(kind.value, KINDS)}', kind.mark))
        return False
    return True


def _stack_defaults(native: dict[tuple[Any, ...], _Raw], problems: list[Problem]) -> Node | None:
    """Held against the model once, so that a mistake in them is not told of every service."""
    from schemas.service import ServiceSpec

    for raw in native.values():
        defaults = raw.node.get("spec", "defaults") if raw.node.text("kind") == "Stack" else None
        if defaults is not None and isinstance(defaults.value, dict):
            before = len(problems)
            name = raw.node.text("metadata", "name") or ""
            validate(ServiceSpec, drop_directives(defaults), partial(_describe_defaults, name), problems)
            return defaults if len(problems) == before else None
    return None


def _describe_defaults(stack: str, path: Sequence[Any]) -> str:
    return _describe(f'stack "{stack}"', ["defaults", *path])


def _with_defaults(spec: Node, defaults: Node | None, job: bool) -> Node:
    if defaults is None or not isinstance(defaults.value, dict) or not isinstance(spec.value, dict):
        return spec
    if job:
        defaults = defaults.replace(
            {k: v for k, v in defaults.value.items() if k not in ("restart", "deploy", "scale")}
        )
    return lay_over_defaults(defaults, spec)


def _read_native(raw: _Raw, defaults: Node | None, reading: Reading) -> None:
    from schemas.documents import DOCUMENTS

    kind = raw.node.text("kind") or ""
    node = raw.node
    spec_node = node.get("spec")
    if kind in ("Service", "Job") and spec_node is not None:
        laid = _with_defaults(spec_node, defaults, kind == "Job").keyed(spec_node.key_mark or spec_node.mark)
        node = node.replace({**node.value, "spec": laid})
    node = drop_directives(node)
    name = node.text("metadata", "name") or ""
    if kind == "Stack":
        name = name or node.text("spec", "name") or ""

    def describe(path: Sequence[Any]) -> str:
        inner = list(path[1:]) if path[:1] == ("spec",) else list(path)
        return _describe(f'{kind.lower()} "{name}"' if name else kind.lower(), inner)

    if name:
        reading.named.add((kind, name))
    checked = validate(DOCUMENTS[kind], node, describe, reading.problems)
    if checked is None or (not name and kind != "Stack"):
        return
    name_node = node.get("metadata", "name") or node
    _check_name(kind, name, name_node.mark, describe, reading.problems)
    if kind == "Stack" and checked.model.spec.name and checked.model.spec.name != name:
        where = locate(node, ("spec", "name"))
        reading.problems.append(Problem(f'stack "{name}": spec.name says "{checked.model.spec.name}"', where))
    inner = checked.node.get("spec") or Node({}, node.mark)
    reading.documents.append(
        Document(
            kind,
            name,
            checked.model.spec,
            name_node.mark,
            inner,
            raw.file.directory,
            True,
            dict(checked.model.metadata.labels),
            raw.variables,
            _below(checked.broken, ("spec",)),
        )
    )


def _read_compose(raw: _Raw, defaults: Node | None, reading: Reading) -> None:
    from schemas.documents import ComposeFile

    node = raw.node
    services = node.get("services")
    if services is not None and isinstance(services.value, dict):
        laid = {
            key: _with_defaults(item, defaults, job=False).keyed(item.key_mark or item.mark)
            for key, item in services.value.items()
        }
        node = node.replace({**node.value, "services": services.replace(laid)})
    node = drop_directives(node)
    for section, kind in _COMPOSE_KINDS.items():
        reading.named.update((kind, name) for name in (node.get(section) or Node(None, node.mark)).mapping)
    checked = validate(ComposeFile, node, _describe_compose, reading.problems)
    if checked is None:
        return
    _compose_stack(raw, checked, reading)
    for section, kind in _COMPOSE_KINDS.items():
        for name, spec in getattr(checked.model, section).items():
            _add_compose_entry(raw, checked, (section, name), kind, name, spec, reading)
    for name, spec in checked.model.x_holdfast.images.items():
        reading.named.add(("Image", name))
        _add_compose_entry(raw, checked, ("x-holdfast", "images", name), "Image", name, spec, reading)


def _add_compose_entry(
    raw: _Raw, checked: Validated, path: tuple[str, ...], kind: str, name: str, spec: Any, reading: Reading
) -> None:
    inner = checked.node.get(*path) or Node({}, checked.node.mark)
    mark = inner.key_mark or inner.mark
    _check_name(kind, name, mark, lambda _: _describe_compose(path), reading.problems)
    reading.documents.append(
        Document(
            kind, name, spec, mark, inner, raw.file.project_dir, False, {}, raw.variables, _below(checked.broken, path)
        )
    )


def _compose_stack(raw: _Raw, checked: Validated, reading: Reading) -> None:
    """A Compose file's `name` and its `x-holdfast` settings are a Stack document of a lower rank."""
    from schemas.resources import StackSpec

    settings = checked.model.x_holdfast
    name_node = checked.node.get("name")
    if name_node is None and not {"prune", "deletion_budget"} & settings.model_fields_set:
        return
    mark = name_node.mark if name_node is not None else checked.node.mark
    name = checked.model.name or ""
    _check_name("Stack", name, mark, lambda _: "name: ", reading.problems)
    spec = StackSpec(name=name or None, prune=settings.prune, deletion_budget=settings.deletion_budget)
    reading.documents.append(
        Document("Stack", name, spec, mark, checked.node, raw.file.project_dir, False, {}, raw.variables)
    )


def _below(broken: set[Path], prefix: tuple[str, ...]) -> frozenset[Path]:
    return frozenset(path[len(prefix) :] for path in broken if path[: len(prefix)] == prefix)


def _describe_compose(path: Sequence[Any]) -> str:
    if len(path) >= 2 and path[0] in _SINGULAR:
        return _describe(f'{_SINGULAR[path[0]]} "{path[1]}"', list(path[2:]))
    if len(path) >= 3 and tuple(path[:2]) == ("x-holdfast", "images"):
        return _describe(f'image "{path[2]}"', list(path[3:]))
    return _describe("", list(path))


def _describe(title: str, path: list[Any]) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return "".join(f"{part}: " for part in (title, text) if part)


def _check_name(
    kind: str, name: str, mark: Mark, describe: Callable[[Sequence[Any]], str], problems: list[Problem]
) -> None:
    if kind == "Stack":
        if name and (len(name) > 63 or not STACK_NAME.fullmatch(name)):
            problems.append(
                Problem(
                    f'{describe(())}"{name}" is not a stack name: lower-case letters and digits, joined by "-" or "_", '
                    "at most 63 characters", mark,
                )
            )  # fmt: skip
        return
    pattern = IMAGE_NAME if kind == "Image" else RESOURCE_NAME
    if not pattern.fullmatch(name) or len(name) > 200:
        rule = (
            "lower case: [path/]name[:tag]"
            if kind == "Image"
            else 'letters and digits, with "_", "." and "-" between, at most 63'
        )
        problems.append(Problem(f'{describe(())}"{name[:80]}" is not a name: {rule}', mark))


def _find_duplicates(reading: Reading) -> None:
    """One name, one resource; services and jobs share their names, for both are reached by them."""
    first: dict[tuple[str, str], Document] = {}
    kept: list[Document] = []
    for document in reading.documents:
        place = ("Service" if document.kind == "Job" else document.kind, document.name)
        if document.kind == "Stack":
            place = ("Stack", "native" if document.native else document.name)
        earlier = first.setdefault(place, document)
        if earlier is document or (document.kind == "Stack" and not document.native):
            kept.append(document)
        elif document.kind == "Stack":
            reading.problems.append(Problem(f"a second Stack document (the first is at {earlier.mark})", document.mark))
        else:
            message = f"{document.title} is declared twice (first at {earlier.mark})"
            reading.problems.append(Problem(message, document.mark))
    reading.documents[:] = kept


def default_stack_name(directory: str) -> str:
    """The directory's name in the letters that a stack's name may have, "" when none remain."""
    name = re.sub(r"[^a-z0-9_-]", "", os.path.basename(os.path.normpath(directory)).lower())
    return re.sub(r"_{3,}", "__", re.sub(r"-_[-_]*|_-[-_]*", "-", name)).strip("-_")[:63].strip("-_")
