"""A service in Compose's words: what a `Service` document's `spec` and an entry of a Compose file's `services` may hold."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from schemas import values
from schemas.build import BuildSpec, shorten_build
from schemas.fields import (
    NAMES,
    Address,
    Addresses,
    Bool,
    Capabilities,
    Command,
    Cpus,
    Duration,
    Environment,
    Expose,
    ExtraHosts,
    Groups,
    HostName,
    Int,
    Labels,
    Limit,
    Mac,
    Mode,
    Natural,
    Parsed,
    SecurityOptions,
    Short,
    Signal,
    Size,
    Strict,
    Strings,
    Sysctls,
    Tmpfs,
    names_to_mapping,
    type_name,
)

WINDOWS = "it exists on Windows only"
CGROUP_V1 = "it needs a kernel interface that cgroup v2 does not have"


def _port(value: Any) -> Any:
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
        values.parse_port_range(text)
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

    def expand(self) -> list[values.PublishedPort]:
        return values.expand_port(self.target, self.published, self.protocol.lower(), self.host_ip)


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


def _volume(value: Any) -> Any:
    if isinstance(value, str):
        entry = values.parse_volume(value)
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
        return values.clean_target(value)

    @model_validator(mode="after")
    def _consistent(self) -> VolumeEntry:
        for kind in ("bind", "volume", "tmpfs"):
            if kind != self.type and getattr(self, kind) is not None:
                raise ValueError(f'"{kind}" options on a mount of type "{self.type}"')
        if self.type == "bind" and not self.source:
            raise ValueError("a bind mount needs a source")
        if self.type == "tmpfs" and self.source:
            raise ValueError("a tmpfs has no source")
        if self.type == "volume" and values.is_path(self.source):
            raise ValueError(f'"{self.source}" is a path: use type bind')
        return self

    def mount(self) -> values.MountEntry:
        bind, volume, tmpfs = self.bind or BindOptions(), self.volume or VolumeOptions(), self.tmpfs or TmpfsOptions()
        notes = ("SELinux relabelling is not done",) if bind.selinux else ()
        return values.MountEntry(
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


class HealthCheck(Strict):
    test: str | Strings | None = None
    interval: Duration = 30.0
    timeout: Duration = 30.0
    retries: Natural = 3
    start_period: Duration = 0.0
    start_interval: Duration = 5.0
    disable: Bool = False

    @field_validator("test", mode="wrap")
    @classmethod
    def _known_form(cls, value: Any, handler: Any) -> Any:
        if isinstance(value, str):
            if not value.strip():
                raise ValueError("must not be empty")
            return ["CMD-SHELL", value]
        if not isinstance(value, list):
            raise ValueError(f"must be a string or a list, not {type_name(value)}")
        if not value or value[0] not in ("NONE", "CMD", "CMD-SHELL"):
            raise ValueError("must begin with CMD, CMD-SHELL or NONE")
        if any(not isinstance(word, str) for word in value):
            raise ValueError("every word must be a string")
        if value[0] == "CMD-SHELL" and len(value) != 2:
            raise ValueError("CMD-SHELL takes exactly one string")
        if value[0] == "CMD" and len(value) < 2:
            raise ValueError("CMD needs a program")
        return value

    @model_validator(mode="after")
    def _complete(self) -> HealthCheck:
        if not self.disable and self.test is None:
            raise ValueError("a healthcheck needs a test (changing only an image's timings is not supported yet)")
        for name in ("interval", "timeout", "start_interval"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0")
        return self


class ResourceLimits(Strict):
    cpus: Cpus = 0.0
    memory: Size = 0
    pids: Limit = 0


class ResourceReservations(Strict):
    memory: Size = 0
    later: ClassVar = {"cpus": "", "devices": "", "generic_resources": "there is no cluster to take them from"}


class DeployResources(Strict):
    limits: ResourceLimits = ResourceLimits()
    reservations: ResourceReservations = ResourceReservations()


class RestartPolicy(Strict):
    condition: Literal["none", "on-failure", "any"] = "any"
    delay: Duration | None = None
    max_attempts: Natural | None = None
    window: Duration | None = None


class UpdateConfig(Strict):
    parallelism: Natural = 1
    delay: Duration = 0.0
    order: Literal["start-first", "stop-first"] | None = None
    monitor: Duration = 5.0
    failure_action: Literal["continue", "pause", "rollback"] = "pause"
    later: ClassVar = {"max_failure_ratio": ""}


class Deploy(Strict):
    mode: Literal["replicated"] = "replicated"
    replicas: Natural | None = None
    resources: DeployResources = DeployResources()
    restart_policy: RestartPolicy | None = None
    update_config: UpdateConfig | None = None
    later: ClassVar = {
        "endpoint_mode": "",
        "labels": "",
        "rollback_config": "",
        "placement": "there is no second node to place on",
    }

    @field_validator("mode", mode="before")
    @classmethod
    def _known_mode(cls, value: Any) -> Any:
        if value in ("global", "replicated-job", "global-job"):
            raise ValueError(f'mode "{value}" is not supported yet')
        return value


def _ulimit(value: Any) -> Any:
    return value if isinstance(value, dict) else {"soft": value, "hard": value}


class UlimitEntry(Strict):
    soft: Limit
    hard: Limit

    @model_validator(mode="after")
    def _ordered(self) -> UlimitEntry:
        if self.hard != -1 and (self.soft == -1 or self.soft > self.hard):
            raise ValueError(f"soft limit {self.soft} is above the hard limit {self.hard}")
        return self


class LoggingOptions(Strict):
    max_size: Size = Field(20 << 20, alias="max-size")
    max_file: Annotated[
        int, Parsed(lambda value: _file_count(value), {"type": ["integer", "string"]})
    ] = Field(5, alias="max-file")  # fmt: skip
    later: ClassVar = {"tag": "", "labels": "", "env": "", "compress": "", "mode": "", "max-buffer-size": ""}

    @field_validator("max_size")
    @classmethod
    def _some_room(cls, value: int) -> int:
        if value < 4096:
            raise ValueError("must be at least 4k")
        return value


def _file_count(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,3}", text) or int(text) < 1:
        raise ValueError(f"must be a number of files (1 to 999), not {type_name(value)}")
    return int(text)


class Logging(Strict):
    driver: Literal["json-file", "local"] = "json-file"
    options: LoggingOptions = LoggingOptions()

    @field_validator("driver", mode="before")
    @classmethod
    def _known_driver(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in ("json-file", "local"):
            raise ValueError(f'log driver "{value}" is not supported yet: logs are kept in files (json-file, local)')
        return value


def _pull_policy(value: Any) -> str:
    if isinstance(value, str):
        if value == "if_not_present":
            return "missing"
        if value in ("always", "never", "missing", "build", "daily", "weekly"):
            return value
        if value.startswith("every_"):
            values.parse_duration(value.removeprefix("every_").replace("w", "d"))
            return value
    raise ValueError("must be missing, never, build, always, daily, weekly or every_<duration>")


PullPolicy = Annotated[str, Parsed(_pull_policy, {"type": "string"})]


def _restart(value: Any) -> str:
    if value is False:
        return "no"
    if isinstance(value, str) and (
        value in ("no", "always", "unless-stopped") or re.fullmatch(r"on-failure(:[0-9]{1,9})?", value)
    ):
        return value
    from schemas.suggest import did_you_mean

    near = did_you_mean(value, ("no", "always", "unless-stopped", "on-failure")) if isinstance(value, str) else ""
    raise ValueError(f"must be no, always, unless-stopped or on-failure[:n], not {type_name(value)}{near}")


Restart = Annotated[
    str, Parsed(_restart, {"type": "string", "pattern": r"^(no|always|unless-stopped|on-failure(:[0-9]+)?|.*\$.*)$"})
]


def _network_mode(value: Any) -> str:
    if isinstance(value, str) and value in ("bridge", "none", "host"):
        return value
    if isinstance(value, str) and value.startswith(("service:", "container:")):
        raise ValueError(f'network_mode "{value}" is not supported yet')
    raise ValueError(f"must be bridge, none or host, not {type_name(value)}")


NetworkMode = Annotated[str, Parsed(_network_mode, {"type": "string"})]


class ServiceSpec(Strict):
    image: str | None = None
    build: Annotated[BuildSpec, Short(shorten_build, {"type": "string"})] | None = None
    pull_policy: PullPolicy | None = None
    command: Command | None = None
    entrypoint: Command | None = None
    environment: Environment = Field(default_factory=dict)
    env_file: EnvFiles = Field(default_factory=list)
    working_dir: str | None = None
    user: str | None = None
    group_add: Groups = Field(default_factory=list)
    labels: Labels = Field(default_factory=dict)
    container_name: str | None = None
    hostname: HostName = ""
    domainname: HostName = ""
    extra_hosts: ExtraHosts = Field(default_factory=dict)
    dns: Addresses = Field(default_factory=list)
    networks: Annotated[dict[str, MaybeServiceNetwork], Short(names_to_mapping, NAMES)] | None = None
    network_mode: NetworkMode | None = None
    ports: list[Annotated[PortEntry, Short(_port, {"type": ["string", "integer"]})]] = Field(default_factory=list)
    expose: Expose = Field(default_factory=list)
    volumes: list[Annotated[VolumeEntry, Short(_volume, {"type": "string"})]] = Field(default_factory=list)
    tmpfs: Tmpfs = Field(default_factory=list)
    configs: FileReferences = Field(default_factory=list)
    secrets: FileReferences = Field(default_factory=list)
    depends_on: Annotated[dict[str, Dependency], Short(names_to_mapping, NAMES)] = Field(default_factory=dict)
    healthcheck: HealthCheck | None = None
    restart: Restart | None = None
    deploy: Deploy | None = None
    scale: Natural | None = None
    profiles: Strings = Field(default_factory=list)
    cap_add: Capabilities = Field(default_factory=list)
    cap_drop: Capabilities = Field(default_factory=list)
    security_opt: SecurityOptions = Field(default_factory=list)
    privileged: Bool = False
    read_only: Bool = False
    init: Bool = False
    tty: Bool = False
    stdin_open: Bool = False
    stop_signal: Signal | None = None
    stop_grace_period: Duration = 10.0
    ulimits: dict[str, Annotated[UlimitEntry, Short(_ulimit, {"type": ["integer", "string"]})]] = Field(
        default_factory=dict
    )
    sysctls: Sysctls = Field(default_factory=dict)
    shm_size: Size = 64 << 20
    pids_limit: Limit | None = None
    mem_limit: Size | None = None
    mem_reservation: Size | None = None
    cpus: Cpus | None = None
    logging: Logging = Logging()

    later: ClassVar = {
        **dict.fromkeys(
            ["annotations", "attach", "blkio_config", "cgroup", "cgroup_parent", "cpu_period", "cpu_quota", "cpu_shares", "cpuset", "develop", "device_cgroup_rules", "devices", "dns_opt", "dns_search", "extends", "external_links", "gpus", "ipc", "label_file", "links", "mac_address", "memswap_limit", "oom_score_adj", "pid", "platform", "post_start", "pre_start", "pre_stop", "provider", "pull_refresh_after", "runtime", "storage_opt", "use_api_socket", "userns_mode", "uts", "volumes_from"],
            "",
        ),
        "cpu_count": WINDOWS,
        "cpu_percent": WINDOWS,
        "credential_spec": WINDOWS,
        "isolation": WINDOWS,
        "cpu_rt_runtime": CGROUP_V1,
        "cpu_rt_period": CGROUP_V1,
        "mem_swappiness": CGROUP_V1,
        "oom_kill_disable": CGROUP_V1,
        "models": "there is no model runner",
    }

    @field_validator("ulimits")
    @classmethod
    def _known_limits(cls, value: dict[str, UlimitEntry]) -> dict[str, UlimitEntry]:
        from schemas.suggest import did_you_mean

        for name in value:
            if name not in values.ULIMITS:
                raise ValueError(f'there is no limit "{name}"{did_you_mean(name, values.ULIMITS)}')
        return value

    @field_validator("working_dir")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("/"):
            raise ValueError(f'"{value}" must be an absolute path')
        return value

    @field_validator("user", "image")
    @classmethod
    def _not_blank(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or value != value.strip()):
            raise ValueError("must not be empty or begin or end with a space")
        return value

    @field_validator("container_name")
    @classmethod
    def _container_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", value):
            raise ValueError(f'"{value}" is not a container name: letters, digits, "_", "." and "-"')
        return value


class JobSpec(ServiceSpec):
    """A service that runs to its end: exit 0 is success."""

    backoff_limit: Natural = 6
    completions: Annotated[int, Parsed(lambda value: _one(value), {"type": "integer", "const": 1})] = 1
    parallelism: Annotated[int, Parsed(lambda value: _one(value), {"type": "integer", "const": 1})] = 1
    ttl: Duration | None = None
    later: ClassVar = {**ServiceSpec.later, "schedule": "kind CronJob is not supported yet"}


def _one(value: Any) -> int:
    if value not in (1, "1") or isinstance(value, bool):
        raise ValueError("more than one run of a job is not supported yet")
    return 1
