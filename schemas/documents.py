"""Whole documents as users write them: the native kinds in their framing, and a Compose file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from schemas.fields import Bool, Labels, Natural, Scalar, Short, Strict
from schemas.resources import ConfigSpec, ImageSpec, NetworkSpec, SecretSpec, StackSpec, VolumeSpec
from schemas.service import JobSpec, ServiceSpec


def _empty(value: Any) -> Any:
    return {} if value is None else value


_NULL = {"type": "null"}


class Metadata(Strict):
    name: str
    labels: Labels = Field(default_factory=dict)
    later: ClassVar = {"annotations": "", "namespace": "a stack is its own namespace", "generateName": ""}


class NativeDocument(Strict):
    apiVersion: Literal["holdfast/v1"]
    metadata: Metadata


class StackDocument(NativeDocument):
    kind: Literal["Stack"]
    spec: StackSpec = StackSpec()


class ImageDocument(NativeDocument):
    kind: Literal["Image"]
    spec: ImageSpec


class NetworkDocument(NativeDocument):
    kind: Literal["Network"]
    spec: Annotated[NetworkSpec, Short(_empty, _NULL)] = NetworkSpec()


class VolumeDocument(NativeDocument):
    kind: Literal["Volume"]
    spec: Annotated[VolumeSpec, Short(_empty, _NULL)] = Field(default_factory=lambda: VolumeSpec.model_validate({}))


class ConfigDocument(NativeDocument):
    kind: Literal["Config"]
    spec: ConfigSpec


class SecretDocument(NativeDocument):
    kind: Literal["Secret"]
    spec: SecretSpec


class ServiceDocument(NativeDocument):
    kind: Literal["Service"]
    spec: ServiceSpec


class JobDocument(NativeDocument):
    kind: Literal["Job"]
    spec: JobSpec


class HoldfastCompose(Strict):
    """What Compose has no word for: images that are not built from a Dockerfile, and the stack's settings."""

    images: dict[str, ImageSpec] = Field(default_factory=dict)
    prune: Bool = True
    deletion_budget: Natural | None = None


class ComposeFile(Strict):
    version: Scalar | None = None
    name: str | None = None
    services: dict[str, ServiceSpec] = Field(default_factory=dict)
    networks: dict[str, Annotated[NetworkSpec, Short(_empty, _NULL)]] = Field(default_factory=dict)
    volumes: dict[str, Annotated[VolumeSpec, Short(_empty, _NULL)]] = Field(default_factory=dict)
    configs: dict[str, ConfigSpec] = Field(default_factory=dict)
    secrets: dict[str, SecretSpec] = Field(default_factory=dict)
    x_holdfast: HoldfastCompose = Field(default_factory=HoldfastCompose, alias="x-holdfast")
    later: ClassVar = {"include": "", "jobs": "", "models": "there is no model runner"}


DOCUMENTS: dict[str, type[Strict]] = {
    "Stack": StackDocument,
    "Image": ImageDocument,
    "Network": NetworkDocument,
    "Volume": VolumeDocument,
    "Config": ConfigDocument,
    "Secret": SecretDocument,
    "Service": ServiceDocument,
    "Job": JobDocument,
    "Compose": ComposeFile,
}
