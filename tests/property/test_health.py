"""Properties of the health schedule, for any check and any sequence of probe results."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.health import LONGEST_STEP, Course, Verdict, advance, begin
from runtime.api import HealthCheck

durations = st.floats(min_value=0.01, max_value=120.0)
checks = st.builds(
    HealthCheck,
    test=st.just(("CMD", "check")),
    interval=durations,
    timeout=durations,
    retries=st.integers(min_value=1, max_value=5),
    start_period=st.floats(min_value=0.0, max_value=120.0),
    start_interval=durations,
)
verdicts = st.lists(st.sampled_from(["pass", "fail", "unknown"]), max_size=80)


def courses(check: HealthCheck, results: list[Verdict]) -> list[tuple[Course, Verdict, Course]]:
    course, steps = begin(check, 0.0, 0.0), []
    for verdict in results:
        after = advance(course, verdict, course.due)
        steps.append((course, verdict, after))
        course = after
    return steps


@given(checks, verdicts)
def test_time_always_moves_on_and_never_further_than_the_interval(check: HealthCheck, results: list[Verdict]) -> None:
    for before, _, after in courses(check, results):
        assert before.due < after.due <= before.due + max(check.interval, LONGEST_STEP) + 1e-6


@given(checks, verdicts)
def test_one_success_is_enough_to_be_healthy(check: HealthCheck, results: list[Verdict]) -> None:
    for _, verdict, after in courses(check, results):
        if verdict == "pass":
            assert after.health == "healthy" and after.failures == 0


@given(checks, verdicts)
def test_unhealthy_needs_as_many_failures_in_a_row_as_retries_says(check: HealthCheck, results: list[Verdict]) -> None:
    in_a_row = 0
    for before, verdict, after in courses(check, results):
        in_a_row = 0 if verdict == "pass" else in_a_row + (verdict == "fail")
        if after.health == "unhealthy" and before.health != "unhealthy":
            assert in_a_row >= check.retries


@given(checks)
def test_a_container_that_never_answers_is_not_called_unhealthy_before_compose_would(check: HealthCheck) -> None:
    course = begin(check, 0.0, 0.0)
    for _ in range(100_000):
        now = course.due
        course = advance(course, "fail", now)
        if course.health == "unhealthy":
            earliest = max(check.start_period, check.interval) + (check.retries - 1) * check.interval
            assert now >= earliest - 1e-6
            assert now <= earliest + (check.retries + 1) * max(LONGEST_STEP, 0.01) + 1e-6
            return
        if now > 2000:
            break
    raise AssertionError("never found unhealthy")


@given(checks, verdicts)
def test_a_healthy_container_never_goes_back_to_starting(check: HealthCheck, results: list[Verdict]) -> None:
    for before, _, after in courses(check, results):
        assert not (before.health != "starting" and after.health == "starting")
