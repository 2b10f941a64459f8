"""Writes the JSON Schemas of all documents to `schemas/json`: `python -m schemas.generate`."""

from __future__ import annotations

import json
import os
from typing import Any

from schemas.documents import DOCUMENTS

DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "json")


def generate() -> dict[str, str]:
    """File name -> text."""
    texts = {}
    for kind, model in DOCUMENTS.items():
        schema: dict[str, Any] = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **model.model_json_schema(by_alias=True, mode="validation"),
            "title": f"Holdfast {kind}" if kind != "Compose" else "Compose file, as Holdfast reads it",
        }
        texts[f"{kind.lower()}.json"] = json.dumps(schema, indent=2, sort_keys=True) + "\n"
    return texts


def write(directory: str = DIRECTORY) -> list[str]:
    os.makedirs(directory, exist_ok=True)
    for name, text in generate().items():
        temporary = os.path.join(directory, f".{name}.new")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, os.path.join(directory, name))
    return sorted(generate())


if __name__ == "__main__":
    for written in write():
        print(written)
