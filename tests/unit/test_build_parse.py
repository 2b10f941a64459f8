from __future__ import annotations

from typing import Any

import pytest

from runtime.build import instructions as ins
from runtime.build.dockerfile import Node, parse_lines
from runtime.build.parse import parse
from runtime.build.stages import plan_build
from runtime.errors import InvalidSpec
from tests.support.reference_data import reference_cases

CASES = reference_cases("dockerfile-cases.jsonl")
needs_cases = pytest.mark.skipif(not CASES, reason="no reference cases on this machine")


def rejected(text: str, name: str = "Dockerfile") -> str:
    with pytest.raises(InvalidSpec) as caught:
        parse(text, name)
    return str(caught.value)


# ---- against the reference parser's recorded answers ------------------------------------------------------------


def go_quoted(text: str) -> str:
    special = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
    return '"' + "".join(special.get(char, char) for char in text) + '"'


def dump(node: Node) -> str:
    out = node.instruction.lower()
    if node.flags:
        out += " [" + " ".join(map(go_quoted, node.flags)) + "]"
    if node.sub:
        return f"{out} ({dump(node.sub)})"
    return " ".join([out, *map(go_quoted, node.args)])


KNOWN = frozenset(
    {
        "add",
        "arg",
        "cmd",
        "copy",
        "entrypoint",
        "env",
        "expose",
        "from",
        "healthcheck",
        "label",
        "maintainer",
        "onbuild",
        "run",
        "shell",
        "stopsignal",
        "user",
        "volume",
        "workdir",
    }
)


@needs_cases
def test_lines_split_into_the_same_words_flags_and_forms_as_in_the_reference_parser() -> None:
    compared = 0
    for case in CASES:
        wanted = case["expect"].get("ast")
        if not wanted:
            continue
        # deliberate difference: the reference gives an unknown instruction one empty word; here it has none
        shown = [
            f"({node.instruction.lower()} {go_quoted('')})"
            if node.instruction.lower() not in KNOWN
            else f"({dump(node)})"
            for node in parse_lines(case["dockerfile"]).nodes
        ]
        assert "\n".join(shown) == wanted, case["id"]
        compared += 1
    assert compared > 600


def expected_value(command: dict[str, Any]) -> tuple[Any, ...]:
    value, kind = command["json"], command["type"].removeprefix("*instructions.").removesuffix("Command")
    if kind in ("Arg", "Env", "Label"):
        field = {"Arg": "Args", "Env": "Env", "Label": "Labels"}[kind]
        return kind, tuple((item["Key"], item["Value"]) for item in value[field])
    if kind in ("Run", "Cmd", "Entrypoint"):
        files = tuple((file["Name"], file["Data"], file["Chomp"]) for file in value["Files"] or ())
        flags = (tuple(value["FlagsUsed"]),) if kind == "Run" else ()
        return kind, tuple(value["CmdLine"] or ()), value["PrependShell"], files, *flags
    if kind in ("Copy", "Add"):
        documents = tuple((item["Path"], item["Data"], item["Expand"]) for item in value["SourceContents"] or ())
        return (
            kind, tuple(value["SourcePaths"] or ()), documents, value["DestPath"], value.get("From", ""),
            value["Chown"], value["Chmod"], value["Link"], bool(value.get("Parents")),
            tuple(value["ExcludePatterns"] or ()), value.get("Checksum", ""), bool(value.get("KeepGitDir")),
        )  # fmt: skip
    if kind == "HealthCheck":
        health = value["Health"]
        names = ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
        return "Healthcheck", tuple(health["Test"]), *(health.get(name, 0) for name in names)
    field = {
        "Workdir": "Path", "User": "User", "Expose": "Ports", "Volume": "Volumes", "Shell": "Shell",
        "Maintainer": "Maintainer", "Onbuild": "Expression", "StopSignal": "Signal",
    }[kind]  # fmt: skip
    found = value[field]
    return kind.capitalize() if kind == "StopSignal" else kind, tuple(found) if isinstance(found, list) else found


def actual_value(command: ins.Instruction) -> tuple[Any, ...]:
    kind = type(command).__name__
    if isinstance(command, ins.Command):
        files = tuple((item.name, item.content, item.chomp) for item in command.documents)
        flags = (command.flags,) if isinstance(command, ins.Run) else ()
        return kind, command.argv, command.shell, files, *flags
    if isinstance(command, ins.Copy):
        documents = tuple((item.name, item.text, item.expand) for item in command.documents)
        return (
            "Add" if command.add else "Copy", command.sources, documents, command.dest, command.origin, command.chown,
            command.chmod, command.link, command.parents, command.exclude, command.checksum, command.keep_git_dir,
        )  # fmt: skip
    fields = [name for name in command.__dataclass_fields__ if name not in ("line", "text")]
    return kind, *(getattr(command, name) for name in fields)


@needs_cases
def test_valid_files_mean_the_same_as_to_the_reference_parser() -> None:
    compared = 0
    for case in CASES:
        wanted = case["expect"]
        if not wanted["ok"]:
            continue
        found = parse(case["dockerfile"])
        assert found.escape == wanted["escape"], case["id"]
        globals_ = [pair for command in found.args for pair in command.values]
        assert globals_ == [(arg["Key"], arg["Value"]) for meta in wanted["meta"] or () for arg in meta["Args"]]
        assert len(found.warnings) == len(wanted["warnings"] or ()), case["id"]
        for stage, other in zip(found.stages, wanted["stages"], strict=True):
            assert (stage.base, stage.name, stage.platform) == (other["base"], other["name"], other["platform"])
            for command, command_wanted in zip(stage.commands, other["commands"], strict=True):
                assert actual_value(command) == expected_value(command_wanted), case["id"]
                compared += 1
    assert compared > 1500


@needs_cases
def test_bad_files_are_rejected_on_the_line_the_reference_parser_names() -> None:
    refused = 0
    for case in CASES:
        wanted = case["expect"]
        if wanted["ok"]:
            continue
        message = rejected(case["dockerfile"])
        refused += 1
        line = wanted["error"].removeprefix("dockerfile parse error on line ").partition(":")[0]
        if line.isdigit():
            assert f"Dockerfile:{line}: " in message, case["id"]
    assert refused > 30


ORACLE_FILES = [
    'FROM a\nRUN echo \\\n  # comment\n  two\\\n\n  three\nCMD ["x", "y"]\n',
    'FROM a AS b\nENV a=1 b=\'2 3\' c="4\\"5"\nENV old style value\nLABEL x=y\n',
    "# escape=`\nFROM a\nRUN dir `\n C:\\\nCOPY --from=b --chown=1:2 x y /z/\n",
    'FROM a\nHEALTHCHECK --interval=5s CMD ["a", "b"]\nONBUILD COPY . /app\nSHELL ["a", "-c"]\n',
    "FROM a\nRUN <<EOF cat\n# not a comment\nEOF\nCOPY <<A <<-B /d/\na\nA\n\tb\n\tB\nVOLUME /a /b\nEXPOSE 80 90/udp\n",
    "\ufefffrom a\n\n\t run  x  \\ \n  y\nuser  me \nstopsignal 9\nmaintainer a b\nworkdir /a b\narg x=1 y\n",
]


@pytest.mark.parametrize("text", ORACLE_FILES)
def test_lines_and_flags_are_those_of_mobys_parser(text: str) -> None:
    oracle = pytest.importorskip("dockerfile")
    for node, other in zip(parse_lines(text).nodes, oracle.parse_string(text), strict=True):
        assert (node.instruction.lower(), node.line, node.end_line) == (
            other.cmd.lower(), other.start_line, other.end_line,
        )  # fmt: skip
        assert tuple(node.flags) == other.flags
        assert node.json == other.json or node.sub is not None
        if node.instruction.lower() in ("env", "label"):  # it drops the separators of the triples
            assert tuple(word for at, word in enumerate(node.args) if at % 3 != 2) == other.value
        elif node.sub is None:
            assert tuple(node.args) == other.value


# ---- what users see ---------------------------------------------------------------------------------------------


def test_every_problem_is_reported_at_once_with_its_line() -> None:
    message = rejected("FROM a\nRUNN x\nCOPY one\n\nEXPOSE\nHEALTHCHECK CONNECT x\n", "web/Dockerfile")
    for line in (
        "web/Dockerfile:2: unknown instruction: RUNN (did you mean RUN?)",
        "web/Dockerfile:3: COPY requires at least two arguments",
        "web/Dockerfile:5: EXPOSE requires at least one argument",
        'web/Dockerfile:6: Unknown type "CONNECT"',
    ):
        assert line in message


def test_a_misspelt_flag_is_met_with_the_right_one() -> None:
    assert "Dockerfile:2: unknown flag: --chwon (did you mean chown?)" in rejected("FROM a\nCOPY --chwon=1 a b\n")


def test_a_flag_given_twice_or_without_value_is_an_error() -> None:
    assert "duplicate flag specified: --chown" in rejected("FROM a\nCOPY --chown=1 --chown=2 a b\n")
    assert "missing a value on flag: --chown" in rejected("FROM a\nCOPY --chown 1 a b\n")
    assert "expecting boolean value for flag --link, not: maybe" in rejected("FROM a\nCOPY --link=maybe a b\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("RUN x\n", "Dockerfile:1: no build stage in current context"),
        ("ARG x\n", "the file has no FROM"),
        ("# only\n", "file with no instructions"),
        ("FROM a b\n", "Dockerfile:1: FROM requires either one or three arguments"),
        ("FROM a AS 1x\n", "invalid name for build stage"),
        ('FROM a\nRUN ["a", 1]\n', "Dockerfile:2: when using JSON array syntax"),
        ("FROM a\nSHELL /bin/sh -c\n", "Dockerfile:2: SHELL requires the arguments to be in JSON form"),
        ("FROM a\nENV x\n", "Dockerfile:2: ENV must have two arguments"),
        ("FROM a\nENV a=b c\n", "Dockerfile:2: Syntax error - can't find ="),
        ("FROM a\nCOPY <<EOF /x\nbody\n", 'Dockerfile:2: unterminated heredoc "EOF"'),
        ("FROM a\nONBUILD ONBUILD RUN x\n", "Chaining ONBUILD"),
        ("FROM a\nONBUILD FROM b\n", "FROM isn't allowed as an ONBUILD trigger"),
        ("FROM a\nHEALTHCHECK --interval=1ns CMD x\n", "cannot be less than 1ms"),
        ("FROM a\nHEALTHCHECK --interval=soon CMD x\n", 'invalid duration "soon"'),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x\n", "--retries cannot be negative"),
        ("FROM a\nHEALTHCHECK NONE x\n", "HEALTHCHECK NONE takes no arguments"),
        ("FROM a\nRUN --network=moon x\n", 'invalid network mode "moon"'),
        ("# escape=x\nFROM a\n", "Dockerfile:1: invalid escape token"),
        ("# escape=`\n# escape=`\nFROM a\n", "Dockerfile:2: only one escape parser directive"),
    ],
)
def test_bad_files_name_line_and_cause(text: str, problem: str) -> None:
    assert problem in rejected(text)


def test_directives_end_at_the_first_other_line() -> None:
    lines = parse_lines("# syntax=docker/dockerfile:1\n# check=skip=all\n# a comment\n# escape=`\nFROM a\n")
    assert (lines.escape, lines.directives) == ("\\", {"syntax": "docker/dockerfile:1", "check": "skip=all"})


def test_an_escaped_backslash_at_the_end_of_a_line_continues_nothing() -> None:
    assert [node.args for node in parse_lines("FROM a\nRUN x \\\\\nRUN y\n").nodes] == [["a"], ["x \\\\"], ["y"]]


def test_a_heredoc_may_have_a_space_before_its_word_and_a_shift_is_none() -> None:
    nodes = parse_lines("FROM a\nRUN cat << EOF\nbody\nEOF\nRUN echo $((1 << 2))\n").nodes
    assert [[item.content for item in node.heredocs] for node in nodes] == [[], ["body\n"], []]


def test_durations_are_gos() -> None:
    health = parse("FROM a\nHEALTHCHECK --interval=1m30.5s --timeout=250ms CMD x\n").stages[0].commands[0]
    assert isinstance(health, ins.Healthcheck)
    assert (health.interval, health.timeout) == (90_500_000_000, 250_000_000)


# ---- stages -----------------------------------------------------------------------------------------------------


def planned(text: str, target: str = "", **args: str) -> list[tuple[str, int | str]]:
    return [(stage.title, stage.base) for stage in plan_build(parse(text), target, args).stages]


STAGES = "FROM a AS one\nFROM b AS two\nFROM one AS three\nCOPY --from=two /x /y\nFROM scratch\nCOPY --from=0 /a /b\n"


def test_only_the_stages_that_the_target_needs_are_planned() -> None:
    assert planned(STAGES) == [("one", "a"), ("stage-3", "")]
    assert planned(STAGES, "three") == [("one", "a"), ("two", "b"), ("three", 0)]
    assert planned(STAGES, "TWO") == planned(STAGES, "1") == [("two", "b")]


def test_an_unknown_target_suggests_a_stage() -> None:
    with pytest.raises(InvalidSpec, match='did you mean "three"'):
        planned(STAGES, "thre")


def test_arguments_before_from_choose_the_base() -> None:
    text = "ARG tag=1\nARG full=img:${tag}\nFROM ${full} AS x\nFROM other:${TARGETARCH:?}\nCOPY --from=x / /\n"
    assert planned(text, "x") == [("x", "img:1")]
    assert planned(text, "x", tag="2") == [("x", "img:2")]
    with pytest.raises(InvalidSpec, match=r"Dockerfile:1: base name \(\$nothing\) should not be blank"):
        planned("FROM $nothing\n")


def test_copying_from_a_later_stage_or_a_variable_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidSpec, match="Dockerfile:2: invalid stage index 1"):
        planned("FROM a\nCOPY --from=1 a b\nFROM b\n")
    with pytest.raises(InvalidSpec, match='Dockerfile:2: stage "late" is defined later'):
        planned("FROM a\nCOPY --from=late a b\nFROM b AS late\nCOPY --from=0 a b\n")
    with pytest.raises(InvalidSpec, match="Dockerfile:2: variable expansion is not supported for --from"):
        planned("FROM a\nCOPY --from=$x a b\n")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("RUN --mount=type=cache,target=/x true", "RUN --mount"),
        ("RUN --security=insecure true", "RUN --security"),
        ("COPY --parents a b", "COPY --parents"),
        ("COPY --exclude=x a b", "COPY --exclude"),
        ("ADD --checksum=sha256:1 a b", "ADD --checksum"),
        ("ADD https://example.com/a b", "ADD from a URL"),
        ("ADD git@example.com:a/b.git b", "ADD from a URL or a git repository"),
    ],
)
def test_what_cannot_be_built_yet_says_so_with_its_line_but_parses(line: str, what: str) -> None:
    dockerfile = parse(f"FROM a\n\n{line}\n")
    with pytest.raises(InvalidSpec) as caught:
        plan_build(dockerfile, "", {})
    assert f"Dockerfile:3: {what}" in str(caught.value)
    assert "not supported yet" in str(caught.value)


def test_an_unneeded_stage_may_use_what_cannot_be_built_yet() -> None:
    assert planned("FROM a\nRUN --mount=type=cache,target=/x true\nFROM b\n") == [("stage-1", "b")]


def test_another_platform_than_the_hosts_is_refused() -> None:
    assert planned("FROM --platform=$BUILDPLATFORM a\n") == [("stage-0", "a")]
    with pytest.raises(InvalidSpec, match='platform "windows/amd64" is not supported yet'):
        planned("FROM --platform=windows/amd64 a\n")
