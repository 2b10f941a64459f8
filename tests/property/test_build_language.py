from __future__ import annotations

import subprocess

from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.build.dockerignore import Ignore, parse_ignore
from runtime.build.expand import ExpansionError, expand, expand_words
from runtime.build.parse import parse
from runtime.errors import InvalidSpec

names = st.sampled_from(["a", "b", "ab", "a.b", "b.a"])
paths = st.lists(names, min_size=1, max_size=4)
components = st.sampled_from(["a", "b", "ab", "*", "a*", "*b", "?", "a?b", "*.*", "**", "[ab]", "[^a]"])
patterns = st.lists(st.tuples(st.booleans(), st.lists(components, min_size=1, max_size=3)), max_size=4)


def component_matches(pattern: str, name: str) -> bool:
    """One component against one name, by trying every length for a star."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(component_matches(pattern[1:], name[cut:]) for cut in range(len(name) + 1))
    if pattern[0] == "[":
        inside, rest = pattern[1:].split("]", 1)
        hit = bool(name) and ((name[0] not in inside[1:]) if inside[0] == "^" else (name[0] in inside))
        return hit and component_matches(rest, name[1:])
    return bool(name) and pattern[0] in ("?", name[0]) and component_matches(pattern[1:], name[1:])


def path_matches(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        # at the end it stands for at least something below what came before, alone for everything
        if len(pattern) == 1:
            return bool(path)
        return any(path_matches(pattern[1:], path[cut:]) for cut in range(len(path) + 1))
    return bool(path) and component_matches(pattern[0], path[0]) and path_matches(pattern[1:], path[1:])


@settings(max_examples=500, deadline=None)
@given(patterns, paths)
@example([(False, ["**", "**"])], ["a"])
def test_ignore_patterns_decide_as_a_plain_model_does(rules: list[tuple[bool, list[str]]], path: list[str]) -> None:
    excluded = False
    for negated, pattern in rules:
        if any(path_matches(pattern, path[:depth]) for depth in range(1, len(path) + 1)):
            excluded = not negated
    ignore = parse_ignore("\n".join(("!" if negated else "") + "/".join(pattern) for negated, pattern in rules))
    assert ignore.excludes("/".join(path)) is excluded


@settings(max_examples=300, deadline=None)
@given(patterns, paths)
def test_what_an_exception_brings_back_is_never_cut_off_with_its_directory(
    rules: list[tuple[bool, list[str]]], path: list[str]
) -> None:
    ignore = parse_ignore("\n".join(("!" if negated else "") + "/".join(pattern) for negated, pattern in rules))
    if ignore.excludes("/".join(path)):
        return
    for depth in range(1, len(path)):
        above = "/".join(path[:depth])
        assert not ignore.excludes(above) or ignore.may_return_below(above)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab*?[]^-\\!/# .", max_size=12))
def test_any_ignore_text_is_read_or_refused_cleanly(text: str) -> None:
    try:
        ignore: Ignore = parse_ignore(text)
    except InvalidSpec:
        return
    ignore.excludes("a/b")


values = st.text(alphabet="ab/.x", max_size=8)
shell_patterns = st.text(alphabet="ab/.*?", min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.none() | values, st.sampled_from(["-", ":-", "+", ":+", "#", "##", "%", "%%"]), shell_patterns),
        min_size=10,
        max_size=20,
    )
)
def test_modifiers_give_what_the_shell_gives(cases: list[tuple[str | None, str, str]]) -> None:
    script, expected = [], []
    for value, modifier, pattern in cases:
        script.append("unset V" if value is None else f"V='{value}'")
        script.append(f"printf '%s\\n' \"${{V{modifier}{pattern}}}\"")
        expected.append(expand(f"${{V{modifier}{pattern}}}", {} if value is None else {"V": value}))
    done = subprocess.run(["/bin/sh", "-c", "\n".join(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == expected


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="ab $${}:-+?#%/'\"\\`", max_size=16))
def test_any_word_expands_or_is_refused_cleanly(word: str) -> None:
    for escape in "\\`":
        try:
            expand(word, {"a": "b c"}, escape)
            expand_words(word, {"a": "b c"}, escape)
        except ExpansionError:
            pass


@given(st.text(alphabet="ab /.=:-_", max_size=16))
def test_a_word_without_special_characters_is_itself(word: str) -> None:
    assert expand(word, {"a": "x"}) == word


lines = st.sampled_from(
    ["FROM a", "FROM a AS b", "RUN x \\", "RUN <<EOF", "EOF", "# c", "", "  y", "COPY a b", 'CMD ["x"', 'CMD ["x"]',
     "ENV a=b", "ENV a", "# escape=`", "ARG", "LABEL x='", "HEALTHCHECK CMD", "ONBUILD RUN x", "\\", "<<", "RUNN x"]
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(lines, max_size=8).map("\n".join) | st.text(max_size=60))
def test_any_text_is_a_dockerfile_or_is_refused_with_lines_that_exist(text: str) -> None:
    try:
        found = parse(text)
    except InvalidSpec as error:
        assert "Dockerfile" in str(error)
        return
    count = text.count("\n") + 1
    for stage in found.stages:
        assert 1 <= stage.line <= count
        assert all(stage.line < command.line <= count for command in stage.commands)
