"""Remembers which layer a build step made, by a key of everything that could change it.

    build-cache/steps/<key>    {"layer": diff id or "", "created": time}

A key covers the layers below, the instruction as it acts, and the content of its inputs. An entry whose layer is gone
counts for nothing, so the store may collect layers without asking the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.image.store import ImageStore
from runtime.layout import Layout

VERSION = "1"


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
        try:
            with open(f"{self._folder}/{key}", encoding="utf-8") as file:
                entry = json.load(file)
            step = Step(str(entry["layer"]), str(entry["created"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return step if not step.layer or self._store.has_layer(step.layer) else None

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
