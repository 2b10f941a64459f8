"""Health follows Compose's words: when a check starts to count, how often it runs, when the verdict turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from reconciler.health import Prober, advance, begin, is_checked, probe_once
from runtime.api import ContainerSpec, ContainerState, ExecResult, ExecSpec, HealthCheck
from runtime.errors import Conflict, StartFailed, Unavailable
from tests.support.fake_engine import FakeEngine

CHECK = HealthCheck(("CMD", "check"), interval=10.0, timeout=1.0, retries=3, start_period=0.0, start_interval=5.0)


def run_until(check: HealthCheck, passes: Callable[[float], bool], end: float) -> list[tuple[float, str]]:
    """Probe a container that started at 0 on a virtual clock; returns each change of health with its time."""
    course = begin(check, 0.0, 0.0)
    changes: list[tuple[float, str]] = []
    while course.due <= end:
        before, now = course.health, course.due
        course = advance(course, "pass" if passes(now) else "fail", now)
        assert course.due > now
        if course.health != before:
            changes.append((round(now, 3), course.health))
    return changes


def test_a_container_that_is_well_at_once_is_healthy_at_once_whatever_its_interval() -> None:
    assert run_until(CHECK, lambda now: True, 60) == [(0.0, "healthy")]


def test_a_container_that_needs_two_seconds_is_healthy_within_a_second_of_that() -> None:
    ((when, health),) = run_until(CHECK, lambda now: now >= 2.0, 60)
    assert health == "healthy" and 2.0 <= when <= 3.0


def test_early_extra_probes_do_not_make_a_slow_container_unhealthy_sooner_than_compose_would() -> None:
    ((when, health),) = run_until(CHECK, lambda now: False, 60)
    assert health == "unhealthy" and 30.0 <= when <= 33.0


def test_failures_in_the_start_period_do_not_count() -> None:
    check = HealthCheck(("CMD", "check"), interval=1.0, timeout=1.0, retries=2, start_period=20.0)
    ((when, health),) = run_until(check, lambda now: False, 60)
    assert health == "unhealthy" and 21.0 <= when <= 23.0


def test_start_interval_bounds_the_steps_while_starting() -> None:
    check = HealthCheck(("CMD", "check"), interval=10.0, start_interval=0.2, start_period=30.0)
    course = begin(check, 0.0, 0.0)
    for _ in range(20):
        after = advance(course, "fail", course.due)
        assert after.due - course.due <= 0.2 + 1e-9
        course = after


def test_a_healthy_container_turns_unhealthy_after_retries_failures_in_a_row_and_back_after_one_success() -> None:
    ill = [(40.0, 75.0)]
    changes = run_until(CHECK, lambda now: not any(a <= now < b for a, b in ill), 200)
    assert [health for _, health in changes] == ["healthy", "unhealthy", "healthy"]
    assert changes[1][0] == 60.0 and changes[2][0] == 80.0


def test_single_failures_between_successes_change_nothing() -> None:
    assert run_until(CHECK, lambda now: int(now / 10) % 3 != 2, 300) == [(0.0, "healthy")]


def test_a_verdict_that_stands_survives_a_new_prober_until_a_probe_says_otherwise() -> None:
    course = begin(CHECK, 0.0, 500.0, current="healthy")
    assert course.health == "healthy" and course.due == 500.0
    for _ in range(2):
        course = advance(course, "fail", course.due)
        assert course.health == "healthy"
    assert advance(course, "fail", course.due).health == "unhealthy"


def test_a_probe_that_could_not_run_says_nothing() -> None:
    course = begin(CHECK, 0.0, 0.0)
    for _ in range(100):
        course = advance(course, "unknown", course.due)
    assert course.health == "starting" and course.failures == 0


@pytest.mark.parametrize(("check", "expected"), [(None, False), (HealthCheck(("NONE",)), False), (CHECK, True)])
def test_none_disables_the_check(check: HealthCheck | None, expected: bool) -> None:
    assert is_checked(check) is expected


# ---- with an engine ---------------------------------------------------------------------------------------------


def running(engine: FakeEngine, check: HealthCheck = CHECK, name: str = "web") -> str:
    id = engine.create_container(ContainerSpec(name, "busybox", command=("sleep", "infinity"), health=check))
    engine.start_container(id)
    return id


def wait_for(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def scripted(answer: Callable[[ExecSpec], ExecResult]) -> tuple[FakeEngine, str]:
    engine = FakeEngine()
    engine.exec_script = lambda state, spec: answer(spec)
    return engine, running(engine)


@pytest.mark.parametrize(
    ("test", "argv"),
    [(("CMD", "a", "b c"), ("a", "b c")), (("CMD-SHELL", "a | b"), ("/bin/sh", "-c", "a | b"))],
)
def test_the_check_runs_as_written_or_by_a_shell(test: tuple[str, ...], argv: tuple[str, ...]) -> None:
    seen: list[tuple[str, ...]] = []

    def answer(spec: ExecSpec) -> ExecResult:
        seen.append(spec.argv)
        return ExecResult(0, b"")

    engine, id = scripted(answer)
    assert probe_once(engine, id, HealthCheck(test)) == ("pass", "")
    assert seen == [argv]


@pytest.mark.parametrize(
    ("result", "verdict", "detail"),
    [
        (ExecResult(1, b"no redis\n"), "fail", "exit code 1: no redis"),
        (ExecResult(137, b"", timed_out=True), "fail", "did not end within 1 s"),
        (ExecResult(0, b"ok"), "pass", ""),
    ],
)
def test_the_verdict_says_what_the_check_said(result: ExecResult, verdict: str, detail: str) -> None:
    engine, id = scripted(lambda spec: result)
    found = probe_once(engine, id, CHECK)
    assert found[0] == verdict and detail in found[1]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Conflict("it is not running"), "gone"),
        (StartFailed("no such program"), "fail"),
        (Unavailable("busy"), "unknown"),
    ],
)
def test_what_the_engine_cannot_do_is_told_apart(error: Exception, verdict: str) -> None:
    def answer(spec: ExecSpec) -> ExecResult:
        raise error

    engine, id = scripted(answer)
    assert probe_once(engine, id, CHECK)[0] == verdict


def test_the_engine_is_told_of_changes_only() -> None:
    engine = FakeEngine()
    check = HealthCheck(("CMD", "check"), interval=0.02, retries=1)
    id = running(engine, check)
    told: list[str] = []
    prober = Prober(engine, on_change=lambda id, health, detail: told.append(health))
    try:
        prober.watch(id, check, "starting")
        wait_for(lambda: told == ["healthy"])
        engine.health_of = lambda spec: 1
        wait_for(lambda: told == ["healthy", "unhealthy"])
        assert engine.container(id).health == "unhealthy"
        assert prober.health(id) == ("unhealthy", "exit code 1: not well")
        engine.health_of = lambda spec: 0
        wait_for(lambda: told == ["healthy", "unhealthy", "healthy"])
        time.sleep(0.1)
        assert told == ["healthy", "unhealthy", "healthy"]
    finally:
        prober.close()


def test_waiting_for_health_ends_with_the_verdict() -> None:
    engine = FakeEngine()
    id = running(engine)
    prober = Prober(engine)
    try:
        start = time.monotonic()
        assert prober.probe_until(id, CHECK, 5.0)[0] == "healthy"
        assert time.monotonic() - start < 1.0
        assert engine.container(id).health == "healthy"
    finally:
        prober.close()


def test_waiting_for_health_ends_when_the_container_does() -> None:
    engine = FakeEngine()
    engine.health_of = lambda spec: 1
    id = running(engine)
    prober = Prober(engine)
    try:
        threading.Timer(0.2, lambda: engine.exit(id, 1)).start()
        assert prober.probe_until(id, CHECK, 30.0)[0] == "unknown"
        assert prober.watched() == frozenset()
    finally:
        prober.close()


def test_waiting_for_health_ends_at_its_deadline_and_when_told_to_stop() -> None:
    engine = FakeEngine()
    engine.health_of = lambda spec: 1
    id = running(engine)
    prober = Prober(engine)
    try:
        assert prober.probe_until(id, CHECK, 0.2) == ("starting", "exit code 1: not well")
        assert prober.probe_until(id, CHECK, 30.0, stop=lambda: True)[0] == "starting"
        assert prober.probe_until(id, None, 30.0) == ("none", "")
    finally:
        prober.close()


def test_a_restarted_container_starts_anew_even_when_nobody_saw_it_exit() -> None:
    engine = FakeEngine()
    id = running(engine)
    prober = Prober(engine)
    try:
        prober.watch(id, CHECK, "starting", started_at=1.0)
        wait_for(lambda: prober.health(id)[0] == "healthy")
        engine.health_of = lambda spec: 1
        prober.watch(id, CHECK, "starting", started_at=2.0)
        wait_for(lambda: prober.health(id) == ("starting", "exit code 1: not well"))
    finally:
        prober.close()


def test_what_was_found_out_before_an_exit_says_nothing_about_the_next_run() -> None:
    engine = FakeEngine()
    id = running(engine)
    prober = Prober(engine)
    try:
        assert prober.probe_until(id, CHECK, 5.0)[0] == "healthy"
        engine.health_of = lambda spec: 1
        prober.restart(id)
        assert prober.probe_until(id, CHECK, 0.2) == ("starting", "exit code 1: not well")
    finally:
        prober.close()


def test_hundreds_of_containers_are_probed_by_a_bounded_number_of_threads() -> None:
    engine = FakeEngine()
    busy, most = [0], [0]
    guard = threading.Lock()

    def answer(state: ContainerState, spec: ExecSpec) -> ExecResult:
        return ExecResult(0, b"")

    engine.exec_script = answer
    check = HealthCheck(("CMD", "check"), interval=5.0)
    ids = [running(engine, check, f"c{number}") for number in range(300)]
    original = engine.exec_capture

    def slow(id: str, spec: ExecSpec, timeout: float) -> ExecResult:
        with guard:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.002)
        with guard:
            busy[0] -= 1
        return original(id, spec, timeout)

    engine.exec_capture = slow  # type: ignore[method-assign]
    prober = Prober(engine, workers=8)
    try:
        for id in ids:
            prober.watch(id, check)
        wait_for(lambda: all(prober.health(id)[0] == "healthy" for id in ids))
        assert most[0] <= 8
        prober.forget_all(ids[3:])
        assert prober.watched() == frozenset(ids[:3])
    finally:
        prober.close()


def test_one_hanging_check_delays_no_other() -> None:
    engine = FakeEngine()
    slow, quick = running(engine, CHECK, "slow"), running(engine, CHECK, "quick")
    release = threading.Event()
    original = engine.exec_capture

    def capture(id: str, spec: ExecSpec, timeout: float) -> ExecResult:
        if id == slow:
            release.wait(10)
        return original(id, spec, timeout)

    engine.exec_capture = capture  # type: ignore[method-assign]
    prober = Prober(engine)
    try:
        prober.watch(slow, CHECK)
        assert prober.probe_until(quick, CHECK, 5.0)[0] == "healthy"
        assert prober.health(slow)[0] == "starting"
    finally:
        release.set()
        prober.close()
