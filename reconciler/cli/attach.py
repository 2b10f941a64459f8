"""Exit codes as a shell sees them, and bytes that go out whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.api import Run


def exit_code_of(run: Run | None) -> int:
    """As a shell would see it: 128 + signal for a killed program; 125 when nobody could read the status."""
    if run is None:
        return 125
    if run.exit_code is not None and not run.signal:
        return run.exit_code
    if run.signal:
        return 128 + run.signal
    return 125


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
