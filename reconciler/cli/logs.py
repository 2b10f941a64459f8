"""`logs STACK/SERVICE`, replicas merged by time, and `container logs`."""

from __future__ import annotations

import heapq
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.attach import write_all
from reconciler.cli.engine import engine
from reconciler.cli.names import find_container, members, path_of, require_members
from reconciler.cli.output import is_coloured, iso_time, paint
from reconciler.cli.values import MOMENT

if TYPE_CHECKING:
    from runtime.api import ContainerState, Engine, LogLine

COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")
_LOOK_FOR_NEW_REPLICAS = 0.5


def _tail(ctx: click.Context, parameter: click.Parameter, value: str) -> int:
    if value == "all":
        return -1
    if not value.isdigit():
        raise click.BadParameter(f'"{value}" is neither a number nor "all"')
    return int(value)


def _log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on."),
        click.option("--since", type=MOMENT, default=0.0, help="From then on: a time, or a duration back (10m)."),
        click.option("--until", type=MOMENT, default=0.0, help="Up to then: a time, or a duration back."),
        click.option("-n", "--tail", callback=_tail, default="all", help="The last N lines of each container only."),
        click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_log_options
@click.argument("container")
def container_logs(*, follow: bool, since: float, until: float, tail: int, timestamps: bool, container: str) -> None:
    """Show what a container wrote: its stdout on ours, its stderr on ours."""
    found = find_container(engine().snapshot(deep=False), container)
    sys.stdout.flush()
    for line in engine().logs(found.id, follow=follow, since=since, until=until, tail=tail):
        _write(line, "", timestamps)


@click.command()
@_log_options
@click.option("--no-prefix", is_flag=True, help="Lines only, without the replica's name.")
@click.argument("service", metavar="STACK/SERVICE[-N]")
def logs(
    *, follow: bool, since: float, until: float, tail: int, timestamps: bool, no_prefix: bool, service: str
) -> None:
    """Show the output of a service, its replicas merged by time. With -f new replicas join in."""
    found = require_members(engine().snapshot(deep=False), service)
    sys.stdout.flush()
    prefixes = Prefixes(not no_prefix)
    prefixes.learn(found)
    readers = [Reader(engine(), container) for container in found]
    for line, reader in heapq.merge(*(r.history(since, until, tail) for r in readers), key=lambda pair: pair[0].time):
        _write(line, prefixes.of(reader.container), timestamps)
    if follow and not (until and until <= time.time()):
        _follow(engine(), service, readers, prefixes, timestamps=timestamps, until=until)


class Prefixes:
    """`web-1 | `: aligned, a colour for each replica, the same colour as long as the command runs."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.width = 0
        self._colours: dict[str, str] = {}

    def learn(self, containers: list[ContainerState]) -> None:
        for container in containers:
            self.width = max(self.width, len(_short_name(container)))
            self._colours.setdefault(_short_name(container), COLOURS[len(self._colours) % len(COLOURS)])

    def of(self, container: ContainerState) -> str:
        if not self.shown:
            return ""
        name = _short_name(container)
        return paint(f"{name.ljust(self.width)} |", self._colours[name]) + " "


def _short_name(container: ContainerState) -> str:
    return path_of(container.labels).partition("/")[2] or container.name


@dataclass
class Reader:
    """Reads one container's log first to its present end, then on from exactly there."""

    engine: Engine
    container: ContainerState
    last: float = 0.0
    at_last: int = 0
    """How many lines with time `last` were read: several lines may share one instant."""
    thread: threading.Thread | None = field(default=None, repr=False)

    def history(self, since: float, until: float, tail: int) -> Iterator[tuple[LogLine, Reader]]:
        self.last = since if tail else max(since, time.time())
        for line in self.engine.logs(self.container.id, since=since, until=until, tail=tail):
            self._count(line)
            yield line, self

    def rest(self, until: float) -> Iterator[LogLine]:
        skip, limit = self.at_last, self.last
        for line in self.engine.logs(self.container.id, follow=True, since=self.last, until=until):
            if line.time < limit:
                continue
            if line.time == limit and skip > 0:
                skip -= 1
                continue
            self._count(line)
            yield line

    def _count(self, line: LogLine) -> None:
        if line.time > self.last:
            self.last, self.at_last = line.time, 0
        self.at_last += line.time == self.last


def _follow(
    used: Engine, service: str, readers: list[Reader], prefixes: Prefixes, *, timestamps: bool, until: float
) -> None:
    """Until interrupted, or until the service has no container left. A restarted container is taken up again."""
    from runtime.errors import EngineError

    lines: queue.SimpleQueue[tuple[LogLine, Reader]] = queue.SimpleQueue()
    by_id = {reader.container.id: reader for reader in readers}

    def pump(reader: Reader) -> None:
        try:
            for line in reader.rest(until):
                lines.put((line, reader))
        except EngineError:
            # Removed while it was read: the next look at the service notices.
            return

    def drain() -> None:
        batch = []
        while not lines.empty():
            batch.append(lines.get())
        for line, reader in sorted(batch, key=lambda pair: pair[0].time):
            _write(line, prefixes.of(reader.container), timestamps)

    next_look = 0.0
    while not (until and time.time() > until):
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + _LOOK_FOR_NEW_REPLICAS
            present = members(used.snapshot(deep=False).containers, service)
            prefixes.learn(present)
            for container in present:
                reader = by_id.setdefault(container.id, Reader(used, container))
                if container.status == "running" and not (reader.thread and reader.thread.is_alive()):
                    reader.thread = threading.Thread(target=pump, args=(reader,), daemon=True)
                    reader.thread.start()
            if not present and lines.empty():
                break
        time.sleep(0.03)
        drain()
    drain()


def _write(line: LogLine, prefix: str, timestamps: bool) -> None:
    stamp = f"{iso_time(line.time)} " if timestamps else ""
    fd = 2 if line.stream == "stderr" else 1
    data = line.data
    if fd == 1 and is_coloured(sys.stdout) and prefix:
        data += b"\033[0m"  # a program that left its colour on must not paint the next replica's prefix
    write_all(fd, f"{stamp}{prefix}".encode() + data + b"\n")
