"""Unpacks local tar archives as ADD does. Runs inside `RootThread`: `/` is the image, so nothing can leave it.

An archive is told by its content, never by its name: plain, gzip, bzip2, xz or zstd around a tar.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, cast

from runtime.build.copy import CopyError, Owner, make_directories
from runtime.build.sources import Match, SourceTree
from runtime.errors import CorruptContent
from runtime.image import layer

_NOT_AN_ARCHIVE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, CorruptContent)


class _Chunks(io.RawIOBase):
    """A stream of byte chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        parts, wanted = [], size if size is not None and size >= 0 else 1 << 62
        while wanted:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    break
            part, self._rest = self._rest[:wanted], self._rest[wanted:]
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    magic = file.read(6)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if magic[:3] == b"BZh":
        return cast(IO[bytes], bz2.BZ2File(file))
    if magic == b"\xfd7zXZ\0":
        return cast(IO[bytes], lzma.LZMAFile(file))
    if magic[:4] == b"\x28\xb5\x2f\xfd":
        return cast(IO[bytes], _Chunks(layer.decompressed(file)))
    return file


class Archive:
    """An open archive, before its first entry; owns its descriptor."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.tar = tarfile.open(fileobj=_decompressed(file), mode="r|")

    def close(self) -> None:
        self.tar.close()
        self.file.close()


def _read_archive(fd: int) -> Archive | None:
    """Takes over `fd`; None when it holds no archive."""
    file = os.fdopen(fd, "rb")
    try:
        with tarfile.open(fileobj=_decompressed(file), mode="r|") as probe:
            is_archive = probe.next() is not None
        if is_archive:
            file.seek(0)
            return Archive(file)
    except _NOT_AN_ARCHIVE:
        pass
    file.close()
    return None


def open_archive(tree: SourceTree, match: Match) -> Archive | None:
    """The file as an archive, or None. To be called before the thread changes its root: decoders load late."""
    if match.is_dir:
        return None
    for item in tree.walk(match.path):
        if not stat.S_ISREG(item.info.st_mode):
            return None
        fd = os.open(item.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=item.folder)
        return _read_archive(fd)
    return None


def unpack(archive: Archive, dest: str, owner: Owner, check: Callable[[], None]) -> None:
    """Unpack into the directory `dest`, made with `owner` when absent; members keep the archive's owners."""
    make_directories(dest, owner)
    try:
        _extract(archive.tar, os.path.realpath(dest), check)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, CorruptContent) as error:
        raise CopyError(f"cannot unpack the archive: {error}") from None


def _extract(archive: tarfile.TarFile, dest: str, check: Callable[[], None]) -> None:
    folders: list[tuple[str, tarfile.TarInfo]] = []
    for entry in archive:
        check()
        name = _inside(entry.name)
        if not name:
            if entry.isdir():
                _set_attributes(dest, entry)
                folders.append((dest, entry))
            continue
        parent, _, last = name.rpartition("/")
        folder = posixpath.join(dest, parent) if parent else dest
        make_directories(folder, (0, 0))
        target = posixpath.join(os.path.realpath(folder), last)
        _make_way(target, entry.isdir())
        if entry.isdir():
            if not os.path.isdir(target):
                os.mkdir(target, 0o700)
            folders.append((target, entry))
        elif entry.isreg():
            _write(archive, entry, target)
        elif entry.issym():
            os.symlink(entry.linkname, target)
        elif entry.islnk():
            source = posixpath.join(dest, _inside(entry.linkname))
            try:
                os.link(source, target, follow_symlinks=False)
            except FileNotFoundError:
                raise CopyError(f'cannot unpack "{entry.name}": its link target is not in the archive') from None
            continue
        elif entry.ischr() or entry.isblk():
            kind = stat.S_IFCHR if entry.ischr() else stat.S_IFBLK
            os.mknod(target, kind | 0o600, os.makedev(entry.devmajor, entry.devminor))
        elif entry.isfifo():
            os.mkfifo(target, 0o600)
        else:
            continue
        _set_attributes(target, entry)
    for target, entry in reversed(folders):
        if os.path.isdir(target) and not os.path.islink(target):
            os.utime(target, (entry.mtime, entry.mtime))


def _inside(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise CopyError(f'cannot unpack "{name}": the name leads out of the destination')
    return "/".join(parts)


def _make_way(target: str, for_directory: bool) -> None:
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        if not for_directory:
            shutil.rmtree(target)
    else:
        os.unlink(target)


def _write(archive: tarfile.TarFile, entry: tarfile.TarInfo, target: str) -> None:
    content = archive.extractfile(entry)
    with open(target, "xb") as file:
        while content and (data := content.read(1 << 20)):
            file.write(data)


def _set_attributes(target: str, entry: tarfile.TarInfo) -> None:
    os.chown(target, entry.uid, entry.gid, follow_symlinks=False)
    if not entry.issym():
        os.chmod(target, entry.mode & 0o7777)
    for key, value in entry.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and (name == "security.capability" or name.startswith("user.")):
            os.setxattr(target, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
    os.utime(target, (entry.mtime, entry.mtime), follow_symlinks=False)
