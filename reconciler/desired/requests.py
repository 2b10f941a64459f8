"""Where the things named in a document lie, and what a build of it asks the engine for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reconciler.manifest.paths import absolute_path

if TYPE_CHECKING:
    from reconciler.manifest.documents import Document
    from runtime.api import BuildRequest


def path_of(document: Document, text: str) -> str:
    return absolute_path(document.directory, text, document.variables)


def build_request(document: Document, build: Any) -> BuildRequest:
    """`build` is a BuildSpec; arguments without a value take the caller's, or are left out."""
    from runtime.api import BuildRequest

    args = {key: document.variables.get(key) if value is None else value for key, value in build.args.items()}
    return BuildRequest(
        context=path_of(document, build.context),
        dockerfile=build.dockerfile or "Dockerfile",
        dockerfile_inline=build.dockerfile_inline or "",
        args={key: value for key, value in sorted(args.items()) if value is not None},
        target=build.target,
        labels=dict(sorted({**document.labels, **build.labels}.items()))
        if document.kind == "Image"
        else dict(sorted(build.labels.items())),
        no_cache=build.no_cache,
        network=build.network,
    )


def bind_sources(document: Document) -> list[tuple[int, str]]:
    """(index in `volumes`, absolute host path) of every bind mount."""
    return [
        (index, path_of(document, entry.source))
        for index, entry in enumerate(document.spec.volumes)
        if entry.type == "bind"
    ]


def seccomp_files(document: Document) -> list[tuple[str, str]]:
    """(option, absolute path) of every seccomp profile named."""
    options = [option for option in document.spec.security_opt if option.startswith("seccomp=")]
    return [
        (option, path_of(document, option.removeprefix("seccomp=")))
        for option in options
        if option != "seccomp=unconfined"
    ]
