"""Ties the drafts of a plan together: along the graph, around networks made anew, in batches, and over moving ports."""

from __future__ import annotations

from reconciler.model import Key, Resource
from reconciler.observed import Instance
from reconciler.plan import Blocked, Pending, Reason, Wait
from reconciler.planner.drafts import Draft
from reconciler.planner.removal import add_removals, users_by_network
from reconciler.planner.replacement import fixed_ports, published
from reconciler.planner.replicas import heal_old
from reconciler.planner.sheet import CREATING, UNMAKING, Sheet, grace_of
from reconciler.planner.waiting import Standing, judge


def connect(sheet: Sheet, removals: list[Draft]) -> dict[Key, int]:
    """Give every draft its predecessors, and drop those whose needs cannot be met; returns the order of keys."""
    from reconciler.graph import edges_of, ordered

    order = {key: place for place, key in enumerate(key for layer in ordered(sheet.desired) for key in layer)}
    _recreate_networks(sheet, removals)
    _refuse_held_ports(sheet, removals)
    for key in order:
        resource = sheet.resources[key]
        needs = edges_of(resource, sheet.resources)
        own = sheet.drafts.get(key, [])
        if key.kind in ("service", "job") and not sheet.only_drift:
            own = _restarts(sheet, resource, own)
        for draft in list(own):
            if draft.verb in UNMAKING:
                continue
            for need in needs:
                made = [one for one in sheet.drafts.get(need.key, ()) if one.verb not in UNMAKING]
                if draft.verb not in CREATING:
                    draft.after += made
                    continue
                verdict = judge(need, made, sheet.standing.get(need.key, ()), draft.verb in ("start", "restart"))
                if verdict.held and draft.stopped_by is None:
                    _give_up(sheet, draft, verdict.reason, verdict.until)
                    if need.key.kind == "image" and draft.verb == "replace" and not draft.was_live:
                        heal_old(sheet, resource, draft)
                    break
                draft.after += made
                if verdict.ids is not None:
                    draft.waits.append(Wait(need.key, need.condition, need.required, verdict.ids))
                    if not need.required:
                        draft.tolerates += made
        _roll(sheet, resource)
    _clear_ports(sheet, removals)
    add_removals(sheet.observed, sheet.drafts, removals)
    return order


def _give_up(sheet: Sheet, draft: Draft, reason: str, until: float) -> None:
    """Its needs cannot be met now: nothing is begun, and what runs goes on."""
    key = draft.key
    sheet.drafts[key].remove(draft)
    if until:
        sheet.pending.setdefault((key, draft.index), Pending(key, draft.index, reason, until))
    else:
        sheet.blocked.setdefault(key, Blocked(key, reason))
    if draft.was_live:
        sheet.stand(key, Standing("running", "", draft.object_id))
    else:
        sheet.stand(key, Standing("held" if until else "blocked", reason, until=until))


def _restarts(sheet: Sheet, resource: Resource, own: list[Draft]) -> list[Draft]:
    """Compose's `depends_on.restart`: running dependants of what is replaced start anew, unless they do so anyway."""
    causes = [
        need.key
        for need in resource.needs
        if need.restart and any(one.verb in ("replace", "restart") for one in sheet.drafts.get(need.key, ()))
    ]
    if not causes or resource.key in sheet.suspended or any(one.verb in CREATING for one in own):
        return own
    leaving = {one.object_id for one in own if one.verb == "remove"}
    for one in sheet.observed.instances.get(resource.key, ()):
        if one.state.status == "running" and one.id not in leaving:
            reason = Reason(text=f"{causes[0]} is replaced")
            sheet.draft(
                Draft(
                    "restart", one.key, one.index, one.id, one.state.name, reasons=(reason,),
                    grace=grace_of(one.policy), was_live=True,
                )
            )  # fmt: skip
    return sheet.drafts.get(resource.key, [])


def _recreate_networks(sheet: Sheet, removals: list[Draft]) -> None:
    """A network that is made anew first loses its users: they are stopped before, and started after."""
    made_anew = [one for drafts in sheet.drafts.values() for one in drafts if one.key.kind == "network"]
    made_anew = [one for one in made_anew if one.verb == "replace"]
    if not made_anew:
        return
    pruned = {draft.object_id: draft for draft in removals}
    by_network = users_by_network(sheet.observed)
    for network in made_anew:
        users = by_network.get(network.object_name, [])
        ours = [one for one in users if one.key in sheet.resources and one.key not in sheet.suspended]
        others = [one for one in users if one.key not in sheet.resources or one.key in sheet.suspended]
        staying = sorted({str(one.key) for one in others if one.live and one.id not in pruned})
        if staying:
            sheet.drafts[network.key].remove(network)
            reason = f"it changed, but {', '.join(staying)} uses it and is to be left alone"
            sheet.blocked.setdefault(network.key, Blocked(network.key, reason))
            sheet.stand(network.key, Standing("outdated", reason))
            continue
        network.after += [pruned[one.id] for one in others if one.id in pruned]
        for one in ours:
            _detach(sheet, network, one)


def _detach(sheet: Sheet, network: Draft, one: Instance) -> None:
    own = [draft for draft in sheet.drafts.get(one.key, ()) if draft.object_id == one.id]
    removal = next((draft for draft in own if draft.verb == "remove"), None)
    if removal is not None:
        network.after.append(removal)
        return
    if not one.live:
        return
    for draft in own:
        if draft.verb == "repair":
            sheet.drafts[one.key].remove(draft)
    begin = next((draft for draft in own if draft.verb == "replace"), None)
    stop = next((draft for draft in own if draft.verb == "stop"), None)
    reason = Reason(text=f"{network.key} is made anew")
    if stop is None:
        stop = Draft("stop", one.key, one.index, one.id, one.state.name, reasons=(reason,), grace=grace_of(one.policy))
        sheet.draft(stop)
    if begin is None:
        begin = next((draft for draft in own if draft.verb == "start"), None)
    if begin is None:
        begin = sheet.draft(Draft("start", one.key, one.index, one.id, one.state.name, reasons=(reason,)))
    elif begin.verb == "replace":
        begin.order, begin.order_reason = "stop-first", f"{network.key} is made anew"
    begin.after += [stop, network]
    begin.stopped_by = stop
    begin.was_live = True
    network.after.append(stop)


def _roll(sheet: Sheet, resource: Resource) -> None:
    """Replicas are replaced in batches of `update_config.parallelism` (0: all at once).

    A failed batch holds the rest back, unless `failure_action` is to continue.
    """
    update = (resource.policy or {}).get("update") or {}
    batch = int(update.get("parallelism", 1) or 0)
    rolling = [one for one in sheet.drafts.get(resource.key, ()) if one.verb == "replace"]
    if batch <= 0 or len(rolling) <= batch or any(one.stopped_by is not None for one in rolling):
        return
    for position, draft in enumerate(rolling):
        if position >= batch:
            start = (position // batch - 1) * batch
            draft.after += rolling[start : start + batch]
            if update.get("failure_action") == "continue":
                draft.tolerates += rolling[start : start + batch]
            draft.delay = float(update.get("delay") or 0.0)


def _refuse_held_ports(sheet: Sheet, removals: list[Draft]) -> None:
    """A port that a container of this stack keeps (it was not pruned, or is suspended) cannot be published again."""
    leaving = {draft.object_id for drafts in sheet.drafts.values() for draft in drafts if draft.object_id}
    leaving |= {draft.object_id for draft in removals}
    kept: dict[tuple[int, str], Key] = {}
    for key, found in sheet.observed.instances.items():
        for one in found:
            if one.live and one.id not in leaving and (key not in sheet.resources or key in sheet.suspended):
                kept |= dict.fromkeys(published(one), key)
    if not kept:
        return
    for key, drafts in sheet.drafts.items():
        if key.kind not in ("service", "job"):
            continue
        for port in sorted(fixed_ports(sheet.resources[key].spec) & kept.keys()):
            if kept[port] != key:
                reason = f"its port {port[0]}/{port[1]} is held by {kept[port]}, which is left alone"
                for draft in [draft for draft in drafts if draft.verb in CREATING]:
                    _give_up(sheet, draft, reason, 0.0)


def _clear_ports(sheet: Sheet, removals: list[Draft]) -> None:
    """A published port that moves from one service to another is let go before it is taken."""
    leaving = {draft.object_id: draft for drafts in sheet.drafts.values() for draft in drafts if draft.object_id}
    leaving |= {draft.object_id: draft for draft in removals}
    held: dict[tuple[int, str], list[tuple[Instance, Draft]]] = {}
    for found in sheet.observed.instances.values():
        for one in found:
            draft = leaving.get(one.id)
            if one.live and draft is not None and draft.verb in ("remove", "replace"):
                for port in published(one):
                    held.setdefault(port, []).append((one, draft))
    if not held:
        return
    for key, drafts in list(sheet.drafts.items()):
        if key.kind not in ("service", "job"):
            continue
        taken = fixed_ports(sheet.resources[key].spec)
        for port in taken:
            for one, leaver in held.get(port, ()):
                if one.key != key:
                    _let_go(sheet, one, leaver, [draft for draft in drafts if draft.verb in CREATING])


def _let_go(sheet: Sheet, one: Instance, leaver: Draft, takers: list[Draft]) -> None:
    if not takers:
        return
    first = leaver
    if leaver.verb == "replace":
        if leaver.stopped_by is None:
            reason = Reason(text=f"{takers[0].key} takes over its published port")
            leaver.stopped_by = sheet.draft(
                Draft("stop", one.key, one.index, one.id, one.state.name, reasons=(reason,), grace=leaver.grace)
            )
            leaver.after.append(leaver.stopped_by)
            leaver.order, leaver.order_reason = "stop-first", "its published port moves to another service"
        first = leaver.stopped_by
    for taker in takers:
        taker.after.append(first)
