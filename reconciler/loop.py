"""Keeps every stack of the root at its wanted generation, for as long as the agent lives.

Exits, health verdicts, API calls, changed files and timers all do one thing: wake a stack. The periodic full look is
the truth; events only shorten the wait for it. A round decides from what it observed, never from what woke it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from reconciler.convergence import converge, destroy, plan_stack, preflight, refuse
from reconciler.generations import Generations
from reconciler.health import Prober
from reconciler.labels import LABEL_STACK
from reconciler.model import Desired
from reconciler.outcome import ConvergeOptions, Outcome, Progress, Tell
from reconciler.status import Held
from reconciler.wanted import begin, desired_identity, keep_files
from reconciler.worker import StackWorker
from runtime.api import ContainerState, Engine, Snapshot
from runtime.errors import EngineError

__all__ = [
    "ConvergeOptions", "Loop", "Outcome", "Progress", "converge", "destroy", "plan_stack", "preflight", "refuse",
]  # fmt: skip

RESYNC = 15.0
LOCK_PATIENCE = 30.0
"""The stack's own worker lets go at its next step; nobody has to wait for that by hand."""


class Loop:
    """`start` begins to keep; `wake` shortens the wait; `look` is the periodic full look; `stop` touches no container.

    `tell` hears every action and warning of every stack; `report(stack, text)` what no action says.
    """

    def __init__(
        self,
        engine: Engine,
        generations: Generations,
        *,
        prober: Prober | None = None,
        clock: Callable[[], float] = time.time,
        tell: Tell = lambda progress: None,
        report: Callable[[str, str], None] = lambda stack, text: None,
    ) -> None:
        self.engine = engine
        self.generations = generations
        self.clock = clock
        self.tell = tell
        self.report = report
        self.prober = prober or Prober(engine, on_change=self._health_changed)
        self.last_look = 0.0
        """Monotonic; the watchdog is fed only while this moves."""
        self._stacks: dict[str, StackWorker] = {}
        self._mutex = threading.Lock()
        self._stopping = threading.Event()
        self._version: int | None = None
        self._owners: dict[str, str] = {}
        """container id -> stack, for health verdicts."""

    # ---- from outside -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Clean up after a crash or a boot, look at everything once, then listen."""
        try:
            self.engine.collect_garbage()
        except EngineError as error:
            self.report("", f"cannot clean up: {error}")
        self.look()
        threading.Thread(target=self._listen, name="events", daemon=True).start()

    def stop(self) -> None:
        """End all threads; what an action has begun is finished, nothing more begins, and containers run on."""
        self._stopping.set()
        for stack in self._all():
            stack.wake()
        for stack in self._all():
            stack.join(10.0)
        self.prober.close()

    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def wake(self, name: str | None = None, *, changed: bool = True) -> None:
        """Look at one stack (or all) now. `changed`: its wanted generation or intents may be others than known."""
        if name is None:
            self.look()
            return
        self._stack(name).wake(changed=changed, deep=True)

    def look(self) -> None:
        """The full look: one snapshot for all stacks; those that are not as wanted get to work."""
        try:
            version = self.generations.data_version()
            changed = version != self._version
            self._version = version
            for name in self.generations.stacks():
                self._stack(name)
            probed = self.prober.watched()
            snapshot = self.engine.snapshot()
        except EngineError as error:
            self.report("", str(error))
            return
        self.watch_health(snapshot, probed)
        for stack in self._all():
            stack.consider(snapshot, changed)
        self.last_look = time.monotonic()

    def apply(self, desired: Desired, options: ConvergeOptions, on_event: Tell) -> Outcome:
        """An apply by request: the stack's own work gives way, and takes over what the apply leaves undone."""

        def both(progress: Progress) -> None:
            self.tell(progress)
            on_event(progress)

        stack = self._stack(desired.stack)
        with stack.giving_way():
            options = replace(options, lock_wait=max(options.lock_wait, LOCK_PATIENCE))
            return converge(
                self.engine, self.generations, desired, options,
                on_event=both, prober=self.prober, stop=self._stopping.is_set, clock=self.clock,
                on_work=stack.set_active,
            )  # fmt: skip

    def declare(self, desired: Desired, *, revision: str, source: str) -> int:
        """What a source wants: the stack's worker brings it about. Raises InputError when the plan is refused."""
        wanted = self.generations.wanted(desired.stack)
        if wanted is not None and wanted.digest == desired_identity(desired):
            return wanted.number
        plan, _ = plan_stack(self.engine, self.generations, desired, now=self.clock(), changed=True)
        refuse(self.engine, desired, plan)
        keep_files(self.engine, desired)
        options = ConvergeOptions(revision=revision, source=source, by_hand=False)
        number = begin(self.generations, desired, options)
        self._stack(desired.stack).wake(changed=True, deep=True)
        return number

    def destroy(self, name: str, *, volumes: bool, timeout: float, lock_wait: float, on_event: Tell) -> Outcome:
        with self._stack(name).giving_way():
            return destroy(
                self.engine, self.generations, name,
                volumes=volumes, timeout=timeout, lock_wait=max(lock_wait, LOCK_PATIENCE), on_event=on_event,
            )  # fmt: skip

    def held(self) -> list[Held]:
        """What is left alone for now because it failed, for `status` and `explain`."""
        return [held for stack in self._all() for held in stack.held()]

    # ---- events -------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self.is_stopping():
            try:
                for event in self.engine.events(self._stopping.is_set):
                    name = event.labels.get(LABEL_STACK)
                    if event.kind != "container":
                        # A supervisor came or went, or something was lost: only a full look knows.
                        self.look()
                        continue
                    if event.action == "exit":
                        self.prober.restart(event.id)
                    if name is not None and event.action in ("exit", "start"):
                        self._stack(name).wake(urgent=event.action == "exit")
                    elif name is None and event.action in ("exit", "start"):
                        # Also a look at one that is to go when it ends.
                        self._watch_by_hand(event.id)
            except Exception as error:
                # Whatever it is: without this thread nobody would hear of deaths any more.
                self.report("", f"cannot listen to the engine: {error or type(error).__name__}")
                self._stopping.wait(1.0)

    def _health_changed(self, id: str, health: str, detail: str) -> None:
        name = self._owners.get(id)
        if name is not None:
            text = f"{id[:12]} is {health}" + (f": {detail}" if detail else "")
            self.generations.record_event(name, "", "health", text)
            self._stack(name).wake()

    # ---- health -------------------------------------------------------------------------------------------------

    def watch_health(self, snapshot: Snapshot, probed: frozenset[str]) -> None:
        """Probe every running container that has a check, hand-made ones too, and no others.

        `probed` is who was probed before the snapshot was taken: what began since then is not in it.
        """
        for state in snapshot.containers:
            self.watch_container(state)
        self.prober.forget_all(probed - {state.id for state in snapshot.containers if state.status == "running"})
        present = {state.id for state in snapshot.containers}
        for id in [id for id in list(self._owners) if id not in present]:
            self._owners.pop(id, None)

    def watch_container(self, state: ContainerState) -> None:
        if state.status != "running":
            return
        self._owners[state.id] = state.labels.get(LABEL_STACK, "")
        run = state.last_run
        self.prober.watch(state.id, state.health_check, state.health, started_at=run.started_at if run else 0.0)

    def _watch_by_hand(self, id: str) -> None:
        for state in self.engine.snapshot(deep=False).containers:
            if state.id == id:
                self.watch_container(state)

    # ---- stacks -------------------------------------------------------------------------------------------------

    def _stack(self, name: str) -> StackWorker:
        with self._mutex:
            found = self._stacks.get(name)
            if found is None:
                found = self._stacks[name] = StackWorker(self, name)
            return found

    def _all(self) -> list[StackWorker]:
        with self._mutex:
            return list(self._stacks.values())
