"""A service in Compose's words, for the `spec` of a `Service` document and for Compose files."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from schemas import values
from schemas.attachments import (
    Dependency,
    EnvFiles,
    FileReferences,
    MaybeServiceNetwork,
    PortEntry,
    VolumeEntry,
    lengthen_port,
    lengthen_volume,
)
from schemas.build import BuildSpec, shorten_build
from schemas.fields import (
    NAMES,
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
    Labels,
    Limit,
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
from schemas.operation import Deploy, HealthCheck, Logging, UlimitEntry, widen_ulimit

WINDOWS = "it exists on Windows only"
CGROUP_V1 = "it needs a kernel interface that cgroup v2 does not have"


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
    ports: list[Annotated[PortEntry, Short(lengthen_port, {"type": ["string", "integer"]})]] = Field(
        default_factory=list
    )
    expose: Expose = Field(default_factory=list)
    volumes: list[Annotated[VolumeEntry, Short(lengthen_volume, {"type": "string"})]] = Field(default_factory=list)
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
    ulimits: dict[str, Annotated[UlimitEntry, Short(widen_ulimit, {"type": ["integer", "string"]})]] = Field(
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
            [
                "annotations",
                "attach",
                "blkio_config",
                "cgroup",
                "cgroup_parent",
                "cpu_period",
                "cpu_quota",
                "cpu_shares",
                "cpuset",
                "develop",
                "device_cgroup_rules",
                "devices",
                "dns_opt",
                "dns_search",
                "extends",
                "external_links",
                "gpus",
                "ipc",
                "label_file",
                "links",
                "mac_address",
                "memswap_limit",
                "oom_score_adj",
                "pid",
                "platform",
                "post_start",
                "pre_start",
                "pre_stop",
                "provider",
                "pull_refresh_after",
                "runtime",
                "storage_opt",
                "use_api_socket",
                "userns_mode",
                "uts",
                "volumes_from",
            ],
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


def _one(value: Any) -> int:
    if value not in (1, "1") or isinstance(value, bool):
        raise ValueError("more than one run of a job is not supported yet")
    return 1


class JobSpec(ServiceSpec):
    """A service that runs to its end: exit 0 is success."""

    backoff_limit: Natural = 6
    completions: Annotated[int, Parsed(_one, {"type": "integer", "const": 1})] = 1
    parallelism: Annotated[int, Parsed(_one, {"type": "integer", "const": 1})] = 1
    later: ClassVar = {**ServiceSpec.later, "schedule": "kind CronJob is not supported yet", "ttl": ""}
