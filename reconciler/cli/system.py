"""`holdfast system …`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from reconciler.cli.engine import engine, session
from reconciler.cli.output import confirm, json_option, note, print_json, print_pairs, print_table, size, yes_option


@click.group(help="What this host can do, and what uses its disk.")
def system() -> None:
    pass


@system.command()
@json_option
def info(as_json: bool) -> None:
    """Show what the kernel offers, what is missing, and the rules that we keep outside our table."""
    from importlib.metadata import version

    from reconciler.agent.client import is_serving

    found = {
        "version": version("holdfast"),
        "root": session().layout.root,
        "agent": is_serving(session().layout.agent_socket),
        **dict(engine().info()),
    }
    if as_json:
        print_json(found)
    else:
        print_pairs(_flat(found))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, item in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(item, Mapping):
            yield from _flat(item, f"{name}: ")
        elif isinstance(item, list | tuple):
            for line in item or ["-"]:
                yield name, line
        else:
            yield name, _word(item)


def _word(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else value


@system.command()
@json_option
def df(as_json: bool) -> None:
    """Show what uses the disk."""
    found = engine().disk_usage()
    if as_json:
        print_json(found)
        return
    images = found["images"]
    rows: list[tuple[object, ...]] = [
        ("images", len(images["images"]), size(images["total"]), size(images["reclaimable"]))
    ]
    rows += [
        (name.replace("_", " "), len(value) if isinstance(value, Mapping) else "-", size(_bytes(value)), "-")
        for name, value in found.items()
        if name != "images"
    ]
    print_table(("WHAT", "COUNT", "SIZE", "RECLAIMABLE"), rows)


def _bytes(value: Any) -> float:
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return float(value) if isinstance(value, int | float) else 0.0


@system.command()
@yes_option
@json_option
def prune(yes: bool, as_json: bool) -> None:
    """Finish what killed processes left behind, and drop layers that no image and no container needs.

    Containers, named images, networks and volumes stay as they are.
    """
    confirm("Clean the state root?", yes)
    engine().collect_garbage()
    freed = engine().collect_images(())
    if as_json:
        print_json({"freed": freed})
    else:
        note(f"freed {size(freed)}")
