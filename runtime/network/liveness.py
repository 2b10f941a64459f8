"""Whether a container is dead beyond doubt, so that what it held may be given to others."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.files import read_json
from runtime.layout import Layout


@contextmanager
def proven_dead(layout: Layout, id: str) -> Iterator[bool]:
    """True when no process of it runs and nobody is starting it; nobody can begin to until the block ends.

    A start holds the container's lock from before it claims anything until its process runs. Whoever collects must
    not trust a list of the living made earlier: a start may have passed in between.
    """
    try:
        lock = os.open(f"{layout.locks}/container-{id}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield not _runs(layout, id)
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield not _runs(layout, id)
    finally:
        os.close(lock)


def is_in_hand(layout: Layout, id: str) -> bool:
    """Whether somebody is just starting, stopping, repairing or removing it."""
    try:
        lock = os.open(f"{layout.locks}/container-{id}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextmanager
def keeper_gone(layout: Layout) -> Iterator[bool]:
    """True when the root has neither keeper nor supervisor; none can come until the block ends."""
    try:
        lock = os.open(f"{layout.run}/keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        yield True  # no run directory: nothing has run since the boot
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(lock)


def _runs(layout: Layout, id: str) -> bool:
    run = layout.run_container(id)
    if os.path.exists(f"{run}/exit"):
        return False
    # `owner` is whoever carries out a build step, before and while the step's own process runs.
    return any(_is_same_process(read_json(f"{run}/{name}")) for name in ("meta", "owner"))


def _is_same_process(record: object) -> bool:
    """Pid and start time together name a process."""
    if not isinstance(record, dict) or "pid" not in record:
        return False
    try:
        with open(f"/proc/{record['pid']}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] not in (b"Z", b"X") and int(fields[19]) == record.get("starttime")
