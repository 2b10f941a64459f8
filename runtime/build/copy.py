"""Copies files into an image's root filesystem as COPY and ADD do. Runs inside `RootThread`: `/` is the image.

Owners are 0:0 for files of the context and kept for files of a stage or image, unless `--chown` says otherwise. Modes,
times, symlinks, hard links and `security.capability` are kept.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.build.sources import WILDCARDS, Item, Match, SourceTree

_CHUNK = 1 << 20
Owner = tuple[int, int]


class CopyError(Exception):
    """The instruction cannot be carried out; the text says why, the caller adds where."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How to copy: `owner` None keeps the source's, `mode` None keeps the source's. `check` may raise to stop."""

    owner: Owner | None
    mode: int | None
    check: Callable[[], None]


def make_directories(path: str, owner: Owner, mode: int = 0o755) -> None:
    """Make `path` and its missing parents, symlinks followed. What exists stays as it is."""
    path = os.path.realpath(path)
    if os.path.isdir(path):
        return
    parent = posixpath.dirname(path)
    if parent != path:
        make_directories(parent, owner, mode)
    try:
        os.mkdir(path)
    except FileExistsError:
        raise CopyError(f'"{path}" is not a directory') from None
    except NotADirectoryError:
        raise CopyError(f'"{parent}" is not a directory') from None
    os.chown(path, *owner)
    os.chmod(path, mode)


def place(dest: str, name: str, into_directory: bool) -> str:
    """Where a file called `name` goes: into `dest` when that is (or is asked to be) a directory, else to `dest`."""
    real = os.path.realpath(dest)
    return posixpath.join(real, name) if into_directory or os.path.isdir(real) else real


def write_document(dest: str, name: str, data: bytes, into_directory: bool, manner: Manner) -> None:
    """A file written in the Dockerfile itself."""
    owner = manner.owner or (0, 0)
    target = place(dest, name, into_directory)
    make_directories(posixpath.dirname(target), owner)
    _make_way(target)
    with open(target, "xb") as file:
        file.write(data)
    os.chown(target, *owner)
    os.chmod(target, 0o644 if manner.mode is None else manner.mode)


def copy_match(tree: SourceTree, match: Match, dest: str, into_directory: bool, manner: Manner) -> None:
    """One source: a directory's content goes into `dest`, a file to or into it.

    As in docker it is the content only: the directory `dest`, when made, gets mode 0755 and not its source's.
    """
    made_for = manner.owner or (0, 0)
    if match.is_dir:
        target = os.path.realpath(dest)
        make_directories(target, made_for)
    else:
        target = place(dest, match.name, into_directory)
        make_directories(posixpath.dirname(target), made_for)
    _Copier(tree, manner).copy(match.path, target)


class _Copier:
    def __init__(self, tree: SourceTree, manner: Manner) -> None:
        self.tree = tree
        self.manner = manner
        self.links: dict[tuple[int, int], str] = {}
        self.folders: list[tuple[str, os.stat_result]] = []

    def copy(self, path: str, target: str) -> None:
        for item in self.tree.walk(path):
            self.manner.check()
            place = f"{target}/{item.path}" if item.path else target
            if stat.S_ISDIR(item.info.st_mode):
                if item.path:
                    self.copy_directory(item, place)
            elif not stat.S_ISSOCK(item.info.st_mode):
                self.copy_leaf(item, place)
        for folder, info in reversed(self.folders):
            os.utime(folder, ns=(info.st_atime_ns, info.st_mtime_ns))

    def copy_directory(self, item: Item, target: str) -> None:
        try:
            os.mkdir(target, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(target).st_mode):
                raise CopyError(f'cannot copy a directory over "{target}", which is none') from None
        fd = os.open(item.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=item.folder)
        try:
            self.set_attributes(target, item.info, fd)
        finally:
            os.close(fd)
        self.folders.append((target, item.info))

    def copy_leaf(self, item: Item, target: str) -> None:
        _make_way(target)
        info = item.info
        key = (info.st_dev, info.st_ino)
        if info.st_nlink > 1 and key in self.links:
            os.link(self.links[key], target, follow_symlinks=False)
            return
        if stat.S_ISREG(info.st_mode):
            self.copy_file(item, target)
        else:
            if stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink(item.name, dir_fd=item.folder), target)
            else:
                os.mknod(target, info.st_mode, info.st_rdev)
            self.set_attributes(target, info, None)
        os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)
        if info.st_nlink > 1:
            self.links[key] = target

    def copy_file(self, item: Item, target: str) -> None:
        source = os.open(item.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=item.folder)
        try:
            out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                _copy_bytes(source, out, self.manner.check)
            finally:
                os.close(out)
            self.set_attributes(target, item.info, source)
        finally:
            os.close(source)

    def set_attributes(self, target: str, info: os.stat_result, source: int | None) -> None:
        """`source` is an open descriptor to take extended attributes from."""
        os.chown(target, *(self.manner.owner or (info.st_uid, info.st_gid)), follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            return
        os.chmod(target, stat.S_IMODE(info.st_mode) if self.manner.mode is None else self.manner.mode)
        for name in os.listxattr(source) if source is not None else ():
            if name == "security.capability" or name.startswith("user."):
                try:
                    os.setxattr(target, name, os.getxattr(source or 0, name), follow_symlinks=False)
                except OSError as error:
                    if error.errno not in (errno.ENOTSUP, errno.EPERM):
                        raise


def _copy_bytes(source: int, out: int, check: Callable[[], None]) -> None:
    in_kernel = True
    while True:
        check()
        if in_kernel:
            try:
                if not os.copy_file_range(source, out, 64 * _CHUNK):
                    return
                continue
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):
                    raise
                in_kernel = False
        data = memoryview(os.read(source, _CHUNK))
        if not data:
            return
        while data:
            data = data[os.write(out, data) :]


def _make_way(target: str) -> None:
    try:
        info = os.lstat(target)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise CopyError(f'"{posixpath.dirname(target)}" is not a directory') from None
    if stat.S_ISDIR(info.st_mode):
        raise CopyError(f'cannot copy a file over the directory "{target}"')
    os.unlink(target)


def parse_mode(text: str) -> int:
    """`--chmod`: an octal number. Raises CopyError."""
    if text and len(text) <= 5 and all(digit in "01234567" for digit in text) and int(text, 8) <= 0o7777:
        return int(text, 8)
    raise CopyError(f'--chmod "{text}" is not an octal mode such as 755')


def needs_directory(dest: str, count: int) -> None:
    """Several sources want a directory: `dest` must end with a slash or be one. Raises CopyError."""
    if count > 1 and not dest.endswith("/") and not os.path.isdir(os.path.realpath(dest)):
        raise CopyError(f'with more than one source the destination must be a directory and end with "/": "{dest}"')


def matches(tree: SourceTree, patterns: Sequence[str]) -> list[Match]:
    """What the patterns name; a pattern without wildcards must name something. Raises CopyError."""
    found: list[Match] = []
    for pattern in patterns:
        try:
            here = tree.match(pattern)
        except ValueError as error:
            raise CopyError(f'bad pattern "{pattern}": {error}') from None
        if not here and WILDCARDS.isdisjoint(pattern):
            raise CopyError(
                f'"{pattern}" not found' + (" (or excluded by the ignore file)" if tree.ignore.patterns else "")
            )
        found += here
    return found
