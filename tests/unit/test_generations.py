"""What was applied, asked for and done is on record, once, and never grows without bound."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from reconciler import generations as module
from reconciler.generations import Generations
from runtime.errors import Conflict, CorruptContent, NotFound


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(tmp_path: Path, clock: Clock | None = None) -> Generations:
    return Generations(str(tmp_path), clock or Clock())


def test_the_first_apply_makes_generation_one_and_it_is_wanted(tmp_path: Path) -> None:
    records = opened(tmp_path)
    assert records.begin("shop", '{"a":1}', "rev", "/etc/shop") == 1
    wanted = records.wanted("shop")
    assert wanted is not None
    assert (wanted.number, wanted.desired, wanted.revision, wanted.source, wanted.result) == (
        1, '{"a":1}', "rev", "/etc/shop", "unfinished",
    )  # fmt: skip


def test_the_same_desired_state_again_is_the_same_generation(tmp_path: Path) -> None:
    records = opened(tmp_path)
    assert [records.begin("shop", "x"), records.begin("shop", "x"), records.begin("shop", "x")] == [1, 1, 1]
    assert len(records.history("shop")) == 1


def test_returning_to_an_older_desired_state_is_a_new_generation(tmp_path: Path) -> None:
    records = opened(tmp_path)
    assert [records.begin("shop", text) for text in ("x", "y", "x")] == [1, 2, 3]
    assert [item.number for item in records.history("shop") if item.wanted] == [3]


def test_stacks_count_their_generations_apart(tmp_path: Path) -> None:
    records = opened(tmp_path)
    records.begin("a", "x")
    records.begin("a", "y")
    assert records.begin("b", "x") == 1
    assert records.stacks() == ["a", "b"]


def test_a_generation_left_unfinished_by_a_killed_apply_is_marked_interrupted_by_the_next(tmp_path: Path) -> None:
    opened(tmp_path).begin("shop", "x")
    later = opened(tmp_path)
    later.begin("shop", "y")
    assert [(item.number, item.result) for item in later.history("shop")] == [(2, "unfinished"), (1, "interrupted")]


def test_a_finished_generation_keeps_its_result_images_and_problem(tmp_path: Path) -> None:
    records = opened(tmp_path)
    number = records.begin("shop", "x")
    records.finish("shop", number, "failed", "web: no such image", {"web": "sha256:1"})
    found = records.get("shop", number)
    assert (found.result, found.problem, found.images) == ("failed", "web: no such image", {"web": "sha256:1"})
    assert found.finished_at == 1000.0


def test_finishing_again_with_the_same_result_writes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    records = opened(tmp_path, clock)
    number = records.begin("shop", "x")
    records.finish("shop", number, "converged", images={"web": "1"})
    clock.now += 50
    records.finish("shop", number, "converged", images={"web": "1"})
    assert records.get("shop", number).finished_at == 1000.0


def test_history_is_bounded_but_the_wanted_generation_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_GENERATIONS", 5)
    records = opened(tmp_path)
    for number in range(20):
        records.begin("shop", str(number))
    assert [item.number for item in records.history("shop")] == [20, 19, 18, 17, 16]


def test_an_unknown_generation_is_named_in_the_error(tmp_path: Path) -> None:
    records = opened(tmp_path)
    records.begin("shop", "x")
    with pytest.raises(NotFound, match='generation "shop 7"'):
        records.get("shop", 7)


def test_rollback_finds_the_last_converged_generation_and_skips_failed_ones(tmp_path: Path) -> None:
    records = opened(tmp_path)
    for text, result in (("a", "converged"), ("b", "failed"), ("c", "timeout")):
        records.finish("shop", records.begin("shop", text), result)  # type: ignore[arg-type]
    found = records.previous_good("shop")
    assert found is not None and found.desired == "a"


def test_a_changed_desired_state_ends_every_intent_of_its_stack_only(tmp_path: Path) -> None:
    records = opened(tmp_path)
    records.begin("shop", "x")
    records.suspend("shop", "service/web", reason="debugging", owner="ann")
    records.suspend("other")
    records.begin("shop", "x", by_hand=False)
    assert [(item.stack, item.reason) for item in records.intents()] == [("other", ""), ("shop", "debugging")]
    records.begin("shop", "y", by_hand=False)
    assert [item.stack for item in records.intents()] == ["other"]


def test_destroyed_ends_by_an_apply_by_hand_but_not_by_the_source_saying_the_same_again(tmp_path: Path) -> None:
    records = opened(tmp_path)
    records.begin("shop", "x")
    records.mark_destroyed("shop")
    records.begin("shop", "x", by_hand=False)
    assert [item.kind for item in records.intents("shop")] == ["destroyed"]
    records.begin("shop", "x", by_hand=True)
    assert records.intents("shop") == []


def test_a_suspension_with_an_end_ends_by_itself(tmp_path: Path) -> None:
    clock = Clock()
    records = opened(tmp_path, clock)
    records.suspend("shop", until=1100.0)
    assert len(records.intents("shop")) == 1
    clock.now = 1100.0
    assert records.intents("shop") == []


def test_resume_of_one_resource_leaves_the_others_suspended(tmp_path: Path) -> None:
    records = opened(tmp_path)
    records.suspend("shop", "service/a")
    records.suspend("shop", "service/b")
    assert records.resume("shop", "service/a")
    assert [item.resource for item in records.intents("shop")] == ["service/b"]
    assert records.resume("shop")
    assert not records.resume("shop")


def test_events_come_back_oldest_first_and_can_be_followed_by_id(tmp_path: Path) -> None:
    records = opened(tmp_path)
    for number in range(5):
        records.record_event("shop", "service/web", "restart", str(number))
    records.record_event("other", "", "x")
    found = records.events("shop")
    assert [item.message for item in found] == ["0", "1", "2", "3", "4"]
    assert [item.message for item in records.events("shop", after=found[2].id)] == ["3", "4"]
    assert [item.message for item in records.events("shop", limit=2)] == ["3", "4"]


def test_events_are_bounded_in_number_and_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_EVENTS", 100)
    records = opened(tmp_path)
    for number in range(1000):
        records.record_event("shop", "", "x", str(number) + "y" * 5000)
    records.trim()
    found = records.events(limit=5000)
    assert len(found) == 100
    assert max(len(item.message) for item in found) == 2000


def test_a_corrupt_database_is_a_clear_error_and_events_are_dropped_quietly(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"this is no database at all, but long enough to look at" * 100)
    records = opened(tmp_path)
    with pytest.raises(CorruptContent, match="what runs is untouched"):
        records.wanted("shop")
    records.record_event("shop", "", "x")
    assert (tmp_path / "state.db").read_bytes().startswith(b"this is no database")


def test_a_database_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(Conflict, match="newer holdfast"):
        opened(tmp_path).begin("shop", "x")


def test_the_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    records = opened(tmp_path)
    records.begin("shop", "x")
    assert {oct(os.stat(tmp_path / name).st_mode & 0o777) for name in os.listdir(tmp_path)} == {"0o600"}


def test_reading_an_absent_database_creates_nothing(tmp_path: Path) -> None:
    records = opened(tmp_path / "root")
    assert records.wanted("shop") is None and records.stacks() == [] and records.events() == []
    assert not (tmp_path / "root").exists()


def test_another_writer_is_noticed(tmp_path: Path) -> None:
    mine, other = opened(tmp_path), opened(tmp_path)
    mine.begin("a", "x")
    before = mine.data_version()
    other.suspend("a")
    assert mine.data_version() != before


def test_many_threads_and_connections_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    shared = opened(tmp_path)

    def work(number: int) -> None:
        records = shared if number % 2 else opened(tmp_path)
        for step in range(10):
            records.begin(f"stack{number}", str(step))
            records.record_event(f"stack{number}", "", "x")
        if records is not shared:
            records.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(shared.history(f"stack{number}")) for number in range(6)] == [10] * 6
    assert len(shared.events(limit=1000)) == 60


def test_a_second_apply_costs_a_few_milliseconds(tmp_path: Path) -> None:
    text = "x" * 200_000
    opened(tmp_path).begin("shop", text)
    took = []
    for _ in range(5):
        records = opened(tmp_path)
        start = time.perf_counter()
        number = records.begin("shop", text)
        records.finish("shop", number, "converged")
        took.append(time.perf_counter() - start)
        records.close()
    assert min(took) < 0.010
