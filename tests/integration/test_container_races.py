"""Several at once on one container, and deaths in the middle: every end is one of the ends that were asked for."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import api
from runtime.container.attended import attended
from runtime.engine import Engine
from runtime.errors import Conflict, DiskFull, EngineError, NotFound
from runtime.lock import locked
from tests.support.roots import engine_with_busybox

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine_with_busybox(tmp_path_factory.mktemp("races")) as engine:
        yield engine


@pytest.fixture
def made(engine: Engine) -> Iterator[list[str]]:
    """Ids of containers to remove after the test."""
    ids: list[str] = []
    yield ids
    for id in ids:
        engine.remove_container(id, force=True)


def create(engine: Engine, made: list[str], script: str = "trap exit TERM; sleep 60 & wait", **fields: Any) -> str:
    fields = {"name": f"r-{time.monotonic_ns():x}", "network_mode": "none", **fields}
    made.append(engine.create_container(api.ContainerSpec(image="busybox", command=("sh", "-c", script), **fields)))
    return made[-1]


def state(engine: Engine, id: str) -> api.ContainerState:
    return next(one for one in engine.snapshot().containers if one.id == id)


def at_once(*works: Callable[[], None]) -> list[BaseException]:
    """Run all at the same instant; what they raised."""
    barrier = threading.Barrier(len(works))
    raised: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised


def test_a_name_is_given_once_however_many_ask_at_the_same_time(engine: Engine, made: list[str]) -> None:
    def ask() -> None:
        create(engine, made, name="wanted")

    raised = at_once(*[ask] * 8)
    assert len(made) == 1
    assert [type(error) for error in raised] == [Conflict] * 7


def test_starts_stops_and_removals_at_once_raise_nothing_but_the_engines_own_errors(
    engine: Engine, made: list[str]
) -> None:
    other = Engine(engine.layout)
    for _ in range(4):
        id = create(engine, made)
        raised = at_once(
            lambda id=id: engine.start_container(id),  # type: ignore[misc]
            lambda id=id: engine.stop_container(id, grace=0.1, by_hand=True),  # type: ignore[misc]
            lambda id=id: other.start_container(id),  # type: ignore[misc]
            lambda id=id: other.remove_container(id, force=True),  # type: ignore[misc]
            lambda id=id: engine.relabel_container(id, {"a": "b"}, None),  # type: ignore[misc]
        )
        assert all(isinstance(error, (NotFound, Conflict)) for error in raised), raised
        assert not os.path.exists(engine.layout.container(id))
        assert id not in engine.client.running()
    other.close()


def test_a_stop_by_hand_that_waits_for_a_start_is_remembered(engine: Engine, made: list[str]) -> None:
    id = create(engine, made)
    with locked(f"{engine.layout.locks}/container-{id}"):
        stopping = threading.Thread(target=engine.stop_container, args=(id, 0.1, True))
        stopping.start()
        deadline = time.monotonic() + 10
        while not engine.store.intent(id):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        engine.store.set_intent(id, "")  # as the start does that has the lock
    stopping.join(10)
    assert state(engine, id).intent == "stop"


def test_a_paused_container_is_neither_started_nor_a_stopped_one_thawed(engine: Engine, made: list[str]) -> None:
    id = create(engine, made)
    engine.start_container(id)
    engine.pause_container(id)
    with pytest.raises(Conflict, match="paused"):
        engine.start_container(id)
    engine.unpause_container(id)
    engine.start_container(id)
    engine.stop_container(id, grace=5)
    with pytest.raises(Conflict, match="not running"):
        engine.unpause_container(id)


def test_a_pause_that_comes_during_a_stop_does_not_stop_the_stop(engine: Engine, made: list[str]) -> None:
    id = create(engine, made, "trap 'sleep 0.5; exit 7' TERM; touch /ready; sleep 60 & wait")
    engine.start_container(id)
    deadline = time.monotonic() + 10
    while engine.exec_capture(id, api.ExecSpec(("test", "-e", "/ready")), 5).exit_code:
        assert time.monotonic() < deadline
    stopping = threading.Thread(target=engine.stop_container, args=(id, 5.0))
    stopping.start()
    time.sleep(0.2)
    with pytest.raises(Conflict, match="not running"):
        engine.pause_container(id)
    stopping.join(20)
    run = state(engine, id).last_run
    assert run and run.exit_code == 7


def test_a_start_that_the_host_refuses_gives_back_what_it_took(
    engine: Engine, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    id = create(engine, made, network_mode="bridge", ports=(api.Port(80, 0),))

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(engine.client, "start", refuse)
        with pytest.raises(EngineError, match="Input/output error"):
            engine.start_container(id)
    last = state(engine, id).last_run
    assert last and last.refused and last.exit_code == 125
    assert not engine.client.held()
    engine.start_container(id)


def test_what_a_kill_in_the_middle_of_a_removal_left_is_collected(engine: Engine, made: list[str]) -> None:
    id = create(engine, made, "true", mounts=(api.Mount("volume", "/data"), api.Mount("volume", "/own", "kept-0")))
    engine.start_container(id)
    engine.wait_container(id, 10)
    name = engine.store.get(id).anonymous[0]
    engine.create_volume(api.VolumeSpec("mine-0", {"holdfast.anonymous": "true"}))
    for volume in (name, "mine-0"):
        path = Path(engine.layout.volumes, volume, "volume.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "created_at": 1.0}))
    shutil.rmtree(engine.layout.container(id))
    assert os.path.exists(engine.layout.run_container(id))
    engine.collect_garbage()
    assert not os.path.exists(engine.layout.run_container(id))
    assert not os.path.exists(f"{engine.layout.locks}/container-{id}")
    assert not os.path.exists(f"{engine.layout.volumes}/{name}")
    assert {"mine-0", "kept-0"} <= {volume.name for volume in engine.snapshot().volumes}
    for volume in ("mine-0", "kept-0"):
        engine.remove_volume(volume)


def test_a_failed_creation_leaves_no_anonymous_volume(
    engine: Engine, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = os.listdir(engine.layout.volumes)
    with monkeypatch.context() as patch:
        patch.setattr(engine.store, "add", refuse)
        with pytest.raises(EngineError):
            create(engine, made, mounts=(api.Mount("volume", "/data"),))
    assert os.listdir(engine.layout.volumes) == before


def test_a_container_that_is_to_go_when_it_ends_goes_at_the_next_look_but_not_before_who_waits_has_seen_its_end(
    engine: Engine, made: list[str]
) -> None:
    id = create(engine, made, "exit 3", auto_remove=True)
    with attended(engine.layout, id):
        engine.start_container(id)
        engine.wait_container(id, 10)
        engine.collect_garbage()
        last = state(engine, id).last_run
        assert last and last.exit_code == 3
    assert id not in [one.id for one in engine.snapshot().containers]
    assert not os.path.exists(engine.layout.container(id)) and not os.path.exists(engine.layout.run_container(id))


def test_a_health_check_runs_in_a_process_with_thousands_of_open_files(engine: Engine, made: list[str]) -> None:
    """select(2) ends at 1024; an agent of many containers does not."""
    id = create(engine, made)
    engine.start_container(id)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert engine.exec_capture(id, api.ExecSpec(("echo", "well")), 10).output == b"well\n"
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_content_is_kept_whole_or_not_at_all_when_the_disk_takes_a_part(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """write(2) on a disk that runs full reports how much it took, and the cause only at the next call."""
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:5]))
        digest = engine.put_file(b"a long secret", True)
    assert Path(engine.layout.secrets, digest).read_bytes() == b"a long secret"

    def run_full(fd: int, data: bytes) -> int:
        if len(data) < len(b"another secret"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, bytes(data)[:5])

    before = sorted(os.listdir(engine.layout.secrets))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", run_full)
        with pytest.raises(DiskFull):
            engine.put_file(b"another secret", True)
    assert sorted(os.listdir(engine.layout.secrets)) == before
