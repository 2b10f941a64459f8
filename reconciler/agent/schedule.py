"""The agent's timers: APScheduler with a memory store, rebuilt at every start, each job explicit about lateness.

A timer only wakes work that decides for itself from what it observes; a missed or doubled tick changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class Schedule:
    """Named periodic jobs, each at most once at a time; what was missed while busy or asleep runs once, late.

    `on_error(name, error)` hears of a job that raised; the job stays scheduled.
    """

    def __init__(self, on_error: Callable[[str, BaseException], None], workers: int = 4) -> None:
        from apscheduler.events import EVENT_JOB_ERROR
        from apscheduler.executors.pool import ThreadPoolExecutor
        from apscheduler.jobstores.memory import MemoryJobStore
        from apscheduler.schedulers.background import BackgroundScheduler

        # It logs a warning for each skipped overlap; the agent's own events say what matters.
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
        self._scheduler = BackgroundScheduler(
            jobstores={"default": MemoryJobStore()},
            executors={"default": ThreadPoolExecutor(workers)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone=UTC,
            daemon=True,
        )
        self._scheduler.add_listener(lambda event: on_error(event.job_id, event.exception), EVENT_JOB_ERROR)

    def every(
        self, name: str, seconds: float, work: Callable[[], object], *, jitter: float = 0.0, soon: bool = False
    ) -> None:
        """Run `work` each `seconds`, replacing a job of this name; `soon`: first at once, not after one period.

        `misfire_grace_time` None: however late, a tick still runs (the library's default of 1 s drops it silently).
        """
        from apscheduler.triggers.interval import IntervalTrigger

        first = datetime.now(UTC) if soon else datetime.now(UTC) + timedelta(seconds=seconds)
        self._scheduler.add_job(
            work,
            IntervalTrigger(seconds=seconds, jitter=jitter or None, timezone=UTC),
            id=name,
            name=name,
            replace_existing=True,
            next_run_time=first,
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
        )

    def drop(self, name: str) -> None:
        if self._scheduler.get_job(name) is not None:
            self._scheduler.remove_job(name)

    def names(self) -> list[str]:
        return sorted(job.id for job in self._scheduler.get_jobs())

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """End the timers without waiting for jobs that run; they hold nothing that outlives the process."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
