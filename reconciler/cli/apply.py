"""`holdfast apply`: load, show the plan, ask where that is due, converge, say how it ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.engine import engine, session
from reconciler.cli.errors import CommandFailed
from reconciler.cli.manifests import load_with_revision, manifest_options, source_text
from reconciler.cli.output import confirm, json_option, note, paint, print_json, warn, yes_option
from reconciler.cli.plan import plan_now, read_plan_file, show_plan
from reconciler.cli.progress import make_progress
from reconciler.cli.values import DURATION

if TYPE_CHECKING:
    from reconciler.convergence import Outcome, Progress
    from reconciler.model import Desired
    from reconciler.plan import Plan

NO_AGENT = (
    "no agent: containers run on, but nothing restarts, probes or repairs them (holdfast agent, or apply --agent)"
)
DESTRUCTIVE = ("replace", "remove")


@click.command()
@manifest_options
@click.argument("planfile", required=False)
@click.option("--wait/--no-wait", default=True, help="Wait until all is healthy.")
@click.option(
    "--timeout", type=DURATION, default=600.0, show_default="10m", help="Give up waiting after that: exit code 4."
)
@click.option("--lock-timeout", type=DURATION, default=0.0, help="Wait so long for another apply of the stack to end.")
@click.option("--prune/--no-prune", default=True, help="Remove what is no longer declared (never volumes).")
@click.option("--allow-deletions", is_flag=True, help="Lift the deletion budget for this once.")
@click.option("--pull", is_flag=True, help="Make images anew that come from packages.")
@click.option("--agent", "start_agent", is_flag=True, help="Start an agent in the background if none serves this root.")
@yes_option
@json_option
@click.pass_context
def apply(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    profiles: tuple[str, ...],
    planfile: str | None,
    wait: bool,
    timeout: float,
    lock_timeout: float,
    prune: bool,
    allow_deletions: bool,
    pull: bool,
    start_agent: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Make it so: converge what runs to what the manifests declare.

    With PLANFILE (from `holdfast plan --out`) exactly that plan is carried out, or nothing when the world has changed.
    """
    choices = {"prune": prune, "allow_deletions": allow_deletions, "refresh": pull}
    expected: Plan | None = None
    if planfile is not None:
        if files:
            raise click.UsageError("a plan file names its manifests itself: leave -f out", ctx)
        if os.path.isdir(planfile) or planfile.endswith((".yaml", ".yml")):
            raise click.UsageError(f'"{planfile}" is no plan file (did you mean: -f {planfile}?)', ctx)
        expected, stored = read_plan_file(planfile)
        files, profiles, chosen = tuple(stored["files"]), tuple(stored["profiles"]), stored["choices"]
        choices = {
            "prune": bool(chosen["prune"]),
            "allow_deletions": bool(chosen["allow_deletions"]),
            "refresh": bool(chosen["pull"]),
        }
    desired, revision = load_with_revision(engine(), files, profiles)
    for warning in desired.warnings:
        warn(str(warning))
    if expected is not None:
        _require_same_basis(expected, plan_now(engine(), desired, **choices), planfile or "")
    shown = False
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        made = expected or plan_now(engine(), desired, **choices)
        if not as_json:
            show_plan(made)
            shown = True
        doomed = sum(action.verb in DESTRUCTIVE for action in made.actions)
        if doomed:
            confirm(f"Replace or remove {doomed} of these?", yes)
            expected = made
    if start_agent:
        start_background_agent()
    outcome = _converge(
        desired,
        show=not (shown or as_json),
        wait=wait,
        timeout=timeout,
        lock_wait=lock_timeout,
        expected=expected,
        source=source_text(files),
        revision=revision,
        choices=choices,
    )
    if as_json:
        print_json(outcome_object(outcome))
    else:
        show_outcome(outcome)
    if not agent_serves():
        note(NO_AGENT)
    ctx.exit(outcome.exit_code)


def _require_same_basis(stored: Plan, present: Plan, path: str) -> None:
    if stored.basis != present.basis or [*map(str, stored.actions)] != [*map(str, present.actions)]:
        raise CommandFailed(
            f'cannot apply plan "{path}": the manifests or what runs changed after it was made; nothing was touched',
            2,
            "look at a fresh plan: holdfast plan",
        )


def agent_serves() -> bool:
    path = session().layout.agent_socket
    if not os.path.exists(path):
        return False
    from reconciler.agent.client import is_serving

    return is_serving(path)


def start_background_agent() -> None:
    from reconciler.agent.client import agent_command, start_background

    if agent_serves():
        return
    root = session().layout.root
    pid = start_background(agent_command(root), f"{root}/agent.log", session().layout.agent_socket)
    note(f"agent started in the background (process {pid}, log {root}/agent.log)")


def _converge(
    desired: Desired,
    *,
    show: bool,
    wait: bool,
    timeout: float,
    lock_wait: float,
    expected: Plan | None,
    source: str,
    revision: str,
    choices: dict[str, bool],
) -> Outcome:
    from reconciler.cli.records import open_records
    from reconciler.convergence import ConvergeOptions, converge

    with make_progress() as progress:
        on_event = plan_then(progress, show)
        if agent_serves():
            return _through_agent(
                desired,
                on_event,
                wait=wait,
                timeout=timeout,
                lock_wait=lock_wait,
                expected=_plan_object(expected),
                source=source,
                revision=revision,
                **choices,
            )
        options = ConvergeOptions(
            wait=wait,
            timeout=timeout,
            lock_wait=lock_wait,
            expected=expected,
            source=source,
            revision=revision,
            prune=choices["prune"],
            allow_deletions=choices["allow_deletions"],
            refresh=choices["refresh"],
        )
        records = open_records()
        try:
            return converge(engine(), records, desired, options, on_event=on_event)
        finally:
            records.close()


def plan_then(progress: Callable[[Progress], None], show: bool) -> Callable[[Progress], None]:
    """The first plan goes to stdout as the command's data, all that follows to stderr as progress."""

    def tell(event: Progress) -> None:
        if event.kind != "plan":
            progress(event)
        elif show and event.data is not None:
            from reconciler.plan import from_json

            show_plan(from_json(event.data))

    return tell


def _plan_object(made: Plan | None) -> Any:
    if made is None:
        return None
    from reconciler.plan import to_json

    return to_json(made)


def _through_agent(desired: Desired, on_event: Callable[[Progress], None], **options: Any) -> Outcome:
    """The agent has no access to our files' content: it is put to the engine first, by digest."""
    from reconciler.agent.client import AgentClient
    from reconciler.convergence import outcome_from_json
    from reconciler.desired import to_json

    for content, secret in desired.files.values():
        engine().put_file(content, secret)
    value = AgentClient(session().layout.agent_socket).apply(
        to_json(desired), on_event=lambda line: on_event(progress_from(line)), **options
    )
    return outcome_from_json(value)


def progress_from(line: dict[str, Any]) -> Progress:
    from reconciler.convergence import Progress

    return Progress(**{name: line[name] for name in Progress.__dataclass_fields__ if name in line})


def outcome_object(outcome: Outcome) -> dict[str, Any]:
    from reconciler.convergence import outcome_to_json

    return {**outcome_to_json(outcome), "exit_code": outcome.exit_code, "changed": outcome.changed}


def show_outcome(outcome: Outcome) -> None:
    """The result on stdout, what is wrong on stderr."""
    for text in outcome.warnings:
        warn(text)
    for text in outcome.failures:
        note(paint(text, "red", sys.stderr))
    for text in outcome.waiting:
        note(f"still waiting: {text}")
    generation = f" (generation {outcome.generation})" if outcome.generation else ""
    if outcome.failures:
        count = len(outcome.failures)
        state = f"failed: {count} problem{'s' if count > 1 else ''}, {outcome.done} done"
    elif outcome.timed_out:
        state = f"not finished in time, {outcome.done} done"
    elif outcome.changed:
        state = f"converged, {outcome.done} done"
    else:
        state = "converged, nothing to change" if outcome.converged else "nothing to do now"
    print(f"stack {outcome.stack}: {state}{generation}", flush=True)
