"""Remembers which layer a build step made, by a key of everything that could change it.

    build-cache/steps/<key>    {"layer": diff id or "", "created": time}

A key covers the layers below, the instruction as it acts, and the content of its inputs. An entry whose layer is gone
counts for nothing, so the store may collect layers without asking the cache. A file's mtime is the entry's last use.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.image.store import ImageStore
from runtime.layout import Layout

VERSION = "1"
_TOUCH_AFTER = 3600.0


@dataclass(frozen=True, slots=True)
class Step:
    """`layer` is "" when the step changed no file."""

    layer: str
    created: str


def step_key(layers: Sequence[str], definition: Sequence[Any]) -> str:
    """`layers` are the diff ids below, base first; `definition` any JSON values."""
    text = json.dumps([VERSION, list(layers), list(definition)], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class StepCache:
    """One root's cache; safe for concurrent builds: entries are renamed into place and equal keys mean equal work."""

    def __init__(self, layout: Layout, store: ImageStore) -> None:
        self._folder = f"{layout.build_cache}/steps"
        self._store = store

    def find(self, key: str) -> Step | None:
        step = _read(f"{self._folder}/{key}")
        if step is None or (step.layer and not self._store.has_layer(step.layer)):
            return None
        try:
            if time.time() - os.stat(f"{self._folder}/{key}").st_mtime > _TOUCH_AFTER:
                os.utime(f"{self._folder}/{key}")
        except OSError:
            pass  # only its age would have changed
        return step

    def keep(self, key: str, step: Step) -> None:
        os.makedirs(self._folder, mode=0o711, exist_ok=True)
        temporary = f"{self._folder}/.{key[:16]}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump({"layer": step.layer, "created": step.created}, file)
            os.rename(temporary, f"{self._folder}/{key}")
        except OSError:
            try:
                os.unlink(temporary)
            except FileNotFoundError:
                pass
            raise


def _read(path: str) -> Step | None:
    try:
        with open(path, encoding="utf-8") as file:
            entry = json.load(file)
        return Step(str(entry["layer"]), str(entry["created"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_recent(layout: Layout, since: float) -> list[str]:
    """Forget the entries not used since then; returns the layers of the others, for the store's `collect(keep)`."""
    folder = f"{layout.build_cache}/steps"
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    layers = set()
    for name in names:
        path = f"{folder}/{name}"
        try:
            if os.stat(path).st_mtime < since:
                os.unlink(path)
            elif (step := _read(path)) is not None and step.layer:
                layers.add(step.layer)
        except FileNotFoundError:
            continue
    return sorted(layers)
