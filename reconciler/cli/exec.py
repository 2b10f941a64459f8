"""`exec` by service and `container exec` by container."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from reconciler.cli.engine import engine
from reconciler.cli.errors import CommandFailed, ProgramCommand
from reconciler.cli.names import find_container, require_members
from reconciler.cli.values import parse_environment

if TYPE_CHECKING:
    from runtime.api import ContainerState

_SETTINGS = {"allow_interspersed_args": False}


@click.command(cls=ProgramCommand, context_settings=_SETTINGS)
@click.option("-i", "--interactive", is_flag=True, help="Connect standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read environment variables from a file.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="User and group; default: the container's.")
@click.option("-w", "--workdir", help="Working directory; default: the container's.")
@click.option("--privileged", is_flag=True, help="All capabilities.")
@click.argument("container")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def container_exec(
    ctx: click.Context,
    *,
    interactive: bool,
    tty: bool,
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    user: str | None,
    workdir: str | None,
    privileged: bool,
    container: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND in a running container; its exit code is ours."""
    if tty and interactive and not sys.stdin.isatty():
        raise click.UsageError("--tty needs a terminal on standard input (leave -t out for pipes)", ctx)
    found = find_container(engine().snapshot(deep=False), container)
    environment = parse_environment(env, env_file)
    ctx.exit(
        run_in(
            found,
            command,
            environment=environment,
            user=user,
            workdir=workdir,
            tty=tty,
            interactive=interactive,
            privileged=privileged,
        )
    )


@click.command(name="exec", cls=ProgramCommand, context_settings=_SETTINGS)
@click.option("-T", "--no-tty", is_flag=True, help="No terminal; default: one when our input and output are terminals.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="User and group; default: the service's.")
@click.option("-w", "--workdir", help="Working directory; default: the service's.")
@click.argument("service", metavar="STACK/SERVICE[-N]")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.pass_context
def exec_(
    ctx: click.Context,
    *,
    no_tty: bool,
    env: tuple[str, ...],
    user: str | None,
    workdir: str | None,
    service: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND in a running replica of a service: the first healthy one, unless one is named."""
    running = [c for c in require_members(engine().snapshot(deep=False), service) if c.status == "running"]
    if not running:
        raise CommandFailed(f'cannot run a command in "{service}": none of its containers runs')
    running.sort(key=lambda c: c.health == "unhealthy")
    tty = not no_tty and sys.stdin.isatty() and sys.stdout.isatty()
    if command[0] == "--":
        command = command[1:]
    ctx.exit(
        run_in(
            running[0],
            command,
            environment=parse_environment(env, ()),
            user=user,
            workdir=workdir,
            tty=tty,
            interactive=True,
        )
    )


def run_in(
    container: ContainerState,
    command: tuple[str, ...],
    *,
    environment: dict[str, str],
    user: str | None,
    workdir: str | None,
    tty: bool,
    interactive: bool,
    privileged: bool = False,
) -> int:
    from runtime.api import ExecSpec

    if container.status != "running":
        raise CommandFailed(f'cannot run a command in "{container.name}": it is {container.status}')
    spec = ExecSpec(tuple(command), environment, user, workdir, tty, privileged)
    if interactive or tty:
        return engine().exec_attached(container.id, spec, (0, 1, 2))
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        return engine().exec_attached(container.id, spec, (nothing, 1, 2))
    finally:
        os.close(nothing)
