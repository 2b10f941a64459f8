"""What is known of containers: durable records below the root, run-time records below the run directory.

<root>/containers/<id>/container.json   the spec as created, labels, declared (replaced by rename only)
                       runs.json        starts, and the last 20 runs; an open run has finished_at 0
                       intent           "stop" while a person wants it stopped
                       upper work merged log files
<run>/containers/<id>/  request.json meta exit out err    (supervisor), net health paused hosts resolv secrets
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from typing import Any

from runtime import api
from runtime.errors import Conflict, NotFound
from runtime.files import read_json, write_json, write_text
from runtime.layout import Layout
from runtime.snapshot import overlay

KEPT_RUNS = 20


def process_start_time(pid: int) -> int:
    """Clock ticks after boot at which `pid` began, 0 when it is gone or a zombie.

    Pid and start time together identify a process; pids alone are used again.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


class ContainerRecord:
    """A container as created: `spec` plus what creation decided."""

    __slots__ = ("anonymous", "created_at", "declared", "id", "image_id", "labels", "spec")

    def __init__(
        self,
        id: str,
        spec: api.ContainerSpec,
        image_id: str,
        created_at: float,
        labels: dict[str, str],
        declared: Any,
        anonymous: list[str],
    ) -> None:
        self.id = id
        self.spec = spec
        self.image_id = image_id
        self.created_at = created_at
        self.labels = labels
        self.declared = declared
        self.anonymous = anonymous

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def group(self) -> str:
        """The replicas that share a published port and a name: those of one resource of one stack."""
        stack, resource = self.labels.get("holdfast.stack"), self.labels.get("holdfast.resource")
        return f"{stack}/{resource}" if stack and resource else self.id


def _encode(record: ContainerRecord) -> str:
    value = {
        "id": record.id,
        "image_id": record.image_id,
        "created_at": record.created_at,
        "labels": record.labels,
        "declared": record.declared,
        "anonymous": record.anonymous,
        "spec": spec_to_json(record.spec),
    }
    return json.dumps(value, separators=(",", ":"))


def spec_to_json(spec: api.ContainerSpec) -> dict[str, Any]:
    """Only what differs from the defaults: a record stays small and survives new fields."""
    value: dict[str, Any] = {}
    for field in dataclasses.fields(spec):
        item = getattr(spec, field.name)
        if field.name in ("labels", "declared") or item == _default(field):
            continue
        if isinstance(item, tuple):
            item = [dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part for part in item]  # type: ignore[arg-type]
        elif dataclasses.is_dataclass(item):
            item = dataclasses.asdict(item)  # type: ignore[arg-type]
        elif not isinstance(item, str | int | float | bool | None):
            item = dict(item)
        value[field.name] = item
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else dataclasses.MISSING


def _tuples(kind: type, items: list[dict[str, Any]]) -> tuple[Any, ...]:
    return tuple(
        kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in item.items()})
        for item in items
    )


_PARTS = {
    "networks": api.Attachment,
    "ports": api.Port,
    "mounts": api.Mount,
    "files": api.File,
    "ulimits": api.Ulimit,
}


def spec_from_json(value: dict[str, Any], labels: dict[str, str], declared: Any) -> api.ContainerSpec:
    arguments = dict(value)
    for key, item in value.items():
        if key in _PARTS:
            arguments[key] = _tuples(_PARTS[key], item)
        elif key == "resources":
            arguments[key] = api.Resources(**item)
        elif key == "health":
            arguments[key] = api.HealthCheck(**{**item, "test": tuple(item["test"])})
        elif isinstance(item, list):
            arguments[key] = tuple(item)
    return api.ContainerSpec(labels=labels, declared=declared, **arguments)


class ContainerStore:
    """Reads and writes the records; decides nothing."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._known: dict[str, tuple[tuple[int, int, int], ContainerRecord]] = {}

    # ---- durable records

    def add(
        self, spec: api.ContainerSpec, image_id: str, anonymous: list[str], id: str | None = None
    ) -> ContainerRecord:
        """Make the container's directory appear whole, by one rename."""
        id = id or new_id()
        record = ContainerRecord(id, spec, image_id, time.time(), dict(spec.labels), spec.declared, anonymous)
        own = process_start_time(os.getpid())
        temporary = f"{self.layout.containers}/.new-{os.getpid()}-{own}-{id}"
        os.mkdir(temporary, 0o711)
        write_text(f"{temporary}/container.json", _encode(record))
        os.rename(temporary, self.layout.container(id))
        return record

    def relabel(self, id: str, labels: dict[str, str], declared: Any, care: api.Care | None = None) -> None:
        path = f"{self.layout.container(id)}/container.json"
        record = self._read(id, path)
        record.labels, record.declared = labels, declared
        if care is not None:
            record.spec = dataclasses.replace(record.spec, health=care.health, stop_grace=care.stop_grace)
        try:
            write_text(path, _encode(record))
        except FileNotFoundError:
            raise NotFound(f'cannot relabel container "{record.name}": it was removed meanwhile') from None

    def get(self, id: str) -> ContainerRecord:
        """Raises NotFound."""
        path = f"{self.layout.container(id)}/container.json"
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            self._known.pop(id, None)
            raise NotFound(f'cannot find container "{id}": no such container') from None
        # Records are replaced by rename only: the same inode, time and size is the same record.
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._known.get(id)
        if known is not None and known[0] == version:
            return known[1]
        record = self._read(id, path)
        self._known[id] = (version, record)
        return record

    def _read(self, id: str, path: str) -> ContainerRecord:
        value = read_json(path)
        if value is None:
            raise NotFound(f'cannot find container "{id}": no such container')
        spec = spec_from_json(value["spec"], value["labels"], value["declared"])
        return ContainerRecord(
            value["id"], spec, value["image_id"], value["created_at"], value["labels"], value["declared"],
            value["anonymous"],
        )  # fmt: skip

    def ids(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.layout.containers) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def all(self) -> list[ContainerRecord]:
        records = []
        ids = self.ids()
        for gone in set(self._known).difference(ids):
            self._known.pop(gone, None)  # removed by another process
        for id in ids:
            try:
                records.append(self.get(id))
            except NotFound:
                continue
        return records

    def find(self, reference: str) -> str:
        """The id for an id, an unambiguous prefix of one, or a name (the newest of several).

        Raises NotFound or Conflict. A whole id costs one look at its directory.
        """
        if reference.isalnum() and os.path.isdir(self.layout.container(reference)):
            return reference
        records = self.all()
        named = [record for record in records if record.name == reference]
        if named:
            return max(named, key=lambda record: record.created_at).id
        if len(reference) >= 4:
            matching = [record for record in records if record.id.startswith(reference)]
            if len(matching) > 1:
                raise Conflict(f'cannot find container "{reference}": several ids begin with it')
            if matching:
                return matching[0].id
        raise NotFound(f'cannot find container "{reference}": no such container', "holdfast container ls -a lists them")

    def discard(self, id: str) -> None:
        """Take the directory out of sight by one rename, then delete at leisure."""
        overlay.remove_tree(self.layout.container(id), self.layout.trash)
        shutil.rmtree(self.layout.run_container(id), ignore_errors=True)
        if self.layout.run_secrets:
            shutil.rmtree(f"{self.layout.run_secrets}/{id}", ignore_errors=True)

    # ---- intent

    def set_intent(self, id: str, intent: str) -> None:
        path = f"{self.layout.container(id)}/intent"
        if intent:
            try:
                write_json(path, {"intent": intent, "time": time.time()})
            except FileNotFoundError:
                raise NotFound(f'cannot mark container "{id[:12]}": it was removed meanwhile') from None
        else:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def intent(self, id: str) -> str:
        value = read_json(f"{self.layout.container(id)}/intent")
        return str(value["intent"]) if value else ""

    # ---- runs

    def run_file(self, id: str, name: str) -> str:
        return f"{self.layout.run_container(id)}/{name}"

    def runs(self, id: str) -> tuple[int, list[api.Run]]:
        """How often it was started, and the last runs with the present exit record folded in."""
        value = read_json(f"{self.layout.container(id)}/runs.json")
        if value is None:
            return 0, []
        runs = [api.Run(**item) for item in value["runs"]]
        record = read_json(self.run_file(id, "exit"))
        if runs and record is not None and not runs[-1].finished_at:
            runs[-1] = run_from_exit(record, runs[-1].started_at)
        return int(value["starts"]), runs

    def open_run(self, id: str) -> None:
        starts, runs = self.runs(id)
        runs.append(api.Run(started_at=time.time()))
        self._write_runs(id, starts + 1, runs)

    def has_unkept_end(self, id: str) -> bool:
        """The exit record on tmpfs tells an end that the durable list does not have yet."""
        if not os.path.exists(self.run_file(id, "exit")):
            return False
        value = read_json(f"{self.layout.container(id)}/runs.json")
        return bool(value and value["runs"] and not value["runs"][-1]["finished_at"])

    def close_run(self, id: str, run: api.Run | None = None) -> None:
        """Fold the exit record (or `run`, when there is none) into the durable list."""
        starts, runs = self.runs(id)
        if runs and run is not None and not runs[-1].finished_at:
            runs[-1] = run
        if runs and runs[-1].finished_at:
            self._write_runs(id, starts, runs)

    def _write_runs(self, id: str, starts: int, runs: list[api.Run]) -> None:
        kept = [dataclasses.asdict(run) for run in runs[-KEPT_RUNS:]]
        write_json(f"{self.layout.container(id)}/runs.json", {"starts": starts, "runs": kept})

    # ---- liveness

    def live_pid(self, id: str) -> int:
        """The pid of the running process 1, 0 when there is none."""
        if os.path.exists(self.run_file(id, "exit")):
            return 0
        meta = read_json(self.run_file(id, "meta"))
        if meta is None:
            return 0
        return int(meta["pid"]) if process_start_time(meta["pid"]) == meta["starttime"] else 0

    def exit_is_pending(self, id: str) -> bool:
        """The process is gone and nobody has written its exit record yet."""
        return (
            os.path.exists(self.run_file(id, "meta"))
            and not os.path.exists(self.run_file(id, "exit"))
            and not self.live_pid(id)
        )


class OutputToCome:
    """Asks whether a container may still write to its log: the exit record is written after the last line is kept.

    A record that nobody writes any more (keeper and supervisor are dead) is waited for `deadline` seconds only.
    """

    def __init__(self, store: ContainerStore, id: str, deadline: float = 5.0) -> None:
        self._store = store
        self._id = id
        self._deadline = deadline
        self._gone_at = 0.0

    def __call__(self) -> bool:
        if self._store.live_pid(self._id):
            return True
        if not self._store.exit_is_pending(self._id):
            return False
        self._gone_at = self._gone_at or time.monotonic()
        return time.monotonic() - self._gone_at < self._deadline


def run_from_exit(record: dict[str, Any], started_at: float) -> api.Run:
    """The supervisor's exit record as a value; exit code 128+n for death by signal n, as shells count."""
    signal = int(record.get("signal") or 0)
    code = record.get("code")
    return api.Run(
        started_at=started_at or record.get("started_at", 0.0),
        finished_at=record["finished_at"],
        exit_code=128 + signal if signal else code,
        signal=signal,
        oom=bool(record.get("oom")),
        by_us=bool(record.get("by_us")),
        lost=bool(record.get("lost")),
    )


def new_id() -> str:
    return os.urandom(16).hex()
