"""plan, apply, status, explain, logs, exec, history, events and destroy of a stack, on an engine in memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reconciler.cli import engine as cli_engine
from reconciler.lock import stack_lock
from runtime.api import LogLine
from runtime.errors import Unsupported
from tests.support.command_line import CommandLine
from tests.support.fake_engine import FakeEngine

STACK = """
apiVersion: holdfast/v1
kind: Stack
metadata: {name: demo}
---
apiVersion: holdfast/v1
kind: Service
metadata: {name: web}
spec:
  image: busybox
  command: [sleep, "1000"]
  environment: {COLOUR: %s}
  deploy: {replicas: 2}
"""


@pytest.fixture
def line(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    made = CommandLine(tmp_path, capfd, monkeypatch)
    made.write("stack/demo.yaml", STACK % "red")
    return made


def test_plan_says_3_and_apply_makes_the_next_plan_say_0(line: CommandLine) -> None:
    planned = line.run("plan", "-f", "stack")
    assert planned.code == 3
    assert "service/web-1" in planned.out and "create" in planned.out
    assert line.engine.snapshot().containers == ()
    line.ok("apply", "-f", "stack")
    assert line.run("plan", "-f", "stack").code == 0


def test_a_second_apply_changes_nothing_and_says_so(line: CommandLine) -> None:
    line.ok("apply", "-f", "stack")
    before = {c.id for c in line.engine.snapshot().containers}
    again = line.ok("apply", "-f", "stack")
    assert again.out == "stack demo: converged, nothing to change (generation 1)\n"
    assert {c.id for c in line.engine.snapshot().containers} == before


def test_apply_prints_the_plan_and_the_result_on_stdout_and_progress_on_stderr(line: CommandLine) -> None:
    ended = line.ok("apply", "-f", "stack")
    assert ended.out.startswith("stack demo: ")
    assert ended.out.splitlines()[-1].startswith("stack demo: converged, ")
    assert "created" in ended.err and "created" not in ended.out
    assert "no agent" in ended.err


def test_a_changed_field_is_named_with_both_values(line: CommandLine) -> None:
    line.ok("apply", "-f", "stack")
    line.write("stack/demo.yaml", STACK % "blue")
    planned = line.run("plan", "-f", "stack")
    assert planned.code == 3
    assert "COLOUR" in planned.out and "red" in planned.out and "blue" in planned.out


def test_bad_input_is_2_with_all_problems_and_touches_nothing(line: CommandLine) -> None:
    line.write("stack/demo.yaml", (STACK % "red").replace("image:", "imaeg:").replace("replicas: 2", "replicas: many"))
    for verb in ("plan", "apply", "validate"):
        ended = line.run(verb, "-f", "stack")
        assert ended.code == 2, ended.err
        assert "imaeg" in ended.err and "did you mean" in ended.err and "replicas" in ended.err
        assert "demo.yaml:" in ended.err and ended.out == ""
    assert line.engine.snapshot().containers == ()


def test_manifests_come_from_standard_input_too(line: CommandLine) -> None:
    ended = line.run("plan", "-f", "-", stdin=STACK % "red")
    assert ended.code == 3 and "stack demo" in ended.out


def test_a_plan_file_is_carried_out_or_refused_when_the_world_changed(line: CommandLine) -> None:
    assert line.run("plan", "-f", "stack", "--out", "plan.json").code == 3
    line.ok("apply", "plan.json")
    assert len(line.engine.snapshot().containers) == 2
    ended = line.run("apply", "plan.json")
    assert ended.code == 2 and "nothing was touched" in ended.err
    assert line.run("apply", "stack/demo.yaml").code == 2
    line.write("no-plan.json", "{}")
    assert line.run("apply", "no-plan.json").code == 2


def test_a_locked_stack_is_5_and_names_the_holder(line: CommandLine) -> None:
    with stack_lock(str(line.root), "demo"):
        ended = line.run("apply", "-f", "stack")
    assert ended.code == 5
    assert "process" in ended.err and line.engine.snapshot().containers == ()


def test_a_program_that_ends_at_once_is_1_and_told(line: CommandLine) -> None:
    line.write("stack/demo.yaml", (STACK % "red").replace('[sleep, "1000"]', '[sh, -c, "exit 3"]'))
    ended = line.run("apply", "-f", "stack", "--timeout", "5s")
    assert ended.code in (1, 4)
    assert "web" in ended.err


def test_json_of_apply_and_plan_is_one_value_on_stdout(line: CommandLine) -> None:
    plan = line.run("plan", "-f", "stack", "--json").json
    assert [action["verb"] for action in plan["actions"]].count("create") >= 2
    outcome = line.ok("apply", "-f", "stack", "--json").json
    assert outcome["stack"] == "demo" and outcome["converged"] is True and outcome["exit_code"] == 0


def test_status_explain_and_listing_know_the_stack(line: CommandLine) -> None:
    line.ok("apply", "-f", "stack")
    shown = line.ok("status").out
    assert shown.startswith("demo") and "service/web" in shown and "2/2" in shown
    assert line.ok("status", "-q").out == "demo\n"
    assert line.ok("status", "demo", "--json").json[0]["settled"] is True
    assert "service/web is running: 2 of 2 ready" in line.ok("explain", "demo/web").out
    assert line.ok("explain", "demo/web-1", "--json").json["resource"] == "service/web"
    found = line.ok("container", "ls", "--json", "--filter", "stack=demo").json
    assert {(item["stack"], item["resource"]) for item in found} == {("demo", "web")}
    assert line.run("status", "nobody").code == 1
    assert line.run("explain", "demo/nobody").code == 1
    assert line.run("explain", "demo").code == 2


def test_logs_of_a_service_merge_replicas_by_time(line: CommandLine) -> None:
    line.ok("apply", "-f", "stack")
    first, second = sorted(line.engine._containers.values(), key=lambda c: c.labels["holdfast.index"])
    first.log[:] = [LogLine(1.0, "stdout", b"a"), LogLine(3.0, "stdout", b"c")]
    second.log[:] = [LogLine(2.0, "stdout", b"b")]
    assert line.ok("logs", "demo/web").out == "web-1 | a\nweb-2 | b\nweb-1 | c\n"
    assert line.ok("logs", "--no-prefix", "demo/web-2").out == "b\n"
    ended = line.run("logs", "demo/wbe")
    assert ended.code == 1 and "web" in ended.err


def test_exec_takes_a_service_or_a_replica(line: CommandLine) -> None:
    line.ok("apply", "-f", "stack")
    assert line.run("exec", "demo/web", "--", "sh", "-c", "exit 6").code == 6
    assert line.run("exec", "demo/web-2", "sh", "-c", "exit 7").code == 7
    assert line.run("exec", "demo/nobody", "true").code == 125


def test_history_and_events_record_what_was_applied(line: CommandLine) -> None:
    line.ok("apply", "-f", "stack")
    line.write("stack/demo.yaml", STACK % "blue")
    line.ok("apply", "-f", "stack")
    assert line.ok("history", "demo", "-q").out == "2\n1\n"
    newest = line.ok("history", "demo", "--json").json[0]
    assert newest["wanted"] is True and newest["result"] == "converged" and "stack" in newest["source"]
    recorded = line.ok("events", "demo", "--json").json
    assert recorded and all(event["stack"] == "demo" for event in recorded)
    assert line.run("history", "nobody").code == 1


def test_destroy_removes_the_stack_and_keeps_its_volumes(line: CommandLine) -> None:
    volume = "---\napiVersion: holdfast/v1\nkind: Volume\nmetadata: {name: data}\n"
    mounted = (STACK % "red").replace("  deploy:", '  volumes: ["data:/data"]\n  deploy:')
    line.write("stack/demo.yaml", mounted + volume)
    line.ok("apply", "-f", "stack")
    ended = line.ok("destroy", "demo")
    assert line.engine.snapshot().containers == ()
    assert "kept: volume demo_data" in ended.err
    line.ok("destroy", "demo", "--volumes")
    assert line.engine.snapshot().volumes == ()
    assert line.run("destroy", "nobody").code == 1


def test_secrets_appear_nowhere(line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "hunter2-very-secret")
    secret = "---\napiVersion: holdfast/v1\nkind: Secret\nmetadata: {name: pw}\nspec: {environment: PASSWORD}\n"
    line.write("stack/demo.yaml", (STACK % "red").replace("  deploy:", "  secrets: [pw]\n  deploy:") + secret)
    texts = [line.run("plan", "-f", "stack"), line.run("plan", "-f", "stack", "--json", "--out", "plan.json")]
    texts += [line.ok("apply", "-f", "stack"), line.ok("status", "--json"), line.ok("events", "--json")]
    ids = line.ok("container", "ls", "-q").out.split()
    texts += [line.ok("container", "inspect", *ids), line.ok("history", "demo", "--json")]
    assert ids
    assert not [text for text in texts if "hunter2" in text.out + text.err]
    kept = [path for path in line.directory.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert not kept


def test_graph_and_validate_and_schema(line: CommandLine) -> None:
    assert "service/web" in line.ok("graph", "-f", "stack").out
    assert line.ok("graph", "-f", "stack", "--format", "mermaid").out.startswith("graph LR")
    assert line.ok("graph", "-f", "stack", "--format", "dot").out.startswith("digraph")
    assert line.ok("validate", "-f", "stack").out.startswith("stack demo: ")
    assert "Service" in line.ok("schema").out
    assert json.loads(line.ok("schema", "service").out)["title"] == "Holdfast Service"
    ended = line.run("schema", "Servise")
    assert ended.code == 2 and "did you mean Service" in ended.err


def test_somebody_who_may_not_open_the_root_may_check_manifests(
    line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, str]] = []

    def open_engine(root: str, run_base: str = "") -> FakeEngine:
        opened.append((root, run_base))
        if root == str(line.root):
            raise Unsupported(f'cannot open the state root "{root}": root privileges are needed')
        return line.engine

    monkeypatch.setattr(cli_engine, "open_engine", open_engine)
    assert line.ok("validate", "-f", "stack").out.startswith("stack demo: ")
    assert "service/web" in line.ok("graph", "-f", "stack").out
    assert line.run("plan", "-f", "stack").code == 1
    elsewhere = [run_base for root, run_base in opened if root != str(line.root)]
    assert elsewhere and all(elsewhere), "its run-time files lie elsewhere too"


def test_shell_completion_lists_commands(line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import ShellComplete

    from reconciler.cli.main import root

    found = ShellComplete(root, {}, "holdfast", "_HOLDFAST_COMPLETE").get_completions([], "st")
    assert [item.value for item in found] == ["status"]
    found = ShellComplete(root, {}, "holdfast", "_HOLDFAST_COMPLETE").get_completions(["container"], "in")
    assert [item.value for item in found] == ["inspect"]


def test_the_documented_fields_are_those_that_are_printed(line: CommandLine) -> None:
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z ]+)` \| (.*) \|$", text, re.MULTILINE))

    def documented(row: str) -> set[str]:
        return set(re.findall(r"`([a-z_ ]+)`", row)[0].split())

    line.ok("apply", "-f", "stack")
    assert set(line.ok("status", "--json").json[0]) == documented(rows["status"])
    assert set(line.ok("history", "demo", "--json").json[0]) == documented(rows["history"])
    assert set(line.ok("events", "--json").json[0]) == documented(rows["events"])
    assert set(line.ok("image", "ls", "--json").json[0]) == documented(rows["image ls"])
    assert set(line.ok("network", "ls", "--json").json[0]) == documented(rows["network ls"])
    container = set(line.ok("container", "ls", "--json").json[0])
    described = set(re.findall(r"^\| (`[a-z_`, ]+) \|", text, re.MULTILINE))
    assert container == {name for cell in described for name in re.findall(r"`([a-z_]+)`", cell)} - {
        "status",
        "plan",
        "history",
        "events",
        "apply",
        "destroy",
        "explain",
    }
