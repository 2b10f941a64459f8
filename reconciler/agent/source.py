"""Loads what the agent's own manifests declare, again and again; a source that cannot be read changes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.loop import Loop
from reconciler.model import Desired, InputError
from reconciler.source.watch import Watch
from runtime.api import Engine
from runtime.errors import EngineError

Load = Callable[[], tuple[Desired, str]]
"""Reads the source: the desired state and its revision. Raises InputError or EngineError."""
RETRY = 5.0


@dataclass(frozen=True, slots=True)
class SourceState:
    """What `status` says of the source. `problem` "" when the last load was good."""

    paths: tuple[str, ...]
    stack: str = ""
    revision: str = ""
    loaded_at: float = 0.0
    problem: str = ""


class AgentSource:
    """One thread that loads when a file changed, when asked, and now and then; each good load is declared to the loop.

    An unreadable, empty or refused source is reported once; the last good generation stays wanted, nothing is pruned.
    """

    def __init__(
        self,
        loop: Loop,
        paths: Sequence[str],
        load: Load,
        report: Callable[[str, str], None],
    ) -> None:
        self._loop = loop
        self._load = load
        self._report = report
        self._asked = threading.Event()
        self._stopping = threading.Event()
        self._retry: float | None = None
        self.state = SourceState(tuple(paths))
        self._watch: Watch | None = None
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)

    def start(self) -> None:
        """Load once, here and now, so that readiness means that the source was looked at; then go on in background."""
        self.load_now()
        self._watch = Watch(self.state.paths, self.ask)
        self._thread.start()

    def ask(self) -> None:
        """Load soon: a file changed, a timer ticked, SIGHUP came."""
        self._asked.set()

    def stop(self) -> None:
        self._stopping.set()
        self._asked.set()
        if self._watch is not None:
            self._watch.close()
        if self._thread.is_alive():
            self._thread.join(10.0)

    def load_now(self) -> None:
        self._retry = None
        try:
            desired, revision = self._load()
            self._loop.declare(desired, revision=revision, source=" ".join(self.state.paths))
        except InputError as error:
            self._fail("; ".join(str(problem) for problem in error.problems))
        except EngineError as error:
            self._retry = RETRY if error.retryable else None
            self._fail(str(error))
        except Exception as error:
            self._fail(f"internal fault: {type(error).__name__}: {error}")
        else:
            if self.state.problem:
                self._report(desired.stack, "the source can be read again")
            self.state = SourceState(self.state.paths, desired.stack, revision, time.time())

    def _fail(self, problem: str) -> None:
        if problem != self.state.problem:
            self._report(self.state.stack, f"the source is not taken over, nothing is changed or pruned: {problem}")
        state = self.state
        self.state = SourceState(state.paths, state.stack, state.revision, state.loaded_at, problem)

    def _run(self) -> None:
        while True:
            self._asked.wait(self._retry)
            self._asked.clear()
            if self._stopping.is_set():
                return
            self.load_now()


def load_paths(
    engine: Engine, root: str, paths: Sequence[str], environ: Mapping[str, str], profiles: Sequence[str]
) -> Load:
    """How the agent reads files: the same one call as the command line's, and the same cache."""

    def load() -> tuple[Desired, str]:
        from reconciler.source.desired import load_source

        loaded = load_source(paths, None, environ, engine, profiles, f"{root}/cache")
        return loaded.desired, loaded.revision

    return load
