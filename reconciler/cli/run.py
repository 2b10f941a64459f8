"""`container run` and `container create`, with docker's options, short forms and argument order."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.engine import engine
from reconciler.cli.errors import ProgramCommand
from reconciler.cli.values import DURATION, SIZE

if TYPE_CHECKING:
    from runtime.api import ContainerSpec

_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--name", help="Name of the container; made up when not given."),
    click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable."),
    click.option("--env-file", multiple=True, metavar="FILE", help="Read environment variables from a file."),
    click.option("-v", "--volume", multiple=True, metavar="SRC:DST[:OPTS]", help="Bind a host path or mount a volume."),
    click.option("--mount", multiple=True, metavar="type=…,src=…,dst=…", help="Mount a bind, a volume or a tmpfs."),
    click.option("--tmpfs", multiple=True, metavar="DST[:OPTS]", help="Mount a tmpfs."),
    click.option("-p", "--publish", multiple=True, metavar="[IP:][HOST:]PORT[/PROTO]", help="Publish a port."),
    click.option("--expose", multiple=True, metavar="PORT[/PROTO]", help="Name a port that the program listens on."),
    click.option("-w", "--workdir", help="Working directory."),
    click.option("-u", "--user", metavar="USER[:GROUP]", help="User and group, by name or number."),
    click.option("--group-add", multiple=True, metavar="GROUP", help="Join a further group."),
    click.option("--network", "--net", multiple=True, metavar="NAME", help='Join a network; "none" or "host".'),
    click.option(
        "--network-alias", "--net-alias", multiple=True, metavar="NAME", help="A further name on the networks."
    ),
    click.option("--ip", default="", help="IPv4 address on the (one) network."),
    click.option("--ip6", default="", help="IPv6 address on the (one) network."),
    click.option("--mac-address", default="", help="MAC address on the (one) network."),
    click.option("-h", "--hostname", default="", help="Host name."),
    click.option("--domainname", default="", help="Domain name."),
    click.option("--add-host", multiple=True, metavar="HOST:IP", help="A line for /etc/hosts."),
    click.option("--dns", multiple=True, metavar="IP", help="Name server."),
    click.option("--entrypoint", help="Replace the image's entrypoint; an empty word removes it."),
    click.option("-l", "--label", multiple=True, metavar="KEY[=VALUE]", help="Set a label."),
    click.option("--restart", default="no", help="Only `no`: restarts are decided by what manifests declare."),
    click.option("--cpus", type=float, default=0.0, help="CPUs, for example 1.5."),
    click.option("-m", "--memory", type=SIZE, default=0, help="Memory limit."),
    click.option("--memory-reservation", type=SIZE, default=0, help="Memory soft limit."),
    click.option("--pids-limit", type=int, default=0, help="Limit of processes; -1 for none."),
    click.option("--cap-add", multiple=True, help="Add a capability, or ALL."),
    click.option("--cap-drop", multiple=True, help="Drop a capability, or ALL."),
    click.option("--security-opt", multiple=True, help="seccomp=FILE, seccomp=unconfined, no-new-privileges."),
    click.option("--privileged", is_flag=True, help="All capabilities and devices, no seccomp. Dangerous."),
    click.option("--read-only", is_flag=True, help="Read-only root filesystem."),
    click.option("--init", is_flag=True, help="A tiny init as process 1 that reaps and forwards signals."),
    click.option("--stop-signal", help="Signal that asks the program to stop."),
    click.option("--stop-timeout", type=DURATION, default=10.0, help="Grace before SIGKILL."),
    click.option("--ulimit", multiple=True, metavar="NAME=SOFT[:HARD]", help="Set a resource limit."),
    click.option("--sysctl", multiple=True, metavar="NAME=VALUE", help="Set a namespaced kernel parameter."),
    click.option("--shm-size", type=SIZE, default=64 << 20, help="Size of /dev/shm."),
    click.option("--log-opt", multiple=True, metavar="max-size=…|max-file=…", help="Rotation of the log."),
    click.option("--health-cmd", help="Command that tells whether the program is healthy."),
    click.option("--health-interval", type=DURATION, default=30.0, help="Time between probes."),
    click.option("--health-timeout", type=DURATION, default=30.0, help="Time a probe may take."),
    click.option(
        "--health-retries", type=click.IntRange(min=1), default=3, help="Failures in a row that make it unhealthy."
    ),
    click.option("--health-start-period", type=DURATION, default=0.0, help="Failures within it do not count."),
    click.option(
        "--health-start-interval", type=DURATION, default=5.0, help="Time between probes in the start period."
    ),
    click.option("--no-healthcheck", is_flag=True, help="Ignore the image's health check."),
    click.option("-i", "--interactive", is_flag=True, help="Keep standard input open."),
    click.option("-t", "--tty", is_flag=True, help="Give it a terminal."),
    click.argument("image"),
    click.argument("command", nargs=-1, type=click.UNPROCESSED),
]


def _container_options(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


# Words after the image belong to the program, also those that look like options.
_SETTINGS = {"allow_interspersed_args": False}


@click.command(cls=ProgramCommand, context_settings=_SETTINGS)
@click.option("-d", "--detach", is_flag=True, help="Leave it running and print its id.")
@click.option("--rm", "auto_remove", is_flag=True, help="Remove it when it ends.")
@_container_options
@click.pass_context
def run(ctx: click.Context, /, detach: bool, auto_remove: bool, **options: Any) -> None:
    """Create a container from IMAGE and run COMMAND in it.

    In the foreground its output is ours, signals that reach us reach it, and its exit code is ours.
    """
    interactive, tty = options["interactive"], options["tty"]
    if tty and interactive and not detach and not sys.stdin.isatty():
        raise click.UsageError("--tty needs a terminal on standard input (leave -t out for pipes)", ctx)
    used = engine()
    id = _create(_make_spec(options, auto_remove=auto_remove))
    if detach:
        _start_or_remove(id)
        print(id)
        return
    from runtime.errors import EngineError

    try:
        code = used.start_attached(id, (0, 1, 2))
    except EngineError:
        if auto_remove:
            used.remove_container(id, force=True)
        raise
    if auto_remove:
        used.remove_container(id, force=True)
    ctx.exit(code)


def _start_or_remove(id: str) -> None:
    """A container that never started is of no use to anybody, and its name would be in the way of the next try."""
    from runtime.errors import EngineError

    try:
        engine().start_container(id)
    except EngineError:
        engine().remove_container(id, force=True)
        raise


@click.command(cls=ProgramCommand, context_settings=_SETTINGS)
@click.option("--rm", "auto_remove", is_flag=True, help="Remove it when it ends.")
@_container_options
def create(auto_remove: bool, **options: Any) -> None:
    """Create a container without starting it; print its id."""
    print(_create(_make_spec(options, auto_remove=auto_remove)))


def _create(spec: ContainerSpec) -> str:
    """An ended --rm container that nobody was there to remove must not hold the name any longer."""
    from runtime.errors import Conflict

    try:
        return engine().create_container(spec)
    except Conflict:
        # A look removes what has ended and was to go.
        if any(container.name == spec.name for container in engine().snapshot(deep=False).containers):
            raise
        return engine().create_container(spec)


def _make_spec(options: dict[str, Any], *, auto_remove: bool) -> ContainerSpec:
    from dataclasses import replace

    from reconciler.cli.options import container_spec

    spec = container_spec({**options, "name": options["name"] or f"run-{os.urandom(4).hex()}"}, auto_remove=auto_remove)
    # What it was made from rides along for `inspect`; the engine keeps it without looking at it.
    described = asdict(spec)
    for bookkeeping in ("declared", "labels", "name", "auto_remove"):
        del described[bookkeeping]
    return replace(spec, declared={"made_by": "container run", **described})
