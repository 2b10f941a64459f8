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
from collections.abc import Iterable
from typing import Any

from runtime.api import BuildRequest
from runtime.build.dockerignore import Ignore, parse_ignore
from runtime.build.instructions import Copy, Onbuild
from runtime.build.parse import parse, parse_trigger
from runtime.build.sources import Item, SourceTree, open_tree
from runtime.build.stages import BuildPlan, plan_build
from runtime.errors import InvalidSpec

_CHUNK = 1 << 20
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
    """Digests of a context's files, remembered in a file below `cache_dir` (nowhere when it is None)."""

    def __init__(self, context: str, cache_dir: str | None) -> None:
        self._path = ""
        if cache_dir is not None and os.path.isdir(cache_dir):
            name = hashlib.sha256(os.path.realpath(context).encode("utf-8", "surrogateescape")).hexdigest()[:24]
            self._path = f"{cache_dir}/context-{name}.json"
        self._known: dict[str, list[Any]] = self._load()
        self._used: dict[str, list[Any]] = {}
        self._changed = False

    def _load(self) -> dict[str, list[Any]]:
        if not self._path:
            return {}
        try:
            with open(self._path, "rb") as file:
                known = json.load(file)
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

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
                    json.dump(self._used, file)
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
    plan = plan_build(parse(text, name), request.target, request.args)
    header = [VERSION, text, sorted(request.args.items()), request.target, request.network]
    digest = hashlib.sha256(json.dumps(header).encode())
    tree = open_context(request)
    try:
        digests = FileDigests(request.context, cache_dir)
        digest.update(tree_digest(tree, local_sources(plan), digests).encode())
        digests.save()
    finally:
        tree.close()
    return f"sha256:{digest.hexdigest()}"
