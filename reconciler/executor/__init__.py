"""Carries out a plan, in parallel where its edges allow; decides nothing. A failure skips only what depends on it.

An action is over for its successors when its container runs. Proofs (health, accepting ports, a moment of running) and
conditions are awaited beside them, each with a deadline and with an eye on the death of what is waited for.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from reconciler.executor.proof import NoProber, Prober, Proof, ProofResult
from reconciler.executor.steps import StepFailed, Steps
from reconciler.model import Desired, Key
from reconciler.plan import Action, Plan, Wait
from runtime.api import Engine
from runtime.errors import EngineError

__all__ = ["Event", "Outcome", "Prober", "Result", "WaitOptions", "execute"]

WORKERS = 8


@dataclass(frozen=True, slots=True)
class WaitOptions:
    """`timeout` bounds the conditions of a plan and its proofs; 0.0 waits for nothing that does not hold already.

    `final`: end only when what was started is proven (`apply --wait`). `moment`: how long a container without a health
    check or published port must run to count as running. `ports`: how long its published TCP ports may take to accept.
    """

    timeout: float = 600.0
    final: bool = True
    probe: Prober | None = None
    moment: float = 0.1
    ports: float = 5.0


@dataclass(frozen=True, slots=True)
class Event:
    """Told while a plan is carried out. `message` is a line of work, a cause, or what is waited for."""

    kind: Literal["started", "progress", "waiting", "done", "failed", "skipped", "deferred", "warning"]
    action: Action
    message: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one action ended. `deferred`: what it waits for did not hold in time; the next plan says what is left."""

    action: Action
    status: Literal["done", "failed", "skipped", "deferred"]
    message: str = ""
    hint: str = ""
    seconds: float = 0.0
    timed_out: bool = False
    error: EngineError | None = None


@dataclass(frozen=True, slots=True)
class Result:
    outcomes: tuple[Outcome, ...] = ()
    warnings: tuple[str, ...] = ()
    stopped: bool = False

    @property
    def done(self) -> tuple[Outcome, ...]:
        return self._of("done")

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return self._of("failed")

    @property
    def skipped(self) -> tuple[Outcome, ...]:
        return self._of("skipped")

    @property
    def deferred(self) -> tuple[Outcome, ...]:
        return self._of("deferred")

    @property
    def timed_out(self) -> bool:
        return any(outcome.timed_out for outcome in self.outcomes)

    @property
    def ok(self) -> bool:
        return all(outcome.status == "done" for outcome in self.outcomes)

    def _of(self, status: str) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.status == status)


def execute(
    plan: Plan,
    desired: Desired | None,
    engine: Engine,
    *,
    generation: int = 0,
    on_event: Callable[[Event], None] = lambda event: None,
    wait: WaitOptions | None = None,
    stop: Callable[[], bool] = lambda: False,
    workers: int = WORKERS,
) -> Result:
    """Carry out `plan`. `desired` may be None for plans that only remove. Never raises for a failed action.

    `on_event` is called from one thread at a time. When `stop()` turns true, what has begun is finished, nothing more
    begins, and waits end.
    """
    if not plan.actions:
        return Result()
    return _Execution(plan, desired, engine, generation, on_event, wait or WaitOptions(), stop, workers).run()


class _Execution:
    """One walk over a plan: a queue of ready work, a few workers, and a thread for each wait."""

    def __init__(
        self,
        plan: Plan,
        desired: Desired | None,
        engine: Engine,
        generation: int,
        on_event: Callable[[Event], None],
        wait: WaitOptions,
        stop: Callable[[], bool],
        workers: int,
    ) -> None:
        self.plan = plan
        self.wait = wait
        self.asked_to_stop = stop
        self.deadline = time.monotonic() + wait.timeout
        self.lock = threading.Condition(threading.RLock())
        self.tell_lock = threading.Lock()
        self.on_event = on_event
        self.work: queue.SimpleQueue[Action | None] = queue.SimpleQueue()
        self.workers = min(workers, len(plan.actions))
        self.actions = {action.id: action for action in plan.actions}
        self.missing = {action.id: set(action.after) for action in plan.actions}
        self.followers: dict[int, list[int]] = {}
        for action in plan.actions:
            for one in action.after:
                self.followers.setdefault(one, []).append(action.id)
        self.outcomes: dict[int, Outcome] = {}
        self.began: dict[int, float] = {}
        self.warnings: list[str] = []
        self.made: dict[Key, dict[int, str]] = {}
        self.proofs: dict[tuple[str, str], Proof] = {}
        self.proving = 0
        probe = wait.probe or NoProber(engine)
        self.steps = Steps(desired, plan.stack, engine, generation, self._prove_successor)
        self.engine = engine
        self.probe = probe

    def run(self) -> Result:
        threads = [threading.Thread(target=self._serve, name=f"action-{n}", daemon=True) for n in range(self.workers)]
        for thread in threads:
            thread.start()
        with self.lock:
            for action in self.plan.actions:
                if not self.missing[action.id]:
                    self._release(action)
            while len(self.outcomes) < len(self.actions):
                self.lock.wait(1.0)
        for _ in threads:
            self.work.put(None)
        for thread in threads:
            thread.join()
        if self.wait.final and self.wait.timeout > 0:
            self._prove_all()
        ordered = tuple(self.outcomes[action.id] for action in self.plan.actions)
        return Result(ordered, tuple(self.warnings), self.asked_to_stop())

    # ---- the walk

    def _release(self, action: Action) -> None:
        """Its predecessors are done: it goes to a worker, or waits aside for its conditions first."""
        if action.waits or action.delay:
            threading.Thread(target=self._await_conditions, args=(action,), name="wait", daemon=True).start()
        else:
            self.work.put(action)

    def _serve(self) -> None:
        while (action := self.work.get()) is not None:
            if self.asked_to_stop():
                self._end(Outcome(action, "deferred", "stopped before it began"))
                continue
            self.began[action.id] = time.monotonic()
            self._tell(Event("started", action))
            try:
                ids = self.steps.run(action, self._progress_of(action))
            except StepFailed as failure:
                self._end(Outcome(action, "failed", failure.message, failure.hint, error=failure.error))
            except EngineError as error:
                self._end(Outcome(action, "failed", error.message, error.hint, error=error))
            except Exception as error:
                # A fault of ours must not leave the others waiting for this action for ever.
                text = f"cannot {action.verb} {action.target}: internal fault ({type(error).__name__}: {error})"
                self._end(Outcome(action, "failed", text))
            else:
                with self.lock:
                    if ids:
                        self.made.setdefault(action.key, {})[action.index] = ids
                self._end(Outcome(action, "done"))

    def _progress_of(self, action: Action) -> Callable[[str], None]:
        return lambda line: self._tell(Event("progress", action, line))

    def _tell(self, event: Event) -> None:
        with self.tell_lock:
            self.on_event(event)

    def _warn(self, action: Action, text: str) -> None:
        with self.lock:
            self.warnings.append(text)
        self._tell(Event("warning", action, text))

    def _end(self, outcome: Outcome) -> None:
        action = outcome.action
        seconds = time.monotonic() - self.began.get(action.id, time.monotonic())
        outcome = Outcome(
            action, outcome.status, outcome.message, outcome.hint, seconds, outcome.timed_out, outcome.error
        )
        self._tell(Event(outcome.status, action, outcome.message))
        with self.lock:
            if action.id in self.outcomes:
                return
            self.outcomes[action.id] = outcome
            released, spoiled = [], []
            for id in self.followers.get(action.id, ()):
                follower = self.actions[id]
                if id in self.outcomes:
                    continue
                if outcome.status != "done" and action.id not in follower.tolerates:
                    spoiled.append(follower)
                    continue
                self.missing[id].discard(action.id)
                if not self.missing[id]:
                    released.append(follower)
            for follower in released:
                self._release(follower)
            self.lock.notify_all()
        for follower in spoiled:
            self._end(_spoil(follower, outcome))

    # ---- conditions

    def _await_conditions(self, action: Action) -> None:
        try:
            outcome = self._check_conditions(action)
        except Exception as error:
            outcome = Outcome(action, "failed", f"cannot {action.verb} {action.target}: {error}")
        if outcome is None:
            self.work.put(action)
        else:
            self._end(outcome)

    def _check_conditions(self, action: Action) -> Outcome | None:
        """None when the action may begin."""
        if action.delay and self._sleep(action.delay):
            return Outcome(action, "deferred", "stopped before it began")
        for wait in action.waits:
            text = f"waits for {wait.key} to be {wait.condition}"
            proofs = [self._proof(id, wait.condition) for id in self._ids_for(wait)]
            if not all(proof.is_quick() for proof in proofs):
                self._tell(Event("waiting", action, text))
            for proof in proofs:
                result = proof.result(max(0.0, self.deadline - time.monotonic()))
                if result.verdict == "ok":
                    continue
                if not wait.required:
                    self._warn(action, f"{action.target}: {wait.key} is not {wait.condition}: {result.message}")
                    continue
                if result.verdict == "late":
                    message = f"{text}: {result.message or 'not in time'}"
                    return Outcome(action, "deferred", message, timed_out=self.wait.timeout > 0)
                return Outcome(action, "skipped", f"{text}, but {result.message}")
        return None

    def _ids_for(self, wait: Wait) -> list[str]:
        with self.lock:
            return list(dict.fromkeys([*wait.ids, *self.made.get(wait.key, {}).values()]))

    def _sleep(self, seconds: float) -> bool:
        """True when asked to stop meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.asked_to_stop():
                return True
            time.sleep(min(left, 0.05))
        return self.asked_to_stop()

    # ---- proofs

    def _proof(self, id: str, condition: str, since: float | None = None) -> Proof:
        """Proofs are shared: many may wait for one container."""
        with self.lock:
            proof = self.proofs.get((id, condition))
            if proof is None:
                proof = Proof(self.engine, self.probe, id, condition, self.wait, self.deadline, self.asked_to_stop)
                self.proofs[id, condition] = proof
                proof.start()
            return proof

    def _prove_successor(self, action: Action, id: str) -> None:
        """Before the old container goes: the new one is healthy, or accepts, or has run for a moment."""
        self._tell(Event("waiting", action, "its successor is being proven"))
        proof = Proof(self.engine, self.probe, id, "proven", self.wait, None, self.asked_to_stop)
        result = proof.check()
        self._note(action, result)
        if result.verdict != "ok":
            message = result.message if result.verdict == "failed" else f"was not proven in time: {result.message}"
            raise StepFailed(f"cannot replace {action.target}: the new container {message}")
        with self.lock:
            proof.settle(result)
            self.proofs[id, "proven"] = proof

    def _note(self, action: Action, result: ProofResult) -> None:
        if result.warning:
            self._warn(action, f"{action.target}: {result.warning}")

    def _prove_all(self) -> None:
        """What `--wait` owes: all that this plan started is proven, all at the same time."""
        started = [
            (self.actions[id], self.made[outcome.action.key][outcome.action.index])
            for id, outcome in self.outcomes.items()
            if outcome.status == "done" and outcome.action.index in self.made.get(outcome.action.key, {})
        ]
        kinds = [(action, id, "completed" if self.steps.completes(action.key) else "proven") for action, id in started]
        now = time.monotonic()
        proofs = [(action, self._proof(id, kind, now)) for action, id, kind in kinds]
        silent = min(self.deadline, time.monotonic() + self.wait.moment * 2)
        unsettled = [one for one in proofs if not one[1].is_quick(max(0.0, silent - time.monotonic()))]
        for action, proof in unsettled:
            self._tell(Event("waiting", action, proof.describe()))
        for action, proof in proofs:
            result = proof.result(max(0.0, self.deadline - time.monotonic()) + 0.5)
            self._note(action, result)
            if result.verdict == "ok":
                continue
            late = result.verdict == "late"
            name = f"{self.plan.stack}/{action.key.name}"
            outcome = Outcome(
                action,
                "deferred" if late else "failed",
                f"{action.target} {result.message}" if not late else f"{action.target} is not ready: {result.message}",
                f"look at: holdfast logs {name}",
                self.outcomes[action.id].seconds,
                late,
            )
            self.outcomes[action.id] = outcome
            self._tell(Event(outcome.status, action, outcome.message))


def _spoil(follower: Action, cause: Outcome) -> Outcome:
    """What a dependant of a failed or deferred action becomes."""
    if cause.status == "deferred":
        return Outcome(follower, "deferred", f"waits for {cause.action.target}", timed_out=cause.timed_out)
    return Outcome(follower, "skipped", f"{cause.action.target} failed" if cause.status == "failed" else cause.message)
