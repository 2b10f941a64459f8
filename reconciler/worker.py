"""One stack's worker in the agent: sleeps until woken or due, then looks, plans and acts, round after round.

It never waits inside a plan for what a later event will tell: a condition that does not hold yet is left to a later
round, so that whatever dies meanwhile is started again at once.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.executor import Result, WaitOptions, execute
from reconciler.generations import Generation, read_desired
from reconciler.health import Prober
from reconciler.labels import LABEL_STACK
from reconciler.lock import StackLocked, stack_lock
from reconciler.model import Desired, InputError, Key
from reconciler.observed import Observed, sort_snapshot
from reconciler.outcome import teller
from reconciler.plan import Action, Plan
from reconciler.planner import make_plan
from reconciler.retry import Retries
from reconciler.status import Held
from reconciler.wanted import image_ids, is_complete, suspended_keys
from runtime.api import Snapshot
from runtime.errors import EngineError

if TYPE_CHECKING:
    from reconciler.loop import Loop

BUSY_PAUSE = 0.5
"""Between two tries for the lock of a stack that another process works on."""
STUCK_PAUSE = 1.0
FAULT_PAUSE = 5.0
BRIEF = 0.2
"""A condition that holds within this moment is waited for; any other is met by a later round."""
BUSY_ROUNDS = 20
"""So many rounds in a row without rest, and the stack rests for a moment: acting must not become spinning."""


class StackWorker:
    """Keeps the stack `name` for `loop`; its thread starts with the first wake."""

    def __init__(self, loop: Loop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.retries = Retries()
        self.generation: Generation | None = None
        self.desired: Desired | None = None
        self._known = False
        self._changed = threading.Condition()
        self._woken = False
        self._reload = True
        self._deep = True
        self._yielding = 0
        self._active: frozenset[Key] | None = None
        """Resources that the plan being executed works on; None while none is."""
        self._learning = threading.Lock()
        self._thread: threading.Thread | None = None
        self._due: float | None = None
        self._last_report = ""

    # ---- waking -------------------------------------------------------------------------------------------------

    def wake(self, *, changed: bool = False, deep: bool = False, urgent: bool = False) -> None:
        heal = False
        with self._changed:
            self._woken = True
            self._reload |= changed
            self._deep |= deep
            heal = urgent and self._active is not None
            if self._thread is None and not self.loop.is_stopping():
                self._thread = threading.Thread(target=self._run, name=f"stack-{self.name}", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if heal:
            threading.Thread(target=self._heal, name=f"heal-{self.name}", daemon=True).start()

    def consider(self, snapshot: Snapshot, changed: bool) -> None:
        """The full look's share: wake only when there is something to do, so that an idle root stays idle."""
        with self._changed:
            self._reload |= changed
            if self._active is not None or self._yielding:
                return
        try:
            self._learn()
            if self.desired is None or self.generation is None or self._is_destroyed():
                return
            plan = self._plan(sort_snapshot(snapshot, self.name))
        except (EngineError, InputError) as error:
            self._say(str(error))
            return
        except Exception as error:
            # A fault that one stack meets must not end the look at the others.
            self._say(f"internal fault: {type(error).__name__}: {error}")
            return
        if plan.actions or self.generation.result == "unfinished" or plan.not_before is not None:
            self.wake(deep=True)

    def giving_way(self) -> _GivingWay:
        """While this context lasts the worker begins nothing; afterwards it looks again."""
        return _GivingWay(self)

    def join(self, timeout: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout)

    def held(self) -> list[Held]:
        return [
            Held(self.name, str(key), hold.reason, hold.until, self.retries.attempts(key))
            for key, hold in sorted(self.retries.holds(self.loop.clock()).items())
        ]

    # ---- the worker ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        busy = 0
        while not self.loop.is_stopping():
            with self._changed:
                while not self._may_work():
                    self._changed.wait(self._pause())
                    if self.loop.is_stopping():
                        return
                self._woken = False
                deep, self._deep = self._deep, False
            self._due = None
            pause = self._safe_round(deep)
            busy = busy + 1 if pause == 0.0 else 0
            if busy >= BUSY_ROUNDS:
                pause, busy = STUCK_PAUSE, 0
            if pause is not None:
                self._due = time.monotonic() + pause

    def _may_work(self) -> bool:
        if self._yielding:
            return False
        return self._woken or (self._due is not None and time.monotonic() >= self._due)

    def _pause(self) -> float | None:
        if self._due is None or self._yielding:
            return None
        return max(0.0, self._due - time.monotonic())

    def _safe_round(self, deep: bool) -> float | None:
        """Seconds until the next round is due, None for "when woken"."""
        try:
            with stack_lock(self.loop.generations.root, self.name):
                return self._round(deep)
        except StackLocked:
            return BUSY_PAUSE
        except (EngineError, InputError) as error:
            self._say(str(error))
            return FAULT_PAUSE
        except Exception as error:
            # One stack's fault must not end the loop of the others; the full look tries again.
            self._say(f"internal fault: {type(error).__name__}: {error}")
            return FAULT_PAUSE

    def _round(self, deep: bool) -> float | None:
        self._learn()
        if self.desired is None or self.generation is None or self._is_destroyed():
            return None
        loop = self.loop
        snapshot = loop.engine.snapshot() if deep else loop.engine.snapshot(deep=False)
        self._watch(snapshot)
        observed = sort_snapshot(snapshot, self.name)
        plan = self._plan(observed)
        self._report_blocked(plan)
        if not plan.actions:
            if plan.converged and self.generation.result != "converged" and is_complete(self.desired, observed):
                self._finish(observed)
            return None if plan.not_before is None else max(0.01, plan.not_before - loop.clock())
        result = self._execute(plan)
        return self._learn_from(result)

    def _execute(self, plan: Plan) -> Result:
        assert self.generation is not None
        with self._changed:
            self._active = frozenset(action.key for action in plan.actions)
        try:
            return execute(
                plan, self.desired, self.loop.engine,
                generation=self.generation.number,
                on_event=teller(self.loop.tell, self.loop.generations, self.name, self.generation.number),
                # Level-triggered: what cannot begin now begins when a verdict or an exit wakes us, so no wait blocks.
                wait=_brief(self.loop.prober),
                stop=self._must_let_go,
            )  # fmt: skip
        finally:
            with self._changed:
                self._active = None

    def _learn_from(self, result: Result) -> float | None:
        now = self.loop.clock()
        for outcome in result.done:
            action = outcome.action
            hold = self.retries.succeeded(action.key, action.index, action.verb, now)
            if hold is not None:
                self._say(f"{action.target}: {hold.reason}; left alone for {hold.until - now:.0f} s")
        for outcome in result.failed:
            kind = type(outcome.error).__name__ if outcome.error is not None else outcome.action.verb
            self.retries.failed(outcome.action.key, kind, outcome.message, now, outcome.action.verb)
        if result.done:
            return 0.0
        if result.failed:
            return 0.01
        # All was deferred: a verdict, an exit or the next look says when to go on.
        return STUCK_PAUSE

    def _heal(self) -> None:
        """Something died while the worker is in the middle of a plan: start it now, unless that plan works on it."""
        loop = self.loop
        try:
            if self._yielding:
                # An apply is under way, and what it wants is wanted already.
                with self._changed:
                    self._reload = True
                self._learn()
            with self._changed:
                active, desired, generation = self._active, self.desired, self.generation
            if active is None or desired is None or generation is None or self._is_destroyed():
                return
            observed = sort_snapshot(loop.engine.snapshot(deep=False), self.name)
            plan = make_plan(
                desired, observed, loop.clock(),
                prune=False, only_drift=True, suspended=suspended_keys(loop.generations, desired),
                held=self.retries.holds(loop.clock()),
            )  # fmt: skip
            actions = _independent_starts(plan.actions, active)
            if actions:
                execute(
                    replace(plan, actions=actions), desired, loop.engine,
                    generation=generation.number,
                    on_event=teller(loop.tell, loop.generations, self.name, generation.number),
                    wait=_brief(loop.prober), stop=loop.is_stopping,
                )  # fmt: skip
        except (EngineError, InputError) as error:
            self._say(str(error))

    def set_active(self, keys: frozenset[Key] | None) -> None:
        with self._changed:
            self._active = keys

    # ---- what it knows ------------------------------------------------------------------------------------------

    def _learn(self) -> None:
        """Read the wanted generation again when it may have changed; otherwise plan from memory."""
        with self._learning:
            self._learn_alone()

    def _learn_alone(self) -> None:
        with self._changed:
            if self._known and not self._reload:
                return
            self._reload = False
        try:
            wanted = self.loop.generations.wanted(self.name)
        except EngineError:
            with self._changed:
                self._reload = True
            raise
        if wanted is not None and (self.generation is None or wanted.digest != self.generation.digest):
            self.desired = read_desired(wanted)
        if wanted is None:
            self.desired = None
        self.generation = replace(wanted, desired="") if wanted is not None else None
        self.retries.begin(wanted.number if wanted is not None else 0)
        self._known = True

    def _plan(self, observed: Observed) -> Plan:
        assert self.desired is not None and self.generation is not None
        loop = self.loop
        return make_plan(
            self.desired, observed, loop.clock(),
            prune=self.generation.prune and self.desired.settings.prune,
            suspended=suspended_keys(loop.generations, self.desired),
            held=self.retries.holds(loop.clock()),
        )  # fmt: skip

    def _is_destroyed(self) -> bool:
        return any(intent.kind == "destroyed" for intent in self.loop.generations.intents(self.name))

    def _must_let_go(self) -> bool:
        return self.loop.is_stopping() or self._yielding > 0 or self._reload

    def _watch(self, snapshot: Snapshot) -> None:
        for state in snapshot.containers:
            if state.labels.get(LABEL_STACK) == self.name:
                self.loop.watch_container(state)

    def _finish(self, observed: Observed) -> None:
        assert self.desired is not None and self.generation is not None
        generations, number = self.loop.generations, self.generation.number
        generations.finish(self.name, number, "converged", images=image_ids(self.desired, observed))
        generations.record_event(self.name, "", "converged", f"generation {number}", number)
        self.generation = replace(self.generation, result="converged", problem="")

    def _report_blocked(self, plan: Plan) -> None:
        texts = [f"{entry.key or self.name}: {entry.reason}" for entry in plan.blocked]
        texts += [f"{entry.key}: {entry.reason}" for entry in plan.pending]
        if texts:
            self._say("; ".join(texts))
        else:
            self._last_report = ""

    def _say(self, text: str) -> None:
        """Once per news: a state that lasts is not news."""
        if text == self._last_report:
            return
        self._last_report = text
        number = self.generation.number if self.generation is not None else 0
        self.loop.generations.record_event(self.name, "", "waiting", text, number)
        self.loop.report(self.name, text)


class _GivingWay:
    def __init__(self, stack: StackWorker) -> None:
        self._stack = stack

    def __enter__(self) -> None:
        with self._stack._changed:
            self._stack._yielding += 1

    def __exit__(self, *exc: object) -> None:
        with self._stack._changed:
            self._stack._yielding -= 1
        self._stack.wake(changed=True, deep=True)


def _independent_starts(actions: tuple[Action, ...], busy: frozenset[Key]) -> tuple[Action, ...]:
    """Plain starts of containers that nothing else works on and that wait for nothing."""
    return tuple(action for action in actions if action.verb == "start" and action.key not in busy and not action.after)


def _brief(prober: Prober) -> WaitOptions:
    return WaitOptions(timeout=BRIEF, final=False, probe=prober)
