"""`history` and `events`: what was applied, and what happened."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.engine import engine, session
from reconciler.cli.errors import CommandFailed
from reconciler.cli.output import age, clean, iso_time, json_option, paint, print_json, print_table, quiet_option
from reconciler.cli.values import MOMENT
from reconciler.labels import LABEL_STACK

if TYPE_CHECKING:
    from reconciler.generations import Generation, Generations

_POLL = 0.25


def open_records() -> Generations:
    from reconciler.generations import Generations

    return Generations(session().layout.root)


@click.command()
@click.argument("stack")
@quiet_option("numbers")
@json_option
def history(stack: str, quiet: bool, as_json: bool) -> None:
    """List the generations of STACK, newest first."""
    records = open_records()
    try:
        found = records.history(stack)
        known = records.stacks() if not found else []
    finally:
        records.close()
    if not found:
        hint = f"stacks on record: {', '.join(known)}" if known else "nothing was applied on this root yet"
        raise CommandFailed(f'cannot show the history of stack "{stack}": it has none', hint=hint)
    if quiet:
        for one in found:
            print(one.number)
    elif as_json:
        print_json([_generation_object(one) for one in found])
    else:
        rows = [
            (
                f"{one.number}{' *' if one.wanted else ''}",
                one.result,
                f"{age(one.created_at)} ago",
                one.source or "-",
                one.revision[:19] or "-",
                one.problem.partition("\n")[0][:60],
            )
            for one in found
        ]
        print_table(("GENERATION", "RESULT", "APPLIED", "SOURCE", "REVISION", "PROBLEM"), rows, stated=(1,))


def _generation_object(one: Generation) -> dict[str, Any]:
    return {
        "stack": one.stack,
        "generation": one.number,
        "wanted": one.wanted,
        "result": one.result,
        "problem": one.problem or None,
        "applied": iso_time(one.created_at),
        "finished": iso_time(one.finished_at),
        "source": one.source,
        "revision": one.revision,
        "digest": one.digest,
        "images": dict(one.images),
    }


@click.command()
@click.argument("stack", required=False, metavar="[STACK[/RESOURCE]]")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option("-n", "--tail", type=int, default=200, show_default=True, help="The last N events.")
@click.option("--since", type=MOMENT, default=0.0, help="From then on: a time, or a duration back (10m).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --follow one object a line.")
def events(stack: str | None, follow: bool, tail: int, since: float, as_json: bool) -> None:
    """Show what happened, and with -f what happens: to stacks, and to containers made by hand."""
    name, _, resource = (stack or "").partition("/")
    records = open_records()
    try:
        found = [
            _recorded_object(event)
            for event in records.events(name or None, resource or None, limit=max(tail, 1))
            if event.time >= since
        ]
        shown = found if tail else []
        if as_json and not follow:
            print_json(shown)
            return
        for value in shown:
            _print_event(value, as_json)
        if follow:
            last = found[-1]["id"] if found else 0
            for value in _follow(records, name, resource, last):
                _print_event(value, as_json)
    finally:
        records.close()


def _recorded_object(event: Any) -> dict[str, Any]:
    return {
        "id": event.id,
        "time": iso_time(event.time),
        "stack": event.stack,
        "resource": event.resource,
        "action": event.action,
        "message": event.message,
        "generation": event.generation,
    }


def _follow(records: Generations, stack: str, resource: str, last: int) -> Iterator[dict[str, Any]]:
    """Recorded events as they are written; and, when no stack is asked for, what containers made by hand do."""
    fresh: SimpleQueue[dict[str, Any]] = SimpleQueue()
    ended = threading.Event()
    if not stack:
        used = engine()

        def pump() -> None:
            for event in used.events(ended.is_set):
                if LABEL_STACK not in event.labels:
                    fresh.put(
                        {
                            "id": None,
                            "time": iso_time(event.time),
                            "stack": None,
                            "resource": event.labels.get("name") or f"{event.kind}/{event.id[:12]}",
                            "action": event.action,
                            "message": " ".join(f"{key}={value}" for key, value in event.detail.items()),
                            "generation": None,
                        }
                    )

        threading.Thread(target=pump, daemon=True).start()
    try:
        while True:
            for event in records.events(stack or None, resource or None, after=last, limit=10_000):
                last = event.id
                yield _recorded_object(event)
            try:
                while True:
                    yield fresh.get_nowait()
            except Empty:
                time.sleep(_POLL)
    finally:
        ended.set()


def _print_event(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(value, ensure_ascii=False), flush=True)
        return
    colour = {"failed": "red", "damage": "red", "unhealthy": "red", "warning": "yellow"}.get(value["action"], "")
    where = "/".join(filter(None, (value["stack"], value["resource"])))
    line = f"{value['time']}  {clean(where)}  {paint(clean(value['action']), colour)}  {clean(value['message'])}"
    print(line.rstrip())
    sys.stdout.flush()
