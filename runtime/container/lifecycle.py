"""The life of a container: created, running, paused, stopped, removed.

Each verb is idempotent and holds the container's own lock only while it changes things; what runs is known from
the kernel and the supervisor's records, never from memory.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runtime import api
from runtime.container.checks import check_spec
from runtime.container.features import check_cgroups, explain_failure
from runtime.container.rootfs import Rootfs, container_mounts, volume_targets
from runtime.container.spec import (
    SecurityOptions,
    health_check,
    launch_request,
    resources_request,
    signal_number,
)
from runtime.container.store import ContainerRecord, ContainerStore, new_id, run_from_exit
from runtime.container.users import Identity, resolve_user
from runtime.errors import Conflict, EngineError, InvalidSpec, NotFound, StartFailed, Unavailable
from runtime.files import read_json, write_json
from runtime.image.store import ImageRecord, ImageStore
from runtime.layout import Layout
from runtime.lock import locked
from runtime.network import Endpoint, Networks
from runtime.sandbox import capabilities, seccomp
from runtime.supervise.client import SupervisorClient
from runtime.volume import Volumes

KILL_DEADLINE = 10.0
LABEL_ANONYMOUS = "holdfast.anonymous"


class Lifecycle:
    """Brings records, images, networks, volumes and the supervisor together."""

    def __init__(
        self, layout: Layout, store: ContainerStore, images: ImageStore, networks: Networks, volumes: Volumes,
        client: SupervisorClient,
    ) -> None:  # fmt: skip
        self.layout = layout
        self.store = store
        self.images = images
        self.networks = networks
        self.volumes = volumes
        self.client = client
        self._identities: dict[tuple[str, str, tuple[str, ...]], Identity] = {}

    # ---- create

    def create(self, spec: api.ContainerSpec) -> str:
        """Check all that can be checked without starting, and record it. Raises NotFound, InvalidSpec, Conflict."""
        image = self.images.get(spec.image)
        if image is None:
            raise NotFound(
                f'cannot create container "{spec.name}": no image "{spec.image}" here',
                "build it, or declare an Image (bootstrap, build or archive)",
            )
        config = image_config(image)
        check_spec(spec, config)
        check_cgroups(spec.name, spec.resources)
        if spec.network_mode == "bridge" and not spec.networks:
            spec = dataclasses.replace(spec, networks=(api.Attachment(self.networks.ensure_default().name),))
        store = self.store
        record_id = None
        anonymous = []
        mounts = list(spec.mounts)
        targets = volume_targets(spec, config)
        unnamed = [index for index, mount in enumerate(mounts) if mount.kind == "volume" and not mount.source]
        if targets or unnamed:
            record_id = new_id()
            for number, target in enumerate([*(mounts[index].target for index in unnamed), *targets]):
                name = f"{record_id}-{number}"
                anonymous.append(name)
                if number < len(unnamed):
                    old = mounts[unnamed[number]]
                    mounts[unnamed[number]] = _with_source(old, name)
                else:
                    mounts.append(api.Mount("volume", target, name))
        if tuple(mounts) != spec.mounts:
            spec = _with_mounts(spec, tuple(mounts))
        try:
            for mount in mounts:
                if mount.kind == "volume":
                    self._ensure_volume(mount.source, mount.source in anonymous)
            if "holdfast.stack" in spec.labels:
                return store.add(spec, image.id, anonymous, record_id).id
            # Two commands at once must not both find the name free.
            with locked(f"{self.layout.locks}/container-names"):
                self._refuse_second_name(spec.name)
                return store.add(spec, image.id, anonymous, record_id).id
        except BaseException:
            for name in anonymous:
                self.volumes.remove(name)
            raise

    def _refuse_second_name(self, name: str) -> None:
        for record in self.store.all():
            if record.name == name:
                raise Conflict(
                    f'cannot create container "{name}": the name is in use by {record.id[:12]}',
                    f'"holdfast container rm {name}" frees it',
                )

    def _ensure_volume(self, name: str, anonymous: bool) -> None:
        try:
            self.volumes.get(name)
        except NotFound:
            labels = {LABEL_ANONYMOUS: "true"} if anonymous else {}
            self.volumes.create(api.VolumeSpec(name, labels))

    # ---- start

    def start(self, id: str, stdin: str = "null", stdio: tuple[int, int, int] | None = None) -> None:
        with self._lock(id):
            record = self.store.get(id)
            if self.store.live_pid(id):
                if os.path.exists(self.store.run_file(id, "paused")):
                    raise Conflict(f'cannot start container "{record.name}": it is paused', "unpause it")
                self._publish_again(record)
                return
            self.settle(id)
            self.store.set_intent(id, "")
            self._forget_run(record)
            try:
                with _open_input(record.spec, stdio) as given:
                    self._launch(record, stdin, given)
            except BaseException as error:
                try:
                    self._end_half_started(id)
                finally:
                    self._give_back(record)
                    failed = api.Run(time.time(), time.time(), getattr(error, "exit_code", 125), refused=True)
                    self.store.close_run(id, failed)
                raise

    def _end_half_started(self, id: str) -> None:
        """A failure after exec, as of a port that cannot be published, must not leave a program that nobody reaches."""
        if self.store.live_pid(id):
            self._signal(id, signal.SIGKILL)
            self.wait(id, KILL_DEADLINE)

    def _launch(self, record: ContainerRecord, stdin: str, stdio: tuple[int, int, int] | None) -> None:
        id, spec = record.id, record.spec
        image = self.images.get(record.image_id)
        if image is None:
            raise NotFound(f'cannot start container "{spec.name}": its image {record.image_id} is gone')
        config = image_config(image)
        run = self.layout.run_container(id)
        os.makedirs(run, mode=0o700, exist_ok=True)
        self.store.open_run(id)
        rootfs = Rootfs(self.layout.container(id), self.images.lower_dirs(image))
        identity = self._identity(record, config, rootfs)
        hostname = spec.hostname or id[:12]
        ports: list[api.Port] = []
        interfaces: list[dict[str, Any]] = []
        if spec.network_mode == "bridge" and spec.networks:
            if spec.ports:
                if not self.networks.publishable([attachment.network for attachment in spec.networks]):
                    raise InvalidSpec(
                        f'cannot publish ports of container "{spec.name}": all its networks are internal',
                        "attach it to a network that is not internal, or publish nothing",
                    )
                ports = self.networks.reserve_ports(id, list(spec.ports), record.group)
            interfaces = self.networks.attach(id, spec.networks)
        write_json(f"{run}/net", {"interfaces": interfaces, "ports": [_port_json(port) for port in ports]})
        texts = self._texts(record, hostname, interfaces)
        security = SecurityOptions(spec.security_opt, spec.privileged)
        caps = frozenset(capabilities.resolve(list(spec.cap_add), list(spec.cap_drop), spec.privileged))
        profile = None if security.seccomp in (None, "unconfined") else security.seccomp
        filter_path = "" if security.seccomp == "unconfined" else seccomp.bpf_for(self.layout, caps, profile)
        request = launch_request(
            id, spec, config, identity,
            hostname=hostname,
            rootfs=rootfs.prepare(self.layout, f"{run}/merged"),
            mounts=container_mounts(record, rootfs, self.volumes, self.layout, texts),
            interfaces=interfaces,
            seccomp=filter_path,
            log={
                "dir": f"{self.layout.container(id)}/log",
                "max_size": spec.log_max_size,
                "max_files": spec.log_max_files,
            },
            stdin="pty" if spec.tty else "fd" if stdio else stdin,
        )  # fmt: skip
        write_json(f"{run}/request.json", request)
        try:
            self.client.start(id, stdio)
        except StartFailed as error:
            better = explain_failure(error)
            if better is not None:
                raise better from error
            raise
        if interfaces:
            self.networks.publish(id, self._endpoint(record, interfaces, ports))

    def _identity(self, record: ContainerRecord, config: dict[str, Any], rootfs: Rootfs) -> Identity:
        """Until a container has written something, who a name is depends on its image alone."""
        user = record.spec.user if record.spec.user is not None else config.get("User") or ""
        if os.path.isdir(rootfs.upper):
            return resolve_user(user, record.spec.group_add, rootfs.read_text)
        key = (record.image_id, user, record.spec.group_add)
        if key not in self._identities:
            self._identities[key] = resolve_user(user, record.spec.group_add, rootfs.read_text)
        return self._identities[key]

    def _texts(self, record: ContainerRecord, hostname: str, interfaces: list[dict[str, Any]]) -> dict[str, str]:
        spec = record.spec
        if spec.network_mode == "host":
            return {}
        hosts, resolv = self.networks.hosts_and_resolv(
            record.id, hostname, spec.domainname, spec.extra_hosts, spec.dns, interfaces
        )
        return {"/etc/hosts": hosts, "/etc/resolv.conf": resolv, "/etc/hostname": hostname + "\n"}

    def _endpoint(self, record: ContainerRecord, interfaces: list[dict[str, Any]], ports: list[api.Port]) -> Endpoint:
        own = (record.name, record.name.rpartition("/")[2], record.id[:12], record.spec.hostname)
        return Endpoint(
            names={
                attachment.network: list(dict.fromkeys(name for name in (*attachment.aliases, *own) if name))
                for attachment in record.spec.networks
            },
            addresses=network_addresses(record.spec.networks, interfaces),
            ports=tuple(ports),
            health="starting" if self.health_check(record) else "none",
            group=record.group,
            dns=record.spec.dns,
        )

    def _forget_run(self, record: ContainerRecord) -> None:
        """Fold the former run into the record and clear its run-time files and claims."""
        if not os.path.exists(self.layout.run_container(record.id)):
            return
        self.store.close_run(record.id)
        if record.spec.networks:
            self.networks.detach(record.id)
        run = self.layout.run_container(record.id)
        for name in ("exit", "meta", "request.json", "net", "health", "paused"):
            try:
                os.unlink(f"{run}/{name}")
            except FileNotFoundError:
                pass

    def _give_back(self, record: ContainerRecord) -> None:
        if record.spec.networks:
            self.networks.detach(record.id)
            self.networks.release_ports(record.id)

    def settle(self, id: str) -> None:
        """When the process is gone without an exit record, have the supervisor (a new one, if need be) write it."""
        if not self.store.exit_is_pending(id):
            return
        deadline = time.monotonic() + 5.0
        self.client.running()
        while self.store.exit_is_pending(id) and time.monotonic() < deadline:
            time.sleep(0.005)

    def keep_end(self, id: str) -> None:
        """Make a finished run durable: a job that has completed must not run again after a boot.

        Whoever holds the container's lock is changing it, and will see to its runs.
        """
        if self.store.exit_is_pending(id):
            self.settle(id)
        if self.store.has_unkept_end(id):
            try:
                with locked(f"{self.layout.locks}/container-{id}", timeout=0.0):
                    self.store.close_run(id)
            except (Unavailable, FileNotFoundError):
                return

    # ---- stop, kill, pause

    def stop(self, id: str, grace: float | None = None, by_hand: bool = False) -> None:
        self.store.get(id)
        if by_hand:
            self.store.set_intent(id, "stop")
        with self._lock(id):
            record = self.store.get(id)
            if by_hand:
                self.store.set_intent(id, "stop")  # a start that held the lock has cleared it
            if not self.store.live_pid(id):
                self.settle(id)
                self._end(record)
                return
            self._withdraw(record)
            if os.path.exists(self.store.run_file(id, "paused")):
                self._thaw(id)
            image = self.images.get(record.image_id)
            config = image_config(image) if image else {}
            self._signal(id, signal_number(record.spec.stop_signal or config.get("StopSignal")))
            if self.wait(id, record.spec.stop_grace if grace is None else grace) is None:
                self._signal(id, signal.SIGKILL)
                if self.wait(id, KILL_DEADLINE) is None:
                    raise Unavailable(
                        f'cannot stop container "{record.name}": it does not die',
                        "a process of it hangs in the kernel",
                    )
            self._end(record)

    def _withdraw(self, record: ContainerRecord) -> None:
        """Take it from names and ports before it hears of its end, so that no new request reaches it."""
        if record.spec.networks:
            self.networks.withdraw(record.id)

    def _end(self, record: ContainerRecord) -> None:
        self.store.close_run(record.id)
        if record.spec.networks:
            self.networks.detach(record.id)

    def _signal(self, id: str, number: int) -> None:
        try:
            self.client.signal(id, number)
        except NotFound:
            pass

    def kill(self, id: str, name: str, by_hand: bool = False) -> None:
        record = self.store.get(id)
        if not self.store.live_pid(id):
            raise Conflict(f'cannot kill container "{record.name}": it is not running')
        number = signal_number(name)
        if by_hand and number == signal.SIGKILL:
            self.store.set_intent(id, "stop")
        self.client.signal(id, number)

    def pause(self, id: str) -> None:
        with self._lock(id):
            record = self.store.get(id)
            if not self.store.live_pid(id):
                raise Conflict(f'cannot pause container "{record.name}": it is not running')
            # Said first: a stop must know that it has to thaw, also when we are killed in between.
            write_json(self.store.run_file(id, "paused"), {"time": time.time()})
            try:
                self.client.freeze(id)
            except EngineError:
                self._thaw(id)
                raise

    def unpause(self, id: str) -> None:
        with self._lock(id):
            record = self.store.get(id)
            if not self.store.live_pid(id):
                raise Conflict(f'cannot unpause container "{record.name}": it is not running')
            self._thaw(id)

    def _thaw(self, id: str) -> None:
        try:
            self.client.thaw(id)
        except NotFound:
            pass  # it ended meanwhile
        try:
            os.unlink(self.store.run_file(id, "paused"))
        except FileNotFoundError:
            pass

    def wait(self, id: str, timeout: float | None) -> api.Run | None:
        """The finished run; at once when none runs. A container that never ran counts as an error."""
        if not self.store.live_pid(id):
            self.settle(id)
            runs = self.store.runs(id)[1]
            if not runs:
                raise Conflict(f'cannot wait for container "{id[:12]}": it was never started')
            return runs[-1]
        try:
            record = self.client.wait(id, timeout)
        except NotFound:
            record = read_json(self.store.run_file(id, "exit"))
        if record is None:
            return None
        return run_from_exit(record, record.get("started_at", 0.0))

    # ---- remove

    def remove(self, id: str, force: bool = False) -> None:
        with self._lock(id):
            try:
                record = self.store.get(id)
            except NotFound:
                self.forget_lock(id)
                return
            if self.store.live_pid(id):
                if not force:
                    raise Conflict(
                        f'cannot remove container "{record.name}": it is running', "stop it first, or use --force"
                    )
                self._withdraw(record)
                if os.path.exists(self.store.run_file(id, "paused")):
                    self.client.thaw(id)
                self._signal(id, signal.SIGKILL)
                if self.wait(id, KILL_DEADLINE) is None:
                    raise Unavailable(f'cannot remove container "{record.name}": it does not die')
            else:
                self.settle(id)
            self._give_back(record)
            self.store.discard(id)
            for name in record.anonymous:
                self.volumes.remove(name)
        self.forget_lock(id)

    def _lock(self, id: str) -> Any:
        return locked(f"{self.layout.locks}/container-{id}", timeout=120.0)

    def forget_lock(self, id: str) -> None:
        """A removed container's lock may go: whoever waits for it finds no container afterwards."""
        try:
            os.unlink(f"{self.layout.locks}/container-{id}")
        except FileNotFoundError:
            pass

    # ---- repair and health

    def repair(self, id: str) -> None:
        with self._lock(id):
            record = self.store.get(id)
            pid = self.store.live_pid(id)
            if not pid:
                return
            self.client.update(id, resources_request(record.spec.resources))
            if record.spec.networks:
                self.networks.repair_container(id, pid)
                self._publish_again(record)

    def _publish_again(self, record: ContainerRecord) -> None:
        """For one that runs though whoever started it was killed before it could say so to names and ports."""
        net = read_json(self.store.run_file(record.id, "net")) if record.spec.networks else None
        if not net or not net["interfaces"] or self.networks.is_published(record.id):
            return
        endpoint = self._endpoint(record, net["interfaces"], [api.Port(**port) for port in net["ports"]])
        self.networks.publish(record.id, endpoint)
        health = read_json(self.store.run_file(record.id, "health"))
        if health:
            self.networks.set_health(record.id, health["health"])

    def health_check(self, record: ContainerRecord) -> api.HealthCheck | None:
        image = self.images.get(record.image_id)
        return health_check(record.spec, image_config(image) if image else {})

    def relabel(self, id: str, labels: dict[str, str], declared: Any, care: api.Care | None) -> None:
        before = self.health_check(self.store.get(id))
        self.store.relabel(id, labels, declared, care)
        record = self.store.get(id)
        after = self.health_check(record)
        if (before and before.test) == (after and after.test):
            return
        # What another check found says nothing; names and ports stay as they are until this one has spoken.
        try:
            os.unlink(self.store.run_file(id, "health"))
        except FileNotFoundError:
            pass
        if after is None and record.spec.networks and self.store.live_pid(id):
            self.networks.set_health(id, "none")

    def set_health(self, id: str, health: api.Health, detail: str) -> None:
        record = self.store.get(id)
        if not self.store.live_pid(id):
            return
        before = read_json(self.store.run_file(id, "health"))
        write_json(self.store.run_file(id, "health"), {"health": health, "detail": detail[-500:], "time": time.time()})
        if record.spec.networks and (before is None or before["health"] != health):
            self.networks.set_health(id, health)


@contextmanager
def _open_input(spec: api.ContainerSpec, stdio: tuple[int, int, int] | None) -> Iterator[tuple[int, int, int] | None]:
    """`stdin_open` without anybody at the other end: an input that holds nothing and never ends."""
    if stdio is not None or spec.tty or not spec.stdin_open:
        yield stdio
        return
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        # Opened for both, so that the program itself keeps the end from coming.
        both = os.open(f"/proc/self/fd/{reading}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(reading)
        os.close(writing)
    try:
        yield (both, both, both)
    finally:
        os.close(both)


def image_config(image: ImageRecord) -> dict[str, Any]:
    return image.config.get("config") or {}


def network_addresses(
    attachments: tuple[api.Attachment, ...], interfaces: list[dict[str, Any]]
) -> dict[str, list[str]]:
    """Network name -> bare addresses, in the order of the attachments."""
    return {
        attachment.network: [address.partition("/")[0] for address in interface["addresses"]]
        for attachment, interface in zip(attachments, interfaces, strict=True)
    }


def _port_json(port: api.Port) -> dict[str, Any]:
    return {
        "container_port": port.container_port,
        "host_port": port.host_port,
        "protocol": port.protocol,
        "host_ip": port.host_ip,
    }


def _with_source(mount: api.Mount, source: str) -> api.Mount:
    return dataclasses.replace(mount, source=source)


def _with_mounts(spec: api.ContainerSpec, mounts: tuple[api.Mount, ...]) -> api.ContainerSpec:
    return dataclasses.replace(spec, mounts=mounts)
