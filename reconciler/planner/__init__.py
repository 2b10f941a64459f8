"""Decides, without touching anything, what brings one stack from what is observed to what is desired.

Level-triggered: only what is observed counts, never what an earlier plan meant to do. An empty plan needs no graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from reconciler.labels import LABEL_FINGERPRINT, LABEL_RESOURCE
from reconciler.model import Desired, Key
from reconciler.observed import Observed
from reconciler.plan import Blocked, Hold, Plan
from reconciler.planner.connection import connect
from reconciler.planner.drafts import Draft, number
from reconciler.planner.objects import plan_image, plan_network, plan_volume
from reconciler.planner.removal import make_destroy_plan, over_budget, plan_prune
from reconciler.planner.replicas import plan_replicas, stand_still
from reconciler.planner.sheet import Sheet, count_replicas

__all__ = ["count_replicas", "digest_basis", "make_destroy_plan", "make_plan"]


def make_plan(
    desired: Desired,
    observed: Observed,
    now: float,
    *,
    prune: bool = True,
    only_drift: bool = False,
    suspended: Collection[Key] = frozenset(),
    allow_deletions: bool = False,
    refresh: bool = False,
    held: Mapping[Key, Hold] | None = None,
) -> Plan:
    """Pure. `now` is wall clock.

    `only_drift` heals and does nothing else; `suspended` resources are left alone; `allow_deletions` lifts the deletion
    budget; `refresh` makes images anew that come from packages; `held` holds back resources whose last action failed.
    Raises InputError when the desired resources wait for each other in a circle.
    """
    sheet = Sheet(desired, observed, now, suspended, held or {}, only_drift=only_drift, refresh=refresh)
    for key, resource in desired.resources.items():
        if key in suspended and not resource.external:
            stand_still(sheet, resource)
        elif key.kind == "image":
            plan_image(sheet, resource)
        elif key.kind == "network":
            plan_network(sheet, resource)
        elif key.kind == "volume":
            plan_volume(sheet, resource)
    for key, resource in desired.resources.items():
        if key.kind in ("service", "job") and key not in suspended:
            plan_replicas(sheet, resource)
    removals = _prune(sheet, allow_deletions) if prune and not only_drift else []
    order: dict[Key, int] = {}
    if any(sheet.drafts.values()) or removals:
        order = connect(sheet, removals)
    actions = number([*(one for drafts in sheet.drafts.values() for one in drafts), *removals], order)
    times = [*sheet.timers, *(pending.until for pending in sheet.pending.values())]
    return Plan(
        desired.stack,
        actions,
        tuple(sheet.blocked.values()),
        tuple(sorted(sheet.pending.values(), key=lambda one: (one.until, one.key, one.index))),
        tuple(sheet.warnings),
        min(times) if times else None,
        digest_basis(desired, observed),
    )


def _prune(sheet: Sheet, allow_deletions: bool) -> list[Draft]:
    """What goes because it is no longer declared: nothing for an empty manifest, nothing above the budget."""
    desired, observed = sheet.desired, sheet.observed
    removals, kept = plan_prune(desired, observed, sheet.suspended)
    sheet.warnings += kept
    if not removals:
        return []
    if not desired.resources:
        sheet.blocked[None] = Blocked(
            None,
            f"the manifest declares nothing, but {len(removals)} objects of the stack exist: nothing is removed",
            f"to remove the stack: holdfast destroy {desired.stack}",
        )
        return []
    excess = "" if allow_deletions else over_budget(desired, observed, removals)
    if excess:
        sheet.blocked[None] = Blocked(None, excess, "--yes removes them; Stack: deletion_budget sets the limit")
        return []
    return removals


def digest_basis(desired: Desired, observed: Observed) -> str:
    """Changes whenever the wish or the world changes in a way that may change the plan."""
    digest = hashlib.sha256()
    for key in sorted(desired.resources):
        resource = desired.resources[key]
        digest.update(f"{key} {resource.fingerprint} {resource.policy!r}\n".encode())
    for key in sorted(observed.instances):
        for one in observed.instances[key]:
            digest.update(f"{one.id} {one.state.status} {one.fingerprint}\n".encode())
    owned = [info.labels for info in observed.networks.values()] + [info.labels for info in observed.volumes.values()]
    for labels in owned:
        digest.update(f"{labels.get(LABEL_RESOURCE)} {labels.get(LABEL_FINGERPRINT)}\n".encode())
    return digest.hexdigest()
