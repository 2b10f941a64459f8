"""When an image that comes from moving sources (packages, base images) is to be made anew."""

from __future__ import annotations

import re
from typing import Any

from runtime.api import ImageInfo

_PERIODS = {"daily": 86_400.0, "weekly": 604_800.0}
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def refresh_period(pull_policy: str) -> float | None:
    """Seconds of a timed pull policy: daily, weekly, every_12h, every_1d12h; None for the others."""
    if pull_policy in _PERIODS:
        return _PERIODS[pull_policy]
    text = pull_policy.removeprefix("every_")
    if text == pull_policy or _PART.sub("", text):
        return None
    return sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(text)) or None


def made_at(image: ImageInfo) -> float:
    """When this host made it: kept beside the image, because an image's own date may be fixed for reproducibility."""
    declared = image.declared if isinstance(image.declared, dict) else {}
    value = declared.get("made_at")
    return float(value) if isinstance(value, int | float) else image.created_at


def refresh_due(policy: Any, verb: str, image: ImageInfo, now: float, refresh: bool) -> tuple[float | None, str]:
    """The time at which it is due and why; (None, "") when it never is. An archive is what its digest says."""
    if verb == "load":
        return None, ""
    if refresh:
        return now, "a refresh was asked for"
    period = refresh_period(str((policy or {}).get("pull_policy") or "missing"))
    if period is None:
        return None, ""
    # After a clock jump backwards the image seems to come from the future; it is then due one period from now.
    return min(made_at(image), now) + period, f"pull_policy is {policy['pull_policy']} and it is older"
