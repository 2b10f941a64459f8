"""kill -9 at random instants, of whoever takes part: the next command converges, and nothing of ours is left over."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crashing import Dice, Scene
from tests.support.images import busybox_tree, layer_tar, write_docker_save
from tests.support.roots import engine_with_busybox

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600)]

LONG = os.environ.get("HOLDFAST_LONG") == "1"
DOCKERFILE = """
FROM busybox
COPY data /data
RUN sleep 0.3; echo one > /one
RUN sleep 0.1; echo %d > /two
"""


def rounds(usual: int, long: int) -> int:
    return long if LONG else usual


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with engine_with_busybox(tmp_path / "root") as engine:
        scene = Scene(engine.layout, tmp_path)
        try:
            yield scene
        finally:
            if scene.agent is not None:
                scene.agent.kill()
                scene.agent.wait()
            print(f"{scene.kills} processes killed")


def length_of(scene: Scene) -> float:
    """Seconds that an apply from nothing takes: instants to kill at lie within."""
    began = time.monotonic()
    scene.run(scene.apply())
    return max(0.3, min(2.5, time.monotonic() - began))


VICTIMS = (["cli"], ["supervisor"], ["keeper"], ["cli", "supervisor", "keeper"], ["names"], ["cli", "keeper"])


def test_a_kill_at_any_instant_is_mended_by_the_next_apply(scene: Scene) -> None:
    dice = Dice()
    length = length_of(scene)
    for number in range(rounds(12, 72)):
        if number % 2:
            scene.run(scene.destroy())
        # Each of the victims during applies and during destroys, in turn.
        victims = VICTIMS[(number + number // 6) % len(VICTIMS)]
        scene.hurt(scene.apply() if number % 2 else scene.destroy(), victims, dice.uniform(0.0, length))
        scene.converges()
    scene.run(scene.destroy())
    scene.is_clean()


def test_an_agent_killed_in_the_middle_of_an_apply_goes_on_with_it_when_it_is_back(scene: Scene) -> None:
    dice = Dice()
    length = length_of(scene)
    choices = (["agent"], ["agent", "keeper"], ["cli", "agent"], ["agent", "supervisor", "keeper"], ["keeper"])
    for number in range(rounds(2, 40)):
        scene.run(scene.destroy())
        if scene.agent is None:
            scene.start_agent()
        scene.hurt(scene.apply(), choices[number % len(choices)], dice.uniform(0.1, length))
        if scene.agent is None:
            scene.start_agent()
        if number % 3:
            # Whether the request had come that far or not: nobody asks again for what an agent has begun.
            scene.settles()
        else:
            scene.converges()
    scene.run(scene.destroy())
    scene.stop_agent()
    scene.is_clean()


def test_a_power_cut_in_the_middle_of_an_apply_is_mended_by_the_next_apply_or_the_agent(scene: Scene) -> None:
    dice = Dice()
    length = length_of(scene)
    for number in range(rounds(2, 16)):
        scene.run(scene.destroy())
        scene.hurt(scene.apply(), ["cli"], dice.uniform(0.2, length))
        scene.lose_power()
        if number % 2:
            scene.start_agent()
            scene.settles()
            scene.stop_agent()
        scene.converges()
    scene.run(scene.destroy())
    scene.is_clean()


def test_a_killed_build_is_repeated_and_leaves_nothing(scene: Scene) -> None:
    dice = Dice()
    context = scene.directory / "context"
    context.mkdir()
    (context / "data").write_bytes(os.urandom(1 << 20))
    stack = scene.directory / "built.yaml"
    stack.write_text("name: crash\nservices: {one: {build: context, command: [cat, /two], restart: 'no'}}\n")
    build = scene.argv("image", "build", "--tag", "made", str(context))
    apply = scene.argv("apply", "--yes", "-f", str(stack))
    choices = (["cli"], ["cli", "keeper"], ["supervisor"], ["cli", "supervisor", "keeper"], ["keeper"])
    for number in range(rounds(2, 40)):
        (context / "Dockerfile").write_text(DOCKERFILE % dice.randrange(1 << 30))
        again = apply if number % 4 == 3 else build
        scene.hurt(again, choices[number % len(choices)], dice.uniform(0.1, 1.5))
        scene.run(again)
        assert scene.run(scene.argv("container", "run", "--rm", "made", "cat", "/one")) == "one\n" or again == apply
    scene.run(scene.destroy(), code=None)
    scene.run(scene.argv("system", "prune", "--yes"))
    scene.run(scene.argv("network", "rm", "default"))
    scene.is_clean()


def test_a_killed_load_of_an_archive_is_repeated_and_leaves_nothing(scene: Scene) -> None:
    dice = Dice()
    archive = scene.directory / "archive.tar"
    tree = scene.directory / "tree"
    busybox_tree(str(tree))
    files: dict[str, bytes | None] = {f"file-{number}": os.urandom(20_000) for number in range(200)}
    write_docker_save(str(archive), {"loaded:1": [layer_tar(files), layer_tar({"top": b"top"})]})
    load = scene.argv("image", "load", "--tag", "loaded", "--input", str(archive))
    began = time.monotonic()
    scene.run(load)
    length = time.monotonic() - began
    for _ in range(rounds(2, 40)):
        scene.run(scene.argv("image", "rm", "loaded"))
        scene.hurt(load, ["cli"], dice.uniform(0.0, length))
        scene.run(load)
        assert "loaded" in scene.run(scene.argv("image", "ls"))
        scene.is_clean()


def test_a_killed_run_in_the_foreground_can_be_removed_and_leaves_nothing(scene: Scene) -> None:
    dice = Dice()
    choices = (["cli"], ["cli", "keeper"], ["supervisor"], ["cli", "supervisor", "keeper"], ["keeper"])
    for number in range(rounds(3, 40)):
        words = ["--rm"] if number % 2 else []
        run = scene.argv(
            "container", "run", *words, "--name", "front", "--publish", f"127.0.0.1:{scene.port}:80", "--volume",
            "/anonymous", "busybox", "sh", "-c", "echo begun; sleep 1; echo ended",
        )  # fmt: skip
        scene.hurt(run, choices[number % len(choices)], dice.uniform(0.0, 1.2))
        scene.run(scene.argv("container", "rm", "--force", "front"), code=None)
        assert json.loads(scene.run(scene.argv("container", "ls", "--all", "--json"))) == []
        scene.run(scene.argv("system", "prune", "--yes"))
        assert os.listdir(scene.layout.containers) == os.listdir(scene.layout.run_containers) == []
    scene.run(scene.argv("network", "rm", "default"), code=None)
    scene.is_clean()
