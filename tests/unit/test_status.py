"""How a stack fares is said from what is observed, with the reason, and never better than anybody knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.convergence import ConvergeOptions, converge
from reconciler.explanation import explain
from reconciler.generations import Generations, Intent, RecordedEvent
from reconciler.model import Desired, Key
from reconciler.status import (
    NO_AGENT,
    Held,
    ResourceStatus,
    StackStatus,
    collect_status,
    stack_status,
    stacks_seen,
)
from runtime.api import Damage
from tests.support.desired import (
    STACK,
    health,
    make_desired,
    make_job,
    make_network,
    make_service,
    make_volume,
    mount,
    needs,
    port,
    restart,
)
from tests.support.fake_engine import FakeEngine

WEB = make_service("web", networks=["front"], needs=needs(("service", "db", "healthy")), ports=[port(8080)])
DB = make_service(
    "db", networks=["front"], mounts=[mount("data")], needs=needs(("volume", "data")), policy={"health": health()}
)
SHOP = make_desired(WEB, DB, make_network("front"), make_volume("data"))


class World:
    def __init__(self, tmp_path: Path) -> None:
        self.engine = FakeEngine()
        self.records = Generations(str(tmp_path), self.engine.clock)

    def apply(self, desired: Desired = SHOP) -> None:
        outcome = converge(self.engine, self.records, desired, ConvergeOptions(timeout=10), clock=self.engine.clock)
        assert outcome.converged, outcome

    def status(self, *, agent: bool = False, held: tuple[Held, ...] = ()) -> StackStatus:
        (found,) = collect_status(self.engine, self.records, STACK, agent=agent, held=held, now=self.engine.now)
        return found

    def one(self, key: str, *, agent: bool = False, held: tuple[Held, ...] = ()) -> ResourceStatus:
        (found,) = [item for item in self.status(agent=agent, held=held).resources if item.key == key]
        return found

    def id(self, name: str) -> str:
        return self.engine.container(f"{STACK}/{name}").id


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_converged_stack_is_settled_and_counts_its_replicas(world: World) -> None:
    world.apply()
    status = world.status(agent=True)
    assert status.settled and (status.generation, status.result) == (1, "converged")
    states = {item.key: (item.state, item.ready, item.wanted) for item in status.resources}
    assert states == {
        "network/front": ("present", 0, 0), "service/db": ("running", 1, 1), "service/web": ("running", 1, 1),
        "volume/data": ("present", 0, 0),
    }  # fmt: skip
    assert world.one("service/web").ports == ("0.0.0.0:8080->80/tcp",)


def test_health_that_nobody_probes_is_unknown(world: World) -> None:
    world.apply()
    assert world.one("service/db", agent=True).health == "healthy"
    assert world.one("service/db", agent=False).health == NO_AGENT
    assert world.one("service/web", agent=False).health == ""


def test_an_unhealthy_service_says_what_its_check_said(world: World) -> None:
    world.apply()
    world.engine.set_health(world.id("db-1"), "unhealthy", "exit code 1: no space")
    found = world.one("service/db", agent=True)
    assert (found.state, found.ready) == ("unhealthy", 0) and "no space" in found.problem
    assert not world.status(agent=True).settled


def test_a_dead_container_is_failed_with_how_it_ended(world: World) -> None:
    world.apply()
    world.engine.exit(world.id("web-1"), 3)
    found = world.one("service/web")
    assert found.state == "failed" and "code 3" in found.problem and found.instances[0].exit_code == 3


def test_what_is_held_back_says_until_when(world: World) -> None:
    world.apply()
    world.engine.vanish(world.id("web-1"))
    held = Held(STACK, "service/web", "port 8080 is busy", world.engine.now + 60, 3)
    found = world.one("service/web", held=(held,))
    assert (found.state, found.problem, found.backoff_until) == ("backing-off", "port 8080 is busy", held.until)
    assert world.one("service/web").state == "missing"


def test_a_completed_job_is_completed_and_a_failed_one_is_not(world: World) -> None:
    world.apply(make_desired(make_job("migrate")))
    found = world.one("job/migrate")
    assert (found.state, found.ready, found.wanted) == ("completed", 1, 1)
    other = make_job("broken", command=["false"], policy={"backoff_limit": 0})
    converge(world.engine, world.records, make_desired(other), ConvergeOptions(timeout=5), clock=world.engine.clock)
    assert world.one("job/broken").state == "failed"


def test_intent_is_shown_with_its_owner_and_reason(world: World) -> None:
    world.apply()
    world.records.suspend(STACK, "service/web", reason="debugging", owner="ann")
    world.engine.exit(world.id("web-1"), 1)
    found = world.one("service/web")
    assert found.state == "suspended" and "by ann" in found.intent and "debugging" in found.intent
    world.records.mark_destroyed(STACK)
    assert "destroyed" in world.status().intent


def test_damage_is_named_with_both_values(world: World) -> None:
    world.apply()
    world.engine.scar("network", f"{STACK}_front", Damage("bridge hf1", "up", "gone"))
    found = world.one("network/front")
    assert found.state == "degraded" and "bridge hf1 is gone, expected up" in found.problem


def test_a_replica_too_few_is_degraded(world: World) -> None:
    world.apply(make_desired(make_service("web", policy={"replicas": 3, "restart": restart("no")})))
    world.engine.exit(world.id("web-2"), 0)
    found = world.one("service/web")
    assert (found.state, found.ready, found.wanted) == ("degraded", 2, 3)


def test_what_no_generation_declares_is_unwanted(world: World) -> None:
    world.apply()
    status = stack_status(STACK, None, world.engine.snapshot(), now=world.engine.now)
    assert {item.state for item in status.resources} == {"unwanted"} and not status.settled


def test_stacks_are_found_by_their_objects_and_by_the_records(world: World) -> None:
    world.apply()
    assert stacks_seen(world.engine.snapshot(), ["other"]) == ["other", STACK]


def test_a_status_survives_the_way_through_the_socket(world: World) -> None:
    world.apply()
    status = world.status()
    assert StackStatus.from_json(status.to_json()) == status


def test_an_explanation_follows_the_chain_of_needs(world: World) -> None:
    world.apply()
    world.engine.exit(world.id("web-1"), 1)
    world.engine.exit(world.id("db-1"), 7)
    events = [RecordedEvent(1, world.engine.now, STACK, "service/web", "failed", "cannot start", 1)]
    lines = explain(Key("service", "web"), SHOP, world.status(), world.engine.snapshot(), events)
    text = "\n".join(lines)
    assert lines[0].startswith("service/web is failed")
    assert "service/web waits for service/db to be healthy; it is failed (exited with code 7)" in text
    assert "no agent serves this root" in text
    assert "failed: cannot start" in text


def test_an_explanation_of_the_unknown_says_so(world: World) -> None:
    world.apply()
    (line,) = explain(Key("service", "nope"), SHOP, world.status(), world.engine.snapshot())
    assert "neither declared" in line


def test_an_expired_intent_does_not_show(world: World) -> None:
    world.apply()
    world.records.suspend(STACK, "service/web", until=world.engine.now + 5)
    assert "suspended" in world.one("service/web").intent
    world.engine.advance(6)
    assert world.one("service/web").intent == ""
    assert Intent(STACK, "", "suspended", "", "", 0.0, 0.0) not in world.records.intents()
