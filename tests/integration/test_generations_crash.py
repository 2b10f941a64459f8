"""kill -9 at any instant of begin and finish leaves a database that the next apply understands."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reconciler.generations import Generations
from runtime.errors import DiskFull, EngineError

ROUNDS = 200 if os.environ.get("HOLDFAST_LONG") == "1" else 12

WRITER = """
import sys
from reconciler.generations import Generations
records = Generations(sys.argv[1])
step = int(sys.argv[2])
print("ready", flush=True)
while True:
    number = records.begin("shop", "desired %d" % step, "r", "s")
    records.record_event("shop", "service/web", "create", "step %d" % step, number)
    records.finish("shop", number, "converged", images={"web": "sha256:%d" % step})
    print(number, flush=True)
    step += 1
"""


DYING = """
import os, sys
from reconciler.generations import Generations
Generations(sys.argv[1]).begin("shop", "a")
os._exit(9)
"""


def test_a_writer_killed_at_random_leaves_exactly_one_wanted_generation_and_no_confirmed_one_is_lost(
    tmp_path: Path,
) -> None:
    chance = random.Random(7)
    confirmed, step = 0, 0
    for _ in range(ROUNDS):
        words = [sys.executable, "-c", WRITER, str(tmp_path), str(step)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(chance.random() * 0.1)
            process.send_signal(signal.SIGKILL)
            lines = process.stdout.read().splitlines()
            process.wait()
        confirmed = max([confirmed, *(int(line) for line in lines if line.isdecimal())])
        step += 100_000
        records = Generations(str(tmp_path))
        history = records.history("shop")
        if not history:
            continue
        assert sum(item.wanted for item in history) == 1
        assert history[0].wanted and history[0].number >= confirmed
        assert {item.result for item in history[1:]} <= {"converged", "interrupted"}
        records.close()
        with sqlite3.connect(tmp_path / "state.db") as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()
    assert confirmed > 0


def test_the_apply_after_a_killed_one_marks_it_interrupted_or_goes_on_with_it(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], check=False).returncode == 9
    records = Generations(str(tmp_path))
    assert records.begin("shop", "a") == 1
    assert records.begin("shop", "b") == 2
    assert [item.result for item in records.history("shop")] == ["unfinished", "interrupted"]
    records.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "holdfast-test", str(place)], check=True)
    return place


def fill(place: Path) -> None:
    fd = os.open(place / "filler", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(fd, b"\0" * 4096)
    except OSError:
        os.close(fd)


@pytest.mark.root
def test_a_full_disk_is_named_and_what_was_recorded_before_stays(small_disk: Path) -> None:
    try:
        records = Generations(str(small_disk))
        records.finish("shop", records.begin("shop", "x" * 10_000), "converged")
        fill(small_disk)
        with pytest.raises(DiskFull, match=r"state\.db"):
            for number in range(100):
                records.begin("shop", str(number) * 20_000)
        records.record_event("shop", "", "x", "y" * 2000)
        wanted = records.wanted("shop")
        assert wanted is not None
        records.close()
        fresh = Generations(str(small_disk))
        assert [item.number for item in fresh.history("shop")][-1] == 1
        fresh.close()
        os.unlink(small_disk / "filler")
        assert records.begin("shop", "after") > wanted.number
        records.close()
    finally:
        subprocess.run(["umount", "-l", str(small_disk)], check=True)


@pytest.mark.root
def test_a_root_on_a_full_disk_gives_a_clear_error_for_the_first_apply_too(small_disk: Path) -> None:
    try:
        fill(small_disk)
        with pytest.raises(EngineError) as caught:
            Generations(str(small_disk / "root")).begin("shop", "x")
        assert isinstance(caught.value, DiskFull), caught.value
    finally:
        subprocess.run(["umount", "-l", str(small_disk)], check=True)


def test_a_lost_database_costs_history_and_nothing_else(tmp_path: Path) -> None:
    records = Generations(str(tmp_path / "root"))
    records.begin("shop", "a")
    records.close()
    shutil.rmtree(tmp_path / "root")
    again = Generations(str(tmp_path / "root"))
    assert again.begin("shop", "a") == 1
    again.close()
