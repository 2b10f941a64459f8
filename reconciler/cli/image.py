"""`holdfast image …`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.engine import engine
from reconciler.cli.names import find_image, for_each
from reconciler.cli.output import (
    age,
    iso_time,
    json_option,
    note,
    print_json,
    print_table,
    quiet_option,
    size,
)
from reconciler.cli.values import parse_pairs
from reconciler.labels import LABEL_STACK

if TYPE_CHECKING:
    from runtime.api import ImageInfo


@click.group(help="Build and look at images.")
def image() -> None:
    pass


def image_object(info: ImageInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "names": list(info.names),
        "stack": info.labels.get(LABEL_STACK),
        "size": info.size,
        "created": iso_time(info.created_at),
        "labels": dict(info.labels),
    }


@image.command()
@quiet_option()
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@json_option
def ls(quiet: bool, no_trunc: bool, as_json: bool) -> None:
    """List images."""
    found = sorted(engine().snapshot(deep=False).images, key=lambda info: info.created_at, reverse=True)
    if quiet:
        for info in found:
            print(_shown_id(info, no_trunc))
    elif as_json:
        print_json([image_object(info) for info in found])
    else:
        rows = [
            (name, _shown_id(info, no_trunc), size(info.size), f"{age(info.created_at)} ago")
            for info in found
            for name in info.names or ("<none>",)
        ]
        print_table(("NAME", "ID", "SIZE", "CREATED"), rows)


def _shown_id(info: ImageInfo, whole: bool) -> str:
    return info.id if whole else info.id.removeprefix("sha256:")[:12]


@image.command()
@click.argument("images", nargs=-1, required=True)
@json_option
def inspect(images: tuple[str, ...], as_json: bool) -> None:
    """Show everything about images as JSON."""
    snapshot = engine().snapshot(deep=False)
    found = [find_image(snapshot, ref) for ref in images]
    print_json([
        {**image_object(info), "config": info.config, "layers": list(info.layers), "spec": info.declared}
        for info in found
    ])  # fmt: skip


@image.command()
@click.option("-t", "--tag", "names", multiple=True, metavar="NAME", help="Name of the image; several may be given.")
@click.option("-f", "--file", "dockerfile", metavar="FILE", help="Dockerfile; default: CONTEXT/Dockerfile.")
@click.option("--build-arg", "arguments", multiple=True, metavar="NAME[=VALUE]", help="Value for an ARG.")
@click.option("--target", default="", help="Stop at this stage.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label of the image.")
@click.option("--no-cache", is_flag=True, help="Run every step again.")
@click.option(
    "--network", type=click.Choice(["default", "none", "host"]), default="default", help="Network of RUN steps."
)
@quiet_option("the id")
@json_option
@click.argument("context", metavar="CONTEXT")
def build(
    *,
    names: tuple[str, ...],
    dockerfile: str | None,
    arguments: tuple[str, ...],
    target: str,
    labels: tuple[str, ...],
    no_cache: bool,
    network: str,
    quiet: bool,
    as_json: bool,
    context: str,
) -> None:
    """Build an image from the Dockerfile in CONTEXT. Steps run in our own containers."""
    from runtime.api import BuildRequest

    directory = os.path.abspath(context)
    if not os.path.isdir(directory):
        raise click.BadParameter(f'no such directory: "{context}"', param_hint="CONTEXT")
    if not names:
        raise click.UsageError("the image needs a name: --tag NAME")
    inline = ""
    if dockerfile == "-":
        inline = sys.stdin.read()
    elif dockerfile is not None:
        path = os.path.abspath(dockerfile)
        if os.path.commonpath([path, directory]) == directory:
            dockerfile = os.path.relpath(path, directory)
        else:
            inline = _read_text(path)
    request = BuildRequest(
        directory,
        dockerfile if dockerfile and not inline else "Dockerfile",
        inline,
        _build_arguments(arguments),
        target,
        parse_pairs(labels, "--label"),
        no_cache,
        network,
    )
    made = engine().make_image(names[0], request, {}, None, (lambda line: None) if quiet else note)
    for name in names[1:]:
        engine().tag_image(names[0], name)
    if as_json:
        print_json([image_object(engine().find_image(names[0]) or made)])
    else:
        print(made.id)


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise click.BadParameter(f'cannot read "{path}": {cause}', param_hint="--file") from error


def _build_arguments(words: tuple[str, ...]) -> dict[str, str]:
    """A name alone takes its value from our environment; a name that has none there is left out, as docker does."""
    result = {}
    for word in words:
        name, is_given, value = word.partition("=")
        if is_given:
            result[name] = value
        elif name in os.environ:
            result[name] = os.environ[name]
    return result


@image.command()
@click.argument("images", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Also when containers were made from it or it has several names.")
def rm(images: tuple[str, ...], force: bool) -> None:
    """Remove names, and with the last name the image."""

    def remove(ref: str) -> None:
        from reconciler.cli.errors import CommandFailed

        try:
            found = find_image(engine().snapshot(deep=False), ref)
        except CommandFailed:
            if force:
                return
            raise
        names = [name for name in (ref, f"{ref}:latest") if name in found.names]
        engine().remove_image(names[0] if names else found.id, force)

    for_each(images, remove)


@image.command()
@click.argument("source")
@click.argument("target")
def tag(source: str, target: str) -> None:
    """Give the image SOURCE the further name TARGET."""
    found = find_image(engine().snapshot(deep=False), source)
    engine().tag_image(source if source in found.names else found.id, target)


@image.command()
@click.option(
    "-i",
    "--input",
    "archive",
    required=True,
    metavar="FILE",
    help="An OCI layout or docker-save tar, or an OCI directory.",
)
@click.option("-t", "--tag", "name", help="Local name; default: the archive's own, else the file's name.")
@click.option("--ref", default="", help="Which image, when the archive holds several.")
@quiet_option("the name")
def load(archive: str, name: str | None, ref: str, quiet: bool) -> None:
    """Load an image from an archive."""
    from runtime.api import ArchiveRequest

    path = os.path.abspath(archive)
    if not os.path.exists(path):
        raise click.BadParameter(f'no such file: "{archive}"', param_hint="--input")
    chosen = name or ref or os.path.basename(path).removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar")
    engine().make_image(chosen, ArchiveRequest(path, ref), {}, None, (lambda line: None) if quiet else note)
    print(chosen if quiet else f"loaded {chosen}")
