"""Turns desired resources into the engine's requests: names, labels, and the record kept beside every object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from reconciler.labels import LABEL_FINGERPRINT, LABEL_GENERATION, LABEL_INDEX, LABEL_RESOURCE, LABEL_STACK
from reconciler.model import Desired, Json, Key, Resource
from reconciler.observed import needs_to_json
from runtime.api import (
    ArchiveRequest,
    Attachment,
    BootstrapRequest,
    BuildRequest,
    Care,
    ContainerSpec,
    File,
    HealthCheck,
    ImageRequest,
    Mount,
    NetworkSpec,
    Port,
    Resources,
    Ulimit,
    VolumeSpec,
)

_PARTS: Mapping[str, Any] = {"ports": Port, "mounts": Mount, "files": File, "ulimits": Ulimit, "networks": Attachment}
_OURS = frozenset({"name", "image", "labels", "declared", "health", "stop_grace", "hostname", "networks"})
_PLAIN = tuple(field.name for field in fields(ContainerSpec) if field.name not in _OURS)


def container_name(stack: str, key: Key, index: int, policy: Json = None) -> str:
    """`shop/web-1`, unless the manifest gives the container a name of its own."""
    return str((policy or {}).get("container_name") or f"{stack}/{key.name}-{index}")


def image_name(desired: Desired, name: str) -> str:
    """The engine's name of the image that a manifest calls `name`."""
    own = desired.resources.get(Key("image", name))
    return own.object_name or name if own is not None else name


def object_labels(stack: str, resource: Resource, generation: int, index: int = 0) -> dict[str, str]:
    """The user's labels and ours; ours win."""
    labels = dict((resource.spec or {}).get("labels") or {})
    labels |= {
        LABEL_STACK: stack,
        LABEL_RESOURCE: str(resource.key),
        LABEL_GENERATION: str(generation),
        LABEL_FINGERPRINT: resource.fingerprint,
    }
    if index:
        labels[LABEL_INDEX] = str(index)
    return labels


def declared_record(resource: Resource) -> Json:
    """Kept beside the object, so that the next plan can name the field that differs."""
    return {"spec": resource.spec, "policy": resource.policy, "needs": needs_to_json(resource.needs)}


def container_spec(desired: Desired, resource: Resource, index: int, generation: int) -> ContainerSpec:
    """The request for replica `index` of a service or job."""
    spec, policy, key = resource.spec, resource.policy or {}, resource.key
    arguments: dict[str, Any] = {}
    for name in _PLAIN:
        if name in spec:
            arguments[name] = _value(name, spec[name])
    own_names = (key.name, f"{key.name}-{index}", *([policy["container_name"]] if policy.get("container_name") else []))
    attachments = []
    for item in spec.get("networks") or []:
        aliases = tuple(dict.fromkeys((*own_names, *(item.get("aliases") or []))))
        attachments.append(Attachment(**{**item, "aliases": aliases}))
    looked_after = care(resource)
    return ContainerSpec(
        name=container_name(desired.stack, key, index, policy),
        image=image_name(desired, spec["image"]),
        labels=object_labels(desired.stack, resource, generation, index),
        declared=declared_record(resource),
        hostname=spec.get("hostname") or f"{key.name}-{index}"[:63],
        networks=tuple(attachments),
        health=looked_after.health,
        stop_grace=looked_after.stop_grace,
        **arguments,
    )


def _value(name: str, value: Any) -> Any:
    if name in _PARTS:
        return tuple(_PARTS[name](**_tuples(item)) for item in value or [])
    if name == "resources":
        return Resources(**value) if value else Resources()
    return tuple(value) if isinstance(value, list) else value


def _tuples(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}


def care(resource: Resource) -> Care:
    """What of a policy the engine itself acts on."""
    policy = resource.policy or {}
    health, grace = policy.get("health"), policy.get("stop_grace")
    return Care(
        HealthCheck(**{**health, "test": tuple(health["test"])}) if health else None,
        10.0 if grace is None else float(grace),
    )


def network_spec(stack: str, resource: Resource, generation: int) -> NetworkSpec:
    wanted = {key: value for key, value in _tuples(resource.spec).items() if key != "labels" and value is not None}
    return NetworkSpec(
        name=resource.object_name,
        labels=object_labels(stack, resource, generation),
        declared=declared_record(resource),
        **wanted,
    )


def volume_spec(stack: str, resource: Resource, generation: int) -> VolumeSpec:
    return VolumeSpec(
        name=resource.object_name,
        labels=object_labels(stack, resource, generation),
        declared=declared_record(resource),
        driver_opts=resource.spec.get("driver_opts") or {},
    )


def image_request(resource: Resource) -> ImageRequest:
    """The resource's own digest fields are identity only; the engine reads the inputs themselves."""
    spec = resource.spec
    if spec.get("build"):
        return BuildRequest(**_known(BuildRequest, spec["build"]))
    if spec.get("bootstrap"):
        return BootstrapRequest(**_known(BootstrapRequest, spec["bootstrap"]))
    return ArchiveRequest(**_known(ArchiveRequest, spec["archive"]))


def _known(kind: Any, value: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {key: item for key, item in _tuples(value).items() if key in names and item is not None}


def without_cache(request: ImageRequest) -> ImageRequest:
    """For an image whose point is to fetch again what its steps or packages fetch."""
    return request if isinstance(request, ArchiveRequest) else replace(request, no_cache=True)
