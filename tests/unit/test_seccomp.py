"""Our filters decide as libseccomp's, and the shipped ones are those of the shipped profile."""

from __future__ import annotations

import json
import os
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import InvalidSpec
from runtime.layout import Layout
from runtime.sandbox import bpf, seccomp
from runtime.sandbox.capabilities import ALL, DEFAULT

REFERENCE = Path("/usr/share/containers/seccomp.json")
ALLOWED, EPERM, ENOSYS = bpf.ALLOW, 0x00050001, 0x00050026


def decide(program: bytes, arch: int, number: int, arguments: list[int]) -> int:
    """A classic BPF machine, enough for seccomp."""
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *arguments)
    at = accumulator = 0
    while True:
        code, true, false, value = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            accumulator = int(struct.unpack_from("=I", data, value)[0])
        elif code == 0x54:
            accumulator &= value
        elif code == 0x05:
            at += value
        elif code in (0x15, 0x25, 0x35):
            taken = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value}[code]
            at += true if taken else false
        elif code == 0x06:
            return int(value)
        else:
            raise AssertionError(hex(code))


def call(program: bytes, name: str, *arguments: int, architecture: str = "x86_64") -> int:
    number = bpf.load_tables()[architecture][name]
    filled = [*arguments, *([0] * (6 - len(arguments)))]
    audit = bpf.AUDIT_ARCH["x86_64" if architecture == "x32" else architecture]
    return decide(program, audit, number, filled)


def default(*extra: str) -> bytes:
    return seccomp.compile(seccomp.default_profile(), frozenset({*DEFAULT, *extra}), "x86_64")


def libseccomp_program(profile: dict[str, Any], capabilities: frozenset[str]) -> bytes:
    """The same profile through the library that docker and podman use."""
    pyseccomp = pytest.importorskip("pyseccomp")
    fallback = pyseccomp.ERRNO(profile.get("defaultErrnoRet", 1))
    made = pyseccomp.SyscallFilter(fallback)
    for arch in ("X86", "X32"):
        made.add_arch(getattr(pyseccomp.Arch, arch))
    for rule in profile["syscalls"]:
        if not bpf._applies(rule, capabilities, "x86_64"):
            continue
        action = pyseccomp.ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else pyseccomp.ERRNO(rule.get("errnoRet", 1))
        if action == fallback:
            continue
        for name in rule["names"]:
            arguments = []
            for item in rule.get("args") or []:
                operator = getattr(pyseccomp, item["op"].removeprefix("SCMP_CMP_"))
                arguments.append(pyseccomp.Arg(item["index"], operator, item["value"], item.get("valueTwo", 0)))
            try:
                made.add_rule(action, name, *arguments)
            except (OSError, ValueError):
                continue
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def test_our_compiler_decides_like_libseccomp_on_the_distributions_profile() -> None:
    if not REFERENCE.exists():
        pytest.skip("golang-github-containers-common is not installed")
    profile = json.loads(REFERENCE.read_text())
    randomness = random.Random(7)
    for capabilities in (frozenset(DEFAULT), frozenset(ALL), frozenset({"SYS_ADMIN"}), frozenset[str]()):
        ours = seccomp.compile(profile, capabilities, "x86_64")
        theirs = libseccomp_program(profile, capabilities)
        compared = 0
        # Numbers that both know: libseccomp of this machine may be older than our table.
        for name, number in bpf.load_tables()["x86_64"].items():
            if number >= 450:
                continue
            for _ in range(12):
                arguments = [
                    randomness.choice([0, 8, 9, 16, 40, 0x20000, 0xFFFFFFFF, 2**40, 2**64 - 1]) for _ in range(6)
                ]
                got, expected = (decide(p, bpf.AUDIT_ARCH["x86_64"], number, arguments) for p in (ours, theirs))
                assert got == expected, (name, arguments, hex(got), hex(expected))
                compared += 1
        assert compared > 3000


def test_the_default_denies_what_lets_a_container_reach_the_host() -> None:
    program = default()
    for name in ("mount", "unshare", "setns", "init_module", "kexec_load", "keyctl", "bpf", "pivot_root",
                 "open_by_handle_at", "perf_event_open", "process_vm_readv", "userfaultfd", "swapon"):  # fmt: skip
        assert call(program, name) == EPERM, name
    for name in ("read", "execve", "openat", "chroot", "ptrace", "fchmodat2", "futex_waitv", "socketpair"):
        assert call(program, name) == ALLOWED, name


def test_capabilities_open_what_belongs_to_them() -> None:
    assert call(default("SYS_ADMIN"), "mount") == ALLOWED
    assert call(default("SYS_MODULE"), "init_module") == ALLOWED
    assert call(default("SYS_MODULE"), "mount") == EPERM


def test_new_user_namespaces_are_denied_and_clone3_asks_for_clone() -> None:
    program = default()
    assert call(program, "clone", 0x11) == ALLOWED
    assert call(program, "clone", 0x10000000 | 0x11) == EPERM
    assert call(program, "clone3") == ENOSYS
    assert call(default("SYS_ADMIN"), "clone3") == ALLOWED


def test_the_hypervisors_sockets_are_denied_and_a_tracer_skip_is_no_call() -> None:
    program = default()
    assert call(program, "socket", 2) == ALLOWED
    assert call(program, "socket", 40) == EPERM
    assert decide(program, bpf.AUDIT_ARCH["x86_64"], -1, [0] * 6) == ENOSYS


def test_unknown_calls_answer_enosys_and_foreign_architectures_die() -> None:
    program = default()
    assert decide(program, bpf.AUDIT_ARCH["x86_64"], 999, [0] * 6) == ENOSYS
    assert decide(program, 0x12345678, 0, [0] * 6) == bpf.KILL_PROCESS
    assert call(program, "read", architecture="x86") == ALLOWED
    assert call(program, "mount", architecture="x86") == EPERM
    assert call(program, "mount", architecture="x32") == EPERM


@pytest.mark.parametrize("arch", sorted(bpf.ARCHITECTURES))
def test_the_shipped_filter_is_the_compiled_profile(arch: str) -> None:
    compiled = seccomp.compile(seccomp.default_profile(), frozenset(DEFAULT), arch)
    assert Path(seccomp.shipped_path(arch)).read_bytes() == compiled, "run python -m runtime.sandbox.seccomp"
    assert len(compiled) // 8 < 1408  # what libseccomp makes of docker's


def test_every_capability_that_the_profile_names_is_relevant() -> None:
    named = {
        name.removeprefix("CAP_")
        for rule in seccomp.default_profile()["syscalls"]
        for side in ("includes", "excludes")
        for name in (rule.get(side) or {}).get("caps", ())
    }
    assert named == seccomp.RELEVANT


@pytest.mark.parametrize("operator", ["EQ", "NE", "LT", "LE", "GE", "GT", "MASKED_EQ"])
def test_comparisons_hold_for_both_halves_of_an_argument(operator: str) -> None:
    values = [0, 1, 5, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**40, 2**63, 2**64 - 1]
    for want in values:
        rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 3, "op": f"SCMP_CMP_{operator}", "value": want, "valueTwo": want & 0x1_0000_0005}]}  # fmt: skip
        program = seccomp.compile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}, frozenset(), "x86_64")
        for value in values:
            expected = {
                "EQ": value == want, "NE": value != want, "LT": value < want, "LE": value <= want, "GE": value >= want,
                "GT": value > want, "MASKED_EQ": value & want == want & 0x1_0000_0005,
            }[operator]  # fmt: skip
            assert (call(program, "read", 0, 0, 0, value) == ALLOWED) is expected, (operator, hex(value), hex(want))


def test_other_capability_sets_and_profiles_are_compiled_once_into_the_root(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    shipped = seccomp.bpf_for(layout, frozenset(DEFAULT), None)
    assert shipped == seccomp.shipped_path(os.uname().machine)
    assert seccomp.bpf_for(layout, frozenset({*DEFAULT, "NET_ADMIN"}), None) == shipped
    admin = seccomp.bpf_for(layout, frozenset({*DEFAULT, "SYS_ADMIN"}), None)
    assert admin.startswith(layout.seccomp)
    assert seccomp.bpf_for(layout, frozenset({*DEFAULT, "SYS_ADMIN"}), None) == admin
    assert seccomp.bpf_for(layout, frozenset(), "unconfined") == ""


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"defaultAction":"SCMP_ACT_JUMP"}', '{"syscalls":[{"names":["read"]}]}',
     '{"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":9,"op":"SCMP_CMP_EQ"}]}]}'],
)  # fmt: skip
def test_a_broken_profile_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(InvalidSpec, match="seccomp profile"):
        seccomp.bpf_for(Layout(str(tmp_path)), frozenset(DEFAULT), str(path))


def test_threads_that_need_the_same_filter_at_once_all_get_it(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    layout = Layout(str(tmp_path / "root"), str(tmp_path / "run"))
    with ThreadPoolExecutor(8) as pool:
        for index in range(6):
            caps = frozenset(sorted(ALL)[: index + 3])
            paths = list(pool.map(lambda _, caps=caps: seccomp.bpf_for(layout, caps, None), range(8)))  # type: ignore[misc]
            assert len(set(paths)) == 1 and os.path.getsize(paths[0]) > 0
