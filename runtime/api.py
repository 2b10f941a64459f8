"""What the engine offers to the reconciler: plain values in, plain values out, no manifests, no policy.

Everything here is a frozen value or a protocol. Sizes are bytes, durations float seconds, times float seconds
since the epoch (wall clock). `labels` are the only identity the engine knows; `declared` is an opaque JSON value
kept beside the object for its owner (the reconciler keeps the canonical spec there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, Protocol

from runtime.value import value

Labels = Mapping[str, str]
Json = Any
Progress = Callable[[str], None]
"""Called with one human line for each step of long work; never with secrets."""

ContainerStatus = Literal["created", "running", "paused", "stopped"]
Health = Literal["none", "starting", "healthy", "unhealthy", "unknown"]
Protocol_ = Literal["tcp", "udp"]


# ---- what a container is made of --------------------------------------------------------------------------------


@value
class Port:
    """One published port. `host_ip` "" means every address; `host_port` 0 lets the engine choose."""

    container_port: int
    host_port: int
    protocol: Protocol_ = "tcp"
    host_ip: str = ""


@value
class Mount:
    """A bind (absolute host path), a named volume (created when absent), or a tmpfs at `target`.

    A volume whose `source` is "" is anonymous: the engine names it and removes it with the container.
    """

    kind: Literal["bind", "volume", "tmpfs"]
    target: str
    source: str = ""
    read_only: bool = False
    nocopy: bool = False
    subpath: str = ""
    propagation: str = "rprivate"
    tmpfs_size: int = 0
    tmpfs_mode: int = 0o1777
    tmpfs_options: tuple[str, ...] = ()


@value
class File:
    """A config or secret as a file in the container; `digest` names content stored by `Engine.put_file`."""

    target: str
    digest: str
    secret: bool
    uid: int = 0
    gid: int = 0
    mode: int = 0o444


@value
class Attachment:
    """Membership of one network. `aliases` are further names under which its members reach this container."""

    network: str
    aliases: tuple[str, ...] = ()
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""


@value
class Resources:
    """Limits; 0 means none. `cpus` is a number of CPUs (cpu.max / cfs quota)."""

    cpus: float = 0.0
    memory: int = 0
    memory_reservation: int = 0
    pids: int = 0


@value
class Ulimit:
    name: str
    soft: int
    hard: int


@value
class HealthCheck:
    """Compose `healthcheck`, resolved. `test` is ("CMD", ...), ("CMD-SHELL", text) or ("NONE",)."""

    test: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0
    start_interval: float = 5.0


@value
class Care:
    """How a container is looked after, which may change while it lives; `health` None means the image's own check."""

    health: HealthCheck | None = None
    stop_grace: float = 10.0


@value
class ContainerSpec:
    """All that `create_container` needs. None for command, entrypoint, user, … means the image's own value."""

    name: str
    image: str
    labels: Labels = field(default_factory=dict)
    declared: Json = None
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    user: str | None = None
    group_add: tuple[str, ...] = ()
    hostname: str = ""
    domainname: str = ""
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    dns: tuple[str, ...] = ()
    networks: tuple[Attachment, ...] = ()
    """In bridge mode none means the root's own `default` network."""
    network_mode: Literal["bridge", "none", "host"] = "bridge"
    ports: tuple[Port, ...] = ()
    expose: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    files: tuple[File, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    privileged: bool = False
    read_only: bool = False
    init: bool = False
    tty: bool = False
    stdin_open: bool = False
    stop_signal: str | None = None
    stop_grace: float = 10.0
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    shm_size: int = 64 << 20
    resources: Resources = Resources()
    health: HealthCheck | None = None
    auto_remove: bool = False
    log_max_size: int = 20 << 20
    log_max_files: int = 5


# ---- what the engine reports ------------------------------------------------------------------------------------


@value
class Run:
    """One life of a container's process: from start to exit. `finished_at` 0.0 while it runs.

    `by_us`: the engine itself asked for the end (stop, kill, remove). `lost`: nobody could read the exit status.
    `refused`: the start failed, so that no program of it ran; `exit_code` is then 125, 126 or 127.
    """

    started_at: float
    finished_at: float = 0.0
    exit_code: int | None = None
    signal: int = 0
    oom: bool = False
    by_us: bool = False
    lost: bool = False
    refused: bool = False


@value
class Damage:
    """One way in which a live object differs from what the engine made: a changed limit, a vanished link."""

    what: str
    expected: str
    actual: str


@value
class ContainerState:
    id: str
    name: str
    image: str
    image_id: str
    labels: Labels
    declared: Json
    status: ContainerStatus
    created_at: float
    pid: int = 0
    runs: tuple[Run, ...] = ()
    """Oldest first, at most the last 20, the present one included."""
    starts: int = 0
    health: Health = "none"
    health_detail: str = ""
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """network name -> addresses (IPv4 first)."""
    ports: tuple[Port, ...] = ()
    health_check: HealthCheck | None = None
    intent: str = ""
    """"stop" after a stop by hand (`stop_container(..., by_hand=True)`), cleared by start."""
    damage: tuple[Damage, ...] = ()
    auto_remove: bool = False

    @property
    def last_run(self) -> Run | None:
        return self.runs[-1] if self.runs else None


@value
class ImageInfo:
    """`id` is the digest of the image's config ("sha256:…"); `names` the local names that point to it."""

    id: str
    names: tuple[str, ...]
    labels: Labels
    declared: Json
    created_at: float
    size: int
    config: Json
    """The OCI image config's `config` object (Env, Cmd, Entrypoint, …), plus architecture and os beside it."""
    layers: tuple[str, ...] = ()
    """diff ids, base first."""


@value
class NetworkSpec:
    name: str
    labels: Labels = field(default_factory=dict)
    declared: Json = None
    internal: bool = False
    subnets: tuple[str, ...] = ()
    """CIDRs wanted by the user; empty: the engine picks a free IPv4 /24 (and a ULA /64 with `ipv6`)."""
    gateways: tuple[str, ...] = ()
    ip_range: str = ""
    ipv6: bool = False
    mtu: int = 1500
    bridge_name: str = ""
    masquerade: bool = True


@value
class NetworkInfo:
    name: str
    labels: Labels
    declared: Json
    bridge: str
    subnets: tuple[str, ...]
    gateways: tuple[str, ...]
    internal: bool
    created_at: float
    members: tuple[str, ...] = ()
    """ids of running containers attached."""
    damage: tuple[Damage, ...] = ()


@value
class VolumeSpec:
    name: str
    labels: Labels = field(default_factory=dict)
    declared: Json = None
    driver_opts: Mapping[str, str] = field(default_factory=dict)
    """Local driver's type, device, o (tmpfs, bind, nfs); empty: a directory of ours."""


@value
class VolumeInfo:
    name: str
    labels: Labels
    declared: Json
    path: str
    created_at: float
    driver_opts: Mapping[str, str] = field(default_factory=dict)
    users: tuple[str, ...] = ()
    """ids of containers (any status) that mount it."""
    damage: tuple[Damage, ...] = ()


@value
class Snapshot:
    """One consistent look at everything below the root; the reconciler finds its own by label."""

    containers: tuple[ContainerState, ...] = ()
    images: tuple[ImageInfo, ...] = ()
    networks: tuple[NetworkInfo, ...] = ()
    volumes: tuple[VolumeInfo, ...] = ()


@value
class LogLine:
    """One line without its newline (or a partial last line). Bytes as the program wrote them."""

    time: float
    stream: Literal["stdout", "stderr"]
    data: bytes


@value
class ExecSpec:
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    working_dir: str | None = None
    tty: bool = False
    privileged: bool = False


@value
class ExecResult:
    """Captured run inside a container; `output` is the first 64 KiB of stdout and stderr, interleaved."""

    exit_code: int
    output: bytes
    timed_out: bool = False


@value
class Event:
    """Something happened to an object: kind "container", action "start" | "exit" | "health" | …"""

    time: float
    kind: str
    action: str
    id: str
    labels: Labels = field(default_factory=dict)
    detail: Mapping[str, str] = field(default_factory=dict)


@value
class BuildRequest:
    """A Dockerfile build. `context` is an absolute directory; `dockerfile` a path beneath it or inline text."""

    context: str
    dockerfile: str = "Dockerfile"
    dockerfile_inline: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    labels: Labels = field(default_factory=dict)
    no_cache: bool = False
    network: str = "default"
    images: Mapping[str, str] = field(default_factory=dict)
    """Names in the Dockerfile (FROM, --from=) that stand for other local names."""


@value
class BootstrapRequest:
    """A root filesystem from the distribution's signed packages, by mmdebstrap."""

    suite: str
    packages: tuple[str, ...] = ()
    variant: str = "minbase"
    mirror: str = ""
    """"" takes the host's own apt sources for the suite."""
    config: Json = None
    """Image config fields to set (Env, Cmd, …)."""
    no_cache: bool = False
    """Ask the mirror for today's packages even where an image of the same request exists."""


@value
class ArchiveRequest:
    """An OCI layout directory or tar, or a docker-save tar; `ref` picks one image of several."""

    path: str
    ref: str = ""


ImageRequest = BuildRequest | BootstrapRequest | ArchiveRequest


class Engine(Protocol):
    """A container engine on one state root. Safe for use from several threads and several processes at once.

    Every method raises `runtime.errors.EngineError` subclasses and nothing else on purpose. Removing what is
    absent succeeds. All reads are lock-free.
    """

    def snapshot(self, deep: bool = True) -> Snapshot:
        """`deep=False` skips the search for damage (limits, links, rules): enough to react to an exit."""
        ...

    # images
    def make_image(
        self, name: str, request: ImageRequest, labels: Labels, declared: Json, progress: Progress
    ) -> ImageInfo:
        """Build, bootstrap or load, then point `name` at the result atomically. Cached steps are not repeated."""
        ...

    def find_image(self, name: str) -> ImageInfo | None: ...
    def tag_image(self, name: str, new_name: str) -> None: ...
    def remove_image(self, name: str, force: bool = False) -> None: ...
    def collect_images(self, keep: Sequence[str]) -> int:
        """Drop layers and blobs that no name, no container and no id in `keep` needs; returns bytes freed."""
        ...

    def context_digest(self, request: BuildRequest) -> str:
        """Digest of a build's inputs: Dockerfile, .dockerignore'd context, args, target. Reads, never writes."""
        ...

    # networks
    def create_network(self, spec: NetworkSpec) -> NetworkInfo: ...
    def repair_network(self, name: str) -> None: ...
    def remove_network(self, name: str) -> None: ...
    def check_network(self, spec: NetworkSpec) -> None:
        """Raise what `create_network` would raise (SubnetCollision, InvalidSpec), touching nothing."""
        ...

    # volumes
    def create_volume(self, spec: VolumeSpec) -> VolumeInfo: ...
    def repair_volume(self, name: str) -> None: ...
    def remove_volume(self, name: str) -> None: ...

    # configs and secrets
    def put_file(self, content: bytes, secret: bool) -> str:
        """Keep content for `File.digest`; secrets are keyed by a digest that only this root can compute."""
        ...

    def file_digest(self, content: bytes, secret: bool) -> str:
        """The digest `put_file` would return, without keeping anything."""
        ...

    # containers
    def find_container(self, id: str) -> ContainerState | None:
        """One container as `snapshot(deep=False)` shows it; None when it does not exist."""
        ...

    def create_container(self, spec: ContainerSpec) -> str: ...
    def start_container(self, id: str) -> None:
        """Returns when the program has been exec'd; raises StartFailed, PortBusy, …; a no-op while running."""
        ...

    def start_attached(self, id: str, stdio: tuple[int, int, int]) -> int:
        """Start on the caller's descriptors as terminal or pipes; returns the program's exit code (128+n)."""
        ...

    def stop_container(self, id: str, grace: float | None = None, by_hand: bool = False) -> None: ...
    def kill_container(self, id: str, signal: str = "SIGKILL", by_hand: bool = False) -> None: ...
    def pause_container(self, id: str) -> None: ...
    def unpause_container(self, id: str) -> None: ...
    def remove_container(self, id: str, force: bool = False) -> None: ...
    def repair_container(self, id: str) -> None:
        """Put back limits, links and addresses of a running container that `damage` names."""
        ...

    def relabel_container(self, id: str, labels: Labels, declared: Json, care: Care | None = None) -> None:
        """Replace bookkeeping, and with `care` its health check and grace, on a live container; its process runs on."""
        ...

    def wait_container(self, id: str, timeout: float | None = None) -> Run | None:
        """The finished run, or None when `timeout` passes first."""
        ...

    def set_health(self, id: str, health: Health, detail: str = "") -> None:
        """Record a probe's verdict; names and published ports follow it at once."""
        ...

    def exec_capture(self, id: str, spec: ExecSpec, timeout: float) -> ExecResult: ...
    def exec_attached(self, id: str, spec: ExecSpec, stdio: tuple[int, int, int]) -> int:
        """Run with the caller's file descriptors; with `tty` proxies through a terminal. Returns the exit code."""
        ...

    def logs(
        self, id: str, follow: bool = False, since: float = 0.0, until: float = 0.0, tail: int = -1
    ) -> Iterator[LogLine]: ...

    def events(self, stop: Callable[[], bool]) -> Iterator[Event]:
        """Blocks and yields events as they happen, until `stop()`; may repeat or miss some: a hint, not the truth."""
        ...

    # host
    def preflight(self, ports: Sequence[Port], labels: Labels) -> list[str]:
        """Problems that would make publishing `ports` fail now (those held under the same labels excepted)."""
        ...

    def info(self) -> Json:
        """Kernel features found, degraded ones with a line each, cgroup layout, rules outside our table."""
        ...

    def disk_usage(self) -> Json: ...
    def collect_garbage(self) -> None:
        """Finish what a killed process left behind: half images, trash, dead run files, stray cgroups and rules."""
        ...

    def close(self) -> None: ...
