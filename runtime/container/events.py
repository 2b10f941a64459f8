"""The supervisor's events as the engine's: a container started, a container ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from runtime import api
from runtime.container.store import ContainerStore
from runtime.errors import EngineError, NotFound
from runtime.supervise.client import SupervisorClient

LOOK_AT_STOP = 0.5
PAUSE_WITHOUT_SUPERVISOR = 1.0


def watch_events(client: SupervisorClient, store: ContainerStore, stop: Callable[[], bool]) -> Iterator[api.Event]:
    """A hint and nothing more: whoever needs the truth takes a snapshot.

    Without a supervisor there is nothing to hear of; it is looked for again each second and never started by this.
    """
    while not stop():
        try:
            watch = client.watch(start=False)
        except EngineError:
            _pause(PAUSE_WITHOUT_SUPERVISOR, stop)
            continue
        yield api.Event(time.time(), "supervisor", "connected", "")
        try:
            while not stop():
                for event in watch.read(LOOK_AT_STOP):
                    yield _event(event, store)
        except (OSError, EngineError):
            continue
        finally:
            watch.close()


def _pause(seconds: float, stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not stop() and time.monotonic() < deadline:
        time.sleep(0.05)


def _event(event: dict[str, object], store: ContainerStore) -> api.Event:
    id = str(event["id"])
    try:
        labels = store.get(id).labels
    except NotFound:
        labels = {}
    record = event.get("record")
    detail = {key: str(value) for key, value in record.items()} if isinstance(record, dict) else {}
    return api.Event(time.time(), "container", str(event["event"]), id, labels, detail)
