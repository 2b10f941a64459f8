"""Attempts to reach the host, another container's data or the engine's own files from inside, or by a hostile name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import api
from runtime.container.step import _follow as follow_step
from runtime.engine import Engine
from runtime.errors import EngineError
from runtime.sandbox.mounts import MountRefused, Source
from runtime.supervise.logfile import LogWriter
from tests.support.images import busybox_tree, image_config
from tests.support.roots import engine_with_busybox

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Below a directory that everybody may enter, as /var/lib is: the engine's own modes must do."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)
        with engine_with_busybox(Path(directory) / "root") as engine:
            yield engine


@pytest.fixture
def made(engine: Engine) -> Iterator[list[str]]:
    """Ids of containers to remove after the test."""
    ids: list[str] = []
    yield ids
    for id in ids:
        engine.remove_container(id, force=True)


def spec(script: str = "sleep 60", **fields: object) -> api.ContainerSpec:
    fields = {"name": f"h-{time.monotonic_ns():x}", "network_mode": "none", **fields}
    return api.ContainerSpec(image="busybox", command=("sh", "-c", script), **fields)  # type: ignore[arg-type]


def start(engine: Engine, made: list[str], script: str, **fields: object) -> str:
    made.append(engine.create_container(spec(script, **fields)))
    engine.start_container(made[-1])
    return made[-1]


def finish(engine: Engine, made: list[str], script: str, **fields: object) -> tuple[int | None, str]:
    id = start(engine, made, script, **fields)
    run = engine.wait_container(id, 20)
    assert run is not None, "the container did not end"
    return run.exit_code, b"\n".join(line.data for line in engine.logs(id)).decode()


def as_nobody(*argv: str) -> subprocess.CompletedProcess[bytes]:
    drop = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    return subprocess.run([*drop, *argv], capture_output=True, check=False, timeout=10)


# ---- users of the host


def test_a_user_of_the_host_reaches_neither_set_uid_programs_of_containers_nor_volumes(
    engine: Engine, made: list[str]
) -> None:
    """CVE-2021-41091: everybody reads the ids of containers in /proc/PID/cgroup, so they keep no secret."""
    script = "cp /bin/busybox /suid && chmod 4755 /suid && echo private > /data/file"
    finish(engine, made, script, mounts=(api.Mount("volume", "/data", "private"),))
    program = f"{engine.layout.container(made[0])}/upper/suid"
    data = f"{engine.layout.volumes}/private/_data/file"
    assert os.path.exists(program) and os.path.exists(data)
    assert as_nobody(program).returncode != 0
    assert b"Permission denied" in as_nobody("cat", program).stderr
    assert b"Permission denied" in as_nobody("cat", data).stderr
    assert as_nobody("ls", engine.layout.root).returncode != 0
    assert as_nobody("ls", f"{engine.layout.root}/layers/").returncode != 0


def test_whatever_the_umask_nobody_but_root_writes_below_a_state_root() -> None:
    """What lies in `mount-points` is below every container: an /etc/ld.so.preload there would run in all of them."""
    before = os.umask(0)
    try:
        with (
            tempfile.TemporaryDirectory(dir="/var/tmp") as directory,
            engine_with_busybox(Path(directory) / "root") as engine,
        ):
            id = engine.create_container(spec("true"))
            engine.start_container(id)
            engine.wait_container(id, 10)
            for folder, folders, files in os.walk(engine.layout.root):
                if folder.count("/") - engine.layout.root.count("/") >= 2:
                    folders.clear()
                for name in (*folders, *files):
                    mode = os.lstat(f"{folder}/{name}").st_mode
                    assert not mode & 0o022, f"{folder}/{name} {mode:o}"
    finally:
        os.umask(before)


# ---- volumes


def test_a_subpath_is_resolved_beneath_its_volume_when_it_is_mounted(tmp_path: Path) -> None:
    """CVE-2017-1002101: between the engine's look and the mount, a container put a link in the way."""
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    (volume / "sub").mkdir(parents=True)
    outside.mkdir()
    mount = {"kind": "bind", "source": str(volume), "subpath": "sub", "target": "/data", "recursive": True}
    os.close(Source(mount).tree)
    (volume / "sub").rmdir()
    for way_out in (str(outside), "../outside", "/proc/self/root"):
        (volume / "sub").symlink_to(way_out)
        with pytest.raises(MountRefused, match="subpath sub"):
            Source(mount)
        (volume / "sub").unlink()


def test_a_subpath_shows_that_part_of_the_volume_alone(engine: Engine, made: list[str]) -> None:
    finish(engine, made, "mkdir -p /v/a/b; echo inner > /v/a/b/file", mounts=(api.Mount("volume", "/v", "parts"),))
    mounted = api.Mount("volume", "/v", "parts", subpath="a/b")
    assert finish(engine, made, "ls /v; cat /v/file", mounts=(mounted,)) == (0, "file\ninner")


def test_a_volume_that_is_declared_read_only_is(engine: Engine, made: list[str], tmp_path: Path) -> None:
    (tmp_path / "shown").write_text("shown")
    options = {"type": "none", "device": str(tmp_path), "o": "bind,ro"}
    engine.create_volume(api.VolumeSpec("frozen", driver_opts=options))
    mounts = (api.Mount("volume", "/home", "frozen"),)
    code, output = finish(engine, made, "cat /home/shown; echo x > /home/new", mounts=mounts)
    assert code != 0 and "shown" in output and "Read-only" in output
    assert sorted(os.listdir(tmp_path)) == ["shown"]
    with pytest.raises(EngineError, match="nodev"):
        engine.create_volume(api.VolumeSpec("other", driver_opts={**options, "o": "bind,nodev"}))


# ---- builds


def test_a_step_that_makes_etc_a_link_removes_nothing_of_the_host(engine: Engine, tmp_path: Path) -> None:
    for name in ("hosts", "resolv.conf"):
        (tmp_path / name).write_text("")
    store = engine.images
    with store.lease(), store.ingest() as ingest:
        busybox_tree(ingest.tree)
        shutil.rmtree(f"{ingest.tree}/etc")
        store.commit(image_config(Env=["PATH=/bin"]), [store.add_layer_from_dir(ingest.tree)], "etcless")
    dockerfile = f"FROM etcless\nRUN mv /etc /old && ln -s {tmp_path} /etc\n"
    request = api.BuildRequest(context=str(tmp_path), dockerfile_inline=dockerfile, network="none")
    engine.make_image("linked", request, {}, None, lambda line: None)
    assert sorted(os.listdir(tmp_path)) == ["hosts", "resolv.conf"]


def test_the_last_lines_of_a_step_are_waited_for_until_its_exit_record_is_there(engine: Engine) -> None:
    """The process is gone first, and the supervisor empties its pipe afterwards."""
    id = f"step{time.monotonic_ns():x}"
    run = engine.layout.run_container(id)
    os.makedirs(run)
    log = LogWriter(f"{run}/log")
    Path(run, "meta").write_text(json.dumps({"pid": 2**22, "starttime": 1}))

    def supervise() -> None:
        time.sleep(0.3)
        log.write(b"the cause\n", 2)
        Path(run, "exit").write_text(json.dumps({"code": 3, "signal": 0}))

    lines: list[bytes] = []
    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        assert follow_step(engine.lifecycle, id, lines.append, None) == 3
        assert lines == [b"the cause"]
    finally:
        supervisor.join()
        log.close()
        shutil.rmtree(run)
