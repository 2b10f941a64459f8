"""A complete container engine in memory, on a virtual clock: the same promises as the real one, faults on demand.

Time passes only by `advance` and by waits with a timeout, so tests never sleep. What the command lines do is told by
`fake_programs`; `fail`, `on_call`, `exit`, `vanish`, `scar` and `health_of` script what goes wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from runtime import api
from runtime.errors import Conflict, EngineError, InvalidSpec, NotFound, PortBusy, StartFailed, SubnetCollision
from tests.support.fake_programs import Program, interpret

KEPT_RUNS = 20
FOREVER = 1e18


@dataclass
class _Container:
    id: str
    spec: api.ContainerSpec
    image_id: str
    labels: dict[str, str]
    declared: Any
    created_at: float
    anonymous: list[str]
    status: api.ContainerStatus = "created"
    pid: int = 0
    runs: list[api.Run] = field(default_factory=list)
    starts: int = 0
    health: api.Health = "none"
    health_detail: str = ""
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ports: tuple[api.Port, ...] = ()
    intent: str = ""
    damage: tuple[api.Damage, ...] = ()
    log: list[api.LogLine] = field(default_factory=list)
    program: Program = field(default_factory=Program)
    ends_at: float = FOREVER
    dying_by_us: bool = False

    @property
    def live(self) -> bool:
        return self.status in ("running", "paused")

    @property
    def group(self) -> str:
        stack, resource = self.labels.get("holdfast.stack"), self.labels.get("holdfast.resource")
        return f"{stack}/{resource}" if stack and resource else self.id


@dataclass
class _Fault:
    operation: str
    name: str
    error: EngineError
    times: int


class FakeEngine:
    """An `api.Engine` whose world is a few dictionaries."""

    def __init__(self, now: float = 1_700_000_000.0, images: Sequence[str] = ("busybox",)) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._now = now
        self._counter = 0
        self._containers: dict[str, _Container] = {}
        self._images: dict[str, api.ImageInfo] = {}
        self._networks: dict[str, api.NetworkInfo] = {}
        self._network_specs: dict[str, api.NetworkSpec] = {}
        self._volumes: dict[str, api.VolumeInfo] = {}
        self._events: list[api.Event] = []
        self._faults: list[_Fault] = []
        self.files: dict[str, tuple[bytes, bool]] = {}
        self.calls: list[tuple[str, str]] = []
        """Every mutating call and `snapshot`, in order: (operation, object name)."""
        self.on_call: Callable[[str, str], EngineError | None] | None = None
        """Asked before every mutating call; what it returns is raised."""
        self.exec_script: Callable[[api.ContainerState, api.ExecSpec], api.ExecResult] | None = None
        self.health_of: Callable[[api.ContainerSpec], int] = lambda spec: 0
        """Exit code of a container's health check, when no `exec_script` answers."""
        self.image_salt: dict[str, str] = {}
        """image name -> text that makes the next `make_image` of that name give another id (packages moved)."""
        self.busy_ports: set[tuple[int, str]] = set()
        """(host port, protocol) held by programs outside the engine."""
        self.host_routes: set[str] = set()
        self.context_digests: dict[str, str] = {}
        for name in images:
            self.add_image(name)

    # ---- the test's side ----------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self._now

    def clock(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass; programs that end by then end at their own time."""
        with self._changed:
            self._move_to(self._now + seconds)

    def set_clock(self, now: float) -> None:
        """Make the wall clock jump; nothing else happens."""
        with self._changed:
            shift = now - self._now
            self._now = now
            for container in self._containers.values():
                if container.ends_at != FOREVER:
                    container.ends_at += shift

    def add_image(self, name: str, config: Mapping[str, Any] | None = None, salt: str = "") -> api.ImageInfo:
        """Put an unlabelled image under `name`, as `container commit` or `image load` by hand would."""
        with self._changed:
            id = _digest(["by hand", name, salt, dict(config or {})])
            info = api.ImageInfo(id, (name,), {}, None, self._now, 1 << 20, dict(config or {"Cmd": ["sh"]}))
            self._images[name] = info
            return info

    def fail(self, operation: str, name: str = "", error: EngineError | None = None, times: int = 1) -> None:
        """The next `times` calls of `operation` on an object whose name contains `name` raise `error`."""
        fault = error or StartFailed(f'cannot {operation.replace("_", " ")} "{name}": injected fault')
        self._faults.append(_Fault(operation, name, fault, times))

    def exit(self, id: str, code: int = 0, signal: int = 0, oom: bool = False, lost: bool = False) -> None:
        """The program of a running container ends now, by itself or by a signal from outside."""
        with self._changed:
            container = self._get(id, "end")
            if container.live:
                self._finish(container, self._now, None if lost else code, signal=signal, oom=oom, lost=lost)

    def vanish(self, id: str) -> None:
        """Somebody removed the container behind the engine's back."""
        with self._changed:
            self._containers.pop(id, None)
            self._changed.notify_all()

    def vanish_network(self, name: str) -> None:
        with self._changed:
            self._networks.pop(name, None)
            self._network_specs.pop(name, None)

    def vanish_volume(self, name: str) -> None:
        with self._changed:
            self._volumes.pop(name, None)

    def scar(self, kind: Literal["container", "network", "volume"], name: str, damage: api.Damage) -> None:
        """Make a live object differ from what was made, until it is repaired."""
        with self._changed:
            if kind == "container":
                self._get(name, "damage").damage += (damage,)
            elif kind == "network":
                self._networks[name] = replace(self._networks[name], damage=(*self._networks[name].damage, damage))
            else:
                self._volumes[name] = replace(self._volumes[name], damage=(*self._volumes[name].damage, damage))

    def reboot(self) -> None:
        """An unclean boot: what ran is stopped, nobody saw its end, and its writable layer may be torn."""
        with self._changed:
            for container in self._containers.values():
                if container.live:
                    run = container.runs[-1]
                    self._finish(container, self._now, None, lost=True)
                    container.runs[-1] = run
                    container.damage = (api.Damage("unclean-boot", "an exit record", "none"),)

    def container(self, reference: str) -> api.ContainerState:
        """By id or name, the newest of several."""
        with self._changed:
            found = [c for c in self._containers.values() if reference in (c.id, c.spec.name)]
            if not found:
                raise NotFound(f'cannot find container "{reference}": no such container')
            return self._state(max(found, key=lambda c: (c.created_at, c.id)))

    def spec_of(self, reference: str) -> api.ContainerSpec:
        return self._containers[self.container(reference).id].spec

    # ---- snapshot -----------------------------------------------------------------------------------------------

    def snapshot(self, deep: bool = True) -> api.Snapshot:
        with self._changed:
            self.calls.append(("snapshot", ""))
            self._settle()
            return api.Snapshot(
                tuple(self._state(c) for c in self._containers.values()),
                self._image_infos(),
                tuple(self._network(name) for name in self._networks),
                tuple(self._volume(name) for name in self._volumes),
            )

    def find_container(self, id: str) -> api.ContainerState | None:
        with self._changed:
            self._settle()
            container = self._containers.get(id)
            return self._state(container) if container is not None else None

    def _image_infos(self) -> tuple[api.ImageInfo, ...]:
        return tuple(self._images.values())

    def _state(self, c: _Container) -> api.ContainerState:
        return api.ContainerState(
            c.id,
            c.spec.name,
            c.spec.image,
            c.image_id,
            dict(c.labels),
            c.declared,
            c.status,
            c.created_at,
            c.pid,
            tuple(c.runs),
            c.starts,
            c.health,
            c.health_detail,
            dict(c.addresses),
            c.ports,
            self._health_check(c),
            c.intent,
            c.damage,
            c.spec.auto_remove,
        )

    def _health_check(self, c: _Container) -> api.HealthCheck | None:
        if c.spec.health is not None:
            return None if c.spec.health.test[:1] == ("NONE",) else c.spec.health
        image = self._images.get(c.spec.image)
        own = (image.config or {}).get("Healthcheck") if image else None
        return api.HealthCheck(tuple(own["Test"])) if own else None

    # ---- images -------------------------------------------------------------------------------------------------

    def make_image(
        self, name: str, request: api.ImageRequest, labels: api.Labels, declared: api.Json, progress: api.Progress
    ) -> api.ImageInfo:
        with self._changed:
            self._called("make_image", name)
            progress(f"making {name}")
            config = {"Cmd": ["sh"]}
            if isinstance(request, api.BootstrapRequest) and request.config:
                config = dict(request.config)
            id = _digest([asdict(request), self.image_salt.get(name, "")])
            info = api.ImageInfo(id, (name,), dict(labels), _copy(declared), self._now, 1 << 20, config)
            self._images[name] = info
            return info

    def find_image(self, name: str) -> api.ImageInfo | None:
        with self._changed:
            for info in self._images.values():
                if name in info.names or info.id == name:
                    return info
            return None

    def tag_image(self, name: str, new_name: str) -> None:
        with self._changed:
            self._called("tag_image", new_name)
            info = self.find_image(name)
            if info is None:
                raise NotFound(f'cannot tag image "{name}": no such image')
            self._images[new_name] = replace(info, names=(new_name,))

    def remove_image(self, name: str, force: bool = False) -> None:
        with self._changed:
            self._called("remove_image", name)
            info = self._images.get(name)
            if info is None:
                return
            if not force and any(c.image_id == info.id for c in self._containers.values()):
                raise Conflict(f'cannot remove image "{name}": a container uses it')
            del self._images[name]

    def collect_images(self, keep: Sequence[str]) -> int:
        with self._changed:
            self._called("collect_images", "")
            return 0

    def context_digest(self, request: api.BuildRequest) -> str:
        given = self.context_digests.get(request.context)
        return given or _digest([request.context, request.dockerfile, request.dockerfile_inline])

    # ---- networks -----------------------------------------------------------------------------------------------

    def create_network(self, spec: api.NetworkSpec) -> api.NetworkInfo:
        with self._changed:
            self._called("create_network", spec.name)
            if spec.name in self._networks:
                if _definition(self._network_specs[spec.name]) != _definition(spec):
                    raise Conflict(f'cannot create network "{spec.name}": it exists with another definition')
                self._network_specs[spec.name] = spec
                self._networks[spec.name] = replace(
                    self._networks[spec.name], labels=dict(spec.labels), declared=_copy(spec.declared)
                )
                return self._network(spec.name)
            self.check_network(spec)
            number = self._next()
            subnets = spec.subnets or (f"10.{100 + number // 250}.{number % 250}.0/24",)
            gateways = spec.gateways or tuple(s.rpartition(".")[0] + ".1" for s in subnets)
            info = api.NetworkInfo(
                spec.name, dict(spec.labels), _copy(spec.declared), f"hf{number}", subnets, gateways,
                spec.internal, self._now,
            )  # fmt: skip
            self._networks[spec.name] = info
            self._network_specs[spec.name] = spec
            return self._network(spec.name)

    def _network(self, name: str) -> api.NetworkInfo:
        members = tuple(c.id for c in self._containers.values() if c.live and name in c.addresses)
        return replace(self._networks[name], members=members)

    def repair_network(self, name: str) -> None:
        with self._changed:
            self._called("repair_network", name)
            if name not in self._networks:
                raise NotFound(f'cannot repair network "{name}": no such network')
            self._networks[name] = replace(self._networks[name], damage=())

    def remove_network(self, name: str) -> None:
        with self._changed:
            self._called("remove_network", name)
            if name not in self._networks:
                return
            if self._network(name).members:
                raise Conflict(f'cannot remove network "{name}": running containers are attached to it')
            del self._networks[name]
            self._network_specs.pop(name, None)

    def check_network(self, spec: api.NetworkSpec) -> None:
        for subnet in spec.subnets:
            others = [s for n, info in self._networks.items() if n != spec.name for s in info.subnets]
            if subnet in self.host_routes or subnet in others:
                raise SubnetCollision(f'cannot create network "{spec.name}": {subnet} is in use')

    # ---- volumes ------------------------------------------------------------------------------------------------

    def create_volume(self, spec: api.VolumeSpec) -> api.VolumeInfo:
        with self._changed:
            self._called("create_volume", spec.name)
            present = self._volumes.get(spec.name)
            if present is not None and dict(present.driver_opts) != dict(spec.driver_opts):
                raise Conflict(f'cannot create volume "{spec.name}": it exists with other driver options')
            self._volumes[spec.name] = api.VolumeInfo(
                spec.name, dict(spec.labels), _copy(spec.declared), f"/volumes/{spec.name}", self._now,
                dict(spec.driver_opts),
            )  # fmt: skip
            return self._volume(spec.name)

    def _volume(self, name: str) -> api.VolumeInfo:
        users = tuple(
            c.id
            for c in self._containers.values()
            if name in c.anonymous or any(m.kind == "volume" and m.source == name for m in c.spec.mounts)
        )
        return replace(self._volumes[name], users=users)

    def repair_volume(self, name: str) -> None:
        with self._changed:
            self._called("repair_volume", name)
            if name not in self._volumes:
                raise NotFound(f'cannot repair volume "{name}": no such volume')
            self._volumes[name] = replace(self._volumes[name], damage=())

    def remove_volume(self, name: str) -> None:
        with self._changed:
            self._called("remove_volume", name)
            if name not in self._volumes:
                return
            if self._volume(name).users:
                raise Conflict(f'cannot remove volume "{name}": containers use it')
            del self._volumes[name]

    # ---- files --------------------------------------------------------------------------------------------------

    def put_file(self, content: bytes, secret: bool) -> str:
        with self._changed:
            digest = self.file_digest(content, secret)
            self._called("put_file", digest)
            self.files[digest] = (content, secret)
            return digest

    def file_digest(self, content: bytes, secret: bool) -> str:
        return "sha256:" + hashlib.sha256((b"key of this root\0" if secret else b"") + content).hexdigest()

    # ---- containers ---------------------------------------------------------------------------------------------

    def create_container(self, spec: api.ContainerSpec) -> str:
        with self._changed:
            self._called("create_container", spec.name)
            image = self.find_image(spec.image)
            if image is None:
                raise NotFound(f'cannot create container "{spec.name}": no image "{spec.image}" here')
            if "holdfast.stack" not in spec.labels and any(c.spec.name == spec.name for c in self._containers.values()):
                raise Conflict(f'cannot create container "{spec.name}": the name is in use')
            targets = [mount.target for mount in spec.mounts]
            if len(set(targets)) != len(targets):
                raise InvalidSpec(f'cannot create container "{spec.name}": two mounts at one target')
            for file in spec.files:
                if file.digest not in self.files:
                    raise NotFound(f'cannot create container "{spec.name}": no content {file.digest}')
            id = hashlib.md5(str(self._next()).encode(), usedforsecurity=False).hexdigest()
            anonymous: list[str] = []
            for mount in spec.mounts:
                if mount.kind != "volume":
                    continue
                name = mount.source or f"{id}-{len(anonymous)}"
                if not mount.source:
                    anonymous.append(name)
                if name not in self._volumes:
                    self._volumes[name] = api.VolumeInfo(name, {}, None, f"/volumes/{name}", self._now)
            self._containers[id] = _Container(
                id, spec, image.id, dict(spec.labels), _copy(spec.declared), self._now, anonymous
            )
            return id

    def start_container(self, id: str) -> None:
        with self._changed:
            container = self._get(id, "start")
            name = container.spec.name
            self._called("start_container", name)
            self._settle()
            if container.live:
                return
            try:
                ports, program = self._prepare(container)
            except EngineError as error:
                code = getattr(error, "exit_code", 125)
                refused = api.Run(self._now, self._now, code, refused=True)
                container.runs = [*container.runs, refused][-KEPT_RUNS:]
                container.starts += 1
                container.status = "stopped"
                raise
            container.program = program
            container.ports = ports
            container.status = "running"
            container.intent = ""
            container.damage = ()
            container.dying_by_us = False
            container.starts += 1
            container.pid = 1000 + self._next()
            container.runs = [*container.runs, api.Run(self._now)][-KEPT_RUNS:]
            container.health = "starting" if self._health_check(container) else "none"
            container.health_detail = ""
            container.addresses = {
                a.network: (
                    a.ipv4 or self._networks[a.network].subnets[0].rpartition(".")[0] + f".{self._next() % 250 + 2}",
                )
                for a in container.spec.networks
            }
            container.ends_at = FOREVER if program.lasts is None else self._now + program.lasts
            for stream, line in program.output:
                container.log.append(api.LogLine(self._now, "stdout" if stream == 1 else "stderr", line))
            self._event(container, "start")
            self._settle()

    def _prepare(self, container: _Container) -> tuple[tuple[api.Port, ...], Program]:
        name = container.spec.name
        for attachment in container.spec.networks:
            if attachment.network not in self._networks:
                raise NotFound(f'cannot start container "{name}": no network "{attachment.network}"')
        for mount in container.spec.mounts:
            if mount.kind == "volume" and mount.source and mount.source not in self._volumes:
                raise NotFound(f'cannot start container "{name}": no volume "{mount.source}"')
        if any(damage.what == "unclean-boot" for damage in container.damage):
            raise StartFailed(f'cannot start container "{name}": its writable layer may be torn')
        joined = [self._networks[one.network] for one in container.spec.networks]
        if container.spec.ports and joined and all(one.internal for one in joined):
            raise InvalidSpec(f'cannot publish ports of container "{name}": it is on internal networks only')
        ports = tuple(replace(p, host_port=p.host_port or 40000 + self._next()) for p in container.spec.ports)
        self._check_ports(container, ports)
        program = interpret(self._argv(container))
        if program.missing:
            raise StartFailed(f'cannot start container "{name}": program not found in the image', exit_code=127)
        return ports, program

    def _address_in(self, network: str) -> str:
        return self._networks[network].subnets[0].rpartition(".")[0] + f".{self._next() % 250 + 2}"

    def start_attached(self, id: str, stdio: tuple[int, int, int]) -> int:
        self.start_container(id)
        run = self.wait_container(id)
        for line in self.logs(id):
            os.write(stdio[2 if line.stream == "stderr" else 1], line.data + b"\n")
        return (run.exit_code if run is not None else None) or 0

    def _argv(self, container: _Container) -> list[str]:
        spec = container.spec
        image = self.find_image(spec.image)
        config = (image.config if image else None) or {}
        entry = list(spec.entrypoint) if spec.entrypoint is not None else list(config.get("Entrypoint") or [])
        if spec.command is not None:
            return [*entry, *spec.command]
        return entry if spec.entrypoint is not None else [*entry, *(config.get("Cmd") or [])]

    def _check_ports(self, container: _Container, ports: Sequence[api.Port]) -> None:
        for problem in self._port_problems(ports, container.group):
            raise PortBusy(f'cannot start container "{container.spec.name}": {problem}')

    def _port_problems(self, ports: Sequence[api.Port], group: str) -> list[str]:
        problems = []
        for port in ports:
            if (port.host_port, port.protocol) in self.busy_ports:
                problems.append(f"port {port.host_port}/{port.protocol} is held by another program")
            for other in self._containers.values():
                if not other.live or other.group == group:
                    continue
                for held in other.ports:
                    same = (held.host_port, held.protocol) == (port.host_port, port.protocol)
                    if same and (not held.host_ip or not port.host_ip or held.host_ip == port.host_ip):
                        problems.append(f"port {port.host_port}/{port.protocol} is held by {other.spec.name}")
        return problems

    def stop_container(self, id: str, grace: float | None = None, by_hand: bool = False) -> None:
        with self._changed:
            container = self._get(id, "stop")
            self._called("stop_container", container.spec.name)
            self._settle()
            if by_hand:
                container.intent = "stop"
            if not container.live:
                return
            container.dying_by_us = True
            wait = container.spec.stop_grace if grace is None else grace
            if container.program.ignores_term:
                self._move_to(self._now + wait)
                if container.live:
                    self._finish(container, self._now, 137, signal=9, by_us=True)
            else:
                self._finish(container, self._now, 143, signal=15, by_us=True)

    def kill_container(self, id: str, signal: str = "SIGKILL", by_hand: bool = False) -> None:
        with self._changed:
            container = self._get(id, "kill")
            self._called("kill_container", container.spec.name)
            self._settle()
            if not container.live:
                raise Conflict(f'cannot kill container "{container.spec.name}": it is not running')
            number = {"SIGKILL": 9, "KILL": 9, "9": 9, "SIGTERM": 15, "TERM": 15, "15": 15}.get(signal.upper(), 0)
            if not number:
                return
            if by_hand and number == 9:
                container.intent = "stop"
            if number == 9 or not container.program.ignores_term:
                self._finish(container, self._now, 128 + number, signal=number, by_us=True)

    def pause_container(self, id: str) -> None:
        with self._changed:
            container = self._get(id, "pause")
            self._called("pause_container", container.spec.name)
            if not container.live:
                raise Conflict(f'cannot pause container "{container.spec.name}": it is not running')
            container.status = "paused"

    def unpause_container(self, id: str) -> None:
        with self._changed:
            container = self._get(id, "unpause")
            self._called("unpause_container", container.spec.name)
            if container.status == "paused":
                container.status = "running"

    def remove_container(self, id: str, force: bool = False) -> None:
        with self._changed:
            container = self._containers.get(id)
            self._called("remove_container", container.spec.name if container else id)
            if container is None:
                return
            self._settle()
            if container.live:
                if not force:
                    raise Conflict(f'cannot remove container "{container.spec.name}": it is running')
                self._finish(container, self._now, 137, signal=9, by_us=True)
            self._containers.pop(id, None)
            for name in container.anonymous:
                self._volumes.pop(name, None)
            self._changed.notify_all()

    def repair_container(self, id: str) -> None:
        with self._changed:
            container = self._get(id, "repair")
            self._called("repair_container", container.spec.name)
            container.damage = ()

    def relabel_container(self, id: str, labels: api.Labels, declared: api.Json, care: api.Care | None = None) -> None:
        with self._changed:
            container = self._get(id, "relabel")
            self._called("relabel_container", container.spec.name)
            container.labels = dict(labels)
            container.declared = _copy(declared)
            if care is not None:
                before = self._health_check(container)
                container.spec = replace(container.spec, health=care.health, stop_grace=care.stop_grace)
                after = self._health_check(container)
                if (before and before.test) != (after and after.test):
                    container.health, container.health_detail = "starting" if after and container.live else "none", ""

    def wait_container(self, id: str, timeout: float | None = None) -> api.Run | None:
        """With a timeout virtual time passes; without one another thread must end the container within ten seconds."""
        with self._changed:
            container = self._get(id, "wait for")
            self._settle()
            if not container.live:
                if not container.runs:
                    raise Conflict(f'cannot wait for container "{id[:12]}": it was never started')
                return container.runs[-1]
            started = container.starts
            if timeout is not None:
                target = self._now + timeout
                self._changed.wait(min(timeout, 0.001))
                self._move_to(max(self._now, min(target, container.ends_at)))
            elif container.ends_at != FOREVER:
                self._move_to(max(self._now, container.ends_at))
            else:
                ended = self._changed.wait_for(lambda: not container.live or container.starts != started, 10.0)
                assert ended, f"waited ten seconds for {container.spec.name}, which nothing in the test ends"
            return container.runs[-1] if not container.live else None

    def set_health(self, id: str, health: api.Health, detail: str = "") -> None:
        with self._changed:
            container = self._get(id, "set health of")
            if not container.live:
                return
            before = container.health
            container.health, container.health_detail = health, detail
            if before != health:
                self._event(container, "health", {"health": health})

    def exec_capture(self, id: str, spec: api.ExecSpec, timeout: float) -> api.ExecResult:
        with self._changed:
            container = self._get(id, "exec in")
            self._settle()
            if not container.live:
                raise Conflict(f'cannot exec in container "{container.spec.name}": it is not running')
            if self.exec_script is not None:
                return self.exec_script(self._state(container), spec)
            check = container.spec.health
            if check is not None and check.test[1:] in (spec.argv, spec.argv[-1:]):
                code = self.health_of(container.spec)
                return api.ExecResult(code, b"" if code == 0 else b"not well")
            program = interpret(spec.argv)
            if program.missing:
                return api.ExecResult(127, b"not found")
            if program.lasts is None or program.lasts > timeout:
                self._move_to(self._now + timeout)
                return api.ExecResult(137, b"", timed_out=True)
            return api.ExecResult(program.code, b"".join(line + b"\n" for _, line in program.output))

    def exec_attached(self, id: str, spec: api.ExecSpec, stdio: tuple[int, int, int]) -> int:
        return self.exec_capture(id, spec, FOREVER).exit_code

    def logs(
        self, id: str, follow: bool = False, since: float = 0.0, until: float = 0.0, tail: int = -1
    ) -> Iterator[api.LogLine]:
        with self._changed:
            lines = list(self._get(id, "read the log of").log)
        lines = [line for line in lines if line.time >= since and (not until or line.time <= until)]
        yield from lines if tail < 0 else lines[len(lines) - min(tail, len(lines)) :]

    def events(self, stop: Callable[[], bool]) -> Iterator[api.Event]:
        with self._changed:
            position = len(self._events)
        while not stop():
            with self._changed:
                if len(self._events) == position:
                    self._changed.wait(0.01)
                fresh = self._events[position:]
                position += len(fresh)
            yield from fresh

    # ---- host ---------------------------------------------------------------------------------------------------

    def preflight(self, ports: Sequence[api.Port], labels: api.Labels) -> list[str]:
        with self._changed:
            return self._port_problems(ports, f"{labels.get('holdfast.stack')}/{labels.get('holdfast.resource')}")

    def info(self) -> api.Json:
        return {"kernel": "none", "features": {}}

    def disk_usage(self) -> api.Json:
        return {"images": {"count": len(self._images), "bytes": 0}}

    def collect_garbage(self) -> None:
        """Ended containers that remove themselves go here, not at their end: log and exit code are read first."""
        with self._changed:
            self._called("collect_garbage", "")
            for container in list(self._containers.values()):
                if container.spec.auto_remove and container.runs and not container.live:
                    self._containers.pop(container.id)

    def close(self) -> None:
        return

    # ---- inside -------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._counter += 1
        return self._counter

    def _called(self, operation: str, name: str) -> None:
        self.calls.append((operation, name))
        for fault in self._faults:
            if fault.times > 0 and fault.operation == operation and fault.name in name:
                fault.times -= 1
                raise fault.error
        if self.on_call is not None:
            error = self.on_call(operation, name)
            if error is not None:
                raise error

    def _get(self, id: str, verb: str) -> _Container:
        container = self._containers.get(id)
        if container is None:
            raise NotFound(f'cannot {verb} container "{id}": no such container')
        return container

    def _event(self, container: _Container, action: str, detail: Mapping[str, str] | None = None) -> None:
        self._events.append(
            api.Event(self._now, "container", action, container.id, dict(container.labels), dict(detail or {}))
        )
        self._changed.notify_all()

    def _move_to(self, now: float) -> None:
        self._now = max(self._now, now)
        self._settle()

    def _settle(self) -> None:
        for container in list(self._containers.values()):
            if container.status == "running" and container.ends_at <= self._now:
                self._finish(container, container.ends_at, container.program.code, oom=container.program.oom)

    def _finish(
        self, container: _Container, at: float, code: int | None, *, signal: int = 0, oom: bool = False,
        by_us: bool = False, lost: bool = False,
    ) -> None:  # fmt: skip
        container.status = "stopped"
        container.pid = 0
        container.ends_at = FOREVER
        container.health, container.health_detail = "none", ""
        container.addresses, container.ports = {}, ()
        container.damage = ()
        code = 128 + signal if signal else code
        run = replace(
            container.runs[-1], finished_at=at, exit_code=code, signal=signal, oom=oom, by_us=by_us, lost=lost
        )
        container.runs = [*container.runs[:-1], run]
        self._event(container, "exit", {"exit_code": str(code)})


def _digest(value: Any) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _definition(spec: api.NetworkSpec) -> api.NetworkSpec:
    return replace(spec, labels={}, declared=None)


def _copy(value: Any) -> Any:
    """A JSON round trip: what a real engine would give back, and a proof that `declared` is JSON."""
    return json.loads(json.dumps(value))


def check_is_an_engine(engine: FakeEngine) -> api.Engine:
    """Makes the type checker compare the fake with the protocol."""
    return engine
