"""Finds recorded answers of other implementations, where a machine has them; tests that want them skip elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def reference_cases(name: str) -> list[dict[str, Any]]:
    """The cases of one file of JSON lines; empty when it is not on this machine."""
    repository = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("HOLDFAST_REFERENCE_DATA") or repository.parent / "shared" / "data")
    try:
        text = (folder / name).read_text()
    except OSError:
        return []
    return [json.loads(line) for line in text.splitlines()]
