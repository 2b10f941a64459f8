"""What the store hands out for an image, and the small JSON files behind it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from runtime.errors import CorruptContent
from runtime.image.content import hex_of

if TYPE_CHECKING:
    from runtime.image.store import ImageStore

Named = tuple[tuple[str, ...], dict[str, str], Any]
"""(names, labels, declared)"""
_TEXT_LISTS = ("Env", "Cmd", "Entrypoint")
_TEXTS = ("User", "WorkingDir", "StopSignal")
_MAPPINGS = ("Labels", "Volumes", "ExposedPorts")


class ImageRecord:
    """One image under one name (or found by id: then under all its names; labels and declared are the first name's).

    `config` is the whole OCI image config; `layers` are diff ids, base first.
    """

    __slots__ = ("_named", "_store", "config", "created_at", "id", "layers", "size")

    def __init__(
        self, store: ImageStore, id: str, config: dict[str, Any], facts: dict[str, Any], named: Named | None
    ) -> None:
        self._store = store
        self._named = named
        self.id = id
        self.config = config
        self.created_at: float = facts["created_at"]
        self.size: int = facts["size"]
        self.layers: tuple[str, ...] = tuple(facts["layers"])

    def _names(self) -> Named:
        if self._named is None:  # looked up only when asked for: a container's start needs none of it
            self._named = self._store.names_of(self.id)
        return self._named

    @property
    def names(self) -> tuple[str, ...]:
        return self._names()[0]

    @property
    def labels(self) -> dict[str, str]:
        return self._names()[1]

    @property
    def declared(self) -> Any:
        return self._names()[2]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageRecord) and (self.id, self.names) == (other.id, other.names)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"ImageRecord({self.id[:19]}, names={self.names})"


class Records:
    """Reads small JSON files, each parsed again only when it was replaced."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int, int], Any]] = {}

    def read(self, path: str) -> Any:
        """The file's value, or None when it is absent. Callers never change it."""
        try:
            return self.cached(path, _parse)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def cached(self, path: str, load: Callable[[str], Any]) -> Any:
        """`load(path)`, remembered for as long as the same file stands there; raises FileNotFoundError."""
        info = os.stat(path)
        key = (info.st_mtime_ns, info.st_ino, info.st_size)
        known = self._known.get(path)
        if known is not None and known[0] == key:
            return known[1]
        value = load(path)
        if len(self._known) > 4096:
            self._known.clear()
        self._known[path] = (key, value)
        return value


def _parse(path: str) -> Any:
    with open(path, "rb") as file:
        try:
            return json.loads(file.read())
        except ValueError as error:
            raise CorruptContent(f'cannot read image record "{path}": {error}') from error


def names_in(folder: str) -> list[str]:
    """File names of a directory of records, sorted; none when it is absent."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []


def named_by(name: str, entry: Mapping[str, Any]) -> Named:
    return (name,), entry["labels"], entry["declared"]


def parse_config(raw: bytes) -> tuple[dict[str, Any], list[str]]:
    """An image config and its diff ids; raises CorruptContent unless it is shaped like one."""
    try:
        config = json.loads(raw)
        layers = config["rootfs"]["diff_ids"]
        if not isinstance(layers, list) or not _well_formed(config.get("config") or {}):
            raise TypeError("a field has the wrong type")
        for layer in layers:
            hex_of(layer)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptContent(f"cannot read image config: {error!r}") from error
    return config, layers


def _well_formed(fields: Any) -> bool:
    """Whether the parts of a config that the engine reads have the types it relies on."""
    if not isinstance(fields, dict):
        return False
    for key in _TEXT_LISTS:
        value = fields.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
            return False
    return all(isinstance(fields.get(key) or "", str) for key in _TEXTS) and all(
        isinstance(fields.get(key) or {}, dict) for key in _MAPPINGS
    )
