"""System calls that Python has no function for: small typed functions, in kernel argument order, that raise OSError.

PyDLL keeps the interpreter's lock during the call: cheaper, and needed around clone3, whose child goes on in Python.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_INTO_CGROUP = 0x200000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC = 32, 4096, 16384
MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 18, 1 << 19, 1 << 20
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 2, 4, 8, 16

PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME = 4, 8, 15
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4

MACHINE = os.uname().machine

# Calls from 424 on have one number everywhere; the older ones differ.
_NUMBERS = {
    "x86_64": {"rt_sigaction": 13, "pivot_root": 155, "keyctl": 250, "seccomp": 317, "bpf": 321},
    "aarch64": {"pivot_root": 41, "rt_sigaction": 134, "keyctl": 219, "seccomp": 277, "bpf": 280},
}.get(MACHINE, {})
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_CLONE3, _CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 435, 436, 437, 442

CLOSE_RANGE_CLOEXEC = 4


def _checked(result: int, subject: str | bytes | None = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        name = os.fsdecode(subject) if isinstance(subject, bytes) else subject
        raise OSError(code, os.strerror(code), name) if name is not None else OSError(code, os.strerror(code))
    return result


def _call(number: int, *arguments: object) -> int:
    """Integers go as longs: ctypes would cut them to 32 bits."""
    return int(_syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))


def reset_libc_signals() -> None:
    """Default action for 32 and 33. libc keeps them to itself, and a program started by posix_spawn (make is one that
    does so) finds them ignored: without this, so would everything started from it. See sigaction(2), signal(7)."""
    nothing = (ctypes.c_ulong * 4)()  # SIG_DFL, no flags, no restorer, empty mask
    for number in (32, 33):
        _call(_number("rt_sigaction"), number, ctypes.byref(nothing), None, 8)


def _number(name: str) -> int:
    try:
        return _NUMBERS[name]
    except KeyError:
        raise OSError(errno.ENOSYS, f"{name}: no number known for {MACHINE}") from None


_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]


def mount(source: bytes | None, target: bytes, fstype: bytes | None, flags: int = 0, data: bytes | None = None) -> None:
    _checked(_libc.mount(source, target, fstype, flags, data), target)


def umount2(target: bytes, flags: int = 0) -> None:
    _checked(_libc.umount2(target, flags), target)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    _checked(_call(_number("pivot_root"), new_root, put_old))


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags))


def setns(fd: int, kinds: int = 0) -> None:
    """`fd`: a namespace file, or a pidfd together with the kinds to join (several at once)."""
    _checked(_libc.setns(fd, kinds))


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    return _checked(_libc.prctl(option, a, b, c, d))


def current_processor() -> int:
    return int(_libc.sched_getcpu())


def sethostname(name: bytes) -> None:
    _checked(_libc.sethostname(name, ctypes.c_size_t(len(name))))


def setdomainname(name: bytes) -> None:
    _checked(_libc.setdomainname(name, ctypes.c_size_t(len(name))))


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    _checked(_call(_CLOSE_RANGE, first, last, flags))


def clone3(flags: int, cgroup: int = -1, exit_signal: int = 17) -> tuple[int, int]:
    """Fork with clone3: (pid, pidfd) in the parent, (0, -1) in the child. For single-threaded processes only.

    With `cgroup` (a directory's descriptor on cgroup v2) the child is born there: moving it in afterwards takes the
    threadgroup lock and waits 12-15 ms for RCU.
    """
    pidfd = ctypes.c_int(-1)
    wanted = flags | CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup >= 0 else 0)
    arguments = (ctypes.c_uint64 * 11)(
        wanted, ctypes.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup, 0)
    )  # fmt: skip
    pid = _checked(_call(_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)))
    if pid == 0:
        return 0, -1
    return pid, pidfd.value


def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _checked(_call(_OPENAT2, directory, path, how, len(how)), path)


def open_tree(directory: int, path: bytes, flags: int) -> int:
    return _checked(_call(_OPEN_TREE, directory, path, flags | os.O_CLOEXEC), path)


def move_mount(source: int, target: int) -> None:
    """Attach the mount `source` (from open_tree or fsmount) on the file or directory open as `target`."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _checked(_call(_MOVE_MOUNT, source, b"", target, b"", flags))


def mount_setattr(
    fd: int, set_bits: int, clear_bits: int = 0, *, recursive: bool = False, propagation: int = 0
) -> None:
    attributes = struct.pack("=QQQQ", set_bits, clear_bits, propagation, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _checked(_call(_MOUNT_SETATTR, fd, b"", flags, attributes, len(attributes)))


def fsopen(fstype: bytes) -> int:
    return _checked(_call(_FSOPEN, fstype, 1), fstype)


def fsconfig(fd: int, command: int, key: bytes | None = None, value: bytes | None = None) -> None:
    _checked(_call(_FSCONFIG, fd, command, key, value, 0))


def fsmount(fd: int, attributes: int = 0) -> int:
    return _checked(_call(_FSMOUNT, fd, 1, attributes))


def capget() -> tuple[int, int, int]:
    """Effective, permitted and inheritable sets of this process."""
    header = struct.pack("=Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    _checked(_libc.capget(header, data))
    words = struct.unpack("=6I", data.raw)
    return words[0] | words[3] << 32, words[1] | words[4] << 32, words[2] | words[5] << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    sets = (effective, permitted, inheritable)
    words = [value >> shift & 0xFFFFFFFF for shift in (0, 32) for value in sets]
    _checked(_libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *words)))


class SeccompFilter:
    """A compiled filter, kept at one address so that loading it is one call."""

    def __init__(self, program: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(self._buffer))

    def load(self) -> None:
        """For this process and all it becomes. Needs no_new_privs or CAP_SYS_ADMIN."""
        _checked(_call(_number("seccomp"), 1, 0, self._fprog))


def new_session_keyring() -> None:
    """The host's session keyring stays behind. Kernels without keys, or out of quota, have nothing to leak."""
    _call(_number("keyctl"), 1, 0, 0, 0, 0)


def bpf(command: int, attributes: bytes) -> int:
    """`attributes` may hold the address of a buffer that the caller keeps alive."""
    return _checked(_call(_number("bpf"), command, attributes, len(attributes)))


_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3


def pidfd_exit_status(pidfd: int) -> int | None:
    """The wait status of any reaped process whose pidfd was opened before (Linux 6.15); None when unknown."""
    info = bytearray(64)
    struct.pack_into("=Q", info, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info, True)
    except OSError:
        return None
    (mask,) = struct.unpack_from("=Q", info)
    return int(struct.unpack_from("=i", info, 60)[0]) if mask & _PIDFD_INFO_EXIT else None
