"""The command `holdfast`: global options, the list of commands, and the one place where a command ends."""

from __future__ import annotations

import contextlib
import os
import sys

import click

from reconciler.cli.engine import Session
from reconciler.cli.lazy import LazyGroup

COMMANDS = {
    "plan": ("plan:plan", "Show what apply would change, field by field, with the reason."),
    "apply": ("apply:apply", "Make it so: converge what runs to what the manifests declare."),
    "status": ("status:status", "Show stacks and the state of their resources."),
    "explain": ("status:explain", "Say why one resource is as it is."),
    "logs": ("logs:logs", "Show the output of a service, its replicas merged by time."),
    "exec": ("exec:exec_", "Run a command in a running replica of a service."),
    "destroy": ("destroy:destroy", "Remove a stack; its volumes only when asked to."),
    "history": ("records:history", "List the generations of a stack."),
    "events": ("records:events", "Show what happened, and follow what happens."),
    "graph": ("graph:graph", "Draw what depends on what."),
    "validate": ("validate:validate", "Check manifests without touching anything."),
    "schema": ("schema:schema", "Print the JSON Schema of a kind, for editors."),
    "agent": ("agent:agent", "Keep every stack of this root converged, until stopped."),
    "container": ("container:container", "Run and look at single containers."),
    "image": ("image:image", "Build and look at images."),
    "network": ("network:network", "Create and look at networks."),
    "volume": ("volume:volume", "Create and look at volumes."),
    "system": ("system:system", "What this host can do, and what uses its disk."),
}

HELP = """Keep containers as manifests declare them.

\b
A first look:   holdfast plan -f DIR      what would change
                holdfast apply -f DIR     make it so
                holdfast status           how it is now

No daemon is needed; `holdfast agent` restarts, probes and repairs what runs.
"""


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"holdfast {version('holdfast')}")
    ctx.exit()


@click.group(cls=LazyGroup, lazy=COMMANDS, help=HELP, context_settings={"max_content_width": 100})
@click.option(
    "--root",
    envvar="HOLDFAST_ROOT",
    default="/var/lib/holdfast",
    show_default=True,
    metavar="DIR",
    help="State root; several on one host never collide. [env: HOLDFAST_ROOT]",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.pass_context
def root(ctx: click.Context, root: str) -> None:
    if not root:
        raise click.UsageError("--root is empty")
    ctx.obj = ctx.with_resource(Session(root))


def main() -> None:
    """The entry point: run one command and exit with its code (never with a traceback)."""
    from reconciler.cli.errors import run_command

    code = run_command(root, sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a reader that went away was answered by the code already
            stream.flush()
    # Everything is closed by now; taking the interpreter apart would be a fifth of a `container run`.
    os._exit(code)


if __name__ == "__main__":
    main()
