"""Looks up all that a resolved form depends on outside the manifests: the only reading between load and resolve."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from reconciler.desired.facts import BuildFact, Facts, FileFact, ImageFact, Place
from reconciler.desired.requests import bind_sources, build_request, path_of, seccomp_files
from reconciler.manifest.documents import Document, default_stack_name
from reconciler.manifest.dotenv import parse_dotenv
from reconciler.manifest.texts import Source, Variables
from reconciler.model import Mark, Problem
from reconciler.source.files import decode
from reconciler.source.lookup import digest_archive, kind_of_path, look_up_image
from runtime.api import BuildRequest, Engine
from runtime.errors import EngineError

MAX_FILE = 16 << 20
MAX_DOCKERFILE = 1 << 20


def gather(documents: Sequence[Document], source: Source, engine: Engine) -> Facts:
    """Reads config, secret and env files, digests build contexts and archives, asks for paths and foreign images.

    What is missing becomes part of the facts; `resolve` reports it if it is needed.
    """
    return _Gathering(documents, source, engine).gather()


class _Gathering:
    def __init__(self, documents: Sequence[Document], source: Source, engine: Engine) -> None:
        self.documents = documents
        self.source = source
        self.engine = engine

    def gather(self) -> Facts:
        documents = self.documents
        workloads = [d for d in documents if d.kind in ("Service", "Job")]
        env_files: dict[Place, Mapping[str, str]] = {}
        env_problems: dict[Place, tuple[Problem, ...]] = {}
        paths: dict[str, str] = {}
        builds: dict[Place, BuildFact] = {}
        archives: dict[Place, FileFact] = {}
        for document in workloads:
            place = (document.kind, document.name)
            if document.spec.env_file:
                env_files[place], env_problems[place] = read_env_files(document)
            for _, path in (*bind_sources(document), *seccomp_files(document)):
                paths[path] = kind_of_path(path)
            if document.spec.build is not None:
                builds[place] = self.build(build_request(document, document.spec.build))
        for document in documents:
            place = (document.kind, document.name)
            if document.kind == "Image" and document.spec.build is not None:
                builds[place] = self.build(build_request(document, document.spec.build))
            elif document.kind == "Image" and document.spec.archive is not None:
                archives[place] = digest_archive(path_of(document, document.spec.archive.path))
        files = {(d.kind, d.name): self.file(d) for d in documents if d.kind in ("Config", "Secret") and not d.broken}
        networks, volumes = self.existing()
        return Facts(
            self.default_name(), env_files, env_problems, files, builds, archives, paths,
            self.images(workloads, builds.values()), networks, volumes,
        )  # fmt: skip

    def default_name(self) -> str:
        return self.source.variables.get("COMPOSE_PROJECT_NAME") or default_stack_name(self.source.base_dir)

    def build(self, request: BuildRequest) -> BuildFact:
        text = request.dockerfile_inline
        if not os.path.isdir(request.context):
            return BuildFact(problem=f'build context "{request.context}" is not a directory')
        if not text:
            path = os.path.join(request.context, request.dockerfile)
            try:
                with open(path, "rb") as file:
                    text = file.read(MAX_DOCKERFILE).decode("utf-8", "replace")
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                return BuildFact(
                    problem=f'build context "{request.context}": cannot read "{request.dockerfile}": {reason}'
                )
        try:
            digest = self.engine.context_digest(request)
        except EngineError as error:
            return BuildFact(problem=str(error))
        froms, copies = dockerfile_images(text, request.args)
        return BuildFact(digest, "", tuple(sorted({*froms, *copies})), tuple(froms))

    def file(self, document: Document) -> FileFact:
        spec, secret = document.spec, document.kind == "Secret"
        if spec.external:
            return FileFact()
        if spec.content is not None:
            content = spec.content.encode("utf-8", "surrogateescape")
            recipe = ("content", "" if secret else spec.content)
        elif spec.environment is not None:
            value = document.variables.get(spec.environment)
            if value is None:
                return FileFact(problem=f'environment: variable "{spec.environment}" is not set')
            content, recipe = value.encode("utf-8", "surrogateescape"), ("environment", spec.environment)
        else:
            path = path_of(document, spec.file)
            try:
                content = read_file(path)
            except OSError as error:
                return FileFact(problem=f'file: cannot read "{path}": {(error.strerror or str(error)).lower()}')
            recipe = ("file", path)
        return FileFact(self.engine.file_digest(content, secret), content, "", recipe)

    def images(self, workloads: Iterable[Document], builds: Iterable[BuildFact]) -> dict[str, ImageFact]:
        declared = {d.name for d in self.documents if d.kind == "Image"}
        wanted = {d.spec.image for d in workloads if d.spec.image and d.spec.build is None}
        wanted |= {name for fact in builds for name in fact.froms}
        wanted -= declared | {f"{name}:latest" for name in declared}
        return {name: look_up_image(self.engine, name) for name in sorted(wanted)}

    def existing(self) -> tuple[frozenset[str] | None, frozenset[str] | None]:
        external = {d.kind for d in self.documents if d.kind in ("Network", "Volume") and d.spec.external}
        if not external:
            return None, None
        snapshot = self.engine.snapshot(deep=False)
        return frozenset(n.name for n in snapshot.networks), frozenset(v.name for v in snapshot.volumes)


def read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise OSError(27, f"larger than {MAX_FILE >> 20} MiB", path)
    return content


def read_env_files(document: Document) -> tuple[dict[str, str], tuple[Problem, ...]]:
    """A later file wins, and sees what the earlier ones set."""
    values: dict[str, str] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(document.spec.env_file):
        path = path_of(document, entry.path)
        try:
            data = read_file(path)
        except OSError as error:
            if entry.required or not isinstance(error, FileNotFoundError):
                where = document.where("env_file", index) if not document.lacks("env_file") else document.mark
                reason = (error.strerror or str(error)).lower()
                problems.append(Problem(f'{document.title}: env_file: cannot read "{path}": {reason}', where))
            continue
        text = decode(data, Mark(path, 1, 1), problems)
        if text is not None:
            variables: Variables = document.variables.with_file(values)
            values.update(parse_dotenv(text, path, variables, problems, raw=entry.format == "raw"))
    return values, tuple(problems)


_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?\s*$", re.IGNORECASE | re.MULTILINE)
_COPY_FROM = re.compile(r"--from=([^\s,]+)|,from=([^\s,]+)|--mount=from=([^\s,]+)", re.IGNORECASE)
_ARG = re.compile(r"^\s*ARG\s+([A-Za-z_][A-Za-z0-9_]*)(?:=(\S*))?\s*$", re.IGNORECASE | re.MULTILINE)
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")


def dockerfile_images(text: str, args: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Image names that FROM and --from= use, the stages' own names left out.

    Only an approximation for finding edges (the engine parses the file in earnest when it builds): a name that still
    holds a variable is left out.
    """
    text = re.sub(r"\\[ \t]*\n", " ", text)
    first = _FROM.search(text)
    values = {
        m[1]: args.get(m[1], (m[2] or "").strip("\"'")) for m in _ARG.finditer(text[: first.start()] if first else text)
    }
    stages = {m[2].lower() for m in _FROM.finditer(text) if m[2]}

    def expand(name: str) -> str:
        return _VARIABLE.sub(lambda m: values.get(m[1] or m[2]) or m[3] or m[0], name)

    def foreign(name: str) -> bool:
        return (
            bool(name)
            and name.lower() != "scratch"
            and name.lower() not in stages
            and not name.isdigit()
            and "$" not in name
        )

    froms = dict.fromkeys(name for m in _FROM.finditer(text) if foreign(name := expand(m[1])))
    copies = dict.fromkeys(
        name for m in _COPY_FROM.finditer(text) if foreign(name := expand(m[1] or m[2] or m[3] or ""))
    )
    return list(froms), list(copies)
