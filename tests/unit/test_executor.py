"""How a plan is carried out: in order, in parallel, and with the old one untouched until the new one is proven."""

from __future__ import annotations

import threading

import pytest

from reconciler.executor import Event, Outcome, Result, execute
from reconciler.labels import LABEL_FINGERPRINT, LABEL_GENERATION, LABEL_STACK
from reconciler.model import Desired
from reconciler.observed import observe
from reconciler.planner import make_destroy_plan
from runtime.errors import EngineError, InvalidSpec, PortBusy, Unavailable
from tests.support.converging import FakeProber, apply_once, converge, plan_now, waiting
from tests.support.desired import (
    STACK,
    file,
    health,
    make_desired,
    make_image,
    make_job,
    make_network,
    make_service,
    make_volume,
    mount,
    needs,
)
from tests.support.fake_engine import FakeEngine


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def name(service: str = "web", index: int = 1) -> str:
    return f"{STACK}/{service}-{index}"


def by_target(result: Result) -> dict[str, Outcome]:
    return {outcome.action.target: outcome for outcome in result.outcomes}


def mutations(engine: FakeEngine) -> list[tuple[str, str]]:
    return [call for call in engine.calls if call[0] != "snapshot"]


def test_a_failure_skips_what_depends_on_it_and_nothing_else(engine: FakeEngine) -> None:
    desired = make_desired(
        make_service("db", command=["no-such-program"]),
        make_service("api", needs=needs(("service", "db", "started"))),
        make_service("web", needs=needs(("service", "api", "started"))),
        make_service("other"),
    )
    _, result = apply_once(engine, desired)
    found = by_target(result)
    assert {target: outcome.status for target, outcome in found.items()} == {
        "service/db-1": "failed",
        "service/api-1": "skipped",
        "service/web-1": "skipped",
        "service/other-1": "done",
    }
    assert found["service/db-1"].message.startswith(f'cannot start container "{name("db")}"')
    assert not result.ok


def test_a_tolerated_dependency_may_fail(engine: FakeEngine) -> None:
    from reconciler.model import Key, Need

    need = Need(Key("service", "db"), "healthy", required=False)
    desired = make_desired(make_service("db", command=["no-such-program"]), make_service("web", needs=[need]))
    _, result = apply_once(engine, desired)
    assert by_target(result)["service/web-1"].status == "done"


def test_independent_actions_run_at_the_same_time(engine: FakeEngine) -> None:
    together = threading.Barrier(4, timeout=5)

    class Slow(FakeEngine):
        def start_container(self, id: str) -> None:
            together.wait()
            super().start_container(id)

    slow = Slow()
    _, result = apply_once(slow, make_desired(*(make_service(f"s{n}") for n in range(4))), workers=4)
    assert result.ok


def test_objects_carry_the_stack_the_generation_and_what_was_declared(engine: FakeEngine) -> None:
    service = make_service("web", labels={"tier": "front", LABEL_STACK: "forged"}, networks=["front"])
    apply_once(engine, make_desired(service, make_network("front")), generation=7)
    state = engine.container(name())
    assert state.labels["tier"] == "front"
    assert state.labels[LABEL_STACK] == STACK
    assert state.labels[LABEL_GENERATION] == "7"
    assert state.labels[LABEL_FINGERPRINT] == service.fingerprint
    assert state.declared["spec"] == service.spec
    spec = engine.spec_of(name())
    assert spec.hostname == "web-1"
    assert spec.networks[0].aliases[:2] == ("web", "web-1")


def test_files_reach_the_engine_once_before_the_containers_that_name_them(engine: FakeEngine) -> None:
    digest = engine.file_digest(b"s3cret", True)
    service = make_service("web", files=[file("/run/secrets/x", digest, True)], policy={"replicas": 3})
    _, result = apply_once(engine, make_desired(service, files={digest: (b"s3cret", True)}))
    assert result.ok
    assert [call[0] for call in mutations(engine)].count("put_file") == 1
    assert mutations(engine)[0][0] == "put_file"


# ---- replacing


def test_start_first_touches_the_old_one_only_when_the_new_one_runs(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("web")))
    engine.calls.clear()
    apply_once(engine, make_desired(make_service("web", env={"A": "1"})))
    assert [call[0] for call in mutations(engine)] == [
        "create_container", "start_container", "stop_container", "remove_container",
    ]  # fmt: skip


@pytest.mark.parametrize("change", [{"command": ["no-such-program"]}, {"command": ["false"]}])
def test_a_successor_that_fails_is_removed_and_the_old_one_runs_on(
    engine: FakeEngine, change: dict[str, list[str]]
) -> None:
    apply_once(engine, make_desired(make_service("web")))
    before = engine.container(name())
    _, result = apply_once(engine, make_desired(make_service("web", **change)))
    assert result.failed[0].message.endswith("the old container runs on")
    (after,) = engine.snapshot().containers
    assert (after.id, after.pid) == (before.id, before.pid)


def test_an_unhealthy_successor_is_removed_and_the_old_one_runs_on(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("web", policy={"health": health()})))
    before = engine.container(name())
    engine.health_of = lambda spec: 1 if "A" in spec.env else 0
    _, result = apply_once(engine, make_desired(make_service("web", policy={"health": health()}, env={"A": "1"})))
    assert "is unhealthy: not well" in result.failed[0].message
    assert [state.id for state in engine.snapshot().containers] == [before.id]


def test_a_stop_first_successor_that_fails_gives_way_to_the_old_one_again(engine: FakeEngine) -> None:
    def state(command: str) -> Desired:
        db = make_service("db", command=[command, "infinity"], mounts=[mount("data")], needs=needs(("volume", "data")))
        return make_desired(db, make_volume("data"))

    apply_once(engine, state("sleep"))
    before = engine.container(name("db")).id
    _, result = apply_once(engine, state("no-such-program"))
    assert "started again" in result.failed[0].message
    (after,) = engine.snapshot().containers
    assert after.id == before and after.status == "running"


def test_a_wrong_image_stops_nothing(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("web"), make_service("api")))
    wrong = make_desired(make_service("web", image="nowhere"), make_service("api", image="nowhere"))
    plan, _ = apply_once(engine, wrong)
    assert plan.empty and len(plan.blocked) == 2
    assert all(state.status == "running" for state in engine.snapshot().containers)


def test_a_failed_build_leaves_what_runs(engine: FakeEngine) -> None:
    def state(letter: str) -> Desired:
        image = make_image("app", digest=letter * 64)
        return make_desired(make_service("web", image="app", image_fingerprint=image.fingerprint), image)

    apply_once(engine, state("a"))
    engine.fail("make_image", "app", InvalidSpec('cannot build image "app": step 3 failed'))
    _, result = apply_once(engine, state("b"))
    assert {outcome.action.target: outcome.status for outcome in result.outcomes} == {
        "image/app": "failed",
        "service/web-1": "skipped",
    }
    assert engine.container(name()).status == "running"


def test_a_network_whose_new_subnet_collides_is_left_standing(engine: FakeEngine) -> None:
    web = make_service("web", networks=["front"])
    apply_once(engine, make_desired(web, make_network("front")))
    engine.host_routes.add("10.9.0.0/24")
    _, result = apply_once(engine, make_desired(web, make_network("front", subnets=["10.9.0.0/24"])))
    assert by_target(result)["network/front"].status == "failed"
    assert [info.name for info in engine.snapshot().networks] == [f"{STACK}_front"]
    converge(engine, make_desired(web, make_network("front")))
    assert engine.container(name()).status == "running"


# ---- retries


def test_only_retryable_errors_are_tried_again_and_not_for_ever(engine: FakeEngine) -> None:
    engine.fail("start_container", error=Unavailable("cannot start: busy"), times=2)
    assert apply_once(engine, make_desired(make_service("web")))[1].ok
    engine.fail("create_container", "b-1", InvalidSpec("cannot create: bad"), times=1)
    assert not apply_once(engine, make_desired(make_service("web"), make_service("b")))[1].ok
    engine.fail("create_container", "c-1", PortBusy("cannot create: busy"), times=99)
    both = make_desired(make_service("web"), make_service("b"), make_service("c"))
    engine.calls.clear()
    assert not apply_once(engine, both)[1].ok
    assert [call for call in engine.calls if call == ("create_container", name("c"))] == [
        ("create_container", name("c"))
    ] * 3


# ---- conditions


def test_a_dependant_starts_only_after_the_dependency_is_healthy(engine: FakeEngine) -> None:
    healths: list[str] = []

    class Watching(FakeEngine):
        def start_container(self, id: str) -> None:
            super().start_container(id)
            if "web" in self.container(id).name:
                healths.append(self.container(name("db")).health)

    watching = Watching()
    desired = make_desired(
        make_service("db", policy={"health": health()}),
        make_service("web", needs=needs(("service", "db", "healthy"))),
    )
    assert apply_once(watching, desired)[1].ok
    assert healths == ["healthy"]


@pytest.mark.parametrize("condition", ["healthy", "completed"])
def test_a_dependency_that_dies_fails_its_dependants_at_once_and_not_at_the_deadline(
    engine: FakeEngine, condition: str
) -> None:
    desired = make_desired(
        make_service("db", command=["sh", "-c", "exit 3"], policy={"health": health(), "run_to_completion": True}),
        make_service("web", needs=needs(("service", "db", condition))),  # type: ignore[arg-type]
    )
    plan = plan_now(engine, desired)
    result = execute(plan, desired, engine, wait=waiting(engine, timeout=60.0))
    web = by_target(result)["service/web-1"]
    assert web.status == "skipped" and "exited with code 3" in web.message
    assert web.seconds < 5


def test_an_unhealthy_dependency_fails_its_dependants(engine: FakeEngine) -> None:
    engine.health_of = lambda spec: 1
    desired = make_desired(
        make_service("db", policy={"health": health()}),
        make_service("web", needs=needs(("service", "db", "healthy"))),
    )
    found = by_target(apply_once(engine, desired)[1])
    assert found["service/db-1"].status == "failed"
    assert "is unhealthy" in found["service/web-1"].message


def test_what_is_not_ready_before_the_deadline_is_deferred_and_planned_again(engine: FakeEngine) -> None:
    desired = make_desired(
        make_job("long", command=["sleep", "infinity"]), make_service("web", needs=needs(("job", "long", "completed")))
    )
    plan = plan_now(engine, desired)
    result = execute(plan, desired, engine, wait=waiting(engine, timeout=0.05))
    assert by_target(result)["service/web-1"].status == "deferred"
    assert result.timed_out
    again = plan_now(engine, desired)
    assert [action.target for action in again.actions] == ["service/web-1"]
    engine.exit(engine.container(name("long")).id, code=0)
    converge(engine, desired)
    assert engine.container(name()).status == "running"


def test_without_a_timeout_nothing_is_waited_for(engine: FakeEngine) -> None:
    desired = make_desired(
        make_job("long", command=["sleep", "infinity"]), make_service("web", needs=needs(("job", "long", "completed")))
    )
    result = execute(plan_now(engine, desired), desired, engine, wait=waiting(engine, timeout=0.0))
    assert [outcome.status for outcome in result.outcomes] == ["done", "deferred"]
    assert not result.timed_out


# ---- proofs at the end


def test_a_container_that_exits_at_once_is_a_failure_that_says_where_to_look(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web", command=["sh", "-c", "exit 7"]))
    _, result = apply_once(engine, desired)
    assert result.failed[0].message == "service/web-1 exited with code 7"
    assert "holdfast logs shop/web" in result.failed[0].hint


def test_a_job_is_waited_for_and_its_exit_code_counts(engine: FakeEngine) -> None:
    assert apply_once(engine, make_desired(make_job("good", command=["sleep", "3"])))[1].ok
    _, result = apply_once(engine, make_desired(make_job("bad", command=["sh", "-c", "exit 4"])))
    assert "exited with code 4" in result.failed[0].message


def test_published_ports_that_stay_closed_are_a_warning(engine: FakeEngine) -> None:
    from tests.support.desired import port

    network = make_network("front", subnets=["127.255.255.0/24"])
    desired = make_desired(make_service("web", ports=[port(8080, 9)], networks=["front"]), network)
    _, result = apply_once(engine, desired)
    assert result.ok
    assert result.warnings == ("service/web-1: its published port 9 accepts no connection yet",)


# ---- stopping, events, faults of ours


def test_when_asked_to_stop_it_finishes_what_has_begun_and_begins_no_more(engine: FakeEngine) -> None:
    asked = threading.Event()

    class Asking(FakeEngine):
        def start_container(self, id: str) -> None:
            super().start_container(id)
            asked.set()

    asking = Asking()
    desired = make_desired(
        make_service("a"),
        make_service("b", needs=needs(("service", "a", "started"))),
        make_service("c", needs=needs(("service", "b", "started"))),
    )
    result = execute(plan_now(asking, desired), desired, asking, wait=waiting(asking), stop=asked.is_set)
    assert [outcome.status for outcome in result.outcomes] == ["done", "deferred", "deferred"]
    assert result.stopped


def test_events_tell_the_course_of_every_action(engine: FakeEngine) -> None:
    events: list[Event] = []
    desired = make_desired(make_image("app"), make_service("web", image="app"))
    execute(plan_now(engine, desired), desired, engine, wait=waiting(engine), on_event=events.append)
    image = [(event.kind, event.message) for event in events if event.action.key.kind == "image"]
    assert image == [("started", ""), ("progress", "making app"), ("done", "")]


def test_a_fault_of_ours_fails_one_action_and_hangs_nothing(engine: FakeEngine) -> None:
    class Broken(FakeEngine):
        def create_container(self, spec: object) -> str:
            raise ZeroDivisionError("oops")

    broken = Broken()
    desired = make_desired(make_service("a"), make_network("n"))
    _, result = apply_once(broken, desired)
    assert [outcome.status for outcome in sorted(result.outcomes, key=lambda o: o.action.key)] == ["done", "failed"]
    assert "internal fault" in result.failed[0].message


def test_destroy_needs_no_desired_state(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("web", networks=["front"]), make_network("front")))
    result = execute(make_destroy_plan(observe(engine, STACK)), None, engine, wait=waiting(engine))
    assert result.ok
    assert observe(engine, STACK).empty


def test_an_engine_error_that_repeats_is_reported_with_its_hint(engine: FakeEngine) -> None:
    engine.fail("create_network", error=EngineError('cannot create network "x": no', "do this"))
    _, result = apply_once(engine, make_desired(make_network("front")))
    assert (result.failed[0].message, result.failed[0].hint) == ('cannot create network "x": no', "do this")


def test_a_shared_condition_is_probed_once_for_all_who_wait(engine: FakeEngine) -> None:
    probed: list[str] = []

    class Counting(FakeProber):
        def probe_until(self, id: str, *rest: object, **more: object):  # type: ignore[no-untyped-def]
            probed.append(id)
            return super().probe_until(id, *rest, **more)  # type: ignore[arg-type]

    desired = make_desired(
        make_service("db", policy={"health": health()}),
        *(make_service(f"w{n}", needs=needs(("service", "db", "healthy"))) for n in range(5)),
    )
    options = waiting(engine, probe=Counting(engine), final=False)
    assert execute(plan_now(engine, desired), desired, engine, wait=options).ok
    assert len(probed) == 1
