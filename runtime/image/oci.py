"""The OCI image format's documents as plain values: descriptors, manifests, indexes; hostile until checked."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import CorruptContent, Unsupported
from runtime.image.reference import is_digest, parse

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
LONGEST_DOCUMENT = 8 << 20
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "i386": "386"}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to content by digest and size, with the platform and notes that may come with it."""

    media_type: str
    digest: str
    size: int
    platform: str = ""
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """What an index calls it: a containerd full name, a ref name, or both."""
        keys = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
        return tuple(dict.fromkeys(self.annotations[key] for key in keys if self.annotations.get(key)))


@dataclass(frozen=True, slots=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]


def host_platform() -> str:
    machine = os.uname().machine
    return f"linux/{_MACHINES.get(machine, machine)}"


def read_document(raw: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CorruptContent(f"cannot read {what}: {error}") from error
    if not isinstance(document, dict):
        raise CorruptContent(f"cannot read {what}: it is no JSON object")
    return document


def descriptor(value: Any, what: str) -> Descriptor:
    if not isinstance(value, dict):
        raise CorruptContent(f"cannot read {what}: a descriptor is no JSON object")
    digest, size = value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not is_digest(digest) or type(size) is not int or size < 0:
        raise CorruptContent(f"cannot read {what}: a descriptor has no sha256 digest and size")
    notes = value.get("annotations") or {}
    platform = value.get("platform") or {}
    if not isinstance(notes, dict) or not isinstance(platform, dict):
        raise CorruptContent(f"cannot read {what}: a descriptor is malformed")
    return Descriptor(
        str(value.get("mediaType", "")),
        digest,
        size,
        f"{platform.get('os', '')}/{platform.get('architecture', '')}" if platform else "",
        {str(key): str(text) for key, text in notes.items()},
    )


def read_index(raw: bytes, what: str = "image index") -> list[Descriptor]:
    """Descriptors of an index; those that are no images (attestations) are left out."""
    manifests = read_document(raw, what).get("manifests")
    if not isinstance(manifests, list):
        raise CorruptContent(f"cannot read {what}: it lists no manifests")
    found = [descriptor(value, what) for value in manifests]
    return [
        one for one in found if one.platform != "unknown/unknown" and "vnd.docker.reference.type" not in one.annotations
    ]


def read_manifest(raw: bytes, what: str = "image manifest") -> Manifest:
    document = read_document(raw, what)
    if document.get("schemaVersion") != 2 or not isinstance(document.get("layers"), list):
        raise CorruptContent(f"cannot read {what}: not an image manifest of schema version 2")
    manifest = Manifest(
        descriptor(document.get("config"), what), tuple(descriptor(layer, what) for layer in document["layers"])
    )
    if manifest.config.media_type not in CONFIGS:
        raise Unsupported(f'cannot use {what}: its config is "{manifest.config.media_type}", so it is no image')
    for layer in manifest.layers:
        if "encrypted" in layer.media_type or "tar" not in layer.media_type:
            raise Unsupported(f'cannot use {what}: its layer type "{layer.media_type}" is not supported')
    return manifest


def for_this_host(found: Sequence[Descriptor]) -> list[Descriptor]:
    """Of descriptors for several platforms those for this host's; all when none says."""
    fitting = [one for one in found if one.platform == host_platform()]
    return fitting or [one for one in found if not one.platform]


def answers_to(names: Sequence[str], wanted: str) -> bool:
    """Whether an image called `names` in an archive is meant by `wanted`: a full or short name, or just a tag."""
    if wanted in names:
        return True
    for name in names:
        try:
            reference = parse(name)
            if parse(wanted).full == reference.full or wanted == reference.tag:
                return True
        except Exception:
            continue
    return False
