"""Runs a function with an image's root filesystem as its `/`, in a thread with mounts of its own.

The overlay exists only in that thread's mount namespace: no path of the host shows it, no symlink in it leads out, and
whatever kills the process takes the mount along (mount_namespaces(7); unshare(CLONE_NEWNS) also makes the thread's
root and working directory private).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from runtime import syscalls
from runtime.build.sources import SourceTree
from runtime.snapshot.overlay import is_opaque, path_in_layers

T = TypeVar("T")
_OPTIONS = b"index=off,metacopy=off,redirect_dir=off,xino=off"


class Interrupted(Exception):
    """The caller no longer waits; raised inside the thread by `check`."""


class RootThread:
    """One use: `call(function)` runs it inside; `mount_source` and `mount_root` come first, from inside."""

    def __init__(self, directory: str) -> None:
        """`directory` is private, on the file system of the layers, and holds the mount points."""
        self.directory = directory
        self._stopped = threading.Event()

    def check(self) -> None:
        """Called between files of a long copy."""
        if self._stopped.is_set():
            raise Interrupted

    def call(self, function: Callable[[], T]) -> T:
        results: list[T] = []
        errors: list[BaseException] = []

        def body() -> None:
            try:
                syscalls.unshare(syscalls.CLONE_NEWNS)
                syscalls.mount(None, b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=body, name="holdfast-build-root", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.2)  # in slices, so that an exception sent to this thread arrives
        except BaseException:
            self._stopped.set()
            thread.join()
            raise
        if errors:
            raise errors[0]
        return results[0]

    def mount_source(self, lowers: Sequence[str]) -> SourceTree:
        """The merged view of `lowers` (top first), read-only, as a tree to copy from."""
        empty = self._make("source-empty")
        self._mount("source", [*lowers, empty], "", "")
        return SourceTree(os.open(f"{self.directory}/source", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def enter_root(self, lowers: Sequence[str], upper: str, work: str) -> None:
        """Make the merged view of `lowers` with `upper` on top the thread's `/`."""
        self._mount("root", lowers or [self._make("root-empty")], upper, work)
        os.chroot(f"{self.directory}/root")
        os.chdir("/")

    def _make(self, name: str) -> str:
        path = f"{self.directory}/{name}"
        os.makedirs(path, exist_ok=True)
        return path

    def _mount(self, name: str, lowers: Sequence[str], upper: str, work: str) -> None:
        # mount(2) takes one page of options: short links keep any number of layers within it, and odd characters out
        links = self._make(f"{name}-layers")
        for number, lower in enumerate(lowers):
            os.symlink(lower, f"{links}/{number}")
        options = b"lowerdir=" + b":".join(b"%d" % number for number in range(len(lowers))) + b"," + _OPTIONS
        if upper:
            os.symlink(upper, f"{links}/upper")
            os.symlink(work, f"{links}/work")
            options += b",upperdir=upper,workdir=work"
        target = os.fsencode(self._make(name))
        os.chdir(links)
        flags = 0 if upper else syscalls.MS_RDONLY
        # volatile: without it, unmounting syncs the whole file system; the store syncs once, when the image is kept
        for extra in (b",volatile", b"") if upper else (b"",):
            try:
                syscalls.mount(b"overlay", target, b"overlay", flags, options + extra)
                return
            except OSError as error:
                if error.errno != errno.EINVAL or not extra:
                    raise


def drop_unchanged(lowers: Sequence[str], upper: str) -> None:
    """Remove from `upper` the empty directories that overlay copied up and that say nothing new.

    Mounting a file in a directory of the image is enough to have it copied up; without this every RUN had a layer.
    """
    if not lowers:
        return
    for folder, _, _ in os.walk(upper, topdown=False):
        inside = folder[len(upper) :]
        if not inside or os.listdir(folder) or is_opaque(folder):
            continue
        below = path_in_layers(lowers, None, inside)
        if below is None:
            continue
        new, old = os.lstat(folder), os.lstat(below)
        if (new.st_mode, new.st_uid, new.st_gid) == (old.st_mode, old.st_uid, old.st_gid) and not [
            name for name in os.listxattr(folder) if not name.startswith("trusted.overlay.")
        ]:
            os.rmdir(folder)
