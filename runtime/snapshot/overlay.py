"""Overlay directories without a mount: make and remove them, and read the merged view of layers from outside.

In the kernel's form a whiteout is a character device 0:0 and an opaque directory carries `trusted.overlay.opaque`
(Documentation/filesystems/overlayfs.rst). Layers are always given top first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

from runtime.errors import InvalidSpec
from runtime.value import value

OPAQUE = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40
_CHUNK = 1 << 20


@value
class Writable:
    """The three directories of one writable layer."""

    upper: str
    work: str
    merged: str


def prepare(directory: str, merged: str = "") -> Writable:
    """Make upper, work and merged below `directory`, which is 0700: no host user may reach its set-uid programs.

    `merged` lies elsewhere when the caller names a place for it.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    writable = Writable(f"{directory}/upper", f"{directory}/work", merged or f"{directory}/merged")
    for path in (writable.upper, writable.work, writable.merged):
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            continue
        os.chmod(path, 0o755)  # noqa: S103 - the upper's mode is the mode of `/` in the container, whatever the umask
    clear_volatile(writable.work)
    return writable


def clear_volatile(work: str) -> None:
    """Forget that `work` was last mounted `volatile`: the kernel refuses to mount it again until this is said."""
    marker = f"{work}/work/incompat"
    if os.path.lexists(marker):
        _erase(marker)


# ---- removing ---------------------------------------------------------------------------------------------------


def remove_tree(path: str, trash: str = "") -> None:
    """Remove `path` and all below it; the absent is removed already.

    With `trash` (a directory on the same file system) the tree first vanishes from its place by one rename, so that
    nobody sees it half removed; what a crash leaves there is for `empty_trash`.
    """
    if trash:
        target = f"{trash}/{os.urandom(8).hex()}"
        try:
            os.rename(path, target)
        except FileNotFoundError:
            if not os.path.lexists(path):
                return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSPC, errno.EDQUOT):
                raise
        else:
            path = target
    _erase(path)


def empty_trash(trash: str) -> int:
    """Remove everything in `trash`; returns how many trees there were."""
    try:
        names = os.listdir(trash)
    except FileNotFoundError:
        return 0
    for name in names:
        _erase(f"{trash}/{name}")
    return len(names)


def _erase(path: str) -> None:
    import shutil

    def go_on(_call: object, _name: str, failure: tuple[type[BaseException], BaseException, object]) -> None:
        error = failure[1]
        # another process may be emptying the same trash
        if not isinstance(error, FileNotFoundError):
            raise error

    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, onerror=go_on)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass


def tree_size(path: str) -> int:
    """Bytes of disk used below `path`, hard links counted once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    pending = [path]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            try:
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                if (info.st_dev, info.st_ino) in seen:
                    continue
                seen.add((info.st_dev, info.st_ino))
            total += info.st_blocks * 512
            if stat.S_ISDIR(info.st_mode):
                pending.append(entry.path)
    return total


# ---- looking into the merged view -------------------------------------------------------------------------------


def is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_opaque(path: str | int) -> bool:
    try:
        return os.getxattr(path, OPAQUE) == b"y"
    except OSError:
        return False


def _look(folders: Sequence[str], name: str) -> tuple[os.stat_result, list[str]] | None:
    """The entry `name` of a merged directory: its attributes and its places, several (top first) for a directory."""
    found: os.stat_result | None = None
    places: list[str] = []
    for folder in folders:
        path = f"{folder}/{name}"
        try:
            info = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if is_whiteout(info):
            break
        if found is None:
            found = info
            places.append(path)
            if not stat.S_ISDIR(info.st_mode):
                break
        elif stat.S_ISDIR(info.st_mode):
            places.append(path)
        else:
            break
        if is_opaque(path):
            break
    return None if found is None else (found, places)


def _resolve(layers: Sequence[str], path: str) -> tuple[os.stat_result, list[str]] | None:
    """Follow `path` as a process in the container would: symlinks and `..` never leave the merged root."""
    root = (os.lstat(layers[0]), list(layers))
    trail = [root]
    pending = path.split("/")[::-1]
    links = 0
    while pending:
        name = pending.pop()
        if not stat.S_ISDIR(trail[-1][0].st_mode):
            # also for "" and ".": a trailing slash asks for a directory
            return None
        if name in ("", "."):
            continue
        if name == "..":
            if len(trail) > 1:
                trail.pop()
            continue
        entry = _look(trail[-1][1], name)
        if entry is None:
            return None
        if stat.S_ISLNK(entry[0].st_mode):
            links += 1
            if links > _MAX_LINKS:
                return None
            target = os.readlink(entry[1][0])
            if target.startswith("/"):
                trail = [root]
            pending.extend(target.split("/")[::-1])
        else:
            trail.append(entry)
    return trail[-1]


def _stack(lowers: Sequence[str], upper: str | None) -> list[str]:
    return [upper, *lowers] if upper else list(lowers)


def path_in_layers(lowers: Sequence[str], upper: str | None, path: str) -> str | None:
    """The real path of what `path` names in the merged view (for a directory its topmost place), or None.

    The answer holds as long as nobody changes the layers: for a container that runs, use `read_in_layers`.
    """
    layers = _stack(lowers, upper)
    entry = _resolve(layers, path) if layers else None
    return None if entry is None else entry[1][0]


def read_in_layers(lowers: Sequence[str], upper: str | None, path: str, limit: int = 1 << 20) -> bytes | None:
    """Content of a regular file of the merged view, or None; InvalidSpec when it is longer than `limit`.

    Safe against a container that swaps directories for symlinks meanwhile: the path found is opened again component
    by component without following any link.
    """
    layers = _stack(lowers, upper)
    entry = _resolve(layers, path) if layers else None
    if entry is None or not stat.S_ISREG(entry[0].st_mode):
        return None
    real = entry[1][0]
    layer = next(layer for layer in layers if real.startswith(f"{layer}/"))
    try:
        fd = _open_beneath(layer, real[len(layer) + 1 :])
    except OSError:
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidSpec(f'cannot read file "{path}" of an image: it is longer than {limit} bytes')
    return data


def _open_beneath(layer: str, relative: str) -> int:
    folder = os.open(layer, _DIRECTORY)
    *parents, name = relative.split("/")
    try:
        for parent in parents:
            deeper = os.open(parent, _DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = deeper
        # O_NONBLOCK: a FIFO put in the file's place must not hold us
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)


def list_in_layers(lowers: Sequence[str], upper: str | None, path: str) -> list[str]:
    """Names in a directory of the merged view, sorted; empty when there is no such directory."""
    layers = _stack(lowers, upper)
    entry = _resolve(layers, path) if layers else None
    if entry is None or not stat.S_ISDIR(entry[0].st_mode):
        return []
    return sorted(name for name, _, _ in _entries(entry[1]))


def _entries(folders: Sequence[str]) -> Iterator[tuple[str, os.stat_result, list[str]]]:
    names: dict[str, None] = {}
    for folder in folders:
        for name in os.listdir(folder):
            names[name] = None
    for name in names:
        entry = _look(folders, name)
        if entry is not None:
            yield name, *entry


# ---- copying ----------------------------------------------------------------------------------------------------


def copy_tree(source: str, target: str) -> None:
    """Copy a directory with everything in it and about it: owners, modes, times, xattrs, hard links, devices.

    `target` may exist; its own attributes become those of `source`. Overlay whiteouts are copied as they are.
    """
    _copy_directory([source], os.lstat(source), target, {}, merged=False)


def copy_from_layers(lowers: Sequence[str], upper: str | None, path: str, target: str) -> bool:
    """Copy a directory of the merged view into `target` (made when absent); False when there is no such directory."""
    layers = _stack(lowers, upper)
    entry = _resolve(layers, path) if layers else None
    if entry is None or not stat.S_ISDIR(entry[0].st_mode):
        return False
    _copy_directory(entry[1], entry[0], target, {}, merged=True)
    return True


def _copy_directory(
    folders: Sequence[str], info: os.stat_result, target: str, links: dict[tuple[int, int], str], merged: bool
) -> None:
    try:
        os.mkdir(target, 0o700)
    except FileExistsError:
        pass
    for name, child, places in _entries(folders) if merged else _plain_entries(folders[0]):
        path = f"{target}/{name}"
        if stat.S_ISDIR(child.st_mode):
            _copy_directory(places, child, path, links, merged)
            continue
        key = (child.st_dev, child.st_ino)
        if child.st_nlink > 1 and key in links:
            os.link(links[key], path, follow_symlinks=False)
            continue
        _copy_leaf(places[0], child, path)
        if child.st_nlink > 1:
            links[key] = path
        _copy_attributes(places[0], child, path, merged)
    _copy_attributes(folders[0], info, target, merged)


def _plain_entries(folder: str) -> Iterator[tuple[str, os.stat_result, list[str]]]:
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        yield name, os.lstat(path), [path]


def _copy_leaf(source: str, info: os.stat_result, target: str) -> None:
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(info.st_mode):
        _copy_content(source, target, info.st_size)
    elif stat.S_ISSOCK(info.st_mode):
        os.mknod(target, stat.S_IFSOCK | 0o600)
    else:
        os.mknod(target, info.st_mode, info.st_rdev)


def _copy_content(source: str, target: str, size: int) -> None:
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            in_kernel = True
            while True:
                try:
                    if in_kernel:
                        if not os.copy_file_range(reader, writer, max(size, _CHUNK)):
                            break
                        continue
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                        raise
                    in_kernel = False
                data = os.read(reader, _CHUNK)
                if not data:
                    break
                view = memoryview(data)
                while view:
                    view = view[os.write(writer, view) :]
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_attributes(source: str, info: os.stat_result, target: str, merged: bool) -> None:
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
    try:
        names = os.listxattr(source, follow_symlinks=False)
    except OSError:
        names = []
    for name in names:
        if merged and name.startswith("trusted.overlay."):
            continue
        try:
            os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
        except OSError as error:
            # the target's file system may know fewer attribute namespaces (tmpfs has no user.*)
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(target, stat.S_IMODE(info.st_mode))  # after chown, which drops set-uid
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)
