"""Keeper and supervisor: whichever is killed, at any time, no container, no log line and no exit code is lost."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime import errors
from tests.support.bare import BareContainers

pytestmark = pytest.mark.root

COUNTING = "i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); sleep 0.01; done; exit {code}"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareContainers]:
    made = BareContainers(tmp_path_factory.mktemp("supervise"))
    yield made
    made.end()


def count(bare: BareContainers, lines: int, code: int) -> str:
    return bare.start(["/bin/sh", "-c", COUNTING.format(lines=lines, code=code)])


def assert_whole(bare: BareContainers, id: str, lines: int, code: int) -> None:
    record = bare.client.wait(id, 30.0)
    assert record is not None
    assert (record["code"], record["signal"], record["lost"], record["oom"]) == (code, 0, False, False)
    assert bare.lines(id) == [b"line %d" % index for index in range(lines)]


def until(condition: Callable[[], bool], deadline: float = 5.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_killed_supervisor_is_back_at_once_and_loses_nothing(bare: BareContainers) -> None:
    id = count(bare, 80, 5)
    time.sleep(0.2)
    before = bare.pid("supervisor")
    kill(before)
    started = time.monotonic()
    assert id in bare.client.running()
    assert time.monotonic() - started < 0.5
    assert bare.pid("supervisor") != before
    assert_whole(bare, id, 80, 5)


def test_what_a_container_wrote_and_how_it_ended_while_nobody_looked_is_kept(bare: BareContainers) -> None:
    id = count(bare, 30, 6)
    time.sleep(0.05)
    frozen = bare.pid("supervisor")
    os.kill(frozen, signal.SIGSTOP)
    time.sleep(0.8)  # the container ends meanwhile
    kill(frozen)
    assert_whole(bare, id, 30, 6)


def test_a_supervisor_killed_again_and_again_keeps_many_containers_whole(bare: BareContainers) -> None:
    ids = [count(bare, 100, 10 + index) for index in range(6)]
    for _ in range(5):
        time.sleep(0.12)
        kill(bare.pid("supervisor"))
        bare.client.running()
    for index, id in enumerate(ids):
        assert_whole(bare, id, 100, 10 + index)


def test_a_supervisor_killed_in_the_midst_of_starts_starts_each_once(bare: BareContainers) -> None:
    ids = [
        bare.request(["/bin/sh", "-c", f"echo run >> /tmp/runs; cat /tmp/runs; exit {index}"]) for index in range(60)
    ]
    found: dict[str, object] = {}

    def run_some(some: list[str]) -> None:
        for id in some:
            bare.client.start(id)
            found[id] = (bare.client.wait(id, 30.0) or {}).get("code")

    threads = [threading.Thread(target=run_some, args=(ids[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):  # its successor is not written down yet
            kill(bare.pid("supervisor"))
    for thread in threads:
        thread.join()
    assert found == {id: index for index, id in enumerate(ids)}
    for id in ids:
        assert bare.lines(id) == [b"run"]


def test_a_supervisor_replaces_its_program_in_place(bare: BareContainers) -> None:
    id = count(bare, 80, 7)
    time.sleep(0.1)
    before = bare.pid("supervisor")
    bare.client.upgrade()
    assert id in bare.client.running()
    assert bare.pid("supervisor") == before
    assert_whole(bare, id, 80, 7)


def test_when_the_keeper_dies_the_supervisor_becomes_the_keeper(bare: BareContainers) -> None:
    id = count(bare, 100, 8)
    time.sleep(0.1)
    supervisor = bare.pid("supervisor")
    kill(bare.pid("keeper"))
    until(lambda: bare.pid("keeper") == supervisor and bare.pid("supervisor") != supervisor)
    assert id in bare.client.running()
    assert_whole(bare, id, 100, 8)


def test_a_container_that_has_outlived_its_supervisor_outlives_the_keeper_too(bare: BareContainers) -> None:
    id = count(bare, 100, 9)
    kill(bare.pid("supervisor"))
    bare.client.running()
    # Its parent is the keeper now; after this it is the host's init, and the code comes by its pidfd.
    kill(bare.pid("keeper"))
    assert_whole(bare, id, 100, 9)


def test_with_both_killed_a_new_pair_takes_over_what_lives(bare: BareContainers) -> None:
    id = count(bare, 100, 11)
    keeper, supervisor = bare.pid("keeper"), bare.pid("supervisor")
    os.kill(keeper, signal.SIGSTOP)
    kill(supervisor)
    kill(keeper)
    assert id in bare.client.running()
    assert bare.pid("keeper") not in (keeper, supervisor)
    assert_whole(bare, id, 100, 11)


def test_an_end_that_nobody_could_see_is_recorded_as_lost(bare: BareContainers) -> None:
    id = bare.start(["sleep", "100"])
    record_pid = bare.client.start(id)["pid"]
    keeper, supervisor = bare.pid("keeper"), bare.pid("supervisor")
    os.kill(keeper, signal.SIGSTOP)
    kill(supervisor)
    kill(keeper)
    kill(record_pid)
    until(lambda: not os.path.exists(f"/proc/{record_pid}"), 10.0)
    record = bare.client.wait(id, 10.0)
    assert record is not None
    assert (record["lost"], record["code"]) == (True, None)


def test_starting_what_runs_is_success_and_starts_nothing(bare: BareContainers) -> None:
    id = bare.start(["sleep", "100"])
    assert bare.client.start(id) == bare.client.start(id)
    bare.client.signal(id, signal.SIGKILL)
    record = bare.client.wait(id, 5.0)
    assert record is not None
    assert (record["signal"], record["code"], record["by_us"]) == (9, None, True)


def test_a_kill_from_outside_is_not_ours(bare: BareContainers) -> None:
    id = bare.start(["sleep", "100"])
    kill(bare.client.start(id)["pid"])
    record = bare.client.wait(id, 5.0)
    assert record is not None
    assert (record["signal"], record["by_us"]) == (9, False)


def test_our_signal_is_remembered_by_the_next_supervisor(bare: BareContainers) -> None:
    id = bare.start(["/bin/sh", "-c", "trap '' TERM; echo ready; sleep 0.5; exit 4"])
    until(lambda: b"ready" in bare.lines(id))
    bare.client.signal(id, signal.SIGTERM)
    kill(bare.pid("supervisor"))
    record = bare.client.wait(id, 5.0)
    assert record is not None
    assert (record["code"], record["by_us"]) == (4, True)


def test_waiting_ends_with_the_timeout_and_unknown_containers_are_named(bare: BareContainers) -> None:
    id = bare.start(["sleep", "100"])
    started = time.monotonic()
    assert bare.client.wait(id, 0.1) is None
    assert 0.09 < time.monotonic() - started < 1.0
    bare.client.signal(id, 9)
    bare.client.wait(id, 5.0)
    for call in (lambda: bare.client.signal("ghost", 15), lambda: bare.client.wait("ghost", 1.0)):
        with pytest.raises(errors.NotFound, match="ghost"):
            call()
    with pytest.raises(errors.InvalidSpec):
        bare.client.signal("../escape", 15)


def test_a_frozen_container_stands_still_and_can_be_killed(bare: BareContainers) -> None:
    id = bare.start(["/bin/sh", "-c", "while :; do echo tick; sleep 0.01; done"])
    until(lambda: len(bare.lines(id)) > 2)
    bare.client.freeze(id)
    time.sleep(0.03)
    before = len(bare.lines(id))
    time.sleep(0.1)
    assert len(bare.lines(id)) == before
    bare.client.thaw(id)
    until(lambda: len(bare.lines(id)) > before)
    bare.client.freeze(id)
    bare.client.signal(id, 9)
    assert bare.client.wait(id, 5.0) is not None


def test_exec_joins_the_containers_namespaces_limits_and_restrictions(bare: BareContainers) -> None:
    id = bare.start(["sleep", "100"], uid=0, env=["PATH=/bin", "COLOUR=red"], cwd="/tmp")
    script = "echo $COLOUR; pwd; hostname; ps | grep -c 'sleep 100$'; cat /proc/self/status /proc/1/cgroup"
    code, output = bare.exec(id, ["/bin/sh", "-c", script + "; exit 9"])
    assert code == 9
    assert output.split("\n")[:4] == ["red", "/tmp", id, "1"]
    for line in ("CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in output
    assert f"/{bare.layout.cgroup}/" not in output  # its cgroup is the root of its own namespace
    groups = Path(f"/proc/{bare.client.start(id)['pid']}/cgroup").read_text()
    assert f"{bare.layout.cgroup}/{id}" in groups
    assert bare.exec(id, ["id", "-u"], uid=1000, env=["PATH=/bin"])[1] == "1000\n"
    session = bare.client.exec(id, {"argv": ["sleep", "50"]}, (0, 1, 2))
    assert f"{bare.layout.cgroup}/{id}" in Path(f"/proc/{session.pid}/cgroup").read_text()
    bare.client.signal(id, 9)
    assert session.wait(5.0) == 137  # it died with the container
    session.close()


def test_exec_of_a_missing_program_or_container_is_refused(bare: BareContainers) -> None:
    id = bare.start(["sleep", "100"])
    with pytest.raises(errors.StartFailed, match=r'exec "zork": executable file not found in \$PATH') as caught:
        bare.exec(id, ["zork"])
    assert caught.value.exit_code == 127
    bare.client.signal(id, 9)
    bare.client.wait(id, 5.0)
    with pytest.raises(errors.NotFound):
        bare.exec(id, ["true"])
    with pytest.raises(errors.NotFound):
        bare.exec("ghost", ["true"])
    assert not [name for name in os.listdir(bare.layout.run_container(id)) if name.startswith("exec-")]


def test_a_program_run_by_exec_survives_its_client_and_the_supervisor(bare: BareContainers) -> None:
    id = bare.start(["sleep", "100"])
    abandoned = bare.client.exec(id, {"argv": ["/bin/sh", "-c", "sleep 0.3; touch /tmp/finished"]}, (0, 1, 2))
    abandoned.close()
    session = bare.client.exec(id, {"argv": ["/bin/sh", "-c", "sleep 0.3; exit 21"]}, (0, 1, 2))
    kill(bare.pid("supervisor"))
    assert session.wait(5.0) == 21
    session.close()
    until(lambda: bare.exec(id, ["test", "-e", "/tmp/finished"])[0] == 0)
    killed = bare.client.exec(id, {"argv": ["sleep", "50"]}, (0, 1, 2))
    assert killed.wait(0.02) is None
    killed.kill()
    assert killed.wait(5.0) == 137
    killed.close()
    bare.client.signal(id, 9)
    bare.client.wait(id, 5.0)


def read_terminal(fd: int) -> str:
    output = b""
    try:
        while data := os.read(fd, 4096):
            output += data
    except OSError:
        pass
    return output.decode()


def test_exec_with_a_terminal_gets_one_of_the_containers_own(bare: BareContainers) -> None:
    id = bare.start(["sleep", "100"])
    session = bare.client.exec(
        id, {"argv": ["/bin/sh", "-c", "read x; tty; stty size; echo $x"], "tty": True}, (0, 1, 2)
    )
    session.resize(33, 44)
    os.write(session.master, b"typed\n")
    output = read_terminal(session.master)
    assert session.wait(5.0) == 0
    assert "/dev/pts/0" in output
    assert "33 44" in output
    session.close()
    bare.client.signal(id, 9)
    bare.client.wait(id, 5.0)


def test_a_containers_terminal_is_its_console_outlives_the_supervisor_and_is_logged(bare: BareContainers) -> None:
    id = bare.start(["/bin/sh", "-c", "tty; echo > /dev/console; read x; echo got $x; read y; echo got $y"], tty=True)
    master = bare.client.attach(id)
    os.write(master, b"one\n")
    until(lambda: b"got one\r" in bare.lines(id))
    os.close(master)
    kill(bare.pid("supervisor"))
    master = bare.client.attach(id)
    os.write(master, b"two\n")
    record = bare.client.wait(id, 5.0)
    os.close(master)
    assert record is not None
    assert record["code"] == 0
    assert {b"/dev/pts/0\r", b"got one\r", b"got two\r"} <= set(bare.lines(id))
    other = bare.start(["sleep", "100"])
    with pytest.raises(errors.Conflict, match="no terminal"):
        bare.client.attach(other)
    bare.client.signal(other, 9)
    bare.client.wait(other, 5.0)


def test_input_given_at_the_start_reaches_the_program(bare: BareContainers) -> None:
    read_end, write_end = os.pipe()
    id = bare.request(["cat"], stdin="fd")
    bare.client.start(id, (read_end, 1, 2))
    os.close(read_end)
    os.write(write_end, b"from outside\n")
    os.close(write_end)
    assert bare.client.wait(id, 5.0) is not None
    assert bare.lines(id) == [b"from outside"]


def test_held_descriptors_survive_supervisor_keeper_and_upgrade(bare: BareContainers) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    address = listener.getsockname()
    bare.client.hold("web", [listener.fileno()])
    listener.close()

    def is_taken() -> bool:
        with socket.socket() as other:
            try:
                other.bind(address)
            except OSError:
                return True
            return False

    kill(bare.pid("supervisor"))
    assert (bare.client.held(), is_taken()) == (["web"], True)
    supervisor = bare.pid("supervisor")
    kill(bare.pid("keeper"))
    until(lambda: bare.pid("keeper") == supervisor)
    assert (bare.client.held(), is_taken()) == (["web"], True)
    bare.client.upgrade()
    assert (bare.client.held(), is_taken()) == (["web"], True)
    bare.client.release("web")
    assert bare.client.held() == []
    until(lambda: not is_taken())


def names_pid(bare: BareContainers) -> int:
    import json

    try:
        return int(json.loads(Path(bare.layout.run, "names.json").read_text()).get("pid", 0))
    except (OSError, ValueError):
        return 0


def test_the_names_process_is_kept_alive_until_it_is_not_wanted(bare: BareContainers) -> None:
    bare.client.names(["/bin/sleep", "7777"])
    until(lambda: names_pid(bare) > 0)
    first = names_pid(bare)
    bare.client.names(["/bin/sleep", "7777"])
    kill(first)
    until(lambda: names_pid(bare) not in (0, first))
    second = names_pid(bare)
    supervisor = bare.pid("supervisor")
    kill(bare.pid("keeper"))
    until(lambda: bare.pid("keeper") == supervisor)
    bare.client.running()
    assert names_pid(bare) == second  # adopted, not restarted
    kill(second)
    until(lambda: names_pid(bare) not in (0, second))
    bare.client.names(["/bin/sleep", "8888"])
    until(lambda: b"8888" in Path(f"/proc/{names_pid(bare)}/cmdline").read_bytes() if names_pid(bare) else False)
    last = names_pid(bare)
    bare.client.names(None)
    until(lambda: not os.path.exists(f"/proc/{last}"))


def test_watchers_hear_of_starts_and_ends(bare: BareContainers) -> None:
    watch = bare.client.watch()
    id = bare.start(["false"])
    events: list[dict[str, object]] = []
    while not any(event["event"] == "exit" for event in events):
        events += watch.read(5.0)
    watch.close()
    assert [(event["event"], event["id"]) for event in events] == [("start", id), ("exit", id)]
    assert events[1]["record"]["code"] == 1  # type: ignore[index]


def test_many_containers_start_and_end_in_parallel(bare: BareContainers) -> None:
    ids = [bare.request(["/bin/sh", "-c", f"echo {index}; exit {index}"]) for index in range(40)]
    found: dict[str, object] = {}

    def run(id: str) -> None:
        bare.client.start(id)
        found[id] = (bare.client.wait(id, 30.0) or {}).get("code")

    threads = [threading.Thread(target=run, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {id: index for index, id in enumerate(ids)}
    assert all(bare.lines(id) == [str(index).encode()] for index, id in enumerate(ids))


def test_the_pair_leaves_when_nothing_is_left_and_comes_back_when_needed(tmp_path: Path) -> None:
    bare = BareContainers(tmp_path)
    assert bare.shell("echo one")[1] == "one\n"
    keeper = bare.pid("keeper")
    bare.client.shutdown_if_idle()
    until(lambda: not os.path.exists(f"/proc/{keeper}"))
    with pytest.raises(errors.Unavailable):
        bare.client.watch(start=False)
    assert bare.client.held() == []
    assert bare.shell("echo two")[1] == "two\n"
    bare.end()
    assert not os.path.exists(f"/sys/fs/cgroup/memory/{bare.layout.cgroup}")
    with open(f"{bare.layout.run}/keeper.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_many_clients_at_once_start_one_pair(tmp_path: Path) -> None:
    bare = BareContainers(tmp_path)
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(bare.client.running())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[]] * 8
    marks = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _is_pair(path, bare.layout.run)]
    assert len(marks) == 2
    bare.end()


def _is_pair(path: Path, run: str) -> bool:
    try:
        return run.encode() in path.read_bytes().split(b"\0")
    except OSError:
        return False
