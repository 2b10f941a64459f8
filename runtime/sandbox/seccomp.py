"""Finds or makes the compiled seccomp filter for a container: the shipped default, or a profile of the user's.

The default profile is docker's in effect: new namespaces, mounts, modules, keys, tracing of other users and the
like answer EPERM unless the matching capability is held; calls that the profile does not know answer ENOSYS, so
that programs fall back. It is compiled ahead for docker's default capabilities; other sets are compiled once.
"""

from __future__ import annotations

import os

from runtime.errors import InvalidSpec, Unsupported
from runtime.sandbox import bpf
from runtime.sandbox.capabilities import DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.layout import Layout

PROFILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "profiles")
# Capabilities that the default profile looks at: sets that agree in these share one filter.
RELEVANT = frozenset(
    (
        "BPF", "DAC_READ_SEARCH", "PERFMON", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE",
        "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_TIME", "SYS_TTY_CONFIG",
    )
)  # fmt: skip


def default_profile() -> dict[str, Any]:
    return _load(f"{PROFILES}/default.json")


def compile(profile: dict[str, Any], caps: frozenset[str], arch: str) -> bytes:
    """Raises InvalidSpec for a profile that cannot be compiled, Unsupported for a machine without tables."""
    if arch not in bpf.ARCHITECTURES:
        raise Unsupported(f"cannot compile a seccomp profile for {arch}: its system calls are not known here")
    try:
        return bpf.compile_profile(profile, caps, arch)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSpec(f"cannot compile seccomp profile: {error}") from None


def shipped_path(arch: str) -> str:
    return f"{PROFILES}/default-{arch}.bpf"


def bpf_for(layout: Layout, caps: frozenset[str], profile_path: str | None) -> str:
    """Path of the filter for these capabilities; `profile_path` None is the default, "unconfined" is no filter: ""."""
    if profile_path == "unconfined":
        return ""
    arch = os.uname().machine
    if profile_path is None:
        if caps & RELEVANT == frozenset(DEFAULT) & RELEVANT and os.path.exists(shipped_path(arch)):
            return shipped_path(arch)
        profile_path, caps = f"{PROFILES}/default.json", caps & RELEVANT
    return _compiled(layout, caps, profile_path, arch)


def _compiled(layout: Layout, caps: frozenset[str], profile_path: str, arch: str) -> str:
    import hashlib

    try:
        with open(profile_path, "rb") as file:
            content = file.read()
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise InvalidSpec(f'cannot use seccomp profile "{profile_path}": {cause}') from None
    with open(bpf.__file__, "rb") as file:
        compiler = file.read()
    key = hashlib.sha256(b"\0".join((content, compiler, arch.encode(), " ".join(sorted(caps)).encode()))).hexdigest()
    path = f"{layout.seccomp}/{key[:32]}.bpf"
    if os.path.exists(path):
        return path
    program = compile(_load(profile_path), caps, arch)
    os.makedirs(layout.seccomp, mode=0o711, exist_ok=True)
    # Threads of one process compile the same filter at once: the process's id alone names no writer.
    temporary = f"{path}.{os.getpid()}.{os.urandom(3).hex()}"
    with open(temporary, "wb") as file:
        file.write(program)
    os.rename(temporary, path)
    return path


def _load(path: str) -> dict[str, Any]:
    import json

    try:
        with open(path) as file:
            value = json.load(file)
    except ValueError as error:
        raise InvalidSpec(f'cannot use seccomp profile "{path}": {error}') from None
    if not isinstance(value, dict):
        raise InvalidSpec(f'cannot use seccomp profile "{path}": not an object')
    return value


def write_shipped() -> None:
    """Compile the default ahead for every machine; run after a change of the profile or the compiler."""
    for arch in bpf.ARCHITECTURES:
        with open(shipped_path(arch), "wb") as file:
            file.write(compile(default_profile(), frozenset(DEFAULT), arch))


if __name__ == "__main__":
    write_shipped()
