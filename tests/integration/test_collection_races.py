"""Garbage collection beside everything else: whoever collects takes nothing from those who are just making it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import os
import random
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime import api
from runtime.engine import Engine
from runtime.layout import Layout
from tests.support.leftovers import wait_until_clean
from tests.support.roots import engine_with_busybox

pytestmark = pytest.mark.root

PROCESSES = multiprocessing.get_context("fork")
LONG = os.environ.get("HOLDFAST_LONG") == "1"
ROUNDS = 60 if LONG else 6


def use_containers(root: str, name: str, rounds: int, faults: multiprocessing.queues.Queue[str]) -> None:
    """Create, start, stop and remove; whatever is refused is a fault, for nobody else touches these containers."""
    engine = Engine(Layout(root))
    dice = random.Random(name)
    try:
        for number in range(rounds):
            id = engine.create_container(
                api.ContainerSpec(
                    name=f"{name}-{number}", image="busybox", command=("sleep", "1000"), stop_grace=0.0,
                    ports=(api.Port(80, 0),) if dice.random() < 0.5 else (),
                    mounts=(api.Mount("volume", "/data"),) if dice.random() < 0.5 else (),
                )
            )  # fmt: skip
            for _ in range(3):
                engine.start_container(id)
                state = next(one for one in engine.snapshot().containers if one.id == id)
                assert state.status == "running" and not state.damage, state
                engine.stop_container(id, 0.0)
            engine.remove_container(id)
    except BaseException:
        faults.put(f"{name}:\n{traceback.format_exc()}")
    finally:
        engine.close()


def use_networks(root: str, name: str, rounds: int, faults: multiprocessing.queues.Queue[str]) -> None:
    """The first network of a root and the last are made and removed again and again."""
    engine = Engine(Layout(root))
    try:
        for number in range(rounds):
            network = f"{name}-{number}"
            engine.create_network(api.NetworkSpec(network))
            id = engine.create_container(
                api.ContainerSpec(
                    name=network, image="busybox", command=("sleep", "1000"), networks=(api.Attachment(network),)
                )
            )
            engine.start_container(id)
            found = next(one for one in engine.snapshot().networks if one.name == network)
            # Rules are those of all networks: another that is just being made has its own missing.
            assert [one.what for one in found.damage if "rule" not in one.what] == [], found
            assert engine.exec_capture(id, api.ExecSpec(("nslookup", network)), 10).exit_code == 0, (
                "no answer to a name"
            )
            engine.remove_container(id, force=True)
            engine.remove_network(network)
    except BaseException:
        faults.put(f"{name}:\n{traceback.format_exc()}")
    finally:
        engine.close()


def collect(root: str, faults: multiprocessing.queues.Queue[str]) -> None:
    engine = Engine(Layout(root))
    try:
        while not os.path.exists(f"{root}/enough"):
            engine.collect_garbage()
            time.sleep(0.002)
    except BaseException:
        faults.put(f"collector:\n{traceback.format_exc()}")
    finally:
        engine.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("work", [use_containers, use_networks])
def test_several_processes_work_while_another_collects(tmp_path: Path, work: object) -> None:
    with engine_with_busybox(tmp_path / "root") as engine:
        root = engine.layout.root
        faults: multiprocessing.queues.Queue[str] = PROCESSES.Queue()
        collector = PROCESSES.Process(target=collect, args=(root, faults))
        workers = [PROCESSES.Process(target=work, args=(root, f"w{n}", ROUNDS, faults)) for n in range(3)]  # type: ignore[arg-type]
        for process in (collector, *workers):
            process.start()
        for process in workers:
            process.join(800)
        Path(root, "enough").touch()
        collector.join(60)
        assert all(process.exitcode == 0 for process in (collector, *workers))
        assert faults.empty(), faults.get()
        for network in engine.snapshot().networks:
            engine.remove_network(network.name)
        engine.collect_garbage()
        assert wait_until_clean([engine.layout], 10.0) == []
        assert os.listdir(engine.layout.run_containers) == []
        assert os.listdir(engine.layout.containers) == os.listdir(engine.layout.volumes) == []


def test_a_container_whose_starter_was_killed_before_it_was_published_is_damaged_and_mended(tmp_path: Path) -> None:
    with engine_with_busybox(tmp_path / "root") as engine:
        id = engine.create_container(
            api.ContainerSpec(name="web", image="busybox", command=("sleep", "1000"), ports=(api.Port(80, 0),))
        )
        for mend in (engine.repair_container, engine.start_container):
            engine.start_container(id)
            engine.networks.withdraw(id)
            assert [one.what for one in engine.snapshot().containers[0].damage] == ["names and published ports"]
            mend(id)
            assert engine.snapshot().containers[0].damage == ()
            assert engine.exec_capture(id, api.ExecSpec(("nslookup", "web")), 10).exit_code == 0
        engine.remove_container(id, force=True)


def test_replicas_that_start_at_once_fill_a_volume_once_and_a_killed_filling_is_finished(tmp_path: Path) -> None:
    with engine_with_busybox(tmp_path / "root") as engine:
        for round in range(4):
            ids = [
                engine.create_container(
                    api.ContainerSpec(
                        name=f"web-{round}-{number}", image="busybox", command=("sleep", "1000"), network_mode="none",
                        mounts=(api.Mount("volume", "/home", f"home-{round}"),),
                    )
                )
                for number in range(4)
            ]  # fmt: skip
            data = Path(engine.layout.volumes, f"home-{round}", "_data")
            if round % 2:  # as a kill leaves it: half copied, or whole and half moved
                staged = data.parent / ("filling" if round == 1 else "filled")
                staged.mkdir()
                (staged / "moved-first").write_text("x")
                staged.chmod(0o750)
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(engine.start_container, ids))
            if round == 3:
                assert os.listdir(data) == ["moved-first"] and data.stat().st_mode & 0o777 == 0o750
            else:
                assert "app" in os.listdir(data) and "moved-first" not in os.listdir(data)
            assert sorted(os.listdir(data.parent)) == ["_data", "volume.json"]
            for id in ids:
                engine.remove_container(id, force=True)
