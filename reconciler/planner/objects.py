"""What images, networks and volumes need: made when absent, made anew when changed, repaired; never at data's cost."""

from __future__ import annotations

from reconciler.differences import find_differences, show
from reconciler.labels import LABEL_FINGERPRINT, LABEL_STACK
from reconciler.model import Resource
from reconciler.plan import Blocked, Reason, Verb
from reconciler.planner.drafts import Draft
from reconciler.planner.sheet import Sheet, damage_reasons
from reconciler.planner.timing import refresh_due
from reconciler.planner.waiting import Standing


def plan_image(sheet: Sheet, resource: Resource) -> None:
    key, name = resource.key, resource.object_name or resource.key.name
    present = sheet.observed.find_image(name)
    if resource.external:
        if present is None:
            sheet.block(key, f'image "{name}" is declared external and does not exist', "build or load it first")
        return
    verb: Verb = "build" if resource.spec.get("build") else "bootstrap" if resource.spec.get("bootstrap") else "load"
    reasons: tuple[Reason, ...]
    fresh = False
    if present is None:
        reasons = (Reason(text=f"there is no image {name}"),)
    elif present.labels.get(LABEL_FINGERPRINT) != resource.fingerprint and not sheet.only_drift:
        declared = present.declared if isinstance(present.declared, dict) else {}
        reasons = find_differences(declared.get("spec"), resource.spec) if declared.get("spec") else ()
        if declared.get("spec") == resource.spec:
            return
        if not reasons:
            reasons = (Reason(text=f"the image {name} that is here was not made from this manifest"),)
    else:
        due, text = refresh_due(resource.policy, verb, present, sheet.now, sheet.refresh)
        if due is None or sheet.only_drift:
            return
        if due > sheet.now:
            sheet.timers.append(due)
            return
        reasons, fresh = (Reason(text=text),), True
    if sheet.is_held(key):
        if not fresh:
            sheet.stand(key, Standing("held", sheet.held[key].reason, until=sheet.held[key].until))
        return
    sheet.draft(Draft(verb, key, object_name=name, reasons=reasons, fresh=fresh))


def plan_network(sheet: Sheet, resource: Resource) -> None:
    key, name = resource.key, resource.object_name
    info = sheet.observed.networks.get(key)
    if resource.external:
        if name not in sheet.observed.network_names:
            sheet.block(key, f'network "{name}" is declared external and does not exist', "create it first")
        return
    if info is not None and info.name != name:
        # the manifest gave it another name: the old one goes when nothing uses it any more
        old = Draft("remove", key, object_name=info.name, reasons=(Reason("name", info.name, name),))
        sheet.draft(old)
        info = None
    if info is None:
        if name in sheet.observed.network_names:
            sheet.block(
                key,
                f'a network "{name}" exists that is not of this stack',
                "remove it, or declare the network external, or give it another name",
            )
        elif sheet.is_held(key):
            sheet.stand(key, Standing("held", sheet.held[key].reason, until=sheet.held[key].until))
        else:
            sheet.draft(Draft("create", key, object_name=name, reasons=(Reason(text="it does not exist"),)))
        return
    declared = info.declared if isinstance(info.declared, dict) else {}
    same = info.labels.get(LABEL_FINGERPRINT) == resource.fingerprint or declared.get("spec") == resource.spec
    if not same and not sheet.only_drift:
        if not sheet.is_held(key):
            reasons = find_differences(declared.get("spec"), resource.spec) or (
                Reason("fingerprint", show(info.labels.get(LABEL_FINGERPRINT)), show(resource.fingerprint)),
            )
            verb: Verb = "update" if _only_labels_differ(declared.get("spec"), resource.spec) else "replace"
            sheet.draft(Draft(verb, key, object_id=name, object_name=name, reasons=reasons))
    elif info.damage and not sheet.is_held(key):
        sheet.draft(Draft("repair", key, object_id=name, object_name=name, reasons=damage_reasons(info.damage)))


def plan_volume(sheet: Sheet, resource: Resource) -> None:
    key, name = resource.key, resource.object_name
    info = sheet.observed.volumes.get(key)
    if resource.external:
        if name not in sheet.observed.volume_names:
            sheet.block(key, f'volume "{name}" is declared external and does not exist', "create it first")
        return
    if info is not None and info.name != name:
        sheet.warnings.append(f"volume {info.name} is not used any more ({key} is now {name}); its data is kept")
        info = None
    if info is None:
        if name in sheet.observed.volume_names:
            if sheet.observed.volume_owners.get(name, {}).get(LABEL_STACK):
                sheet.block(key, f'volume "{name}" belongs to another stack', "declare it external to share it")
            else:
                sheet.block(
                    key,
                    f'a volume "{name}" exists that is not of this stack',
                    "declare it external to use its data",
                )
        elif sheet.is_held(key):
            sheet.stand(key, Standing("held", sheet.held[key].reason, until=sheet.held[key].until))
        else:
            reasons = [Reason(text="it does not exist")]
            users = _running_users_of_volume(sheet, name)
            if users:
                text = f"volume {name} has vanished while {', '.join(users)} used it; an empty one is made"
                sheet.warnings.append(text)
                reasons = [Reason(text="it has vanished: its data is gone")]
            sheet.draft(Draft("create", key, object_name=name, reasons=tuple(reasons)))
        return
    if info.damage and not sheet.is_held(key):
        sheet.warnings.append(f"volume {name} is damaged: {'; '.join(map(str, damage_reasons(info.damage)))}")
        sheet.draft(Draft("repair", key, object_id=name, object_name=name, reasons=damage_reasons(info.damage)))
    declared = info.declared if isinstance(info.declared, dict) else {}
    before = declared.get("spec")
    if info.labels.get(LABEL_FINGERPRINT) == resource.fingerprint or before == resource.spec or sheet.only_drift:
        return
    if _only_labels_differ(before, resource.spec):
        if not sheet.is_held(key):
            reasons = list(find_differences(before, resource.spec))
            sheet.draft(Draft("update", key, object_id=name, object_name=name, reasons=tuple(reasons)))
        return
    text = "; ".join(map(str, find_differences(before, resource.spec))) or "its definition changed"
    # Not a standing: the volume and its data are there, and what uses them goes on.
    sheet.blocked[key] = Blocked(
        key,
        f"{text}: a volume that holds data is never made anew",
        f'"holdfast volume rm {name}" while nothing uses it starts empty; a volume of another name keeps this data',
    )


def _running_users_of_volume(sheet: Sheet, name: str) -> list[str]:
    users = []
    for found in sheet.observed.instances.values():
        for one in found:
            if one.live and name in _volume_names(one.spec):
                users.append(f"{one.key}-{one.index}")
    return users


def _volume_names(spec: object) -> set[str]:
    mounts = spec.get("mounts") or [] if isinstance(spec, dict) else []
    return {mount.get("source", "") for mount in mounts if mount.get("kind") == "volume"}


def _only_labels_differ(before: object, after: object) -> bool:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return False
    return {**before, "labels": None} == {**after, "labels": None}
