"""What each verb of a plan means to the engine, step by step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from reconciler import requests
from reconciler.model import Desired, Key, Resource
from reconciler.plan import Action
from reconciler.restart import runs_to_completion
from runtime.api import Engine
from runtime.errors import EngineError

RETRIES = (0.05, 0.2)
T = TypeVar("T")


class StepFailed(Exception):
    """An action's own failure, in the words of the plan; `error` is the engine's, when there was one."""

    def __init__(self, message: str, hint: str = "", error: EngineError | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.error = error


def persistently(step: Callable[[], T]) -> T:
    """Try again, a little later and at most twice, what the engine calls retryable."""
    for pause in RETRIES:
        try:
            return step()
        except EngineError as error:
            if not error.retryable:
                raise
            time.sleep(pause)
    return step()


class Steps:
    """Runs single actions; safe from several threads. `prove(action, id)` raises StepFailed for an unfit successor."""

    def __init__(
        self,
        desired: Desired | None,
        stack: str,
        engine: Engine,
        generation: int,
        prove: Callable[[Action, str], None],
    ) -> None:
        self.desired = desired
        self.stack = stack
        self.engine = engine
        self.generation = generation
        self.prove = prove
        self._files: set[str] = set()
        self._files_lock = threading.Lock()

    def run(self, action: Action, progress: Callable[[str], None]) -> str:
        """Returns the id of the container that runs because of it, "" otherwise. Raises StepFailed or EngineError."""
        kind = action.key.kind
        if kind == "image":
            self._make_image(action, progress)
        elif kind == "network":
            self._network(action)
        elif kind == "volume":
            self._volume(action)
        else:
            return self._CONTAINER[action.verb](self, action)
        return ""

    def completes(self, key: Key) -> bool:
        resource = self.desired.resources.get(key) if self.desired else None
        return resource is not None and runs_to_completion(key.kind, resource.policy)

    def _wanted(self, action: Action) -> tuple[Desired, Resource]:
        resource = self.desired.resources.get(action.key) if self.desired is not None else None
        if self.desired is None or resource is None:
            raise StepFailed(f"cannot {action.verb} {action.target}: the desired state does not declare it")
        return self.desired, resource

    # ---- images, networks, volumes

    def _make_image(self, action: Action, progress: Callable[[str], None]) -> None:
        _, resource = self._wanted(action)
        request = requests.image_request(resource)
        if action.fresh:
            request = requests.without_cache(request)
        labels = requests.object_labels(self.stack, resource, self.generation)
        declared = {**requests.declared_record(resource), "made_at": time.time()}
        persistently(lambda: self.engine.make_image(action.object_name, request, labels, declared, progress))

    def _network(self, action: Action) -> None:
        name = action.object_name
        if action.verb == "remove":
            return persistently(lambda: self.engine.remove_network(name))
        if action.verb == "repair":
            return persistently(lambda: self.engine.repair_network(name))
        _, resource = self._wanted(action)
        spec = requests.network_spec(self.stack, resource, self.generation)
        if action.verb == "replace":
            # A subnet that cannot be had must be found out while the old network still stands.
            self.engine.check_network(spec)
            persistently(lambda: self.engine.remove_network(name))
        # An update is the same request: what exists takes the new labels.
        persistently(lambda: self.engine.create_network(spec))
        return None

    def _volume(self, action: Action) -> None:
        name = action.object_name
        if action.verb == "remove":
            return persistently(lambda: self.engine.remove_volume(name))
        if action.verb == "repair":
            return persistently(lambda: self.engine.repair_volume(name))
        _, resource = self._wanted(action)
        persistently(lambda: self.engine.create_volume(requests.volume_spec(self.stack, resource, self.generation)))
        return None

    # ---- containers

    def _make(self, action: Action) -> str:
        desired, resource = self._wanted(action)
        self._keep_files(desired, resource)
        spec = requests.container_spec(desired, resource, action.index, self.generation)
        return persistently(lambda: self.engine.create_container(spec))

    def _keep_files(self, desired: Desired, resource: Resource) -> None:
        """Configs and secrets reach the engine before the first container that names them."""
        for item in resource.spec.get("files") or []:
            digest = item["digest"]
            with self._files_lock:
                if digest in self._files or digest not in desired.files:
                    continue
                content, secret = desired.files[digest]
                persistently(lambda content=content, secret=secret: self.engine.put_file(content, secret))  # type: ignore[misc]
                self._files.add(digest)

    def _create(self, action: Action) -> str:
        id = self._make(action)
        self._begin(id)
        return id

    def _begin(self, id: str) -> None:
        persistently(lambda: self.engine.start_container(id))

    def _start(self, action: Action) -> str:
        self._begin(action.object_id)
        return action.object_id

    def _stop(self, action: Action) -> str:
        persistently(lambda: self.engine.stop_container(action.object_id, action.grace))
        return ""

    def _restart(self, action: Action) -> str:
        self._stop(action)
        return self._start(action)

    def _remove(self, action: Action) -> str:
        self._discard(action.object_id, action.grace)
        return ""

    def _discard(self, id: str, grace: float | None) -> None:
        """With its grace, and by force when it came back to life in between."""
        try:
            persistently(lambda: self.engine.stop_container(id, grace))
        except EngineError as error:
            if error.retryable:
                raise
        persistently(lambda: self.engine.remove_container(id, force=True))

    def _repair(self, action: Action) -> str:
        persistently(lambda: self.engine.repair_container(action.object_id))
        return ""

    def _update(self, action: Action) -> str:
        _, resource = self._wanted(action)
        labels = requests.object_labels(self.stack, resource, self.generation, action.index)
        declared = requests.declared_record(resource)
        care = requests.care(resource)
        persistently(lambda: self.engine.relabel_container(action.object_id, labels, declared, care))
        return ""

    def _replace(self, action: Action) -> str:
        return self._start_first(action) if action.order == "start-first" else self._stop_first(action)

    def _start_first(self, action: Action) -> str:
        """The old container is not touched before its successor is proven."""
        successor = action.successor or self._make(action)
        try:
            self._begin(successor)
            self.prove(action, successor)
        except (EngineError, StepFailed) as failure:
            self._discard(successor, 0.0)
            raise _kept(failure, "the old container runs on") from failure
        self._discard(action.object_id, action.grace)
        return successor

    def _stop_first(self, action: Action) -> str:
        """The successor is made before the old one stops; when it turns out unfit, the old one is started again."""
        successor = action.successor or self._make(action)
        try:
            persistently(lambda: self.engine.stop_container(action.object_id, action.grace))
            self._begin(successor)
            if not self.completes(action.key):
                self.prove(action, successor)
        except (EngineError, StepFailed) as failure:
            self._discard(successor, 0.0)
            if not action.was_live:
                raise _kept(failure, "the old container is kept") from failure
            try:
                self._begin(action.object_id)
            except EngineError as second:
                text = f"the old container did not start again: {second.message}"
                raise _kept(failure, text) from failure
            raise _kept(failure, "the old container was started again") from failure
        self._discard(action.object_id, action.grace)
        return successor

    _CONTAINER: Mapping[str, Callable[[Steps, Action], str]] = {
        "create": _create,
        "start": _start,
        "stop": _stop,
        "restart": _restart,
        "remove": _remove,
        "repair": _repair,
        "update": _update,
        "replace": _replace,
    }


def _kept(failure: EngineError | StepFailed, what: str) -> StepFailed:
    error = failure if isinstance(failure, EngineError) else failure.error
    return StepFailed(f"{failure.message}; {what}", failure.hint, error)
