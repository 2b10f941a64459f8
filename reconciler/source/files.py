"""Fetches manifests from files, directories and standard input, with the `.env` files beside them."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.manifest.texts import Source, SourceFile, Variables
from reconciler.model import InputError, Mark, Problem

if TYPE_CHECKING:
    from threading import Event

__all__ = ["Source", "SourceFile", "fetch", "watch"]

SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 8 << 20
MAX_ENTRIES = 100_000
STDIN = "<stdin>"


@dataclass(frozen=True, slots=True)
class Found:
    """A manifest to read: where it lies and what it is merged with. `path` "" is standard input."""

    path: str
    shown: str
    group: int
    project_dir: str
    kind: str = "file"


def fetch(paths: Sequence[str], stdin: str | None, environ: Mapping[str, str]) -> Source:
    """Read everything that `paths` name (none: the current directory; "-": `stdin`).

    Files named one by one are merged in order. In a directory each file stands for itself, X.override.yaml is merged
    over X.yaml, and hidden directories and build contexts are left out. Raises InputError with all problems when a path
    is missing, unreadable, empty, or changes while it is read.
    """
    problems: list[Problem] = []
    found = list_manifests(paths, problems)
    texts = {entry: text for entry in found if (text := read_manifest(entry, stdin, problems)) is not None}
    excluded = _build_contexts(texts, environ) if any(entry.kind != "named" for entry in texts) else ()
    if excluded:
        problems = [p for p in problems if p.mark is None or not _inside(os.path.abspath(p.mark.file), excluded)]
    kept = [entry for entry in found if not (entry.kind != "named" and _inside(entry.path, excluded))]
    if not kept and not problems:
        shown = ", ".join(paths or ["."])
        problems.append(Problem(f"{shown}: no manifest here (*.yaml, *.yml)"))
    used: set[str] = set()
    variables = read_variables([base_directory(paths), *(entry.project_dir for entry in kept)], environ, problems, used)
    if problems:
        raise InputError(sorted(dict.fromkeys(problems), key=str))
    base = base_directory(paths)
    files = tuple(
        SourceFile(
            entry.shown,
            texts[entry],
            "stdin" if not entry.path else "override" if entry.kind == "override" else "file",
            os.path.dirname(entry.path) if entry.path else entry.project_dir,
            entry.project_dir,
            entry.group,
            variables[entry.project_dir],
        )
        for entry in kept
    )
    watched = tuple(entry.path for entry in kept if entry.path)
    dotenvs = tuple(path for path in dotenv_paths(variables) if os.path.isfile(path))
    return Source(
        files, variables[base], base, _revision(files, dotenvs, base), (*watched, *dotenvs), tuple(sorted(excluded))
    )


def base_directory(paths: Sequence[str]) -> str:
    """Where the project lies: the first directory named, or that of the first file; it names the stack by default."""
    first = paths[0] if paths else "."
    if first == "-":
        return os.getcwd()
    first = os.path.abspath(first)
    return first if os.path.isdir(first) else os.path.dirname(first)


def list_manifests(paths: Sequence[str], problems: list[Problem], excluded: Iterable[str] = ()) -> list[Found]:
    """What `paths` name, in order; `excluded` directories are not entered."""
    found: list[Found] = []
    explicit_dir = ""
    closed = frozenset(excluded)
    for path in paths or ["."]:
        absolute = os.path.abspath(path)
        if path == "-":
            explicit_dir = explicit_dir or os.getcwd()
            found.append(Found("", STDIN, 0, explicit_dir, "named"))
        elif os.path.isdir(absolute):
            found.extend(_list_directory(absolute, path, problems, closed, len(found) + 1))
        elif os.path.lexists(absolute):
            explicit_dir = explicit_dir or os.path.dirname(absolute)
            found.append(Found(absolute, _shown(absolute), 0, explicit_dir, "named"))
        else:
            problems.append(Problem(f"{path}: no such file or directory"))
    unique: dict[str, Found] = {}
    for entry in found:
        unique.setdefault(entry.path, entry)
    return list(unique.values())


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _list_directory(
    directory: str, given: str, problems: list[Problem], closed: frozenset[str], first_group: int
) -> list[Found]:
    found: list[Found] = []
    entries = 0

    def unreadable(error: OSError) -> None:
        problems.append(Problem(f"{error.filename}: cannot read directory: {error.strerror}"))

    for parent, directories, names in os.walk(directory, onerror=unreadable):
        directories[:] = sorted(
            d for d in directories if not d.startswith(".") and os.path.join(parent, d) not in closed
        )
        entries += len(directories) + len(names)
        if entries > MAX_ENTRIES:
            problems.append(Problem(f"{given}: more than {MAX_ENTRIES} entries: name the manifests' own directory"))
            return found
        manifests = sorted(n for n in names if n.endswith(SUFFIXES) and not n.startswith("."))
        groups: dict[str, int] = {}
        for name in sorted(manifests, key=lambda n: _stem(n).endswith(".override")):
            path, stem = os.path.join(parent, name), _stem(name)
            if stem.endswith(".override"):
                group = groups.get(stem.removesuffix(".override"))
                if group is None:
                    shown = _shown(path)
                    base = stem.removesuffix(".override")
                    problems.append(Problem(f"there is no {base}.yaml that it overrides", Mark(shown, 1, 1)))
                    continue
                found.append(Found(path, _shown(path), group, parent, "override"))
            else:
                group = groups.setdefault(stem, first_group + len(found))
                if any(entry.group == group for entry in found):
                    group = first_group + len(found)
                found.append(Found(path, _shown(path), group, parent))
    return found


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def read_manifest(entry: Found, stdin: str | None, problems: list[Problem]) -> str | None:
    """The text of one manifest, None after a problem."""
    start = Mark(entry.shown, 1, 1)
    if not entry.path:
        data = stdin
        if data is None:
            problems.append(Problem("nothing to read on standard input", start))
            return None
    else:
        raw = _read_settled(entry.path, start, problems)
        if raw is None:
            return None
        data = decode(raw, start, problems)
        if data is None:
            return None
    if not data.strip("\ufeff \t\r\n"):
        problems.append(Problem("the file is empty" if entry.path else "standard input is empty", start))
        return None
    return data.removeprefix("\ufeff")


def _read_settled(path: str, mark: Mark, problems: list[Problem]) -> bytes | None:
    """All bytes of a file that nobody was writing meanwhile."""
    for attempt in range(4):
        try:
            with open(path, "rb") as file:
                before = os.fstat(file.fileno())
                if stat.S_ISDIR(before.st_mode):
                    raise IsADirectoryError(21, "is a directory", path)
                data = file.read(MAX_BYTES + 1)
                after = os.fstat(file.fileno())
        except OSError as error:
            problems.append(Problem(f"cannot read the file: {(error.strerror or str(error)).lower()}", mark))
            return None
        if len(data) > MAX_BYTES:
            problems.append(Problem(f"the file is larger than {MAX_BYTES >> 20} MiB", mark))
            return None
        if not stat.S_ISREG(before.st_mode):
            return data
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) and len(data) == after.st_size:
            return data
        time.sleep(0.02 * (attempt + 1))
    problems.append(Problem("the file changes while it is read", mark))
    return None


def decode(data: bytes, mark: Mark, problems: list[Problem]) -> str | None:
    """UTF-8, or UTF-16 with a byte order mark, as YAML has it."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        problems.append(Problem(f"is not {encoding.upper()} text", Mark(mark.file, line, column)))
        return None


# ---- variables --------------------------------------------------------------------------------------------------


def read_variables(
    directories: Iterable[str], environ: Mapping[str, str], problems: list[Problem], used: set[str]
) -> dict[str, Variables]:
    """For each project directory: the caller's variables, then its own `.env`, then that of the first directory."""
    result: dict[str, Variables] = {}
    base: dict[str, str] = {}
    for index, directory in enumerate(dict.fromkeys(directories)):
        own = _read_dotenv(os.path.join(directory, ".env"), Variables(environ, base, used), problems)
        if index == 0:
            base = own
        result[directory] = Variables(environ, {**base, **own}, used)
    return result


def dotenv_paths(directories: Iterable[str]) -> list[str]:
    return [os.path.join(directory, ".env") for directory in directories]


def _read_dotenv(path: str, variables: Variables, problems: list[Problem]) -> dict[str, str]:
    if not os.path.isfile(path):
        return {}
    from reconciler.manifest.dotenv import parse_dotenv

    mark = Mark(_shown(path), 1, 1)
    data = _read_settled(path, mark, problems)
    text = decode(data, mark, problems) if data is not None else None
    return parse_dotenv(text, mark.file, variables, problems) if text is not None else {}


# ---- build contexts ---------------------------------------------------------------------------------------------


def _build_contexts(texts: Mapping[Found, str], environ: Mapping[str, str]) -> set[str]:
    """Directories below a directory source that some manifest outside them builds from.

    A context that holds the manifest which names it is no reason to leave that manifest out. Manifests are looked at
    from the top down, so that one inside a context has no say.
    """
    from reconciler.manifest.contexts import named_contexts

    contexts: set[str] = set()
    ignored: list[Problem] = []
    variables = read_variables([entry.project_dir for entry in texts], environ, ignored, set())
    ordered = sorted(texts, key=lambda entry: (entry.path.count("/"), entry.path))
    looked: dict[Found, set[str]] = {}
    while True:
        before = len(contexts)
        for entry in ordered:
            if entry in looked or (entry.kind != "named" and _inside(entry.path, contexts)):
                continue
            directory = os.path.dirname(entry.path) if entry.path else entry.project_dir
            looked[entry] = {
                context
                for context in named_contexts(texts[entry], directory, entry.project_dir, variables[entry.project_dir])
                if not _inside(entry.path or directory, (context,))
            }
            contexts |= looked[entry]
        if len(contexts) == before:
            return contexts


def _inside(path: str, directories: Iterable[str]) -> bool:
    return any(path == directory or path.startswith(directory + "/") for directory in directories)


def _revision(files: Sequence[SourceFile], dotenvs: Sequence[str], base: str) -> str:
    digest = hashlib.sha256()
    for file in files:
        name = os.path.relpath(os.path.abspath(file.path), base) if file.kind != "stdin" else file.path
        digest.update(f"{name}\0{len(file.text)}\0".encode())
        digest.update(file.text.encode("utf-8", "surrogatepass"))
    for path in dotenvs:
        with open(path, "rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        digest.update(f"{os.path.relpath(path, base)}\0{len(content)}\0".encode())
        digest.update(content)
    return "sha256:" + digest.hexdigest()


# ---- watching ---------------------------------------------------------------------------------------------------


def watch(paths: Sequence[str], stop: Event | None = None, poll_ms: int = 1000) -> Iterable[None]:
    """Yields whenever something below the sources changes, and at least every `poll_ms` so that `stop` is noticed.

    A hint only: events get lost on some file systems, so callers fetch again now and then without one.
    """
    from watchfiles import watch as watch_files

    directories = sorted({p if os.path.isdir(p) else os.path.dirname(p) for p in map(os.path.abspath, paths or ["."])})
    for changes in watch_files(
        *directories, stop_event=stop, yield_on_timeout=True, rust_timeout=poll_ms, recursive=True, watch_filter=None,
        raise_interrupt=False, debounce=200,
    ):  # fmt: skip
        if changes:
            yield None
