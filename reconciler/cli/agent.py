"""`holdfast agent`: the long-lived process that keeps every stack of a root converged."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import click

from reconciler.cli.engine import engine, session
from reconciler.cli.errors import CommandFailed
from reconciler.cli.output import note
from reconciler.cli.values import DURATION

_STOP_DEADLINE = 20.0


@click.command()
@click.option("-f", "--file", "files", multiple=True, metavar="PATH", help="Keep what this file or directory declares.")
@click.option("--profile", "profiles", multiple=True, metavar="NAME", help="Also what carries this profile.")
@click.option("--interval", type=DURATION, help="Time between full looks at what runs.  [default: 15s]")
@click.option("--poll", type=DURATION, help="Time between readings of the manifests without a noticed change.")
@click.option("--background", is_flag=True, help="Start it in the background and return when it serves.")
@click.option("--stop", "stop_it", is_flag=True, help="Stop the agent of this root; containers run on.")
@click.option("--print-unit", is_flag=True, help="Print the systemd unit for this command line.")
@click.option("--install-unit", is_flag=True, help="Install the systemd unit, enable and start it.")
@click.pass_context
def agent(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    profiles: tuple[str, ...],
    interval: float | None,
    poll: float | None,
    background: bool,
    stop_it: bool,
    print_unit: bool,
    install_unit: bool,
) -> None:
    """Keep every stack of this root converged, in the foreground, until SIGTERM or Ctrl-C.

    It restarts what exits, probes health, repairs what was damaged, and follows the manifests given with -f. It may be
    stopped, killed or upgraded at any time: no container restarts and no published port drops a connection.
    """
    if sum((background, stop_it, print_unit, install_unit)) > 1:
        raise click.UsageError("--background, --stop, --print-unit and --install-unit exclude each other", ctx)
    if "-" in files:
        raise click.UsageError("an agent reads its manifests again and again: -f needs files or directories", ctx)
    for path in files:
        if not os.path.exists(path):
            raise click.UsageError(f'no such file or directory: "{path}"', ctx)
    if stop_it:
        _stop()
    elif print_unit or install_unit:
        _unit(_arguments(files, profiles, interval, poll), install=install_unit)
    elif background:
        _start(_arguments(files, profiles, interval, poll))
    else:
        ctx.exit(_run(files, profiles, interval, poll))


def _run(files: Sequence[str], profiles: Sequence[str], interval: float | None, poll: float | None) -> int:
    from reconciler.agent.daemon import POLL, run_agent
    from reconciler.loop import RESYNC

    layout = session().layout
    return run_agent(
        engine(),
        layout.root,
        layout.agent_socket,
        files,
        profiles=profiles,
        interval=interval if interval is not None else RESYNC,
        poll=poll if poll is not None else POLL,
    )


def _arguments(files: Sequence[str], profiles: Sequence[str], interval: float | None, poll: float | None) -> list[str]:
    words = [word for path in files for word in ("-f", os.path.abspath(path))]
    words += [word for name in profiles for word in ("--profile", name)]
    words += ["--interval", f"{interval:g}s"] if interval is not None else []
    return words + (["--poll", f"{poll:g}s"] if poll is not None else [])


def _start(arguments: Sequence[str]) -> None:
    from reconciler.agent.client import agent_command, is_serving, start_background

    layout = session().layout
    if is_serving(layout.agent_socket):
        raise CommandFailed(
            f'cannot start the agent: one serves root "{layout.root}" already', hint="stop it: holdfast agent --stop"
        )
    pid = start_background(agent_command(layout.root, arguments), f"{layout.root}/agent.log", layout.agent_socket)
    note(f"agent started in the background (process {pid}, log {layout.root}/agent.log)")


def _stop() -> None:
    import signal

    from reconciler.agent.client import AgentClient, is_serving

    path = session().layout.agent_socket
    if not is_serving(path):
        note("no agent serves this root")
        return
    pid = int(AgentClient(path).version()["pid"])
    # A pidfd names this very process even when the number is given to another one meanwhile.
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_DEADLINE
        import select

        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if not poller.poll((deadline - time.monotonic()) * 1000):
            raise CommandFailed(f"cannot stop the agent: process {pid} did not end within {_STOP_DEADLINE:g} s")
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
    note(f"agent {pid} stopped; containers run on")


def _unit(arguments: Sequence[str], *, install: bool) -> None:
    from reconciler.agent.unit import UNIT_PATH, install_unit, unit_text

    executable = os.path.abspath(os.path.join(os.path.dirname(sys.executable), "holdfast"))
    text = unit_text(executable, session().layout.root, arguments)
    if not install:
        print(text, end="")
        return
    for line in install_unit(text, UNIT_PATH):
        note(line)
