"""The documents that users write: their models, and the JSON Schemas generated from them."""

from __future__ import annotations

from typing import Any

KINDS = ("Stack", "Image", "Network", "Volume", "Config", "Secret", "Service", "Job")
NOT_YET = ("CronJob",)


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a native kind, or of Compose files for "compose". Raises KeyError for any other name."""
    import json
    import os

    names = {name.lower(): name for name in (*KINDS, "Compose")}
    path = os.path.join(os.path.dirname(__file__), "json", f"{names[kind.lower()].lower()}.json")
    with open(path, encoding="utf-8") as file:
        schema: dict[str, Any] = json.load(file)
    return schema
