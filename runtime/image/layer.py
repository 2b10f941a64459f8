"""Layers as streams: decompress and verify what comes in, pack a directory into the one tar that names it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

from runtime.errors import CorruptContent, InvalidSpec
from runtime.image import tar
from runtime.snapshot.overlay import OPAQUE, is_opaque, is_whiteout

WHITEOUT = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
_CHUNK = 1 << 20
_SLICE = 1 << 16
_LARGEST = 4 << 20
_OVERLAY = "trusted.overlay."
KEPT_ATTRIBUTES = ("security.capability", "user.")
"""trusted.overlay.* would let a layer redirect lookups; labels of the host's security module mean nothing elsewhere."""
MAX_LAYER = 64 << 30
MAX_RATIO = 2000
"""A gzip stream of zeros expands a thousandfold; what expands further, once it is large, is an attack."""


class _Decoder(Protocol):
    def decode(self, data: bytes) -> Iterator[bytes]: ...
    @property
    def finished(self) -> bool: ...


class LayerStream:
    """Chunks of the uncompressed tar of a layer file; after the last one both digests are known and checked.

    Compression (none, gzip, zstd) is told by the first bytes. `limit` bounds the uncompressed size.
    """

    def __init__(
        self,
        fileobj: IO[bytes],
        blob_digest: str = "",
        diff_id: str = "",
        limit: int = MAX_LAYER,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        self._file = fileobj
        self._wanted = (blob_digest, diff_id)
        self._limit = limit
        self._on_bytes = on_bytes
        self.blob_digest = ""
        self.diff_id = ""
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        outer, inner = hashlib.sha256(), hashlib.sha256()
        first = self._file.read(_CHUNK)
        while 0 < len(first) < 4 and (more := self._file.read(_CHUNK)):
            first += more
        decoder = _decoder_for(first)
        read, data = 0, first
        while data:
            outer.update(data)
            read += len(data)
            for chunk in decoder.decode(data) if decoder else (data,):
                self.size += len(chunk)
                if self.size > self._limit:
                    raise CorruptContent(f"cannot unpack layer: it is longer than {self._limit} bytes")
                if self.size > 64 << 20 and self.size > read * MAX_RATIO:
                    raise CorruptContent(f"cannot unpack layer: it expands more than {MAX_RATIO} times")
                inner.update(chunk)
                yield chunk
            if self._on_bytes:
                self._on_bytes(read)
            data = self._file.read(_CHUNK)
        if decoder and not decoder.finished:
            raise CorruptContent("cannot unpack layer: its compressed data is truncated")
        self.diff_id = "sha256:" + inner.hexdigest()
        self.blob_digest = "sha256:" + outer.hexdigest()
        for what, wanted, actual in (
            ("digest", self._wanted[0], self.blob_digest),
            ("diff id", self._wanted[1], self.diff_id),
        ):
            if wanted and wanted != actual:
                raise CorruptContent(f"cannot unpack layer: its {what} is {actual}, not {wanted}")


def decompressed(fileobj: IO[bytes], limit: int = MAX_LAYER) -> Iterator[bytes]:
    """Chunks of a file that may be compressed, without digests: for the archive around the layers."""
    return iter(LayerStream(fileobj, limit=limit))


def _decoder_for(first: bytes) -> _Decoder | None:
    if first[:2] == b"\x1f\x8b":
        return _Gzip()
    if first[:4] == b"\x28\xb5\x2f\xfd" or (first[1:4] == b"\x2a\x4d\x18" and first[0] & 0xF0 == 0x50):
        return _Zstd()
    if first[:3] == b"BZh" or first[:6] == b"\xfd7zXZ\0":
        raise CorruptContent("cannot unpack layer: bzip2 and xz are not layer compressions", "use gzip or zstd")
    return None


class _Gzip:
    """One or more gzip members; isal where it is installed (a third of zlib's time), else zlib."""

    def __init__(self) -> None:
        self._new, self._error = _inflate()
        self._stream: Any = self._new()
        self._begun = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        # small slices: what follows a member is copied out once for each member, and some layers have one a file
        for at in range(0, len(data), _SLICE):
            yield from self._decode(data[at : at + _SLICE])

    def _decode(self, data: bytes) -> Iterator[bytes]:
        while True:
            if self._stream.eof:
                data = data.lstrip(b"\0")  # padding between and after members
                if not data:
                    return
                self._stream = self._new()
            self._begun = True
            try:
                out = self._stream.decompress(data, _LARGEST)
            except self._error as error:
                raise CorruptContent(f"cannot unpack layer: damaged gzip data: {error}") from error
            if out:
                yield out
            if self._stream.eof:
                data = self._stream.unused_data
                continue
            data = self._stream.unconsumed_tail
            if not data and len(out) < _LARGEST:
                return

    @property
    def finished(self) -> bool:
        return self._begun and bool(self._stream.eof)


def _inflate() -> tuple[Callable[[], Any], type[Exception]]:
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return lambda: zlib.decompressobj(31), zlib.error
    failure: Any = isal_zlib.error
    return lambda: isal_zlib.decompressobj(31), failure


class _Zstd:
    """One or more zstd frames."""

    def __init__(self) -> None:
        try:
            from compression import zstd  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            from backports import zstd
        self._zstd: Any = zstd
        self._stream: Any = zstd.ZstdDecompressor()

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._stream.eof:
                self._stream = self._zstd.ZstdDecompressor()
            try:
                out = self._stream.decompress(data, _LARGEST)
                if out:
                    yield out
                while not self._stream.eof and not self._stream.needs_input:
                    yield self._stream.decompress(b"", _LARGEST)
            except self._zstd.ZstdError as error:
                raise CorruptContent(f"cannot unpack layer: damaged zstd data: {error}") from error
            data = self._stream.unused_data if self._stream.eof else b""

    @property
    def finished(self) -> bool:
        return bool(self._stream.eof)


# ---- a directory as a layer -------------------------------------------------------------------------------------


def layer_digest(directory: str, on_bytes: Callable[[int], None] | None = None) -> tuple[str, int]:
    """The diff id of a layer directory and its tar's size, without writing the tar."""
    digest = hashlib.sha256()
    size = _pack(directory, digest.update, on_bytes)
    return "sha256:" + digest.hexdigest(), size


def write_layer_tar(directory: str, fileobj: IO[bytes]) -> tuple[str, int]:
    """Write a layer directory as its tar; returns (diff id, size). Overlay whiteouts become `.wh.` entries.

    The same directory always gives the same bytes: names sorted, times in whole seconds, no user names, a hard link
    points to the first of its names. The root itself has no entry.
    """
    digest = hashlib.sha256()

    def sink(data: bytes) -> None:
        digest.update(data)
        fileobj.write(data)

    size = _pack(directory, sink, None)
    return "sha256:" + digest.hexdigest(), size


def _pack(directory: str, sink: Callable[[bytes], Any], on_bytes: Callable[[int], None] | None) -> int:
    packer = _Packer(sink, on_bytes)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if is_opaque(fd):
            packer.emit(tar.header(OPAQUE_MARKER, tar.REGULAR, 0o644, 0, 0))
        packer.walk(fd, b"")
    finally:
        os.close(fd)
    packer.emit(tar.END)
    packer.flush()
    return packer.total


class _Packer:
    def __init__(self, sink: Callable[[bytes], Any], on_bytes: Callable[[int], None] | None) -> None:
        self._sink = sink
        self._on_bytes = on_bytes
        self._parts: list[bytes] = []
        self._pending = 0
        self._links: dict[tuple[int, int], bytes] = {}
        self.total = 0

    def emit(self, data: bytes) -> None:
        self._parts.append(data)
        self._pending += len(data)
        if self._pending >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self.total += self._pending
        self._pending = 0
        self._sink(data)
        if self._on_bytes:
            self._on_bytes(self.total)

    def walk(self, folder: int, prefix: bytes) -> None:
        for entry in sorted(os.listdir(folder), key=os.fsencode):
            info = os.stat(entry, dir_fd=folder, follow_symlinks=False)
            name = os.fsencode(entry)
            if name.startswith(WHITEOUT):
                raise InvalidSpec(
                    f'cannot make layer: the file name "{_shown(prefix + name)}" means a removal in a layer',
                    "rename the file",
                )
            if is_whiteout(info):
                self.emit(tar.header(prefix + WHITEOUT + name, tar.REGULAR, 0o644, 0, 0))
            elif not stat.S_ISSOCK(info.st_mode):  # tar has no sockets, and a socket means nothing without its program
                self._member(folder, entry, info, prefix + name)

    def _member(self, folder: int, entry: str, info: os.stat_result, name: bytes) -> None:
        mode, owner, mtime = stat.S_IMODE(info.st_mode), (info.st_uid, info.st_gid), info.st_mtime_ns // 1_000_000_000
        if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
            first = self._links.setdefault((info.st_dev, info.st_ino), name)
            if first is not name:
                self.emit(tar.header(name, tar.HARD_LINK, mode, *owner, 0, mtime, first))
                return
        if stat.S_ISREG(info.st_mode):
            fd = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                xattrs, _ = _attributes(fd, name)
                self.emit(tar.header(name, tar.REGULAR, mode, *owner, info.st_size, mtime, xattrs=xattrs))
                self._content(fd, info.st_size, name)
            finally:
                os.close(fd)
        elif stat.S_ISDIR(info.st_mode):
            fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                xattrs, opaque = _attributes(fd, name)
                self.emit(tar.header(name + b"/", tar.DIRECTORY, mode, *owner, 0, mtime, xattrs=xattrs))
                if opaque:
                    self.emit(tar.header(name + b"/" + OPAQUE_MARKER, tar.REGULAR, 0o644, 0, 0))
                self.walk(fd, name + b"/")
            finally:
                os.close(fd)
        else:
            xattrs, _ = _attributes(f"/proc/self/fd/{folder}/{entry}", name)
            kind, link, device = tar.FIFO, b"", (0, 0)
            if stat.S_ISLNK(info.st_mode):
                kind, mode, link = tar.SYMLINK, 0o777, os.fsencode(os.readlink(entry, dir_fd=folder))
            elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                kind = tar.CHARACTER if stat.S_ISCHR(info.st_mode) else tar.BLOCK_DEVICE
                device = (os.major(info.st_rdev), os.minor(info.st_rdev))
            self.emit(tar.header(name, kind, mode, *owner, 0, mtime, link, device, xattrs))

    def _content(self, fd: int, size: int, name: bytes) -> None:
        left = size
        while left:
            data = os.read(fd, min(left, _CHUNK))
            if not data:
                raise CorruptContent(f'cannot make layer: the file "{_shown(name)}" shrank while it was read')
            left -= len(data)
            self.emit(data)
        if size % tar.BLOCK:
            self.emit(bytes(-size % tar.BLOCK))


def _attributes(target: int | str, name: bytes) -> tuple[dict[bytes, bytes] | None, bool]:
    """The xattrs that belong into a layer, and whether overlay calls the directory opaque."""
    follow = isinstance(target, int)
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError:
        return None, False
    if not names:
        return None, False
    found, opaque = {}, False
    for attribute in names:
        value = os.getxattr(target, attribute, follow_symlinks=follow)
        if attribute == OPAQUE:
            opaque = value == b"y"
        elif attribute in (_OVERLAY + "redirect", _OVERLAY + "metacopy"):
            raise InvalidSpec(
                f'cannot make layer: "{_shown(name)}" lies elsewhere in a lower layer ({attribute})',
                "mount with redirect_dir=off,metacopy=off",
            )
        elif attribute.startswith(KEPT_ATTRIBUTES):
            found[os.fsencode(attribute)] = value
    return found or None, opaque


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "replace")
