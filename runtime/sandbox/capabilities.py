"""Linux capabilities: docker's default set, what is added and dropped, and giving up the rest before exec."""

from __future__ import annotations

from runtime import syscalls
from runtime.errors import InvalidSpec

# In kernel order (linux/capability.h): the index is the number.
ALL = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip

DEFAULT = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE",
    "NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP",
)  # fmt: skip

NUMBER = {name: number for number, name in enumerate(ALL)}


def resolve(add: list[str], drop: list[str], privileged: bool) -> list[str]:
    """The effective set, in kernel order; names with or without CAP_, in any case. Raises InvalidSpec.

    "ALL" in `drop` empties the default before `add`; "ALL" in `add` takes everything but what `drop` names.
    """
    added, dropped = _normal(add), _normal(drop)
    if privileged:
        return list(ALL)
    chosen = set(ALL) if "ALL" in added else set() if "ALL" in dropped else set(DEFAULT)
    if "ALL" in added and "ALL" in dropped:
        chosen = set()
    chosen -= dropped
    chosen |= added - {"ALL"}
    return [name for name in ALL if name in chosen]


def _normal(names: list[str]) -> set[str]:
    found = set()
    for name in names:
        plain = name.upper().removeprefix("CAP_")
        if plain != "ALL" and plain not in NUMBER:
            raise InvalidSpec(f'cannot use capability "{name}": Linux has none of that name')
        found.add(plain)
    return found


def mask(names: list[str]) -> int:
    return sum(1 << NUMBER[name] for name in names)


def shrink_bounding_set(names: list[str]) -> None:
    """What is not in `names` can never come back through an exec. Needs CAP_SETPCAP, hence before `limit`."""
    keep = mask(names)
    for number in range(64):
        if not keep >> number & 1:
            try:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
            except OSError:
                return  # EINVAL: past the last capability that this kernel knows


def limit(names: list[str], ambient: list[str]) -> None:
    """Keep exactly `names`, as far as this process has them; `ambient` survive the exec of a plain user's program.

    Asking for what the process lacks is EPERM: some hosts' root has no CAP_SYS_RESOURCE.
    """
    _, permitted, _ = syscalls.capget()
    keep = mask(names) & permitted
    inherited = mask(ambient) & keep
    syscalls.capset(keep, keep, inherited)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    for name in ambient:
        if inherited >> NUMBER[name] & 1:
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, NUMBER[name])
