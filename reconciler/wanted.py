"""What is recorded of a stack's wish, and read back: its text and identity, its files, suspensions, image ids."""

from __future__ import annotations

import json
from collections.abc import Collection

from reconciler.desired import to_json
from reconciler.generations import Generations, digest_of
from reconciler.model import Desired, Key
from reconciler.observed import Observed
from reconciler.outcome import ConvergeOptions
from reconciler.restart import has_completed, runs_to_completion
from runtime.api import Engine


def desired_text(desired: Desired) -> str:
    """The canonical JSON of a desired state as generations keep it; secret bytes are not in it."""
    return json.dumps(to_json(desired), sort_keys=True, separators=(",", ":"))


def desired_identity(desired: Desired) -> str:
    """Equal for desired states that differ only in where they are written: a moved line is no new generation."""
    value = to_json(desired)
    parts = [value["settings"], [{**item, "mark": None} for item in value["resources"]]]
    return digest_of(json.dumps(parts, sort_keys=True, separators=(",", ":")))


def suspended_keys(generations: Generations, desired: Desired) -> Collection[Key]:
    """Resources that a person asked to be left alone."""
    names = {intent.resource for intent in generations.intents(desired.stack) if intent.kind == "suspended"}
    if "" in names:
        return frozenset(desired.resources)
    return frozenset(key for key in desired.resources if str(key) in names)


def image_ids(desired: Desired, observed: Observed) -> dict[str, str]:
    """Which image each name meant when the apply ended."""
    names = {
        str(resource.spec["image"]) for key, resource in desired.resources.items() if key.kind in ("service", "job")
    }
    found = {}
    for name in sorted(names):
        own = desired.resources.get(Key("image", name))
        image = observed.images.get(own.object_name or name if own is not None else name)
        if image is not None:
            found[name] = image.id
    return found


def is_complete(desired: Desired, observed: Observed) -> bool:
    """Whether every job and every service that others wait for to complete has completed."""
    return all(
        has_completed(one.state)
        for key, resource in desired.resources.items()
        if key.kind in ("service", "job") and runs_to_completion(key.kind, resource.policy)
        for one in observed.instances.get(key, ())
    )


def begin(generations: Generations, desired: Desired, options: ConvergeOptions, identity: str = "") -> int:
    """Record `desired` as what the stack is to be from now on."""
    return generations.begin(
        desired.stack, desired_text(desired), options.revision, options.source,
        by_hand=options.by_hand, prune=options.prune, digest=identity or desired_identity(desired),
    )  # fmt: skip


def keep_files(engine: Engine, desired: Desired) -> None:
    """Configs and secrets must be with the engine before the generation counts: later only it knows their bytes."""
    for content, secret in desired.files.values():
        engine.put_file(content, secret)
