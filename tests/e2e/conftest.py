"""A state root for each end-to-end test, driven by the real command in processes of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.holdfast import Holdfast


@pytest.fixture
def holdfast(tmp_path: Path) -> Iterator[Holdfast]:
    command = Holdfast(tmp_path / "root")
    try:
        yield command
    finally:
        command.demolish()
