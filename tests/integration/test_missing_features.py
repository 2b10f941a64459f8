"""A host that lacks what containers or networks need is told what is missing and what to install."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import api, cgroup
from runtime.container import features
from runtime.engine import Engine
from runtime.errors import StartFailed, Unsupported
from tests.support.holdfast import holdfast_root
from tests.support.roots import engine_with_busybox

pytestmark = pytest.mark.root


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with engine_with_busybox(tmp_path / "root") as engine:
        yield engine


def sleeper(name: str, **fields: Any) -> api.ContainerSpec:
    return api.ContainerSpec(name, "busybox", command=("sleep", "100"), stop_grace=0.0, **fields)


def without_nftables(patch: pytest.MonkeyPatch) -> None:
    load = ctypes.CDLL

    def refuse(name: Any, *rest: Any, **named: Any) -> Any:
        if "nftables" in str(name):
            raise OSError(f"{name}: cannot open shared object file")
        return load(name, *rest, **named)

    patch.setattr(ctypes, "CDLL", refuse)
    patch.setenv("PATH", "/nowhere")


def test_without_nftables_networks_cannot_be_made_and_all_else_goes_on(engine: Engine) -> None:
    with pytest.MonkeyPatch.context() as patch:
        without_nftables(patch)
        with pytest.raises(Unsupported, match="neither libnftables nor nft is there") as refused:
            engine.create_network(api.NetworkSpec("house"))
        assert refused.value.hint == "install nftables"
        id = engine.create_container(sleeper("alone", network_mode="none"))
        engine.start_container(id)
        assert [one.status for one in engine.snapshot().containers] == ["running"]
        assert (
            "neither libnftables nor nft is there: networks cannot be made (install nftables)"
            in (engine.info()["degraded"])
        )
        connected = engine.create_container(sleeper("connected", networks=(api.Attachment("house"),)))
        with pytest.raises(Unsupported, match="nft"):
            engine.start_container(connected)
    fresh = Engine(engine.layout)
    try:  # once it is installed, the next try succeeds
        fresh.create_network(api.NetworkSpec("house"))
        fresh.start_container(connected)
        assert not [damage for one in fresh.snapshot().networks for damage in one.damage]
        assert not [line for line in fresh.info()["degraded"] if "nft" in line]
    finally:
        fresh.close()


def test_a_limit_that_no_controller_keeps_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hierarchy = tmp_path / "cgroup"
    hierarchy.mkdir()
    (hierarchy / "cgroup.procs").touch()
    (hierarchy / "cgroup.controllers").write_text("cpu\n")
    monkeypatch.setattr(cgroup, "detect", lambda: cgroup.CgroupV2(str(hierarchy)))
    engine.create_container(sleeper("fast", resources=api.Resources(cpus=0.5)))
    for resources, controller in ((api.Resources(memory=64 << 20), "memory"), (api.Resources(pids=10), "pids")):
        with pytest.raises(Unsupported, match=f"the {controller} controller of cgroups is missing") as refused:
            engine.create_container(sleeper("small", resources=resources))
        assert f"cgroup_enable={controller}" in refused.value.hint
    assert [one.name for one in engine.snapshot().containers] == ["fast"]


def test_without_any_cgroups_a_container_is_refused_before_it_is_made(tmp_path: Path) -> None:
    with holdfast_root(tmp_path) as holdfast:
        argv = holdfast.argv("container", "run", "--network", "none", "busybox", "true")
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", 'umount -R /sys/fs/cgroup && exec "$@"', "sh", *argv],
            capture_output=True, text=True, check=False, timeout=60, env=holdfast.environment,
        )  # fmt: skip
        assert done.returncode == 125, done
        assert "no cgroup hierarchy is mounted" in done.stderr and "mount -t cgroup2" in done.stderr
        assert holdfast.containers(all=True) == []


def test_a_kernel_without_overlayfs_is_named_as_the_cause(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(id: str, stdio: object = None) -> None:
        raise StartFailed('cannot start container "alone": mount /: No such device')

    filesystems = tmp_path / "filesystems"
    filesystems.write_text("nodev\tsysfs\nnodev\ttmpfs\n\text4\n")
    id = engine.create_container(sleeper("alone", network_mode="none"))
    with monkeypatch.context() as patch:
        patch.setattr(engine.client, "start", refuse)
        patch.setattr(features, "FILESYSTEMS", str(filesystems))
        with pytest.raises(StartFailed, match="this kernel has no overlayfs") as refused:
            engine.start_container(id)
        assert "modprobe overlay" in refused.value.hint
        assert any("overlayfs" in line for line in engine.info()["degraded"])
    engine.start_container(id)
    assert engine.snapshot().containers[0].status == "running"
