"""Durable small files, verified blobs, locks and ingest directories below a state root.

Everything is written under a temporary name and renamed. Temporary files exist only while the store's lock is held and
an ingest directory only while its owner holds a lock inside it, so `sweep` knows garbage from work in progress.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import CorruptContent, DiskFull, EngineError, NotFound, Unavailable, Unsupported
from runtime.image.reference import is_digest
from runtime.layout import Layout
from runtime.snapshot.overlay import remove_tree

TEMPORARY = ".tmp-"
_LEASE_TIMEOUT = 120.0
_boot = ""


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def hex_of(digest: str) -> str:
    """The hex part of a digest; refuses anything that could name another path."""
    if not is_digest(digest):
        raise CorruptContent(f'cannot use digest "{digest[:80]}": not a sha256 digest')
    return digest[7:]


def boot_id() -> str:
    """This boot's identity: what was renamed but never synced in an earlier boot cannot be trusted."""
    global _boot  # noqa: PLW0603
    if not _boot:
        with open("/proc/sys/kernel/random/boot_id") as file:
            _boot = file.read().strip()
    return _boot


@contextmanager
def translating(action: str) -> Iterator[None]:
    """Turn an OSError into the engine's own kind; `action` reads `<verb> <object> "<name>"`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"cannot {action}: {error.strerror}", "free space below the state root") from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise Unsupported(f"cannot {action}: {error.strerror}", "run as root") from error
        raise EngineError(f"cannot {action}: {error.strerror or error}") from error


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(path: str) -> None:
    """syncfs(2): one flush for a whole layer instead of an fsync for each of its files."""
    import ctypes

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(fd)


def write_durably(path: str, data: bytes) -> None:
    """Replace `path` by `data`, whole or not at all even after a power cut. Call under the store's lock."""
    folder, name = os.path.split(path)
    temporary = f"{folder}/{TEMPORARY}{os.getpid()}-{os.urandom(4).hex()}-{name[:100]}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        remove_file(temporary)
        raise
    sync_directory(folder)


def remove_file(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


class Blobs:
    """Small content by digest, verified whenever it is read."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def path(self, digest: str) -> str:
        return f"{self.folder}/{hex_of(digest)}"

    def read(self, digest: str) -> bytes:
        path = self.path(digest)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise NotFound(f'cannot read blob "{digest}": it does not exist') from None
        except OSError as error:
            raise CorruptContent(f'cannot read blob "{digest}": {error.strerror}') from error
        if digest_of(data) != digest:
            raise CorruptContent(
                f'cannot read blob "{digest}": its content does not match its digest',
                "remove the image and make it again",
            )
        return data

    def write(self, data: bytes) -> str:
        """Keep `data`; one that is there already and sound is left alone, a damaged one is replaced."""
        digest = digest_of(data)
        try:
            if self.read(digest) == data:
                return digest
        except (NotFound, CorruptContent):
            pass
        write_durably(self.path(digest), data)
        return digest

    def remove(self, digest: str) -> int:
        path = self.path(digest)
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            return 0
        remove_file(path)
        return size


@contextmanager
def lease(path: str, exclusive: bool = False) -> Iterator[bool]:
    """Shared: layers are being made, collect none. Exclusive: yields whether nobody makes any now; never waits.

    A maker waits at most as long as one collection lasts. The kernel lets go when the holder dies.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _LEASE_TIMEOUT
        while True:
            try:
                fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                granted = True
                break
            except BlockingIOError:
                if exclusive:
                    granted = False
                    break
                if time.monotonic() >= deadline:
                    raise Unavailable("cannot make image: layers are being collected", "try again") from None
                time.sleep(0.005)
        yield granted
    finally:
        os.close(fd)


class Ingest:
    """A private directory below `layout.ingest` for something half made; gone when closed, whatever happened.

    `layer` is the directory that will be renamed into place; `tree` its root filesystem.
    """

    def __init__(self, path: str, trash: str, lock: int) -> None:
        self.path = path
        self.layer = f"{path}/layer"
        self.tree = f"{path}/layer/fs"
        self._trash = trash
        self._lock = lock

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            remove_tree(self.path, self._trash)
        finally:
            os.close(self._lock)


def begin_ingest(layout: Layout) -> Ingest:
    """Make a new ingest directory owned by this process. Call under the store's lock, see `sweep`."""
    path = f"{layout.ingest}/{os.urandom(8).hex()}"
    os.mkdir(path, 0o700)
    lock = -1
    try:
        lock = os.open(f"{path}/owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.mkdir(f"{path}/layer", 0o700)
        os.mkdir(f"{path}/layer/fs", 0o755)
        os.chmod(f"{path}/layer/fs", 0o755)  # noqa: S103 - it is `/` of containers, whatever the umask
    except BaseException:
        if lock >= 0:
            os.close(lock)
        remove_tree(path, layout.trash)
        raise
    return Ingest(path, layout.trash, lock)


def sweep(layout: Layout, folders: list[str]) -> list[str]:
    """Remove what dead processes left: ingests without a living owner, temporary files. Call under the store's lock."""
    removed = []
    for name in _names(layout.ingest):
        path = f"{layout.ingest}/{name}"
        if not _owned(path):
            remove_tree(path, layout.trash)
            removed.append(path)
    for folder in folders:
        for name in _names(folder):
            if name.startswith(TEMPORARY) and remove_file(f"{folder}/{name}"):
                removed.append(f"{folder}/{name}")
    return removed


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _owned(path: str) -> bool:
    try:
        fd = os.open(f"{path}/owner", os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
