"""The reconciler's nouns: what is wanted, as frozen values in one canonical form.

A resource's `spec` is plain JSON data (dicts with sorted keys, lists, strings, numbers, booleans, None) in which
two spellings of the same wish are equal; it is the only input of its fingerprint. What may change without making
the object anew (restart policy, health check, replicas, edges) lies in `policy`, outside the fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Json = Any
Kind = Literal["image", "network", "volume", "config", "secret", "service", "job"]
Condition = Literal["exists", "started", "healthy", "completed"]

FINGERPRINT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value stands in a source file: 1-based line and column."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input, printed as `file:line:col: message`."""

    message: str
    mark: Mark | None = None
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = f"{self.mark}: " if self.mark else ""
        note = "warning: " if self.severity == "warning" else ""
        return f"{where}{note}{self.message}"


class InputError(Exception):
    """All problems of one input at once; nothing was touched. Exit code 2."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Names a resource within its stack; prints as `service/web`."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class Need:
    """An edge: this resource waits until `key` meets `condition`. `required=False` tolerates its absence or failure.

    `restart=True` (compose `depends_on.restart`): a replaced dependency restarts the dependant.
    """

    key: Key
    condition: Condition = "exists"
    required: bool = True
    restart: bool = False


@dataclass(frozen=True, slots=True)
class Resource:
    key: Key
    spec: Json
    """Canonical and fingerprinted: changing it makes the object anew (see the per-kind shapes below)."""
    policy: Json
    """Canonical, not fingerprinted: applied in place."""
    needs: tuple[Need, ...] = ()
    fingerprint: str = ""
    mark: Mark | None = None
    object_name: str = ""
    """The engine's name of the object: `<stack>_<name>` unless the manifest sets `name:`; "" for services and jobs."""
    external: bool = False
    """Declared elsewhere: must exist, is never created, changed or removed."""


# Shapes of `spec` and `policy` (all keys always present; absent values as None, [] or {}):
#
# image    spec   {"build": {context, dockerfile, dockerfile_inline, args, target, labels, digest} | None,
#                  "bootstrap": {suite, packages, variant, mirror, config} | None,
#                  "archive": {path, ref, digest} | None}
#          policy {"pull_policy": "missing"|"always"|"never"|"build"|"daily"|"weekly"|"every_<dur>", "retain": bool}
#          `digest` is the content digest of the build context (BuildRequest -> Engine.context_digest) or archive file.
# network  spec   {"internal", "subnets": [], "gateways": [], "ip_range", "ipv6", "mtu", "bridge_name", "masquerade",
#                  "labels"}
# volume   spec   {"driver_opts": {}, "labels": {}}       policy {"retain": bool}
# config   spec   {"digest"}                              content rides in Desired.files, never in a spec
# secret   spec   {"digest"}
# service  spec   every field of runtime.api.ContainerSpec except name, labels bookkeeping, declared, stop_grace and
# and job         health, as JSON (tuples as lists, nested dataclasses as dicts); `networks[].network` and volume
#                 `mounts[].source` hold engine object names; `image` the manifest's image name; "image_fingerprint"
#                 the fingerprint of the stack's own Image resource ("" for a foreign reference); user labels under
#                 "labels"
#          policy {"replicas", "restart": {"condition": "no"|"always"|"unless-stopped"|"on-failure",
#                  "max_attempts": int|None, "delay": float|None, "window": float|None},
#                  "health": {test, interval, timeout, retries, start_period, start_interval} | None (the image's own),
#                  "stop_grace": float, "update": {"order": "start-first"|"stop-first"|None, "parallelism": int,
#                  "delay": float, "failure_action": "continue"|"pause"},
#                  "container_name": str|None, "run_to_completion": bool (a service others wait for by `completed`),
#                  job only: "backoff_limit", "completions", "parallelism"}


@dataclass(frozen=True, slots=True)
class StackSettings:
    name: str
    prune: bool = True
    deletion_budget: int | None = None
    """At most so many containers and networks may one apply remove by pruning; None: half of what runs, at least 3."""


@dataclass(frozen=True, slots=True)
class Desired:
    """One stack's resolved wish."""

    settings: StackSettings
    resources: Mapping[Key, Resource]
    files: Mapping[str, tuple[bytes, bool]] = field(default_factory=dict, repr=False)
    """digest -> (content, is secret) for every config and secret; never printed, never part of a plan."""
    warnings: tuple[Problem, ...] = ()
    bind_sources: tuple[tuple[str, Mark | None], ...] = ()

    @property
    def stack(self) -> str:
        return self.settings.name
