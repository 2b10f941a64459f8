"""Says why a resource is as it is: the chain of reasons behind `explain`, most direct first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.generations import RecordedEvent
from reconciler.model import Desired, Key, Need, Resource
from reconciler.status import ResourceStatus, StackStatus, describe_damage, show_time
from runtime.api import Snapshot


def explain(
    key: Key,
    desired: Desired | None,
    status: StackStatus,
    snapshot: Snapshot,
    events: Sequence[RecordedEvent] = (),
) -> list[str]:
    """The chain of reasons why the resource is as it is, most direct first, one sentence a line."""
    by_key = {item.key: item for item in status.resources}
    found = by_key.get(str(key))
    if found is None:
        return [f"{key} is neither declared by stack {status.stack} nor present"]
    lines = [_headline(found)]
    if status.intent:
        lines.append(f"the stack is {status.intent}")
    if found.intent:
        lines.append(f"it is left alone: {found.intent}")
    for instance in found.instances:
        if instance.problem:
            lines.append(f"{instance.name}: {instance.problem}")
    states = {state.id: state for state in snapshot.containers}
    for instance in found.instances:
        state = states.get(instance.id)
        for damage in state.damage if state is not None else ():
            lines.append(f"{instance.name}: {describe_damage(damage)}")
    if found.problem:
        lines.append(f"last problem: {found.problem}")
    if found.backoff_until:
        lines.append(f"tried again no earlier than {show_time(found.backoff_until)}")
    resource = desired.resources.get(key) if desired is not None else None
    if resource is None:
        lines.append("no manifest of the wanted generation declares it; the next apply with pruning removes it")
    elif found.state not in ("running", "completed", "present"):
        lines.extend(_unmet(resource, by_key, set()))
    if not status.agent:
        lines.append("no agent serves this root: nothing restarts, probes or repairs it until the next apply")
    for event in events[-5:]:
        lines.append(f"{show_time(event.time)} {event.action}: {event.message}".rstrip(": "))
    return lines


def _headline(found: ResourceStatus) -> str:
    text = f"{found.key} is {found.state}"
    if found.wanted:
        text += f": {found.ready} of {found.wanted} ready"
    return text + (f", health {found.health}" if found.health else "")


def _unmet(resource: Resource, by_key: Mapping[str, ResourceStatus], seen: set[Key]) -> list[str]:
    lines = []
    for need in resource.needs:
        found = by_key.get(str(need.key))
        if found is None or need.key in seen or _is_met(need, found):
            continue
        seen.add(need.key)
        why = f" ({found.problem})" if found.problem else ""
        lines.append(
            f"{resource.key} waits for {need.key} to be {_CONDITION_TEXT[need.condition]}; it is {found.state}{why}"
        )
    return lines


_CONDITION_TEXT = {"exists": "there", "started": "started", "healthy": "healthy", "completed": "completed"}


def _is_met(need: Need, found: ResourceStatus) -> bool:
    if need.condition == "completed":
        return found.state == "completed"
    if need.condition == "healthy":
        return found.state == "running"
    return found.state in ("running", "completed", "present", "starting", "unhealthy", "degraded")
