"""What killed processes leave behind of containers: half-made records, run files, secrets, anonymous volumes."""

from __future__ import annotations

import os
import re
import shutil
import time

from runtime.container.attended import is_attended
from runtime.container.lifecycle import LABEL_ANONYMOUS, Lifecycle
from runtime.container.store import ContainerRecord, process_start_time
from runtime.errors import Conflict
from runtime.layout import Layout
from runtime.network.liveness import is_in_hand

UNRECORDED = 60.0
"""Seconds within which somebody may still be about to record what an anonymous volume belongs to."""

_TEMPORARY = re.compile(r"\.([0-9]+)(?:\.[0-9a-f]{6,8}|\.new)?\Z")
"""NAME.PID, NAME.PID.RANDOM or NAME.PID.new, as every writer of ours names what it is about to rename."""
_ANONYMOUS = re.compile(r"([0-9a-f]{32})-[0-9]+\Z")


def collect_remains(lifecycle: Lifecycle) -> None:
    """Idempotent, and safe beside anything that other processes do."""
    _collect_unfinished(lifecycle)
    for record in lifecycle.store.all():
        remove_ended(lifecycle, record)
    _collect_removed(lifecycle)


def remove_ended(lifecycle: Lifecycle, record: ContainerRecord) -> bool:
    """Remove it if it was to go when it ends, has ended, and nobody is just waiting for that."""
    if not record.spec.auto_remove or not _is_over(lifecycle, record.id):
        return False
    try:
        lifecycle.remove(record.id)
    except Conflict:
        return False  # started again meanwhile
    return True


def _collect_unfinished(lifecycle: Lifecycle) -> None:
    containers = lifecycle.layout.containers
    for name in _names_in(containers):
        if name.startswith(".new-"):
            _, pid, started, _ = name[1:].split("-", 3)
            if process_start_time(int(pid)) != int(started):
                shutil.rmtree(f"{containers}/{name}", ignore_errors=True)


def _is_over(lifecycle: Lifecycle, id: str) -> bool:
    """Ended, or torn by a crash; not one that is just being started."""
    store = lifecycle.store
    if store.live_pid(id) or store.exit_is_pending(id) or not store.runs(id)[1]:
        return False
    return not is_attended(lifecycle.layout, id) and not is_in_hand(lifecycle.layout, id)


def _collect_removed(lifecycle: Lifecycle) -> None:
    """A kill in the middle of a removal leaves files and volumes that nobody knows, each named after its container.

    Names are listed before records: a container is recorded before it has any of these but volumes, which have an age.
    """
    layout, store = lifecycle.layout, lifecycle.store
    run = {name for name in _names_in(layout.run_containers) if not name.startswith("step")}
    secrets = set(_names_in(layout.run_secrets)) if layout.run_secrets else set()
    volumes = [
        volume.name
        for volume in lifecycle.volumes.list()
        if LABEL_ANONYMOUS in volume.labels and volume.created_at < time.time() - UNRECORDED
    ]
    known = set(store.ids())
    for id in (run | secrets) - known:
        if not store.live_pid(id):
            store.discard(id)
            lifecycle.forget_lock(id)
    for name in volumes:
        match = _ANONYMOUS.match(name)
        if match and match[1] not in known:
            lifecycle.volumes.remove(name)


def collect_temporaries(layout: Layout) -> None:
    """Files that were never renamed into place, by processes that are dead. Some hold a secret, all stay for ever."""
    network = f"{layout.run}/network"
    for directory in (
        layout.configs, layout.secrets, layout.networks, layout.seccomp, layout.build_cache, f"{layout.root}/cache",
        layout.run, layout.zone, network, *(f"{network}/{name}" for name in ("attached", "groups", "ports")),
    ):  # fmt: skip
        for name in _names_in(directory):
            match = _TEMPORARY.search(name)
            if match and not process_start_time(int(match[1])):
                try:
                    os.unlink(f"{directory}/{name}")
                except OSError:
                    continue  # gone, or a directory: not one of these


def _names_in(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
