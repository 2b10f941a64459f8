"""What a stack has besides services: images, networks, volumes, configs, secrets and its own settings."""

# ruff: noqa: TRY004 - pydantic turns ValueError, and only that, into a problem of the value

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from schemas import fields
from schemas.build import BuildSpec, shorten_build
from schemas.fields import (
    Address,
    Bool,
    Command,
    Labels,
    Natural,
    Options,
    Short,
    Signal,
    Strict,
    Strings,
    Subnet,
    type_name,
)
from schemas.service import PullPolicy

# ---- images -----------------------------------------------------------------------------------------------------

VARIANTS = ("minbase", "apt", "essential", "required", "important", "standard", "buildd", "custom", "extract")


class ImageConfig(Strict):
    """The OCI image config's fields that a bootstrapped image can set."""

    Env: Strings = Field(default_factory=list)
    Cmd: Command | None = None
    Entrypoint: Command | None = None
    WorkingDir: str = ""
    User: str = ""
    ExposedPorts: dict[str, dict[str, Any]] = Field(default_factory=dict)
    Volumes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    Labels: fields.Labels = Field(default_factory=dict)
    StopSignal: Signal | None = None


class BootstrapSpec(Strict):
    """A root filesystem from the distribution's own signed packages."""

    suite: str
    packages: Strings = Field(default_factory=list)
    variant: Literal[
        "minbase", "apt", "essential", "required", "important", "standard", "buildd", "custom", "extract"
    ] = "minbase"
    mirror: str = ""
    config: ImageConfig = ImageConfig()

    @field_validator("suite")
    @classmethod
    def _suite(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+~/-]*", value):
            raise ValueError(f'"{value}" is not the name of a suite such as bookworm')
        return value

    @field_validator("packages")
    @classmethod
    def _packages(cls, value: list[str]) -> list[str]:
        for package in value:
            if not re.fullmatch(r"[A-Za-z0-9?~][A-Za-z0-9.+:=~/?()_-]*", package):
                raise ValueError(f'"{package}" is not the name of a package')
        return value

    @field_validator("mirror")
    @classmethod
    def _mirror(cls, value: str) -> str:
        if value and not re.fullmatch(r"(https?|file|copy)://?\S+", value):
            raise ValueError(f'"{value}" is not the address of a package mirror')
        return value


def _archive(value: Any) -> Any:
    if isinstance(value, str):
        return {"path": value}
    if not isinstance(value, dict):
        raise ValueError(f"must be a path or a mapping, not {type_name(value)}")
    return value


class ArchiveSpec(Strict):
    path: str
    ref: str = ""


class ImageSpec(Strict):
    build: Annotated[BuildSpec, Short(shorten_build, {"type": "string"})] | None = None
    bootstrap: BootstrapSpec | None = None
    archive: Annotated[ArchiveSpec, Short(_archive, {"type": "string"})] | None = None
    name: str | None = None
    pull_policy: PullPolicy = "missing"
    retain: Bool = False
    later: ClassVar = {"pull": "images cannot be pulled from registries yet: use build, bootstrap or archive"}

    @model_validator(mode="after")
    def _one_origin(self) -> ImageSpec:
        origins = [name for name in ("build", "bootstrap", "archive") if getattr(self, name) is not None]
        if len(origins) != 1:
            raise ValueError(
                f"{' and '.join(origins)} exclude each other" if origins else "needs one of build, bootstrap or archive"
            )
        return self


# ---- networks and volumes ---------------------------------------------------------------------------------------


class Subnetwork(Strict):
    subnet: Subnet | None = None
    gateway: Address | None = None
    ip_range: Subnet | None = None
    later: ClassVar = {"aux_addresses": ""}

    @model_validator(mode="after")
    def _fits(self) -> Subnetwork:
        import ipaddress

        if self.subnet is None:
            if self.gateway or self.ip_range:
                raise ValueError("gateway and ip_range need a subnet")
            return self
        subnet = ipaddress.ip_network(self.subnet)
        if self.gateway and ipaddress.ip_address(self.gateway) not in subnet:
            raise ValueError(f"gateway {self.gateway} lies outside subnet {self.subnet}")
        if self.ip_range:
            part = ipaddress.ip_network(self.ip_range)
            if part.version != subnet.version or not part.subnet_of(subnet):  # type: ignore[arg-type]
                raise ValueError(f"ip_range {self.ip_range} lies outside subnet {self.subnet}")
        return self


class Ipam(Strict):
    driver: Literal["default"] = "default"
    config: list[Subnetwork] = Field(default_factory=list)
    later: ClassVar = {"options": ""}


class External(Strict):
    """A thing declared elsewhere: it must exist and is never created, changed or removed."""

    external: Bool = False
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _old_form(cls, data: Any) -> Any:
        """`external: {name: X}`, which Compose still reads, means `external: true` and `name: X`."""
        old = data.get("external") if isinstance(data, dict) else None
        if not isinstance(old, dict):
            return data
        if set(old) - {"name"}:
            raise ValueError("external must be true or false")
        if "name" in old and data.get("name") is not None:
            raise ValueError("name and external.name conflict: only use name")
        return {**data, "external": True, "name": old.get("name", data.get("name"))}

    @field_validator("name", check_fields=False)
    @classmethod
    def _object_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", value):
            raise ValueError(f'"{value}" is not a name: letters, digits, "_", "." and "-"')
        return value

    @model_validator(mode="after")
    def _nothing_else(self) -> External:
        fields = type(self).model_fields
        others = sorted(
            fields[name].alias or name
            for name in self.model_fields_set - {"external", "name"}
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        )
        if self.external and others:
            raise ValueError(f"external excludes {', '.join(others)}")
        return self


NETWORK_OPTIONS = {
    "com.docker.network.driver.mtu": "mtu",
    "com.docker.network.bridge.name": "bridge_name",
    "com.docker.network.bridge.enable_ip_masquerade": "masquerade",
}


class NetworkSpec(External):
    driver: Literal["bridge"] = "bridge"
    driver_opts: Options = Field(default_factory=dict)
    ipam: Ipam = Ipam()
    internal: Bool = False
    attachable: Bool = False
    enable_ipv4: Bool = True
    enable_ipv6: Bool = False
    labels: Labels = Field(default_factory=dict)

    @field_validator("driver", mode="before")
    @classmethod
    def _known_driver(cls, value: Any) -> Any:
        if value in ("", "default"):
            return "bridge"
        if value == "overlay":
            raise ValueError('network driver "overlay" cannot work on one host')
        if isinstance(value, str) and value != "bridge":
            raise ValueError(f'network driver "{value}" is not supported yet: bridge')
        return value

    @field_validator("driver_opts")
    @classmethod
    def _known_options(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if name not in NETWORK_OPTIONS:
                raise ValueError(f'driver option "{name}" is not supported yet')
            if name.endswith(".mtu") and not (text.isascii() and text.isdigit() and 1280 <= int(text[:6]) <= 65535):
                raise ValueError(f'mtu "{text}" is out of range (1280 to 65535)')
            if name.endswith(".name") and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", text):
                raise ValueError(f'bridge name "{text}" is not the name of a network interface (at most 15 characters)')
            if name.endswith("masquerade") and text.lower() not in ("true", "false"):
                raise ValueError(f'enable_ip_masquerade must be true or false, not "{text}"')
        return value

    @field_validator("enable_ipv4")
    @classmethod
    def _has_ipv4(cls, value: bool) -> bool:
        if not value:
            raise ValueError("a network without IPv4 is not supported yet")
        return value


class HoldfastVolume(Strict):
    """What Compose has no word for."""

    retain: Bool | None = None


class VolumeSpec(External):
    driver: Literal["local"] = "local"
    driver_opts: Options = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    retain: Bool | None = None
    x_holdfast: HoldfastVolume = Field(default_factory=HoldfastVolume, alias="x-holdfast")
    later: ClassVar = {"snapshot": ""}

    @field_validator("driver", mode="before")
    @classmethod
    def _known_driver(cls, value: Any) -> Any:
        if value in ("", "default"):
            return "local"
        if isinstance(value, str) and value != "local":
            raise ValueError(f'volume driver "{value}" cannot be used: there are no volume plugins, only local')
        return value

    @field_validator("driver_opts")
    @classmethod
    def _known_options(cls, value: dict[str, str]) -> dict[str, str]:
        from schemas.suggest import did_you_mean

        for name in value:
            if name not in ("type", "device", "o"):
                raise ValueError(f'unknown driver option "{name}"{did_you_mean(name, ("type", "device", "o"))}')
        kind, words = value.get("type", ""), value.get("o", "").split(",")
        bound = kind in ("", "none") and {"bind", "rbind"}.intersection(words)
        if value and kind != "tmpfs" and not (bound and value.get("device")):
            raise ValueError(f'a volume of type "{kind}" is not supported yet: type tmpfs, or o: bind with a device')
        if bound and (ignored := sorted(set(words) - {"bind", "rbind", "ro", "rw"})):
            raise ValueError(f'option "{ignored[0]}" of a bind is not supported yet: bind, rbind, ro and rw')
        return value


# ---- configs and secrets ----------------------------------------------------------------------------------------


class FileSource(External):
    file: str | None = None
    content: str | None = None
    environment: str | None = None
    labels: Labels = Field(default_factory=dict)
    later: ClassVar = {"template_driver": "", "driver": "", "driver_opts": ""}

    @model_validator(mode="after")
    def _one_source(self) -> FileSource:
        given = [name for name in ("file", "content", "environment") if getattr(self, name) is not None]
        if self.external:
            raise ValueError("external is not supported yet: use file, content or environment")
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given)} exclude each other" if given else "needs one of file, content or environment"
            )
        return self


class ConfigSpec(FileSource):
    pass


class SecretSpec(FileSource):
    pass


# ---- the stack --------------------------------------------------------------------------------------------------


class StackSpec(Strict):
    name: str | None = None
    prune: Bool = True
    deletion_budget: Natural | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Laid beneath every service and job of the stack, as a file is beneath its override."""
