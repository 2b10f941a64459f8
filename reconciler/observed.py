"""Finds one stack's objects in one look at the engine, by their labels alone.

What does not carry the stack's labels never appears as an object; of it only the names are known, so that the planner
can refuse to take them over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from reconciler.labels import LABEL_FINGERPRINT, LABEL_GENERATION, LABEL_INDEX, LABEL_RESOURCE, LABEL_STACK
from reconciler.model import Condition, Json, Key, Kind, Need
from runtime.api import ContainerState, Engine, ImageInfo, Labels, NetworkInfo, Snapshot, VolumeInfo

_ID = re.compile(r"(sha256:)?[0-9a-f]{12,64}")
_KINDS = frozenset(get_args(Kind))
_CONDITIONS = frozenset(get_args(Condition))


@dataclass(frozen=True, slots=True)
class Instance:
    """One container of a service or job; `index` counts replicas from 1."""

    key: Key
    index: int
    state: ContainerState

    @property
    def id(self) -> str:
        return self.state.id

    @property
    def live(self) -> bool:
        return self.state.status in ("running", "paused")

    @property
    def fingerprint(self) -> str:
        return self.state.labels.get(LABEL_FINGERPRINT, "")

    @property
    def generation(self) -> int:
        return _number(self.state.labels.get(LABEL_GENERATION, ""))

    @property
    def spec(self) -> Json:
        """The canonical spec it was made from; None when its record is not ours or too old to say."""
        return declared_part(self.state.declared, "spec")

    @property
    def policy(self) -> Json:
        return declared_part(self.state.declared, "policy")

    @property
    def needs(self) -> tuple[Need, ...]:
        return needs_from_json(declared_part(self.state.declared, "needs"))


@dataclass(frozen=True, slots=True)
class Observed:
    """What exists of one stack. `images` maps every local name and id to its image, labelled or not."""

    stack: str
    instances: Mapping[Key, tuple[Instance, ...]]
    networks: Mapping[Key, NetworkInfo]
    volumes: Mapping[Key, VolumeInfo]
    images: Mapping[str, ImageInfo]
    network_names: frozenset[str]
    """All networks of the root, whoever made them."""
    volume_names: frozenset[str]
    volume_owners: Mapping[str, Labels]

    def find_image(self, reference: str) -> ImageInfo | None:
        """By name, in any of its spellings (`nginx`, `nginx:latest`, `docker.io/library/nginx`), or by id."""
        found = self.images.get(reference) or self.images.get(_plain_name(reference))
        if found is None and len(reference) >= 12 and _ID.fullmatch(reference):
            digits = reference.removeprefix("sha256:")
            found = next((one for id, one in self.images.items() if id.startswith(f"sha256:{digits}")), None)
        return found

    @property
    def empty(self) -> bool:
        """Nothing of the stack exists, data aside."""
        return not self.instances and not self.networks


def observe(engine: Engine, stack: str, *, deep: bool = True) -> Observed:
    """One snapshot; `deep=False` does not look for damage."""
    return sort_snapshot(engine.snapshot() if deep else engine.snapshot(deep=False), stack)


def sort_snapshot(snapshot: Snapshot, stack: str) -> Observed:
    """The stack's share of a snapshot, so that one look can serve many stacks."""
    instances: dict[Key, list[Instance]] = {}
    for state in snapshot.containers:
        key = owned_key(state.labels, stack)
        if key is not None:
            index = _number(state.labels.get(LABEL_INDEX, ""))
            instances.setdefault(key, []).append(Instance(key, index, state))
    networks = {key: info for info in snapshot.networks if (key := owned_key(info.labels, stack)) is not None}
    volumes = {key: info for info in snapshot.volumes if (key := owned_key(info.labels, stack)) is not None}
    images: dict[str, ImageInfo] = {}
    for image in snapshot.images:
        images[image.id] = image
        for name in image.names:
            images[name] = image
    return Observed(
        stack,
        {
            key: tuple(sorted(found, key=lambda one: (one.index, one.state.created_at, one.id)))
            for key, found in instances.items()
        },
        networks,
        volumes,
        images,
        frozenset(info.name for info in snapshot.networks),
        frozenset(info.name for info in snapshot.volumes),
        {info.name: info.labels for info in snapshot.volumes},
    )


def owned_key(labels: Labels, stack: str) -> Key | None:
    """The resource that an object of `stack` belongs to; None for objects of others and for labels that say nothing."""
    if labels.get(LABEL_STACK) != stack:
        return None
    return parse_key(labels.get(LABEL_RESOURCE, ""))


def parse_key(text: str) -> Key | None:
    kind, slash, name = text.partition("/")
    if not slash or not name or kind not in _KINDS:
        return None
    return Key(kind, name)  # type: ignore[arg-type]


def declared_part(declared: Json, part: str) -> Any:
    return declared.get(part) if isinstance(declared, dict) else None


def needs_to_json(needs: tuple[Need, ...]) -> list[Json]:
    return [[str(need.key), need.condition, need.required, need.restart] for need in needs]


def needs_from_json(value: Json) -> tuple[Need, ...]:
    """Tolerates what an older or newer version wrote: edges that cannot be read order nothing."""
    needs = []
    for item in value if isinstance(value, list) else []:
        if isinstance(item, list) and len(item) == 4 and isinstance(item[0], str) and item[1] in _CONDITIONS:
            key = parse_key(item[0])
            if key is not None:
                needs.append(Need(key, item[1], bool(item[2]), bool(item[3])))
    return tuple(needs)


def _plain_name(reference: str) -> str:
    for prefix in ("docker.io/", "index.docker.io/"):
        reference = reference.removeprefix(prefix)
    return reference.removeprefix("library/").removesuffix(":latest")


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0
