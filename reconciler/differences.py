"""Names the fields in which two canonical specs differ, with both values, short enough to print and free of secrets."""

from __future__ import annotations

import json
import re
from typing import Any

from reconciler.plan import Reason

LONGEST_VALUE = 72
_DIGEST = re.compile(r"^(sha256:|[0-9]+:)?([0-9a-f]{12})[0-9a-f]{20,}$")
_SECRET = re.compile(r"PASSW|SECRET|TOKEN|API_?KEY|PRIVATE|CREDENTIAL|ACCESS_?KEY|_KEY$|^KEY$", re.IGNORECASE)
_IDENTITY = {"mounts": "target", "files": "target", "networks": "network", "ulimits": "name"}
_NAMES = {"image_fingerprint": "image content", "files": "config"}


def find_differences(old: Any, new: Any) -> tuple[Reason, ...]:
    """Field by field; nested fields are joined with dots. Empty when the two are equal."""
    reasons: list[Reason] = []
    if isinstance(old, dict) and isinstance(new, dict):
        _dicts("", old, new, reasons)
    elif old != new:
        reasons.append(Reason("spec", show(old), show(new)))
    return tuple(reasons)


def _dicts(path: str, old: dict[str, Any], new: dict[str, Any], reasons: list[Reason]) -> None:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        field = f"{path}.{name}" if path else _NAMES.get(name, name)
        if path in ("env", "build.args") and _SECRET.search(name):
            reasons.append(Reason(field, _hidden(before), _hidden(after)))
        elif isinstance(before, dict) and isinstance(after, dict):
            _dicts(field, before, after, reasons)
        elif name in _IDENTITY and isinstance(before, list) and isinstance(after, list):
            _lists(field, _IDENTITY[name], before, after, reasons)
        elif name == "ports":
            reasons.append(Reason(field, _ports(before), _ports(after)))
        else:
            reasons.append(Reason(field, show(before), show(after)))


def _lists(field: str, identity: str, old: list[Any], new: list[Any], reasons: list[Reason]) -> None:
    before = {str(item.get(identity)): item for item in old}
    after = {str(item.get(identity)): item for item in new}
    for name in [*before, *(name for name in after if name not in before)]:
        if before.get(name) == after.get(name):
            continue
        if name in before and name in after:
            kept = field
            if field == "config":
                kept = "secret" if after[name].get("secret") else "config"
            _dicts(f"{kept} {name}", before[name], after[name], reasons)
        else:
            reasons.append(Reason(f"{field} {name}", _item(before.get(name)), _item(after.get(name))))
    if not reasons and old != new:
        reasons.append(Reason(field, "one order", "another"))


def _item(value: dict[str, Any] | None) -> str:
    if value is None:
        return "(none)"
    for name in ("source", "digest"):
        if value.get(name):
            return show(value[name])
    return "declared"


def _ports(value: Any) -> str:
    if not value:
        return "(none)"
    texts = []
    for port in value:
        host = f"{port['host_ip']}:" if port.get("host_ip") else ""
        protocol = "" if port.get("protocol", "tcp") == "tcp" else f"/{port['protocol']}"
        texts.append(f"{host}{port.get('host_port') or 'any'}:{port['container_port']}{protocol}")
    return _cut(", ".join(texts))


def _hidden(value: Any) -> str:
    return "(none)" if value is None else "(hidden)"


def show(value: Any) -> str:
    """One value, shortened; digests to twelve digits."""
    if value is None or value in ("", [], {}):
        return "(none)"
    if isinstance(value, str):
        digest = _DIGEST.match(value)
        if digest:
            return f"{digest[1] or ''}{digest[2]}"
        return _cut(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return _cut("[" + ", ".join(value) + "]")
    return _cut(json.dumps(value, sort_keys=True, separators=(",", ":")))


def _cut(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
