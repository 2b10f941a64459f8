"""`holdfast container …`: the verbs that act on containers which exist."""

from __future__ import annotations

import sys

import click

from reconciler.cli.engine import engine
from reconciler.cli.errors import ProgramCommand
from reconciler.cli.lazy import LazyGroup
from reconciler.cli.names import find_container, for_each
from reconciler.cli.values import DURATION

VERBS = {
    "run": ("run:run", "Create a container from an image and run it."),
    "create": ("run:create", "Create a container without starting it."),
    "ls": ("listing:ls", "List containers: those that run, or all with -a."),
    "inspect": ("listing:inspect", "Show everything about containers as JSON."),
    "logs": ("logs:container_logs", "Show what a container wrote."),
    "exec": ("exec:container_exec", "Run a command in a running container."),
    "start": ("container:start", "Start stopped containers."),
    "stop": ("container:stop", "Stop containers: their stop signal, then SIGKILL after the grace."),
    "kill": ("container:kill", "Send a signal to containers."),
    "pause": ("container:pause", "Freeze all processes of containers."),
    "unpause": ("container:unpause", "Thaw paused containers."),
    "restart": ("container:restart", "Stop and start containers."),
    "rm": ("container:rm", "Remove containers."),
    "wait": ("container:wait", "Wait until containers stop; print their exit codes."),
}

container = LazyGroup(VERBS, name="container", help="Run and look at single containers.")


@click.command(cls=ProgramCommand)
@click.argument("containers", nargs=-1, required=True)
@click.option("-a", "--attach", is_flag=True, help="Follow the output, forward signals, exit with the program's code.")
@click.option("-i", "--interactive", is_flag=True, help="With --attach: connect standard input.")
@click.pass_context
def start(ctx: click.Context, containers: tuple[str, ...], attach: bool, interactive: bool) -> None:
    """Start stopped containers."""
    if attach or interactive:
        if len(containers) != 1:
            raise click.UsageError("--attach takes exactly one container", ctx)
        found = find_container(engine().snapshot(deep=False), containers[0])
        ctx.exit(engine().start_attached(found.id, (0, 1, 2)))
    for_each(containers, lambda ref: engine().start_container(find_container(engine().snapshot(deep=False), ref).id))


@click.command()
@click.argument("containers", nargs=-1, required=True)
@click.option(
    "-t", "--time", "--timeout", "grace", type=DURATION, help="Grace before SIGKILL; default: the container's own."
)
def stop(containers: tuple[str, ...], grace: float | None) -> None:
    """Stop containers. It is recorded as intent: the agent leaves them alone until they are started again."""
    for_each(
        containers,
        lambda ref: engine().stop_container(find_container(engine().snapshot(deep=False), ref).id, grace, by_hand=True),
    )


@click.command()
@click.argument("containers", nargs=-1, required=True)
@click.option("-s", "--signal", "name", default="SIGKILL", show_default=True, help="Signal by name or number.")
def kill(containers: tuple[str, ...], name: str) -> None:
    """Send a signal to the containers' first process."""
    signal_name = _signal_name(name)
    for_each(
        containers,
        lambda ref: engine().kill_container(
            find_container(engine().snapshot(deep=False), ref).id, signal_name, by_hand=True
        ),
    )


def _signal_name(text: str) -> str:
    import signal

    name = text.upper()
    try:
        if name.isdigit():
            return signal.Signals(int(name)).name
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].name
    except (KeyError, ValueError):
        raise click.BadParameter(f'"{text}" is no signal', param_hint="--signal") from None


@click.command()
@click.argument("containers", nargs=-1, required=True)
def pause(containers: tuple[str, ...]) -> None:
    """Freeze all processes of containers."""
    for_each(containers, lambda ref: engine().pause_container(find_container(engine().snapshot(deep=False), ref).id))


@click.command()
@click.argument("containers", nargs=-1, required=True)
def unpause(containers: tuple[str, ...]) -> None:
    """Thaw paused containers."""
    for_each(containers, lambda ref: engine().unpause_container(find_container(engine().snapshot(deep=False), ref).id))


@click.command()
@click.argument("containers", nargs=-1, required=True)
@click.option(
    "-t", "--time", "--timeout", "grace", type=DURATION, help="Grace before SIGKILL; default: the container's own."
)
def restart(containers: tuple[str, ...], grace: float | None) -> None:
    """Stop and start containers."""

    def restart_one(ref: str) -> None:
        found = find_container(engine().snapshot(deep=False), ref)
        engine().stop_container(found.id, grace)
        engine().start_container(found.id)

    for_each(containers, restart_one)


@click.command()
@click.argument("containers", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Kill it first when it runs; say nothing when it does not exist.")
@click.option("-v", "--volumes", is_flag=True, help="Accepted for docker's sake: anonymous volumes always go along.")
def rm(containers: tuple[str, ...], force: bool, volumes: bool) -> None:
    """Remove containers with their writable layer and their anonymous volumes."""

    def remove(ref: str) -> None:
        from reconciler.cli.errors import CommandFailed

        snapshot = engine().snapshot(deep=False)
        try:
            found = find_container(snapshot, ref)
        except CommandFailed:
            if force:
                return
            raise
        if found.status in ("running", "paused") and not force:
            raise CommandFailed(
                f'cannot remove container "{ref}": it is {found.status}', hint="stop it first, or give --force"
            )
        engine().remove_container(found.id, force)

    for_each(containers, remove)


@click.command(cls=ProgramCommand)
@click.argument("containers", nargs=-1, required=True)
@click.pass_context
def wait(ctx: click.Context, containers: tuple[str, ...]) -> None:
    """Wait until containers stop; print their exit codes and exit with the first that is not 0."""
    from reconciler.cli.attach import exit_code_of

    worst = 0
    for ref in containers:
        run = engine().wait_container(find_container(engine().snapshot(deep=False), ref).id)
        code = exit_code_of(run)
        print(code)
        sys.stdout.flush()
        worst = worst or code
    ctx.exit(worst)
