from __future__ import annotations

import pytest

from runtime.build.expand import ExpansionError, expand, expand_words

ENV = {"NAME": "value", "EMPTY": "", "PATHS": "/usr/local/bin", "FILE": "archive.tar.gz", "TWO": "a b"}


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("plain", "plain"),
        ("$NAME", "value"),
        ("${NAME}x", "valuex"),
        ("$NAMEx", ""),
        ("\\$NAME", "$NAME"),
        ("'$NAME'", "$NAME"),
        ('"$NAME \\" \\x"', 'value " \\x'),
        ("a$", "a$"),
        ("$UNSET", ""),
        ("${UNSET:-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${EMPTY-default}", ""),
        ("${NAME:-default}", "value"),
        ("${UNSET:-${NAME}}", "value"),
        ("${UNSET:-'a } b'}", "a } b"),
        ("${NAME:+yes}", "yes"),
        ("${EMPTY:+yes}", ""),
        ("${EMPTY+yes}", "yes"),
        ("${UNSET+yes}", ""),
        ("${NAME:?no}", "value"),
        ("${PATHS#/*/}", "local/bin"),
        ("${PATHS##*/}", "bin"),
        ("${FILE%.*}", "archive.tar"),
        ("${FILE%%.*}", "archive"),
        ("${FILE#nothing}", "archive.tar.gz"),
        ("${PATHS/local/share}", "/usr/share/bin"),
        ("${PATHS//\\//-}", "-usr-local-bin"),
        ("${FILE/?r/R}", "aRchive.tar.gz".replace("aR", "R", 1)),
        ("${NAME%\\*}", "value"),
    ],
)
def test_words_expand_as_in_a_shell(word: str, result: str) -> None:
    assert expand(word, ENV) == result


@pytest.mark.parametrize(
    ("word", "cause"),
    [
        ("${NAME", "missing '}'"),
        ("${NAME:-x", "missing '}'"),
        ("${}", "bad substitution"),
        ("${NAME:=x}", r"unsupported modifier \(:=\)"),
        ("${NAME@x}", r"unsupported modifier \(@\)"),
        ("${UNSET:?must be given}", "UNSET: must be given"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${UNSET?}", "UNSET: is not allowed to be unset"),
        ("'open", "single-quote"),
        ('"open', "double-quote"),
    ],
)
def test_malformed_words_say_what_is_wrong(word: str, cause: str) -> None:
    with pytest.raises(ExpansionError, match=cause):
        expand(word, ENV)


def test_another_escape_character_leaves_backslashes_alone() -> None:
    assert expand("C:\\$NAME`$NAME", ENV, "`") == "C:\\value$NAME"


def test_without_quotes_they_are_plain_characters() -> None:
    assert expand('it\'s "$NAME" \\$NAME', ENV, quotes=False) == 'it\'s "value" $NAME'


def test_words_split_at_the_spaces_of_a_variable_but_not_of_quotes() -> None:
    assert expand_words('$TWO "$TWO" c', ENV) == ["a", "b", "a b", "c"]


def test_deep_nesting_is_refused_instead_of_overflowing_the_stack() -> None:
    with pytest.raises(ExpansionError):
        expand("${A:-" * 5000 + "}" * 5000, {})
