"""`holdfast destroy`: remove a stack, its data only when told by name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from reconciler.cli.apply import (
    agent_serves,
    outcome_object,
    plan_then,
    progress_from,
    show_outcome,
)
from reconciler.cli.engine import engine, session
from reconciler.cli.errors import CommandFailed
from reconciler.cli.output import confirm, json_option, note, print_json, yes_option
from reconciler.cli.progress import make_progress
from reconciler.cli.records import open_records
from reconciler.cli.values import DURATION
from reconciler.labels import LABEL_STACK

if TYPE_CHECKING:
    from reconciler.convergence import Outcome
    from runtime.api import Snapshot


@click.command()
@click.argument("stack")
@click.option("--volumes", is_flag=True, help="Also remove the stack's volumes and the data in them.")
@click.option("--timeout", type=DURATION, default=600.0, show_default="10m", help="Give up after that: exit code 4.")
@click.option("--lock-timeout", type=DURATION, default=0.0, help="Wait so long for another apply of the stack to end.")
@yes_option
@json_option
@click.pass_context
def destroy(
    ctx: click.Context, /, stack: str, volumes: bool, timeout: float, lock_timeout: float, yes: bool, as_json: bool
) -> None:
    """Remove all that STACK owns: containers, networks, images. Its volumes stay, unless --volumes is given.

    Under an agent it stays down until the next apply or commit.
    """
    snapshot = engine().snapshot(deep=False)
    kept = [info.name for info in snapshot.volumes if info.labels.get(LABEL_STACK) == stack]
    if sys.stdin.isatty() and not yes:
        confirm(_question(snapshot, stack, volumes), yes)
    _require_known(snapshot, stack)
    with make_progress() as progress:
        on_event = plan_then(progress, show=not as_json)
        outcome: Outcome
        if agent_serves():
            from reconciler.agent.client import AgentClient
            from reconciler.convergence import outcome_from_json

            outcome = outcome_from_json(
                AgentClient(session().layout.agent_socket).destroy(
                    stack,
                    volumes=volumes,
                    timeout=timeout,
                    lock_wait=lock_timeout,
                    on_event=lambda line: on_event(progress_from(line)),
                )
            )
        else:
            from reconciler.convergence import destroy as destroy_stack

            records = open_records()
            try:
                outcome = destroy_stack(
                    engine(),
                    records,
                    stack,
                    volumes=volumes,
                    timeout=timeout,
                    lock_wait=lock_timeout,
                    on_event=on_event,
                )
            finally:
                records.close()
    if as_json:
        print_json(outcome_object(outcome))
    else:
        show_outcome(outcome)
    if kept and not volumes and not outcome.failures:
        note(f"kept: volume{'s' if len(kept) > 1 else ''} {', '.join(sorted(kept))} (remove with --volumes)")
    ctx.exit(outcome.exit_code)


def _question(snapshot: Snapshot, stack: str, volumes: bool) -> str:
    def count(things: object, word: str) -> str:
        number = sum(thing.labels.get(LABEL_STACK) == stack for thing in things)  # type: ignore[attr-defined]
        return f"{number} {word}{'s' if number != 1 else ''}"

    parts = [count(snapshot.containers, "container"), count(snapshot.networks, "network")]
    if volumes:
        parts.append(f"{count(snapshot.volumes, 'volume')} with all data")
    return f"Remove stack {stack}: {', '.join(parts)}?"


def _require_known(snapshot: Snapshot, stack: str) -> None:
    from reconciler.status import stacks_seen

    records = open_records()
    try:
        known = stacks_seen(snapshot, records.stacks())
    finally:
        records.close()
    if stack not in known:
        hint = f"stacks: {', '.join(known)}" if known else "there are no stacks on this root"
        raise CommandFailed(f'cannot remove stack "{stack}": no such stack', hint=hint)
