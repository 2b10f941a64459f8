"""`holdfast schema`: JSON Schemas for editors and other checkers."""

from __future__ import annotations

import click

from reconciler.cli.errors import CommandFailed
from reconciler.cli.output import json_option, print_json


@click.command()
@click.argument("kind", required=False)
@json_option
def schema(kind: str | None, as_json: bool) -> None:
    """Print the JSON Schema of KIND (`compose` for Compose files); without KIND list the kinds."""
    from schemas import KINDS, json_schema

    names = [*KINDS, "Compose"]
    if kind is None:
        if as_json:
            print_json(names)
        else:
            for name in names:
                print(name)
        return
    try:
        found = json_schema(kind)
    except KeyError:
        from difflib import get_close_matches

        near = get_close_matches(kind.capitalize(), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"kinds: {', '.join(names)}"
        raise CommandFailed(f'cannot show schema "{kind}": no such kind', 2, hint) from None
    print_json(found)
