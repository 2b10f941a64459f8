"""Which files of a build context exist for the build: `.dockerignore` with Docker's rules.

The last pattern that matches a path or one of its parents decides; `!` brings back. `*` and `?` stay within one
component, `**` crosses them. There is no anchoring as in git: a pattern without a slash matches at the top only.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import InvalidSpec

State = tuple[bool, ...]
"""For each pattern, whether it matched a directory on the way here."""

_WILD = frozenset("*?[\\")


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """One pattern as a regular expression over a path relative to the context; ValueError when it is malformed."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if pattern.startswith("*", at):
                at += 1
                if pattern.startswith("/", at):
                    at += 1
                out.append(".*" if at == len(pattern) else "(?:.*/)?")
            else:
                out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "\\":
            if at == len(pattern):
                raise ValueError("a backslash at its end escapes nothing")
            out.append(re.escape(pattern[at]))
            at += 1
        elif char == "[":
            text, at = _character_class(pattern, at)
            out.append(text)
        else:
            out.append(re.escape(char))
    return re.compile("".join(out), re.DOTALL)


def _character_class(pattern: str, at: int) -> tuple[str, int]:
    """`[a-z]`, `[^a]`: returns the regular expression and where the pattern goes on."""
    negated = pattern.startswith("^", at)
    at += negated
    parts: list[str] = []
    while not (parts and pattern.startswith("]", at)):
        low, at = _class_char(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _class_char(pattern, at + 1)
        if low <= high:
            parts.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            parts.append("")  # an empty range matches nothing, as in Go
    inside = "".join(parts)
    if not inside:
        return ("[^/]" if negated else r"(?!)"), at + 1
    return (f"(?!/)[^{inside}]" if negated else f"(?!/)[{inside}]"), at + 1


def _class_char(pattern: str, at: int) -> tuple[str, int]:
    if at >= len(pattern) or pattern[at] in "-]":
        raise ValueError("a character class is not closed or has an open range")
    if pattern[at] == "\\":
        at += 1
        if at >= len(pattern):
            raise ValueError("a backslash at its end escapes nothing")
    return pattern[at], at + 1


@dataclass(frozen=True, slots=True)
class Pattern:
    text: str
    negated: bool
    regex: re.Pattern[str]
    prefix: tuple[str, ...]
    """The leading components without wildcards."""


class Ignore:
    """The patterns of one `.dockerignore`, in order."""

    def __init__(self, patterns: Sequence[Pattern] = ()) -> None:
        self.patterns = tuple(patterns)
        self.start: State = (False,) * len(self.patterns)
        self._exceptions = [pattern for pattern in self.patterns if pattern.negated]

    def enter(self, state: State, path: str) -> tuple[State, bool]:
        """The state at `path` given its parent's, and whether `path` is excluded."""
        matched = []
        excluded = False
        for pattern, above in zip(self.patterns, state, strict=True):
            hit = above or bool(pattern.regex.fullmatch(path))
            matched.append(hit)
            if hit:
                excluded = not pattern.negated
        return tuple(matched), excluded

    def excludes(self, path: str) -> bool:
        """Whether `path` ("a/b") is excluded, itself or through a parent."""
        state, excluded = self.start, False
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            state, excluded = self.enter(state, "/".join(parts[:depth]))
        return excluded

    def may_return_below(self, path: str) -> bool:
        """Whether an exception could bring back something below the excluded directory `path`."""
        parts = tuple(path.split("/"))
        return any(
            pattern.prefix[: len(parts)] == parts[: len(pattern.prefix)]
            and (len(pattern.prefix) > len(parts) or _has_wildcard(pattern.text))
            for pattern in self._exceptions
        )


def _has_wildcard(text: str) -> bool:
    return not _WILD.isdisjoint(text)


def parse_ignore(text: str, name: str = ".dockerignore") -> Ignore:
    """The patterns of an ignore file; InvalidSpec names the line of one that is malformed."""
    patterns = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if line.startswith("#"):
            continue
        word = line.strip()
        negated = word.startswith("!")
        if negated:
            word = word[1:].strip()
        if not word:
            if negated:
                raise InvalidSpec(f'cannot read "{name}": {name}:{number}: an exception needs a pattern after "!"')
            continue
        word = posixpath.normpath(word)
        while word.startswith("/"):
            word = word[1:]
        parts = word.split("/")
        literal = next((at for at, part in enumerate(parts) if _has_wildcard(part)), len(parts))
        try:
            regex = pattern_regex(word)
        except (ValueError, re.error) as error:
            raise InvalidSpec(f'cannot read "{name}": {name}:{number}: bad pattern "{word}": {error}') from None
        patterns.append(Pattern(word, negated, regex, tuple(parts[:literal])))
    return Ignore(patterns)
