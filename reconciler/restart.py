"""Decides whether a container that does not run should: drift is healed, intent is kept, a program's own end follows
its restart policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from reconciler import backoff
from runtime.api import ContainerState, Run

DEFAULT_BACKOFF_LIMIT = 6


@dataclass(frozen=True, slots=True)
class Verdict:
    """`start` now; `later` at `until`; `rest`: it is where it should be; `give-up`: it keeps failing."""

    what: Literal["start", "later", "rest", "give-up"]
    reason: str
    until: float = 0.0


def runs_to_completion(kind: str, policy: Any) -> bool:
    return kind == "job" or bool((policy or {}).get("run_to_completion"))


def has_completed(state: ContainerState) -> bool:
    """Its last run ended by itself with exit code 0."""
    run = state.last_run
    return (
        state.status == "stopped"
        and run is not None
        and bool(run.finished_at)
        and run.exit_code == 0
        and not (run.signal or run.by_us or run.lost or run.oom)
    )


def describe_end(run: Run) -> str:
    if run.refused:
        return "could not be started"
    if run.lost or not run.finished_at:
        return "ended unseen"
    if run.oom:
        return "killed for using more memory than its limit"
    if run.signal == 9 and not run.by_us:
        return "killed from outside"
    if run.signal:
        return f"ended by signal {run.signal}"
    return f"exited with code {run.exit_code}"


def decide_restart(kind: str, policy: Any, state: ContainerState, now: float) -> Verdict:
    """For a stopped container that nobody stopped by hand."""
    policy = policy or {}
    run = state.last_run
    if run is None:
        return Verdict("start", "created but never started")
    end = describe_end(run)
    if run.refused:
        # Not an end of the program: whoever starts it again keeps the back-off of failed actions.
        return Verdict("start", end)
    if not run.finished_at or run.lost:
        return Verdict("start", end)
    if backoff.was_killed_from_outside(run):
        return _after(backoff.kill_delay(state.runs), run, end, now)
    if run.by_us:
        return Verdict("start", "stopped for a change that was not finished")
    if runs_to_completion(kind, policy):
        return _to_completion(kind, policy, state, run=run, end=end, now=now)
    return _by_policy(policy, state, run, end, now)


def _to_completion(kind: str, policy: Any, state: ContainerState, *, run: Run, end: str, now: float) -> Verdict:
    if has_completed(state):
        return Verdict("rest", "completed")
    failures = backoff.count_failures(state.runs)
    if kind == "job":
        limit = policy.get("backoff_limit")
        limit = DEFAULT_BACKOFF_LIMIT if limit is None else int(limit)
        if _exhausted(failures, state, limit):
            return Verdict("give-up", f"{end}; failed {_times(failures)}, its backoff_limit is {limit}")
    else:
        restart = policy.get("restart") or {}
        if restart.get("condition", "no") == "no":
            return Verdict("give-up", f"{end}; restart is no")
        limit = restart.get("max_attempts")
        if limit is not None and _exhausted(failures, state, int(limit)):
            return Verdict("give-up", f"{end}; failed {_times(failures)}, max_attempts is {limit}")
    return _after(_delay(policy, state), run, end, now)


def _by_policy(policy: Any, state: ContainerState, run: Run, end: str, now: float) -> Verdict:
    restart = policy.get("restart") or {}
    condition = restart.get("condition", "no")
    if condition == "no" or (condition == "on-failure" and not backoff.failed_by_itself(run)):
        return Verdict("rest", f"{end}; restart is {condition}")
    limit = restart.get("max_attempts")
    window = float(restart.get("window") or backoff.SETTLED)
    if limit is not None and backoff.count_quick_ends(state.runs, window) > int(limit):
        return Verdict("give-up", f"{end}; restarted {_times(int(limit))}, which max_attempts allows")
    return _after(_delay(policy, state), run, end, now)


def _exhausted(failures: int, state: ContainerState, limit: int) -> bool:
    """The engine keeps the last runs only: when all of them failed, the count of starts speaks for the rest."""
    return failures > limit or (failures == len(state.runs) and state.starts > limit and failures >= 20)


def _delay(policy: Any, state: ContainerState) -> float:
    restart = policy.get("restart") or {}
    window = float(restart.get("window") or backoff.SETTLED)
    quick = backoff.count_quick_ends(state.runs, window)
    return max(backoff.restart_delay(quick), float(restart.get("delay") or 0.0))


def _after(delay: float, run: Run, end: str, now: float) -> Verdict:
    left = backoff.remaining(delay, run.finished_at, now)
    return Verdict("later", end, now + left) if left > 0 else Verdict("start", end)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
