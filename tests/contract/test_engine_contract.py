"""What every engine promises to the reconciler; the fake and the real one are held to the same words."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from runtime import api
from runtime.errors import Conflict, EngineError, NotFound, StartFailed, SubnetCollision
from tests.support.fake_engine import FakeEngine

REAL = os.geteuid() == 0 and importlib.util.find_spec("runtime.engine") is not None
LABELS = {"holdfast.stack": "t", "holdfast.resource": "service/web", "holdfast.index": "1"}


@dataclass
class World:
    """An engine, and how its time passes."""

    engine: api.Engine
    let_pass: Callable[[float], None]


@pytest.fixture(scope="module", autouse=True)
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.Engine | None]:
    """One root for the module, made before any test so that none of them is blamed for it."""
    if not REAL:
        yield None
        return
    from tests.support.roots import engine_with_busybox

    with engine_with_busybox(tmp_path_factory.mktemp("contract")) as engine:
        yield engine


@pytest.fixture(
    params=[
        "fake",
        pytest.param(
            "real",
            marks=[pytest.mark.root, pytest.mark.skipif(not REAL, reason="needs root and the engine")],
        ),
    ]
)
def world(request: pytest.FixtureRequest, real: api.Engine | None) -> Iterator[World]:
    if request.param == "fake":
        fake = FakeEngine()
        yield World(fake, fake.advance)
        return
    assert real is not None
    engine = real
    yield World(engine, time.sleep)
    for container in engine.snapshot().containers:
        engine.remove_container(container.id, force=True)
    for network in engine.snapshot().networks:
        engine.remove_network(network.name)
    for volume in engine.snapshot().volumes:
        engine.remove_volume(volume.name)


@pytest.fixture
def engine(world: World) -> api.Engine:
    return world.engine


def make(engine: api.Engine, script: str = "sleep 1000", name: str = "t/web-1", **fields: object) -> str:
    command = fields.pop("command", ("sh", "-c", script))
    labels = fields.pop("labels", LABELS)
    return engine.create_container(
        api.ContainerSpec(name, "busybox", labels=labels, command=command, **fields)  # type: ignore[arg-type]
    )


def run(engine: api.Engine, script: str = "sleep 1000", **fields: object) -> str:
    id = make(engine, script, **fields)
    engine.start_container(id)
    return id


def state(engine: api.Engine, id: str) -> api.ContainerState:
    return next(one for one in engine.snapshot().containers if one.id == id)


# ---- containers


def test_a_created_container_carries_its_labels_and_what_was_declared(engine: api.Engine) -> None:
    declared = {"spec": {"a": [1, 2.5, None, True]}, "policy": {}, "needs": [["service/db", "healthy", True, False]]}
    id = make(engine, declared=declared)
    found = state(engine, id)
    assert (found.name, found.status, found.labels, found.declared) == ("t/web-1", "created", LABELS, declared)
    assert (found.runs, found.starts, found.pid, found.intent) == ((), 0, 0, "")
    image = engine.find_image("busybox")
    assert image is not None and found.image_id == image.id


def test_a_started_container_runs_and_starting_it_again_changes_nothing(engine: api.Engine) -> None:
    id = run(engine)
    first = state(engine, id)
    engine.start_container(id)
    second = state(engine, id)
    assert first.status == "running" and first.pid > 0
    assert (second.pid, second.starts, len(second.runs)) == (first.pid, 1, 1)
    assert second.runs[0].finished_at == 0.0


def test_the_exit_code_is_known_and_the_end_is_the_programs_own(engine: api.Engine) -> None:
    id = run(engine, "exit 3")
    ended = engine.wait_container(id, 10.0)
    assert ended is not None
    assert (ended.exit_code, ended.signal, ended.by_us, ended.oom, ended.lost) == (3, 0, False, False, False)
    assert ended.finished_at >= ended.started_at > 0
    found = state(engine, id)
    assert found.status == "stopped" and found.pid == 0
    assert found.last_run is not None and found.last_run.exit_code == 3


def test_waiting_for_what_runs_on_ends_with_the_timeout(engine: api.Engine) -> None:
    assert engine.wait_container(run(engine), 0.05) is None


def test_waiting_for_what_never_ran_is_a_conflict(engine: api.Engine) -> None:
    with pytest.raises(Conflict):
        engine.wait_container(make(engine), 0.05)


def test_a_stop_is_ours_and_leaves_no_intent(engine: api.Engine) -> None:
    id = run(engine, "sleep 1000")
    engine.stop_container(id, grace=0.2)
    found = state(engine, id)
    assert found.status == "stopped" and found.intent == ""
    assert found.last_run is not None and found.last_run.by_us
    engine.stop_container(id)


def test_a_stop_by_hand_is_intent_until_the_next_start(engine: api.Engine) -> None:
    id = run(engine)
    engine.stop_container(id, grace=0.2, by_hand=True)
    assert state(engine, id).intent == "stop"
    engine.start_container(id)
    assert state(engine, id).intent == ""


def test_what_ignores_the_stop_signal_is_killed_after_its_grace(engine: api.Engine) -> None:
    id = run(engine, "trap '' TERM; sleep 1000; sleep 1000")
    engine.wait_container(id, 0.2)
    engine.stop_container(id, grace=0.3)
    ended = state(engine, id).last_run
    assert ended is not None
    assert (ended.signal, ended.exit_code, ended.by_us) == (9, 137, True)


def test_a_kill_by_the_engine_is_ours(engine: api.Engine) -> None:
    id = run(engine)
    engine.kill_container(id, "SIGKILL")
    ended = engine.wait_container(id, 10.0)
    assert ended is not None
    assert (ended.signal, ended.exit_code, ended.by_us) == (9, 137, True)
    with pytest.raises(Conflict):
        engine.kill_container(id)


def test_a_stopped_container_starts_again_and_its_runs_are_remembered(engine: api.Engine) -> None:
    id = run(engine, "exit 4")
    engine.wait_container(id, 10.0)
    engine.start_container(id)
    engine.wait_container(id, 10.0)
    found = state(engine, id)
    assert found.starts == 2
    assert [one.exit_code for one in found.runs] == [4, 4]


def test_a_program_that_does_not_exist_fails_the_start_with_127(engine: api.Engine) -> None:
    id = make(engine, command=("no-such-program",))
    with pytest.raises(StartFailed) as failure:
        engine.start_container(id)
    assert failure.value.exit_code == 127
    assert str(failure.value).startswith("cannot start container")
    found = state(engine, id)
    assert found.status == "stopped"
    assert found.last_run is not None and found.last_run.refused


def test_a_container_whose_start_failed_does_not_run(engine: api.Engine) -> None:
    engine.create_network(api.NetworkSpec("t_in", internal=True))
    id = make(engine, networks=(api.Attachment("t_in"),), ports=(api.Port(80, 38472),))
    with pytest.raises(EngineError):
        engine.start_container(id)
    found = state(engine, id)
    assert (found.status, found.pid) == ("stopped", 0)
    # A program that had begun was ended by the engine; either way its end is not its own.
    assert found.last_run is not None and (found.last_run.refused or found.last_run.by_us)


def test_removing_needs_force_while_it_runs_and_what_is_absent_is_removed_already(engine: api.Engine) -> None:
    id = run(engine)
    with pytest.raises(Conflict):
        engine.remove_container(id)
    engine.remove_container(id, force=True)
    assert not [one for one in engine.snapshot().containers if one.id == id]
    engine.remove_container(id)
    engine.remove_container(id, force=True)


def test_operations_on_what_does_not_exist_say_so(engine: api.Engine) -> None:
    ghost = "0" * 32
    for operation in (engine.start_container, engine.stop_container, engine.kill_container):
        with pytest.raises(NotFound):
            operation(ghost)


def test_an_image_that_is_nowhere_refuses_the_container(engine: api.Engine) -> None:
    with pytest.raises(NotFound):
        engine.create_container(api.ContainerSpec("t/x-1", "nowhere", labels=LABELS))


def test_two_containers_of_a_stack_may_bear_one_name_and_others_may_not(engine: api.Engine) -> None:
    assert make(engine) != make(engine)
    make(engine, name="mine", labels={})
    with pytest.raises(Conflict):
        make(engine, name="mine", labels={})


def test_new_labels_do_not_touch_the_process(engine: api.Engine) -> None:
    id = run(engine)
    before = state(engine, id)
    engine.relabel_container(id, {**LABELS, "extra": "1"}, {"spec": 2})
    after = state(engine, id)
    assert (after.labels["extra"], after.declared) == ("1", {"spec": 2})
    assert (after.pid, after.starts) == (before.pid, before.starts)


def test_a_paused_container_is_neither_running_nor_stopped(engine: api.Engine) -> None:
    id = run(engine)
    engine.pause_container(id)
    assert state(engine, id).status == "paused"
    engine.unpause_container(id)
    assert state(engine, id).status == "running"


def test_health_begins_as_starting_with_a_check_and_is_what_the_prober_says(engine: api.Engine) -> None:
    check = api.HealthCheck(("CMD", "true"))
    id = run(engine, health=check)
    assert state(engine, id).health == "starting"
    assert state(engine, id).health_check == check
    engine.set_health(id, "unhealthy", "no answer")
    assert (state(engine, id).health, state(engine, id).health_detail) == ("unhealthy", "no answer")
    engine.set_health(id, "healthy")
    assert state(engine, id).health == "healthy"
    plain = run(engine, name="t/web-2")
    assert (state(engine, plain).health, state(engine, plain).health_check) == ("none", None)


def test_health_does_not_outlive_the_run(engine: api.Engine) -> None:
    id = run(engine, health=api.HealthCheck(("CMD", "true")))
    engine.set_health(id, "healthy")
    engine.stop_container(id, grace=0.2)
    assert state(engine, id).health == "none"
    engine.start_container(id)
    assert state(engine, id).health == "starting"


def test_a_command_in_a_container_gives_its_exit_code_and_output(engine: api.Engine) -> None:
    id = run(engine)
    found = engine.exec_capture(id, api.ExecSpec(("sh", "-c", "echo seen; exit 5")), 5.0)
    assert (found.exit_code, found.output.strip(), found.timed_out) == (5, b"seen", False)
    late = engine.exec_capture(id, api.ExecSpec(("sleep", "60")), 0.2)
    assert late.timed_out
    stopped = make(engine, name="t/web-2")
    with pytest.raises(Conflict):
        engine.exec_capture(stopped, api.ExecSpec(("true",)), 1.0)


def test_both_streams_are_in_the_log(engine: api.Engine) -> None:
    id = run(engine, "echo one; echo two >&2")
    engine.wait_container(id, 10.0)
    lines = {(line.stream, line.data) for line in engine.logs(id)}
    assert lines == {("stdout", b"one"), ("stderr", b"two")}
    assert len(list(engine.logs(id, tail=1))) == 1


# ---- networks, ports, volumes, files


def test_a_network_has_a_subnet_a_gateway_and_what_was_declared(engine: api.Engine) -> None:
    made = engine.create_network(api.NetworkSpec("t_front", labels=LABELS, declared={"spec": 1}))
    (seen,) = [one for one in engine.snapshot().networks if one.name == "t_front"]
    assert seen.labels == LABELS and seen.declared == {"spec": 1}
    assert made.subnets and made.gateways
    engine.remove_network("t_front")
    engine.remove_network("t_front")
    assert not [one for one in engine.snapshot().networks if one.name == "t_front"]


def test_making_what_exists_takes_new_labels_and_refuses_another_definition(engine: api.Engine) -> None:
    made = engine.create_network(api.NetworkSpec("t_front", labels=LABELS))
    again = engine.create_network(api.NetworkSpec("t_front", labels={"a": "b"}, declared=1))
    assert (again.labels, again.declared, again.subnets) == ({"a": "b"}, 1, made.subnets)
    with pytest.raises(Conflict):
        engine.create_network(api.NetworkSpec("t_front", internal=True))
    engine.create_volume(api.VolumeSpec("t_data", labels=LABELS))
    assert engine.create_volume(api.VolumeSpec("t_data", labels={"a": "b"})).labels == {"a": "b"}
    with pytest.raises(Conflict):
        engine.create_volume(api.VolumeSpec("t_data", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}))


def test_a_network_knows_its_running_members_and_stays_while_it_has_any(engine: api.Engine) -> None:
    engine.create_network(api.NetworkSpec("t_front"))
    id = run(engine, networks=(api.Attachment("t_front", ("web",)),))
    (network,) = [one for one in engine.snapshot().networks if one.name == "t_front"]
    assert network.members == (id,)
    assert state(engine, id).addresses["t_front"]
    with pytest.raises(Conflict):
        engine.remove_network("t_front")
    engine.stop_container(id, grace=0.2)
    engine.remove_network("t_front")


def test_a_container_whose_network_was_made_anew_starts_in_the_new_one(engine: api.Engine) -> None:
    engine.create_network(api.NetworkSpec("t_front"))
    id = run(engine, networks=(api.Attachment("t_front"),))
    engine.stop_container(id, grace=0.2)
    engine.remove_network("t_front")
    with pytest.raises(EngineError):
        engine.start_container(id)
    engine.create_network(api.NetworkSpec("t_front", subnets=("10.213.77.0/24",)))
    engine.start_container(id)
    assert state(engine, id).addresses["t_front"][0].startswith("10.213.77.")


def test_replicas_of_one_service_share_a_published_port_and_others_may_not(engine: api.Engine) -> None:
    engine.create_network(api.NetworkSpec("t_front"))
    network, port = (api.Attachment("t_front"),), (api.Port(80, 38471, host_ip="127.0.0.1"),)
    run(engine, networks=network, ports=port)
    run(engine, name="t/web-2", labels={**LABELS, "holdfast.index": "2"}, networks=network, ports=port)
    other = make(
        engine, name="t/api-1", labels={**LABELS, "holdfast.resource": "service/api"}, networks=network, ports=port
    )
    with pytest.raises(EngineError) as failure:
        engine.start_container(other)
    assert failure.value.retryable
    assert engine.preflight(port, {**LABELS, "holdfast.resource": "service/api"})
    assert not engine.preflight(port, LABELS)


def test_a_volume_outlives_its_containers_and_stays_while_it_has_users(engine: api.Engine) -> None:
    engine.create_volume(api.VolumeSpec("t_data", labels=LABELS, declared={"spec": 1}))
    id = run(engine, mounts=(api.Mount("volume", "/data", "t_data"),))
    (volume,) = [one for one in engine.snapshot().volumes if one.name == "t_data"]
    assert (volume.users, volume.labels, volume.declared) == ((id,), LABELS, {"spec": 1})
    with pytest.raises(Conflict):
        engine.remove_volume("t_data")
    engine.remove_container(id, force=True)
    assert [one.name for one in engine.snapshot().volumes] == ["t_data"]
    engine.remove_volume("t_data")
    engine.remove_volume("t_data")
    assert not engine.snapshot().volumes


def test_an_anonymous_volume_goes_with_its_container(engine: api.Engine) -> None:
    id = run(engine, mounts=(api.Mount("volume", "/data"),))
    assert len(engine.snapshot().volumes) == 1
    engine.remove_container(id, force=True)
    assert not engine.snapshot().volumes


def test_a_files_digest_is_known_before_it_is_kept(engine: api.Engine) -> None:
    for secret in (False, True):
        assert engine.file_digest(b"content", secret) == engine.put_file(b"content", secret)
    assert engine.file_digest(b"content", False) != engine.file_digest(b"content", True)
    assert engine.file_digest(b"content", True) != engine.file_digest(b"other", True)


# ---- images, events


def test_an_image_has_labels_of_its_own_under_each_name(engine: api.Engine) -> None:
    engine.tag_image("busybox", "t-alias")
    try:
        first, second = engine.find_image("busybox"), engine.find_image("t-alias")
        assert first is not None and second is not None and first.id == second.id
        names = [one.names for one in engine.snapshot().images]
        assert ("t-alias",) in names and ("busybox",) in names
    finally:
        engine.remove_image("t-alias")
    assert engine.find_image("t-alias") is None
    assert engine.find_image("busybox") is not None


def test_starts_and_exits_are_told_as_events(engine: api.Engine) -> None:
    import threading

    over = threading.Event()
    seen: list[tuple[str, str]] = []
    ready = threading.Event()

    def listen() -> None:
        ready.set()
        for event in engine.events(over.is_set):
            seen.append((event.action, event.id))

    thread = threading.Thread(target=listen)
    thread.start()
    ready.wait()
    time.sleep(0.1)
    try:
        id = run(engine, "exit 0")
        engine.wait_container(id, 10.0)
        end = time.monotonic() + 5
        while time.monotonic() < end and ("exit", id) not in seen:
            time.sleep(0.01)
    finally:
        over.set()
        thread.join(10)
    assert not thread.is_alive()
    assert ("exit", id) in seen


def test_checking_another_definition_of_a_network_asks_what_holds_once_the_present_one_is_gone(
    engine: api.Engine,
) -> None:
    engine.create_network(api.NetworkSpec("t_front", subnets=("10.213.78.0/24",)))
    engine.create_network(api.NetworkSpec("t_back", subnets=("10.213.79.0/24",)))
    engine.check_network(api.NetworkSpec("t_front", subnets=("10.213.78.0/25",), internal=True))
    with pytest.raises(SubnetCollision):
        engine.check_network(api.NetworkSpec("t_front", subnets=("10.213.79.0/24",)))
