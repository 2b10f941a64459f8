"""The wall clock is set forward or back by a day while the loop keeps a stack: nothing storms, nothing stalls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler.convergence import ConvergeOptions
from reconciler.generations import Generations
from reconciler.loop import Loop
from runtime.errors import StartFailed
from tests.support.desired import STACK, health, make_desired, make_service, restart
from tests.support.fake_engine import FakeEngine

DAY = 86_400.0
JUMPS = pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forward", "back"])
TICK = 0.01


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@contextmanager
def ticking(engine: FakeEngine) -> Iterator[None]:
    """Virtual time passes as fast as real time does."""
    over = threading.Event()

    def tick() -> None:
        last = time.monotonic()
        while not over.wait(TICK):
            last, before = time.monotonic(), last
            engine.advance(last - before)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def kept(engine: FakeEngine, path: Path, *services: Any) -> Iterator[Loop]:
    """A loop at work on a stack of these services."""
    loop = Loop(engine, Generations(str(path), engine.clock), clock=engine.clock)
    with ticking(engine):
        loop.start()
        try:
            loop.declare(make_desired(*services), revision="r", source="s")
            yield loop
        finally:
            loop.stop()


def wait_until(condition: Callable[[], bool], what: str, deadline: float = 5.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not within {deadline:g} s: {what}"
        time.sleep(TICK)


def starts(engine: FakeEngine, name: str = "web") -> int:
    return sum(one.starts for one in engine.snapshot().containers if one.name == f"{STACK}/{name}-1")


def runs(engine: FakeEngine, name: str = "web") -> bool:
    return any(one.name == f"{STACK}/{name}-1" and one.status == "running" for one in engine.snapshot().containers)


def changes(engine: FakeEngine) -> list[tuple[str, str]]:
    return [call for call in list(engine.calls) if call[0] != "snapshot"]


@JUMPS
def test_what_runs_is_left_alone_and_what_ends_is_started_again_at_once(
    engine: FakeEngine, tmp_path: Path, jump: float
) -> None:
    checked = make_service("checked", policy={"health": health(interval=0.05), "restart": restart("always")})
    with kept(engine, tmp_path, make_service("web", policy={"restart": restart("always")}), checked) as loop:
        wait_until(lambda: runs(engine) and runs(engine, "checked"), "both run")
        wait_until(lambda: engine.container(f"{STACK}/checked-1").health == "healthy", "the check has passed")
        engine.set_clock(engine.now + jump)
        engine.calls.clear()
        loop.look()
        time.sleep(0.3)
        touched = [call for call in changes(engine) if call[0] not in ("exec_capture", "set_health")]
        assert touched == [] and engine.container(f"{STACK}/checked-1").health == "healthy"
        engine.exit(engine.container(f"{STACK}/web-1").id, 1)
        wait_until(lambda: runs(engine) and starts(engine) == 2, "what ended runs again", 2.0)


@JUMPS
def test_a_program_that_keeps_failing_is_neither_started_in_a_storm_nor_forgotten(
    engine: FakeEngine, tmp_path: Path, jump: float
) -> None:
    web = make_service("web", command=["false"], policy={"restart": restart("always")})
    with kept(engine, tmp_path, web) as loop:
        wait_until(lambda: starts(engine) >= 6, "a few failures")
        before = starts(engine)
        engine.set_clock(engine.now + jump)
        loop.look()
        wait_until(lambda: starts(engine) > before, "it is tried again", 3.0)
        time.sleep(1.0)
        # At the worst the series begins anew: 0, 0.1, 0.2, 0.4, 0.8 s.
        assert starts(engine) - before <= 7
        wait_until(lambda: starts(engine) - before >= 2, "it goes on being tried", 8.0)


@JUMPS
def test_a_failed_start_is_tried_again_soon_after_the_jump(engine: FakeEngine, tmp_path: Path, jump: float) -> None:
    engine.fail("start_container", "web", StartFailed('cannot start "web": not yet'), times=1)
    with kept(engine, tmp_path, make_service("web", policy={"restart": restart("always")})) as loop:
        wait_until(lambda: bool(loop.held()), "the start has failed")
        engine.set_clock(engine.now + jump)
        wait_until(lambda: runs(engine), "it runs in the end", 10.0)


@JUMPS
def test_an_apply_during_which_the_clock_jumps_converges(engine: FakeEngine, tmp_path: Path, jump: float) -> None:
    with kept(engine, tmp_path, make_service("web")) as loop:
        wait_until(lambda: runs(engine), "the first runs")
        more = make_desired(*(make_service(f"more{number}") for number in range(8)), make_service("web"))
        timer = threading.Timer(0.02, lambda: engine.set_clock(engine.now + jump))
        timer.start()
        outcome = loop.apply(more, ConvergeOptions(timeout=10.0), lambda progress: None)
        timer.join()
        assert outcome.converged, outcome
        assert all(runs(engine, f"more{number}") for number in range(8)) and starts(engine) == 1
