"""The agent as a whole, in this process, on the fake engine: it heals, obeys intent, follows its source, serves."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.agent.client import AgentClient, is_serving
from reconciler.agent.daemon import Agent, run_agent
from reconciler.convergence import ConvergeOptions, converge
from reconciler.desired import to_json
from reconciler.generations import Generations, StackLocked, stack_lock
from reconciler.model import Desired, InputError, Key, Problem
from runtime.api import ContainerSpec, Damage, ExecResult, HealthCheck
from runtime.errors import Conflict, InvalidSpec, NotFound, StartFailed, Unavailable
from tests.support.desired import (
    STACK,
    health,
    make_desired,
    make_job,
    make_network,
    make_service,
    needs,
    restart,
)
from tests.support.fake_engine import FakeEngine

WEB = make_service("web", networks=["front"], needs=needs(("service", "db", "healthy")))
DB = make_service("db", networks=["front"], policy={"health": health(interval=0.2, retries=2)})
SHOP = make_desired(WEB, DB, make_network("front"))


def wait_for(condition: Callable[[], object], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


class Clock:
    """The fake engine's time, moved on with real time: back-offs pass, and programs end, as they would."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._begun = time.monotonic()
        self._base = engine.now

    def __call__(self) -> float:
        now = self._base + time.monotonic() - self._begun
        self._engine.advance(max(0.0, now - self._engine.now))
        return self._engine.now


class Source:
    """What the agent's manifests say, without files."""

    def __init__(self) -> None:
        self.desired: Desired | None = None
        self.error: Exception | None = None

    def __call__(self) -> tuple[Desired, str]:
        if self.error is not None:
            raise self.error
        assert self.desired is not None
        return self.desired, "r1"


class Bench:
    def __init__(self, tmp_path: Path) -> None:
        self.root = str(tmp_path / "root")
        self.manifests = tmp_path / "manifests"
        self.manifests.mkdir()
        self.socket = str(tmp_path / "run" / "agent.sock")
        self.engine = FakeEngine()
        self.clock = Clock(self.engine)
        self.source = Source()
        self.lines: list[str] = []
        self.agent: Agent | None = None
        self.records = Generations(self.root, self.clock)
        self.client = AgentClient(self.socket)

    def start(self, *, source: bool = False, interval: float = 30.0) -> Agent:
        self.agent = Agent(
            self.engine, self.root, self.socket, [str(self.manifests)] if source else [],
            load=self.source, interval=interval, log=self.lines.append, clock=self.clock,
        )  # fmt: skip
        self.agent.start()
        return self.agent

    def stop(self) -> None:
        if self.agent is not None:
            self.agent.stop()
            self.agent = None

    def apply_without_agent(self, desired: Desired) -> Any:
        return converge(self.engine, self.records, desired, ConvergeOptions(timeout=10), clock=self.clock)

    def states(self) -> dict[str, str]:
        return {state.name: state.status for state in self.engine.snapshot().containers}

    def runs(self, name: str) -> bool:
        self.clock()
        return self.states().get(f"{STACK}/{name}") == "running"

    def id(self, name: str) -> str:
        return self.engine.container(f"{STACK}/{name}").id

    def events(self) -> list[str]:
        return [f"{event.action}: {event.message}" for event in self.records.events(STACK)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.stop()
    made.records.close()


# ---- healing ----------------------------------------------------------------------------------------------------


def test_a_killed_container_runs_again_within_a_tenth_of_a_second(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.start()
    took = []
    for _ in range(5):
        time.sleep(0.05)
        bench.engine.exit(bench.id("web-1"), signal=9)
        begun = time.monotonic()
        wait_for(lambda: bench.runs("web-1"))
        took.append(time.monotonic() - begun)
    assert sorted(took)[2] < 0.1, took


def test_a_removed_container_is_made_again(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.start(interval=0.2)
    bench.engine.vanish(bench.id("web-1"))
    wait_for(lambda: bench.runs("web-1"))


def test_damage_is_repaired_by_the_periodic_look(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.engine.scar("network", f"{STACK}_front", Damage("bridge", "up", "gone"))
    bench.start(interval=0.2)
    wait_for(lambda: not any(network.damage for network in bench.engine.snapshot().networks))
    bench.engine.vanish_network(f"{STACK}_front")
    wait_for(lambda: [network.name for network in bench.engine.snapshot().networks] == [f"{STACK}_front"])


def test_after_a_boot_everything_comes_back_in_order_of_its_needs(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.engine.reboot()
    bench.engine.calls.clear()
    bench.start()
    wait_for(lambda: bench.runs("web-1") and bench.runs("db-1"))
    started = [name for call, name in bench.engine.calls if call == "start_container"]
    assert started == [f"{STACK}/db-1", f"{STACK}/web-1"]
    assert bench.engine.container(f"{STACK}/db-1").health == "healthy"


def test_a_dependant_waits_until_its_need_is_healthy_however_long_that_takes(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.engine.reboot()
    bench.engine.health_of = lambda spec: 1
    bench.start()
    wait_for(lambda: bench.runs("db-1"))
    time.sleep(0.3)
    assert not bench.runs("web-1")
    bench.engine.health_of = lambda spec: 0
    wait_for(lambda: bench.runs("web-1"))


def test_a_program_that_keeps_failing_is_started_ever_more_slowly_and_says_why(bench: Bench) -> None:
    bench.start()
    bench.client.apply(to_json(make_desired(make_service("bad", command=["false"]))), wait=False)

    def starts() -> int:
        return sum(1 for call, name in bench.engine.calls if call == "start_container")

    wait_for(lambda: (bench.clock(), starts() >= 5)[1])
    status = bench.client.status(STACK)["stacks"][0]
    (bad,) = status["resources"]
    assert "exited with code 1" in bad["problem"]
    before = starts()
    time.sleep(0.3)
    assert starts() - before <= 2
    wait_for(lambda: any("exited with code 1" in line for line in bench.events()))


def test_a_failing_action_backs_off_and_new_input_clears_it(bench: Bench) -> None:
    bench.engine.fail("start_container", "web", StartFailed("cannot start: no such program"), times=1000)
    bench.start()
    with_fault = bench.client.apply(to_json(make_desired(make_service("web"))), timeout=5)
    assert with_fault["failures"]
    wait_for(lambda: bench.client.status(STACK)["stacks"][0]["resources"][0]["state"] == "backing-off")
    calls = len(bench.engine.calls)
    time.sleep(0.3)
    assert len([one for one in bench.engine.calls[calls:] if one[0] == "start_container"]) <= 1
    bench.engine._faults.clear()
    fixed = bench.client.apply(to_json(make_desired(make_service("web", env={"A": "1"}))), timeout=5)
    assert fixed["converged"]


def test_a_failing_resource_does_not_keep_another_from_being_healed(bench: Bench) -> None:
    bench.engine.fail("start_container", "bad", StartFailed("cannot start"), times=1000)
    bench.start()
    bench.client.apply(to_json(make_desired(make_service("bad"), make_service("good"))), timeout=5)
    wait_for(lambda: bench.runs("good-1"))
    bench.engine.exit(bench.id("good-1"), signal=9)
    wait_for(lambda: bench.runs("good-1"), 2.0)


def test_a_death_during_a_long_apply_is_healed_meanwhile(bench: Bench) -> None:
    bench.start()
    bench.client.apply(to_json(SHOP))
    slow = make_service("slow", policy={"health": health(interval=30.0)})
    ids = {bench.id("db-1")}
    bench.engine.exec_script = lambda state, spec: ExecResult(0 if state.id in ids else 1, b"")
    desired = make_desired(*SHOP.resources.values(), slow)
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(bench.client.apply(to_json(desired), timeout=20)))
    thread.start()
    wait_for(lambda: bench.runs("slow-1"))
    time.sleep(0.1)
    bench.engine.exit(bench.id("web-1"), signal=9)
    wait_for(lambda: bench.runs("web-1"), 1.0)
    assert not done
    bench.engine.exec_script = None
    thread.join(10)
    assert done[0]["converged"], done


# ---- intent -----------------------------------------------------------------------------------------------------


def test_a_container_stopped_by_hand_stays_stopped(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.start(interval=0.1)
    bench.engine.stop_container(bench.id("web-1"), by_hand=True)
    time.sleep(0.5)
    assert not bench.runs("web-1")
    (found,) = [one for one in bench.client.status(STACK)["stacks"][0]["resources"] if one["key"] == "service/web"]
    assert found["state"] == "stopped" and "by hand" in found["intent"]


def test_a_suspended_resource_is_left_alone_and_resumed_on_request(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.start(interval=0.1)
    bench.records.suspend(STACK, "service/web", reason="debugging")
    bench.client.wake(STACK)
    bench.engine.exit(bench.id("web-1"), signal=9)
    time.sleep(0.5)
    assert not bench.runs("web-1")
    bench.records.resume(STACK)
    bench.client.wake(STACK)
    wait_for(lambda: bench.runs("web-1"))


def test_a_destroyed_stack_stays_down_although_its_source_declares_it_until_the_source_changes(bench: Bench) -> None:
    bench.source.desired = SHOP
    agent = bench.start(source=True, interval=0.1)
    wait_for(lambda: bench.runs("web-1"))
    outcome = bench.client.destroy(STACK)
    assert outcome["converged"]
    assert agent.source is not None
    agent.source.ask()
    time.sleep(0.5)
    assert bench.states() == {}
    assert "destroyed" in bench.client.status(STACK)["stacks"][0]["intent"]
    bench.source.desired = make_desired(WEB, DB, make_network("front"), make_service("new"))
    agent.source.ask()
    wait_for(lambda: bench.runs("new-1") and bench.runs("web-1"))


def test_a_finished_job_and_restart_no_are_left_alone(bench: Bench) -> None:
    job = make_job("migrate", command=["true"])
    once = make_service("once", command=["true"], policy={"restart": restart("no")})
    bench.apply_without_agent(make_desired(job, once))
    bench.engine.calls.clear()
    bench.start(interval=0.05)
    time.sleep(0.4)
    assert [call for call in bench.engine.calls if call[0] == "start_container"] == []


def test_a_hand_made_container_is_probed_but_never_touched(bench: Bench) -> None:
    bench.start(interval=0.1)
    check = HealthCheck(("CMD", "check"), interval=0.1)
    id = bench.engine.create_container(ContainerSpec("mine", "busybox", command=("sleep", "infinity"), health=check))
    bench.engine.start_container(id)
    wait_for(lambda: bench.engine.container(id).health == "healthy")
    bench.engine.exit(id, 1)
    time.sleep(0.3)
    assert bench.engine.container(id).status == "stopped"


# ---- health -----------------------------------------------------------------------------------------------------


def test_a_service_that_falls_ill_is_marked_and_recovers(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.start()
    bench.engine.health_of = lambda spec: 1
    wait_for(lambda: bench.engine.container(f"{STACK}/db-1").health == "unhealthy")
    assert bench.states()[f"{STACK}/db-1"] == "running"
    bench.engine.health_of = lambda spec: 0
    wait_for(lambda: bench.engine.container(f"{STACK}/db-1").health == "healthy")


def test_a_new_agent_takes_no_healthy_container_out_of_service(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    seen: list[str] = []
    original = bench.engine.set_health

    def record(id: str, verdict: Any, detail: str = "") -> None:
        seen.append(verdict)
        original(id, verdict, detail)

    bench.engine.set_health = record  # type: ignore[method-assign,assignment]
    bench.start(interval=0.1)
    time.sleep(0.6)
    assert seen == []


# ---- the source -------------------------------------------------------------------------------------------------


def test_a_changed_source_is_converged_and_what_it_no_longer_declares_is_pruned(bench: Bench) -> None:
    bench.source.desired = SHOP
    agent = bench.start(source=True)
    wait_for(lambda: bench.runs("web-1"))
    bench.source.desired = make_desired(DB, make_network("front"))
    (bench.manifests / "shop.yaml").write_text("changed")
    assert agent.source is not None
    wait_for(lambda: f"{STACK}/web-1" not in bench.states())
    wait_for(lambda: [one.result for one in bench.records.history(STACK)] == ["converged", "converged"])


@pytest.mark.parametrize(
    "error",
    [InputError([Problem("shop.yaml:1:1: the source is empty")]), Unavailable("cannot read"), RuntimeError("bug")],
)
def test_a_source_that_cannot_be_read_changes_nothing_and_is_reported_once(bench: Bench, error: Exception) -> None:
    bench.source.desired = SHOP
    agent = bench.start(source=True, interval=0.1)
    wait_for(lambda: bench.runs("web-1"))
    bench.source.error = error
    assert agent.source is not None
    for _ in range(3):
        agent.source.load_now()
    assert bench.runs("web-1") and bench.runs("db-1")
    assert str(error) in bench.client.status()["agent"]["source"]["problem"]
    assert len([line for line in bench.lines if str(error) in line]) == 1
    bench.engine.exit(bench.id("web-1"), signal=9)
    wait_for(lambda: bench.runs("web-1"))
    bench.source.error = None
    agent.source.load_now()
    assert bench.client.status()["agent"]["source"]["problem"] == ""


def test_a_source_that_shrinks_beyond_the_deletion_budget_prunes_nothing(bench: Bench) -> None:
    many = [make_service(f"s{number}") for number in range(10)]
    bench.source.desired = make_desired(*many)
    agent = bench.start(source=True, interval=0.1)
    wait_for(lambda: all(bench.runs(f"s{number}-1") for number in range(10)))
    bench.source.desired = make_desired(many[0])
    assert agent.source is not None
    agent.source.load_now()
    time.sleep(0.4)
    assert len(bench.states()) == 10
    assert "deletion budget" in bench.client.status()["agent"]["source"]["problem"]
    wanted = bench.records.wanted(STACK)
    assert wanted is not None and wanted.number == 1


# ---- the agent's own life ---------------------------------------------------------------------------------------


def test_stopping_the_agent_touches_no_container(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.start()
    before = {state.id: state.pid for state in bench.engine.snapshot().containers}
    bench.stop()
    assert {state.id: state.pid for state in bench.engine.snapshot().containers} == before
    assert not is_serving(bench.socket) and not os.path.exists(bench.socket)


def test_what_was_applied_by_hand_is_kept_by_a_later_agent(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.engine.exit(bench.id("web-1"), signal=9)
    bench.start()
    wait_for(lambda: bench.runs("web-1"))


def test_an_apply_that_was_killed_is_finished_by_the_agent(bench: Bench) -> None:
    from reconciler.wanted import begin

    begin(bench.records, SHOP, ConvergeOptions())
    bench.start()
    wait_for(lambda: bench.runs("web-1"))
    wait_for(lambda: bench.records.get(STACK, 1).result == "converged")


def test_no_prune_of_an_apply_holds_for_the_agent_too(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.start(interval=0.1)
    bench.client.apply(to_json(make_desired(DB, make_network("front"))), prune=False)
    time.sleep(0.4)
    assert bench.runs("web-1")


def test_a_stack_that_another_process_works_on_is_left_to_it(bench: Bench) -> None:
    bench.apply_without_agent(SHOP)
    bench.start(interval=0.1)
    with stack_lock(bench.root, STACK):
        bench.engine.exit(bench.id("web-1"), signal=9)
        time.sleep(0.3)
        assert not bench.runs("web-1")
    wait_for(lambda: bench.runs("web-1"))


def test_one_stacks_trouble_does_not_hold_up_another(bench: Bench) -> None:
    other = make_desired(make_service("solo"), stack="other")
    bench.apply_without_agent(SHOP)
    bench.apply_without_agent(other)
    bench.start(interval=0.1)
    with stack_lock(bench.root, STACK):
        id = bench.engine.container("other/solo-1").id
        bench.engine.exit(id, signal=9)
        wait_for(lambda: bench.engine.container(id).status == "running", 2.0)


def test_one_root_has_one_agent(bench: Bench) -> None:
    stop = threading.Event()
    thread = threading.Thread(
        target=run_agent,
        args=(bench.engine, bench.root, bench.socket),
        kwargs={"log": bench.lines.append, "stop": stop},
    )
    thread.start()
    try:
        wait_for(lambda: is_serving(bench.socket))
        with pytest.raises(Conflict, match=f"process {os.getpid()}"):
            run_agent(bench.engine, bench.root, bench.socket, stop=threading.Event())
        assert is_serving(bench.socket)
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


AGENT = """
import sys
from reconciler.agent.daemon import run_agent
from tests.support.fake_engine import FakeEngine
sys.exit(run_agent(FakeEngine(), sys.argv[1], sys.argv[2]))
"""


def test_the_agent_tells_systemd_when_it_is_ready_and_ends_cleanly_by_sigterm(tmp_path: Path) -> None:
    path = str(tmp_path / "run" / "agent.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news:
        news.bind(str(tmp_path / "notify"))
        news.settimeout(20)
        environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        words = [sys.executable, "-c", AGENT, str(tmp_path / "root"), path]
        with subprocess.Popen(words, env=environ, stderr=subprocess.PIPE) as process:
            heard = [news.recv(4096)]
            while not any(message.startswith(b"READY=1") for message in heard):
                heard.append(news.recv(4096))
            assert is_serving(path)
            assert os.stat(path).st_mode & 0o777 == 0o600
            while b"WATCHDOG=1" not in heard:
                heard.append(news.recv(4096))
            process.send_signal(signal.SIGHUP)
            while not any(message.startswith(b"RELOADING=1") for message in heard):
                heard.append(news.recv(4096))
            process.send_signal(signal.SIGTERM)
            while b"STOPPING=1" not in heard:
                heard.append(news.recv(4096))
            assert process.wait(10) == 0
    assert not os.path.exists(path)


def test_an_agent_after_a_killed_one_takes_the_root_and_the_socket_over(tmp_path: Path) -> None:
    path = str(tmp_path / "run" / "agent.sock")
    words = [sys.executable, "-c", AGENT, str(tmp_path / "root"), path]
    for _ in range(2):
        with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
            wait_for(lambda: is_serving(path), 20)
            pid = AgentClient(path).version()["pid"]
            assert pid == process.pid
            process.kill()
            process.wait()
    assert not is_serving(path)


# ---- the socket -------------------------------------------------------------------------------------------------


def test_an_apply_through_the_socket_streams_its_progress(bench: Bench) -> None:
    bench.start()
    lines: list[dict[str, Any]] = []
    outcome = bench.client.apply(to_json(SHOP), revision="r9", source="/etc/shop", on_event=lines.append)
    assert outcome["converged"] and outcome["generation"] == 1
    assert lines[0]["kind"] == "plan"
    assert {line["key"] for line in lines if line.get("state") == "done"} == {
        "network/front", "service/db-1", "service/web-1",
    }  # fmt: skip
    assert bench.records.get(STACK, 1).revision == "r9"


def test_errors_come_through_the_socket_as_what_they_are(bench: Bench) -> None:
    bench.start()
    bench.engine.busy_ports.add((80, "tcp"))
    port = {"container_port": 80, "host_port": 80, "protocol": "tcp", "host_ip": ""}
    with pytest.raises(InputError, match="80"):
        bench.client.apply(to_json(make_desired(make_service("web", ports=[port]))))
    with pytest.raises(NotFound, match='stack "nothing"'):
        bench.client.destroy("nothing")
    with pytest.raises(InvalidSpec, match="malformed"):
        bench.client.apply({"format": 1})
    with pytest.raises(InvalidSpec, match="malformed"):
        bench.client.apply({"format": 1, "settings": {"name": 3}, "resources": [{"key": 5}]})


def test_a_stack_held_by_another_process_is_named_through_the_socket(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.loop.LOCK_PATIENCE", 0.1)
    bench.start()
    with stack_lock(bench.root, STACK), pytest.raises(StackLocked) as caught:
        bench.client.apply(to_json(SHOP))
    assert caught.value.holder.pid == os.getpid()


def post(path: str, target: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    try:
        connection.request("POST", target, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"desired": 3}', b'{"desired": {}, "surprise": 1}', b"[" * 100_000, b"\xff\xfe",
     b'{"desired": {}, "timeout": -1}', b'{"desired": {}, "timeout": 1e400}'],
)  # fmt: skip
def test_malformed_bodies_are_refused_without_harm(bench: Bench, body: bytes) -> None:
    bench.start()
    status, answer = post(bench.socket, "/v1/apply", body)
    assert status == 400 and b"Traceback" not in answer and json.loads(answer)["error"]
    assert bench.client.version()["api"] == "v1"


def test_a_body_without_bound_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.agent.server.BODY_LIMIT", 1 << 20)
    bench.start()
    status, _ = post(bench.socket, "/v1/wake", b'{"stack": "' + b"x" * (2 << 20) + b'"}')
    assert status == 413


def test_unknown_paths_and_methods_are_answered_as_json(bench: Bench) -> None:
    bench.start()
    status, answer = post(bench.socket, "/v2/anything", b"")
    assert status == 404 and json.loads(answer)["error"]
    assert post(bench.socket, "/v1/version", b"")[0] == 405


def test_a_client_that_goes_away_ends_nothing(bench: Bench) -> None:
    bench.engine.health_of = lambda spec: 1
    bench.start()
    body = json.dumps({"desired": to_json(SHOP), "timeout": 20}).encode()
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(bench.socket)
    raw.sendall(b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    wait_for(lambda: bench.runs("db-1"))
    raw.close()
    bench.engine.health_of = lambda spec: 0
    wait_for(lambda: bench.runs("web-1"))
    wait_for(lambda: bench.records.get(STACK, 1).result == "converged")


def test_events_can_be_read_and_followed(bench: Bench) -> None:
    bench.start()
    bench.client.apply(to_json(SHOP))
    found = list(bench.client.events(STACK, follow=False))
    assert [item["action"] for item in found].count("create") == 3
    stream = bench.client.events(STACK, after=found[-1]["id"])
    threading.Timer(0.2, lambda: bench.records.record_event(STACK, "service/web", "hello", "x")).start()
    while (item := next(stream))["action"] != "hello":
        pass
    assert item["resource"] == "service/web"
    del stream


def test_without_an_agent_the_client_says_so(tmp_path: Path) -> None:
    assert not is_serving(str(tmp_path / "none.sock"))
    with pytest.raises(Unavailable, match="holdfast agent"):
        AgentClient(str(tmp_path / "none.sock")).version()


def test_the_status_names_what_a_waiting_service_waits_for(bench: Bench) -> None:
    from reconciler.explanation import explain
    from reconciler.status import StackStatus

    bench.engine.health_of = lambda spec: 1
    bench.start()
    bench.client.apply(to_json(SHOP), wait=False)
    wait_for(lambda: bench.runs("db-1"))
    status = StackStatus.from_json(bench.client.status(STACK)["stacks"][0])
    text = "\n".join(explain(Key("service", "web"), SHOP, status, bench.engine.snapshot()))
    assert "service/web waits for service/db to be healthy" in text
