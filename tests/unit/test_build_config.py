from __future__ import annotations

from typing import Any

import pytest

from runtime.build import instructions as ins
from runtime.build.dockerfile import Problem
from runtime.build.imageconfig import DEFAULT_PATH, StageConfig, parse_exposed
from runtime.build.parse import parse


def apply(config: StageConfig, *lines: str) -> dict[str, Any]:
    """Only instructions that need no variables and no files."""
    for command in parse("FROM x\n" + "\n".join(lines)).stages[0].commands:
        match command:
            case ins.Cmd():
                config.set_command(command)
            case ins.Entrypoint():
                config.set_entrypoint(command)
            case ins.Healthcheck():
                config.set_health(command)
            case ins.Shell():
                config.set_shell(command.argv)
            case _:
                raise AssertionError(command)
    return config.values


def test_scratch_begins_with_a_path_and_the_root_directory() -> None:
    assert StageConfig(None).values == {"Env": [f"PATH={DEFAULT_PATH}"], "WorkingDir": "/"}


def test_entrypoint_clears_an_inherited_command_but_not_one_of_its_own_stage() -> None:
    base = {"config": {"Cmd": ["inherited"]}}
    assert "Cmd" not in apply(StageConfig(base), 'ENTRYPOINT ["e"]')
    assert apply(StageConfig(base), 'CMD ["own"]', 'ENTRYPOINT ["e"]')["Cmd"] == ["own"]
    assert apply(StageConfig(base), 'ENTRYPOINT ["e"]', 'CMD ["own"]')["Cmd"] == ["own"]
    assert "Entrypoint" not in apply(StageConfig({"config": {"Entrypoint": ["x"]}}), "ENTRYPOINT []")


def test_shell_form_takes_the_shell_in_force() -> None:
    values = apply(StageConfig(None), "CMD a b", 'SHELL ["/bin/bash", "-ec"]', "ENTRYPOINT c d")
    assert (values["Cmd"], values["Entrypoint"]) == (["/bin/sh", "-c", "a b"], ["/bin/bash", "-ec", "c d"])
    assert values["Shell"] == ["/bin/bash", "-ec"]


def test_health_checks_are_in_nanoseconds_without_unset_fields() -> None:
    values = apply(StageConfig(None), "HEALTHCHECK --interval=2s --retries=4 CMD curl x")
    assert values["Healthcheck"] == {"Test": ["CMD-SHELL", "curl x"], "Interval": 2_000_000_000, "Retries": 4}
    assert apply(StageConfig(None), "HEALTHCHECK NONE")["Healthcheck"] == {"Test": ["NONE"]}


def test_a_variable_set_again_keeps_its_place() -> None:
    config = StageConfig({"config": {"Env": ["A=1", "B=2"]}})
    config.set_env("A", "3")
    config.set_env("C", "4=5")
    assert config.values["Env"] == ["A=3", "B=2", "C=4=5"]
    assert config.env == {"A": "3", "B": "2", "C": "4=5"}


def test_the_base_is_not_changed_by_what_is_built_on_it() -> None:
    base: dict[str, Any] = {"config": {"Env": ["A=1"], "Labels": {"a": "b"}}, "history": []}
    config = StageConfig(base)
    config.set_env("A", "2")
    config.set_label("c", "d")
    config.record("x", empty=True)
    assert base == {"config": {"Env": ["A=1"], "Labels": {"a": "b"}}, "history": []}


@pytest.mark.parametrize(
    ("word", "ports"),
    [("80", ["80/tcp"]), ("53/UDP", ["53/udp"]), ("8000-8002", ["8000/tcp", "8001/tcp", "8002/tcp"])],
)
def test_exposed_ports_get_a_protocol_and_ranges_unfold(word: str, ports: list[str]) -> None:
    assert parse_exposed(word) == ports


@pytest.mark.parametrize("word", ["x", "0", "70000", "80/icmp", "90-80", ""])
def test_a_port_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(Problem, match="invalid port"):
        parse_exposed(word)


def test_stop_signals_are_names_or_numbers() -> None:
    config = StageConfig(None)
    for good in ("SIGTERM", "quit", "9", "SIGRTMIN+3"):
        config.set_stop_signal(good)
        assert config.values["StopSignal"] == good
    for bad in ("SIGNOPE", "0", "99"):
        with pytest.raises(Problem, match="invalid signal"):
            config.set_stop_signal(bad)


@pytest.mark.parametrize(
    ("workdir", "path", "result"),
    [
        ("/", "a", "/a"),
        ("/w", ".", "/w/"),
        ("/w", "./", "/w/"),
        ("/w", "a/", "/w/a/"),
        ("/w", "/abs", "/abs"),
        ("/w", "../..", "/"),
        ("/w/x", "..", "/w/"),
        ("/w", "//a//b", "/a/b"),
    ],
)
def test_paths_are_against_the_working_directory_and_keep_their_slash(workdir: str, path: str, result: str) -> None:
    assert StageConfig({"config": {"WorkingDir": workdir}}).absolute(path) == result


def test_history_without_a_layer_carries_the_time_of_the_layer_before() -> None:
    config = StageConfig(None)
    config.record("ENV a=b", empty=True)
    config.record("RUN x", empty=False, created="2026-01-02T00:00:00Z")
    config.record("CMD y", empty=True)
    assert [entry["created"][:4] for entry in config.history] == ["1970", "2026", "2026"]
    assert config.whole()["created"] == "2026-01-02T00:00:00Z"
