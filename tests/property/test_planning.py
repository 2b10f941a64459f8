"""What must hold for every history of desired states, faults and disturbances."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.executor import execute
from reconciler.graph import edges_of
from reconciler.labels import LABEL_STACK
from reconciler.model import Desired, Key
from reconciler.observed import Observed, needs_to_json, observe
from reconciler.plan import Plan, from_json, render, to_json
from reconciler.planner import count_replicas, make_destroy_plan, make_plan
from runtime.api import ContainerSpec, NetworkSpec, VolumeSpec
from runtime.errors import EngineError, Unavailable
from tests.support.converging import apply_once, converge, plan_now, waiting
from tests.support.desired import STACK
from tests.support.fake_engine import FakeEngine
from tests.support.strategies import Disturbance, desired_states, disturbances

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def individual(policy: dict[str, Any]) -> dict[str, Any]:
    """How many replicas there are is counted, not recorded on each of them."""
    return {name: value for name, value in policy.items() if name not in ("replicas", "completions", "parallelism")}


def normalised(desired: Desired) -> dict[str, Any]:
    """What is declared, in terms of what can be observed."""
    value: dict[str, Any] = {}
    for key, one in desired.resources.items():
        if key.kind in ("service", "job"):
            declared = [one.spec, individual(one.policy), needs_to_json(one.needs)]
            value |= {f"{key}-{index}": declared for index in range(1, count_replicas(one) + 1)}
        else:
            value[str(key)] = one.spec
    return value


def seen(observed: Observed, declared: Desired) -> dict[str, Any]:
    """The same of what exists; volumes that are kept and images that nobody prunes are left out."""
    value: dict[str, Any] = {}
    for key, found in observed.instances.items():
        for one in found:
            value[f"{key}-{one.index}"] = [one.spec, individual(one.policy), one.state.declared["needs"]]
    for key, info in (*observed.networks.items(), *observed.volumes.items()):
        if key in declared.resources or key.kind == "network":
            value[str(key)] = info.declared["spec"]
    for key in declared.resources:
        if key.kind == "image":
            value[str(key)] = observed.images[key.name].declared["spec"]
    return value


def strangers(engine: FakeEngine) -> list[Any]:
    world = engine.snapshot()
    every = [*world.containers, *world.networks, *world.volumes, *world.images]
    return [one for one in every if not one.labels.get(LABEL_STACK)]


def add_strangers(engine: FakeEngine) -> None:
    """Objects without our labels, under names that ours might like to have."""
    engine.create_network(NetworkSpec("lan"))
    engine.create_volume(VolumeSpec("disk"))
    id = engine.create_container(ContainerSpec(f"{STACK}/alpha-1", "busybox", command=("sleep", "infinity")))
    engine.start_container(id)
    other = {LABEL_STACK: "elsewhere", "holdfast.resource": "service/alpha", "holdfast.index": "1"}
    engine.start_container(
        engine.create_container(ContainerSpec("x", "busybox", labels=other, command=("sleep", "infinity")))
    )


def assert_ordered(plan: Plan, desired: Desired) -> None:
    """Predecessors come first; what is made comes after everything it needs that is made in the same plan."""
    for place, action in enumerate(plan.actions):
        assert action.id == place + 1
        assert all(one < action.id for one in action.after), f"{action} waits for a later action"
    makers: dict[Key, list[int]] = {}
    for action in plan.actions:
        if action.verb not in ("remove", "stop", "update"):
            makers.setdefault(action.key, []).append(action.id)
    for action in plan.actions:
        resource = desired.resources.get(action.key)
        if resource is None or action.verb not in ("create", "replace", "start", "restart"):
            continue
        for need in edges_of(resource, desired.resources):
            missing = set(makers.get(need.key, ())) - set(action.after)
            assert not missing, f"{action} does not wait for {need.key}"


@quick
@given(st.lists(desired_states(), min_size=1, max_size=4))
def test_any_history_of_desired_states_converges_to_its_last(history: list[Desired]) -> None:
    engine = FakeEngine()
    for generation, desired in enumerate(history, 1):
        plans, _ = converge(engine, desired, generation)
        for plan in plans:
            assert_ordered(plan, desired)
        assert plans[-1].empty
        again = plan_now(engine, desired)
        assert again.empty, f"a second plan is not empty: {render(again)}"
    last = history[-1]
    if not plan_now(engine, last).blocked:
        assert seen(observe(engine, STACK), last) == normalised(last)


@quick
@given(desired_states())
def test_a_fresh_stack_is_there_after_one_walk_and_unchanged_by_a_second_look(desired: Desired) -> None:
    engine = FakeEngine()
    _, result = apply_once(engine, desired)
    assert result.ok, [outcome for outcome in result.outcomes if outcome.status != "done"]
    second = plan_now(engine, desired)
    assert second.converged, render(second)
    assert seen(observe(engine, STACK), desired) == normalised(desired)


@quick
@given(desired_states(), st.lists(disturbances(), min_size=1, max_size=5))
def test_whatever_happens_to_the_stack_it_converges_again(desired: Desired, happenings: list[Disturbance]) -> None:
    engine = FakeEngine()
    add_strangers(engine)
    converge(engine, desired)
    for disturb in happenings:
        disturb(engine)
    plans, _ = converge(engine, desired)
    assert plans[-1].empty
    if not plans[-1].blocked:
        assert seen(observe(engine, STACK), desired) == normalised(desired)


@quick
@given(
    st.lists(desired_states(), min_size=1, max_size=3),
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.booleans(),
)
def test_failures_anywhere_and_a_retry_converge(history: list[Desired], failing: list[int], lasting: bool) -> None:
    """The n-th calls to the engine fail; afterwards it behaves, and the same desired state is applied again."""
    engine = FakeEngine()
    for desired in history:
        engine.on_call = _fail_calls(failing, EngineError if lasting else Unavailable)
        for _ in range(3):
            apply_once(engine, desired)
        engine.on_call = None
        plans, _ = converge(engine, desired)
        assert plans[-1].empty
    if not plan_now(engine, history[-1]).blocked:
        assert seen(observe(engine, STACK), history[-1]) == normalised(history[-1])


@quick
@given(st.lists(desired_states(), min_size=1, max_size=3), st.lists(disturbances(), max_size=3), st.booleans())
def test_nothing_that_is_not_the_stacks_is_ever_touched(
    history: list[Desired], happenings: list[Disturbance], volumes: bool
) -> None:
    engine = FakeEngine()
    add_strangers(engine)
    before = strangers(engine)
    elsewhere = engine.container("x")
    for desired in history:
        converge(engine, desired)
        for disturb in happenings[:1]:
            disturb(engine)
    execute(make_destroy_plan(observe(engine, STACK), volumes=volumes), None, engine, wait=waiting(engine))
    after = strangers(engine)
    names = {one.id if hasattr(one, "id") else one.name for one in before}
    assert names <= {one.id if hasattr(one, "id") else one.name for one in after}
    touched = ("stop_container", "remove_container", "start_container", "relabel_container")
    assert ("remove_network", "lan") not in engine.calls and ("remove_volume", "disk") not in engine.calls
    assert not [call for call in engine.calls if call[0] in touched and call[1] == "x"][1:]
    assert engine.container("x").starts == elsewhere.starts


@quick
@given(desired_states(), st.booleans())
def test_destroy_leaves_nothing_but_data_and_removes_dependants_first(desired: Desired, volumes: bool) -> None:
    engine = FakeEngine()
    converge(engine, desired)
    observed = observe(engine, STACK)
    plan = make_destroy_plan(observed, volumes)
    removed = {action.key: action for action in plan.actions}
    for action in plan.actions:
        if action.key.kind in ("service", "job"):
            for need in desired.resources[action.key].needs:
                if need.key in removed and need.key.kind in ("service", "job"):
                    first = min(one.id for one in plan.actions if one.key == need.key)
                    assert action.id < first, f"{need.key} goes before {action.key}, which needs it"
    result = execute(plan, None, engine, wait=waiting(engine))
    assert result.ok, result.failed
    left = observe(engine, STACK)
    assert left.empty
    assert not (volumes and left.volumes)
    assert volumes or set(left.volumes) == {key for key in desired.resources if key.kind == "volume"}


@quick
@given(st.lists(desired_states(budget=None), min_size=2, max_size=3))
def test_prune_never_removes_data_nor_more_than_half(history: list[Desired]) -> None:
    engine = FakeEngine()
    for desired in history:
        observed = observe(engine, STACK)
        plan = make_plan(desired, observed, engine.now)
        pruned = [action for action in plan.actions if action.pruned]
        running = sum(one.live for found in observed.instances.values() for one in found) + len(observed.networks)
        assert len(pruned) <= max(3, (running + 1) // 2)
        assert not [action for action in plan.actions if action.verb == "remove" and action.key.kind == "volume"]
        converge(engine, desired)
    volumes = {key for desired in history for key in desired.resources if key.kind == "volume"}
    assert set(observe(engine, STACK).volumes) == volumes


@quick
@given(st.lists(desired_states(), min_size=1, max_size=2), st.lists(disturbances(), max_size=2))
def test_a_plan_survives_its_json_and_equal_looks_give_equal_plans(
    history: list[Desired], happenings: list[Disturbance]
) -> None:
    engine = FakeEngine()
    for desired in history[:-1]:
        converge(engine, desired)
    for disturb in happenings:
        disturb(engine)
    observed = observe(engine, STACK)
    plan = make_plan(history[-1], observed, engine.now)
    assert from_json(to_json(plan)) == plan
    assert make_plan(history[-1], observed, engine.now) == plan
    assert render(plan).count("\n") >= len(plan.actions)


@quick
@given(desired_states(), st.data())
def test_no_replica_is_ever_replaced_before_its_successor_runs_when_it_starts_first(
    desired: Desired, data: st.DataObject
) -> None:
    """At every engine call of a start-first replacement as many containers of the service run as before."""
    engine = FakeEngine()
    converge(engine, desired)
    changed = data.draw(desired_states())
    plan = plan_now(engine, changed)
    forced = {action.key for action in plan.actions if action.verb == "stop"}
    guarded = {
        (action.key, action.index): action.object_id
        for action in plan.actions
        if action.verb == "replace" and action.order == "start-first" and action.was_live and action.key not in forced
    }

    def running() -> dict[tuple[Key, int], int]:
        found: dict[tuple[Key, int], int] = {}
        for key, ones in observe(engine, STACK).instances.items():
            for one in ones:
                found[key, one.index] = found.get((key, one.index), 0) + one.live
        return found

    missing: list[str] = []
    look = _guard(running, guarded, missing)
    engine.on_call = look
    execute(plan, changed, engine, wait=waiting(engine), workers=1)
    engine.on_call = None
    assert not missing, missing


def _fail_calls(failing: list[int], kind: type[EngineError]) -> Callable[[str, str], EngineError | None]:
    counted = threading.Lock()
    calls = itertools.count(1)

    def sometimes(operation: str, name: str) -> EngineError | None:
        with counted:
            return kind(f"cannot {operation}: injected") if next(calls) in failing else None

    return sometimes


def _guard(
    running: Callable[[], dict[tuple[Key, int], int]], guarded: dict[tuple[Key, int], str], missing: list[str]
) -> Callable[[str, str], EngineError | None]:
    busy = threading.local()

    def look(operation: str, name: str) -> EngineError | None:
        if getattr(busy, "now", False):
            return None
        busy.now = True
        try:
            found = running()
        finally:
            busy.now = False
        missing.extend(f"{key}-{index} at {operation}" for key, index in guarded if not found.get((key, index)))
        return None

    return look
