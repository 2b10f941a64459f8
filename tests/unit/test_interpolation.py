"""Interpolation and `.env` files."""

from __future__ import annotations

import pytest

from reconciler.manifest.dotenv import parse_dotenv
from reconciler.manifest.interpolate import InterpolationError, expand
from reconciler.manifest.texts import Variables
from reconciler.model import Problem
from tests.support.manifests import problems, service

VARIABLES = Variables({"A": "1", "EMPTY": "", "NAME": "web", "DOLLAR": "$A"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$A", "1"),
        ("${A}", "1"),
        ("x${A}y$A-", "x1y1-"),
        ("$$A", "$A"),
        ("$${A}", "${A}"),
        ("$$$A", "$1"),
        ("${NONE:-d}", "d"),
        ("${NONE-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${A:-d}", "1"),
        ("${NONE:-}", ""),
        ("${A:?e}", "1"),
        ("${EMPTY?e}", ""),
        ("${A:+alt}", "alt"),
        ("${NONE+alt}", ""),
        ("${EMPTY:+alt}", ""),
        ("${EMPTY+alt}", "alt"),
        ("${NONE:-${A}}", "1"),
        ("${NONE:-${MISSING:-x$A}}y", "x1y"),
        ("${A:+${NAME}}", "web"),
        ("${NONE:-a}b}", "ab}"),
        ("${NONE:-a-b:c?d}", "a-b:c?d"),
        ("${NONE:-$$x}", "$x"),
        ("${DOLLAR}", "$A"),
        ("${NONE:-http://x:80/}", "http://x:80/"),
    ],
)
def test_expressions(text: str, expected: str) -> None:
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "message", "offset"),
    [
        ("ab$", '"$" is not followed by a variable: write "$$" for a plain "$"', 2),
        ("$1", '"$" is not followed by a variable: write "$$" for a plain "$"', 0),
        ("${", '"${" is not followed by the name of a variable', 0),
        ("${A", '"${A" is not closed', 0),
        ("x${A:-y", '"${A:-" is not closed', 1),
        ("${A!}", '"${A" has "!" after its name', 0),
        ("${NAM}", 'variable "NAM" is not set (did you mean "NAME"?)', 0),
        ("${Z:-${Q}}", 'variable "Q" is not set', 5),
        ("${Z:?set it}", 'variable "Z" is required: set it', 0),
        ("${EMPTY:?}", 'variable "EMPTY" is required', 0),
    ],
)
def test_bad_expressions(text: str, message: str, offset: int) -> None:
    with pytest.raises(InterpolationError) as caught:
        expand(text, VARIABLES)
    assert (str(caught.value), caught.value.offset) == (message, offset)


def test_an_unused_default_is_not_evaluated() -> None:
    assert expand("${A:-${MISSING}}", VARIABLES) == "1"
    assert expand("${NONE:+${MISSING}}", VARIABLES) == ""


def test_nesting_is_bounded() -> None:
    with pytest.raises(InterpolationError, match="nests deeper"):
        expand("${N:-" * 50 + "}" * 50, VARIABLES)


def test_an_unset_variable_is_named_at_its_own_column() -> None:
    text = """
        services:
          web:
            image: img
            working_dir: "/a/${HOEM}"
            command: [x, '$OTHER']
    """
    assert problems(text, {"HOME": "/root"}) == [
        '4:22: variable "HOEM" is not set (did you mean "HOME"?)',
        '5:19: variable "OTHER" is not set',
    ]


def test_keys_are_not_interpolated() -> None:
    assert service("labels: {'$$x': $A}", {"A": "b"})["labels"] == {"$$x": "b"}


def test_numbers_and_booleans_may_come_from_variables() -> None:
    spec = service("read_only: ${R}\nports: ['${P}:80']\nshm_size: $S", {"R": "true", "P": "81", "S": "1m"})
    assert (spec["read_only"], spec["ports"][0]["host_port"], spec["shm_size"]) == (True, 81, 1 << 20)


def dotenv(text: str, **environ: str) -> tuple[dict[str, str], list[str]]:
    found: list[Problem] = []
    return parse_dotenv(text, ".env", Variables(environ), found), [str(problem) for problem in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1", {"A": "1"}),
        ("export A=1\n# note\n\nB=2", {"A": "1", "B": "2"}),
        ("A = spaced  \n", {"A": "spaced"}),
        ("A=x # comment", {"A": "x"}),
        ("A=x#y", {"A": "x#y"}),
        ("A= # comment", {"A": ""}),
        ("A=", {"A": ""}),
        ("A='$B # \\n'", {"A": "$B # \\n"}),
        ('A="a\\nb\\t\\"c\\\\ \\$D"', {"A": 'a\nb\t"c\\ $D'}),
        ('A="two\nlines" # end\nB=1', {"A": "two\nlines", "B": "1"}),
        ('A=1\nB=${A}2\nC="$B"', {"A": "1", "B": "12", "C": "12"}),
        ("A: yaml", {"A": "yaml"}),
        ("\ufeffA=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=a=b", {"A": "a=b"}),
        ("A=${X:-d}", {"A": "d"}),
        ("A.b-c=1", {"A.b-c": "1"}),
    ],
)
def test_dotenv_forms(text: str, expected: dict[str, str]) -> None:
    assert dotenv(text) == (expected, [])


def test_a_bare_name_inherits_and_the_caller_wins_in_references() -> None:
    assert dotenv("A\nZ\nB=1\nC=$B", A="here", B="caller") == ({"A": "here", "B": "1", "C": "caller"}, [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A=1\n=x", ".env:2:1: expected the name of a variable"),
        ("A+1", '.env:1:2: expected "=" after "A"'),
        ("\nA='x", ".env:2:3: the quote that begins the value of A is not closed"),
        ("A='x'y", ".env:1:6: unexpected text after the quoted value of A"),
        ("A=$B", '.env:1:3: A: variable "B" is not set (single quotes keep "$" as it is)'),
    ],
)
def test_bad_dotenv_lines(text: str, problem: str) -> None:
    assert dotenv(text)[1] == [problem]


def test_raw_files_are_literal() -> None:
    assert parse_dotenv("A='x' # y\n#no\nB=$Z\n", "f", Variables({}), [], raw=True) == {"A": "'x' # y", "B": "$Z"}
