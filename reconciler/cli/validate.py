"""`holdfast validate`: is the input right? Nothing of the host is looked at or touched."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from reconciler.cli import engine as engines
from reconciler.cli.manifests import load, manifest_options
from reconciler.cli.output import json_option, print_json, quiet_option

if TYPE_CHECKING:
    from runtime.api import Engine


@contextmanager
def engine_for_reading() -> Iterator[Engine]:
    """This root's engine; for someone who may not open it, one on an empty directory: it is asked about files only."""
    from runtime.errors import EngineError

    try:
        used = engines.engine()
    except (EngineError, PermissionError):
        with tempfile.TemporaryDirectory(prefix="holdfast-validate-") as directory:
            used = engines.open_engine(f"{directory}/root", f"{directory}/run")
            try:
                yield used
            finally:
                used.close()
    else:
        yield used


@click.command()
@manifest_options
@quiet_option("nothing when all is right")
@json_option
def validate(files: tuple[str, ...], profiles: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Check manifests without touching anything: all problems at once, each with file, line and column."""
    from reconciler.graph import ordered

    with engine_for_reading() as used:
        desired = load(used, files, profiles)
    ordered(desired)
    counts = Counter(key.kind for key in desired.resources)
    if as_json:
        print_json({"stack": desired.stack, "resources": [str(key) for key in sorted(desired.resources)]})
    elif not quiet:
        text = ", ".join(f"{number} {kind}{'s' if number > 1 else ''}" for kind, number in counts.items())
        print(f"stack {desired.stack}: {text or 'nothing declared'}: all right")
