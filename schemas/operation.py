"""How a service is run: health check, replicas, limits, restarts, updates, logs."""

# ruff: noqa: TRY004 - pydantic turns ValueError, and only that, into a problem of the value

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from schemas.fields import (
    Bool,
    Cpus,
    Duration,
    Limit,
    Natural,
    Parsed,
    Size,
    Strict,
    Strings,
    type_name,
)


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
    failure_action: Literal["continue", "pause"] = "pause"
    later: ClassVar = {"max_failure_ratio": "", "monitor": ""}

    @field_validator("failure_action", mode="before")
    @classmethod
    def _known_action(cls, value: Any) -> Any:
        if value == "rollback":
            raise ValueError('"rollback" is not supported yet: a replica that fails keeps its old container anyway')
        return value


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


def widen_ulimit(value: Any) -> Any:
    return value if isinstance(value, dict) else {"soft": value, "hard": value}


class UlimitEntry(Strict):
    soft: Limit
    hard: Limit

    @model_validator(mode="after")
    def _ordered(self) -> UlimitEntry:
        if self.hard != -1 and (self.soft == -1 or self.soft > self.hard):
            raise ValueError(f"soft limit {self.soft} is above the hard limit {self.hard}")
        return self


def _file_count(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,3}", text) or int(text) < 1:
        raise ValueError(f"must be a number of files (1 to 999), not {type_name(value)}")
    return int(text)


class LoggingOptions(Strict):
    max_size: Size = Field(20 << 20, alias="max-size")
    max_file: Annotated[
        int, Parsed(_file_count, {"type": ["integer", "string"]})
    ] = Field(5, alias="max-file")  # fmt: skip
    later: ClassVar = {"tag": "", "labels": "", "env": "", "compress": "", "mode": "", "max-buffer-size": ""}

    @field_validator("max_size")
    @classmethod
    def _some_room(cls, value: int) -> int:
        if value < 4096:
            raise ValueError("must be at least 4k")
        return value


class Logging(Strict):
    driver: Literal["json-file", "local"] = "json-file"
    options: LoggingOptions = Field(default_factory=lambda: LoggingOptions.model_validate({}))

    @field_validator("driver", mode="before")
    @classmethod
    def _known_driver(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in ("json-file", "local"):
            raise ValueError(f'log driver "{value}" is not supported yet: logs are kept in files (json-file, local)')
        return value
