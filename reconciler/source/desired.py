"""From paths to one stack's desired state in one call, with a cache that holds while all its inputs stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.model import Desired, InputError
from reconciler.source.files import Source, fetch

if TYPE_CHECKING:
    from runtime.api import Engine


@dataclass(frozen=True, slots=True)
class Loaded:
    """A desired state, the revision (digest) of the texts it comes from, and the files that were read."""

    desired: Desired
    revision: str
    watched: tuple[str, ...] = ()
    cached: bool = False


def load_desired(
    paths: Sequence[str],
    stdin: str | None,
    environ: Mapping[str, str],
    engine: Engine,
    profiles: Collection[str] = (),
    cache_dir: str | None = None,
) -> Desired:
    """Fetch, load, gather, resolve. Raises InputError with every problem of every stage."""
    return load_source(paths, stdin, environ, engine, profiles, cache_dir).desired


def load_source(
    paths: Sequence[str],
    stdin: str | None,
    environ: Mapping[str, str],
    engine: Engine,
    profiles: Collection[str] = (),
    cache_dir: str | None = None,
) -> Loaded:
    """As `load_desired`; with a `cache_dir`, an earlier answer is given again while its inputs stand."""
    if cache_dir is None:
        return _load(fetch(paths, stdin, environ), engine, profiles)[0]
    from reconciler.source.cache import Entry, read_entry, write_entry

    entry = Entry(cache_dir, paths, profiles)
    known = read_entry(entry, paths, stdin, environ, engine)
    if known is not None:
        desired, revision, watched = known
        return Loaded(desired, revision, watched, True)
    source = fetch(paths, stdin, environ)
    loaded, inputs = _load(source, engine, profiles)
    write_entry(entry, source, loaded.desired, inputs, stdin, environ, engine)
    return loaded


def _load(source: Source, engine: Engine, profiles: Collection[str]) -> tuple[Loaded, Inputs]:
    from reconciler.desired.resolution import Resolution
    from reconciler.manifest.documents import read_documents, sort_problems
    from reconciler.source.facts import gather

    reading = read_documents(source)
    problems = list(reading.problems)
    if not reading.documents:
        raise InputError(sort_problems(problems))
    facts = gather(reading.documents, source, engine)
    named = source.variables.get("COMPOSE_PROFILES") or ""
    active = {*profiles, *filter(None, map(str.strip, named.split(",")))}
    resolution = Resolution(reading.documents, facts, active, reading.named)
    desired = resolution.resolve()
    problems.extend(resolution.problems)
    if problems:
        raise InputError(sort_problems(problems))
    return Loaded(desired, source.revision, source.watched), Inputs(facts, reading.documents)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the cache must check again: the facts, and the documents that say how they were asked for."""

    facts: Facts
    documents: Sequence[Document]


if TYPE_CHECKING:
    from reconciler.desired.facts import Facts
    from reconciler.manifest.documents import Document
