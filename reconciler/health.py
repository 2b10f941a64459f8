"""Runs health checks inside containers, as Compose words them, and tells the engine each changed verdict.

While a container is starting it is probed often (at once, then at steps that grow from 0.1 s to 1 s and are never
longer than `start_interval` or `interval`), so that an interval of 30 s does not make an apply wait for it. These extra
probes can only find a container healthy: a failure counts towards `retries` no earlier, and no more often, than the
declared `start_period` and `interval` would have let it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from runtime.api import Engine, ExecSpec, Health, HealthCheck
from runtime.errors import Conflict, EngineError, NotFound

FIRST_STEP = 0.1
LONGEST_STEP = 1.0
WORKERS = 32
"""Checks that may run at once; more wait their turn. A check that hangs holds its worker until its own timeout."""
_IDLE_WORKER = 10.0
_DETAIL_LIMIT = 400
_NEVER_TWICE = 0.01

Verdict = Literal["pass", "fail", "unknown", "gone"]
"""`unknown`: the check could not be run this time (engine busy), which says nothing about the container."""


@dataclass(frozen=True, slots=True)
class Course:
    """Where one container's checking stands: a value, advanced by `advance`. Times are monotonic seconds."""

    check: HealthCheck
    started_at: float
    health: Health
    due: float
    counts_at: float
    """A failure before this instant does not count."""
    failures: int = 0
    step: float = FIRST_STEP


def begin(check: HealthCheck, started_at: float, now: float, current: Health = "starting") -> Course:
    """The course of a container that started at `started_at`; `current` is a verdict that an earlier prober reached.

    A verdict that stands is kept until the first probe says otherwise: a new agent must not take healthy containers
    out of names and ports only because it has just started itself.
    """
    health: Health = current if current in ("healthy", "unhealthy") else "starting"
    counts_at = max(started_at + check.start_period, started_at + check.interval)
    return Course(check, started_at, health, due=now, counts_at=counts_at if health == "starting" else now)


def advance(course: Course, verdict: Verdict, now: float) -> Course:
    """The course after a probe that ended at `now`, with the next probe's time."""
    check = course.check
    if verdict == "unknown":
        return replace(course, due=now + min(LONGEST_STEP, max(check.interval, _NEVER_TWICE)))
    if verdict == "pass":
        return replace(course, health="healthy", failures=0, due=now + max(check.interval, _NEVER_TWICE), counts_at=now)
    failures, counts_at = course.failures, course.counts_at
    if now >= counts_at:
        failures += 1
        counts_at = now + check.interval if course.health == "starting" else now
    health: Health = "unhealthy" if failures >= max(1, check.retries) else course.health
    if health == "starting":
        pause = min(course.step, LONGEST_STEP, check.interval, check.start_interval)
        return replace(
            course, health=health, failures=failures, counts_at=counts_at,
            due=now + max(pause, _NEVER_TWICE), step=course.step * 2,
        )  # fmt: skip
    return replace(course, health=health, failures=failures, counts_at=now, due=now + max(check.interval, _NEVER_TWICE))


def is_checked(check: HealthCheck | None) -> bool:
    return check is not None and bool(check.test) and check.test[0] != "NONE"


def probe_once(engine: Engine, id: str, check: HealthCheck) -> tuple[Verdict, str]:
    """Run the check in the container now. The detail is the check's own last output, for `status` and `explain`."""
    argv = check.test[1:] if check.test[0] == "CMD" else ("/bin/sh", "-c", *check.test[1:])
    try:
        result = engine.exec_capture(id, ExecSpec(argv=argv), timeout=check.timeout)
    except (NotFound, Conflict):
        return "gone", "the container does not run"
    except EngineError as error:
        return ("unknown" if error.retryable else "fail"), str(error)[:_DETAIL_LIMIT]
    text = result.output[-_DETAIL_LIMIT:].decode(errors="replace").strip()
    if result.timed_out:
        return "fail", f"the check did not end within {check.timeout:g} s"
    if result.exit_code == 0:
        return "pass", ""
    return "fail", f"exit code {result.exit_code}" + (f": {text}" if text else "")


class Prober:
    """Keeps the health of many containers: one thread that knows what is due, and a few that run checks.

    `on_change(id, health, detail)` is called after the engine has been told. Threads start with the first `watch`.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float] = time.monotonic,
        workers: int = WORKERS,
        on_change: Callable[[str, Health, str], None] | None = None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._workers = workers
        self._on_change = on_change
        self._changed = threading.Condition()
        self._courses: dict[str, Course] = {}
        self._details: dict[str, str] = {}
        self._runs: dict[str, float] = {}
        self._generation: dict[str, int] = {}
        """Numbers each id's courses: a verdict that comes after `forget` and `watch` is not taken for the new run's."""
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, str]] = []
        self._ready: list[tuple[str, int]] = []
        self._idle = 0
        self._running = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def watch(
        self, id: str, check: HealthCheck | None, current: Health = "starting", *, started_at: float = 0.0
    ) -> None:
        """Probe this running container from now on. Repeating the call changes nothing.

        `started_at` (wall clock, 0.0: not known) tells one run of the container from the next, which starts anew.
        """
        if not is_checked(check):
            self.forget(id)
            return
        assert check is not None
        with self._changed:
            known = self._courses.get(id)
            run = self._runs.get(id, 0.0)
            same_run = known is not None and (not started_at or not run or run == started_at)
            if known is not None and same_run and known.check == check:
                self._runs[id] = started_at or run
                return
            now = self._clock()
            # The wall clock may have jumped since the start; an age can only be a guess and is never negative.
            age = max(0.0, time.time() - started_at) if started_at else 0.0
            course = begin(check, now - age, now, known.health if known is not None and same_run else current)
            self._runs[id] = started_at or (run if same_run else 0.0)
            self._courses[id] = course
            self._schedule(id, course, fresh=True)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._keep_time, name="health", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if current not in ("starting", "healthy", "unhealthy"):
            self._tell(id, course.health, "")

    def restart(self, id: str) -> None:
        """The container's process has ended: what was found out about it says nothing about the next one."""
        with self._changed:
            course = self._courses.get(id)
            if course is not None:
                now = self._clock()
                self._courses[id] = fresh = begin(course.check, now, now)
                self._runs[id] = 0.0
                self._details.pop(id, None)
                self._schedule(id, fresh, fresh=True)
                self._changed.notify_all()

    def forget(self, id: str) -> None:
        with self._changed:
            self._drop(id)

    def _drop(self, id: str) -> None:
        for table in (self._courses, self._details, self._generation, self._runs):
            table.pop(id, None)
        self._changed.notify_all()

    def forget_all(self, ids: Iterable[str]) -> None:
        for id in ids:
            self.forget(id)

    def watched(self) -> frozenset[str]:
        return frozenset(self._courses)

    def health(self, id: str) -> tuple[Health, str]:
        """The verdict held now and what the last failed check said; ("unknown", "") for an id that is not watched."""
        with self._changed:
            course = self._courses.get(id)
            return (course.health, self._details.get(id, "")) if course is not None else ("unknown", "")

    def probe_until(
        self,
        id: str,
        check: HealthCheck | None,
        timeout: float,
        stop: Callable[[], bool] = lambda: False,
        current: Health = "starting",
        *,
        started_at: float = 0.0,
    ) -> tuple[Health, str]:
        """Wait for a verdict: "healthy", "unhealthy"; "unknown" when gone, "starting" when time is up or `stop()`.

        A container without a check is ("none", "") at once. The watch goes on afterwards.
        """
        if not is_checked(check):
            return "none", ""
        self.watch(id, check, current, started_at=started_at)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                course = self._courses.get(id)
                if course is None:
                    return "unknown", "the container does not run"
                if course.health != "starting":
                    return course.health, self._details.get(id, "")
                remaining = deadline - time.monotonic()
                if remaining <= 0 or stop() or self._closed:
                    return "starting", self._details.get(id, "")
                self._changed.wait(min(remaining, 0.1))

    def close(self) -> None:
        """Stop probing. Checks that run now end by their own timeouts, and nobody waits for them."""
        with self._changed:
            self._closed = True
            self._courses.clear()
            self._ready.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2.0)

    # ---- threads ------------------------------------------------------------------------------------------------

    def _schedule(self, id: str, course: Course, fresh: bool = False) -> None:
        if fresh:
            self._generation[id] = next(self._numbers)
        heapq.heappush(self._due, (course.due, self._generation[id], id))

    def _keep_time(self) -> None:
        with self._changed:
            while not self._closed:
                now = self._clock()
                while self._due and self._due[0][0] <= now:
                    _, number, id = heapq.heappop(self._due)
                    if self._generation.get(id) == number:
                        self._ready.append((id, number))
                        self._hire()
                pause = max(0.0, self._due[0][0] - now) if self._due else None
                self._changed.wait(pause)

    def _hire(self) -> None:
        if self._idle >= len(self._ready):
            self._changed.notify_all()
        elif self._running < self._workers:
            self._running += 1
            threading.Thread(target=self._work, name="health-check", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                deadline = time.monotonic() + _IDLE_WORKER
                self._idle += 1
                while not self._ready and not self._closed and time.monotonic() < deadline:
                    self._changed.wait(deadline - time.monotonic())
                self._idle -= 1
                if self._closed or not self._ready:
                    self._running -= 1
                    return
                id, number = self._ready.pop(0)
                course = self._courses.get(id)
                if course is None or self._generation.get(id) != number:
                    continue
            self._probe(id, number, course)

    def _probe(self, id: str, number: int, course: Course) -> None:
        verdict, detail = probe_once(self._engine, id, course.check)
        with self._changed:
            if self._closed or self._generation.get(id) != number:
                return
            if verdict == "gone":
                self._drop(id)
                return
            after = advance(course, verdict, self._clock())
        # The engine hears first: whoever waits for "healthy" may then rely on names and ports to answer.
        if after.health != course.health and not self._tell(id, after.health, detail):
            after = replace(after, health=course.health, due=self._clock() + LONGEST_STEP)
        with self._changed:
            if self._closed or self._generation.get(id) != number:
                return
            self._courses[id] = after
            if verdict == "fail":
                self._details[id] = detail
            elif verdict == "pass":
                self._details.pop(id, None)
            self._schedule(id, after)
            self._changed.notify_all()
        if after.health != course.health and self._on_change is not None:
            self._on_change(id, after.health, detail)

    def _tell(self, id: str, health: Health, detail: str) -> bool:
        try:
            self._engine.set_health(id, health, detail)
        except (NotFound, Conflict):
            return True
        except EngineError:
            return False
        return True
