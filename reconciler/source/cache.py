"""Keeps resolved desired states on disk, each with the digests of everything it depends on.

An entry is used only if every input is found as it was: the list of manifests and their text, `.env` and env files,
the variables that were asked for, config and secret files, build contexts, archives, bind sources, foreign images, and
this program itself. Neither YAML nor models are needed for that. Digests of what may be secret are keyed by the state
root; content of secrets is read anew and never kept here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from reconciler.desired.codec import from_json, to_json
from reconciler.model import Desired, InputError, Problem
from reconciler.source.files import (
    Found,
    Source,
    base_directory,
    dotenv_paths,
    list_manifests,
    read_variables,
)

if TYPE_CHECKING:
    from reconciler.manifest.texts import Variables
    from reconciler.source.desired import Inputs
    from runtime.api import Engine

MAX_ENTRIES = 64
MAX_FILE = 64 << 20


class Entry:
    """Where the answer to one question lies: these paths, seen from this directory, with these profiles."""

    def __init__(self, directory: str, paths: Sequence[str], profiles: Collection[str]) -> None:
        question = json.dumps([os.getcwd(), list(paths), sorted(profiles)])
        self.directory = directory
        self.path = os.path.join(directory, f"desired-{hashlib.sha256(question.encode()).hexdigest()[:32]}.json")


class _Changed(Exception):
    """Some input is not as it was."""


def code_version() -> str:
    """Changes whenever a module that takes part in resolving does."""
    import reconciler
    import schemas

    root, models = os.path.dirname(reconciler.__file__), os.path.dirname(schemas.__file__)
    digest = hashlib.sha256()
    for directory in (models, *(os.path.join(root, name) for name in ("manifest", "desired", "source"))):
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    digest.update(f"{entry.path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def read_entry(
    entry: Entry, paths: Sequence[str], stdin: str | None, environ: Mapping[str, str], engine: Engine
) -> tuple[Desired, str, tuple[str, ...]] | None:
    """The desired state, its revision and the files read, or None when it must be worked out."""
    from runtime.errors import EngineError

    try:
        with open(entry.path, "rb") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            kept = json.loads(file.read(MAX_FILE))
        if kept["code"] != code_version():
            return None
        variables = _check_texts(kept, paths, stdin, environ, engine)
        _check_surroundings(kept, engine)
        desired = from_json(kept["desired"])
        files = {**desired.files, **_read_secrets(kept["secrets"], variables, engine)}
        object.__setattr__(desired, "files", files)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, _Changed, EngineError, InputError):
        return None
    return desired, kept["revision"], tuple(kept["watched"])


def write_entry(
    entry: Entry, source: Source, desired: Desired, inputs: Inputs, stdin: str | None,
    environ: Mapping[str, str], engine: Engine,
) -> None:  # fmt: skip
    """Best effort: a full disk or a secret written into a manifest only mean that nothing is kept."""
    facts = inputs.facts
    secrets = {}
    for place, fact in facts.files.items():
        if place[0] == "Secret" and fact.digest:
            if fact.recipe[0] == "content":
                return
            secrets[fact.digest] = list(fact.recipe)
    project_dirs = list(dict.fromkeys([source.base_dir, *(file.project_dir for file in source.files)]))
    kept = {
        "code": code_version(),
        "revision": source.revision,
        "watched": list(source.watched),
        "excluded": list(source.excluded),
        "manifests": _manifests(source, engine),
        "dotenv": {path: _file_digest(path, engine) for path in dotenv_paths(project_dirs)},
        "variables": {name: _text_digest(environ.get(name), engine) for name in sorted(source.variables.used)},
        "reads": {path: _file_digest(path, engine) for path in sorted(_files_read(inputs))},
        "builds": _builds(inputs),
        "archives": {fact.recipe[1]: fact.digest for fact in facts.archives.values()},
        "paths": dict(facts.paths),
        "images": {name: [fact.present, fact.probed] for name, fact in facts.images.items()},
        "networks": sorted(facts.networks) if facts.networks is not None else None,
        "volumes": sorted(facts.volumes) if facts.volumes is not None else None,
        "secrets": secrets,
        "desired": to_json(desired),
    }
    try:
        os.makedirs(entry.directory, mode=0o700, exist_ok=True)
        temporary = f"{entry.path}.{os.getpid()}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
                json.dump(kept, file, separators=(",", ":"))
            os.replace(temporary, entry.path)
        except BaseException:
            os.unlink(temporary)
            raise
        _forget_oldest(entry.directory)
    except OSError:
        return


def _manifests(source: Source, engine: Engine) -> list[list[Any]]:
    return [
        [os.path.abspath(file.path) if file.kind != "stdin" else "", engine.file_digest(_encode(file.text), True)]
        for file in source.files
    ]


def _files_read(inputs: Inputs) -> Iterable[str]:
    from reconciler.desired.requests import path_of

    for document in inputs.documents:
        if document.kind in ("Service", "Job"):
            yield from (path_of(document, entry.path) for entry in document.spec.env_file)
    for fact in inputs.facts.files.values():
        if fact.recipe[0] == "file":
            yield fact.recipe[1]


def _builds(inputs: Inputs) -> list[list[Any]]:
    from reconciler.desired.requests import build_request

    result: list[list[Any]] = []
    for document in inputs.documents:
        fact = inputs.facts.builds.get((document.kind, document.name))
        if fact is not None and document.kind in ("Image", "Service", "Job"):
            result.append([asdict(build_request(document, document.spec.build)), fact.digest])
    return result


def _check_texts(
    kept: Any, paths: Sequence[str], stdin: str | None, environ: Mapping[str, str], engine: Engine
) -> dict[str, Variables]:
    problems: list[Problem] = []
    found = list_manifests(paths, problems, kept["excluded"])
    if problems or [entry.path for entry in found] != [path for path, _ in kept["manifests"]]:
        raise _Changed
    for entry, (_, digest) in zip(found, kept["manifests"], strict=True):
        if engine.file_digest(_manifest_bytes(entry, stdin), True) != digest:
            raise _Changed
    for path, digest in kept["dotenv"].items():
        if _file_digest(path, engine) != digest:
            raise _Changed
    for name, digest in kept["variables"].items():
        if _text_digest(environ.get(name), engine) != digest:
            raise _Changed
    for path, digest in kept["reads"].items():
        if _file_digest(path, engine) != digest:
            raise _Changed
    directories = [base_directory(paths), *(entry.project_dir for entry in found)]
    return read_variables(directories, environ, problems, set())


def _check_surroundings(kept: Any, engine: Engine) -> None:
    from reconciler.source.lookup import digest_archive, kind_of_path, look_up_image
    from runtime.api import BuildRequest

    for path, kind in kept["paths"].items():
        if kind_of_path(path) != kind:
            raise _Changed
    for request, digest in kept["builds"]:
        if engine.context_digest(BuildRequest(**request)) != digest:
            raise _Changed
    for path, digest in kept["archives"].items():
        if digest_archive(path).digest != digest:
            raise _Changed
    for name, (present, probed) in kept["images"].items():
        found = look_up_image(engine, name)
        if (found.present, found.probed) != (present, probed):
            raise _Changed
    if kept["networks"] is not None:
        snapshot = engine.snapshot(deep=False)
        if kept["networks"] != sorted(n.name for n in snapshot.networks) or kept["volumes"] != sorted(
            v.name for v in snapshot.volumes
        ):
            raise _Changed


def _read_secrets(
    recipes: Mapping[str, Sequence[str]], variables: Mapping[str, Variables], engine: Engine
) -> dict[str, tuple[bytes, bool]]:
    result: dict[str, tuple[bytes, bool]] = {}
    for digest, (origin, what) in recipes.items():
        if origin == "file":
            candidates = [_read(what)]
        else:
            values = (scope.get(what) for scope in variables.values())
            candidates = [_encode(value) for value in values if value is not None]
        content = next((c for c in candidates if engine.file_digest(c, True) == digest), None)
        if content is None:
            raise _Changed
        result[digest] = (content, True)
    return result


def _manifest_bytes(entry: Found, stdin: str | None) -> bytes:
    if not entry.path:
        if stdin is None:
            raise _Changed
        return _encode(stdin.removeprefix("\ufeff"))
    # anything but plain UTF-8 is decoded before it is digested, so it never matches: such files are just not cached
    return _read(entry.path).removeprefix(b"\xef\xbb\xbf")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_FILE)


def _file_digest(path: str, engine: Engine) -> str | None:
    try:
        content = _read(path)
    except OSError:
        return None
    return engine.file_digest(content, True)


def _text_digest(value: str | None, engine: Engine) -> str | None:
    return None if value is None else engine.file_digest(_encode(value), True)


def _forget_oldest(directory: str) -> None:
    with os.scandir(directory) as entries:
        known = sorted((entry.stat().st_mtime, entry.path) for entry in entries if entry.name.startswith("desired-"))
    for _, path in known[:-MAX_ENTRIES]:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
