"""Compiles a seccomp profile (docker's JSON format) to the classic BPF program that the kernel loads.

Written here, so that any capability set and any profile works where no libseccomp is installed. For each
architecture the numbers of system calls form a binary tree of ranges with one verdict each: about nine comparisons
for a call, and the kernel's own bitmap makes the unconditional ones free. Program format: seccomp(2), struct
seccomp_data { int nr; u32 arch; u64 instruction_pointer; u64 args[6]; }.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOAD, JUMP, JEQ, JGE, JGT, AND, RETURN = 0x20, 0x05, 0x15, 0x35, 0x25, 0x54, 0x06
AT_NUMBER, AT_ARCH, AT_ARGS = 0, 4, 16
KILL_PROCESS = 0x80000000
ALLOW = 0x7FFF0000
MAX_INSTRUCTIONS = 4096
X32_BIT = 0x40000000

AUDIT_ARCH = {"x86_64": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
ARCHITECTURES = {"x86_64": ("x86_64", "x32", "x86"), "aarch64": ("aarch64", "arm")}
"""What a kernel of one machine can run; x32 shares x86_64's audit number and is told by a bit of the call's number."""
GO_NAMES = {"x86_64": "amd64", "x32": "x32", "x86": "x86", "aarch64": "arm64", "arm": "arm"}
SCMP_NAMES = {
    "SCMP_ARCH_X86_64": "x86_64", "SCMP_ARCH_X32": "x32", "SCMP_ARCH_X86": "x86",
    "SCMP_ARCH_AARCH64": "aarch64", "SCMP_ARCH_ARM": "arm",
}  # fmt: skip

Instruction = tuple[int, int, int, int]
Rule = tuple[int, tuple[tuple[int, str, int, int], ...]]
"""An action, and the conditions (argument's index, operator, value, second value) that all must hold."""


class ProfileError(ValueError):
    """The profile says something that cannot be compiled."""


def compile_profile(profile: dict[str, Any], capabilities: frozenset[str], machine: str) -> bytes:
    """`capabilities` without CAP_; `machine` as uname has it. Raises ProfileError."""
    if machine not in ARCHITECTURES:
        raise ProfileError(f"no system call table for {machine}")
    tables = load_tables()
    default = action_value(profile.get("defaultAction", "SCMP_ACT_ERRNO"), profile.get("defaultErrnoRet"))
    wanted = _architectures(profile, machine)
    trees = {name: _tree(_verdicts(profile, capabilities, name, tables[name]), default) for name in wanted}
    code: list[Instruction] = [(LOAD, 0, 0, AT_ARCH)]
    for name in ("x86_64", "x86", "aarch64", "arm"):
        if name in trees:
            body: list[Instruction] = [(LOAD, 0, 0, AT_NUMBER)]
            if name == "x86_64":
                # The number -1 is a tracer's "skip this call" and belongs to no table.
                body += _split(X32_BIT, trees[name], trees.get("x32") or [(RETURN, 0, 0, KILL_PROCESS)])
            else:
                body += trees[name]
            code += _unless_equal(AUDIT_ARCH[name], body)
    code.append((RETURN, 0, 0, KILL_PROCESS))
    if len(code) > MAX_INSTRUCTIONS:
        raise ProfileError(f"{len(code)} instructions, more than the kernel's {MAX_INSTRUCTIONS}")
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def load_tables() -> dict[str, dict[str, int]]:
    """Names to numbers, for each architecture (data of libseccomp 2.5.4, and the common calls since)."""
    import json
    import os

    with open(os.path.join(os.path.dirname(__file__), "profiles", "syscalls.json")) as file:
        tables: dict[str, dict[str, int]] = json.load(file)
    return tables


def action_value(action: str, errno_value: object) -> int:
    kinds = {
        "SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_KILL": 0, "SCMP_ACT_KILL_THREAD": 0,
        "SCMP_ACT_KILL_PROCESS": KILL_PROCESS, "SCMP_ACT_TRAP": 0x00030000,
    }  # fmt: skip
    if action in kinds:
        return kinds[action]
    if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        number = 1 if errno_value is None else int(str(errno_value))
        return (0x00050000 if action == "SCMP_ACT_ERRNO" else 0x7FF00000) | (number & 0xFFFF)
    raise ProfileError(f'no action "{action}" here')


def _architectures(profile: dict[str, Any], machine: str) -> list[str]:
    """The machine's own, and those beside it that the profile names; a profile that names none means all."""
    possible = ARCHITECTURES[machine]
    listed = {SCMP_NAMES.get(name) for name in profile.get("architectures") or ()}
    for entry in profile.get("archMap") or ():
        if SCMP_NAMES.get(entry.get("architecture")) == machine:
            listed |= {SCMP_NAMES.get(name) for name in (entry["architecture"], *(entry.get("subArchitectures") or ()))}
    return [name for name in possible if name == machine or not listed or name in listed]


def _applies(rule: dict[str, Any], capabilities: frozenset[str], architecture: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}

    def held(name: str) -> bool:
        return name.removeprefix("CAP_") in capabilities

    if not all(held(name) for name in includes.get("caps") or ()):
        return False
    if any(held(name) for name in excludes.get("caps") or ()):
        return False
    arches = includes.get("arches") or ()
    if arches and GO_NAMES[architecture] not in arches:
        return False
    return GO_NAMES[architecture] not in (excludes.get("arches") or ())


def _verdicts(
    profile: dict[str, Any], capabilities: frozenset[str], architecture: str, table: dict[str, int]
) -> dict[int, tuple[Rule, ...]]:
    """Number of the call -> its rules in order; the first whose conditions hold decides.

    A rule without conditions ends the list: the first such rule of a profile counts, as with libseccomp.
    """
    conditional: dict[int, list[Rule]] = {}
    always: dict[int, Rule] = {}
    for rule in profile.get("syscalls") or ():
        if not _applies(rule, capabilities, architecture):
            continue
        action = action_value(rule["action"], rule.get("errnoRet"))
        conditions = tuple(_condition(argument) for argument in rule.get("args") or ())
        for name in rule.get("names") or [rule.get("name", "")]:
            number = table.get(name)
            if number is None or number in always:
                continue  # not a call of this architecture, or newer than our table: the default action holds
            if conditions:
                conditional.setdefault(number, []).append((action, conditions))
            else:
                always[number] = (action, ())
    return {
        number: (*conditional.get(number, ()), *((always[number],) if number in always else ()))
        for number in {*conditional, *always}
    }


def _condition(argument: dict[str, Any]) -> tuple[int, str, int, int]:
    operator = str(argument.get("op", "SCMP_CMP_EQ")).removeprefix("SCMP_CMP_")
    index = int(argument["index"])
    if operator not in ("EQ", "NE", "LT", "LE", "GE", "GT", "MASKED_EQ") or not 0 <= index < 6:
        raise ProfileError(f"no comparison {operator} of argument {index}")
    return index, operator, int(argument.get("value", 0)), int(argument.get("valueTwo", 0))


def _tree(verdicts: dict[int, tuple[Rule, ...]], default: int) -> list[Instruction]:
    """Ranges of neighbouring numbers with one verdict, as a binary search; the number is in the accumulator."""
    otherwise: tuple[Rule, ...] = ((default, ()),)
    starts: list[tuple[int, tuple[Rule, ...]]] = [(0, otherwise)]
    expected = 0
    for number in sorted(verdicts):
        rules = verdicts[number]
        if number != expected and starts[-1][1] != otherwise:
            starts.append((expected, otherwise))
        if rules != starts[-1][1]:
            if starts[-1][0] == number:
                starts.pop()
            starts.append((number, rules))
        expected = number + 1
    if starts[-1][1] != otherwise:
        starts.append((expected, otherwise))
    return _search(starts, default)


def _search(starts: list[tuple[int, tuple[Rule, ...]]], default: int) -> list[Instruction]:
    if len(starts) == 1:
        return _leaf(starts[0][1], default)
    middle = len(starts) // 2
    return _split(starts[middle][0], _search(starts[:middle], default), _search(starts[middle:], default))


def _split(boundary: int, below: list[Instruction], above: list[Instruction]) -> list[Instruction]:
    """`below` when the accumulator is less than `boundary`. Conditional jumps reach 255 instructions only."""
    if len(below) <= 255:
        return [(JGE, len(below), 0, boundary), *below, *above]
    return [(JGE, 0, 1, boundary), (JUMP, 0, 0, len(below)), *below, *above]


def _unless_equal(value: int, body: list[Instruction]) -> list[Instruction]:
    """Skip `body` when the accumulator differs from `value`."""
    if len(body) <= 255:
        return [(JEQ, 0, len(body), value), *body]
    return [(JEQ, 1, 0, value), (JUMP, 0, 0, len(body)), *body]


def _leaf(rules: tuple[Rule, ...], default: int) -> list[Instruction]:
    code: list[Instruction] = []
    for action, conditions in rules:
        if not conditions:
            return [*code, (RETURN, 0, 0, action)]
        code += _conjunction(conditions, (RETURN, 0, 0, action))
    return [*code, (RETURN, 0, 0, default)]


def _conjunction(conditions: tuple[tuple[int, str, int, int], ...], verdict: Instruction) -> list[Instruction]:
    """The verdict when all hold, else fall through to what follows. Built from its end, so that jumps are known."""
    code = [verdict]
    for condition in reversed(conditions):
        code = _comparison(condition, len(code)) + code
    return code


def _comparison(condition: tuple[int, str, int, int], rest: int) -> list[Instruction]:
    """Fall through when it holds; jump over `rest` instructions when not. 64-bit arguments are two loads."""
    index, operator, value, second = condition
    low, high = AT_ARGS + 8 * index, AT_ARGS + 8 * index + 4  # little-endian machines only
    if operator == "MASKED_EQ":
        mask, want = value, second
        return [
            (LOAD, 0, 0, high), (AND, 0, 0, mask >> 32), (JEQ, 0, rest + 3, want >> 32 & 0xFFFFFFFF),
            (LOAD, 0, 0, low), (AND, 0, 0, mask & 0xFFFFFFFF), (JEQ, 0, rest, want & 0xFFFFFFFF),
        ]  # fmt: skip
    upper, lower = value >> 32 & 0xFFFFFFFF, value & 0xFFFFFFFF
    if operator == "EQ":
        return [(LOAD, 0, 0, high), (JEQ, 0, rest + 2, upper), (LOAD, 0, 0, low), (JEQ, 0, rest, lower)]
    if operator == "NE":
        return [(LOAD, 0, 0, high), (JEQ, 0, 2, upper), (LOAD, 0, 0, low), (JEQ, rest, 0, lower)]
    if operator in ("GE", "GT"):
        compare = JGE if operator == "GE" else JGT
        return [
            (LOAD, 0, 0, high), (JGT, 3, 0, upper), (JEQ, 0, rest + 2, upper),
            (LOAD, 0, 0, low), (compare, 0, rest, lower),
        ]  # fmt: skip
    compare = JGE if operator == "LT" else JGT
    return [
        (LOAD, 0, 0, high), (JGT, rest + 3, 0, upper), (JEQ, 0, 2, upper),
        (LOAD, 0, 0, low), (compare, rest, 0, lower),
    ]  # fmt: skip
