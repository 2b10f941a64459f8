"""One apply per stack at a time, and who holds it is known."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reconciler.lock import StackLocked, lock_holder, stack_lock

HOLD = """
import sys, time
from reconciler.lock import stack_lock
with stack_lock(sys.argv[1], "shop"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with stack_lock(str(tmp_path), "shop"), pytest.raises(StackLocked) as caught, stack_lock(str(tmp_path), "shop"):
        pass
    assert caught.value.holder.pid == os.getpid()
    assert f"process {os.getpid()}" in str(caught.value) and '"shop"' in str(caught.value)


def test_stacks_lock_apart(tmp_path: Path) -> None:
    with stack_lock(str(tmp_path), "a"), stack_lock(str(tmp_path), "b"):
        pass


def test_a_waiting_apply_gets_the_lock_when_the_first_ends(tmp_path: Path) -> None:
    entered = threading.Event()

    def hold() -> None:
        with stack_lock(str(tmp_path), "shop"):
            entered.set()
            time.sleep(0.15)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(5)
    with stack_lock(str(tmp_path), "shop", wait=5):
        pass
    thread.join()


def test_the_lock_dies_with_its_killed_process(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        holder = lock_holder(str(tmp_path), "shop")
        assert holder is not None and holder.pid == process.pid
        with pytest.raises(StackLocked, match=str(process.pid)), stack_lock(str(tmp_path), "shop"):
            pass
        process.kill()
        process.wait()
        with stack_lock(str(tmp_path), "shop"):
            pass


def test_asking_who_holds_it_never_takes_it(tmp_path: Path) -> None:
    assert lock_holder(str(tmp_path), "shop") is None
    with stack_lock(str(tmp_path), "shop"):
        pass
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            lock_holder(str(tmp_path), "shop")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(200):
            with stack_lock(str(tmp_path), "shop"):
                pass
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a/b", ".hidden", "x" * 500, "ümlaut"])
def test_no_stack_name_leaves_the_lock_directory(tmp_path: Path, name: str) -> None:
    with stack_lock(str(tmp_path / "root"), name):
        assert len(os.listdir(tmp_path / "root" / "locks")) == 1
    assert os.listdir(tmp_path) == ["root"]
