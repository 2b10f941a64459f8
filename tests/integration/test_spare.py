"""The spare child: used for the next start, indistinguishable afterwards, and never left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import cgroup, errors, netlink, syscalls
from tests.support.bare import BareContainers

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(cgroup.detect().into_clone, reason="processes must be born in version 2 cgroups"),
]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareContainers]:
    made = BareContainers(tmp_path_factory.mktemp("spare"))
    yield made
    made.end()


def until(condition: Callable[[], object], deadline: float = 5.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def spare_pid(bare: BareContainers) -> int:
    """0 when there is none, or while it is being made."""
    try:
        pids = Path(f"/sys/fs/cgroup/pids/{bare.layout.cgroup}/spare/tasks").read_text().split()
    except OSError:
        return 0
    return int(pids[0]) if pids else 0


def waiting_spare(bare: BareContainers) -> int:
    """Of plain containers, once it waits for its request."""
    bare.run(["true"])
    until(lambda: spare_pid(bare))
    pid = spare_pid(bare)
    until(lambda: "skb" in Path(f"/proc/{pid}/wchan").read_text() or "recv" in Path(f"/proc/{pid}/wchan").read_text())
    return pid


def kill_and_end(bare: BareContainers, id: str) -> None:
    bare.client.signal(id, signal.SIGKILL)
    assert bare.client.wait(id, 5.0) is not None


def test_the_next_container_is_the_spare(bare: BareContainers) -> None:
    spare = waiting_spare(bare)
    limits = {"cpus": 0.5, "memory": 32 << 20, "memory_reservation": 0, "pids": 50}
    id = bare.start(["sleep", "100"], hostname="beta", resources=limits)
    assert bare.client.start(id)["pid"] == spare
    assert f"/{bare.layout.cgroup}/{id}" in Path(f"/proc/{spare}/cgroup").read_text()
    assert cgroup.read_limits(bare.layout.cgroup, id) == cgroup.normal_limits(limits)
    assert bare.exec(id, ["hostname"]) == (0, "beta\n")
    until(lambda: spare_pid(bare) not in (0, spare))  # for the one after it
    kill_and_end(bare, id)
    until(lambda: cgroup.read_limits(bare.layout.cgroup, id) == {})


LOOK = (
    "cut -d' ' -f4- /proc/self/mountinfo; cat /proc/self/status /proc/self/cgroup /proc/self/oom_score_adj; "
    "ls /proc/self/fd /sys/class/net /dev /dev/pts /sys/fs/cgroup; ls /proc/[0-9]* -d; ulimit -n; umask; pwd; "
    "cd /proc/sys/net/ipv6/conf/default; cat disable_ipv6 accept_ra; "
    "cat /proc/self/limits; ls -l /proc/self/ns | wc -l; stat -c '%a %u %g' /dev/null /dev/shm /proc /sys"
)


def seen(bare: BareContainers, **changes: Any) -> list[str]:
    """What a container sees, without what differs between any two."""
    id = bare.start(["/bin/sh", "-c", LOOK], **changes)
    record = bare.client.wait(id, 10.0)
    assert record is not None
    text = "\n".join(line.decode() for line in bare.lines(id)).replace(f"/{id}/", "/ID/")
    volatile = r"(?m)^(\S*ctxt_switches|Vm\S+|Rss\S+|Speculation\S+|Cpus\S+|HugetlbPages|SigQ):.*$"
    return sorted(re.sub(r"(shared|master):\d+", "", re.sub(volatile, "", text)).split("\n"))


def test_a_network_of_another_kind_is_as_if_it_had_been_made_for_it(bare: BareContainers, bridge: str) -> None:
    expected = seen(bare)
    bare.shell("true", net=bridged(bare, bridge, 9))  # the spare after it is made for links without IPv6
    time.sleep(0.1)
    spare = spare_pid(bare)
    id = bare.start(["sleep", "100"])
    assert bare.client.start(id)["pid"] == spare
    kill_and_end(bare, id)
    bare.shell("true", net=bridged(bare, bridge, 10))
    time.sleep(0.1)
    assert seen(bare) == expected


@pytest.mark.parametrize("changes", [{}, {"uid": 1000, "read_only": True}, {"init": True, "no_new_privs": False}])
def test_a_container_cannot_tell_whether_it_was_the_spare(bare: BareContainers, changes: dict[str, Any]) -> None:
    pids = []

    def look() -> list[str]:
        pids.append(spare_pid(bare))
        return seen(bare, **changes)

    with_spare = (waiting_spare(bare), look())[1]
    until(lambda: spare_pid(bare))
    os.kill(spare_pid(bare), signal.SIGKILL)
    until(lambda: not spare_pid(bare))
    without = look()
    assert pids[0] > 0
    assert pids[1] == 0
    assert with_spare == without
    assert len(without) > 100


def test_another_shape_goes_without_and_becomes_the_next(bare: BareContainers) -> None:
    spare = waiting_spare(bare)
    id = bare.start(["sleep", "100"], shm_size=3 << 20)
    assert bare.client.start(id)["pid"] != spare
    until(lambda: spare_pid(bare) not in (0, spare))
    other = spare_pid(bare)
    second = bare.start(["/bin/sh", "-c", "df -k /dev/shm; sleep 100"], shm_size=3 << 20)
    assert bare.client.start(second)["pid"] == other
    until(lambda: b" 3072 " in b"".join(bare.lines(second)))
    kill_and_end(bare, id)
    kill_and_end(bare, second)


def test_a_dead_spare_is_no_obstacle(bare: BareContainers) -> None:
    spare = waiting_spare(bare)
    os.kill(spare, signal.SIGKILL)
    until(lambda: not spare_pid(bare))
    assert bare.shell("echo there; exit 4") == (4, "there\n")
    assert waiting_spare(bare) != spare


def test_a_cgroup_that_is_there_already_is_no_obstacle(bare: BareContainers) -> None:
    waiting_spare(bare)
    id = bare.request(["/bin/sh", "-c", "echo there"])
    cgroup.detect().create(f"{bare.layout.cgroup}/{id}", {})
    bare.client.start(id)
    record = bare.client.wait(id, 5.0)
    assert record is not None
    assert (record["code"], bare.lines(id)) == (0, [b"there"])


def test_a_request_too_long_for_a_message_goes_without(bare: BareContainers) -> None:
    waiting_spare(bare)
    environment = ["PATH=/bin", *(f"V{number}={'x' * 10_000}" for number in range(20))]
    assert bare.shell("echo ${#V19}", env=environment) == (0, "10000\n")


def test_the_spare_holds_nothing_of_others_and_keeps_no_mount_busy(bare: BareContainers, tmp_path: Path) -> None:
    busy = bare.start(["sleep", "100"])
    bare.client.hold("busy", [0])
    spare = waiting_spare(bare)
    assert os.readlink(f"/proc/{spare}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    assert os.readlink(f"/proc/{spare}/ns/net") != os.readlink("/proc/self/ns/net")
    open_files = [os.readlink(f"/proc/{spare}/fd/{number}") for number in os.listdir(f"/proc/{spare}/fd")]
    assert not [name for name in open_files if bare.layout.run in name and not name.endswith("keeper.err")]
    assert len(open_files) < 14
    # What is mounted on the host while it waits is there for its container.
    late = tmp_path / "late"
    late.mkdir()
    syscalls.mount(b"tmpfs", str(late).encode(), b"tmpfs")
    (late / "mark").write_text("late\n")
    bind = {"kind": "bind", "source": str(late), "target": "/data", "read_only": False, "options": "",
            "propagation": "rprivate", "recursive": True, "file": False}  # fmt: skip
    id = bare.start(["/bin/sh", "-c", "cat /data/mark; sleep 100"], mounts=[bind])
    assert bare.client.start(id)["pid"] == spare
    until(lambda: bare.lines(id) == [b"late"])
    kill_and_end(bare, id)
    syscalls.umount2(str(late).encode())
    bare.client.release("busy")
    kill_and_end(bare, busy)


def test_the_spare_dies_with_its_supervisor_and_leaves_no_record(bare: BareContainers) -> None:
    spare = waiting_spare(bare)
    os.kill(bare.pid("supervisor"), signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{spare}"))
    bare.client.running()
    assert os.listdir(f"{bare.layout.run}/exits") == []
    assert bare.shell("echo on") == (0, "on\n")


def test_the_spare_dies_when_the_keeper_does_or_both_do(bare: BareContainers) -> None:
    spare = waiting_spare(bare)
    supervisor = bare.pid("supervisor")
    os.kill(bare.pid("keeper"), signal.SIGKILL)
    until(lambda: bare.pid("keeper") == supervisor)
    until(lambda: not os.path.exists(f"/proc/{spare}"))
    spare = waiting_spare(bare)
    keeper, supervisor = bare.pid("keeper"), bare.pid("supervisor")
    os.kill(keeper, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{spare}") or _is_zombie(spare))
    assert bare.shell("echo on") == (0, "on\n")
    until(lambda: spare_pid(bare))


@pytest.fixture
def bridge(bare: BareContainers) -> Iterator[str]:
    name = f"{bare.layout.link_prefix}s0"
    with netlink.NetlinkSocket() as links:
        links.request(netlink.bridge_message(name))
        links.request(netlink.address_message(socket.if_nametoindex(name), "10.231.78.1/24"))
        yield name
        links.request(netlink.delete_message(name))


def bridged(bare: BareContainers, bridge: str, number: int) -> dict[str, Any]:
    interface = {"ifname": "eth0", "host_ifname": f"{bare.layout.link_prefix}s{number}", "bridge": bridge, "mtu": 1400,
                 "mac": f"02:42:00:00:01:{number:02x}", "addresses": [f"10.231.78.{number}/24"],
                 "gateways": ["10.231.78.1"]}  # fmt: skip
    return {"mode": "bridge", "interfaces": [interface]}


@pytest.mark.parametrize("pause", [0.0, 0.2], ids=["its own links", "links made for it"])
def test_links_are_there_whoever_makes_them(bare: BareContainers, bridge: str, pause: float) -> None:
    look = "ip addr show eth0; ip route; ping -c1 -W2 10.231.78.1 >/dev/null && echo reached"
    former = spare_pid(bare)
    bare.shell("true", net=bridged(bare, bridge, 9))
    for number in (10, 11):
        until(lambda former=former: spare_pid(bare) not in (0, former))  # type: ignore[misc]
        former = spare = spare_pid(bare)
        time.sleep(pause)
        id = bare.start(["/bin/sh", "-c", look + "; sleep 100"], net=bridged(bare, bridge, number))
        assert bare.client.start(id)["pid"] == spare
        until(lambda id=id: b"reached" in bare.lines(id))  # type: ignore[misc]
        output = b"\n".join(bare.lines(id)).decode()
        for part in ("mtu 1400", f"02:42:00:00:01:{number:02x}", f"10.231.78.{number}/24", "default via 10.231.78.1"):
            assert part in output
        kill_and_end(bare, id)


def test_links_that_cannot_be_made_for_it_are_refused_with_the_cause(bare: BareContainers, bridge: str) -> None:
    bare.shell("true", net=bridged(bare, bridge, 9))
    until(lambda: spare_pid(bare))
    time.sleep(0.2)
    id = bare.request(["true"], net=bridged(bare, "no-bridge", 12))
    with pytest.raises(errors.StartFailed, match="no-bridge: no such bridge"):
        bare.client.start(id)
    wrong = bridged(bare, bridge, 13)
    wrong["interfaces"][0]["mtu"] = 20  # the kernel takes 68 and more
    until(lambda: spare_pid(bare))
    time.sleep(0.2)
    id = bare.request(["true"], net=wrong)
    with pytest.raises(errors.StartFailed, match="make network links"):
        bare.client.start(id)


def _is_zombie(pid: int) -> bool:
    """Until the host's init takes its time to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_supervisor_that_replaces_its_program_keeps_no_spare_of_the_old_one(bare: BareContainers) -> None:
    spare = waiting_spare(bare)
    bare.client.upgrade()
    bare.client.running()
    assert not os.path.exists(f"/proc/{spare}")
    assert bare.shell("echo on") == (0, "on\n")


def test_no_spare_is_left_when_the_pair_leaves(tmp_path: Path) -> None:
    bare = BareContainers(tmp_path)
    spare = waiting_spare(bare)
    bare.end()
    assert not os.path.exists(f"/proc/{spare}")
    until(lambda: not os.path.exists(f"/sys/fs/cgroup/pids/{bare.layout.cgroup}"))
    assert not os.path.exists(f"{bare.layout.run}/keeper.err")  # neither had anything to complain of
