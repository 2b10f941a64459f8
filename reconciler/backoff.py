"""How long to wait before something that failed is tried again: pure functions of past runs and a given clock.

A run that lasted `SETTLED` seconds ends a series of failures. Clocks may jump: a run from the future is over at once,
a negative duration counts as none, and no wait is ever longer than the delay itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.api import Run

SETTLED = 10.0
FIRST_STEP = 0.1
LIMIT = 300.0
FREE_KILLS = 5
"""So many deaths by a foreign SIGKILL in a row are healed without any wait."""


def duration(run: Run) -> float:
    return max(0.0, run.finished_at - run.started_at)


def was_killed_from_outside(run: Run) -> bool:
    """SIGKILL that neither we nor the out-of-memory killer sent: drift, not the program's own end."""
    return run.signal == 9 and not run.by_us and not run.oom


def failed_by_itself(run: Run) -> bool:
    """The program's own failure; what we, a foreign SIGKILL or the end of the machine did to it does not count."""
    if run.by_us or run.lost or run.refused or not run.finished_at or was_killed_from_outside(run):
        return False
    return run.oom or run.signal != 0 or run.exit_code != 0


def count_quick_ends(runs: Sequence[Run], settled: float = SETTLED) -> int:
    """How many of the last runs in a row ended, not by us, before they had lasted `settled` seconds."""
    count = 0
    for run in reversed(runs):
        if run.refused:
            continue
        if not run.finished_at or run.by_us or run.lost or duration(run) >= settled:
            break
        count += 1
    return count


def count_failures(runs: Sequence[Run]) -> int:
    """How many runs failed by themselves since the last that did not fail; interrupted runs are passed over."""
    count = 0
    for run in reversed(runs):
        if failed_by_itself(run):
            count += 1
        elif run.finished_at and run.exit_code == 0 and not run.by_us:
            break
    return count


def restart_delay(quick_ends: int) -> float:
    """The first restart is immediate, then 0.1 s doubling up to five minutes."""
    if quick_ends <= 1:
        return 0.0
    return min(LIMIT, FIRST_STEP * 2.0 ** min(quick_ends - 2, 30))


def kill_delay(runs: Sequence[Run]) -> float:
    """None for ordinary kills; a container that is killed over and over slows down."""
    return restart_delay(count_quick_ends(runs) - FREE_KILLS + 1)


def retry_delay(attempts: int) -> float:
    """Between two attempts of a failed action (not of a program): 1 s doubling up to five minutes."""
    return min(LIMIT, 2.0 ** min(max(attempts, 1) - 1, 30))


def remaining(delay: float, since: float, now: float) -> float:
    """What is left of `delay` that began at `since`; nothing when `since` lies in the future, as after a clock jump."""
    elapsed = now - since
    if elapsed < 0:
        return 0.0
    return max(0.0, delay - elapsed)
