"""The engine as a whole, on real kernel objects: the life of containers, their data, their limits, their view."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import api
from runtime.engine import Engine
from runtime.errors import Conflict, InvalidSpec, NotFound, StartFailed
from tests.support.roots import engine_with_busybox

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine_with_busybox(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture
def made(engine: Engine) -> Iterator[list[str]]:
    """Ids of containers to remove after the test."""
    ids: list[str] = []
    yield ids
    for id in ids:
        engine.remove_container(id, force=True)


def start(engine: Engine, made: list[str], script: str, **fields: object) -> str:
    name = f"t{len(made)}-{time.monotonic_ns():x}"
    spec = api.ContainerSpec(name=name, image="busybox", command=("sh", "-c", script), **fields)  # type: ignore[arg-type]
    id = engine.create_container(spec)
    made.append(id)
    engine.start_container(id)
    return id


def finish(engine: Engine, made: list[str], script: str, **fields: object) -> tuple[int | None, str]:
    """Run a shell script to its end: exit code and everything it printed."""
    id = start(engine, made, script, **fields)
    run = engine.wait_container(id, 20)
    assert run is not None, "the container did not end"
    output = b"\n".join(line.data for line in engine.logs(id))
    return run.exit_code, output.decode()


def state(engine: Engine, id: str) -> api.ContainerState:
    return next(one for one in engine.snapshot().containers if one.id == id)


def test_the_exit_code_and_both_streams_are_kept(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "echo out; echo err >&2; exit 3")
    run = engine.wait_container(id, 10)
    assert run and (run.exit_code, run.signal, run.by_us) == (3, 0, False)
    assert sorted((line.stream, line.data) for line in engine.logs(id)) == [("stderr", b"err"), ("stdout", b"out")]
    assert state(engine, id).status == "stopped"


def test_stop_and_start_keep_the_writable_layer(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "cat /kept 2>/dev/null; echo was-here > /kept; trap 'exit 0' TERM; sleep 60 & wait")
    wait_for_file(engine, id, "/kept")
    engine.stop_container(id, grace=5)
    assert state(engine, id).status == "stopped"
    engine.start_container(id)
    wait_for_output(engine, id, b"was-here")
    assert state(engine, id).starts == 2


def wait_for_file(engine: Engine, id: str, path: str) -> None:
    deadline = time.monotonic() + 10
    while engine.exec_capture(id, api.ExecSpec(("test", "-e", path)), 5).exit_code != 0:
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.01)


def wait_for_output(engine: Engine, id: str, text: bytes) -> None:
    deadline = time.monotonic() + 10
    while not any(text in line.data for line in engine.logs(id)):
        assert time.monotonic() < deadline, f"{text!r} was never printed"
        time.sleep(0.01)


def test_stop_sends_the_stop_signal_and_kills_after_the_grace(engine: Engine, made: list[str]) -> None:
    polite = start(engine, made, "trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done", stop_signal="SIGUSR1")
    wait_for_output(engine, polite, b"ready")
    engine.stop_container(polite, grace=10)
    run = state(engine, polite).last_run
    assert run and run.exit_code == 7 and run.by_us
    deaf = start(engine, made, "trap '' TERM; echo ready; while :; do sleep 0.01; done")
    wait_for_output(engine, deaf, b"ready")
    began = time.monotonic()
    engine.stop_container(deaf, grace=0.3)
    assert time.monotonic() - began < 5
    run = state(engine, deaf).last_run
    assert run and run.signal == signal.SIGKILL and run.by_us and run.exit_code == 137


def test_a_stop_by_hand_is_recorded_until_the_next_start(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "sleep 60")
    engine.stop_container(id, grace=0, by_hand=True)
    assert state(engine, id).intent == "stop"
    engine.start_container(id)
    assert state(engine, id).intent == ""


def test_a_kill_from_outside_is_not_ours(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "sleep 60")
    os.kill(state(engine, id).pid, signal.SIGKILL)
    run = engine.wait_container(id, 5)
    assert run and run.signal == signal.SIGKILL and not run.by_us and not run.oom


def test_memory_beyond_the_limit_is_recognised_as_out_of_memory(engine: Engine, made: list[str]) -> None:
    id = start(
        engine, made, "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo ${#x}",
        resources=api.Resources(memory=16 << 20),
    )  # fmt: skip
    run = engine.wait_container(id, 20)
    assert run and run.oom and run.exit_code != 0


def test_the_pids_limit_holds(engine: Engine, made: list[str]) -> None:
    code, output = finish(
        engine, made, "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait", resources=api.Resources(pids=5)
    )
    assert "fork" in output, (code, output)


def test_a_program_that_does_not_exist_is_127_and_leaves_nothing(engine: Engine, made: list[str]) -> None:
    id = engine.create_container(api.ContainerSpec(name="nope", image="busybox", command=("/bin/nope",)))
    made.append(id)
    with pytest.raises(StartFailed, match="/bin/nope") as caught:
        engine.start_container(id)
    assert caught.value.exit_code == 127
    now = state(engine, id)
    assert now.status == "stopped" and now.last_run and now.last_run.exit_code == 127


def test_a_program_that_is_not_executable_is_126(engine: Engine, made: list[str]) -> None:
    id = engine.create_container(api.ContainerSpec(name="noexec", image="busybox", command=("/etc/passwd",)))
    made.append(id)
    with pytest.raises(StartFailed) as caught:
        engine.start_container(id)
    assert caught.value.exit_code == 126


def test_user_groups_environment_and_directory_are_as_told(engine: Engine, made: list[str]) -> None:
    code, output = finish(
        engine, made, "id -u; id -g; id -G; pwd; echo $A; hostname",
        user="1234:2345", group_add=("77",), env={"A": "b c"}, working_dir="/new/dir", hostname="me",
    )  # fmt: skip
    assert code == 0 and output.split("\n") == ["1234", "2345", "2345 77", "/new/dir", "b c", "me"]


def test_default_privileges_are_few(engine: Engine, made: list[str]) -> None:
    _, output = finish(engine, made, "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status")
    assert dict(line.split(":\t") for line in output.splitlines()) == {
        "CapEff": "00000000a80425fb", "NoNewPrivs": "1", "Seccomp": "2",
    }  # fmt: skip


def test_capabilities_follow_the_spec(engine: Engine, made: list[str]) -> None:
    _, output = finish(engine, made, "grep CapEff /proc/self/status", cap_drop=("ALL",), cap_add=("NET_ADMIN",))
    assert output.split() == ["CapEff:", "0000000000001000"]


def test_a_read_only_root_refuses_writes_but_tmpfs_takes_them(engine: Engine, made: list[str]) -> None:
    code, output = finish(
        engine, made, "echo x > /file; echo y > /scratch/file && cat /scratch/file; df -k /scratch | tail -1",
        read_only=True, mounts=(api.Mount("tmpfs", "/scratch", tmpfs_size=1 << 20),),
    )  # fmt: skip
    assert code == 0 and "Read-only" in output and "\ny\n" in output and " 1024 " in output


def test_the_hosts_kernel_knobs_are_hidden_or_read_only(engine: Engine, made: list[str]) -> None:
    _, output = finish(
        engine, made, "wc -c < /proc/keys; echo 1 > /proc/sys/vm/swappiness; echo 1 > /sys/kernel/profiling; mount"
    )
    assert output.startswith("0\n") and output.count("Read-only file system") == 2
    assert "/sys type sysfs (ro" in output


def test_a_bind_mount_shows_the_hosts_directory(engine: Engine, made: list[str], tmp_path: Path) -> None:
    (tmp_path / "f").write_text("from the host")
    code, output = finish(
        engine,
        made,
        "cat /data/f; echo x > /data/g",
        mounts=(api.Mount("bind", "/data", str(tmp_path), read_only=True),),
    )
    assert "from the host" in output and "Read-only" in output and code != 0


def test_a_missing_bind_source_is_refused_before_anything_is_made(engine: Engine, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    before = len(engine.snapshot().containers)
    with pytest.raises(InvalidSpec, match="does not exist"):
        engine.create_container(
            api.ContainerSpec(name="b", image="busybox", mounts=(api.Mount("bind", "/d", str(missing)),))
        )
    assert not missing.exists() and len(engine.snapshot().containers) == before


def test_a_named_volume_takes_the_images_content_once_and_outlives_containers(engine: Engine, made: list[str]) -> None:
    engine.create_volume(api.VolumeSpec("data"))
    mount = (api.Mount("volume", "/etc", "data"),)
    code, output = finish(engine, made, "head -c 5 /etc/passwd; echo mine > /etc/mine", mounts=mount)
    assert code == 0 and output.startswith("root:")
    assert finish(engine, made, "cat /etc/mine", mounts=mount) == (0, "mine")
    with pytest.raises(Conflict, match="mounts it"):
        engine.remove_volume("data")
    for id in made:
        engine.remove_container(id, force=True)
    engine.remove_volume("data")
    assert not [volume for volume in engine.snapshot().volumes if volume.name == "data"]


def test_a_vanished_volume_directory_is_damage_until_repaired(engine: Engine) -> None:
    info = engine.create_volume(api.VolumeSpec("gone"))
    os.rmdir(info.path)
    assert [volume.damage[0].what for volume in engine.snapshot().volumes if volume.name == "gone"] == ["directory"]
    engine.repair_volume("gone")
    assert os.path.isdir(info.path)
    engine.remove_volume("gone")


def test_configs_and_secrets_have_their_owner_and_mode_and_secrets_lie_on_tmpfs(
    engine: Engine, made: list[str]
) -> None:
    config = engine.put_file(b"a config", secret=False)
    secret = engine.put_file(b"a secret", secret=True)
    files = (
        api.File("/etc/app.conf", config, False, 1, 2, 0o440),
        api.File("/run/secrets/key", secret, True, 3, 4, 0o400),
    )
    code, output = finish(
        engine, made,
        "cat /etc/app.conf; echo; cat /run/secrets/key; echo; stat -c '%u %g %a' /etc/app.conf /run/secrets/key;"
        "grep /run/secrets/key /proc/mounts",
        files=files,
    )  # fmt: skip
    lines = output.splitlines()
    assert code == 0 and lines[:4] == ["a config", "a secret", "1 2 440", "3 4 400"]
    assert lines[4].startswith("tmpfs ") and " ro," in lines[4]


def test_a_secrets_digest_cannot_be_computed_without_the_roots_key(engine: Engine) -> None:
    import hashlib

    assert engine.file_digest(b"x", secret=True) != hashlib.sha256(b"x").hexdigest()
    assert engine.file_digest(b"x", secret=True) == engine.put_file(b"x", secret=True)


def test_exec_sees_the_container_and_its_restrictions(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "sleep 60", env={"X": "1"}, user="1000")
    script = "id -u; echo $X $Y; grep Seccomp: /proc/self/status; exit 4"
    result = engine.exec_capture(id, api.ExecSpec(("sh", "-c", script), {"Y": "2"}), 5)
    assert (result.exit_code, result.output.split()) == (4, [b"1000", b"1", b"2", b"Seccomp:", b"2"])
    assert engine.exec_capture(id, api.ExecSpec(("id", "-u"), user="0"), 5).output == b"0\n"


def test_an_exec_beyond_its_time_is_killed(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "sleep 60")
    began = time.monotonic()
    result = engine.exec_capture(id, api.ExecSpec(("sleep", "30")), 0.3)
    assert result.timed_out and time.monotonic() - began < 5
    assert b"sleep 30" not in engine.exec_capture(id, api.ExecSpec(("ps",)), 5).output


def test_a_paused_container_stands_still_and_can_be_stopped(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "while :; do echo tick; sleep 0.02; done")
    wait_for_output(engine, id, b"tick")
    engine.pause_container(id)
    assert state(engine, id).status == "paused"
    time.sleep(0.1)
    count = sum(1 for _ in engine.logs(id))
    time.sleep(0.3)
    assert sum(1 for _ in engine.logs(id)) == count
    engine.unpause_container(id)
    assert state(engine, id).status == "running"
    engine.pause_container(id)
    engine.stop_container(id, grace=0.2)
    assert state(engine, id).status == "stopped"


def test_a_running_container_is_removed_only_by_force(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "sleep 60")
    with pytest.raises(Conflict, match="running"):
        engine.remove_container(id)
    engine.remove_container(id, force=True)
    engine.remove_container(id, force=True)
    assert not [one for one in engine.snapshot().containers if one.id == id]


def test_two_containers_made_by_hand_cannot_share_a_name(engine: Engine, made: list[str]) -> None:
    made.append(engine.create_container(api.ContainerSpec(name="one", image="busybox", command=("true",))))
    with pytest.raises(Conflict, match="in use"):
        engine.create_container(api.ContainerSpec(name="one", image="busybox", command=("true",)))


def test_a_missing_image_is_named(engine: Engine) -> None:
    with pytest.raises(NotFound, match='no image "nothing:1"'):
        engine.create_container(api.ContainerSpec(name="x", image="nothing:1"))


def test_a_changed_cgroup_limit_is_damage_until_repaired(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "sleep 60", resources=api.Resources(memory=32 << 20, pids=50, cpus=0.5))
    assert state(engine, id).damage == ()
    engine.client.update(id, {"cpus": 0.5, "memory": 64 << 20, "memory_reservation": 0, "pids": 50})
    assert [damage.what for damage in state(engine, id).damage] == ["limit memory"]
    engine.repair_container(id)
    assert state(engine, id).damage == ()


def test_containers_on_one_network_reach_each_other_by_name(engine: Engine, made: list[str]) -> None:
    engine.create_network(api.NetworkSpec("lan"))
    try:
        start(
            engine, made, "while :; do echo hello | nc -l -p 80; done",
            networks=(api.Attachment("lan", aliases=("server",)),),
        )  # fmt: skip
        code, output = finish(
            engine, made, "for i in 1 2 3 4 5 6 7 8 9 10; do nc -w 2 server 80 && exit 0; sleep 0.1; done; exit 1",
            networks=(api.Attachment("lan"),),
        )  # fmt: skip
        assert (code, output) == (0, "hello")
    finally:
        for id in made:
            engine.remove_container(id, force=True)
        engine.remove_network("lan")


def test_an_init_reaps_and_forwards_signals(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done", init=True)
    wait_for_output(engine, id, b"ready")
    engine.stop_container(id, grace=5)
    run = state(engine, id).last_run
    assert run and run.exit_code == 9


def test_relabelling_touches_no_process(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "sleep 60")
    before = state(engine, id)
    engine.relabel_container(id, {"a": "b"}, {"c": 1})
    after = state(engine, id)
    assert (after.labels, after.declared, after.pid) == ({"a": "b"}, {"c": 1}, before.pid)


def test_an_anonymous_volume_goes_with_its_container(engine: Engine, made: list[str]) -> None:
    id = start(engine, made, "sleep 60", mounts=(api.Mount("volume", "/anonymous"),))
    assert len([volume for volume in engine.snapshot().volumes if volume.name.startswith(id)]) == 1
    engine.remove_container(id, force=True)
    assert not [volume for volume in engine.snapshot().volumes if volume.name.startswith(id)]
