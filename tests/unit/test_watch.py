"""A changed manifest is noticed within moments, also when the editor or git swaps whole files and directories."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.source.watch import Watch, watched_places


class Bell:
    def __init__(self) -> None:
        self.rung = threading.Event()

    def __call__(self) -> None:
        self.rung.set()

    def rings(self, timeout: float = 5.0) -> bool:
        found = self.rung.wait(timeout)
        self.rung.clear()
        return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "web.yaml").write_text("a")
    return tmp_path / "manifests"


@pytest.fixture
def bell(place: Path) -> Iterator[Bell]:
    made = Bell()
    watch = Watch([str(place)], made)
    # inotify is set up on the watch's own thread: ring until it answers, then wait for silence.
    deadline = time.monotonic() + 10
    while not made.rung.is_set():
        assert time.monotonic() < deadline
        (place / "probe.yaml").write_text(str(time.monotonic()))
        time.sleep(0.05)
    while made.rings(0.5):
        pass
    yield made
    watch.close()


def test_an_edited_file_is_noticed(place: Path, bell: Bell) -> None:
    (place / "web.yaml").write_text("b")
    assert bell.rings()


def test_a_file_renamed_over_another_is_noticed(place: Path, bell: Bell) -> None:
    (place / "web.yaml.part").write_text("b")
    os.replace(place / "web.yaml.part", place / "web.yaml")
    assert bell.rings()


def test_a_new_directory_and_a_file_in_it_are_noticed(place: Path, bell: Bell) -> None:
    (place / "more").mkdir()
    (place / "more" / "db.yaml").write_text("a")
    assert bell.rings()


def test_editor_droppings_are_not_worth_a_look(place: Path, bell: Bell) -> None:
    (place / ".web.yaml.swp").write_text("x")
    (place / "web.yaml~").write_text("x")
    assert not bell.rings(0.6)


def test_a_file_is_watched_through_its_directory_and_a_missing_path_through_its_nearest_ancestor(place: Path) -> None:
    assert watched_places([str(place / "web.yaml")]) == [str(place)]
    assert watched_places([str(place / "not" / "yet" / "there")]) == [str(place)]


def test_standard_input_is_not_watched() -> None:
    Watch(["-"], lambda: None).close()
