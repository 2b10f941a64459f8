"""What a service is connected to: ports, mounts, networks, other services, env files, configs and secrets."""

# ruff: noqa: TRY004 - pydantic turns ValueError, and only that, into a problem of the value

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from schemas import mounts, ports, values
from schemas.fields import (
    Address,
    Bool,
    Int,
    Mac,
    Mode,
    Parsed,
    Short,
    Size,
    Strict,
    Strings,
    type_name,
)


def lengthen_port(value: Any) -> Any:
    if isinstance(value, str | int) and not isinstance(value, bool):
        text, slash, protocol = str(value).strip().partition("/")
        rest, colon, target = text.rpartition(":")
        host_ip, _, published = rest.rpartition(":")
        if not colon:
            target = text
        if host_ip.startswith("[") != host_ip.endswith("]") or (slash and not protocol):
            raise ValueError(f'"{text}" is not a port such as "8080:80"')
        return {"target": target, "published": published, "protocol": protocol or "tcp", "host_ip": host_ip}
    if not isinstance(value, dict):
        raise ValueError(f'must be a port such as "8080:80" or a mapping, not {type_name(value)}')
    return value


def _port_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"must be a port or a range of ports, not {type_name(value)}")
    text = str(value)
    if text not in ("", "0"):
        ports.parse_port_range(text)
    return text


PortText = Annotated[str, Parsed(_port_text, {"type": ["string", "integer"]})]


class PortEntry(Strict):
    target: PortText
    published: PortText = ""
    protocol: str = "tcp"
    host_ip: str = ""
    mode: Literal["host", "ingress"] = "ingress"
    name: str = ""
    app_protocol: str = ""

    @model_validator(mode="after")
    def _check(self) -> PortEntry:
        self.expand()
        return self

    def expand(self) -> list[ports.PublishedPort]:
        return ports.expand_port(self.target, self.published, self.protocol.lower(), self.host_ip)


class BindOptions(Strict):
    propagation: Literal["private", "rprivate", "shared", "rshared", "slave", "rslave"] = "rprivate"
    create_host_path: Bool = False
    recursive: Literal["enabled"] = "enabled"
    selinux: Literal["z", "Z"] | None = None


class VolumeOptions(Strict):
    nocopy: Bool = False
    subpath: str = ""
    later: ClassVar = {"labels": ""}

    @field_validator("subpath")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        if value.startswith("/") or ".." in value.split("/"):
            raise ValueError(f'subpath "{value}" must be relative and stay inside the volume')
        return value.strip("/")


class TmpfsOptions(Strict):
    size: Size = 0
    mode: Mode = 0o1777


def lengthen_volume(value: Any) -> Any:
    if isinstance(value, str):
        entry = mounts.parse_volume(value)
        long: dict[str, Any] = {
            "type": entry.type,
            "source": entry.source,
            "target": entry.target,
            "read_only": entry.read_only,
        }
        if entry.type == "bind":
            long["bind"] = {"propagation": entry.propagation}
            if entry.notes:
                long["bind"]["selinux"] = "z"
        elif entry.nocopy:
            long["volume"] = {"nocopy": True}
        return long
    if not isinstance(value, dict):
        raise ValueError(f"must be SOURCE:TARGET[:MODE] or a mapping, not {type_name(value)}")
    return value


class VolumeEntry(Strict):
    type: Literal["bind", "volume", "tmpfs"]
    target: str
    source: str = ""
    read_only: Bool = False
    consistency: Literal["consistent", "cached", "delegated", "default"] = "default"
    bind: BindOptions | None = None
    volume: VolumeOptions | None = None
    tmpfs: TmpfsOptions | None = None
    later: ClassVar = {"image": "", "cluster": "there is no second node"}

    @field_validator("type", mode="before")
    @classmethod
    def _known_type(cls, value: Any) -> Any:
        if value == "image":
            raise ValueError('volume type "image" is not supported yet')
        if value in ("npipe", "cluster"):
            raise ValueError(f'volume type "{value}" cannot work on one Linux host')
        return value

    @field_validator("target")
    @classmethod
    def _clean(cls, value: str) -> str:
        return mounts.clean_target(value)

    @model_validator(mode="after")
    def _consistent(self) -> VolumeEntry:
        for kind in ("bind", "volume", "tmpfs"):
            if kind != self.type and getattr(self, kind) is not None:
                raise ValueError(f'"{kind}" options on a mount of type "{self.type}"')
        if self.type == "bind" and not self.source:
            raise ValueError("a bind mount needs a source")
        if self.type == "tmpfs" and self.source:
            raise ValueError("a tmpfs has no source")
        if self.type == "volume" and mounts.is_path(self.source):
            raise ValueError(f'"{self.source}" is a path: use type bind')
        return self

    def mount(self) -> mounts.MountEntry:
        bind, volume, tmpfs = self.bind or BindOptions(), self.volume or VolumeOptions(), self.tmpfs or TmpfsOptions()
        notes = ("SELinux relabelling is not done",) if bind.selinux else ()
        return mounts.MountEntry(
            self.type, self.target, self.source, self.read_only, volume.nocopy, volume.subpath, bind.propagation,
            tmpfs.size, tmpfs.mode, (), notes,
        )  # fmt: skip


class ServiceNetwork(Strict):
    aliases: Strings = Field(default_factory=list)
    ipv4_address: Address = ""
    ipv6_address: Address = ""
    mac_address: Mac = ""
    priority: Int = 0
    later: ClassVar = {"driver_opts": "", "gw_priority": "", "interface_name": "", "link_local_ips": ""}

    @field_validator("aliases")
    @classmethod
    def _are_names(cls, value: list[str]) -> list[str]:
        return [values.check_hostname(alias) for alias in value]


def _empty_to_mapping(value: Any) -> Any:
    return {} if value is None else value


MaybeServiceNetwork = Annotated[ServiceNetwork, Short(_empty_to_mapping, {"type": "null"})]


class Dependency(Strict):
    condition: Literal["service_started", "service_healthy", "service_completed_successfully"] = "service_started"
    restart: Bool = False
    required: Bool = True


def _env_file(value: Any) -> Any:
    if isinstance(value, str):
        return {"path": value}
    if not isinstance(value, dict):
        raise ValueError(f"must be a path or a mapping, not {type_name(value)}")
    return value


class EnvFile(Strict):
    path: str
    required: Bool = True
    format: Literal["raw"] | None = None


EnvFiles = Annotated[
    list[Annotated[EnvFile, Short(_env_file, {"type": "string"})]],
    Short(lambda value: [value] if isinstance(value, str | dict) else value, {"type": "string"}),
]


def _file_reference(value: Any) -> Any:
    if isinstance(value, str):
        return {"source": value}
    if not isinstance(value, dict):
        raise ValueError(f"must be a name or a mapping, not {type_name(value)}")
    return value


def _numeric_id(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= 1 << 32:
        raise ValueError(f"must be a numeric id, not {type_name(value)}")
    return int(text)


NumericId = Annotated[int, Parsed(_numeric_id, {"type": ["string", "integer"]})]


class FileReference(Strict):
    """A config or secret of the stack as a file in the container."""

    source: str
    target: str = ""
    uid: NumericId = 0
    gid: NumericId = 0
    mode: Mode = 0o444


FileReferences = list[Annotated[FileReference, Short(_file_reference, {"type": "string"})]]
