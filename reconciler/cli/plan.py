"""`holdfast plan`: what apply would change, on the screen, as JSON, or into a file that apply takes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.engine import engine, session
from reconciler.cli.errors import CHANGES, DONE, CommandFailed
from reconciler.cli.manifests import load, manifest_options
from reconciler.cli.output import is_coloured, json_option, note, print_json

if TYPE_CHECKING:
    from reconciler.model import Desired
    from reconciler.plan import Plan
    from runtime.api import Engine

FILE_FORMAT = "holdfast-plan/1"


@click.command()
@manifest_options
@click.option("--prune/--no-prune", default=True, help="Remove what is no longer declared.")
@click.option("--allow-deletions", is_flag=True, help="Lift the deletion budget.")
@click.option("--pull", is_flag=True, help="Make images anew that come from packages.")
@click.option("--out", metavar="FILE", help="Write the plan to FILE, for `holdfast apply FILE`.")
@json_option
@click.pass_context
def plan(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    profiles: tuple[str, ...],
    prune: bool,
    allow_deletions: bool,
    pull: bool,
    out: str | None,
    as_json: bool,
) -> None:
    """Show what apply would change, field by field, with the reason. Touches nothing.

    Exits with 0 when there is nothing to change, 3 when there is, 2 when the manifests are wrong.
    """
    if out and "-" in files:
        raise click.UsageError("--out needs manifests in files: standard input cannot be read again by apply")
    desired = load(engine(), files, profiles)
    made = plan_now(engine(), desired, prune=prune, allow_deletions=allow_deletions, refresh=pull)
    choices = {"prune": prune, "allow_deletions": allow_deletions, "pull": pull}
    if out:
        write_plan_file(out, made, files, profiles, choices)
    if as_json:
        from reconciler.plan import to_json

        print_json(to_json(made))
    else:
        show_plan(made)
    from reconciler.convergence import refuse

    refuse(engine(), desired, made)
    if out:
        note(f"written to {out}; apply it with: holdfast apply {out}")
    ctx.exit(DONE if made.empty else CHANGES)


def plan_now(
    used: Engine, desired: Desired, *, prune: bool, allow_deletions: bool = False, refresh: bool = False
) -> Plan:
    """What an apply would do now; InputError when it would refuse to begin."""
    from reconciler.cli.records import open_records
    from reconciler.convergence import plan_stack

    records = open_records()
    try:
        return plan_stack(used, records, desired, prune=prune, allow_deletions=allow_deletions, refresh=refresh)[0]
    finally:
        records.close()


def show_plan(made: Plan) -> None:
    from reconciler.plan import render

    print(render(made, color=is_coloured(sys.stdout), now=time.time()), flush=True)


def write_plan_file(
    path: str, made: Plan, files: Sequence[str], profiles: Sequence[str], choices: dict[str, bool]
) -> None:
    from reconciler.plan import to_json

    value = {
        "format": FILE_FORMAT,
        "root": session().layout.root,
        "files": [os.path.abspath(name) for name in files or ["."]],
        "profiles": list(profiles),
        "choices": choices,
        "plan": to_json(made),
    }
    temporary = f"{path}.new"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
        os.replace(temporary, path)
    except OSError as error:
        raise CommandFailed(f'cannot write plan "{path}": {error.strerror}') from error


def read_plan_file(path: str) -> tuple[Plan, dict[str, Any]]:
    from reconciler.plan import from_json

    def bad(cause: str) -> CommandFailed:
        return CommandFailed(f'cannot read plan "{path}": {cause}', 2, "make one with: holdfast plan --out FILE")

    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except OSError as error:
        raise bad(error.strerror or "unreadable") from error
    except ValueError as error:
        raise bad("it is no JSON") from error
    if not isinstance(value, dict) or value.get("format") != FILE_FORMAT:
        raise bad("it is no plan of this version")
    if value.get("root") != session().layout.root:
        raise bad(f"it was made for root {value.get('root')}, this is {session().layout.root}")
    try:
        return from_json(value["plan"]), value
    except (KeyError, ValueError) as error:
        raise bad(str(error)) from error
