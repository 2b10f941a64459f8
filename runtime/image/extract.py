"""Unpack a layer's tar below one directory and nowhere else, with whiteouts turned into overlay's form.

Every parent directory is opened component by component with O_NOFOLLOW, so a symlink that an earlier entry planted is
an error and never a way out; the last component is never followed either.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from runtime.errors import CorruptContent
from runtime.image import tar
from runtime.image.layer import KEPT_ATTRIBUTES, MAX_LAYER, OPAQUE_MARKER, WHITEOUT
from runtime.snapshot.overlay import OPAQUE, is_whiteout

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FOLDERS = 256
MAX_ENTRIES = 2_000_000
MAX_DEPTH = 512
MAX_NAME = 4096
MAX_XATTRS = 64


def extract(chunks: Iterator[bytes], root: str, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_LAYER) -> int:
    """Unpack into the empty directory `root`; returns the number of entries. Reads `chunks` to their very end.

    Raises CorruptContent for a malformed, truncated or escaping tar; what was unpacked until then is the caller's to
    remove.
    """
    with _Target(root) as target:
        return _extract(tar.TarReader(chunks), target, max_entries, max_bytes)


def _extract(reader: tar.TarReader, target: _Target, max_entries: int, max_bytes: int) -> int:
    count = total = 0
    folders: dict[bytes, tar.Entry] = {}
    for entry in reader:
        count += 1
        if count > max_entries:
            raise CorruptContent(f"cannot unpack layer: it has more than {max_entries} entries")
        total += entry.size
        if total > max_bytes:  # a sparse file may be far longer than the stream that holds it
            raise CorruptContent(f"cannot unpack layer: its files are longer than {max_bytes} bytes")
        name = clean_name(entry.name)
        if not name:
            if entry.kind == tar.DIRECTORY:
                target.set_root(entry)
            continue
        parent, _, last = name.rpartition(b"/")
        if last.startswith(WHITEOUT):
            target.white_out(parent, last)
        elif entry.kind == tar.REGULAR:
            target.write_file(parent, last, entry, reader)
        elif entry.kind == tar.DIRECTORY:
            target.make_directory(name, parent, last, entry)
            folders[name] = entry
        elif entry.kind == tar.SYMLINK:
            target.make_symlink(parent, last, entry)
        elif entry.kind == tar.HARD_LINK:
            target.make_hard_link(parent, last, entry)
        elif entry.kind in (tar.CHARACTER, tar.BLOCK_DEVICE, tar.FIFO):
            target.make_node(parent, last, entry)
        else:
            raise CorruptContent(f"cannot unpack layer: entry {_shown(name)} has unknown type {entry.kind!r}")
    reader.drain()
    # last and deepest first: making an entry changes the time of the directory that holds it
    for name in sorted(folders, key=lambda name: name.count(b"/"), reverse=True):
        target.set_time(name, folders[name].mtime_ns)
    target.finish_root()
    return count


def clean_name(name: bytes) -> bytes:
    """A member's path without `./`, `/` at its ends and doubles; refuses `..` and what no file system holds."""
    if len(name) > MAX_NAME:
        raise CorruptContent("cannot unpack layer: an entry's name is too long")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise CorruptContent(f"cannot unpack layer: entry {_shown(name)} leaves the root")
    if len(parts) > MAX_DEPTH:
        raise CorruptContent("cannot unpack layer: an entry lies too deep")
    return b"/".join(parts)


class _Target:
    """The directory being filled, with a bounded cache of open directories below it."""

    def __init__(self, root: str) -> None:
        self._root = os.open(root, _FOLDER)
        self._open: dict[bytes, int] = {}
        self._root_entry: tar.Entry | None = None

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open.values():
            os.close(fd)
        os.close(self._root)

    # -- directories

    def _parent(self, path: bytes) -> int:
        """The open directory `path`; makes missing ones. Never crosses a symlink."""
        if not path:
            return self._root
        fd = self._open.get(path)
        if fd is not None:
            return fd
        above, _, name = path.rpartition(b"/")
        folder = self._parent(above)
        try:
            fd = os.open(name, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=folder)
            fd = os.open(name, _FOLDER, dir_fd=folder)
            os.fchmod(fd, 0o755)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            if not is_whiteout(os.stat(name, dir_fd=folder, follow_symlinks=False)):
                raise CorruptContent(
                    f"cannot unpack layer: an entry lies below {_shown(path)}, which is no directory"
                ) from None
            # a whiteout and, after it, new content of the same directory: the new one hides all of the old
            os.unlink(name, dir_fd=folder)
            os.mkdir(name, 0o755, dir_fd=folder)
            fd = os.open(name, _FOLDER, dir_fd=folder)
            os.setxattr(fd, OPAQUE, b"y")
        if len(self._open) >= _OPEN_FOLDERS:
            self._evict(path)
        self._open[path] = fd
        return fd

    def _evict(self, wanted: bytes) -> None:
        for path in list(self._open)[: _OPEN_FOLDERS // 2]:
            # those on the way to `wanted` may be in use by a caller above
            if not wanted.startswith(path + b"/"):
                os.close(self._open.pop(path))

    def _forget(self, path: bytes) -> None:
        for known in [known for known in self._open if known == path or known.startswith(path + b"/")]:
            os.close(self._open.pop(known))

    def _clear(self, folder: int, parent: bytes, name: bytes) -> None:
        """Make way for an entry that comes a second time: the later one counts."""
        try:
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(info.st_mode):
            import shutil

            self._forget(parent + b"/" + name if parent else name)
            shutil.rmtree(os.fsdecode(name), dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)

    def make_directory(self, path: bytes, parent: bytes, name: bytes, entry: tar.Entry) -> None:
        folder = self._parent(parent)
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                whiteout = is_whiteout(info)
                os.unlink(name, dir_fd=folder)
                os.mkdir(name, 0o700, dir_fd=folder)
                if whiteout:
                    os.setxattr(self._parent(path), OPAQUE, b"y")
        fd = self._parent(path)
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        _set_xattrs(fd, entry)

    def set_root(self, entry: tar.Entry) -> None:
        self._root_entry = entry

    def finish_root(self) -> None:
        entry = self._root_entry
        if entry is not None:
            os.fchown(self._root, entry.uid, entry.gid)
            os.fchmod(self._root, entry.mode)
            _set_xattrs(self._root, entry)
            os.utime(self._root, ns=(entry.mtime_ns, entry.mtime_ns))

    def set_time(self, path: bytes, mtime_ns: int) -> None:
        parent, _, name = path.rpartition(b"/")
        try:
            folder = self._parent(parent)
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, CorruptContent):
            return  # a later entry replaced the directory
        if stat.S_ISDIR(info.st_mode):
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=folder, follow_symlinks=False)

    # -- leaves

    def write_file(self, parent: bytes, name: bytes, entry: tar.Entry, reader: tar.TarReader) -> None:
        folder = self._parent(parent)
        try:
            fd = os.open(name, _FILE, 0o600, dir_fd=folder)
        except FileExistsError:
            self._clear(folder, parent, name)
            fd = os.open(name, _FILE, 0o600, dir_fd=folder)
        try:
            if entry.extents is None:
                for part in reader.content():
                    _write(fd, part)
            else:
                _write_sparse(fd, entry, reader)
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)  # after chown, which drops set-uid
            _set_xattrs(fd, entry)  # after chown, which drops security.capability
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def make_symlink(self, parent: bytes, name: bytes, entry: tar.Entry) -> None:
        if not entry.link or len(entry.link) > MAX_NAME:
            raise CorruptContent(f"cannot unpack layer: symlink {_shown(name)} has no usable target")
        folder = self._parent(parent)
        self._clear(folder, parent, name)
        os.symlink(entry.link, name, dir_fd=folder)
        self._finish(folder, name, entry)

    def make_hard_link(self, parent: bytes, name: bytes, entry: tar.Entry) -> None:
        link = clean_name(entry.link)
        if not link:
            raise CorruptContent(f"cannot unpack layer: hard link {_shown(name)} has no target")
        if link == (parent + b"/" + name if parent else name):
            return
        above, _, target = link.rpartition(b"/")
        source = os.dup(self._parent(above))  # opening the other parent may evict this one
        try:
            folder = self._parent(parent)
            self._clear(folder, parent, name)
            os.link(target, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, PermissionError):
            raise CorruptContent(
                f"cannot unpack layer: hard link {_shown(name)} points to {_shown(link)}, which is no file of the layer"
            ) from None
        finally:
            os.close(source)

    def make_node(self, parent: bytes, name: bytes, entry: tar.Entry) -> None:
        kinds = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
        folder = self._parent(parent)
        self._clear(folder, parent, name)
        device = 0 if entry.kind == tar.FIFO else os.makedev(entry.major & 0xFFFFFFFF, entry.minor & 0xFFFFFFFF)
        if entry.kind == tar.CHARACTER and device == 0:
            raise CorruptContent(f"cannot unpack layer: device {_shown(name)} is 0:0, the mark of a removal")
        os.mknod(name, kinds[entry.kind] | 0o600, device, dir_fd=folder)
        self._finish(folder, name, entry)

    def white_out(self, parent: bytes, name: bytes) -> None:
        if name == OPAQUE_MARKER:
            os.setxattr(self._parent(parent), OPAQUE, b"y")
            return
        hidden = name[len(WHITEOUT) :]
        if hidden.startswith(WHITEOUT):
            return  # other `.wh..wh.` names are AUFS's own bookkeeping
        if hidden in (b"", b".", b".."):
            raise CorruptContent("cannot unpack layer: a whiteout names nothing")
        folder = self._parent(parent)
        try:
            os.mknod(hidden, stat.S_IFCHR | 0o600, 0, dir_fd=folder)
        except FileExistsError:
            # the same layer holds the entry too: what it holds stays, and hides what lies below
            path = parent + b"/" + hidden if parent else hidden
            if stat.S_ISDIR(os.stat(hidden, dir_fd=folder, follow_symlinks=False).st_mode):
                os.setxattr(self._parent(path), OPAQUE, b"y")

    def _finish(self, folder: int, name: bytes, entry: tar.Entry) -> None:
        os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
        if entry.kind != tar.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=folder)
        if entry.xattrs:
            _set_xattrs(f"/proc/self/fd/{folder}/{os.fsdecode(name)}", entry)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _write_sparse(fd: int, entry: tar.Entry, reader: tar.TarReader) -> None:
    parts = reader.content()
    part = memoryview(b"")
    for offset, length in entry.extents or ():
        os.lseek(fd, offset, os.SEEK_SET)
        while length:
            if not part:
                part = next(parts)
            piece = part[:length]
            _write(fd, piece)
            part = part[len(piece) :]
            length -= len(piece)
    os.ftruncate(fd, entry.size)


def _set_xattrs(target: int | str, entry: tar.Entry) -> None:
    if not entry.xattrs:
        return
    if len(entry.xattrs) > MAX_XATTRS:
        raise CorruptContent("cannot unpack layer: an entry has too many extended attributes")
    for name, value in entry.xattrs.items():
        if not name.startswith(KEPT_ATTRIBUTES):
            continue
        try:
            os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                if error.errno in (errno.EINVAL, errno.ERANGE, errno.E2BIG):
                    raise CorruptContent(f'cannot unpack layer: bad extended attribute "{name}"') from error
                raise


def _shown(name: bytes) -> str:
    return '"' + name[:200].decode("utf-8", "replace") + '"'
