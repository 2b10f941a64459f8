"""Brings one stack to a desired state, once: observe, plan, execute, and look again until nothing is left to do.

The same lines serve `apply` and the agent. A plan is thrown away after it ran; what is left is planned anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from reconciler.generations import Generations
from reconciler.lock import stack_lock
from reconciler.model import Desired, InputError, Key, Problem
from reconciler.observed import Observed, observe
from reconciler.outcome import (
    ConvergeOptions,
    Outcome,
    Progress,
    Stop,
    Tell,
    outcome_from_json,
    outcome_to_json,
    teller,
)
from reconciler.plan import Hold, Plan
from reconciler.plan import to_json as plan_to_json
from reconciler.planner import make_plan
from reconciler.restart import Verdict, decide_restart, runs_to_completion
from reconciler.wanted import begin, desired_identity, image_ids, keep_files, suspended_keys
from runtime.api import Engine, Port
from runtime.errors import Conflict, EngineError, NotFound

if TYPE_CHECKING:
    from reconciler.executor import Result
    from reconciler.health import Prober

__all__ = [
    "ConvergeOptions", "Outcome", "Progress", "converge", "destroy", "outcome_from_json", "outcome_to_json",
    "plan_stack", "preflight", "refuse",
]  # fmt: skip

PATIENCE = 3.0
"""A service that is next restarted only after this long keeps failing; an apply reports it instead of waiting on."""
LONGEST_LOOK = 1.0
ROUNDS = 100
"""More plans than this in one converge mean that acting does not help: reported, never repeated for ever."""


def plan_stack(
    engine: Engine,
    generations: Generations,
    desired: Desired,
    *,
    prune: bool = True,
    allow_deletions: bool = False,
    refresh: bool = False,
    held: Mapping[Key, Hold] | None = None,
    now: float | None = None,
    changed: bool | None = None,
    deep: bool = True,
) -> tuple[Plan, Observed]:
    """What an apply of `desired` would do now; touches nothing. `changed`: new input, which ends suspensions.

    `deep=False` does not look for damage.
    """
    observed = observe(engine, desired.stack, deep=deep)
    if changed is None:
        wanted = generations.wanted(desired.stack)
        changed = wanted is None or wanted.digest != desired_identity(desired)
    plan = make_plan(
        desired,
        observed,
        time.time() if now is None else now,
        prune=prune and desired.settings.prune,
        suspended=frozenset() if changed else suspended_keys(generations, desired),
        allow_deletions=allow_deletions,
        refresh=refresh,
        held=held,
    )
    return plan, observed


def preflight(engine: Engine, desired: Desired, plan: Plan) -> list[Problem]:
    """What would make this plan's new networks and published ports fail on this host; touches nothing."""
    from reconciler import requests

    problems: list[Problem] = []
    asked: set[Key] = set()
    for action in plan.actions:
        resource = desired.resources.get(action.key)
        if resource is None or action.key in asked or action.verb not in ("create", "replace", "start"):
            continue
        asked.add(action.key)
        if action.key.kind == "network":
            try:
                engine.check_network(requests.network_spec(desired.stack, resource, 0))
            except EngineError as error:
                problems.append(Problem(str(error), resource.mark))
        elif action.key.kind in ("service", "job") and resource.spec.get("ports"):
            ports = tuple(Port(**port) for port in resource.spec["ports"])
            labels = requests.object_labels(desired.stack, resource, 0)
            problems += [
                Problem(f"{action.key}: {text}", resource.mark)
                for text in engine.preflight([port for port in ports if port.host_port], labels)
            ]
    return problems


def converge(
    engine: Engine,
    generations: Generations,
    desired: Desired,
    options: ConvergeOptions | None = None,
    *,
    on_event: Tell = lambda progress: None,
    prober: Prober | None = None,
    stop: Stop = lambda: False,
    clock: Callable[[], float] = time.time,
    on_work: Callable[[frozenset[Key] | None], None] = lambda keys: None,
) -> Outcome:
    """Make `desired` the stack's wanted generation and bring the stack to it.

    Takes the stack's lock (StackLocked), raises InputError before anything is touched when the plan is refused, and
    EngineError when the host cannot be observed or the generation cannot be recorded. Failed actions do not raise.
    `on_work` hears which resources are being worked on, and None at the end.
    """
    options = options or ConvergeOptions()
    with stack_lock(generations.root, desired.stack, options.lock_wait):
        identity = desired_identity(desired)
        wanted = generations.wanted(desired.stack)
        plan, observed = plan_stack(
            engine, generations, desired, changed=wanted is None or wanted.digest != identity,
            prune=options.prune, allow_deletions=options.allow_deletions, refresh=options.refresh, now=clock(),
        )  # fmt: skip
        refuse(engine, desired, plan, options.expected)
        if plan.actions:
            keep_files(engine, desired)
        number = begin(generations, desired, options, identity)
        if plan.actions or plan.warnings or plan.blocked:
            on_event(Progress("plan", desired.stack, data=plan_to_json(plan)))
        run = _Convergence(engine, generations, desired, options, number, on_event, prober, stop, clock, on_work)
        try:
            return run.go(plan, observed)
        finally:
            run.close()


def refuse(engine: Engine, desired: Desired, plan: Plan, expected: Plan | None = None) -> None:
    """Raise InputError while nothing is touched yet: a stale plan file, a refused plan, a host that lacks something."""
    if expected is not None and expected.basis != plan.basis:
        text = "the plan file is out of date: the manifests or the host changed since it was made"
        raise InputError([Problem(f"{text} (make a new plan)")])
    problems = [
        Problem(f"{entry.reason}{f' ({entry.hint})' if entry.hint else ''}")
        for entry in plan.blocked
        if entry.key is None
    ]
    problems += preflight(engine, desired, plan)
    if problems:
        raise InputError(problems)


class _Convergence:
    """One converge under way: what was done, what failed, what is waited for."""

    def __init__(
        self,
        engine: Engine,
        generations: Generations,
        desired: Desired,
        options: ConvergeOptions,
        number: int,
        on_event: Tell,
        prober: Prober | None,
        stop: Stop,
        clock: Callable[[], float],
        on_work: Callable[[frozenset[Key] | None], None],
    ) -> None:
        self.on_work = on_work
        self.engine = engine
        self.generations = generations
        self.desired = desired
        self.options = options
        self.number = number
        self.on_event = on_event
        self.prober = prober
        self.own_prober = False
        self.stop = stop
        self.clock = clock
        self.deadline = time.monotonic() + options.timeout
        self.done = 0
        self.failures: list[str] = []
        self.warnings: list[str] = []
        self.waiting: tuple[str, ...] = ()
        self.proven: set[tuple[str, int]] = set()

    def close(self) -> None:
        self.on_work(None)
        if self.own_prober and self.prober is not None:
            self.prober.close()

    def go(self, plan: Plan, observed: Observed) -> Outcome:
        first = plan
        self.warnings += plan.warnings
        converged, timed_out = False, False
        for _ in range(ROUNDS):
            if plan.actions:
                result = self._execute(plan)
                if self.failures:
                    # A failure elsewhere must not be tried again by the same command; the next apply or the agent does.
                    timed_out = False
                    break
                if self.stop() or (result.timed_out and self._left() <= 0):
                    timed_out = True
                    break
            elif plan.blocked:
                self._blocked(plan)
                break
            elif plan.pending:
                if not self._await_pending(plan):
                    timed_out = not self.failures
                    break
            else:
                late = self._settle(observed) if self.options.wait else []
                if not late:
                    converged = True
                    break
                if self.failures or self._left() <= 0 or self.stop():
                    self.waiting = tuple(late)
                    timed_out = not self.failures
                    break
            plan, observed = self._look()
            if not self.options.wait and not plan.actions:
                # Without --wait an apply ends when its actions are done; the rest is what `status` is for.
                converged = plan.converged
                self.waiting = tuple(f"{entry.key}: {entry.reason}" for entry in plan.pending)
                break
        else:
            self.failures.append(f"the plan is not empty after {ROUNDS} rounds; still wanted: {plan.actions[0]}")
        return self._finish(first, observed, converged, timed_out)

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _look(self) -> tuple[Plan, Observed]:
        return plan_stack(
            self.engine, self.generations, self.desired,
            prune=self.options.prune, allow_deletions=self.options.allow_deletions, now=self.clock(), changed=False,
            deep=False,  # the first look of this converge was deep, and what was made since is a second old
        )  # fmt: skip

    def _probing(self) -> Prober:
        if self.prober is None:
            from reconciler.health import Prober

            self.prober = Prober(self.engine)
            self.own_prober = True
        return self.prober

    def _execute(self, plan: Plan) -> Result:
        from reconciler.executor import WaitOptions, execute

        wait = WaitOptions(
            timeout=max(0.0, self._left()) if self.options.wait else 0.0,
            final=self.options.wait,
            probe=self._probing(),
        )
        self.on_work(frozenset(action.key for action in plan.actions))
        result = execute(
            plan, self.desired, self.engine,
            generation=self.number, on_event=teller(self.on_event, self.generations, self.desired.stack, self.number),
            wait=wait, stop=self.stop,
        )  # fmt: skip
        self.on_work(frozenset())
        self.done += len(result.done)
        self.warnings += result.warnings
        self.waiting = tuple(outcome.message for outcome in result.deferred)
        verdicts = self._judge_ends(result) if self.options.wait else {}
        for outcome in result.failed:
            verdict = verdicts.get(outcome.action.id)
            if verdict is not None and verdict.what in ("start", "later"):
                continue
            given_up = verdict is not None and verdict.what == "give-up"
            text = f"{outcome.action.target} {verdict.reason}" if verdict and given_up else outcome.message
            self.failures.append(f"{text}{f' ({outcome.hint})' if outcome.hint else ''}")
        return result

    def _judge_ends(self, result: Result) -> dict[int, Verdict]:
        """For what ran, was to run to its end, and failed: whether its backoff_limit or restart allows another run."""
        suspects = [
            outcome.action
            for outcome in result.failed
            if outcome.error is None and runs_to_completion(outcome.action.key.kind, self._policy(outcome.action.key))
        ]
        if not suspects:
            return {}
        observed = observe(self.engine, self.desired.stack, deep=False)
        return {
            action.id: decide_restart(action.key.kind, self._policy(action.key), one.state, self.clock())
            for action in suspects
            for one in observed.instances.get(action.key, ())
            if one.index == action.index and not one.live and one.state.last_run is not None
        }

    def _policy(self, key: Key) -> Any:
        resource = self.desired.resources.get(key)
        return resource.policy if resource is not None else None

    def _blocked(self, plan: Plan) -> None:
        for entry in plan.blocked:
            hint = f" ({entry.hint})" if entry.hint else ""
            text = f"{entry.key}: {entry.reason}{hint}" if entry.key else f"{entry.reason}{hint}"
            self.failures.append(text)

    def _await_pending(self, plan: Plan) -> bool:
        """Sleep until the first pending resource is due; False when there is no point or no time."""
        due = min(entry.until for entry in plan.pending) - self.clock()
        self.waiting = tuple(f"{entry.key}: {entry.reason}" for entry in plan.pending)
        if not self.options.wait:
            return False
        for entry in plan.pending:
            if entry.key.kind == "service" and entry.until - self.clock() > PATIENCE:
                self.failures.append(
                    f"{entry.key} keeps failing: {entry.reason}"
                    f" (look at: holdfast logs {self.desired.stack}/{entry.key.name})"
                )
        if self.failures:
            return False
        self.on_event(Progress("waiting", self.desired.stack, str(plan.pending[0].key), message=plan.pending[0].reason))
        end = time.monotonic() + max(0.0, due)
        while time.monotonic() < end:
            if self.stop() or self._left() <= 0:
                return False
            time.sleep(min(0.05, max(0.001, end - time.monotonic())))
        return self._left() > 0

    def _settle(self, observed: Observed) -> list[str]:
        """Wait for what runs but is not proven: checks that have not passed, jobs that have not ended."""
        late: list[str] = []
        for key, resource in self.desired.resources.items():
            if key.kind not in ("service", "job"):
                continue
            to_completion = runs_to_completion(key.kind, resource.policy)
            for one in observed.instances.get(key, ()):
                name = f"{key}-{one.index}"
                if not one.live or one.state.status == "paused":
                    continue
                if to_completion:
                    late += self._await_end(one.id, name)
                elif one.state.health_check is not None and one.state.health != "healthy":
                    health, detail = self._probing().probe_until(
                        one.id, one.state.health_check, max(0.0, self._left()), self.stop, one.state.health
                    )
                    if health == "unhealthy":
                        self.failures.append(f"{name} is unhealthy{f': {detail}' if detail else ''}")
                    if health not in ("healthy", "none"):
                        late.append(f"{name} is {health}")
        return late

    def _await_end(self, id: str, name: str) -> list[str]:
        while self._left() > 0 and not self.stop():
            try:
                run = self.engine.wait_container(id, min(LONGEST_LOOK, max(0.0, self._left())))
            except (NotFound, Conflict):
                return [f"{name} is gone"]
            if run is not None:
                # What its end means is the planner's to say: look again.
                return [f"{name} has ended"] if run.exit_code != 0 or run.signal or run.lost else []
        return [f"{name} still runs"]

    def _finish(self, first: Plan, observed: Observed, converged: bool, timed_out: bool) -> Outcome:
        failures = tuple(dict.fromkeys(self.failures))
        stack = self.desired.stack
        if failures:
            self.generations.finish(stack, self.number, "failed", "; ".join(failures))
        elif timed_out:
            self.generations.finish(stack, self.number, "timeout", "; ".join(self.waiting))
        elif converged:
            self.generations.finish(stack, self.number, "converged", images=image_ids(self.desired, observed))
        return Outcome(
            stack, self.number, first, converged and not failures, timed_out, failures,
            tuple(dict.fromkeys(self.warnings)), () if converged else self.waiting, self.done,
        )  # fmt: skip


def destroy(
    engine: Engine,
    generations: Generations,
    stack: str,
    *,
    volumes: bool = False,
    timeout: float = 600.0,
    lock_wait: float = 0.0,
    on_event: Tell = lambda progress: None,
    reason: str = "",
    owner: str = "",
) -> Outcome:
    """Remove all the stack's objects (its volumes only when told) and record that it is to stay down.

    Raises NotFound when neither an object nor a record of the stack exists. Run again, it does nothing.
    """
    from reconciler.executor import WaitOptions, execute
    from reconciler.planner import make_destroy_plan

    with stack_lock(generations.root, stack, lock_wait):
        observed = observe(engine, stack)
        wanted = generations.wanted(stack)
        if wanted is None and observed.empty and not observed.volumes:
            raise NotFound(f'cannot destroy stack "{stack}": there is no such stack', "`holdfast status` lists them")
        # The intent first: an agent that wakes in the middle must not start again what is being removed.
        if wanted is not None and not any(intent.kind == "destroyed" for intent in generations.intents(stack)):
            generations.mark_destroyed(stack, reason=reason, owner=owner)
        number = wanted.number if wanted else 0
        first = make_destroy_plan(observed, volumes)
        if first.actions or first.warnings:
            on_event(Progress("plan", stack, data=plan_to_json(first)))
        deadline = time.monotonic() + timeout
        done, failures, plan = 0, [], first
        for _ in range(ROUNDS):
            if not plan.actions:
                break
            result = execute(
                plan, None, engine, generation=number, on_event=teller(on_event, generations, stack, number),
                wait=WaitOptions(timeout=max(0.0, deadline - time.monotonic()), final=False),
            )  # fmt: skip
            done += len(result.done)
            if result.failed or not result.done or time.monotonic() > deadline:
                failures += [outcome.message for outcome in result.failed]
                break
            plan = make_destroy_plan(observe(engine, stack), volumes)
        left = bool(make_destroy_plan(observe(engine, stack), volumes).actions) if done or failures else False
        if not failures and done:
            generations.record_event(stack, "", "destroyed", reason, number)
        if not failures and not left:
            # What killed commands left is on no list of the stack's objects.
            engine.collect_garbage()
    return Outcome(stack, number, first, not left, left and not failures, tuple(failures), first.warnings, done=done)
