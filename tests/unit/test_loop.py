"""One converge: the lock, the record, the rounds, what it reports; on the fake engine."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from reconciler.convergence import (
    ConvergeOptions,
    Progress,
    converge,
    destroy,
    outcome_from_json,
    outcome_to_json,
    plan_stack,
)
from reconciler.generations import Generations, StackLocked, stack_lock
from reconciler.model import InputError, Key, Mark
from reconciler.wanted import desired_identity
from runtime.errors import NotFound, SubnetCollision
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

WEB = make_service("web", networks=["front"], needs=needs(("service", "db", "healthy")))
DB = make_service(
    "db", networks=["front"], mounts=[mount("data")], needs=needs(("volume", "data")), policy={"health": health()}
)
SHOP = make_desired(WEB, DB, make_network("front"), make_volume("data"))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def records(tmp_path: Path, engine: FakeEngine) -> Generations:
    return Generations(str(tmp_path), engine.clock)


def apply(engine: FakeEngine, records: Generations, desired: Any = SHOP, **options: Any) -> Any:
    on_event = options.pop("on_event", lambda progress: None)
    stop = options.pop("stop", lambda: False)
    return converge(
        engine, records, desired, ConvergeOptions(**({"timeout": 20.0} | options)),
        on_event=on_event, stop=stop, clock=engine.clock,
    )  # fmt: skip


def changes(engine: FakeEngine) -> list[tuple[str, str]]:
    return [call for call in engine.calls if call[0] != "snapshot"]


def test_a_first_apply_converges_and_is_recorded_with_its_images(engine: FakeEngine, records: Generations) -> None:
    outcome = apply(engine, records, revision="r1", source="/etc/shop")
    assert outcome.converged and outcome.exit_code == 0 and outcome.generation == 1 and outcome.done == 4
    found = records.get(STACK, 1)
    assert (found.result, found.revision, found.source) == ("converged", "r1", "/etc/shop")
    assert set(found.images) == {"busybox"}


def test_a_second_apply_looks_once_and_changes_nothing(engine: FakeEngine, records: Generations) -> None:
    apply(engine, records)
    engine.calls.clear()
    told: list[Progress] = []
    outcome = apply(engine, records, on_event=told.append)
    assert outcome.plan.empty and not outcome.changed and outcome.converged
    assert engine.calls == [("snapshot", "")]
    assert told == [] and len(records.history(STACK)) == 1


def test_a_manifest_that_only_moved_its_lines_is_no_new_generation(engine: FakeEngine, records: Generations) -> None:
    apply(engine, records)
    from dataclasses import replace

    moved = make_desired(*(replace(one, mark=Mark("a.yaml", 99, 1)) for one in SHOP.resources.values()))
    assert desired_identity(moved) == desired_identity(SHOP)
    assert apply(engine, records, moved).generation == 1


def test_progress_begins_with_the_plan_and_names_each_action(engine: FakeEngine, records: Generations) -> None:
    told: list[Progress] = []
    apply(engine, records, on_event=told.append)
    assert told[0].kind == "plan" and len(told[0].data["actions"]) == 4
    done = [(item.verb, item.key) for item in told if item.state == "done"]
    assert done.index(("create", "service/db-1")) < done.index(("create", "service/web-1"))
    recorded = records.events(STACK)
    assert [event.action for event in recorded].count("create") == 4, recorded


def test_the_dependant_of_an_unhealthy_service_is_not_started_and_the_apply_fails(
    engine: FakeEngine, records: Generations
) -> None:
    engine.health_of = lambda spec: 1
    check = health(interval=0.02, retries=2)
    db = make_service("db", policy={"health": check})
    outcome = apply(engine, records, make_desired(make_service("web", needs=needs(("service", "db", "healthy"))), db))
    assert outcome.exit_code == 1 and "unhealthy" in "; ".join(outcome.failures)
    assert {state.name for state in engine.snapshot().containers} == {f"{STACK}/db-1"}
    assert records.get(STACK, 1).result == "failed"


def test_a_service_that_never_becomes_healthy_in_time_ends_with_code_four(
    engine: FakeEngine, records: Generations
) -> None:
    engine.health_of = lambda spec: 1
    outcome = apply(engine, records, make_desired(DB_ALONE), timeout=0.5)
    assert outcome.timed_out and outcome.exit_code == 4 and outcome.waiting
    assert records.get(STACK, 1).result == "timeout"


DB_ALONE = make_service("db", policy={"health": health(interval=30.0)})


def test_without_wait_an_apply_ends_when_its_actions_are_done(engine: FakeEngine, records: Generations) -> None:
    engine.health_of = lambda spec: 1
    outcome = apply(engine, records, make_desired(DB_ALONE), wait=False)
    assert outcome.exit_code == 0 and outcome.done == 1


def test_a_failed_action_is_reported_and_the_next_apply_finishes(engine: FakeEngine, records: Generations) -> None:
    engine.fail("create_network", "front")
    outcome = apply(engine, records)
    assert outcome.exit_code == 1 and records.get(STACK, 1).result == "failed"
    again = apply(engine, records)
    assert again.exit_code == 0 and again.generation == 1 and records.get(STACK, 1).result == "converged"


def test_a_service_that_keeps_exiting_is_a_failure_and_not_a_long_wait(
    engine: FakeEngine, records: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", engine.advance)
    outcome = apply(engine, records, make_desired(make_service("web", command=["false"])))
    assert outcome.exit_code == 1
    assert "exited with code 1" in "; ".join(outcome.failures)


def test_a_job_is_waited_for_to_its_end(engine: FakeEngine, records: Generations) -> None:
    outcome = apply(engine, records, make_desired(make_job("migrate", command=["sleep", "3"])))
    assert outcome.converged
    (state,) = engine.snapshot().containers
    assert state.last_run is not None and state.last_run.exit_code == 0


def test_a_job_that_fails_for_good_fails_the_apply(engine: FakeEngine, records: Generations) -> None:
    job = make_job("migrate", command=["false"], policy={"backoff_limit": 0})
    assert apply(engine, records, make_desired(job)).exit_code == 1


def test_another_holder_of_the_stack_is_named(engine: FakeEngine, records: Generations, tmp_path: Path) -> None:
    with stack_lock(str(tmp_path), STACK), pytest.raises(StackLocked):
        apply(engine, records)
    assert changes(engine) == [] and records.history(STACK) == []


def test_what_cannot_work_is_refused_before_anything_is_touched(
    engine: FakeEngine, records: Generations, tmp_path: Path
) -> None:
    engine.busy_ports.add((8080, "tcp"))
    engine.host_routes.add("10.9.0.0/24")
    desired = make_desired(make_service("web", ports=[port(8080)]), make_network("front", subnets=["10.9.0.0/24"]))
    with pytest.raises(InputError) as caught:
        apply(engine, records, desired)
    assert "8080" in str(caught.value) and "10.9.0.0/24" in str(caught.value)
    assert changes(engine) == [] and records.history(STACK) == []


def test_an_empty_source_prunes_nothing(engine: FakeEngine, records: Generations) -> None:
    apply(engine, records)
    engine.calls.clear()
    with pytest.raises(InputError, match="holdfast destroy"):
        apply(engine, records, make_desired())
    assert changes(engine) == []
    wanted = records.wanted(STACK)
    assert wanted is not None and wanted.number == 1


def test_a_plan_file_that_no_longer_fits_touches_nothing(engine: FakeEngine, records: Generations) -> None:
    plan, _ = plan_stack(engine, records, SHOP, now=engine.now)
    assert apply(engine, records, expected=plan).converged
    engine.calls.clear()
    with pytest.raises(InputError, match="out of date"):
        apply(engine, records, expected=plan)
    assert changes(engine) == []


def test_a_suspended_resource_is_left_alone_until_the_manifest_changes(
    engine: FakeEngine, records: Generations
) -> None:
    apply(engine, records)
    records.suspend(STACK, "service/web")
    engine.remove_container(engine.container(f"{STACK}/web-1").id, force=True)
    apply(engine, records)
    assert {state.name for state in engine.snapshot().containers} == {f"{STACK}/db-1"}
    changed = make_desired(*(one for one in SHOP.resources.values() if one.key.name != "web"), make_service("web"))
    assert apply(engine, records, changed).converged
    assert len(engine.snapshot().containers) == 2 and records.intents() == []


def test_being_told_to_stop_ends_the_waits_and_leaves_the_rest_to_the_next_apply(
    engine: FakeEngine, records: Generations
) -> None:
    engine.health_of = lambda spec: 1
    asked = threading.Event()
    threading.Timer(0.3, asked.set).start()
    outcome = apply(engine, records, make_desired(DB_ALONE), stop=asked.is_set)
    assert not outcome.converged and outcome.exit_code in (1, 4)
    engine.health_of = lambda spec: 0
    assert apply(engine, records, make_desired(DB_ALONE)).converged


def test_the_files_of_a_stack_are_kept_before_its_generation_counts(engine: FakeEngine, records: Generations) -> None:
    digest = engine.file_digest(b"key", True)
    desired = make_desired(make_service("web"), files={digest: (b"key", True)})
    apply(engine, records, desired)
    assert engine.files[digest] == (b"key", True)
    wanted = records.wanted(STACK)
    assert wanted is not None and "a2V5" not in wanted.desired and "key" not in json.loads(wanted.desired)["files"]


def test_destroy_removes_all_but_the_data_and_is_remembered(engine: FakeEngine, records: Generations) -> None:
    apply(engine, records)
    outcome = destroy(engine, records, STACK)
    assert outcome.exit_code == 0 and outcome.converged
    snapshot = engine.snapshot()
    assert not snapshot.containers and not snapshot.networks and len(snapshot.volumes) == 1
    assert [intent.kind for intent in records.intents(STACK)] == ["destroyed"]
    again = destroy(engine, records, STACK)
    assert again.exit_code == 0 and again.done == 0
    assert apply(engine, records).converged and records.intents(STACK) == []


def test_destroy_with_volumes_removes_the_data_too(engine: FakeEngine, records: Generations) -> None:
    apply(engine, records)
    assert destroy(engine, records, STACK, volumes=True).converged
    assert engine.snapshot().volumes == ()


def test_destroying_what_does_not_exist_is_an_error_that_names_it(engine: FakeEngine, records: Generations) -> None:
    with pytest.raises(NotFound, match='stack "shop"'):
        destroy(engine, records, STACK)


def test_a_destroy_that_fails_half_way_is_finished_by_the_next(engine: FakeEngine, records: Generations) -> None:
    apply(engine, records)
    engine.fail("remove_container", "db-1", SubnetCollision("injected"))
    assert destroy(engine, records, STACK).exit_code == 1
    assert destroy(engine, records, STACK).converged
    assert engine.snapshot().containers == ()


def test_an_outcome_survives_the_way_through_the_socket(engine: FakeEngine, records: Generations) -> None:
    outcome = apply(engine, records)
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


def test_restart_no_is_left_alone_by_a_second_apply(engine: FakeEngine, records: Generations) -> None:
    desired = make_desired(make_service("once", command=["true"], policy={"restart": restart("no")}))
    assert apply(engine, records, desired).converged
    engine.calls.clear()
    assert apply(engine, records, desired).converged
    assert changes(engine) == []
    assert Key("service", "once") in desired.resources


def test_a_failed_job_is_tried_again_within_one_apply_and_given_up_at_its_limit(
    engine: FakeEngine, records: Generations
) -> None:
    after = make_service("after", needs=needs(("job", "migrate", "completed")))
    job = make_job("migrate", command=["false"], policy={"backoff_limit": 1})
    outcome = apply(engine, records, make_desired(job, after))
    assert outcome.exit_code == 1 and "failed 2 times, its backoff_limit is 1" in "; ".join(outcome.failures)
    assert [(state.name, state.starts) for state in engine.snapshot().containers] == [(f"{STACK}/migrate-1", 2)]


def test_a_changed_check_and_grace_act_on_the_container_that_runs(engine: FakeEngine, records: Generations) -> None:
    apply(engine, records, make_desired(make_service("web")))
    (before,) = engine.snapshot().containers
    engine.health_of = lambda spec: 1
    policy = {"health": health(interval=0.02, retries=1), "stop_grace": 3.0}
    outcome = apply(engine, records, make_desired(make_service("web", policy=policy)))
    assert "unhealthy" in "; ".join(outcome.failures)
    (after,) = engine.snapshot().containers
    assert (after.id, after.starts, after.health) == (before.id, 1, "unhealthy")
    assert engine.spec_of(after.id).stop_grace == 3.0
    plan, _ = plan_stack(engine, records, make_desired(make_service("other")), allow_deletions=True)
    (removal,) = [action for action in plan.actions if action.verb == "remove"]
    assert removal.grace == 3.0


def test_another_container_name_makes_the_container_anew(engine: FakeEngine, records: Generations) -> None:
    apply(engine, records, make_desired(make_service("web")))
    outcome = apply(engine, records, make_desired(make_service("web", policy={"container_name": "front"})))
    assert outcome.converged and [str(action.verb) for action in outcome.plan.actions] == ["replace"]
    assert [state.name for state in engine.snapshot().containers] == ["front"]
    assert apply(engine, records, make_desired(make_service("web", policy={"container_name": "front"}))).plan.empty
