"""Says how a stack fares: the values behind `status`, read from one snapshot and the records.

All but `collect_status` are pure functions of what was observed. Health that nobody probes any more (no agent) is
reported as unknown, whatever the last verdict was.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from reconciler.generations import Generation, Generations, Intent, RecordedEvent, read_desired
from reconciler.labels import LABEL_FINGERPRINT, LABEL_INDEX, LABEL_RESOURCE, LABEL_STACK
from reconciler.model import Desired, Resource
from reconciler.restart import describe_end
from runtime.api import ContainerState, Damage, Engine, Labels, Run, Snapshot

State = Literal[
    "running", "starting", "unhealthy", "degraded", "stopped", "failed", "completed", "waiting", "backing-off",
    "missing", "present", "suspended", "destroyed", "unwanted",
]  # fmt: skip
NO_AGENT = "unknown (no agent)"


@dataclass(frozen=True, slots=True)
class Held:
    """A resource that the agent leaves alone until `until` (wall clock), because its last action failed."""

    stack: str
    key: str
    reason: str
    until: float
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Instance:
    """One container of a service or job."""

    name: str
    id: str
    state: str
    health: str
    pid: int
    restarts: int
    exit_code: int | None
    ports: tuple[str, ...]
    started_at: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """`ready` of `wanted` counts containers, both 0 for what has none; `backoff_until` 0.0: nothing is held back."""

    key: str
    state: State
    ready: int = 0
    wanted: int = 0
    health: str = ""
    restarts: int = 0
    ports: tuple[str, ...] = ()
    problem: str = ""
    intent: str = ""
    backoff_until: float = 0.0
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True, slots=True)
class StackStatus:
    """`settled`: every resource is as wanted, or left alone on purpose."""

    stack: str
    generation: int
    result: str
    source: str
    revision: str
    applied_at: float
    agent: bool
    settled: bool
    intent: str = ""
    problem: str = ""
    resources: tuple[ResourceStatus, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StackStatus:
        resources = tuple(
            ResourceStatus(
                **{
                    **item,
                    "ports": tuple(item["ports"]),
                    "instances": tuple(Instance(**{**one, "ports": tuple(one["ports"])}) for one in item["instances"]),
                }
            )
            for item in value["resources"]
        )
        return cls(**{**value, "resources": resources})


def stack_status(
    stack: str,
    desired: Desired | None,
    snapshot: Snapshot,
    *,
    generation: Generation | None = None,
    intents: Sequence[Intent] = (),
    events: Sequence[RecordedEvent] = (),
    held: Sequence[Held] = (),
    agent: bool = False,
    now: float = 0.0,
) -> StackStatus:
    """The stack as it is against what was last applied; `desired` None: everything found is unwanted."""
    of_stack = {intent.resource: intent for intent in intents if intent.stack == stack}
    whole = of_stack.get("")
    containers = _containers(snapshot, stack)
    resources = []
    wanted = desired.resources if desired is not None and not (whole and whole.kind == "destroyed") else {}
    held_keys = {item.key: item for item in held if item.stack == stack and item.until > now}
    troubles = _last_troubles(events)
    for key in sorted(wanted):
        name = str(key)
        intent = of_stack.get(name) or (whole if whole is not None and whole.kind == "suspended" else None)
        common = (intent, held_keys.get(name), troubles.get(name, ""))
        resource = wanted[key]
        if key.kind in ("service", "job"):
            resources.append(_workload(resource, containers.pop(name, []), agent, common))
        else:
            resources.append(_thing(resource, snapshot, stack, common))
    for name in sorted(containers):
        instances = tuple(_instance(state, agent) for state in containers[name])
        resources.append(ResourceStatus(name, "unwanted", ready=0, wanted=0, instances=instances))
    settled = all(item.state in ("running", "completed", "present", "suspended", "stopped") for item in resources)
    return StackStatus(
        stack=stack,
        generation=generation.number if generation else 0,
        result=generation.result if generation else "",
        source=generation.source if generation else "",
        revision=generation.revision if generation else "",
        applied_at=generation.created_at if generation else 0.0,
        agent=agent,
        settled=settled,
        intent=_intent_text(whole) if whole else "",
        problem=generation.problem if generation else "",
        resources=tuple(resources),
    )


def collect_status(
    engine: Engine,
    generations: Generations,
    stack: str | None = None,
    *,
    agent: bool = False,
    held: Sequence[Held] = (),
    now: float,
) -> list[StackStatus]:
    """The status of one stack or all, from one look at the engine and the records."""
    snapshot = engine.snapshot()
    recorded = generations.stacks()
    intents = generations.intents(stack)
    names = stacks_seen(snapshot, recorded) if stack is None else [stack]
    found = []
    for name in names:
        wanted = generations.wanted(name) if name in recorded else None
        found.append(
            stack_status(
                name,
                read_desired(wanted) if wanted is not None else None,
                snapshot,
                generation=wanted,
                intents=intents,
                events=generations.events(name),
                held=held,
                agent=agent,
                now=now,
            )
        )
    return found


def stacks_seen(snapshot: Snapshot, recorded: Iterable[str]) -> list[str]:
    """Every stack that has objects or a wanted generation."""
    objects: Iterable[Labels] = (
        thing.labels
        for group in (snapshot.containers, snapshot.networks, snapshot.volumes, snapshot.images)
        for thing in group
    )
    return sorted({labels[LABEL_STACK] for labels in objects if LABEL_STACK in labels} | set(recorded))


# ---- one resource -----------------------------------------------------------------------------------------------

_Common = tuple[Intent | None, Held | None, str]


def _workload(resource: Resource, states: list[ContainerState], agent: bool, common: _Common) -> ResourceStatus:
    intent, held, trouble = common
    job = resource.key.kind == "job" or bool(resource.policy.get("run_to_completion"))
    wanted = int((resource.policy.get("completions") if resource.key.kind == "job" else None) or
                 (1 if resource.key.kind == "job" else resource.policy.get("replicas", 1)))  # fmt: skip
    instances = tuple(_instance(state, agent) for state in states)
    finished = sum(1 for state in states if _finished_well(state))
    ready = sum(1 for state in states if _is_ready(state, agent)) + (finished if job else 0)
    stopped_by_hand = bool(states) and all(state.intent == "stop" and state.status != "running" for state in states)
    state = _workload_state(states, ready=ready, wanted=wanted, finished=finished if job else -1)
    if held is not None and state not in ("running", "completed"):
        state = "backing-off"
    text = ""
    if stopped_by_hand:
        state, text = "stopped", "stopped by hand"
    if intent is not None:
        state, text = ("suspended" if state not in ("running", "completed") else state), _intent_text(intent)
    problem = next((item.problem for item in instances if item.problem), "")
    return ResourceStatus(
        key=str(resource.key),
        state=state,
        ready=min(ready, wanted),
        wanted=wanted,
        health=_overall_health(instances),
        restarts=sum(item.restarts for item in instances),
        ports=tuple(sorted({port for item in instances for port in item.ports})),
        problem=(held.reason if held else "") or problem or (trouble if state not in ("running", "completed") else ""),
        intent=text,
        backoff_until=held.until if held else 0.0,
        instances=instances,
    )


def _workload_state(states: list[ContainerState], *, ready: int, wanted: int, finished: int) -> State:
    running = [state for state in states if state.status in ("running", "paused")]
    if 0 <= wanted <= finished:
        return "completed"
    if wanted == 0:
        return "running" if not running else "degraded"
    if ready >= wanted:
        return "running"
    if any(state.health == "unhealthy" for state in running):
        return "unhealthy" if ready == 0 else "degraded"
    if running:
        return "starting" if any(state.health == "starting" for state in running) else "degraded"
    if not states:
        return "missing"
    last = [state.last_run for state in states if state.last_run is not None]
    if not last:
        return "waiting"
    return "failed" if any(_run_failed(run) for run in last) else "stopped"


def _thing(resource: Resource, snapshot: Snapshot, stack: str, common: _Common) -> ResourceStatus:
    """An image, network, volume, config or secret: present or missing."""
    intent, held, trouble = common
    name = resource.object_name or f"{stack}_{resource.key.name}"
    damage: tuple[Damage, ...] = ()
    if resource.key.kind == "image":
        present = any(resource.key.name in image.names or name in image.names for image in snapshot.images)
    elif resource.key.kind == "network":
        networks = [item for item in snapshot.networks if item.name == name]
        present, damage = bool(networks), tuple(one for item in networks for one in item.damage)
    elif resource.key.kind == "volume":
        volumes = [item for item in snapshot.volumes if item.name == name]
        present, damage = bool(volumes), tuple(one for item in volumes for one in item.damage)
    else:
        # Content is kept by digest and travels with the containers that use it.
        present = True
    state: State = "degraded" if damage else "present" if present else "backing-off" if held else "missing"
    problem = "; ".join(map(describe_damage, damage)) or (held.reason if held else "") or ("" if present else trouble)
    return ResourceStatus(
        str(resource.key),
        state,
        problem=problem,
        intent=_intent_text(intent) if intent else "",
        backoff_until=held.until if held else 0.0,
    )


def _instance(state: ContainerState, agent: bool) -> Instance:
    run = state.last_run
    health: str = state.health
    if state.status != "running":
        health = "none"
    elif state.health_check is not None and state.health != "none" and not agent:
        health = NO_AGENT
    problem = ""
    if state.status not in ("running", "paused") and run is not None and _run_failed(run):
        problem = describe_end(run)
    elif state.status == "running" and state.health == "unhealthy" and agent:
        problem = "health check fails" + (f": {state.health_detail}" if state.health_detail else "")
    return Instance(
        name=state.name,
        id=state.id,
        state=state.status,
        health=health,
        pid=state.pid,
        restarts=max(0, state.starts - 1),
        exit_code=run.exit_code if run is not None and run.finished_at else None,
        ports=tuple(describe_ports(state)),
        started_at=run.started_at if run is not None else 0.0,
        problem=problem,
    )


def describe_ports(state: ContainerState) -> list[str]:
    """`127.0.0.1:8080->80/tcp`, one a published port."""
    texts = []
    for port in state.ports:
        host = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip or "0.0.0.0"
        texts.append(f"{host}:{port.host_port}->{port.container_port}/{port.protocol}")
    return texts


def _containers(snapshot: Snapshot, stack: str) -> dict[str, list[ContainerState]]:
    groups: dict[str, list[ContainerState]] = {}
    for state in snapshot.containers:
        if state.labels.get(LABEL_STACK) == stack:
            groups.setdefault(state.labels.get(LABEL_RESOURCE, ""), []).append(state)
    for states in groups.values():
        states.sort(key=lambda state: (_index(state), state.created_at, state.labels.get(LABEL_FINGERPRINT, "")))
    return groups


def _index(state: ContainerState) -> int:
    text = state.labels.get(LABEL_INDEX, "")
    return int(text) if text.isdecimal() else 0


def _is_ready(state: ContainerState, agent: bool) -> bool:
    return state.status == "running" and (state.health in ("none", "healthy", "unknown") or not agent)


def _finished_well(state: ContainerState) -> bool:
    run = state.last_run
    return state.status == "stopped" and run is not None and run.exit_code == 0 and not run.signal and not run.lost


def _run_failed(run: Run) -> bool:
    return bool(run.finished_at) and not run.by_us and (run.lost or run.oom or bool(run.signal) or run.exit_code != 0)


def _overall_health(instances: tuple[Instance, ...]) -> str:
    found = {item.health for item in instances if item.state == "running"} - {"none"}
    for worst in ("unhealthy", "starting", NO_AGENT, "unknown", "healthy"):
        if worst in found:
            return worst
    return ""


def _last_troubles(events: Sequence[RecordedEvent]) -> dict[str, str]:
    """The message of each resource's latest event, if that event was a failure."""
    latest = {event.resource: event for event in events}
    return {name: event.message for name, event in latest.items() if event.action == "failed"}


def _intent_text(intent: Intent) -> str:
    text: str = intent.kind
    if intent.owner:
        text += f" by {intent.owner}"
    text += f" since {show_time(intent.since)}"
    if intent.until:
        text += f" until {show_time(intent.until)}"
    return text + (f": {intent.reason}" if intent.reason else "")


def describe_damage(damage: Damage) -> str:
    return f"damaged: {damage.what} is {damage.actual or 'gone'}, expected {damage.expected}"


def show_time(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
