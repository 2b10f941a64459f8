"""Reads a build's inputs: the Dockerfile, what `.dockerignore` leaves of the context, and one digest over it all.

The digest is wanted for every plan, so file digests are remembered by size, inode and times. A file that changed within
the last two seconds is never remembered: it could change again without its times telling.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import stat
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from runtime.api import BuildRequest
from runtime.build.dockerignore import Ignore, parse_ignore
from runtime.build.sources import Item, SourceTree, open_tree
from runtime.errors import InvalidSpec

if TYPE_CHECKING:
    from runtime.build.stages import BuildPlan

_MAX_DOCKERFILE = 16 << 20
_SETTLED = 2_000_000_000
VERSION = "1"


def read_dockerfile(request: BuildRequest) -> tuple[str, str]:
    """(what messages call it, its text); InvalidSpec when it cannot be read."""
    if request.dockerfile_inline:
        return "Dockerfile (inline)", request.dockerfile_inline
    path = os.path.join(request.context, request.dockerfile)
    name = request.dockerfile
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_DOCKERFILE + 1)
    except OSError as error:
        raise InvalidSpec(
            f'cannot read Dockerfile "{path}": {error.strerror}', "name it with `dockerfile:` or `--file`"
        ) from None
    if len(data) > _MAX_DOCKERFILE:
        raise InvalidSpec(f'cannot read Dockerfile "{path}": it is longer than {_MAX_DOCKERFILE} bytes')
    return name, data.decode("utf-8", "surrogateescape")


def read_ignore(request: BuildRequest) -> Ignore:
    """The ignore file beside the Dockerfile (`NAME.dockerignore`), else the context's `.dockerignore`."""
    candidates = [os.path.join(request.context, ".dockerignore")]
    if not request.dockerfile_inline:
        candidates.insert(0, os.path.join(request.context, request.dockerfile + ".dockerignore"))
    for path in candidates:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return parse_ignore(file.read(), posixpath.basename(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InvalidSpec(f'cannot read "{path}": {error.strerror}') from None
    return Ignore()


def open_context(request: BuildRequest) -> SourceTree:
    """The context as COPY sees it; InvalidSpec when it is no readable directory."""
    ignore = read_ignore(request)
    try:
        return open_tree(request.context, ignore)
    except OSError as error:
        raise InvalidSpec(f'cannot read build context "{request.context}": {error.strerror}') from None


class FileDigests:
    """What is known of one request's context, in a file below `cache_dir` (nowhere when it is None).

    Digests of files by path, and the sources that its Dockerfile copies, so that it need not be parsed for every plan.
    """

    def __init__(self, request: BuildRequest, cache_dir: str | None) -> None:
        self._path = ""
        if cache_dir is not None and os.path.isdir(cache_dir):
            identity = [os.path.realpath(request.context), request.dockerfile, request.target]
            name = "inline" if request.dockerfile_inline else "file"
            text = json.dumps([*identity, name])
            self._path = f"{cache_dir}/context-{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
        self._known: dict[str, list[Any]] = {}
        self._sources: list[Any] = []
        self._load()
        self._used: dict[str, list[Any]] = {}
        self._changed = False

    def _load(self) -> None:
        if not self._path:
            return
        try:
            with open(self._path, "rb") as file:
                known = json.load(file)
        except (OSError, ValueError):
            return
        if isinstance(known, dict) and isinstance(known.get("files"), dict) and isinstance(known.get("sources"), list):
            self._known, self._sources = known["files"], known["sources"]

    def sources(self, key: str, find: Callable[[], list[str]]) -> list[str]:
        """`find()`, unless it was found for the same `key` before."""
        if len(self._sources) != 2 or self._sources[0] != key:
            self._sources = [key, find()]
            self._changed = True
        return [str(pattern) for pattern in self._sources[1]]

    def digest(self, item: Item, path: str) -> str:
        """The digest of a regular file's content; `path` is its place in the context."""
        info = item.info
        stamp = [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_dev]
        known = self._known.get(path)
        if isinstance(known, list) and known[:-1] == stamp:
            self._used[path] = known
            return str(known[-1])
        digest = hash_file(item)
        self._changed = True
        if time.time_ns() - max(info.st_mtime_ns, info.st_ctime_ns) > _SETTLED:
            self._used[path] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Keep what was used; a cache that cannot be written is only slower."""
        if not self._path or not (self._changed or len(self._used) != len(self._known)):
            return
        temporary = f"{self._path}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            try:
                with open(temporary, "w", encoding="utf-8") as file:
                    json.dump({"sources": self._sources, "files": self._used}, file)
                os.rename(temporary, self._path)
            except OSError:
                os.unlink(temporary)
        except OSError:
            pass


def hash_file(item: Item) -> str:
    fd = os.open(item.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=item.folder)
    with open(fd, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(tree: SourceTree, patterns: Iterable[str], digests: FileDigests | None) -> str:
    """One digest over all that `patterns` name: paths, kinds, modes, link targets and bytes; not owners or times."""
    digest = hashlib.sha256()
    for pattern in patterns:
        digest.update(f"source {pattern}\0".encode("utf-8", "surrogateescape"))
        for match in tree.match(pattern):
            digest.update(f"match {match.name}\0{match.path}\0".encode("utf-8", "surrogateescape"))
            for item in tree.walk(match.path):
                place = f"{match.path}/{item.path}" if match.path and item.path else match.path or item.path
                record = f"{item.path}\0{item.info.st_mode:o}\0{_content(item, place, digests)}\0"
                digest.update(record.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _content(item: Item, place: str, digests: FileDigests | None) -> str:
    mode = item.info.st_mode
    if stat.S_ISREG(mode):
        return digests.digest(item, place) if digests else hash_file(item)
    if stat.S_ISLNK(mode):
        return os.readlink(item.name, dir_fd=item.folder)
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return str(item.info.st_rdev)
    return ""


def local_sources(plan: BuildPlan) -> list[str]:
    """What of the context the needed stages can read; ["."] when a variable decides."""
    from runtime.build.instructions import Copy, Onbuild
    from runtime.build.parse import parse_trigger

    patterns: set[str] = set()
    for planned in plan.stages:
        for command in planned.stage.commands:
            if isinstance(command, Onbuild):
                command = parse_trigger(command.trigger, command.line)
            if isinstance(command, Copy) and not command.origin:
                patterns.update(command.sources)
    if any("$" in pattern or "\\" in pattern or '"' in pattern or "'" in pattern for pattern in patterns):
        return ["."]
    return sorted(patterns)


def context_digest(request: BuildRequest, cache_dir: str | None = None) -> str:
    """Digest ("sha256:…") over the Dockerfile, the arguments, the target and the files that COPY and ADD can read.

    A file that no needed stage copies does not count. Raises InvalidSpec for a bad Dockerfile or context. Triggers
    (ONBUILD) of a base image are unknown here: what they copy counts only when the Dockerfile copies it too.
    """
    name, text = read_dockerfile(request)
    header = json.dumps([VERSION, text, sorted(request.args.items()), request.target, request.network]).encode()
    digest = hashlib.sha256(header)
    tree = open_context(request)
    try:
        known = FileDigests(request, cache_dir)
        sources = known.sources(digest.hexdigest(), lambda: _find_sources(request, name, text))
        digest.update(tree_digest(tree, sources, known).encode())
        known.save()
    finally:
        tree.close()
    return f"sha256:{digest.hexdigest()}"


def _find_sources(request: BuildRequest, name: str, text: str) -> list[str]:
    from runtime.build.parse import parse
    from runtime.build.stages import plan_build

    return local_sources(plan_build(parse(text, name), request.target, request.args))
