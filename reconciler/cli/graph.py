"""`holdfast graph`: a picture of what depends on what."""

from __future__ import annotations

import shutil
import subprocess
import sys

import click

from reconciler.cli.errors import CommandFailed
from reconciler.cli.manifests import load, manifest_options
from reconciler.cli.validate import engine_for_reading


@click.command()
@manifest_options
@click.option(
    "--format", "form", type=click.Choice(["text", "mermaid", "dot", "svg"]), default="text", show_default=True
)
def graph(files: tuple[str, ...], profiles: tuple[str, ...], form: str) -> None:
    """Draw what depends on what, as the manifests declare it."""
    from reconciler.graph import render

    with engine_for_reading() as used:
        desired = load(used, files, profiles)
    if form == "svg":
        _write_svg(render(desired, "dot"))
    else:
        print(render(desired, form))


def _write_svg(text: str) -> None:
    if shutil.which("dot") is None:
        raise CommandFailed(
            "cannot draw the graph: `dot` is not installed", hint="apt-get install graphviz, or --format dot"
        )
    done = subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=False, timeout=60)
    if done.returncode:
        raise CommandFailed(f"cannot draw the graph: dot: {done.stderr.decode(errors='replace').strip()}")
    sys.stdout.flush()
    sys.stdout.buffer.write(done.stdout)
