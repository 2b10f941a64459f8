"""The host agent: keeps every stack of a root converged, probes health, serves the socket, until it is told to stop.

Containers, names and published ports do not depend on it: it may be stopped, killed or upgraded at any time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reconciler.agent.schedule import Schedule
from reconciler.agent.server import ApplyBody, DestroyBody, Report, Server
from reconciler.agent.source import AgentSource, Load, load_paths
from reconciler.convergence import Progress, outcome_to_json
from reconciler.desired import from_json
from reconciler.generations import Generations
from reconciler.lock import agent_lock
from reconciler.loop import RESYNC, ConvergeOptions, Loop
from reconciler.notify import notify, watchdog_interval
from reconciler.plan import from_json as plan_from_json
from reconciler.status import collect_status
from runtime.api import Engine
from runtime.errors import InvalidSpec

POLL = 60.0
"""The source is read again this often although no change was noticed."""
CLEAN_UP = 3600.0
STALE = 120.0
"""Without a full look for so long the watchdog is no longer fed, and systemd starts a new agent."""


def run_agent(
    engine: Engine,
    root: str,
    socket_path: str,
    paths: Sequence[str] = (),
    *,
    interval: float = RESYNC,
    poll: float = POLL,
    profiles: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    load: Load | None = None,
    log: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.time,
    stop: threading.Event | None = None,
) -> int:
    """Run in the foreground until SIGTERM or SIGINT (or `stop`); the value is the exit code.

    `interval` is between full looks, `poll` between readings of the source without a noticed change. Without `paths` it
    keeps what was applied by hand. Raises Conflict when the root has an agent already, and Unavailable when the socket
    cannot be served. Signals are only caught on the main thread.
    """
    with agent_lock(root):
        agent = Agent(
            engine, root, socket_path, paths,
            interval=interval, poll=poll, log=log, clock=clock,
            load=load or load_paths(engine, root, paths, dict(os.environ) if environ is None else environ, profiles),
        )  # fmt: skip
        ended = stop or threading.Event()
        with _Signals(ended, agent.reload):
            agent.start()
            try:
                notify(f"READY=1\nSTATUS=keeping {root}")
                while not ended.wait(1.0):
                    pass
            finally:
                notify("STOPPING=1")
                agent.stop()
    return 0


class Agent:
    """The parts and how they wake each other: source and socket and timers -> loop -> engine."""

    def __init__(
        self,
        engine: Engine,
        root: str,
        socket_path: str,
        paths: Sequence[str],
        *,
        load: Load,
        interval: float = RESYNC,
        poll: float = POLL,
        log: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self.root = root
        self.started_at = time.time()
        self.clock = clock
        self._log = log or _print_line
        self._paths = tuple(os.path.abspath(path) if path != "-" else path for path in paths)
        self._interval = interval
        self._poll = poll
        self.generations = Generations(root, clock)
        self.loop = Loop(engine, self.generations, clock=clock, tell=self._tell, report=self._report)
        self.source = AgentSource(self.loop, self._paths, load, self._report) if self._paths else None
        self.server = Server(socket_path, self)
        self.schedule = Schedule(lambda name, error: self._report("", f"timer {name}: {error}"))

    def start(self) -> None:
        """Serve first, so that commands find the agent while a long first convergence goes on."""
        _load_what_rounds_need()
        self.server.start()
        try:
            self.loop.start()
            if self.source is not None:
                self.source.start()
                self.schedule.every("source", self._poll, self.source.ask, jitter=self._poll / 10)
            self.schedule.every("resync", self._interval, self.loop.look)
            self.schedule.every("clean-up", CLEAN_UP, self.clean_up, jitter=60.0)
            if watchdog_interval():
                self.schedule.every("watchdog", watchdog_interval(), self._feed_watchdog, soon=True)
            self.schedule.start()
        except BaseException:
            self.stop()
            raise
        self._log(f"agent {os.getpid()} keeps {self.root}")

    def stop(self) -> None:
        """Let go of everything; no container is touched."""
        self.schedule.stop()
        if self.source is not None:
            self.source.stop()
        self.server.stop()
        self.loop.stop()
        self.generations.close()
        self._log(f"agent {os.getpid()} stops; containers run on")

    def reload(self) -> None:
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        if self.source is not None:
            self.source.ask()
        self.loop.wake()
        notify("READY=1")

    def clean_up(self) -> None:
        self.engine.collect_garbage()
        self.generations.trim()

    def _feed_watchdog(self) -> None:
        if time.monotonic() - self.loop.last_look < max(STALE, self._interval * 5):
            notify("WATCHDOG=1")

    def _tell(self, progress: Progress) -> None:
        if progress.kind == "action" and progress.state in ("done", "failed"):
            because = f": {progress.message}" if progress.message else ""
            self._log(f"{progress.stack}: {progress.key} {progress.verb} {progress.state}{because}")
        elif progress.kind == "warning":
            self._log(f"{progress.stack}: warning: {progress.message}")

    def _report(self, stack: str, text: str) -> None:
        self.generations.record_event(stack, "", "report", text)
        self._log(f"{stack}: {text}" if stack else text)

    # ---- what the socket offers ---------------------------------------------------------------------------------

    def version(self) -> dict[str, Any]:
        return {
            "holdfast": _version(), "api": "v1", "pid": os.getpid(), "root": self.root, "started_at": self.started_at,
        }  # fmt: skip

    def status(self, stack: str | None) -> dict[str, Any]:
        found = collect_status(
            self.engine, self.generations, stack, agent=True, held=self.loop.held(), now=self.clock()
        )
        source = asdict(self.source.state) if self.source is not None else None
        return {"agent": {**self.version(), "source": source}, "stacks": [item.to_json() for item in found]}

    def apply(self, body: ApplyBody, report: Report) -> dict[str, Any]:
        try:
            desired = from_json(body.desired)
            expected = plan_from_json(body.expected) if body.expected is not None else None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InvalidSpec(f"cannot apply the desired state: it is malformed ({type(error).__name__})") from None
        options = ConvergeOptions(
            prune=body.prune, wait=body.wait, timeout=body.timeout, lock_wait=body.lock_wait,
            allow_deletions=body.allow_deletions, refresh=body.refresh, revision=body.revision, source=body.source,
            expected=expected,
        )  # fmt: skip
        return outcome_to_json(self.loop.apply(desired, options, lambda progress: report(asdict(progress))))

    def destroy(self, body: DestroyBody, report: Report) -> dict[str, Any]:
        outcome = self.loop.destroy(
            body.stack, volumes=body.volumes, timeout=body.timeout, lock_wait=body.lock_wait,
            on_event=lambda progress: report(asdict(progress)),
        )  # fmt: skip
        return outcome_to_json(outcome)

    def wake(self, stack: str | None) -> None:
        self.loop.wake(stack)

    def events(self, stack: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        return [asdict(event) for event in self.generations.events(stack, after=after, limit=limit)]


def _load_what_rounds_need() -> None:
    """The first round after a crash must not wait for an import."""
    import reconciler.executor
    import reconciler.planner  # noqa: F401
    from reconciler.graph import ResourceGraph

    ResourceGraph({})


class _Signals:
    """SIGTERM and SIGINT end, SIGHUP reloads; put back as they were afterwards."""

    def __init__(self, ended: threading.Event, reload: Callable[[], None]) -> None:
        self._ended = ended
        self._reload = reload
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, lambda *_: self._ended.set())
        # Reloading takes locks that the interrupted main thread may hold: it runs on a thread of its own.
        self._before[signal.SIGHUP] = signal.signal(
            signal.SIGHUP, lambda *_: threading.Thread(target=self._reload, daemon=True).start()
        )

    def __exit__(self, *exc: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


def _print_line(text: str) -> None:
    stamp = "" if "JOURNAL_STREAM" in os.environ else time.strftime("%Y-%m-%dT%H:%M:%S%z ")
    try:
        print(f"{stamp}{text}", file=sys.stderr, flush=True)
    except OSError:
        # A full disk or a closed terminal loses log lines, not the agent.
        return


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"
