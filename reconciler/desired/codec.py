"""Fingerprints, and the JSON in which a desired state is kept: for generations, for caches, for the agent's socket."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from reconciler.model import (
    FINGERPRINT_VERSION,
    Desired,
    Json,
    Key,
    Mark,
    Need,
    Problem,
    Resource,
    StackSettings,
)

FORMAT = 1


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(spec: Json) -> str:
    """`1:` and the sha256 of the canonical form.

    Where an image's inputs lie is left out when their digest is known: a stack moved to another directory is the same.
    """
    if isinstance(spec, dict):
        for origin, place in (("build", "context"), ("archive", "path")):
            inner = spec.get(origin)
            if isinstance(inner, dict) and inner.get("digest"):
                spec = {**spec, origin: {key: value for key, value in inner.items() if key != place}}
    text = canonical(spec).encode("utf-8", "surrogatepass")
    return f"{FINGERPRINT_VERSION}:{hashlib.sha256(text).hexdigest()}"


def to_json(desired: Desired) -> Json:
    """Everything but the content of secrets, of which only the digests are kept."""
    return {
        "format": FORMAT,
        "settings": {
            "name": desired.settings.name,
            "prune": desired.settings.prune,
            "deletion_budget": desired.settings.deletion_budget,
        },
        "resources": [_resource_to_json(resource) for resource in desired.resources.values()],
        "files": {
            digest: None if secret else base64.b64encode(content).decode()
            for digest, (content, secret) in sorted(desired.files.items())
        },
        "warnings": [[problem.message, _mark_to_json(problem.mark)] for problem in desired.warnings],
        "bind_sources": [[path, _mark_to_json(mark)] for path, mark in desired.bind_sources],
    }


def from_json(data: Json) -> Desired:
    """The reverse of `to_json`. Secrets are missing from `files`: the engine holds them by the digests in the specs."""
    if data.get("format") != FORMAT:
        raise ValueError(f"a desired state of format {data.get('format')!r} is not known here")
    resources = (_resource_from_json(item) for item in data["resources"])
    return Desired(
        StackSettings(**data["settings"]),
        {resource.key: resource for resource in resources},
        {
            digest: (base64.b64decode(content), False)
            for digest, content in data["files"].items()
            if content is not None
        },
        tuple(Problem(message, _mark_from_json(mark), "warning") for message, mark in data["warnings"]),
        tuple((path, _mark_from_json(mark)) for path, mark in data["bind_sources"]),
    )


def _resource_to_json(resource: Resource) -> Json:
    return {
        "key": [resource.key.kind, resource.key.name],
        "spec": resource.spec,
        "policy": resource.policy,
        "needs": [
            [need.key.kind, need.key.name, need.condition, need.required, need.restart] for need in resource.needs
        ],
        "fingerprint": resource.fingerprint,
        "mark": _mark_to_json(resource.mark),
        "object_name": resource.object_name,
        "external": resource.external,
    }


def _resource_from_json(data: Json) -> Resource:
    kind, name = data["key"]
    return Resource(
        Key(kind, name),
        data["spec"],
        data["policy"],
        tuple(Need(Key(n[0], n[1]), n[2], n[3], n[4]) for n in data["needs"]),
        data["fingerprint"],
        _mark_from_json(data["mark"]),
        data["object_name"],
        data["external"],
    )


def _mark_to_json(mark: Mark | None) -> Json:
    return None if mark is None else [mark.file, mark.line, mark.column]


def _mark_from_json(data: Json) -> Mark | None:
    return None if data is None else Mark(data[0], data[1], data[2])
