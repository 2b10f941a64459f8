"""What is planned for a given desired and observed state, and the reasons given."""

from __future__ import annotations

import dataclasses

import pytest

from reconciler.labels import LABEL_RESOURCE, LABEL_STACK
from reconciler.model import Key, Need
from reconciler.observed import observe
from reconciler.plan import Hold
from reconciler.planner import make_destroy_plan, make_plan
from runtime.api import ContainerSpec, Damage, NetworkSpec, VolumeSpec
from tests.support.converging import apply_once, converge, plan_now, shape
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
    port,
    restart,
)
from tests.support.fake_engine import FakeEngine


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def name(index: int = 1, service: str = "web") -> str:
    return f"{STACK}/{service}-{index}"


def reasons(plan: object, verb: str) -> list[str]:
    return [str(reason) for action in plan.actions if action.verb == verb for reason in action.reasons]  # type: ignore[attr-defined]


# ---- creation and the empty plan


def test_everything_is_created_along_its_edges(engine: FakeEngine) -> None:
    desired = make_desired(
        make_service("web", networks=["front"], needs=needs(("service", "db", "started"))),
        make_service("db", networks=["front"], mounts=[mount("data")], needs=needs(("volume", "data"))),
        make_network("front"),
        make_volume("data"),
    )
    plan = plan_now(engine, desired)
    assert shape(plan) == [
        "create network/front",
        "create volume/data",
        "create service/db-1",
        "create service/web-1",
    ]
    assert [action.after for action in plan.actions] == [(), (), (1, 2), (1, 3)]


def test_a_second_plan_is_empty(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web", networks=["front"], policy={"replicas": 3}), make_network("front"))
    apply_once(engine, desired)
    assert plan_now(engine, desired).converged


def test_an_image_is_built_before_what_runs_it(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web", image="app"), make_image("app"))
    assert shape(plan_now(engine, desired)) == ["build image/app", "create service/web-1"]


def test_a_changed_build_context_rebuilds_and_replaces_what_runs_it(engine: FakeEngine) -> None:
    def state(letter: str) -> object:
        image = make_image("app", digest=letter * 64)
        return make_desired(make_service("web", image="app", image_fingerprint=image.fingerprint), image)

    apply_once(engine, state("a"))  # type: ignore[arg-type]
    plan = plan_now(engine, state("b"))  # type: ignore[arg-type]
    assert shape(plan) == ["build image/app", "replace service/web-1"]
    assert reasons(plan, "build") == ["build.digest sha256:aaaaaaaaaaaa -> sha256:bbbbbbbbbbbb"]
    assert reasons(plan, "replace")[0].startswith("image content 1:")


def test_an_image_that_is_nowhere_blocks_its_service_and_nothing_else(engine: FakeEngine) -> None:
    plan = plan_now(engine, make_desired(make_service("web", image="nowhere"), make_service("db")))
    assert shape(plan) == ["create service/db-1"]
    assert [str(entry.key) for entry in plan.blocked] == ["service/web"]
    assert "nowhere" in plan.blocked[0].reason


def test_a_timed_pull_policy_says_when_to_look_again_and_then_refreshes(engine: FakeEngine) -> None:
    desired = make_desired(make_image("base", kind="bootstrap", pull_policy="every_12h"))
    apply_once(engine, desired)
    made = engine.find_image("base")
    assert made is not None
    at = made.declared["made_at"]
    observed = observe(engine, STACK)
    early = make_plan(desired, observed, at + 3600)
    assert early.empty and early.not_before == at + 12 * 3600
    assert shape(make_plan(desired, observed, at + 13 * 3600)) == ["bootstrap image/base"]


def test_a_wrong_image_behind_the_name_replaces_the_container(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web"))
    apply_once(engine, desired)
    engine.add_image("busybox", salt="newer")
    plan = plan_now(engine, desired)
    assert shape(plan) == ["replace service/web-1"]
    assert reasons(plan, "replace")[0].startswith("image id sha256:")


# ---- reasons


def test_the_reason_names_the_field_and_both_values(engine: FakeEngine) -> None:
    engine.add_image("nginx:1.26")
    engine.add_image("nginx:1.27")
    apply_once(engine, make_desired(make_service("web", image="nginx:1.26")))
    plan = plan_now(engine, make_desired(make_service("web", image="nginx:1.27")))
    assert str(plan.actions[0]) == "#1 service/web-1 replace: image nginx:1.26 -> 1.27"


def test_values_that_look_secret_never_reach_a_plan(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("web", env={"DB_PASSWORD": "hunter2"})))
    plan = plan_now(engine, make_desired(make_service("web", env={"DB_PASSWORD": "hunter3"})))
    assert reasons(plan, "replace") == ["env.DB_PASSWORD (hidden) -> (hidden)"]
    assert "hunter" not in repr(plan)


def test_changed_config_content_is_a_reason_shown_by_short_digests(engine: FakeEngine) -> None:
    one, two = engine.file_digest(b"one", False), engine.file_digest(b"two", False)
    files = {one: (b"one", False), two: (b"two", False)}
    apply_once(engine, make_desired(make_service("web", files=[file("/etc/app", one)]), files=files))
    plan = plan_now(engine, make_desired(make_service("web", files=[file("/etc/app", two)]), files=files))
    assert shape(plan) == ["replace service/web-1"]
    assert reasons(plan, "replace") == [f"config /etc/app.digest {one[:19]} -> {two[:19]}"]


def test_another_spelling_of_the_fingerprint_alone_replaces_nothing(engine: FakeEngine) -> None:
    service = make_service("web")
    apply_once(engine, make_desired(service))
    assert plan_now(engine, make_desired(dataclasses.replace(service, fingerprint="2:other"))).empty


def test_a_changed_policy_is_an_update_without_restart(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("web")))
    before = engine.container(name())
    desired = make_desired(make_service("web", policy={"restart": restart("on-failure")}))
    plan, _ = apply_once(engine, desired)
    assert shape(plan) == ["update service/web-1"]
    assert reasons(plan, "update") == ["restart.condition always -> on-failure"]
    assert engine.container(name()).pid == before.pid
    assert plan_now(engine, desired).converged


# ---- the order of a replacement


@pytest.mark.parametrize(
    ("spec", "policy", "order", "why"),
    [
        ({}, {}, "start-first", "nothing that cannot be shared"),
        ({"ports": [port(8080)]}, {}, "start-first", "nothing that cannot be shared"),
        ({"mounts": [mount("data")]}, {}, "stop-first", "two writers"),
        ({"mounts": [mount("data", read_only=True)]}, {}, "start-first", "nothing that cannot be shared"),
        ({"network_mode": "host"}, {}, "stop-first", "the host's own ports"),
        (
            {"fixed_networks": [{"network": "n", "aliases": [], "ipv4": "10.1.1.9"}]},
            {},
            "stop-first",
            "10.1.1.9 is fixed",
        ),
        ({}, {"container_name": "w"}, "stop-first", "its name w is fixed"),
        ({"mounts": [mount("data")]}, {"update": {"order": "start-first"}}, "start-first", "the manifest says so"),
        ({}, {"update": {"order": "stop-first"}}, "stop-first", "the manifest says so"),
    ],
)
def test_the_plan_says_which_order_and_why(
    engine: FakeEngine, spec: dict[str, object], policy: dict[str, object], order: str, why: str
) -> None:
    engine.create_network(NetworkSpec("n"))
    apply_once(engine, make_desired(make_service("web", policy=policy, **spec)))
    plan = plan_now(engine, make_desired(make_service("web", policy=policy, **spec, env={"A": "1"})))
    (action,) = plan.actions
    assert action.order == order
    assert why in action.order_reason


def test_replicas_are_replaced_one_after_the_other(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("web", policy={"replicas": 3})))
    plan = plan_now(engine, make_desired(make_service("web", policy={"replicas": 3}, env={"A": "1"})))
    assert [(action.index, action.after) for action in plan.actions] == [(1, ()), (2, (1,)), (3, (2,))]


def test_scaling_removes_the_highest_index_first_and_adds_the_lowest(engine: FakeEngine) -> None:
    def replicas(count: int) -> object:
        return make_desired(make_service("web", policy={"replicas": count}))

    apply_once(engine, replicas(4))  # type: ignore[arg-type]
    down = plan_now(engine, replicas(2))  # type: ignore[arg-type]
    removed = [action.target for action in down.actions if action.verb == "remove"]
    assert removed == ["service/web-4", "service/web-3"]
    converge(engine, replicas(2))  # type: ignore[arg-type]
    up = plan_now(engine, replicas(3))  # type: ignore[arg-type]
    assert "create service/web-3" in shape(up) and not any(action.verb == "replace" for action in up.actions)


def test_a_port_that_moves_between_services_is_let_go_before_it_is_taken(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("a", ports=[port(80)]), make_service("b", ports=[port(81)])))
    swapped = make_desired(make_service("a", ports=[port(81)]), make_service("b", ports=[port(80)]))
    _, result = apply_once(engine, swapped)
    assert result.ok, result.outcomes
    assert plan_now(engine, swapped).converged


def test_a_port_of_something_that_is_not_pruned_blocks_who_wants_it(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("old", ports=[port(80)])))
    plan = plan_now(engine, make_desired(make_service("new", ports=[port(80)])), prune=False)
    assert plan.empty
    assert plan.blocked[0].reason == "its port 80/tcp is held by service/old, which is left alone"


# ---- networks and volumes


def test_changed_network_stops_the_containers_that_use_it_and_starts_them_again(engine: FakeEngine) -> None:
    web, other = make_service("web", networks=["front"]), make_service("other")
    apply_once(engine, make_desired(web, other, make_network("front")))
    pid = engine.container(name(service="other")).pid
    changed = make_desired(web, other, make_network("front", internal=True))
    plan, result = apply_once(engine, changed)
    assert shape(plan) == ["stop service/web-1", "replace network/front", "start service/web-1"]
    assert reasons(plan, "replace") == ["internal false -> true"]
    assert result.ok
    assert engine.container(name(service="other")).pid == pid
    assert plan_now(engine, changed).converged


def test_a_network_of_somebody_else_is_a_conflict_and_not_a_takeover(engine: FakeEngine) -> None:
    engine.create_network(NetworkSpec(f"{STACK}_front"))
    plan = plan_now(engine, make_desired(make_service("web", networks=["front"]), make_network("front")))
    assert plan.empty
    assert {str(entry.key) for entry in plan.blocked} == {"network/front", "service/web"}
    assert "not of this stack" in plan.blocked[0].reason


def test_an_external_network_must_exist_and_is_never_touched(engine: FakeEngine) -> None:
    desired = make_desired(make_network("shared", external=True, object_name="shared"))
    assert "does not exist" in plan_now(engine, desired).blocked[0].reason
    engine.create_network(NetworkSpec("shared"))
    assert plan_now(engine, desired).converged
    assert make_destroy_plan(observe(engine, STACK)).empty


def test_a_changed_volume_definition_is_refused_and_its_data_kept(engine: FakeEngine) -> None:
    service = make_service("db", mounts=[mount("data")], needs=needs(("volume", "data")))
    apply_once(engine, make_desired(service, make_volume("data")))
    plan = plan_now(engine, make_desired(service, make_volume("data", driver_opts={"type": "tmpfs"})))
    assert plan.empty
    assert "driver_opts.type (none) -> tmpfs" in plan.blocked[0].reason
    assert "never made anew" in plan.blocked[0].reason


def test_changed_labels_of_networks_and_volumes_are_updates_in_place(engine: FakeEngine) -> None:
    service = make_service("web", networks=["front"])
    apply_once(engine, make_desired(service, make_network("front"), make_volume("data")))
    pid = engine.container(name()).pid
    labels = {"a": "b"}
    desired = make_desired(service, make_network("front", labels=labels), make_volume("data", labels=labels))
    plan, result = apply_once(engine, desired)
    assert sorted(shape(plan)) == ["update network/front", "update volume/data"]
    assert result.ok and plan_now(engine, desired).converged
    assert engine.container(name()).pid == pid


def test_a_volume_that_vanished_under_a_running_container_is_made_again_and_reported(engine: FakeEngine) -> None:
    service = make_service("db", mounts=[mount("data")], needs=needs(("volume", "data")))
    desired = make_desired(service, make_volume("data"))
    apply_once(engine, desired)
    engine.vanish_volume(f"{STACK}_data")
    plan = plan_now(engine, desired)
    assert shape(plan) == ["create volume/data"]
    assert "vanished" in plan.warnings[0]


def test_a_volume_of_somebody_else_is_not_taken_over(engine: FakeEngine) -> None:
    engine.create_volume(VolumeSpec(f"{STACK}_data"))
    plan = plan_now(engine, make_desired(make_volume("data")))
    assert plan.empty and "not of this stack" in plan.blocked[0].reason


def test_damage_is_repaired_in_place(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web", networks=["front"]), make_network("front"))
    apply_once(engine, desired)
    before = engine.container(name())
    engine.scar("network", f"{STACK}_front", Damage("bridge", "hf1", ""))
    engine.scar("container", before.id, Damage("limit memory", "64", "0"))
    plan, result = apply_once(engine, desired)
    assert shape(plan) == ["repair network/front", "repair service/web-1"]
    assert plan.actions[1].after == (1,)
    assert "limit memory 0 -> 64" in reasons(plan, "repair")
    assert result.ok and engine.container(name()).pid == before.pid
    assert plan_now(engine, desired).converged


# ---- drift and intent


def test_a_vanished_container_is_created_again(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web", policy={"restart": restart("no")}))
    apply_once(engine, desired)
    engine.vanish(engine.container(name()).id)
    assert shape(plan_now(engine, desired)) == ["create service/web-1"]


def test_a_container_killed_from_outside_starts_at_once_whatever_restart_says(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web", policy={"restart": restart("no")}))
    apply_once(engine, desired)
    engine.exit(engine.container(name()).id, signal=9)
    plan = plan_now(engine, desired)
    assert shape(plan) == ["start service/web-1"]
    assert reasons(plan, "start") == ["killed from outside"]


def test_an_out_of_memory_kill_is_the_programs_own_end(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web", policy={"restart": restart("no")}))
    apply_once(engine, desired)
    engine.exit(engine.container(name()).id, signal=9, oom=True)
    assert plan_now(engine, desired).converged


def test_a_stop_by_hand_is_left_alone_until_the_manifest_changes(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("web")))
    engine.stop_container(engine.container(name()).id, by_hand=True)
    assert plan_now(engine, make_desired(make_service("web"))).converged
    changed = make_desired(make_service("web", env={"A": "1"}))
    converge(engine, changed)
    assert engine.container(name()).status == "running"


def test_a_changed_policy_also_ends_a_stop_by_hand(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("web")))
    engine.stop_container(engine.container(name()).id, by_hand=True)
    changed = make_desired(make_service("web", policy={"stop_grace": 3.0}))
    assert shape(plan_now(engine, changed)) == ["update service/web-1", "start service/web-1"]
    converge(engine, changed)
    assert engine.container(name()).status == "running"


def test_a_paused_container_is_left_alone(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web"))
    apply_once(engine, desired)
    engine.pause_container(engine.container(name()).id)
    assert plan_now(engine, desired).converged


def test_a_suspended_resource_is_not_touched_and_its_dependants_say_why(engine: FakeEngine) -> None:
    desired = make_desired(make_service("db"), make_service("web", needs=needs(("service", "db", "started"))))
    plan = plan_now(engine, desired, suspended={Key("service", "db")})
    assert plan.empty
    assert "waits for service/db: suspended" in plan.blocked[0].reason


def test_an_unhealthy_container_is_not_restarted(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web", policy={"health": health()}))
    apply_once(engine, desired)
    engine.set_health(engine.container(name()).id, "unhealthy")
    assert plan_now(engine, desired).empty


@pytest.mark.parametrize(
    ("condition", "code", "starts"),
    [("no", 1, False), ("on-failure", 0, False), ("on-failure", 1, True), ("always", 0, True), ("always", 1, True)],
)
def test_restart_governs_the_programs_own_exits(engine: FakeEngine, condition: str, code: int, starts: bool) -> None:
    desired = make_desired(make_service("web", policy={"restart": restart(condition)}))
    apply_once(engine, desired)
    engine.advance(60)
    engine.exit(engine.container(name()).id, code=code)
    assert shape(plan_now(engine, desired)) == (["start service/web-1"] if starts else [])


def test_a_crash_loop_backs_off_and_the_plan_says_when(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web"))
    apply_once(engine, desired)
    for _ in range(6):
        engine.exit(engine.container(name()).id, code=1)
        plan = plan_now(engine, desired)
        if plan.pending:
            assert plan.empty and plan.not_before is not None and plan.not_before > engine.now
            engine.advance(plan.not_before - engine.now + 0.001)
        apply_once(engine, desired)
    engine.exit(engine.container(name()).id, code=1)
    plan = plan_now(engine, desired)
    assert plan.pending[0].until - engine.now > 1.0
    assert "exited with code 1" in plan.pending[0].reason


def test_a_clock_that_jumps_back_an_hour_delays_no_restart(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web"))
    apply_once(engine, desired)
    for _ in range(5):
        engine.exit(engine.container(name()).id, code=1)
        engine.start_container(engine.container(name()).id)
    engine.exit(engine.container(name()).id, code=1)
    engine.set_clock(engine.now - 3600)
    assert shape(plan_now(engine, desired)) == ["start service/web-1"]


def test_max_attempts_ends_the_restarts_and_says_why(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web", policy={"restart": restart("on-failure", max_attempts=2)}))
    apply_once(engine, desired)
    for _ in range(2):
        engine.exit(engine.container(name()).id, code=3)
        engine.start_container(engine.container(name()).id)
    engine.exit(engine.container(name()).id, code=3)
    plan = plan_now(engine, desired)
    assert plan.empty and "exited with code 3; restarted 2 times" in plan.blocked[0].reason


def test_a_failed_action_is_held_back_and_then_tried_again(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web"))
    hold = {Key("service", "web"): Hold("no such program", engine.now + 5)}
    plan = plan_now(engine, desired, held=hold)
    assert plan.empty and plan.not_before == engine.now + 5
    engine.advance(6)
    assert shape(plan_now(engine, desired, held=hold)) == ["create service/web-1"]


@pytest.mark.parametrize("condition", ["no", "always"])
def test_a_failed_start_is_tried_again_whatever_restart_says(engine: FakeEngine, condition: str) -> None:
    desired = make_desired(make_service("web", ports=[port(80)], policy={"restart": restart(condition)}))
    engine.busy_ports.add((80, "tcp"))
    apply_once(engine, desired)
    engine.busy_ports.clear()
    plan = plan_now(engine, desired)
    assert shape(plan) == ["start service/web-1"]
    assert reasons(plan, "start") == ["could not be started"]


def test_a_container_that_was_created_but_never_started_is_started(engine: FakeEngine) -> None:
    desired = make_desired(make_service("web"))
    engine.fail("start_container")
    apply_once(engine, desired)
    plan = plan_now(engine, desired)
    assert shape(plan) == ["start service/web-1"]
    assert reasons(plan, "start") == ["created but never started"]


def test_after_an_unclean_boot_containers_are_made_again_in_order(engine: FakeEngine) -> None:
    desired = make_desired(make_service("db"), make_service("web", needs=needs(("service", "db", "started"))))
    apply_once(engine, desired)
    engine.reboot()
    plan, result = apply_once(engine, desired)
    assert shape(plan) == ["replace service/db-1", "replace service/web-1"]
    assert plan.actions[1].after == (1,)
    assert result.ok and plan_now(engine, desired).converged


# ---- jobs and conditions


def test_a_job_that_exited_zero_is_converged_for_ever(engine: FakeEngine) -> None:
    desired = make_desired(make_job("migrate"))
    converge(engine, desired)
    engine.advance(86_400)
    assert plan_now(engine, desired).converged
    assert engine.container(name(service="migrate")).starts == 1


def test_a_failing_job_is_retried_up_to_its_limit_and_then_blocks_what_waits(engine: FakeEngine) -> None:
    desired = make_desired(
        make_job("migrate", command=["false"], policy={"backoff_limit": 2}),
        make_service("web", needs=needs(("job", "migrate", "completed"))),
    )
    plans, _ = converge(engine, desired)
    assert engine.container(name(service="migrate")).starts == 3
    assert plans[-1].empty
    blocked = {str(entry.key): entry.reason for entry in plans[-1].blocked}
    assert "failed 3 times, its backoff_limit is 2" in blocked["job/migrate"]
    assert blocked["service/web"].startswith("waits for job/migrate")


def test_a_service_others_wait_for_runs_to_completion_although_restart_is_always(engine: FakeEngine) -> None:
    desired = make_desired(
        make_service("init", command=["true"], policy={"run_to_completion": True}),
        make_service("web", needs=needs(("service", "init", "completed"))),
    )
    converge(engine, desired)
    assert engine.container(name()).status == "running"
    assert engine.container(name(service="init")).starts == 1
    assert plan_now(engine, desired).converged


def test_a_killed_container_waits_for_its_dependency_to_be_healthy_again(engine: FakeEngine) -> None:
    desired = make_desired(
        make_service("db", policy={"health": health()}),
        make_service("web", needs=needs(("service", "db", "healthy"))),
    )
    apply_once(engine, desired)
    for service in ("db", "web"):
        engine.exit(engine.container(name(service=service)).id, signal=9)
    plan = plan_now(engine, desired)
    assert shape(plan) == ["start service/db-1", "start service/web-1"]
    assert plan.actions[1].after == (1,)
    assert [(str(wait.key), wait.condition) for wait in plan.actions[1].waits] == [("service/db", "healthy")]


def test_a_replaced_dependency_leaves_dependants_alone_unless_they_ask_for_a_restart(engine: FakeEngine) -> None:
    def state(value: str) -> object:
        return make_desired(
            make_service("db", env={"A": value}),
            make_service("calm", needs=[Need(Key("service", "db"), "started")]),
            make_service("keen", needs=[Need(Key("service", "db"), "started", restart=True)]),
        )

    apply_once(engine, state("1"))  # type: ignore[arg-type]
    plan = plan_now(engine, state("2"))  # type: ignore[arg-type]
    assert shape(plan) == ["replace service/db-1", "restart service/keen-1"]
    assert plan.actions[1].after == (1,)


# ---- prune, budget, destroy


def test_what_is_no_longer_declared_goes_in_reverse_order_and_data_stays(engine: FakeEngine) -> None:
    keep = make_service("keep")
    full = make_desired(
        keep,
        make_service("db", networks=["front"], mounts=[mount("data")], needs=needs(("volume", "data"))),
        make_service("web", networks=["front"], needs=needs(("service", "db", "started"))),
        make_network("front"),
        make_volume("data"),
    )
    apply_once(engine, full)
    plan, result = apply_once(engine, make_desired(keep))
    assert shape(plan) == ["remove service/web-1", "remove service/db-1", "remove network/front"]
    assert plan.actions[1].after == (1,)
    assert "its data is kept" in plan.warnings[0]
    assert result.ok
    assert [info.name for info in engine.snapshot().volumes] == [f"{STACK}_data"]


def test_an_empty_desired_state_prunes_nothing(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("web")))
    plan = plan_now(engine, make_desired(), allow_deletions=True)
    assert plan.empty and "declares nothing" in plan.blocked[0].reason
    assert "holdfast destroy" in plan.blocked[0].hint


def test_more_removals_than_the_budget_are_refused_with_a_way_out(engine: FakeEngine) -> None:
    services = [make_service(f"s{number}") for number in range(10)]
    apply_once(engine, make_desired(*services))
    shrunken = make_desired(services[0])
    plan = plan_now(engine, shrunken)
    assert plan.empty
    assert "9 objects" in plan.blocked[0].reason and "budget of 5" in plan.blocked[0].reason
    assert "--yes" in plan.blocked[0].hint
    assert len(plan_now(engine, shrunken, allow_deletions=True).actions) == 9
    assert len(plan_now(engine, make_desired(services[0], budget=9)).actions) == 9


def test_no_prune_leaves_everything(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("a"), make_service("b")))
    assert plan_now(engine, make_desired(make_service("a")), prune=False).converged


def test_unlabelled_objects_never_appear_in_a_plan(engine: FakeEngine) -> None:
    engine.create_network(NetworkSpec("theirs"))
    id = engine.create_container(ContainerSpec(name(), "busybox", command=("sleep", "infinity")))
    engine.create_container(ContainerSpec("odd", "busybox", labels={LABEL_STACK: STACK, LABEL_RESOURCE: "nonsense"}))
    observed = observe(engine, STACK)
    assert observed.empty
    assert make_destroy_plan(observed).empty
    plan = plan_now(engine, make_desired(make_service("web")))
    assert shape(plan) == ["create service/web-1"] and id not in repr(plan)


def test_destroy_removes_all_but_data_and_with_volumes_all_but_what_is_retained(engine: FakeEngine) -> None:
    desired = make_desired(
        make_service("db", networks=["front"], mounts=[mount("data")], needs=needs(("volume", "data"))),
        make_service("web", networks=["front"], needs=needs(("service", "db", "started"))),
        make_network("front"),
        make_volume("data"),
        make_volume("precious", retain=True),
    )
    apply_once(engine, desired)
    observed = observe(engine, STACK)
    plan = make_destroy_plan(observed)
    assert shape(plan) == ["remove service/web-1", "remove service/db-1", "remove network/front"]
    assert len(plan.warnings) == 2
    whole = make_destroy_plan(observed, volumes=True)
    assert "remove volume/data" in shape(whole) and "remove volume/precious" not in shape(whole)
    assert "retain" in whole.warnings[0]


# ---- interrupted work


def test_a_replacement_that_was_interrupted_is_finished_with_the_container_it_had_made(engine: FakeEngine) -> None:
    old, new = make_desired(make_service("web")), make_desired(make_service("web", env={"A": "1"}))
    apply_once(engine, old)
    engine.advance(1)
    first = engine.container(name()).id
    engine.fail("stop_container")
    engine.fail("remove_container")
    apply_once(engine, new)
    second = engine.container(name()).id
    assert first != second
    plan = plan_now(engine, new)
    assert [(one.verb, one.object_id, one.successor) for one in plan.actions] == [("replace", first, second)]
    converge(engine, new)
    assert [state.id for state in engine.snapshot().containers] == [second]


def test_only_drift_heals_and_changes_nothing_else(engine: FakeEngine) -> None:
    apply_once(engine, make_desired(make_service("web"), make_service("gone")))
    engine.exit(engine.container(name()).id, signal=9)
    plan = plan_now(engine, make_desired(make_service("web", env={"A": "1"})), only_drift=True)
    assert shape(plan) == ["start service/web-1"]
