"""Runs the stages of a build, each as soon as those it needs are done; the first failure stops the others."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Generic, TypeVar

from runtime.build.stages import PlannedStage

T = TypeVar("T")
Make = Callable[[PlannedStage, Mapping[int, T], Callable[[], None]], T]


class StoppedError(Exception):
    """This stage ends because another one failed or the build was interrupted."""


def run_stages(stages: Sequence[PlannedStage], make: Make[T]) -> dict[int, T]:
    """`make(stage, results so far, check)` for each stage in order; `check` raises when the stage is to end.

    A chain of stages runs in the calling thread, so that an interrupt arrives in the very step that runs.
    """
    done: dict[int, T] = {}
    if all(before.index in after.needs for before, after in pairwise(stages)):
        for stage in stages:
            done[stage.index] = make(stage, done, lambda: None)
        return done
    return _Parallel(stages, make).run()


class _Parallel(Generic[T]):
    def __init__(self, stages: Sequence[PlannedStage], make: Make[T]) -> None:
        self.stages = stages
        self.make = make
        self.done: dict[int, T] = {}
        self.changed = threading.Condition()
        self.slots = threading.Semaphore(max(2, os.cpu_count() or 2))
        self.failure: BaseException | None = None
        self.stopping = False

    def run(self) -> dict[int, T]:
        threads = [
            threading.Thread(target=self._begin, args=(stage,), name=f"holdfast-build-{stage.title}", daemon=True)
            for stage in self.stages
        ]
        for thread in threads:
            thread.start()
        try:
            with self.changed:
                while self.failure is None and len(self.done) < len(self.stages):
                    self.changed.wait()
        finally:
            self._stop(threads)
        if self.failure is not None:
            raise self.failure
        return self.done

    def check(self) -> None:
        if self.stopping:
            raise StoppedError

    def _begin(self, stage: PlannedStage) -> None:
        try:
            self._run_one(stage)
        except StoppedError:
            pass  # it may be sent to this thread at any instruction

    def _run_one(self, stage: PlannedStage) -> None:
        try:
            with self.changed:
                while not stage.needs <= self.done.keys():
                    self.check()
                    self.changed.wait()
            with self.slots:
                self.check()
                result = self.make(stage, self.done, self.check)
            with self.changed:
                self.done[stage.index] = result
                self.changed.notify_all()
        except StoppedError:
            pass
        except BaseException as error:
            with self.changed:
                self.failure = self.failure or error
                self.stopping = True
                self.changed.notify_all()

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        """Wait for all; those still at work are made to raise, so that a silent step does not hold the end up."""
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        for thread in threads:
            thread.join(0.2 if len(self.done) < len(self.stages) else None)
            if thread.is_alive() and thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(StoppedError))
        for thread in threads:
            thread.join()
