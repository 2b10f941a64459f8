"""YAML 1.2 core scalars, positions, and bounds of the reader."""

from __future__ import annotations

import time
from typing import Any

import pytest

from reconciler.manifest.reader import MAX_DEPTH, read_yaml
from reconciler.manifest.tree import locate, to_data
from reconciler.model import Mark, Problem


def read(text: str) -> tuple[list[Any], list[str]]:
    problems: list[Problem] = []
    nodes = read_yaml(text, "f", problems)
    return [to_data(node) for node in nodes], [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("22:22", "22:22"),
        ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("17", 17),
        ("-3", -3),
        ("0o17", 15),
        ("0x1F", 31),
        ("0440", "0440"),
        ("0", 0),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("'17'", "17"),
        ('"true"', "true"),
        ("!!str 17", "17"),
        ("!!int 17", 17),
        ("!!float 1", 1.0),
        ("! 17", "17"),
        ("=", "="),
        ("0b11", "0b11"),
        ("+.inf", float("inf")),
    ],
)
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    assert read(f"- {text}") == ([[value]], [])


def test_every_node_knows_where_it_stands() -> None:
    [node] = read_yaml("a:\n  - b: 1\n    c: {d: x}\n", "f", [])
    assert locate(node, ("a", 0, "c", "d")) == Mark("f", 3, 12)
    assert locate(node, ("a", 0, "c", "d"), at_key=True) == Mark("f", 3, 9)
    assert locate(node, ("a", 0, "nothing")) == Mark("f", 2, 5)


def test_columns_count_characters_not_bytes() -> None:
    [node] = read_yaml("é: {ü: 1}", "f", [])
    assert locate(node, ("é", "ü")) == Mark("f", 1, 8)


def test_duplicate_keys_are_errors_that_name_both_places() -> None:
    data, problems = read("a: 1\nb: 2\na: 3\n")
    assert problems == ['f:3:1: duplicate key "a" (first at f:1:1)']
    assert data == [{"a": 1, "b": 2}]


def test_keys_that_are_not_strings_are_errors() -> None:
    assert read("1: a\ntrue: b\n? [x]\n: c\n")[1] == [
        "f:1:1: key 1 is not a string: put it in quotes",
        "f:2:1: key true is not a string: put it in quotes",
        "f:3:3: key a list or mapping is not a string: put it in quotes",
    ]


def test_merge_keys_lie_beneath_the_own_keys() -> None:
    data, problems = read("x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz: {<<: [*x, *y], a: 9}\n")
    assert problems == []
    assert data[0]["z"] == {"a": 9, "b": 2, "c": 4}


def test_a_merge_key_needs_mappings() -> None:
    assert read("z: {<<: 3}")[1] == ['f:1:5: "<<" needs a mapping or a list of mappings']


def test_a_quoted_merge_key_is_an_ordinary_key() -> None:
    assert read("{'<<': 1}") == ([{"<<": 1}], [])


def test_aliases_share_their_anchor() -> None:
    assert read("a: &a [1]\nb: *a\n")[0] == [{"a": [1], "b": [1]}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: *b", 'f:1:4: alias "*b" has no anchor before it'),
        ("a: &a [*a]", 'f:1:8: alias "*a" lies inside its own anchor'),
        ("a: !!python/object:os.system x", 'f:1:4: tag "!!python/object:os.system" is not supported'),
        ("a: !thing [1]", 'f:1:4: tag "!thing" is not supported here'),
        ("a: !!int x", 'f:1:4: "x" is not of type "!!int"'),
        ("a: b: c", "f:1:5: is not YAML: mapping values are not allowed in this context"),
        (
            "{a: ${B}}",
            "f:1:6: is not YAML: did not find expected ',' or '}' while parsing a flow mapping"
            ' (inside { } and [ ] a value with "${" needs quotes)',
        ),
        ("a: [1,\nb: 2", "f:2:5: is not YAML: did not find expected ',' or ']' while parsing a flow sequence"),
        ('a: "x\\0y"', "f:1:4: a string cannot hold a NUL byte"),
        ("a\x01b", "f:1:2: is not text: control characters are not allowed"),
        ("a: \ud800", "f:1:4: half of a surrogate pair is not a character"),
        ("a: " + "1" * 50, "f:1:4: is too long a number: put it in quotes if it is text"),
    ],
)
def test_bad_yaml_is_named_with_its_place(text: str, problem: str) -> None:
    assert read(text)[1] == [problem]


def test_a_syntax_error_keeps_the_documents_before_it() -> None:
    data, problems = read("a: 1\n---\nb: [\n")
    assert data == [{"a": 1}]
    assert len(problems) == 1


def test_depth_is_bounded() -> None:
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH)[1] == []
    assert read("[" * 100_000)[1] == [f"f:1:{MAX_DEPTH + 1}: nests deeper than {MAX_DEPTH} levels"]
    assert "nests deeper" in read("- " * 100_000)[1][0]


def test_a_billion_laughs_are_refused_in_milliseconds() -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    began = time.perf_counter()
    problems = read("\n".join(lines))[1]
    assert time.perf_counter() - began < 0.5
    assert ["expands to too many values" in problem for problem in problems] == [True]


def test_laughing_merge_keys_are_refused_too() -> None:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{x: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 20)]
    assert "expands to too many values" in read("\n".join(lines))[1][0]


def test_a_long_string_repeated_by_alias_counts_by_its_length() -> None:
    text = f"a: &a {'x' * 1_000_000}\nb: [{', '.join(['*a'] * 1000)}]\n"
    assert "expands to too many values" in read(text)[1][0]


def test_an_oversized_file_is_refused() -> None:
    assert read("#" * (9 << 20))[1] == ["f:1:1: the file is larger than 8 MiB"]
