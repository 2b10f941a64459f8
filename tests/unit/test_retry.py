"""A failure is tried again later and later, never never, and new input clears it."""

from __future__ import annotations

from reconciler.backoff import LIMIT
from reconciler.model import Key
from reconciler.retry import FLAP_LIMIT, Retries

WEB, API = Key("service", "web"), Key("service", "api")


def test_the_wait_doubles_with_each_failure_in_a_row_up_to_a_limit() -> None:
    retries, now, waits = Retries(), 0.0, []
    for _ in range(12):
        hold = retries.failed(WEB, "StartFailed", "no such program", now)
        waits.append(hold.until - now)
        assert retries.holds(now) == {WEB: hold}
        now = hold.until
        assert retries.holds(now) == {}
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0] and waits[-1] == LIMIT


def test_another_reason_starts_at_the_first_step() -> None:
    retries = Retries()
    for now in range(5):
        retries.failed(WEB, "PortBusy", "busy", now)
    assert retries.failed(WEB, "StartFailed", "missing", 100.0).until == 101.0


def test_success_forgets_the_failures_of_that_resource_only() -> None:
    retries = Retries()
    retries.failed(WEB, "PortBusy", "busy", 0)
    retries.failed(API, "PortBusy", "busy", 0)
    retries.succeeded(WEB, 1, "start", 0)
    assert set(retries.holds(0)) == {API}
    assert retries.attempts(WEB) == 0 and retries.attempts(API) == 1


def test_a_new_generation_clears_every_wait_and_the_same_one_clears_none() -> None:
    retries = Retries()
    retries.begin(1)
    retries.failed(WEB, "PortBusy", "busy", 0)
    retries.begin(1)
    assert retries.holds(0)
    retries.begin(2)
    assert not retries.holds(0) and retries.attempts(WEB) == 0


def test_a_resource_replaced_over_and_over_is_stopped_and_named() -> None:
    retries = Retries()
    found = [retries.succeeded(WEB, 1, "replace", float(now)) for now in range(FLAP_LIMIT + 1)]
    assert found[:-1] == [None] * FLAP_LIMIT
    assert found[-1] is not None and "replace was done 6 times" in found[-1].reason
    assert set(retries.holds(FLAP_LIMIT)) == {WEB}


def test_rare_replacements_and_plain_restarts_of_the_program_are_no_loop() -> None:
    retries = Retries()
    assert all(retries.succeeded(WEB, 1, "replace", now * 200.0) is None for now in range(20))
    assert all(retries.succeeded(WEB, 1, "start", float(now)) is None for now in range(20))


def test_a_clock_that_jumps_back_a_year_makes_nothing_wait_a_year() -> None:
    retries = Retries()
    retries.failed(WEB, "PortBusy", "busy", 1e9)
    assert retries.holds(1e9 - 3e7) == {}
    assert retries.failed(WEB, "PortBusy", "busy", 1e9 - 3e7).until == 1e9 - 3e7 + 2.0
