"""A container's launch: what runs, what it sees, what it cannot reach. Every check of isolation has a control that

takes the protection away and expects the opposite, so that a check which cannot fail would be noticed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from runtime import cgroup, netlink
from runtime.errors import StartFailed
from runtime.sandbox import capabilities, seccomp
from tests.support.bare import BareContainers

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareContainers]:
    made = BareContainers(tmp_path_factory.mktemp("launch"))
    yield made
    made.end()


def bind(source: Path | str, target: str, **changes: Any) -> dict[str, Any]:
    entry = {"kind": "bind", "source": str(source), "target": target, "read_only": False, "options": "",
             "propagation": "rprivate", "recursive": True, "file": os.path.isfile(source)}  # fmt: skip
    return entry | changes


def test_exit_code_streams_user_and_environment_arrive(bare: BareContainers) -> None:
    code, output = bare.shell(
        "id -u; id -g; id -G; pwd; echo $GREETING; echo bad >&2; exit 7",
        uid=1000, gid=1001, groups=[1001, 44], cwd="/made/here", env=["PATH=/bin", "GREETING=hi there"],
    )  # fmt: skip
    assert code == 7
    assert set(output.split("\n")) >= {"1000", "1001", "1001 44", "/made/here", "hi there", "bad"}


@pytest.mark.parametrize(
    ("program", "code", "cause"),
    [
        ("/bin/nope", 127, 'exec "/bin/nope": no such file or directory'),
        ("nope", 127, r'exec "nope": executable file not found in \$PATH'),
        ("/etc", 126, 'exec "/etc": is a directory'),
        ("/etc/plain", 126, 'exec "/etc/plain": permission denied'),
        ("/etc/script", 127, "its interpreter or dynamic loader is missing"),
    ],
)
def test_a_program_that_cannot_run_is_refused_with_dockers_code(
    bare: BareContainers, program: str, code: int, cause: str
) -> None:
    Path(bare.lower, "etc/plain").write_text("x")
    script = Path(bare.lower, "etc/script")
    script.write_text("#!/no/such/shell\n")
    script.chmod(0o755)
    id = bare.request([program])
    with pytest.raises(StartFailed, match=f'cannot start container "{id}": .*{cause}') as caught:
        bare.client.start(id)
    assert caught.value.exit_code == code
    assert id not in bare.client.running()


def test_only_the_wanted_capabilities_and_the_filter_are_in_force(bare: BareContainers) -> None:
    _, status = bare.run(["cat", "/proc/self/status"])
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {values[key] for key in ("CapPrm", "CapEff", "CapBnd")} == {"00000000a80425fb"}
    assert (values["CapInh"], values["CapAmb"]) == ("0" * 16, "0" * 16)
    assert (values["NoNewPrivs"], values["Seccomp"]) == ("1", "2")
    assert values["SigIgn"] == values["SigBlk"] == "0" * 16
    _, bare_status = bare.shell("cat /proc/self/status", seccomp="", no_new_privs=False, capabilities=["CHOWN"])
    assert "Seccomp:\t0" in bare_status
    assert "NoNewPrivs:\t0" in bare_status
    assert "CapEff:\t0000000000000001" in bare_status


def test_a_plain_user_has_no_capabilities_but_ambient_ones(bare: BareContainers) -> None:
    assert "CapEff:\t0000000000000000" in bare.shell("cat /proc/self/status", uid=1000)[1]
    assert "CapEff:\t0000000000000400" in bare.shell("cat /proc/self/status", uid=1000, ambient=["NET_BIND_SERVICE"])[1]


def test_without_no_new_privs_the_filter_is_loaded_as_well(bare: BareContainers) -> None:
    assert "Seccomp:\t2" in bare.shell("cat /proc/self/status", no_new_privs=False, uid=1000)[1]


def test_the_filter_keeps_even_an_administrator_from_new_namespaces(bare: BareContainers) -> None:
    admin = [*capabilities.DEFAULT, "SYS_ADMIN"]
    assert bare.run(["unshare", "-m", "true"], capabilities=admin)[0] != 0
    assert bare.run(["unshare", "-m", "true"], capabilities=admin, seccomp="")[0] == 0
    opened = seccomp.bpf_for(bare.layout, frozenset(admin), None)
    assert bare.run(["unshare", "-m", "true"], capabilities=admin, seccomp=opened)[0] == 0


def test_processes_of_the_host_are_not_seen(bare: BareContainers) -> None:
    code, output = bare.shell("echo $$; ls -d /proc/[0-9]* | wc -l; ls /proc/self/fd | wc -l")
    assert code == 0
    pid, processes, _ = output.split()
    assert (pid, int(processes) <= 3) == ("1", True)
    assert len([name for name in os.listdir("/proc") if name.isdigit()]) > 3


def test_no_descriptor_of_the_host_reaches_the_program(bare: BareContainers) -> None:
    # ls itself opens the fourth.
    assert bare.shell("ls /proc/self/fd")[1].split() == ["0", "1", "2", "3"]


def test_a_working_directory_through_a_descriptor_does_not_lead_out(bare: BareContainers) -> None:
    for number in range(3, 16):
        id = bare.request(["ls"], cwd=f"/proc/self/fd/{number}")
        with pytest.raises(StartFailed):
            bare.client.start(id)


def test_the_network_is_the_containers_own_unless_the_hosts_is_wanted(bare: BareContainers) -> None:
    assert bare.shell("ls /sys/class/net")[1].split() == ["lo"]
    assert bare.shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ping -c1 127.0.0.1 >/dev/null && echo up")[
        1
    ].split() == ["0", "up"]
    before = set(os.listdir("/sys/class/net"))
    _, host = bare.shell("cat /proc/net/dev", net={"mode": "host", "interfaces": []})
    lasting = before & set(os.listdir("/sys/class/net"))  # others come and go meanwhile
    assert all(name in host for name in lasting)


def test_masked_paths_are_empty_and_frozen_paths_read_only(bare: BareContainers) -> None:
    look = "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; echo 9000 > /proc/sys/kernel/msgmax && echo written"
    code, output = bare.shell(look)
    assert (code, output.split()[:2]) == (1, ["0", "0"])
    assert "ead-only" in output
    _, open_output = bare.shell(look, masked=[], readonly_paths=[])
    assert "written" in open_output
    assert open_output.split()[1] != "0"


def test_a_read_only_root_refuses_writes_but_not_in_its_tmpfs(bare: BareContainers) -> None:
    tmpfs = {
        "kind": "tmpfs",
        "source": "tmpfs",
        "target": "/scratch/deep",
        "read_only": False,
        "options": "size=1m,mode=1777",
    }
    script = "touch /x && echo root; touch /scratch/deep/x && echo tmpfs; touch /dev/shm/x && echo shm"
    assert "root" not in (output := bare.shell(script, read_only=True, mounts=[tmpfs])[1])
    assert "tmpfs" in output
    assert "shm" in output
    assert "root" in bare.shell(script, mounts=[tmpfs])[1]


def test_tmpfs_and_shm_have_the_wanted_size(bare: BareContainers) -> None:
    tmpfs = {"kind": "tmpfs", "source": "tmpfs", "target": "/t", "read_only": False, "options": "size=2m,mode=700"}
    _, output = bare.shell("df -k /t /dev/shm | grep -v Files | while read a b c; do echo $b; done; stat -c %a /t",
                           mounts=[tmpfs], shm_size=3 << 20)  # fmt: skip
    assert output.split() == ["2048", "3072", "700"]


def test_binds_are_seen_and_read_only_ones_hold(bare: BareContainers, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    script = "cat /data/file; touch /data/new && echo wrote; cat /etc/one"
    code, output = bare.shell(
        script, mounts=[bind(tmp_path, "/data", read_only=True), bind(tmp_path / "file", "/etc/one")]
    )
    assert (code, output.count("from the host"), "wrote" in output) == (0, 2, False)
    assert "wrote" in bare.shell(script, mounts=[bind(tmp_path, "/data"), bind(tmp_path / "file", "/etc/one")])[1]
    assert (tmp_path / "new").exists()


def test_a_link_in_the_image_does_not_lead_a_mount_out(bare: BareContainers, tmp_path: Path) -> None:
    outside, source = tmp_path / "outside", tmp_path / "source"
    for directory in (outside, source):
        directory.mkdir()
    (source / "mark").write_text("")
    link = Path(bare.lower, "link")
    link.symlink_to(f"../../../../../../../..{outside}")
    try:
        code, output = bare.shell(f"ls /link; ls {outside}", mounts=[bind(source, "/link/below")])
        assert code == 0
        # Followed inside the container's own root: the same path was made there.
        assert output.split() == ["below", "below"]
        assert os.listdir(outside) == []
    finally:
        link.unlink()


def test_an_image_whose_proc_is_a_link_is_refused(bare: BareContainers, tmp_path: Path) -> None:
    root = tmp_path / "evil"
    (root / "bin").mkdir(parents=True)
    (root / "proc").symlink_to("/tmp")
    id = bare.request(["true"], lowers=[str(root)])
    with pytest.raises(StartFailed, match="mount /proc: a symbolic link of the image"):
        bare.client.start(id)


@pytest.mark.parametrize("target", ["/proc", "/proc/sys", "/"])
def test_nothing_may_be_mounted_over_proc_or_the_root(bare: BareContainers, tmp_path: Path, target: str) -> None:
    id = bare.request(["true"], mounts=[bind(tmp_path, target)])
    with pytest.raises(StartFailed, match=f"mount {target}: nothing may be mounted on"):
        bare.client.start(id)


def test_a_missing_source_is_named(bare: BareContainers) -> None:
    id = bare.request(["true"], mounts=[bind("/no/such/source", "/data")])
    with pytest.raises(StartFailed, match="mount /data: source /no/such/source: no such file or directory"):
        bare.client.start(id)


def test_the_hosts_files_are_gone_after_the_pivot(bare: BareContainers) -> None:
    code, output = bare.shell(f"ls {bare.lower}; ls /proc/1/root; cat /proc/self/mountinfo")
    assert "No such file" in output
    # Nothing is mounted but what the launch put there.
    sources = {line.split(" - ")[1].split()[0] for line in output.splitlines() if " - " in line}
    assert sources == {"overlay", "proc", "tmpfs", "devpts", "shm", "mqueue", "sysfs", "cgroup"} & sources
    assert code == 0


def test_a_device_of_the_host_cannot_be_opened_even_with_its_node_made(bare: BareContainers) -> None:
    # FUSE: opening it needs no capability, so only the device list stands in the way.
    script = "mknod /fuse c 10 229 && exec 9</fuse && echo opened"
    assert "not permitted" in bare.shell(script)[1]
    assert bare.shell(script, privileged=True)[1] == "opened\n"
    assert bare.shell("head -c 4 /dev/zero | wc -c; echo x > /dev/null")[1] == "4\n"


def test_names_limits_and_parameters_are_set(bare: BareContainers) -> None:
    _, output = bare.shell(
        "hostname; cd /proc; cat sys/kernel/domainname sys/net/core/somaxconn; ulimit -n; cat self/oom_score_adj",
        hostname="alpha", domainname="example.org", sysctls={"net.core.somaxconn": "77"},
        rlimits=[["nofile", 333, 444]], oom_score_adj=300,
    )  # fmt: skip
    assert output.split() == ["alpha", "example.org", "77", "333", "300"]
    assert os.uname().nodename != "alpha"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sysctls": {"kernel.panic": "1"}}, 'sysctl "kernel.panic": not separate for each container'),
        ({"rlimits": [["nofile", 10, 5]]}, "ulimit nofile: soft limit 10 is above hard limit 5"),
        ({"seccomp": "/no/filter"}, "/no/filter: no such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_refused_with_its_name(
    bare: BareContainers, changes: dict[str, Any], message: str
) -> None:
    id = bare.request(["true"], **changes)
    with pytest.raises(StartFailed, match=message):
        bare.client.start(id)


def test_memory_beyond_the_limit_is_recognised_as_out_of_memory(bare: BareContainers) -> None:
    hog = ["/bin/dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=60"]
    limited = {"memory": 16 << 20, "cpus": 0, "memory_reservation": 0, "pids": 0}
    id = bare.start(hog, resources=limited)
    record = bare.client.wait(id, 20.0)
    assert record is not None
    assert (record["oom"], record["signal"], record["by_us"]) == (True, 9, False)
    free = bare.client.wait(bare.start(hog), 20.0)
    assert free is not None
    assert (free["oom"], free["code"]) == (False, 0)


def test_the_number_of_processes_is_limited(bare: BareContainers) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 0.2 & done; wait"
    limits = {"pids": 4, "cpus": 0, "memory": 0, "memory_reservation": 0}
    assert "can't fork" in bare.shell(script, resources=limits)[1]
    assert bare.shell(script) == (0, "")


def test_limits_are_read_back_changed_and_gone_with_the_container(bare: BareContainers) -> None:
    limits = {"cpus": 0.5, "memory": 32 << 20, "memory_reservation": 16 << 20, "pids": 50}
    id = bare.start(["sleep", "100"], resources=limits)
    assert cgroup.read_limits(bare.layout.cgroup, id) == cgroup.normal_limits(limits)
    bare.client.update(id, limits | {"memory": 64 << 20, "pids": 0})
    assert cgroup.read_limits(bare.layout.cgroup, id) == cgroup.normal_limits(limits | {"memory": 64 << 20, "pids": 0})
    bare.client.update(id, limits)
    assert cgroup.read_limits(bare.layout.cgroup, id)["memory"] == 32 << 20
    bare.client.signal(id, 9)
    assert bare.client.wait(id, 5.0) is not None
    bare.client.running()
    assert cgroup.read_limits(bare.layout.cgroup, id) == {}


def test_cgroups_of_the_dead_are_swept_and_those_of_the_living_kept(bare: BareContainers) -> None:
    alive = bare.start(["sleep", "100"])
    cgroup.detect().create(f"{bare.layout.cgroup}/stale", {"pids": 5})
    assert cgroup.sweep_cgroups(bare.layout.cgroup, lambda name: nullcontext(name == "stale")) == ["stale"]
    assert cgroup.read_limits(bare.layout.cgroup, alive) != {}
    bare.client.signal(alive, 9)
    bare.client.wait(alive, 5.0)


def test_the_clone_into_a_version_2_cgroup_is_born_there_with_its_devices_denied(bare: BareContainers) -> None:
    unified = "/sys/fs/cgroup/unified"
    if not os.path.isdir(unified):
        pytest.skip("no version 2 hierarchy here")
    from runtime import syscalls

    groups = cgroup.CgroupV2(unified)
    name = f"{bare.layout.cgroup}/v2test"
    groups.create(name, {})
    directory = groups.open(name)
    read_end, write_end = os.pipe()
    try:
        pid, pidfd = syscalls.clone3(syscalls.CLONE_NEWPID, directory)
        if pid == 0:
            try:
                own = open("/proc/self/cgroup").read()
                os.mknod("/tmp/holdfast-test-node", 0o20600, os.makedev(1, 11))
                try:
                    os.open("/tmp/holdfast-test-node", os.O_RDONLY)
                except PermissionError:
                    own += "denied"
                os.unlink("/tmp/holdfast-test-node")
                os.write(write_end, own.encode())
            finally:
                os._exit(0)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        text = os.read(read_end, 4096).decode()
        assert f"0::/{name}\n" in text
        assert text.endswith("denied")
        groups.freeze(name)
        assert groups.frozen(name)
        groups.thaw(name)
    finally:
        for fd in (directory, read_end, write_end):
            os.close(fd)
        assert groups.remove(name)


@pytest.fixture
def bridge(bare: BareContainers) -> Iterator[str]:
    name = f"{bare.layout.link_prefix}t0"
    with netlink.NetlinkSocket() as links:
        links.request(netlink.bridge_message(name))
        index = socket.if_nametoindex(name)
        links.request(netlink.address_message(index, "10.231.77.1/24"), netlink.address_message(index, "fd77:1::1/64"))
        yield name
        links.request(netlink.delete_message(name))


def test_links_addresses_and_routes_are_there_when_the_program_starts(bare: BareContainers, bridge: str) -> None:
    interface = {"ifname": "eth0", "host_ifname": f"{bare.layout.link_prefix}v1", "bridge": bridge, "mtu": 1400,
                 "mac": "02:42:00:00:00:05", "addresses": ["10.231.77.5/24", "fd77:1::5/64"],
                 "gateways": ["10.231.77.1", "fd77:1::1"]}  # fmt: skip
    net = {"mode": "bridge", "interfaces": [interface]}
    script = (
        "ip addr show eth0; ip route; ip -6 route; ping -c1 -W2 10.231.77.1 && ping -c1 -W2 fd77:1::1 && echo reached"
    )
    for _ in range(2):  # the second run comes while the first one's link is still being torn down
        code, output = bare.shell(script, net=net)
        assert code == 0
        for part in ("mtu 1400", "02:42:00:00:00:05", "10.231.77.5/24", "fd77:1::5/64", "default via 10.231.77.1",
                     "default via fd77:1::1", "reached"):  # fmt: skip
            assert part in output, output


def test_the_writable_layer_outlives_a_stop(bare: BareContainers) -> None:
    bare.shell("echo kept > /mark", id="keeps")
    assert bare.shell("cat /mark", id="keeps") == (0, "kept\n")


def test_forty_layers_mount_though_one_option_string_could_not_hold_them(bare: BareContainers, tmp_path: Path) -> None:
    layers = []
    for index in range(40):
        layer = tmp_path / f"{index:03d}{'l' * 100}"
        layer.mkdir()
        (layer / f"from-{index}").touch()
        layers.append(str(layer))
    _, output = bare.shell("ls -d /from-* | wc -l", lowers=[*layers, bare.lower])
    assert output == "40\n"


def test_init_reaps_orphans_forwards_signals_and_gives_the_programs_code(bare: BareContainers) -> None:
    # The orphan's end is reaped by process 1: no zombie stays.
    script = "echo $$; sh -c 'sleep 0.05 & exit 0'; sleep 0.2; ps | grep -c sleep; exit 5"
    code, output = bare.shell(script, init=True)
    assert (code, output.split()[0]) == (5, "2")
    id = bare.start(
        ["/bin/sh", "-c", "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done"], init=True
    )
    while b"ready" not in bare.lines(id):
        pass
    bare.client.signal(id, 15)
    record = bare.client.wait(id, 5.0)
    assert record is not None
    assert (record["code"], record["by_us"], bare.lines(id)[-1]) == (9, True, b"got")


def test_a_full_disk_loses_lines_and_not_the_container(bare: BareContainers, tmp_path: Path) -> None:
    from runtime import syscalls

    disk = tmp_path / "disk"
    disk.mkdir()
    syscalls.mount(b"tmpfs", str(disk).encode(), b"tmpfs", 0, b"size=256k")
    try:
        log = {"dir": f"{disk}/log", "max_size": 20 << 20, "max_files": 5}
        id = bare.start(["/bin/sh", "-c", "seq 1 200000; echo end > /done; cat /done; exit 3"], log=log)
        record = bare.client.wait(id, 20.0)
        assert record is not None
        assert record["code"] == 3
    finally:
        syscalls.umount2(str(disk).encode(), syscalls.MNT_DETACH)
