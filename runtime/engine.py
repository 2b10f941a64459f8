"""The container engine on one state root: the composition of images, networks, volumes and containers.

There is no daemon: every process that constructs an Engine works on the same files, kernel objects and supervisor.
See `runtime.api.Engine` for what each method promises.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runtime import api
from runtime.container.lifecycle import Lifecycle
from runtime.container.store import ContainerStore, OutputToCome
from runtime.errors import Conflict, DiskFull, EngineError, NotFound, Unsupported
from runtime.image.store import ImageStore
from runtime.layout import Layout
from runtime.network import Networks
from runtime.supervise.client import SupervisorClient
from runtime.supervise.wire import write_all
from runtime.volume import Volumes

KEPT_BUILD_CACHE = 7 * 86400.0
"""A build's layers that no image holds are kept so long after their last use (seconds)."""

if TYPE_CHECKING:
    from runtime.container.exec import Executor


@contextmanager
def translated(action: str) -> Iterator[None]:
    """What the kernel or the disk refuses becomes one of the engine's own kinds."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"cannot {action}: no space left on the state root's disk", "free some, then repeat"
            ) from error
        if error.errno in (errno.EPERM, errno.EACCES) and os.geteuid() != 0:
            raise Unsupported(f"cannot {action}: root privileges are needed", "run as root") from error
        where = f" ({error.filename})" if error.filename else ""
        raise EngineError(f"cannot {action}: {error.strerror or error}{where}") from error


class Engine:
    """Implements `runtime.api.Engine`. Cheap to construct; the state root is made by the first use."""

    def __init__(self, layout: Layout) -> None:
        require_linux_root()
        self.layout = layout
        with translated(f'open the state root "{layout.root}"'):
            layout.create()
        self.client = SupervisorClient(layout)
        self.images = ImageStore(layout)
        self.store = ContainerStore(layout)
        self.networks = Networks(layout, self.client)
        self.volumes = Volumes(layout)
        self.lifecycle = Lifecycle(layout, self.store, self.images, self.networks, self.volumes, self.client)

    @cached_property
    def executor(self) -> Executor:
        from runtime.container.exec import Executor

        return Executor(self.lifecycle)

    def snapshot(self, deep: bool = True) -> api.Snapshot:
        from runtime.observe import Observer

        with translated("look at the state root"):
            observer = Observer(self.layout, self.store, self.images, self.networks)
            records = self.store.all()
            for record in records:
                self.lifecycle.keep_end(record.id)
            if any(record.spec.auto_remove for record in records):
                from runtime.container.remains import remove_ended

                records = [record for record in records if not remove_ended(self.lifecycle, record)]
            return api.Snapshot(
                containers=tuple(observer.container(record, deep) for record in records),
                images=tuple(self.images.info(record) for record in self.images.list()),
                networks=tuple(self.networks.list(deep=deep)),
                volumes=observer.volumes(self.volumes.list(), records),
            )

    # ---- images

    def make_image(
        self, name: str, request: api.ImageRequest, labels: api.Labels, declared: api.Json, progress: api.Progress
    ) -> api.ImageInfo:
        from runtime.container.step import collect_steps

        with translated(f'make image "{name}"'):
            # Layers that a killed build left half made may be as large as whole ones.
            collect_steps(self.lifecycle)
            self.images.recover()
            if isinstance(request, api.BuildRequest):
                record = self._build(name, request, labels, declared, progress)
            elif isinstance(request, api.BootstrapRequest):
                from runtime.image.bootstrap import bootstrap

                record = bootstrap(self.images, request, name, labels, declared, progress, force=request.no_cache)
            else:
                from runtime.image.archive import load

                record = load(self.images, request, name, labels, declared, progress)
            return self.images.info(record)

    def _build(
        self, name: str, request: api.BuildRequest, labels: api.Labels, declared: api.Json, progress: api.Progress
    ) -> Any:
        from runtime.build.builder import build
        from runtime.container.step import run_step

        def step(
            lowers: list[str], upper: str, work: str, argv: list[str], env: list[str], cwd: str, user: str,
            network: str, output: Callable[[bytes], None], timeout: float | None,
        ) -> int:  # fmt: skip
            return run_step(self.lifecycle, lowers, upper, work, argv, env, cwd, user, network, output, timeout)

        return build(self.images, request, name, labels, declared, progress, step, self.layout)

    def find_image(self, name: str) -> api.ImageInfo | None:
        with translated(f'find image "{name}"'):
            record = self.images.get(name)
            return self.images.info(record) if record else None

    def tag_image(self, name: str, new_name: str) -> None:
        with translated(f'tag image "{name}"'):
            self.images.tag(name, new_name)

    def remove_image(self, name: str, force: bool = False) -> None:
        with translated(f'remove image "{name}"'):
            record = self.images.get(name)
            if record is None:
                return
            self.images.remove(name, force, [container.image_id for container in self.store.all()])

    def collect_images(self, keep: Sequence[str]) -> int:
        with translated("collect images"):
            from runtime.build.cache import keep_recent

            cached = keep_recent(self.layout, time.time() - KEPT_BUILD_CACHE)
            return self.images.collect([*keep, *cached, *(record.image_id for record in self.store.all())])

    def context_digest(self, request: api.BuildRequest) -> str:
        from runtime.build.context import context_digest

        with translated(f'read the build context "{request.context}"'):
            return context_digest(request, cache_dir=self.layout.build_cache)

    # ---- networks

    def create_network(self, spec: api.NetworkSpec) -> api.NetworkInfo:
        with translated(f'create network "{spec.name}"'):
            return self.networks.create(spec)

    def check_network(self, spec: api.NetworkSpec) -> None:
        with translated(f'check network "{spec.name}"'):
            self.networks.check(spec)

    def repair_network(self, name: str) -> None:
        with translated(f'repair network "{name}"'):
            self.networks.repair(name)

    def remove_network(self, name: str) -> None:
        with translated(f'remove network "{name}"'):
            users = [
                record.name
                for record in self.store.all()
                if self.store.live_pid(record.id) and any(one.network == name for one in record.spec.networks)
            ]
            if users:
                raise Conflict(f'cannot remove network "{name}": container "{users[0]}" is on it', "stop it first")
            self.networks.remove(name)

    # ---- volumes

    def create_volume(self, spec: api.VolumeSpec) -> api.VolumeInfo:
        with translated(f'create volume "{spec.name}"'):
            return self.volumes.create(spec)

    def repair_volume(self, name: str) -> None:
        with translated(f'repair volume "{name}"'):
            self.volumes.repair(name)

    def remove_volume(self, name: str) -> None:
        with translated(f'remove volume "{name}"'):
            for record in self.store.all():
                if any(mount.kind == "volume" and mount.source == name for mount in record.spec.mounts):
                    raise Conflict(
                        f'cannot remove volume "{name}": container "{record.name}" mounts it', "remove it first"
                    )
            self.volumes.remove(name)

    # ---- configs and secrets

    def file_digest(self, content: bytes, secret: bool) -> str:
        if not secret:
            return hashlib.sha256(content).hexdigest()
        import hmac

        return hmac.new(self._secret_key, content, "sha256").hexdigest()

    @cached_property
    def _secret_key(self) -> bytes:
        """Keys the digests of secrets: a plain hash in a plan would let anyone guess short secrets."""
        path = f"{self.layout.secrets}/.key"
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            pass
        temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
        _write_durably(temporary, os.urandom(32))
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
        with open(path, "rb") as file:
            return file.read()

    def put_file(self, content: bytes, secret: bool) -> str:
        with translated("keep a config or secret"):
            digest = self.file_digest(content, secret)
            path = f"{self.layout.secrets if secret else self.layout.configs}/{digest}"
            if not os.path.exists(path):
                temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
                try:
                    _write_durably(temporary, content)
                    os.rename(temporary, path)
                except BaseException:
                    with suppress(FileNotFoundError):
                        os.unlink(temporary)
                    raise
            return digest

    # ---- containers

    def find_container(self, id: str) -> api.ContainerState | None:
        from runtime.observe import Observer

        with translated(f'look at container "{id}"'):
            try:
                record = self.store.get(self.store.find(id))
            except NotFound:
                return None
            self.lifecycle.keep_end(record.id)
            return Observer(self.layout, self.store, self.images, self.networks).container(record, deep=False)

    def create_container(self, spec: api.ContainerSpec) -> str:
        with translated(f'create container "{spec.name}"'):
            return self.lifecycle.create(spec)

    def start_container(self, id: str) -> None:
        with translated(f'start container "{id}"'):
            self.lifecycle.start(self.store.find(id))

    def start_attached(self, id: str, stdio: tuple[int, int, int]) -> int:
        from runtime.container.foreground import run_foreground

        with translated(f'start container "{id}"'):
            return run_foreground(self.lifecycle, self.store.get(self.store.find(id)), stdio)

    def stop_container(self, id: str, grace: float | None = None, by_hand: bool = False) -> None:
        with translated(f'stop container "{id}"'):
            self.lifecycle.stop(self.store.find(id), grace, by_hand)

    def kill_container(self, id: str, signal: str = "SIGKILL", by_hand: bool = False) -> None:
        with translated(f'kill container "{id}"'):
            self.lifecycle.kill(self.store.find(id), signal, by_hand)

    def pause_container(self, id: str) -> None:
        with translated(f'pause container "{id}"'):
            self.lifecycle.pause(self.store.find(id))

    def unpause_container(self, id: str) -> None:
        with translated(f'unpause container "{id}"'):
            self.lifecycle.unpause(self.store.find(id))

    def remove_container(self, id: str, force: bool = False) -> None:
        with translated(f'remove container "{id}"'):
            try:
                found = self.store.find(id)
            except NotFound:
                return
            self.lifecycle.remove(found, force)

    def repair_container(self, id: str) -> None:
        with translated(f'repair container "{id}"'):
            self.lifecycle.repair(self.store.find(id))

    def relabel_container(self, id: str, labels: api.Labels, declared: api.Json, care: api.Care | None = None) -> None:
        with translated(f'relabel container "{id}"'):
            self.lifecycle.relabel(self.store.find(id), dict(labels), declared, care)

    def wait_container(self, id: str, timeout: float | None = None) -> api.Run | None:
        with translated(f'wait for container "{id}"'):
            from runtime.container.attended import attended

            found = self.store.find(id)
            with attended(self.layout, found):
                return self.lifecycle.wait(found, timeout)

    def set_health(self, id: str, health: api.Health, detail: str = "") -> None:
        with translated(f'record the health of container "{id}"'):
            try:
                self.lifecycle.set_health(self.store.find(id), health, detail)
            except NotFound:
                return

    def exec_capture(self, id: str, spec: api.ExecSpec, timeout: float) -> api.ExecResult:
        with translated(f'exec in container "{id}"'):
            return self.executor.capture(self.store.find(id), spec, timeout)

    def exec_attached(self, id: str, spec: api.ExecSpec, stdio: tuple[int, int, int]) -> int:
        with translated(f'exec in container "{id}"'):
            return self.executor.attached(self.store.find(id), spec, stdio)

    def logs(
        self, id: str, follow: bool = False, since: float = 0.0, until: float = 0.0, tail: int = -1
    ) -> Iterator[api.LogLine]:
        from runtime.supervise.logfile import read_log

        found = self.store.find(id)
        directory = f"{self.layout.container(found)}/log"

        lines = read_log(directory, follow, since, until, tail, OutputToCome(self.store, found))
        while True:
            # Around each step, not the loop: what the caller does with a line is not ours to translate.
            with translated(f'read the log of container "{id}"'):
                line = next(lines, None)
            if line is None:
                return
            yield api.LogLine(line[0], "stdout" if line[1] == 1 else "stderr", line[2])

    def events(self, stop: Callable[[], bool]) -> Iterator[api.Event]:
        from runtime.container.events import watch_events

        yield from watch_events(self.client, self.store, stop)

    # ---- host

    def preflight(self, ports: Sequence[api.Port], labels: api.Labels) -> list[str]:
        group = f"{labels.get('holdfast.stack')}/{labels.get('holdfast.resource')}"
        with translated("look at ports"):
            return self.networks.busy_ports(ports, group)

    def info(self) -> api.Json:
        from runtime.system import describe_host

        with translated("look at the host"):
            return describe_host(self.layout, self.networks)

    def disk_usage(self) -> api.Json:
        from runtime.system import disk_usage

        with translated("measure the state root"):
            return disk_usage(self.layout, self.images, self.store)

    def collect_garbage(self) -> None:
        from runtime.cgroup import sweep_cgroups
        from runtime.container.remains import collect_remains, collect_temporaries
        from runtime.container.step import collect_steps
        from runtime.snapshot.overlay import empty_trash

        with translated("clean the state root"):
            self.images.recover()
            collect_remains(self.lifecycle)
            collect_temporaries(self.layout)
            collect_steps(self.lifecycle)
            live = self.live_ids()
            self.networks.collect_garbage(live)
            sweep_cgroups(self.layout.cgroup, self._abandoned)
            empty_trash(self.layout.trash)
            self.client.shutdown_if_idle()

    def _abandoned(self, cgroup: str) -> AbstractContextManager[bool]:
        from runtime.cgroup import KEEPER
        from runtime.network.liveness import keeper_gone, proven_dead

        return keeper_gone(self.layout) if cgroup == KEEPER else proven_dead(self.layout, cgroup)

    def live_ids(self) -> set[str]:
        """Every container and build step with a live process."""
        try:
            names = os.listdir(self.layout.run_containers)
        except FileNotFoundError:
            return set()
        return {name for name in names if self.store.live_pid(name)}

    def close(self) -> None:
        self.client.close()


def _write_durably(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)


def require_linux_root() -> None:
    """Raises Unsupported where the engine cannot work at all."""
    if os.uname().sysname != "Linux":
        raise Unsupported(f"cannot run containers on {os.uname().sysname}: the engine needs Linux")
    if os.geteuid() != 0:
        raise Unsupported("cannot run containers: root privileges are needed", "run as root")
