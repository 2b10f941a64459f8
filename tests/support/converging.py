"""Observe, plan, execute on the fake engine, as the loop does, but in virtual time and with nothing to wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reconciler.executor import Result, WaitOptions, execute
from reconciler.model import Desired
from reconciler.observed import observe
from reconciler.plan import Plan
from reconciler.planner import make_plan
from runtime.api import Health, HealthCheck
from tests.support.fake_engine import FakeEngine

MOST_ROUNDS = 40


class FakeProber:
    """Gives the verdict that the fake engine is told to give, at once, and records it as the real one does."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def probe_until(
        self, id: str, check: HealthCheck | None, timeout: float, stop: Callable[[], bool] = lambda: False
    ) -> tuple[Health, str]:
        state = next((one for one in self.engine.snapshot().containers if one.id == id), None)
        if state is None or state.status != "running":
            return "unknown", ""
        code = self.engine.health_of(self.engine.spec_of(id))
        health: Health = "healthy" if code == 0 else "unhealthy"
        self.engine.set_health(id, health)
        return health, "" if code == 0 else "not well"


def waiting(engine: FakeEngine, **changes: Any) -> WaitOptions:
    return WaitOptions(**({"timeout": 5.0, "moment": 0.01, "ports": 0.0, "probe": FakeProber(engine)} | changes))


def plan_now(engine: FakeEngine, desired: Desired, **options: Any) -> Plan:
    return make_plan(desired, observe(engine, desired.stack), engine.now, **options)


def apply_once(
    engine: FakeEngine, desired: Desired, generation: int = 1, workers: int = 4, **options: Any
) -> tuple[Plan, Result]:
    plan = plan_now(engine, desired, **options)
    result = execute(plan, desired, engine, generation=generation, wait=waiting(engine), workers=workers)
    return plan, result


def converge(
    engine: FakeEngine, desired: Desired, generation: int = 1, workers: int = 4, **options: Any
) -> tuple[list[Plan], list[Result]]:
    """Until a plan is empty and nothing is pending; time passes to whatever is pending."""
    plans: list[Plan] = []
    results: list[Result] = []
    for _ in range(MOST_ROUNDS):
        plan = plan_now(engine, desired, **options)
        plans.append(plan)
        if plan.empty:
            if not plan.pending or plan.not_before is None:
                return plans, results
            engine.advance(max(0.0, plan.not_before - engine.now) + 0.001)
            continue
        results.append(execute(plan, desired, engine, generation=generation, wait=waiting(engine), workers=workers))
    raise AssertionError(f"no end after {MOST_ROUNDS} rounds; the last plan: {plans[-1]}")


def shape(plan: Plan) -> list[str]:
    """`create service/web-1`, in the plan's order."""
    return [f"{action.verb} {action.target}" for action in plan.actions]
