"""Waits until one container is what is expected of it, or until it is certain that it will not be."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from reconciler.restart import describe_end
from runtime.api import ContainerState, Engine, Health, HealthCheck, Run
from runtime.errors import Conflict, EngineError, NotFound

SLICE = 0.5
LONGEST_PROOF = 300.0
FIRST_RETRY = 0.005
LONGEST_RETRY = 0.1


class Prober(Protocol):
    """Runs health checks; `reconciler.health.Prober` is one."""

    def probe_until(
        self,
        id: str,
        check: HealthCheck | None,
        timeout: float,
        stop: Callable[[], bool] = ...,
    ) -> tuple[Health, str]: ...


class NoProber:
    """For callers that do not probe: somebody else does, and this one looks at what they found."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def probe_until(
        self, id: str, check: HealthCheck | None, timeout: float, stop: Callable[[], bool] = lambda: False
    ) -> tuple[Health, str]:
        end = time.monotonic() + timeout
        while True:
            state = self.engine.find_container(id)
            if state is None or state.status not in ("running", "paused"):
                return "unknown", ""
            if state.health in ("healthy", "unhealthy"):
                return state.health, state.health_detail
            if stop() or time.monotonic() >= end:
                return "starting", state.health_detail
            time.sleep(0.05)


class Limits(Protocol):
    """The part of the executor's options that proofs need."""

    @property
    def timeout(self) -> float: ...
    @property
    def moment(self) -> float: ...
    @property
    def ports(self) -> float: ...


@dataclass(frozen=True, slots=True)
class ProofResult:
    """`late`: not yet, and not hopeless. `message` completes the sentence "the container ..."."""

    verdict: Literal["ok", "failed", "late"]
    message: str = ""
    warning: str = ""


class Proof:
    """One wait for one container, on a thread of its own.

    `condition`: started, healthy, completed, or proven (healthy; or its published TCP ports accept; or it has run for a
    moment). `deadline` None: the proof's own limit. `since`: when what is to be proven was known to have begun.
    """

    def __init__(
        self,
        engine: Engine,
        prober: Prober,
        id: str,
        condition: str,
        limits: Limits,
        deadline: float | None,
        stop: Callable[[], bool],
        since: float | None = None,
    ) -> None:
        self.engine = engine
        self.prober = prober
        self.id = id
        self.condition = condition
        self.limits = limits
        self.deadline = time.monotonic() + LONGEST_PROOF if deadline is None else deadline
        self.stop = stop
        self.since = time.monotonic() if since is None else since
        self._done = threading.Event()
        self._result: ProofResult | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="proof", daemon=True).start()

    def _run(self) -> None:
        try:
            result = self.check()
        except EngineError as error:
            result = ProofResult("failed", f"could not be watched: {error}")
        except Exception as error:
            result = ProofResult("failed", f"could not be watched: internal fault ({type(error).__name__}: {error})")
        self.settle(result)

    def is_quick(self, patience: float = 0.02) -> bool:
        """Settled already, or within the moment that is not worth telling anybody that one waits."""
        return self._done.wait(patience)

    def settle(self, result: ProofResult) -> None:
        self._result = result
        self._done.set()

    def result(self, timeout: float) -> ProofResult:
        end = time.monotonic() + timeout
        while not self._done.wait(max(0.0, min(0.1, end - time.monotonic()))):
            if self.stop() or time.monotonic() >= end:
                return self._result or ProofResult("late", "the time is up" if not self.stop() else "stopped")
        return self._result or ProofResult("late", "the time is up")

    def describe(self) -> str:
        return {"completed": "runs to its end", "healthy": "is becoming healthy"}.get(self.condition, "is being proven")

    # ---- the checks

    def check(self) -> ProofResult:
        if self.condition == "completed":
            return self._completes()
        state = self.engine.find_container(self.id)
        if state is None:
            return ProofResult("failed", "is gone")
        if self.condition == "started":
            return ProofResult("ok")
        if state.status == "stopped" and state.last_run is not None:
            return self._ended(state.last_run)
        if state.health_check is not None:
            return self._becomes_healthy(state.health_check)
        if self.condition == "healthy":
            return ProofResult("ok")
        ports = [port.container_port for port in state.ports if port.protocol == "tcp"]
        host = _reachable_address(state)
        if ports and host:
            return self._accepts(host, ports)
        return self._runs_for(self.limits.moment)

    def _left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def _ended(self, run: Run) -> ProofResult:
        """A program that ends well has done its work, whatever it was started for, unless it was to stay healthy."""
        if run.exit_code == 0 and not run.signal and not run.by_us and self.condition != "healthy":
            return ProofResult("ok")
        return ProofResult("failed", describe_end(run))

    def _completes(self) -> ProofResult:
        while True:
            try:
                run = self.engine.wait_container(self.id, min(SLICE, self._left()))
            except (NotFound, Conflict):
                return ProofResult("failed", "is gone")
            if run is not None:
                failed = run.exit_code != 0 or run.signal or run.lost
                return ProofResult("failed", describe_end(run)) if failed else ProofResult("ok")
            if self.stop() or not self._left():
                return ProofResult("late", "it still runs")

    def _runs_for(self, seconds: float) -> ProofResult:
        """Sleep and look: cheaper than to wait for each container's end."""
        end = self.since + seconds
        while (left := end - time.monotonic()) > 0 and not self.stop():
            time.sleep(min(left, 0.1))
        state = self.engine.find_container(self.id)
        if state is None:
            return ProofResult("failed", "is gone")
        if state.status == "stopped" and state.last_run is not None:
            return self._ended(state.last_run)
        return ProofResult("ok")

    def _wait(self, seconds: float) -> Run | None:
        try:
            return self.engine.wait_container(self.id, seconds)
        except (NotFound, Conflict):
            return Run(0.0, 0.0, lost=True)

    def _becomes_healthy(self, check: HealthCheck) -> ProofResult:
        """Probes, while a second thread watches for the container's death: no probe's interval delays that news."""
        ended: list[Run] = []
        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                try:
                    run = self._wait(SLICE)
                except EngineError:
                    return
                if run is not None:
                    ended.append(run)
                    return

        threading.Thread(target=watch, name="death-watch", daemon=True).start()
        try:
            health, detail = self.prober.probe_until(
                self.id, check, self._left(), lambda: bool(ended) or self.stop()
            )  # fmt: skip
        finally:
            over.set()
        if health in ("healthy", "none"):
            return ProofResult("ok")
        if health == "unhealthy":
            return ProofResult("failed", f"is unhealthy{f': {detail}' if detail else ''}")
        run = ended[0] if ended else self._wait(0.0)
        if run is not None:
            return self._ended(run)
        return ProofResult("late", f"it is not healthy yet{f' ({detail})' if detail else ''}")

    def _accepts(self, host: str, ports: list[int]) -> ProofResult:
        """Asks the container itself, so that neither an older replica nor the port's holder answers for it."""
        end = time.monotonic() + min(self.limits.ports, self._left())
        pause = FIRST_RETRY
        waiting = list(ports)
        while True:
            waiting = [port for port in waiting if not _accepts_connection(host, port)]
            if not waiting:
                return ProofResult("ok")
            run = self._wait(pause)
            if run is not None:
                return self._ended(run)
            if time.monotonic() >= end or self.stop():
                ports_text = ", ".join(map(str, waiting))
                return ProofResult("ok", warning=f"its published port {ports_text} accepts no connection yet")
            pause = min(pause * 2, LONGEST_RETRY)


def _reachable_address(state: ContainerState) -> str:
    for addresses in state.addresses.values():
        if addresses:
            return addresses[0]
    return ""


def _accepts_connection(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False
