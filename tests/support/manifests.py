"""Manifests written to a directory and loaded, against an engine that answers only what loading asks."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from reconciler.model import Desired, InputError, Key
from reconciler.source.desired import load_desired
from runtime.api import BuildRequest, Engine, ImageInfo, Snapshot


class AnsweringEngine:
    """Knows the images it is told of; digests are real digests of what they stand for."""

    def __init__(self, images: Mapping[str, Any] | None = None) -> None:
        self.images = {"img": {}} if images is None else dict(images)
        self.contexts: dict[str, str] = {}
        self.asked = 0

    def file_digest(self, content: bytes, secret: bool) -> str:
        return hashlib.sha256((b"key" if secret else b"") + content).hexdigest()

    def find_image(self, name: str) -> ImageInfo | None:
        self.asked += 1
        if name not in self.images:
            return None
        return ImageInfo("sha256:0", (name,), {}, None, 0.0, 0, self.images[name])

    def context_digest(self, request: BuildRequest) -> str:
        digest = hashlib.sha256(repr((request.args, request.target, request.dockerfile_inline)).encode())
        for path in sorted(Path(request.context).rglob("*")):
            if path.is_file():
                digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def snapshot(self, deep: bool = True) -> Snapshot:
        return Snapshot()


def engine(images: Mapping[str, Any] | None = None) -> Engine:
    return cast(Engine, AnsweringEngine(images))


def write(directory: Path, **files: str) -> Path:
    """Files named by keywords; `__` stands for `/` and `_dot_` for `.`; without a dot, `.yaml` is added."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = directory / name.replace("__", "/").replace("_dot_", ".")
        if not path.suffix and not path.name.startswith(".") and path.name != "Dockerfile":
            path = path.with_suffix(".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
    return directory


def load(
    directory: Path, environ: Mapping[str, str] | None = None, profiles: Collection[str] = (),
    images: Mapping[str, Any] | None = None,
) -> Desired:  # fmt: skip
    return load_desired([str(directory)], None, environ or {}, engine(images), profiles)


def compose(text: str, environ: Mapping[str, str] | None = None, profiles: Collection[str] = ()) -> Desired:
    """One Compose file (or native documents) on standard input."""
    return load_desired(["-"], textwrap.dedent(text).lstrip("\n"), environ or {}, engine(), profiles)


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """What is said about a text, without the name of standard input."""
    try:
        compose(text, environ)
    except InputError as error:
        return [str(problem).removeprefix("<stdin>:") for problem in error.problems]
    return []


def service(text: str, environ: Mapping[str, str] | None = None, name: str = "web") -> Any:
    """The canonical spec of a Compose service whose attributes are given."""
    body = textwrap.indent(textwrap.dedent(text).strip(), "    ")
    return compose(f"services:\n  {name}:\n    image: img\n{body}\n", environ).resources[Key("service", name)].spec


def policy(text: str) -> Any:
    body = textwrap.indent(textwrap.dedent(text).strip(), "    ")
    return compose(f"services:\n  web:\n    image: img\n{body}\n").resources[Key("service", "web")].policy
