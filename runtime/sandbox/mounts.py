"""The file system that a container sees, put together in its own mount namespace and made its root.

Nothing is mounted on the host: the kernel takes everything down with the container's last process, also after a
kill -9 of us. Targets are resolved with openat2 beneath the new root, so that a symbolic link in an image cannot
lead a mount out of it (CVE-2019-16884, CVE-2021-30465).
"""

from __future__ import annotations

import errno
import os
import stat

from runtime import syscalls
from runtime.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_REMOUNT, MS_STRICTATIME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GUARDED = MS_NOSUID | MS_NODEV | MS_NOEXEC
PAGE = 4096
MAX_LINKS = 200

DEVICES = (
    ("null", os.makedev(1, 3)),
    ("zero", os.makedev(1, 5)),
    ("full", os.makedev(1, 7)),
    ("random", os.makedev(1, 8)),
    ("urandom", os.makedev(1, 9)),
    ("tty", os.makedev(5, 0)),
)
LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
FLAG_OF_OPTION = {
    "ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC, "noatime": 1024, "sync": 16,
}  # fmt: skip
CLEARED_BY_OPTION = {"rw": MS_RDONLY, "suid": MS_NOSUID, "dev": MS_NODEV, "exec": MS_NOEXEC}
PROPAGATION = {"private": syscalls.MS_PRIVATE, "slave": syscalls.MS_SLAVE, "shared": syscalls.MS_SHARED}


class MountRefused(Exception):
    """A mount that cannot be; the text names the target and says why."""


class Root:
    """The directory that becomes the container's root; opens and makes paths strictly beneath it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, path: str, *, directory: bool = True, links: bool = True, depth: int = 0) -> int:
        """An O_PATH descriptor of `path`, made with its parents when absent. Links of an image may be forbidden.

        A link into nothing (/etc/resolv.conf of many images) is followed, inside the root, and its target made.
        """
        inside = os.path.normpath("/" + path)
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        if not links:
            resolve |= syscalls.RESOLVE_NO_SYMLINKS
        try:
            return self._open(inside, resolve)
        except FileNotFoundError:
            pass
        parent = self.open(os.path.dirname(inside), links=links, depth=depth + 1)
        try:
            name = os.path.basename(inside)
            if directory:
                os.mkdir(name, 0o755, dir_fd=parent)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o644, dir_fd=parent))
        except FileExistsError:
            if not links or depth > MAX_LINKS:
                raise OSError(errno.ELOOP, "a symbolic link that leads nowhere", inside) from None
            target = os.path.join(self.inside(parent), os.readlink(name, dir_fd=parent))
            return self.open(target, directory=directory, depth=depth + 1)
        finally:
            os.close(parent)
        return self._open(inside, resolve)

    def _open(self, inside: str, resolve: int) -> int:
        return syscalls.openat2(self.fd, os.fsencode(inside), os.O_PATH, resolve)

    def inside(self, fd: int) -> str:
        """The path of `fd` as the container sees it."""
        return os.readlink(f"/proc/self/fd/{fd}").removeprefix(self.path) or "/"


def by_fd(fd: int) -> bytes:
    """A path that means exactly what `fd` has open, whatever lies at its former path now."""
    return b"/proc/self/fd/%d" % fd


class Source:
    """A bind mount's source, cloned while the host's paths and propagation are still there."""

    def __init__(self, mount: dict[str, Any]) -> None:
        self.mount = mount
        flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if mount.get("recursive") else 0)
        subpath = mount.get("subpath")
        try:
            if subpath:
                self.tree = _clone_beneath(mount["source"], subpath, flags)
            else:
                self.tree = syscalls.open_tree(syscalls.AT_FDCWD, os.fsencode(mount["source"]), flags)
        except OSError as error:
            what = f"{mount['source']}, subpath {subpath}" if subpath else mount["source"]
            raise refused(mount["target"], f"source {what}", error) from None

    def attach(self, root: Root) -> None:
        mount = self.mount
        recursive = bool(mount.get("recursive"))
        try:
            directory = stat.S_ISDIR(os.fstat(self.tree).st_mode)
            target = root.open(mount["target"], directory=directory)
            try:
                check_target(root, target)
                name = (mount.get("propagation") or "rprivate").removeprefix("r")
                syscalls.mount_setattr(self.tree, 0, recursive=recursive, propagation=PROPAGATION[name])
                if mount.get("read_only"):
                    syscalls.mount_setattr(self.tree, syscalls.MOUNT_ATTR_RDONLY, recursive=recursive)
                syscalls.move_mount(self.tree, target)
            finally:
                os.close(target)
        except OSError as error:
            raise refused(mount["target"], "", error) from None
        finally:
            os.close(self.tree)


def _clone_beneath(base: str, subpath: str, flags: int) -> int:
    """Resolved by the kernel in one go: another container with the same volume may put a link in the way at any time

    (CVE-2017-1002101), so a path that was checked before is worth nothing.
    """
    directory = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
        found = syscalls.openat2(directory, os.fsencode(subpath.strip("/")), os.O_PATH, resolve)
    finally:
        os.close(directory)
    try:
        return syscalls.open_tree(found, b"", flags | syscalls.AT_EMPTY_PATH)
    finally:
        os.close(found)


def refused(target: str, what: str, error: OSError) -> MountRefused:
    cause = (error.strerror or str(error)).lower()
    return MountRefused(f"mount {target}: {what + ': ' if what else ''}{cause}")


def check_target(root: Root, fd: int) -> None:
    """Nothing may cover /proc: programs and libraries of the container trust it (CVE-2019-19921)."""
    inside = root.inside(fd)
    if inside == "/proc" or inside.startswith("/proc/"):
        raise OSError(errno.EPERM, "nothing may be mounted on /proc", inside)
    if inside == "/":
        raise OSError(errno.EBUSY, "nothing may be mounted on the root", inside)


def mount_overlay(request: dict[str, Any]) -> str:
    """Mount the layers at `merged` and return that path. `volatile`: no sync of the upper layer at the end."""
    merged: str = request["merged"]
    lowers, upper, work = request["lowers"], request["upper"], request["work"]
    if not lowers:
        _bind(upper, merged)
        return merged
    volatile = bool(request.get("volatile"))
    if volatile:
        _forget_volatile_mark(work)
    options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work}" + (",volatile" if volatile else "")
    plain = not any(character in path for character in ":,\\" for path in (*lowers, upper, work))
    if plain and len(os.fsencode(options)) < PAGE:
        syscalls.mount(b"overlay", os.fsencode(merged), b"overlay", 0, os.fsencode(options))
    else:
        _mount_overlay_by_parts(merged, lowers, upper, work, volatile)
    if os.statvfs(merged).f_flag & os.ST_RDONLY:
        # The kernel falls back silently when it cannot use the work directory.
        raise MountRefused("mount /: the overlay came up read-only: its work directory is in use or cannot be written")
    return merged


def _mount_overlay_by_parts(merged: str, lowers: list[str], upper: str, work: str, volatile: bool) -> None:
    """The new mount interface has no page limit for the whole and needs no escapes; mount(2) costs half as much."""
    context = syscalls.fsopen(b"overlay")
    try:
        for lower in lowers:
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, b"lowerdir+", os.fsencode(lower))
        for key, path in ((b"upperdir", upper), (b"workdir", work)):
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, os.fsencode(path))
        if volatile:
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_FLAG, b"volatile")
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        tree = syscalls.fsmount(context)
    except OSError as error:
        raise MountRefused(f"mount /: {len(lowers)} layers: {(error.strerror or '').lower()}") from None
    finally:
        os.close(context)
    target = os.open(merged, os.O_PATH | os.O_CLOEXEC)
    syscalls.move_mount(tree, target)
    os.close(target)
    os.close(tree)


def _forget_volatile_mark(work: str) -> None:
    """A volatile layer refuses a second mount until this mark is gone; after an unclean boot the engine makes anew."""
    mark = f"{work}/work/incompat/volatile"
    try:
        os.unlink(f"{mark}/dirty")
    except FileNotFoundError:
        pass
    for path in (mark, os.path.dirname(mark)):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue


def _bind(source: str, target: str) -> None:
    syscalls.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND | MS_REC)


def open_sources(request: dict[str, Any]) -> dict[int, Source]:
    """By the mount's number; in the host's mount namespace. Raises MountRefused."""
    return {index: Source(mount) for index, mount in enumerate(request["mounts"]) if mount["kind"] == "bind"}


def leave_host(*, slave: bool = False) -> None:
    """Into a mount namespace of its own. What is mounted there must not appear on the host; slaves still see what the

    host mounts later, where somebody asked for it.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, b"/", None, MS_REC | (syscalls.MS_SLAVE if slave else syscalls.MS_PRIVATE))


def wants_slave(request: dict[str, Any]) -> bool:
    return any("slave" in (mount.get("propagation") or "") for mount in request["mounts"])


def closed_early(request: dict[str, Any], key: str) -> list[str]:
    """Those paths under "masked" or "readonly_paths" that are closed while proc and sys are staged.

    None where something is to be mounted below /sys: what hides must lie above it.
    """
    if any(os.path.normpath("/" + mount["target"]).startswith("/sys") for mount in request["mounts"]):
        return []
    return [path for path in request[key] if path.startswith(("/proc/", "/sys/")) and os.path.normpath(path) == path]


def stage(
    directory: str, shape: dict[str, Any], cgroup_mounts: list[tuple[str, bytes, bytes]], *, detached: bool
) -> dict[str, int]:
    """Make proc, dev and sys as the container sees them, in `directory`; descriptors of the three, by their target.

    `detached`: as copies that belong to no mount namespace, to be mounted in another.
    """
    os.umask(0)
    syscalls.mount(b"tmpfs", os.fsencode(directory), b"tmpfs", MS_NOSUID, b"mode=700,size=64k")
    os.chdir(directory)
    for name in ("proc", "dev", "sys"):
        os.mkdir(name, 0o755)
    read_only = 0 if shape["privileged"] else MS_RDONLY
    syscalls.mount(b"proc", b"proc", b"proc", GUARDED)
    syscalls.mount(b"sysfs", b"sys", b"sysfs", GUARDED | read_only)
    _mount_cgroups(cgroup_mounts, read_only)
    syscalls.mount(b"tmpfs", b"dev", b"tmpfs", MS_NOSUID | MS_STRICTATIME, b"mode=755,size=65536k")
    os.chdir("dev")
    _fill_dev(shape)
    os.chdir(directory)
    _close_paths(shape["masked"], shape["readonly_paths"], directory)
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE if detached else 0
    trees = {"/" + name: syscalls.open_tree(syscalls.AT_FDCWD, name.encode(), flags) for name in ("proc", "dev", "sys")}
    os.chdir("/")
    return trees


def _mount_cgroups(mounts: list[tuple[str, bytes, bytes]], read_only: int) -> None:
    base = b"sys/fs/cgroup"
    if not (mounts and mounts[0][0]):
        for _, fstype, _ in mounts:
            syscalls.mount(fstype, base, fstype, GUARDED | read_only)
        return
    # Version 1: a tmpfs with one directory a hierarchy.
    syscalls.mount(b"tmpfs", base, b"tmpfs", GUARDED, b"mode=755,size=64k")
    for directory, fstype, options in mounts:
        point = b"%s/%s" % (base, os.fsencode(directory))
        os.mkdir(point, 0o755)
        syscalls.mount(fstype, point, fstype, GUARDED | read_only, options)
    if read_only:
        syscalls.mount(None, base, None, MS_BIND | MS_REMOUNT | MS_RDONLY | GUARDED)


def enter_root(request: dict[str, Any], trees: dict[str, int], sources: dict[int, Source]) -> None:
    """Build the root and pivot into it; afterwards no path of the host can be named. Raises MountRefused, OSError."""
    if request.get("rootfs"):
        path = request["rootfs"]
        _bind(path, path)
    else:
        path = mount_overlay(request)
    if wants_slave(request):
        syscalls.mount(None, os.fsencode(path), None, syscalls.MS_PRIVATE)
    root = Root(path)
    for target, tree in trees.items():
        _attach_tree(root, target, tree)
    for index, mount in enumerate(request["mounts"]):
        if index in sources:
            sources[index].attach(root)
        else:
            _mount_new(root, mount)
    os.fchdir(root.fd)
    os.close(root.fd)
    # The old root is put over the new one and taken off again: no directory for it is needed inside (pivot_root(2)).
    syscalls.pivot_root(b".", b".")
    syscalls.umount2(b".", syscalls.MNT_DETACH)
    os.chdir("/")


def _attach_tree(root: Root, path: str, tree: int) -> None:
    """proc, dev, sys: on real directories of the root only, never through a link of the image."""
    try:
        target = root.open(path, links=False)
        try:
            syscalls.move_mount(tree, target)
        finally:
            os.close(target)
    except OSError as error:
        cause = "a symbolic link of the image" if error.errno == errno.ELOOP else (error.strerror or "").lower()
        raise MountRefused(f"mount {path}: {cause}") from None
    finally:
        os.close(tree)


def close_paths(request: dict[str, Any], shape: dict[str, Any]) -> None:
    """Hide and freeze what is not closed already; last, since set-up itself writes there. Runs inside the root."""
    _close_paths(
        [path for path in request["masked"] if path not in shape["masked"]],
        [path for path in request["readonly_paths"] if path not in shape["readonly_paths"]],
        "",
    )
    if request["read_only"]:
        syscalls.mount(None, b"/", None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def _close_paths(masked: list[str], read_only: list[str], root: str) -> None:
    for path in masked:
        _mask(path, root)
    for path in read_only:
        target = os.fsencode(root + path)
        if not os.path.exists(target):
            continue
        syscalls.mount(target, target, None, MS_BIND | MS_REC)
        syscalls.mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | GUARDED)


def _mask(path: str, root: str) -> None:
    """Look first: a bind mount that fails (a file over a directory) waits 9-43 ms for RCU."""
    target = os.fsencode(root + path)
    try:
        mode = os.stat(target).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        syscalls.mount(b"tmpfs", target, b"tmpfs", MS_RDONLY | GUARDED, b"size=0k,nr_inodes=2")
    else:
        syscalls.mount(os.fsencode(f"{root}/dev/null"), target, None, MS_BIND)


def _fill_dev(shape: dict[str, Any]) -> None:
    """The present directory is the new /dev. Nodes are made, not bound: half the cost, nothing of the host's."""
    for name, number in DEVICES:
        os.mknod(name, 0o20666, number)
    for name, target in LINKS:
        os.symlink(target, name)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(name, 0o755)
    options = b"newinstance,ptmxmode=0666,mode=0620,gid=5"
    syscalls.mount(b"devpts", b"pts", b"devpts", MS_NOSUID | MS_NOEXEC, options)
    size = int(shape["shm_size"] or 64 << 20)
    syscalls.mount(b"shm", b"shm", b"tmpfs", GUARDED, b"mode=1777,size=%d" % size)
    try:
        syscalls.mount(b"mqueue", b"mqueue", b"mqueue", GUARDED)
    except OSError as error:
        if error.errno != errno.ENODEV:  # a kernel without POSIX message queues
            raise
    if shape["privileged"]:
        _copy_host_devices()


def _copy_host_devices() -> None:
    with os.scandir("/dev") as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                try:
                    os.mknod(entry.name, status.st_mode, status.st_rdev)
                except FileExistsError:
                    continue


def split_options(text: str, flags: int) -> tuple[int, bytes]:
    """mount(8)'s comma list as the kernel wants it: flags and the file system's own words."""
    data = []
    for option in filter(None, text.split(",")):
        if option in FLAG_OF_OPTION:
            flags |= FLAG_OF_OPTION[option]
        elif option in CLEARED_BY_OPTION:
            flags &= ~CLEARED_BY_OPTION[option]
        else:
            data.append(option)
    return flags, ",".join(data).encode()


def _mount_new(root: Root, mount: dict[str, Any]) -> None:
    """A tmpfs, or any other file system by its type (a volume's driver options)."""
    kind = mount["kind"]
    flags, data = split_options(mount.get("options") or "", GUARDED if kind == "tmpfs" else 0)
    if mount.get("read_only"):
        flags |= MS_RDONLY
    try:
        target = root.open(mount["target"])
        try:
            check_target(root, target)
            source = os.fsencode(mount.get("source") or kind)
            syscalls.mount(source, by_fd(target), kind.encode(), flags, data or None)
        finally:
            os.close(target)
    except OSError as error:
        raise refused(mount["target"], "", error) from None
