"""`container ls` and `container inspect`, and the JSON form of a container that all commands share."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.engine import engine
from reconciler.cli.names import find_container, path_of, resource_of
from reconciler.cli.output import age, iso_time, json_option, print_json, print_table, quiet_option
from reconciler.labels import LABEL_STACK

if TYPE_CHECKING:
    from runtime.api import ContainerState, Port

FILTERS = ("id", "name", "label", "status", "health", "stack", "resource", "ancestor")
_ALIASES = {"exited": "stopped", "up": "running"}


def container_object(container: ContainerState) -> dict[str, Any]:
    """The documented fields of a container in every listing."""
    run = container.last_run
    ended = run is not None and bool(run.finished_at)
    return {
        "id": container.id,
        "name": container.name,
        "stack": container.labels.get(LABEL_STACK),
        "resource": resource_of(container.labels) or None,
        "image": container.image,
        "image_id": container.image_id,
        "state": container.status,
        "pid": container.pid or None,
        "exit_code": exit_code(container) if ended and container.status not in ("running", "paused") else None,
        "health": container.health,
        "health_detail": container.health_detail,
        "ports": [asdict(port) for port in container.ports],
        "addresses": {network: list(found) for network, found in container.addresses.items()},
        "created": iso_time(container.created_at),
        "started": iso_time(run.started_at) if run else None,
        "finished": iso_time(run.finished_at) if run else None,
        "starts": container.starts,
        "oom": bool(run and run.oom),
        "intent": container.intent or None,
        "labels": dict(container.labels),
    }


def exit_code(container: ContainerState) -> int | None:
    from reconciler.cli.attach import exit_code_of

    run = container.last_run
    return exit_code_of(run) if run and run.finished_at else None


def port_text(port: Port) -> str:
    host = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    published = f"{host}:{port.host_port}" if host else str(port.host_port)
    return f"{published}->{port.container_port}/{port.protocol}"


def state_text(container: ContainerState) -> str:
    """`running 5m`, `stopped (137, out of memory) 3s ago`: the state with what one asks next."""
    run = container.last_run
    if container.status == "running" and run:
        return f"running {age(run.started_at)}"
    if container.status == "stopped" and run and run.finished_at:
        cause = ", out of memory" if run.oom else ", by hand" if container.intent == "stop" else ""
        return f"stopped ({exit_code(container)}{cause}) {age(run.finished_at)} ago"
    return container.status


@click.command()
@click.option("-a", "--all", "show_all", is_flag=True, help="Also those that do not run.")
@quiet_option()
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option("-n", "--last", type=int, default=0, help="The newest N, whatever their state.")
@click.option(
    "-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help=f"Keep those that fit: {', '.join(FILTERS)}."
)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="How to print.")
@json_option
def ls(
    *, show_all: bool, quiet: bool, no_trunc: bool, last: int, filters: tuple[str, ...], form: str, as_json: bool
) -> None:
    """List containers: those that run, or all with -a."""
    wanted = [_parse_filter(text) for text in filters]
    asks_for_status = any(key == "status" for key, _ in wanted)
    found = [
        c
        for c in engine().snapshot(deep=False).containers
        if not (c.auto_remove and c.status == "stopped")
        and (show_all or last or asks_for_status or c.status in ("running", "paused"))
        and _fits(c, wanted)
    ]
    found.sort(key=lambda c: c.created_at, reverse=True)
    if last:
        found = found[:last]
    if quiet:
        for container in found:
            print(container.id if no_trunc else container.id[:12])
    elif as_json or form == "json":
        print_json([container_object(container) for container in found])
    else:
        rows = [
            (
                c.id if no_trunc else c.id[:12],
                c.name,
                c.image,
                state_text(c),
                c.health if c.health != "none" else "-",
                ", ".join(map(port_text, c.ports)) or "-",
                f"{age(c.created_at)} ago",
            )
            for c in found
        ]
        print_table(("ID", "NAME", "IMAGE", "STATE", "HEALTH", "PORTS", "CREATED"), rows, stated=(3, 4))


def _parse_filter(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or key not in FILTERS:
        raise click.BadParameter(f'"{text}" is not KEY=VALUE with one of {", ".join(FILTERS)}', param_hint="--filter")
    return key, value


def _fits(container: ContainerState, filters: list[tuple[str, str]]) -> bool:
    """Values of one key are alternatives, keys are all required; each label counts as a key of its own."""
    by_key: dict[str, list[bool]] = {}
    for key, value in filters:
        by_key.setdefault(f"label {value}" if key == "label" else key, []).append(_matches(container, key, value))
    return all(any(results) for results in by_key.values())


def _matches(container: ContainerState, key: str, value: str) -> bool:
    match key:
        case "label":
            name, is_given, wanted = value.partition("=")
            return name in container.labels and (not is_given or container.labels[name] == wanted)
        case "name":
            return value in container.name or value == path_of(container.labels)
        case "status":
            return container.status == _ALIASES.get(value, value)
        case "ancestor":
            return value in (
                container.image,
                container.image_id,
                container.image_id.removeprefix("sha256:")[: len(value)],
            )
        case "stack":
            return container.labels.get(LABEL_STACK) == value
        case "resource":
            return resource_of(container.labels) == value.rpartition("/")[2]
        case "health":
            return container.health == value
    return container.id.startswith(value)


@click.command()
@click.argument("containers", nargs=-1, required=True)
@json_option
def inspect(containers: tuple[str, ...], as_json: bool) -> None:
    """Show everything about containers as JSON. Secrets appear as digests only."""
    snapshot = engine().snapshot()
    print_json([inspect_object(find_container(snapshot, ref)) for ref in containers])


def inspect_object(container: ContainerState) -> dict[str, Any]:
    """A listing's fields, then what the container was made from, its runs and its damage."""
    return {
        **container_object(container),
        "spec": container.declared,
        "health_check": asdict(container.health_check) if container.health_check else None,
        "runs": [
            {**asdict(run), "started_at": iso_time(run.started_at), "finished_at": iso_time(run.finished_at)}
            for run in container.runs
        ],
        "damage": [asdict(damage) for damage in container.damage],
        "auto_remove": container.auto_remove,
    }
