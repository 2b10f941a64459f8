"""Timers come again, one at a time, whatever one of them does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from reconciler.agent.schedule import Schedule


@pytest.fixture
def errors() -> list[tuple[str, BaseException]]:
    return []


@pytest.fixture
def schedule(errors: list[tuple[str, BaseException]]) -> Iterator[Schedule]:
    made = Schedule(lambda name, error: errors.append((name, error)))
    yield made
    made.stop()


def test_a_job_runs_again_and_again_and_soon_means_at_once(schedule: Schedule) -> None:
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        ticks.append(time.monotonic())
        if len(ticks) == 3:
            done.set()

    schedule.every("tick", 0.1, tick, soon=True)
    begun = time.monotonic()
    schedule.start()
    assert done.wait(5)
    assert ticks[0] - begun < 0.09


def test_a_job_that_fails_is_reported_and_comes_again(
    schedule: Schedule, errors: list[tuple[str, BaseException]]
) -> None:
    again = threading.Event()

    def fail() -> None:
        if errors:
            again.set()
        raise ValueError("broken")

    schedule.every("bad", 0.05, fail)
    schedule.start()
    assert again.wait(5)
    assert errors[0][0] == "bad" and str(errors[0][1]) == "broken"


def test_a_slow_job_never_overlaps_itself_and_delays_no_other(schedule: Schedule) -> None:
    inside, most, others = [0], [0], [0]
    guard = threading.Lock()
    done = threading.Event()

    def slow() -> None:
        with guard:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.2)
        with guard:
            inside[0] -= 1

    def other() -> None:
        others[0] += 1
        if others[0] == 8:
            done.set()

    schedule.every("slow", 0.02, slow, soon=True)
    schedule.every("other", 0.05, other)
    schedule.start()
    assert done.wait(5)
    assert most[0] == 1


def test_naming_a_job_again_replaces_it_and_dropping_it_twice_is_fine(schedule: Schedule) -> None:
    schedule.start()
    schedule.every("a", 100, lambda: None)
    schedule.every("a", 200, lambda: None)
    assert schedule.names() == ["a"]
    schedule.drop("a")
    schedule.drop("a")
    assert schedule.names() == []
