"""Random desired states, and random things that happen to what runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from reconciler.labels import LABEL_STACK
from reconciler.model import Condition, Desired, Key, Need, Resource
from runtime.api import Damage
from tests.support.desired import (
    STACK,
    health,
    make_desired,
    make_image,
    make_job,
    make_network,
    make_service,
    make_volume,
    mount,
    port,
    restart,
)
from tests.support.fake_engine import FakeEngine

NETWORKS = ("back", "front")
VOLUMES = ("cache", "data")
IMAGES = ("app", "base")
WORKERS = ("alpha", "beta", "delta", "gamma", "omega")


def _subset(names: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), unique=True, max_size=len(names)).map(sorted)


@st.composite
def desired_states(draw: st.DrawFn, budget: int | None = 1000) -> Desired:
    """A stack of at most eleven resources; edges lead only to resources that come earlier, so there is no cycle."""
    resources: list[Resource] = []
    networks = draw(_subset(NETWORKS))
    inner = {one for one in networks if draw(st.booleans())}
    for one in networks:
        resources.append(make_network(one, internal=one in inner))
    volumes = draw(_subset(VOLUMES))
    for one in volumes:
        resources.append(make_volume(one))
    images = {one: make_image(one, digest=draw(st.sampled_from("ab")) * 64) for one in draw(_subset(IMAGES))}
    resources += images.values()
    earlier: list[Resource] = []
    names = draw(st.lists(st.sampled_from(WORKERS), unique=True, min_size=1, max_size=5))
    for place, name in enumerate(names):
        worker = draw(_workers(name, place, networks, inner, volumes, images, earlier))
        earlier.append(worker)
        resources.append(worker)
    return make_desired(*draw(st.permutations(resources)), budget=budget)


@st.composite
def _workers(
    draw: st.DrawFn,
    name: str,
    place: int,
    networks: list[str],
    inner: set[str],
    volumes: list[str],
    images: dict[str, Resource],
    earlier: list[Resource],
) -> Resource:
    is_job = draw(st.integers(0, 3)) == 0
    needs: list[Need] = []
    spec: dict[str, Any] = {"env": {"V": draw(st.sampled_from("123"))}}
    image = draw(st.sampled_from(["busybox", *images]))
    spec["image"] = image
    if image in images:
        spec["image_fingerprint"] = images[image].fingerprint
        needs.append(Need(Key("image", image)))
    if volumes and draw(st.booleans()):
        volume = draw(st.sampled_from(volumes))
        spec["mounts"] = [mount(volume)]
        needs.append(Need(Key("volume", volume)))
    for other in earlier:
        if draw(st.integers(0, 2)):
            continue
        conditions: list[Condition] = ["started", "completed"] if other.key.kind == "job" else ["started"]
        if other.policy["health"]:
            conditions.append("healthy")
        needs.append(
            Need(other.key, draw(st.sampled_from(conditions)), draw(st.integers(0, 4)) > 0, draw(st.booleans()))
        )
    joined = draw(_subset(tuple(networks))) if networks else []
    if is_job:
        return make_job(name, needs=needs, networks=joined, **spec)
    # what is on internal networks only cannot publish
    if not (joined and inner.issuperset(joined)) and draw(st.integers(0, 2)) == 0:
        spec["ports"] = [port(8000 + draw(st.integers(0, 1)) * 5 + place)]
    policy: dict[str, Any] = {
        "replicas": draw(st.integers(0, 3)),
        "restart": restart(draw(st.sampled_from(["no", "always", "on-failure"]))),
        "health": health() if draw(st.booleans()) else None,
        "update": {
            "order": draw(st.sampled_from([None, "start-first", "stop-first"])),
            "parallelism": draw(st.integers(0, 2)), "delay": 0.0, "failure_action": "pause",
        },
    }  # fmt: skip
    return make_service(name, needs=needs, networks=joined, policy=policy, **spec)


Disturbance = Callable[[FakeEngine], None]


@st.composite
def disturbances(draw: st.DrawFn) -> Disturbance:
    """One thing that happens to the stack from outside."""
    kind = draw(
        st.sampled_from(["kill", "vanish", "exit", "reboot", "network", "volume", "scar", "wait", "clock", "relabel"])
    )
    which = draw(st.integers(0, 10))
    amount = draw(st.sampled_from([-7200.0, -1.0, 0.5, 3600.0, 1e7]))

    def disturb(engine: FakeEngine) -> None:
        world = engine.snapshot()
        ours = [one for one in world.containers if one.labels.get(LABEL_STACK) == STACK]
        live = [one for one in ours if one.status == "running"]
        networks = [one for one in world.networks if one.labels]
        volumes = [one for one in world.volumes if one.labels]
        if kind == "kill" and live:
            engine.exit(live[which % len(live)].id, signal=9)
        elif kind == "exit" and live:
            engine.exit(live[which % len(live)].id, code=which % 2)
        elif kind == "vanish" and ours:
            engine.vanish(ours[which % len(ours)].id)
        elif kind == "reboot":
            engine.reboot()
        elif kind == "network" and networks:
            engine.vanish_network(networks[which % len(networks)].name)
        elif kind == "volume" and volumes:
            engine.vanish_volume(volumes[which % len(volumes)].name)
        elif kind == "scar" and live:
            engine.scar("container", live[which % len(live)].id, Damage("limit pids", "0", "5"))
        elif kind == "relabel" and ours:
            one = ours[which % len(ours)]
            engine.relabel_container(one.id, {**one.labels, "holdfast.generation": "99"}, one.declared)
        elif kind == "wait":
            engine.advance(abs(amount))
        elif kind == "clock":
            engine.set_clock(engine.now + amount)

    return disturb
