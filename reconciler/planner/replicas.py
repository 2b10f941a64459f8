"""What the containers of services and jobs need: made, replaced, started, updated in place, or left alone."""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.differences import find_differences, show
from reconciler.model import Key, Resource
from reconciler.observed import Instance, declared_part, needs_to_json
from reconciler.plan import Pending, Reason
from reconciler.planner.drafts import Draft
from reconciler.planner.replacement import choose_order
from reconciler.planner.sheet import Sheet, count_replicas, damage_reasons, grace_of
from reconciler.planner.waiting import Standing
from reconciler.requests import container_name, image_name
from reconciler.restart import decide_restart, has_completed, runs_to_completion

COUNTS = frozenset({"replicas", "completions", "parallelism"})
MAKING = frozenset({"create", "replace"})
"""A failure to make a new container holds back the next try, and not the care for the old one."""


def plan_replicas(sheet: Sheet, resource: Resource) -> None:
    key = resource.key
    by_index: dict[int, list[Instance]] = {}
    for instance in sheet.observed.instances.get(key, ()):
        by_index.setdefault(instance.index, []).append(instance)
    wanted = count_replicas(resource)
    limit = (resource.policy or {}).get("parallelism") if key.kind == "job" else None
    budget = int(limit) if limit else wanted
    for index in range(1, wanted + 1):
        found = by_index.pop(index, [])
        if key.kind == "job" and budget <= 0 and not found:
            sheet.stand(key, Standing("held", "waits for a free slot of its parallelism"))
            continue
        budget -= _replica(sheet, resource, index, found)
    if sheet.only_drift:
        return
    previous: Draft | None = None
    for index in sorted(by_index, reverse=True):
        for surplus in by_index[index]:
            reason = Reason("replicas", str(len(sheet.observed.instances[key])), str(wanted))
            previous = _remove(sheet, surplus, (reason,), after=[previous] if previous else [])


def _remove(sheet: Sheet, instance: Instance, reasons: tuple[Reason, ...], after: Iterable[Draft] = ()) -> Draft:
    return sheet.draft(
        Draft(
            "remove", instance.key, instance.index, instance.id, instance.state.name,
            reasons=reasons, after=list(after), grace=grace_of(instance.policy),
        )
    )  # fmt: skip


def _replica(sheet: Sheet, resource: Resource, index: int, found: list[Instance]) -> int:
    """Returns 1 when this replica occupies a slot of a job's parallelism, else 0."""
    key = resource.key
    fitting = [one for one in found if sheet.only_drift or not _misfit(sheet, resource, one)]
    stale = [one for one in found if one not in fitting]
    keep = _best(fitting)
    surplus = [_remove(sheet, one, (Reason(text="it is one too many"),)) for one in fitting if one is not keep]
    if keep is not None and not stale:
        return _look_after(sheet, resource, keep)
    old = _best(stale)
    if old is not None:
        surplus += [
            _remove(sheet, one, (Reason(text="left over from a replacement that did not finish"),))
            for one in stale
            if one is not old
        ]
    if sheet.is_held(key):
        latest = old or keep
        if latest is not None and not latest.live and sheet.held[key].verb in MAKING:
            return _bring_back(sheet, resource, latest, [])
        for one in found:
            sheet.stand(key, standing_of(resource, one, sheet.held[key].reason))
        if not found:
            sheet.stand(key, Standing("held", sheet.held[key].reason, until=sheet.held[key].until))
        return 0
    if not found or old is None:
        if _has_image(sheet, resource):
            text = f"image {resource.spec.get('image')}"
            sheet.draft(Draft("create", key, index, reasons=(Reason(text=text),), after=list(surplus)))
        return 1
    if not _has_image(sheet, resource):
        return 0
    reasons = _misfit(sheet, resource, old)
    order, why = choose_order(resource)
    sheet.draft(
        Draft(
            "replace", key, index, old.id, old.state.name, keep.id if keep else "",
            reasons=reasons, after=list(surplus), order=order, order_reason=why, grace=grace_of(old.policy),
            was_live=old.live,
        )
    )  # fmt: skip
    return 1


def _has_image(sheet: Sheet, resource: Resource) -> bool:
    wanted = str(resource.spec.get("image"))
    if Key("image", wanted) in sheet.resources or sheet.observed.find_image(wanted) is not None:
        return True
    sheet.block(resource.key, f'there is no image "{wanted}"', "build or load it, or declare an Image of that name")
    return False


def _misfit(sheet: Sheet, resource: Resource, one: Instance) -> tuple[Reason, ...]:
    """Why this container is not what is declared; empty when it is."""
    if one.fingerprint != resource.fingerprint and one.spec != resource.spec:
        return find_differences(one.spec, resource.spec) or (
            Reason("fingerprint", show(one.fingerprint), show(resource.fingerprint)),
        )
    name = container_name(sheet.desired.stack, one.key, one.index, resource.policy)
    if one.state.name != name:
        return (Reason("container_name", one.state.name, name),)
    image = Key("image", str(resource.spec.get("image")))
    if sheet.drafts.get(image):
        return ()
    present = sheet.observed.find_image(image_name(sheet.desired, image.name))
    stopped_by_hand = one.state.intent == "stop" and not one.live
    if present is not None and present.id != one.state.image_id and not stopped_by_hand:
        return (Reason("image id", show(one.state.image_id), show(present.id)),)
    return ()


def _look_after(sheet: Sheet, resource: Resource, one: Instance) -> int:
    """A container that is what is declared: is it also where it should be?"""
    key, state = resource.key, one.state
    changed = _policy_reasons(resource, one) if not sheet.only_drift else ()
    if state.intent == "stop" and not one.live and not changed:
        sheet.stand(key, Standing("held", "stopped by hand", one.id))
        return 0
    update: list[Draft] = []
    if changed:
        update = [
            sheet.draft(Draft("update", key, one.index, one.id, state.name, reasons=changed)),
        ]
    if one.live:
        if state.damage and state.status == "running" and not sheet.is_held(key):
            sheet.draft(Draft("repair", key, one.index, one.id, state.name, reasons=damage_reasons(state.damage)))
        sheet.stand(key, standing_of(resource, one, ""))
        return 1
    return _bring_back(sheet, resource, one, update)


def heal_old(sheet: Sheet, resource: Resource, draft: Draft) -> None:
    """What was to be replaced cannot be yet: until then the old container is looked after as if nothing had changed."""
    for one in sheet.observed.instances.get(resource.key, ()):
        if one.id == draft.object_id and one.state.intent != "stop":
            _bring_back(sheet, resource, one, [])


def _bring_back(sheet: Sheet, resource: Resource, one: Instance, update: list[Draft]) -> int:
    """For a container that does not run: start it, now or later, unless it is where it should be."""
    key, state = resource.key, one.state
    torn = any(damage.what == "unclean-boot" for damage in state.damage)
    verdict = decide_restart(key.kind, resource.policy, state, sheet.now)
    if verdict.what == "rest":
        completed = has_completed(state)
        sheet.stand(key, Standing("completed" if completed else "exited", verdict.reason, one.id))
        return 0
    if verdict.what == "give-up":
        sheet.block(key, verdict.reason, f"look at: holdfast logs {sheet.desired.stack}/{key.name}")
        return 0
    hold = sheet.held.get(key)
    if hold is not None and hold.verb not in MAKING and sheet.is_held(key):
        sheet.stand(key, Standing("held", hold.reason, one.id, until=hold.until))
        return 1
    if verdict.what == "later":
        sheet.pending[key, one.index] = Pending(key, one.index, verdict.reason, verdict.until)
        sheet.stand(key, Standing("held", verdict.reason, one.id, until=verdict.until))
        return 1
    if torn:
        reason = Reason(text="the machine went down while it ran; its writable layer may be torn")
        sheet.draft(
            Draft(
                "replace", key, one.index, one.id, state.name, reasons=(reason,), after=update, order="stop-first",
                order_reason="it does not run", grace=0.0,
            )
        )  # fmt: skip
    else:
        text = "started by a changed manifest" if state.intent == "stop" else verdict.reason
        sheet.draft(Draft("start", key, one.index, one.id, state.name, reasons=(Reason(text=text),), after=update))
    return 1


def _policy_reasons(resource: Resource, one: Instance) -> tuple[Reason, ...]:
    """How many replicas there are is no business of a single one."""
    reasons: tuple[Reason, ...] = ()
    before, after = _without_counts(one.policy), _without_counts(resource.policy)
    if before != after:
        reasons = find_differences(before, after)
    if declared_part(one.state.declared, "needs") != needs_to_json(resource.needs):
        reasons += (Reason(text="its dependencies changed"),)
    return reasons


def _without_counts(policy: object) -> object:
    return {name: value for name, value in policy.items() if name not in COUNTS} if isinstance(policy, dict) else policy


def standing_of(resource: Resource, one: Instance, reason: str) -> Standing:
    state = one.state
    if not one.live:
        if has_completed(state):
            return Standing("completed", "completed", one.id)
        return Standing("held", reason or "does not run", one.id)
    if runs_to_completion(resource.key.kind, resource.policy):
        return Standing("completing", "", one.id)
    if state.health_check is None:
        return Standing("running", "", one.id)
    return Standing("healthy" if state.health == "healthy" else "starting", state.health_detail, one.id)


def stand_still(sheet: Sheet, resource: Resource) -> None:
    for instance in sheet.observed.instances.get(resource.key, ()):
        sheet.stand(resource.key, standing_of(resource, instance, "suspended"))
    if resource.key not in sheet.standing:
        sheet.stand(resource.key, Standing("present" if _object_exists(sheet, resource) else "held", "suspended"))


def _object_exists(sheet: Sheet, resource: Resource) -> bool:
    key = resource.key
    if key.kind == "image":
        return (resource.object_name or key.name) in sheet.observed.images
    return key in sheet.observed.networks or key in sheet.observed.volumes


def _best(found: list[Instance]) -> Instance | None:
    """Of several containers of one replica, the one that has proven itself: live, healthy, oldest."""
    if not found:
        return None
    return min(found, key=lambda one: (not one.live, one.state.health == "unhealthy", one.state.created_at, one.id))
