"""The pure parts of the sandbox and of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import cgroup, syscalls
from runtime.cgroup import CgroupV1, CgroupV2
from runtime.errors import InvalidSpec
from runtime.netlink import address_message, parse_attributes, route_message, veth_message
from runtime.sandbox import capabilities, mounts, sysctls


def test_the_default_capabilities_are_dockers_fourteen() -> None:
    assert len(capabilities.DEFAULT) == 14
    assert capabilities.mask(list(capabilities.DEFAULT)) == 0xA80425FB


@pytest.mark.parametrize(
    ("add", "drop", "privileged", "expected"),
    [
        ([], ["ALL"], False, []),
        (["net_admin"], ["all"], False, ["NET_ADMIN"]),
        (["CAP_SYS_TIME"], [], False, [*capabilities.DEFAULT, "SYS_TIME"]),
        ([], ["CAP_MKNOD"], False, [name for name in capabilities.DEFAULT if name != "MKNOD"]),
        (["ALL"], ["SYS_ADMIN"], False, [name for name in capabilities.ALL if name != "SYS_ADMIN"]),
        ([], [], True, list(capabilities.ALL)),
    ],
)
def test_capabilities_are_added_and_dropped(
    add: list[str], drop: list[str], privileged: bool, expected: list[str]
) -> None:
    assert sorted(capabilities.resolve(add, drop, privileged)) == sorted(expected)


def test_an_unknown_capability_is_named() -> None:
    with pytest.raises(InvalidSpec, match="NET_ADMINN"):
        capabilities.resolve(["NET_ADMINN"], [], False)


@pytest.mark.parametrize(
    "name", ["net.core.somaxconn", "kernel.shmmax", "fs.mqueue.msg_max", "net/ipv4/conf/eth0.1/forwarding"]
)
def test_parameters_of_own_namespaces_may_be_set(name: str) -> None:
    assert sysctls.refusal(name, host_network=False) == ""


@pytest.mark.parametrize(
    "name", ["kernel.panic", "vm.swappiness", "net/../kernel/panic", "kernel.hostname", "fs.file-max"]
)
def test_parameters_of_the_host_may_not(name: str) -> None:
    assert name in sysctls.refusal(name, host_network=False)


def test_network_parameters_may_not_be_set_on_the_hosts_network() -> None:
    assert "shares the host's network" in sysctls.refusal("net.core.somaxconn", host_network=True)


def test_mount_options_become_flags_and_data() -> None:
    assert mounts.split_options("size=1m,ro,exec,mode=700", mounts.GUARDED) == (
        syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV,
        b"size=1m,mode=700",
    )


def test_netlink_messages_have_the_kernels_layout() -> None:
    veth = veth_message("hf0", "eth0", 7, 9, mac="02:00:00:00:00:01", mtu=1400)
    found = parse_attributes(veth, 32)
    assert found[3] == b"hf0\0"
    assert found[10] == (7).to_bytes(4, "little")
    info = parse_attributes(found[18], 0)
    assert info[1] == b"veth"
    peer = parse_attributes(parse_attributes(info[2], 0)[1], 16)
    assert (peer[3], peer[28], peer[1].hex(":")) == (b"eth0\0", (9).to_bytes(4, "little"), "02:00:00:00:00:01")
    assert len(veth) == int.from_bytes(veth[:4], "little")
    six = parse_attributes(address_message(2, "fd00::2/64"), 24)
    assert six[2][:2] == b"\xfd\x00"
    assert int.from_bytes(six[8], "little") == 2  # no duplicate detection
    assert parse_attributes(route_message("10.1.0.0/16", "10.0.0.1"), 28) == {1: b"\x0a\x01\0\0", 5: b"\x0a\0\0\x01"}


def mountinfo(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "mountinfo"
    path.write_text(
        "".join(
            f"30 20 0:26 / {point} rw - {kind} {kind} rw,{options}\n" for point, kind, options in map(str.split, lines)
        )
    )
    return str(path)


def test_the_layout_of_cgroups_is_told_from_the_mounts(tmp_path: Path) -> None:
    pure = cgroup.detect(mountinfo(tmp_path, "/sys/fs/cgroup cgroup2 nsdelegate"))
    assert isinstance(pure, CgroupV2)
    old = cgroup.detect(
        mountinfo(tmp_path, "/sys/fs/cgroup/cpu,cpuacct cgroup cpu,cpuacct", "/sys/fs/cgroup/memory cgroup memory")
    )
    assert isinstance(old, CgroupV1)
    assert (old.kind, old.lacks) == ("v1", ["pids", "devices", "freezer"])
    assert old.mounts_inside()[0] == ("cpu,cpuacct", b"cgroup", b"cpu,cpuacct")
    assert "no pids controller" in old.degraded()[0]
    hybrid = cgroup.detect(mountinfo(tmp_path, "/c/memory cgroup memory", "/c/unified cgroup2 x"))
    assert hybrid.kind == "hybrid"


@pytest.fixture
def version2(tmp_path: Path) -> CgroupV2:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    for directory in (tmp_path, tmp_path / "hf", tmp_path / "hf" / "c1"):
        directory.mkdir(exist_ok=True)
        for name in ("cgroup.subtree_control", "cgroup.procs", "cgroup.freeze", "cpu.max", "memory.max", "memory.low",
                     "memory.swap.max", "pids.max"):  # fmt: skip
            (directory / name).write_text("")
        (directory / "memory.events").write_text("low 0\noom 2\noom_kill 3\n")
    return CgroupV2(str(tmp_path))


def test_version_2_hands_controllers_down_and_writes_limits(tmp_path: Path, version2: CgroupV2) -> None:
    version2.create("hf/c1", {"cpus": 1.5, "memory": 1 << 26, "memory_reservation": 1 << 20, "pids": 9})
    for level in (tmp_path, tmp_path / "hf"):
        assert (level / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (tmp_path / "hf" / "c1" / "cgroup.subtree_control").read_text() == ""  # a leaf may hold processes
    assert (tmp_path / "hf" / "c1" / "cpu.max").read_text() == "150000 100000"
    assert version2.read_limits("hf/c1") == {"cpus": 1.5, "memory": 1 << 26, "memory_reservation": 1 << 20, "pids": 9}
    version2.set_limits("hf/c1", {})
    assert (tmp_path / "hf" / "c1" / "memory.max").read_text().startswith("max")
    assert version2.oom_kills("hf/c1") == 3
    version2.thaw("hf/c1")
    assert (tmp_path / "hf" / "c1" / "cgroup.freeze").read_text().startswith("0")


def test_limits_are_compared_as_the_kernel_rounds_them() -> None:
    assert cgroup.normal_limits({"memory": 4096 * 3 + 5, "cpus": 0.3333333}) == {
        "cpus": 0.33333, "memory": 4096 * 3, "memory_reservation": 0, "pids": 0,
    }  # fmt: skip
