"""Which device nodes a container may use: docker's list, as version 1 rules and as a version 2 eBPF program.

Containers have CAP_MKNOD, so it is this list that keeps them from the host's disks. Rules: linux
Documentation/admin-guide/cgroup-v1/devices.rst; program type BPF_PROG_TYPE_CGROUP_DEVICE: struct bpf_cgroup_dev_ctx
{ u32 access_type (access << 16 | type); u32 major; u32 minor }.
"""

from __future__ import annotations

import os
import struct

from runtime import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes

RULES = (
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",  # null
    "c 1:5 rwm",  # zero
    "c 1:7 rwm",  # full
    "c 1:8 rwm",  # random
    "c 1:9 rwm",  # urandom
    "c 5:0 rwm",  # tty
    "c 5:1 rwm",  # console
    "c 5:2 rwm",  # ptmx
    "c 136:* rwm",  # pts
)

BPF_PROG_LOAD, BPF_PROG_ATTACH = 5, 8
BPF_PROG_TYPE_CGROUP_DEVICE, BPF_CGROUP_DEVICE = 15, 6
_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}


def _instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, destination | source << 4, offset, immediate)


def program(rules: tuple[str, ...] = RULES) -> bytes:
    """Instructions that return 1 for an access that some rule covers wholly, else 0.

    Registers: r2 type, r3 access, r4 major, r5 minor.
    """
    load, move32, and32, shift32 = 0x61, 0xBC, 0x54, 0x74
    code = [
        _instruction(load, 2, 1, 0),
        _instruction(move32, 3, 2),
        _instruction(and32, 2, immediate=0xFFFF),
        _instruction(shift32, 3, immediate=16),
        _instruction(load, 4, 1, 4),
        _instruction(load, 5, 1, 8),
    ]
    for rule in rules:
        code += _rule(rule)
    code += [_instruction(0xB7, 0, immediate=0), _instruction(0x95)]
    return b"".join(code)


def _rule(rule: str) -> list[bytes]:
    kind, numbers, letters = rule.split()
    major, minor = numbers.split(":")
    refused = 7 & ~sum(_ACCESS[letter] for letter in letters)
    tests: list[tuple[int, int, int]] = [(0x55, 2, _TYPES[kind])]  # JNE
    if refused:
        tests.append((0x45, 3, refused))  # JSET: asks for more than the rule gives
    if major != "*":
        tests.append((0x55, 4, int(major)))
    if minor != "*":
        tests.append((0x55, 5, int(minor)))
    allow = [_instruction(0xB7, 0, immediate=1), _instruction(0x95)]
    total = len(tests) + len(allow)
    return [
        *(
            _instruction(code, register, 0, total - index - 1, value)
            for index, (code, register, value) in enumerate(tests)
        ),
        *allow,
    ]


_loaded = -1


def _load() -> int:
    """One program serves every cgroup; the kernel keeps it as long as one is attached or we hold it."""
    global _loaded  # noqa: PLW0603
    if _loaded < 0:
        import ctypes

        code = program()
        instructions = ctypes.create_string_buffer(code, len(code))
        license_text = ctypes.create_string_buffer(b"Apache-2.0")
        attributes = struct.pack(
            "=IIQQIIQII", BPF_PROG_TYPE_CGROUP_DEVICE, len(code) // 8, _address(instructions), _address(license_text),
            0, 0, 0, 0, 0,
        )  # fmt: skip
        _loaded = syscalls.bpf(BPF_PROG_LOAD, attributes)
        os.set_inheritable(_loaded, False)
    return _loaded


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    import ctypes

    return ctypes.addressof(buffer)


def attach(cgroup: str) -> None:
    """Deny by default in this version 2 cgroup."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.bpf(BPF_PROG_ATTACH, struct.pack("=IIII", directory, _load(), BPF_CGROUP_DEVICE, 0))
    finally:
        os.close(directory)
