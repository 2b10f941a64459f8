"""Plans what goes: dependants before what they need, never data unless told to, never more than the budget allows."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from reconciler.model import Desired, Key
from reconciler.observed import Instance, Observed, declared_part
from reconciler.plan import Plan, Reason
from reconciler.planner.drafts import Draft, number

SMALLEST_BUDGET = 3
LEAVING = ("remove", "replace", "stop")


def plan_prune(desired: Desired, observed: Observed, suspended: Collection[Key]) -> tuple[list[Draft], list[str]]:
    """Drafts for what carries the stack's label and is no longer declared, and a line for data that is kept."""
    why = (Reason(text="it is no longer declared"),)
    gone = [key for key in observed.instances if key not in desired.resources and key not in suspended]
    removals = [
        _remove_container(one, why, pruned=True)
        for key in sorted(gone)
        for one in sorted(observed.instances[key], key=lambda one: -one.index)
    ]
    removals += [
        Draft("remove", key, object_id=info.name, object_name=info.name, reasons=why, pruned=True)
        for key, info in observed.networks.items()
        if key not in desired.resources and key not in suspended
    ]
    kept = [
        f'volume {info.name} is no longer declared; its data is kept ("holdfast volume rm {info.name}" removes it)'
        for key, info in sorted(observed.volumes.items())
        if key not in desired.resources
    ]
    return removals, kept


def over_budget(desired: Desired, observed: Observed, removals: Collection[Draft]) -> str:
    """Why so many removals are refused; "" when they are within the deletion budget."""
    running = sum(one.live for found in observed.instances.values() for one in found) + len(observed.networks)
    budget = desired.settings.deletion_budget
    limit = max(SMALLEST_BUDGET, (running + 1) // 2) if budget is None else budget
    if len(removals) <= limit:
        return ""
    names = sorted({str(draft.key) for draft in removals})
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"pruning would remove {len(removals)} objects ({shown}), more than the deletion budget of {limit}"


def add_removals(observed: Observed, drafts: Mapping[Key, list[Draft]], removals: list[Draft]) -> None:
    """Order the removals, and drop (in place) those of networks that something keeps using."""
    from reconciler.graph import order_removal

    by_key: dict[Key, list[Draft]] = {}
    for draft in removals:
        if draft.index or draft.key in observed.instances:
            by_key.setdefault(draft.key, []).append(draft)
    needs = {key: {need.key for one in observed.instances[key] for need in one.needs} for key in by_key}
    place = {key: position for position, key in enumerate(order_removal(needs))}
    for key, needed in needs.items():
        for other in needed:
            if other in by_key and place[key] < place[other]:
                for draft in by_key[other]:
                    draft.after += by_key[key]
    networks = [draft for draft in removals if draft.key.kind == "network"]
    networks += [
        draft for found in drafts.values() for draft in found if draft.key.kind == "network" and draft.verb == "remove"
    ]
    if not networks:
        return
    leaving = {draft.object_id: draft for draft in removals if draft.object_id}
    for found in drafts.values():
        for draft in found:
            if draft.verb in LEAVING and draft.object_id and draft.key.kind in ("service", "job"):
                kept = leaving.get(draft.object_id)
                if kept is None or kept.verb == "stop":
                    leaving[draft.object_id] = draft
    users = users_by_network(observed)
    for network in networks:
        for one in users.get(network.object_name, ()):
            leaver = leaving.get(one.id)
            if leaver is not None:
                network.after.append(leaver)
            elif one.live:
                held_by = removals if network in removals else drafts[network.key]
                held_by.remove(network)
                break


def users_by_network(observed: Observed) -> dict[str, list[Instance]]:
    """Engine's network name -> containers that are attached to it or would be when they start."""
    users: dict[str, list[Instance]] = {}
    for found in observed.instances.values():
        for one in found:
            spec = one.spec
            networks = spec.get("networks") or [] if isinstance(spec, dict) else []
            for name in {*one.state.addresses, *(str(item.get("network")) for item in networks)}:
                users.setdefault(name, []).append(one)
    return users


def make_destroy_plan(observed: Observed, volumes: bool = False) -> Plan:
    """Remove all that carries the stack's labels, in reverse order of its needs; data only when told to."""
    why = (Reason(text="the stack is destroyed"),)
    removals = [
        _remove_container(one, why)
        for found in observed.instances.values()
        for one in sorted(found, key=lambda one: -one.index)
    ]
    containers = {draft.object_id: draft for draft in removals}
    removals += [
        Draft("remove", key, object_id=info.name, object_name=info.name, reasons=why)
        for key, info in observed.networks.items()
    ]
    warnings = []
    for key, volume in sorted(observed.volumes.items()):
        retained = bool((declared_part(volume.declared, "policy") or {}).get("retain"))
        if not volumes or retained:
            text = "is declared retain" if volumes else "is kept, with its data (--volumes removes it)"
            warnings.append(f"volume {volume.name} {text}")
            continue
        users = [containers[id] for id in volume.users if id in containers]
        removals.append(
            Draft("remove", key, object_id=volume.name, object_name=volume.name, reasons=why, after=list(users))
        )
    add_removals(observed, {}, removals)
    basis = hashlib.sha256("\n".join(sorted(draft.object_id for draft in removals)).encode()).hexdigest()
    return Plan(observed.stack, number(removals, {}), warnings=tuple(warnings), basis=basis)


def _remove_container(one: Instance, why: tuple[Reason, ...], pruned: bool = False) -> Draft:
    grace = (one.policy or {}).get("stop_grace") if isinstance(one.policy, dict) else None
    return Draft(
        "remove", one.key, one.index, one.id, one.state.name, reasons=why,
        grace=None if grace is None else float(grace), pruned=pruned,
    )  # fmt: skip
