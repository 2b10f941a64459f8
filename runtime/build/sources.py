"""A directory tree that COPY and ADD read from: names resolved beneath its root, ignored files invisible.

Everything goes through directory descriptors opened without following symlinks, so that neither a link in the context
nor one in an image leads out of the tree, and so that the tree stays readable after the reader changed its root.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.build.dockerignore import Ignore, State, pattern_regex

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 255
WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Item:
    """One entry met on a walk; `folder` and `name` open it, only until the walk goes on."""

    path: str
    """Relative to where the walk began; "" is that place itself."""
    folder: int
    name: str
    info: os.stat_result


@dataclass(frozen=True, slots=True)
class Match:
    """What a source pattern names: its last component as written, and the real place in the tree."""

    name: str
    path: str
    is_dir: bool


class SourceTree:
    """Owns `root`, an open directory."""

    def __init__(self, root: int, ignore: Ignore | None = None) -> None:
        self.root = root
        self.ignore = ignore or Ignore()

    def close(self) -> None:
        os.close(self.root)

    def _open(self, path: str) -> int:
        fd = os.dup(self.root)
        for part in filter(None, path.split("/")):
            try:
                deeper = os.open(part, _FOLDER, dir_fd=fd)
            finally:
                os.close(fd)
            fd = deeper
        return fd

    def _stat(self, path: str) -> os.stat_result | None:
        parent, _, name = path.rpartition("/")
        try:
            fd = self._open(parent)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.stat(name or ".", dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        finally:
            os.close(fd)

    def _readlink(self, path: str) -> str:
        parent, _, name = path.rpartition("/")
        fd = self._open(parent)
        try:
            return os.readlink(name, dir_fd=fd)
        finally:
            os.close(fd)

    def resolve(self, path: str) -> tuple[str, os.stat_result] | None:
        """The real place of `path`, all symlinks followed as if the tree were the whole world; None when absent."""
        done: list[str] = []
        pending = path.split("/")[::-1]
        links = 0
        info = self._stat("")
        while pending and info:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del done[-1:]
                info = self._stat("/".join(done))
                continue
            info = self._stat("/".join([*done, part]))
            if info and stat.S_ISLNK(info.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    return None
                target = self._readlink("/".join([*done, part]))
                if target.startswith("/"):
                    done = []
                pending += target.split("/")[::-1]
                info = self._stat("/".join(done))
            else:
                done.append(part)
        return ("/".join(done), info) if info else None

    def match(self, pattern: str) -> list[Match]:
        """The places that `pattern` names, sorted; none when nothing visible does. `..` stops at the root."""
        parts = [part for part in posixpath.normpath("/" + pattern.lstrip("/")).split("/") if part]
        wild = next((at for at, part in enumerate(parts) if not WILDCARDS.isdisjoint(part)), len(parts))
        candidates = ["/".join(parts[:wild])]
        for part in parts[wild:]:
            regex = pattern_regex(part)
            candidates = [
                f"{path}/{name}" if path else name
                for path in candidates
                for name in self._names(path)
                if regex.fullmatch(name)
            ]
        found = []
        for path in candidates:
            place = self.resolve(path)
            if place and self._visible(place[0], place[1]):
                found.append(Match(posixpath.basename(path), place[0], stat.S_ISDIR(place[1].st_mode)))
        return found

    def _names(self, path: str) -> list[str]:
        place = self.resolve(path)
        if not place or not stat.S_ISDIR(place[1].st_mode):
            return []
        fd = self._open(place[0])
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def _visible(self, path: str, info: os.stat_result) -> bool:
        if not path or not self.ignore.excludes(path):
            return True
        if not stat.S_ISDIR(info.st_mode) or not self.ignore.may_return_below(path):
            return False
        return any(item.path for item in self.walk(path))

    def walk(self, path: str) -> Iterator[Item]:
        """The real place `path` and all that is visible below it, parents first, names sorted."""
        parent, _, name = path.rpartition("/")
        folder = self._open(parent)
        try:
            state, excluded = self.ignore.start, False
            parts = path.split("/") if path else []
            for depth in range(1, len(parts) + 1):
                state, excluded = self.ignore.enter(state, "/".join(parts[:depth]))
            info = os.stat(name or ".", dir_fd=folder, follow_symlinks=False)
            item = Item("", folder, name or ".", info)
            if not stat.S_ISDIR(info.st_mode):
                if not excluded:
                    yield item
                return
            yield item
            yield from self._walk_below(folder, item, path, state, [])
        finally:
            os.close(folder)

    def _walk_below(
        self, parent: int, above: Item, real: str, state: State, hidden: list[tuple[str, str]]
    ) -> Iterator[Item]:
        """`hidden` are excluded directories on the way down, shown as soon as something below them is."""
        folder = os.open(above.name, _FOLDER, dir_fd=parent)
        shown = above.path
        try:
            with os.scandir(folder) as entries:
                listed = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
            for child, info in listed:
                path = f"{real}/{child}" if real else child
                inner, excluded = self.ignore.enter(state, path) if state else (state, False)
                item = Item(f"{shown}/{child}" if shown else child, folder, child, info)
                is_dir = stat.S_ISDIR(info.st_mode)
                if not excluded:
                    yield from self._reveal(hidden)
                    yield item
                    if is_dir:
                        yield from self._walk_below(folder, item, path, inner, hidden)
                elif is_dir and self.ignore.may_return_below(path):
                    hidden.append((item.path, path))
                    yield from self._walk_below(folder, item, path, inner, hidden)
                    if hidden and hidden[-1] == (item.path, path):
                        hidden.pop()
        finally:
            os.close(folder)

    def _reveal(self, hidden: list[tuple[str, str]]) -> Iterator[Item]:
        waiting, hidden[:] = list(hidden), []
        for shown, real in waiting:
            parent, _, name = real.rpartition("/")
            folder = self._open(parent)
            try:
                yield Item(shown, folder, name, os.stat(name, dir_fd=folder, follow_symlinks=False))
            finally:
                os.close(folder)


def open_tree(path: str, ignore: Ignore | None = None) -> SourceTree:
    """A tree rooted at a host directory. The root itself may be reached through symlinks."""
    return SourceTree(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), ignore)
