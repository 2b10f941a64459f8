"""How long failures wait, and that no clock can make them wait longer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler import backoff
from runtime.api import Run


def crashes(count: int, lasted: float = 0.2, **more: object) -> list[Run]:
    return [Run(100.0 * n, 100.0 * n + lasted, 1, **more) for n in range(count)]  # type: ignore[arg-type]


def test_the_first_restart_is_immediate_and_the_rest_double_up_to_five_minutes() -> None:
    delays = [backoff.restart_delay(backoff.count_quick_ends(crashes(count))) for count in range(1, 20)]
    assert delays[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert delays == sorted(delays)
    assert delays[-1] == 300.0


def test_a_run_that_lasted_ends_the_series() -> None:
    runs = [*crashes(5), Run(0.0, 10.0, 1), *crashes(1)]
    assert backoff.count_quick_ends(runs) == 1


def test_what_we_ended_does_not_count() -> None:
    assert backoff.count_quick_ends([*crashes(3), Run(0.0, 0.1, 143, 15, by_us=True)]) == 0
    assert backoff.count_failures([*crashes(2), Run(0.0, 0.1, 137, 9, by_us=True), *crashes(1)]) == 3


def test_a_refused_start_is_no_end_of_the_program() -> None:
    runs = [*crashes(2), Run(0.0, 0.0, 127, refused=True)]
    assert (backoff.count_quick_ends(runs), backoff.count_failures(runs)) == (2, 2)


def test_success_ends_a_series_of_failures() -> None:
    assert backoff.count_failures([*crashes(4), Run(0.0, 1.0, 0), *crashes(2)]) == 2


def test_ordinary_kills_from_outside_are_healed_without_waiting() -> None:
    kills = [Run(float(n), n + 0.5, 137, 9) for n in range(12)]
    assert [backoff.kill_delay(kills[:n]) for n in range(1, 6)] == [0.0] * 5
    assert backoff.kill_delay(kills) > 1.0


@given(st.floats(0, 1e3), st.floats(0, 2e9), st.floats(-1e9, 3e9))
def test_no_clock_makes_a_wait_longer_than_its_delay(delay: float, since: float, now: float) -> None:
    left = backoff.remaining(delay, since, now)
    assert 0.0 <= left <= delay
    assert now >= since or left == 0.0


@given(st.floats(0, 2e9), st.floats(-1e9, 3e9))
def test_durations_are_never_negative(started: float, finished: float) -> None:
    assert backoff.duration(Run(started, finished)) >= 0.0
