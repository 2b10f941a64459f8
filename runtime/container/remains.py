"""What killed processes leave behind of containers: half-made records, run files, secrets, anonymous volumes."""

from __future__ import annotations

import os
import re
import shutil
import time

from runtime.container.lifecycle import LABEL_ANONYMOUS, Lifecycle
from runtime.container.store import process_start_time
from runtime.errors import Conflict
from runtime.layout import Layout

ATTENDED = 60.0
"""Seconds for which somebody may still be about to use what looks left behind."""

_TEMPORARY = re.compile(r"\.([0-9]+)(?:\.[0-9a-f]{6,8}|\.new)?\Z")
"""NAME.PID, NAME.PID.RANDOM or NAME.PID.new, as every writer of ours names what it is about to rename."""
_ANONYMOUS = re.compile(r"([0-9a-f]{32})-[0-9]+\Z")


def collect_remains(lifecycle: Lifecycle) -> None:
    """Idempotent, and safe beside anything that other processes do."""
    _collect_unfinished(lifecycle)
    for record in lifecycle.store.all():
        if record.spec.auto_remove and _is_over(lifecycle, record.id):
            try:
                lifecycle.remove(record.id)
            except Conflict:
                continue  # started again meanwhile
    _collect_removed(lifecycle)


def _collect_unfinished(lifecycle: Lifecycle) -> None:
    containers = lifecycle.layout.containers
    for name in _names_in(containers):
        if name.startswith(".new-"):
            _, pid, started, _ = name[1:].split("-", 3)
            if process_start_time(int(pid)) != int(started):
                shutil.rmtree(f"{containers}/{name}", ignore_errors=True)


def _is_over(lifecycle: Lifecycle, id: str) -> bool:
    """Ended a while ago, so that whoever ran it has read its exit code and its log, or torn by a crash."""
    store = lifecycle.store
    if store.live_pid(id) or store.exit_is_pending(id):
        return False
    runs = store.runs(id)[1]
    return bool(runs) and (runs[-1].finished_at or runs[-1].started_at) < time.time() - ATTENDED


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
        if LABEL_ANONYMOUS in volume.labels and volume.created_at < time.time() - ATTENDED
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
