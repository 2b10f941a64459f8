"""The container verbs, with docker's options and exit codes, on an engine in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.api import LogLine
from runtime.errors import StartFailed
from tests.support.command_line import CommandLine


@pytest.fixture
def line(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(tmp_path, capfd, monkeypatch)


def test_a_foreground_run_gives_output_and_exit_code_of_the_program(line: CommandLine) -> None:
    ended = line.run("container", "run", "--name", "x", "busybox", "sh", "-c", "echo out; exit 7")
    assert ended.code == 7
    assert ended.out == "out\n"
    assert line.engine.container("x").status == "stopped"


def test_rm_removes_the_container_when_the_program_ends(line: CommandLine) -> None:
    assert line.run("container", "run", "--rm", "--name", "x", "busybox", "sh", "-c", "exit 3").code == 3
    assert line.engine.snapshot().containers == ()


def test_detached_run_prints_the_id_alone(line: CommandLine) -> None:
    ended = line.ok("container", "run", "-d", "--name", "x", "busybox", "sleep", "1000")
    assert ended.out == line.engine.container("x").id + "\n"
    assert ended.err == ""


def test_words_after_the_image_belong_to_the_program(line: CommandLine) -> None:
    line.ok("container", "create", "--name", "x", "busybox", "ls", "-l", "--rm")
    assert line.engine.spec_of("x").command == ("ls", "-l", "--rm")


@pytest.mark.parametrize("code", [125, 126, 127])
def test_a_failed_start_gives_dockers_codes(line: CommandLine, code: int) -> None:
    line.engine.fail("start_container", "x", StartFailed('cannot start container "x": no', "look", code))
    ended = line.run("container", "run", "--rm", "--name", "x", "busybox", "nothing")
    assert ended.code == code
    assert ended.err == 'cannot start container "x": no\n  look\n'
    assert line.engine.snapshot().containers == ()


def test_wrong_options_of_run_give_125_and_of_ls_2(line: CommandLine) -> None:
    assert line.run("container", "run", "--no-such-option", "busybox").code == 125
    assert line.run("container", "ls", "--no-such-option").code == 2
    assert line.run("no-such-command").code == 2


def test_restart_policies_are_refused_with_a_reason(line: CommandLine) -> None:
    ended = line.run("container", "run", "-d", "--restart", "always", "busybox")
    assert ended.code == 125
    assert "reconciler decides" in ended.err
    assert line.engine.snapshot().containers == ()


def test_ls_shows_what_runs_and_all_with_a(line: CommandLine) -> None:
    line.ok("container", "run", "-d", "--name", "up", "-p", "127.0.0.1:8080:80", "busybox", "sleep", "1000")
    line.ok("container", "run", "--name", "down", "busybox", "true")
    shown = line.ok("container", "ls").out
    assert "up" in shown and "127.0.0.1:8080->80/tcp" in shown and "down" not in shown
    everything = line.ok("container", "ls", "-a").out
    assert "stopped (0)" in everything
    assert (
        line.ok("container", "ls", "-aq").out.split()
        == [
            line.engine.container("down").id[:12],
            line.engine.container("up").id[:12],
        ]
        or len(line.ok("container", "ls", "-aq").out.split()) == 2
    )


def test_json_of_a_container_has_the_promised_fields(line: CommandLine) -> None:
    line.ok("container", "run", "-d", "--name", "up", "-l", "a=b", "busybox", "sleep", "1000")
    line.run("container", "run", "--name", "down", "busybox", "sh", "-c", "exit 4")
    found = {item["name"]: item for item in line.ok("container", "ls", "-a", "--json").json}
    promised = {"id", "name", "stack", "resource", "image", "state", "pid", "exit_code", "health", "ports", "created"}
    assert promised <= set(found["up"])
    assert found["up"]["state"] == "running" and found["up"]["pid"] > 0 and found["up"]["exit_code"] is None
    assert found["down"]["state"] == "stopped" and found["down"]["pid"] is None and found["down"]["exit_code"] == 4
    assert found["up"]["labels"] == {"a": "b"} and found["up"]["stack"] is None


def test_filters_of_one_key_are_alternatives_and_of_several_all_required(line: CommandLine) -> None:
    for name, label in (("one", "x=1"), ("two", "x=2"), ("three", "y=1")):
        line.ok("container", "create", "--name", name, "-l", label, "busybox")

    def names(*filters: str) -> set[str]:
        words = [word for text in filters for word in ("--filter", text)]
        return {item["name"] for item in line.ok("container", "ls", "-a", "--json", *words).json}

    assert names("label=x") == {"one", "two"}
    assert names("label=x=2") == {"two"}
    assert names("name=one", "name=three") == {"one", "three"}
    assert names("label=x", "name=one") == {"one"}
    assert names("status=created", "label=y=1") == {"three"}
    assert line.run("container", "ls", "--filter", "colour=red").code == 2


def test_stop_by_hand_is_recorded_as_intent(line: CommandLine) -> None:
    line.ok("container", "run", "-d", "--name", "x", "busybox", "sleep", "1000")
    assert line.ok("container", "stop", "x").out == "x\n"
    assert line.engine.container("x").intent == "stop"
    line.ok("container", "start", "x")
    assert line.engine.container("x").intent == ""


def test_several_names_go_on_after_a_failure_and_exit_1(line: CommandLine) -> None:
    line.ok("container", "create", "--name", "x", "busybox")
    ended = line.run("container", "rm", "nobody", "x")
    assert ended.code == 1
    assert ended.out == "x\n"
    assert 'cannot find container "nobody": no such container' in ended.err
    assert line.engine.snapshot().containers == ()


def test_rm_of_a_running_container_needs_force(line: CommandLine) -> None:
    line.ok("container", "run", "-d", "--name", "x", "busybox", "sleep", "1000")
    ended = line.run("container", "rm", "x")
    assert ended.code == 1 and "it is running" in ended.err and "--force" in ended.err
    line.ok("container", "rm", "-f", "x")
    line.ok("container", "rm", "-f", "x")
    assert line.engine.snapshot().containers == ()


def test_wait_prints_and_gives_the_exit_code(line: CommandLine) -> None:
    line.ok("container", "run", "-d", "--name", "x", "busybox", "sh", "-c", "exit 9")
    ended = line.run("container", "wait", "x")
    assert (ended.code, ended.out) == (9, "9\n")


def test_kill_takes_signals_by_name_and_number_and_refuses_others(line: CommandLine) -> None:
    line.ok("container", "run", "-d", "--name", "x", "busybox", "sleep", "1000")
    assert line.run("container", "kill", "-s", "NOSUCH", "x").code == 2
    line.ok("container", "kill", "-s", "15", "x")
    assert line.engine.container("x").last_run.signal == 15  # type: ignore[union-attr]


def test_the_start_of_an_id_names_a_container_if_only_one_fits(line: CommandLine) -> None:
    line.ok("container", "create", "--name", "x", "busybox")
    id = line.engine.container("x").id
    assert line.ok("container", "inspect", id[:10]).json[0]["name"] == "x"


def test_inspect_shows_what_a_container_was_made_from(line: CommandLine) -> None:
    line.ok("container", "create", "--name", "x", "-m", "64m", "-e", "A=1", "busybox", "ls")
    spec = line.ok("container", "inspect", "x").json[0]["spec"]
    assert spec["resources"]["memory"] == 64 << 20
    assert spec["env"] == {"A": "1"} and spec["command"] == ["ls"]


def test_exec_gives_the_programs_code_and_refuses_what_does_not_run(line: CommandLine) -> None:
    line.ok("container", "run", "-d", "--name", "x", "busybox", "sleep", "1000")
    assert line.run("container", "exec", "x", "sh", "-c", "exit 5").code == 5
    line.ok("container", "stop", "x")
    ended = line.run("container", "exec", "x", "true")
    assert ended.code == 125 and "it is stopped" in ended.err


def test_logs_keep_two_streams_apart(line: CommandLine) -> None:
    line.ok("container", "run", "--name", "x", "busybox", "true")
    container = line.engine._containers[line.engine.container("x").id]
    container.log[:] = [
        LogLine(1.0, "stdout", b"one"),
        LogLine(2.0, "stderr", b"two"),
        LogLine(3.0, "stdout", b"three"),
    ]
    ended = line.ok("container", "logs", "x")
    assert (ended.out, ended.err) == ("one\nthree\n", "two\n")
    assert line.ok("container", "logs", "-n", "1", "x").out == "three\n"
    assert line.ok("container", "logs", "-t", "--since", "1970-01-01T00:00:02Z", "x").out.startswith(
        "1970-01-01T00:00:03.000Z "
    )


def test_an_unforeseen_error_is_told_without_a_traceback(line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(deep: bool = True) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(line.engine, "snapshot", explode)
    ended = line.run("container", "ls")
    assert ended.code == 1
    assert "Traceback" not in ended.err and "ZeroDivisionError: boom" in ended.err


def test_an_interrupt_gives_130(line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(deep: bool = True) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(line.engine, "snapshot", interrupt)
    assert line.run("container", "ls").code == 130


def test_hostile_names_cannot_move_the_cursor(line: CommandLine) -> None:
    line.engine.add_image("evil\x1b[2Jimage")
    shown = line.ok("image", "ls").out
    assert "\x1b" not in shown and "evil?[2Jimage" in shown


def test_networks_and_volumes_are_made_listed_and_removed(line: CommandLine) -> None:
    assert line.ok("network", "create", "--internal", "net").out == "net\n"
    assert line.ok("network", "ls", "--json").json[0]["internal"] is True
    assert line.ok("volume", "create", "data").out == "data\n"
    assert line.ok("volume", "ls", "-q").out == "data\n"
    line.ok("volume", "rm", "data")
    line.ok("network", "rm", "net")
    assert line.ok("volume", "ls", "-q").out == line.ok("network", "ls", "-q").out == ""
    assert line.run("volume", "inspect", "data").code == 1


def test_images_are_tagged_and_removed_by_name(line: CommandLine) -> None:
    line.ok("image", "tag", "busybox", "mine")
    assert {"busybox", "mine"} <= set(line.ok("image", "ls").out.split())
    line.ok("image", "rm", "mine")
    assert "mine" not in line.ok("image", "ls").out
    ended = line.run("image", "rm", "mine")
    assert ended.code == 1 and 'cannot find image "mine"' in ended.err
