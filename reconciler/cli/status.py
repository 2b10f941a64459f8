"""`status` and `explain`: how stacks fare, and why."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.engine import engine, session
from reconciler.cli.errors import CommandFailed
from reconciler.cli.output import (
    age,
    clean,
    is_coloured,
    json_option,
    note,
    paint,
    paint_state,
    print_json,
    quiet_option,
)
from reconciler.cli.records import open_records

if TYPE_CHECKING:
    from reconciler.model import Desired, Key
    from reconciler.status import ResourceStatus, StackStatus


@click.command()
@click.argument("stack", required=False)
@click.option("-w", "--watch", is_flag=True, help="Show it again each second until interrupted.")
@quiet_option("names of stacks")
@json_option
def status(stack: str | None, watch: bool, quiet: bool, as_json: bool) -> None:
    """Show stacks and the state of their resources."""
    while True:
        found = read_status(stack)
        if stack and not found:
            raise CommandFailed(f'cannot show stack "{stack}": no such stack', hint="`holdfast status` lists all")
        if watch and is_coloured(sys.stdout):
            print("\033[H\033[2J", end="")
        if as_json:
            print_json([one.to_json() for one in found])
        elif quiet:
            for one in found:
                print(one.stack)
        else:
            show_stacks(found)
        if not watch:
            return
        sys.stdout.flush()
        time.sleep(1.0)


def read_status(stack: str | None) -> list[StackStatus]:
    """From the agent, which knows what it holds back and what is healthy; without one from the state root."""
    from reconciler.cli.apply import agent_serves
    from reconciler.status import StackStatus, collect_status

    if agent_serves():
        from reconciler.agent.client import AgentClient

        value = AgentClient(session().layout.agent_socket).status(stack)
        found = [StackStatus.from_json(item) for item in value["stacks"]]
    else:
        records = open_records()
        try:
            found = collect_status(engine(), records, stack, now=time.time())
        finally:
            records.close()
    # Asked for by name, a stack that nobody knows comes back empty.
    return [one for one in found if stack is None or one.resources or one.generation]


def show_stacks(found: Sequence[StackStatus]) -> None:
    if not found:
        note("no stacks on this root (holdfast apply -f DIR makes one)")
        return
    for number, one in enumerate(found):
        if number:
            print()
        print(paint(one.stack, "bold") + "  " + _headline(one))
        if one.problem and not one.settled:
            print(f"  {paint(clean(one.problem.partition(chr(10))[0]), 'red')}")
        _show_resources(one.resources)
    if not found[0].agent:
        note("no agent: nothing restarts, probes or repairs these (holdfast agent)")


def _headline(one: StackStatus) -> str:
    parts = [paint_state("converged") if one.settled else paint("not as wanted", "yellow")]
    if one.intent:
        parts = [paint(clean(one.intent), "yellow")]
    if one.generation:
        result = f", {one.result}" if one.result not in ("", "converged") else ""
        parts.append(f"generation {one.generation}{result}, applied {age(one.applied_at)} ago")
    return "  ".join(parts)


def _show_resources(resources: Sequence[ResourceStatus]) -> None:
    rows: list[tuple[str, str, str, str, str]] = []
    for one in resources:
        ready = f"{one.ready}/{one.wanted}" if one.wanted else ""
        remarks = [one.intent, one.problem]
        if one.restarts:
            remarks.insert(0, f"{one.restarts} restart{'s' if one.restarts > 1 else ''}")
        if one.backoff_until > time.time():
            remarks.append(f"tried again in {one.backoff_until - time.time():.0f} s")
        state = f"{one.state}, {one.health}" if one.health and one.health != one.state else one.state
        rows.append((one.key, ready, state, ", ".join(one.ports), "; ".join(filter(None, remarks))))
    widths = [max((len(clean(row[column])) for row in rows), default=0) for column in range(4)]
    for row in rows:
        cells = [clean(cell) for cell in row]
        padded = [cell.ljust(width) for cell, width in zip(cells, [*widths, 0], strict=True)]
        padded[2] = _painted(padded[2], row[2])
        print(f"  {'  '.join(padded)}".rstrip())


def _painted(padded: str, state: str) -> str:
    colour = {
        "present": "",
        "running": "green",
        "completed": "green",
        "failed": "red",
        "unhealthy": "red",
        "missing": "red",
        "degraded": "red",
        "stopped": "dim",
    }.get(state.split(",", maxsplit=1)[0], "yellow")
    return paint(padded, colour)


@click.command()
@click.argument("resource", metavar="STACK/RESOURCE")
@json_option
def explain(resource: str, as_json: bool) -> None:
    """Say why a resource is as it is: its state, what it waits for, its last problems, who asked for it."""
    stack, _, name = resource.partition("/")
    if not stack or not name:
        raise CommandFailed(f'cannot explain "{resource}": name it STACK/RESOURCE', exit_code=2)
    from reconciler.explanation import explain as explain_resource
    from reconciler.generations import read_desired

    found = read_status(stack)
    if not found:
        raise CommandFailed(f'cannot explain "{resource}": no such stack', hint="`holdfast status` lists all")
    records = open_records()
    try:
        generation = records.wanted(stack)
        desired = read_desired(generation) if generation else None
        key = _key_of(name, found[0], desired)
        events = records.events(stack, str(key), limit=5)
    finally:
        records.close()
    lines = explain_resource(key, desired, found[0], engine().snapshot(), events)
    if as_json:
        entry = next((one for one in found[0].resources if one.key == str(key)), None)
        print_json({"stack": stack, "resource": str(key), "reasons": lines, "status": _resource_object(entry)})
    else:
        print(clean(lines[0]))
        for line in lines[1:]:
            print(f"  {clean(line)}")


def _resource_object(entry: ResourceStatus | None) -> Any:
    from dataclasses import asdict

    return asdict(entry) if entry else None


def _key_of(name: str, found: StackStatus, desired: Desired | None) -> Key:
    """`service/web`, `web`, or a replica of it, `web-1`."""
    from reconciler.model import Key

    texts = [one.key for one in found.resources] + [str(key) for key in (desired.resources if desired else ())]
    bare, _, index = name.rpartition("-")
    for wanted in (name, bare if index.isdigit() else ""):
        for text in texts:
            if wanted and (text == wanted or text.partition("/")[2] == wanted):
                kind, _, rest = text.partition("/")
                return Key(kind, rest)  # type: ignore[arg-type]
    names = ", ".join(sorted({text.partition("/")[2] for text in texts}))
    raise CommandFailed(
        f'cannot explain "{found.stack}/{name}": no such resource',
        hint=f"stack {found.stack} has: {names}" if names else "`holdfast status` lists stacks",
    )
