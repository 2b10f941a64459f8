"""What `-f` means everywhere: files, directories, standard input; and the desired state that they declare."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.engine import session
from reconciler.cli.output import warn

if TYPE_CHECKING:
    from reconciler.model import Desired
    from runtime.api import Engine


def manifest_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--profile", "profiles", multiple=True, metavar="NAME", help="Also what carries this profile."
    )(command)
    return click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        metavar="PATH",
        help='A file, a directory (recursively) or "-"; several are merged in order. Default: the current directory.',
    )(command)


def load(engine: Engine, files: Sequence[str], profiles: Sequence[str]) -> Desired:
    """All problems at once as InputError; warnings are told on stderr."""
    desired, _ = load_with_revision(engine, files, profiles)
    for warning in desired.warnings:
        warn(str(warning))
    return desired


def load_with_revision(engine: Engine, files: Sequence[str], profiles: Sequence[str]) -> tuple[Desired, str]:
    """The desired state and the digest of the texts that declare it. An unchanged source is taken from the cache."""
    from reconciler.source.desired import load_source

    paths = list(files) or ["."]
    if paths.count("-") > 1:
        raise click.UsageError('"-f -" can be given only once')
    text = sys.stdin.read() if "-" in paths else None
    loaded = load_source(paths, text, os.environ, engine, tuple(profiles), f"{session().layout.root}/cache")
    return loaded.desired, loaded.revision


def source_text(files: Sequence[str]) -> str:
    """Where the manifests came from, for the history."""
    return ", ".join("standard input" if path == "-" else os.path.abspath(path) for path in files or ["."])
