"""`holdfast volume …`."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.engine import engine
from reconciler.cli.names import find_volume, for_each
from reconciler.cli.output import age, confirm, iso_time, json_option, print_json, print_table, quiet_option, yes_option
from reconciler.cli.values import parse_pairs
from reconciler.labels import LABEL_STACK

if TYPE_CHECKING:
    from runtime.api import VolumeInfo


@click.group(help="Create and look at volumes.")
def volume() -> None:
    pass


def volume_object(info: VolumeInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "stack": info.labels.get(LABEL_STACK),
        "path": info.path,
        "driver_opts": dict(info.driver_opts),
        "users": list(info.users),
        "created": iso_time(info.created_at),
        "labels": dict(info.labels),
    }


@volume.command()
@quiet_option("names")
@json_option
def ls(quiet: bool, as_json: bool) -> None:
    """List volumes."""
    found = sorted(engine().snapshot(deep=False).volumes, key=lambda info: info.name)
    if quiet:
        for info in found:
            print(info.name)
    elif as_json:
        print_json([volume_object(info) for info in found])
    else:
        rows = [(info.name, len(info.users), f"{age(info.created_at)} ago", info.path) for info in found]
        print_table(("NAME", "USERS", "CREATED", "PATH"), rows)


@volume.command()
@click.argument("volumes", nargs=-1, required=True)
@json_option
def inspect(volumes: tuple[str, ...], as_json: bool) -> None:
    """Show everything about volumes as JSON."""
    snapshot = engine().snapshot()
    print_json([
        {**volume_object(info), "spec": info.declared, "damage": [asdict(damage) for damage in info.damage]}
        for info in (find_volume(snapshot, name) for name in volumes)
    ])  # fmt: skip


@volume.command()
@click.argument("name", required=False)
@click.option("-d", "--driver", type=click.Choice(["local"]), default="local", help="Kind of volume.")
@click.option("-o", "--opt", multiple=True, metavar="KEY=VALUE", help="type=, device=, o= as for mount(8).")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Set a label.")
def create(name: str | None, driver: str, opt: tuple[str, ...], label: tuple[str, ...]) -> None:
    """Create a volume; its name is made up when not given."""
    from runtime.api import VolumeSpec

    spec = VolumeSpec(
        name or os.urandom(16).hex(), parse_pairs(label, "--label"), None, parse_pairs(opt, "--opt")
    )  # fmt: skip
    print(engine().create_volume(spec).name)


@volume.command()
@click.argument("volumes", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Say nothing when it does not exist.")
@yes_option
def rm(volumes: tuple[str, ...], force: bool, yes: bool) -> None:
    """Remove volumes and the data in them."""
    confirm(f"Remove {', '.join(volumes)} with all data?", yes or force)

    def remove(name: str) -> None:
        if not force:
            find_volume(engine().snapshot(deep=False), name)
        engine().remove_volume(name)

    for_each(volumes, remove)
