"""Expands `$NAME` and `${NAME…}` in Dockerfile words, with quotes and escapes, as a shell would.

The rules are those of the Dockerfile reference: `:-`, `-`, `:+`, `+`, `:?`, `?`, `#`, `##`, `%`, `%%`, `/` and `//`.
Patterns know `*` and `?` only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SPECIAL = "@*#?-$!0"


class ExpansionError(ValueError):
    """The word is malformed, or `${NAME:?text}` demanded a value."""


def is_space(char: str) -> bool:
    """White space in the Dockerfile language: Unicode's, without the ASCII separators that Python adds."""
    return char.isspace() and not "\x1c" <= char <= "\x1f"


class _Words:
    """Collects the words of an expansion: spaces split outside quotes, also those that come from a variable."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.word = ""

    def add(self, text: str) -> None:
        for char in text:
            if not is_space(char):
                self.word += char
            elif self.word:
                self.done.append(self.word)
                self.word = ""

    def add_raw(self, text: str) -> None:
        self.word += text

    def finish(self) -> list[str]:
        if self.word:
            self.done.append(self.word)
            self.word = ""
        return self.done


class _Reader:
    def __init__(
        self,
        text: str,
        env: Mapping[str, str],
        escape: str = "\\",
        *,
        raw: bool = False,
        quotes: bool = True,
        keep_unset: bool = False,
    ) -> None:
        """`raw` keeps quotes and escapes in the result; without `quotes` they are plain characters."""
        self.text = text
        self.at = 0
        self.env = env
        self.escape = escape
        self.raw_quotes = raw
        self.raw_escapes = raw
        self.quotes = quotes
        self.keep_unset = keep_unset
        self.depth = 0

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def next(self) -> str:
        char = self.peek()
        self.at += 1
        return char

    def read(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """Everything up to `stop` ("" is the end of the text): the expanded text and its words."""
        outer, self.raw_escapes = self.raw_escapes, raw_escapes
        self.depth += 1
        if self.depth > 100:
            raise ExpansionError("variables are nested too deeply")
        try:
            return self._read(stop)
        finally:
            self.raw_escapes = outer
            self.depth -= 1

    def _read(self, stop: str) -> tuple[str, list[str]]:
        out: list[str] = []
        words = _Words()
        while char := self.peek():
            if char == stop:
                self.at += 1
                return "".join(out), words.finish()
            if char == "$":
                text = self.dollar()
                out.append(text)
                words.add(text)
            elif char in "'\"" and self.quotes:
                text = self.single_quoted() if char == "'" else self.double_quoted()
                out.append(text)
                words.add_raw(text)
            elif char == self.escape:
                self.at += 1
                if self.raw_escapes:
                    words.add_raw(char)
                    out.append(char)
                char = self.next()
                words.add_raw(char)
                out.append(char)
            else:
                self.at += 1
                words.add(char)
                out.append(char)
        if stop:
            raise ExpansionError(f"unexpected end of statement while looking for matching {stop}")
        return "".join(out), words.finish()

    def single_quoted(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise ExpansionError("unexpected end of statement while looking for matching single-quote")
        text = self.text[self.at : end + 1]
        self.at = end + 1
        return text if self.raw_quotes else text[1:-1]

    def double_quoted(self) -> str:
        quote = self.next() if self.raw_quotes else self.next()[:0]
        out = [quote]
        while char := self.peek():
            if char == '"':
                self.at += 1
                return "".join([*out, quote])
            if char == "$":
                out.append(self.dollar())
                continue
            self.at += 1
            if char == self.escape:
                if self.raw_escapes:
                    out.append(char)
                following = self.peek()
                if not following:
                    continue
                if following in ('"', "$", self.escape):
                    char = self.next()
            out.append(char)
        raise ExpansionError("unexpected end of statement while looking for matching double-quote")

    def name(self) -> str:
        start = self.at
        first = self.peek()
        if first.isdigit():
            while self.peek().isdigit():
                self.at += 1
        elif first and first in SPECIAL:
            self.at += 1
        else:
            while (char := self.peek()) and (char.isalnum() or char == "_"):
                self.at += 1
        return self.text[start : self.at]

    def dollar(self) -> str:
        self.at += 1
        if self.peek() != "{":
            name = self.name()
            if not name:
                return "$"
            if name not in self.env and self.keep_unset:
                return f"${name}"
            return self.env.get(name, "")
        self.at += 1
        first = self.peek()
        if not first:
            raise ExpansionError("syntax error: missing '}'")
        if first in "{}:":
            raise ExpansionError("syntax error: bad substitution")
        name = self.name()
        value = self.env.get(name)
        modifier = self.next()
        if modifier == "}":
            return f"${{{name}}}" if value is None and self.keep_unset else value or ""
        if modifier == "/":
            return self.replace(name, value)
        null_is_unset = modifier == ":"
        operator = self.next() if null_is_unset else modifier
        if not operator:
            raise ExpansionError("syntax error: missing '}'")
        if operator not in "+-?#%":
            raise ExpansionError(
                f"unsupported modifier ({modifier + (operator if null_is_unset else '')}) in substitution"
            )
        word = self.until("}", raw_escapes=operator in "#%")
        if value is None and self.keep_unset:
            return f"${{{name}{':' if null_is_unset else ''}{operator}{word}}}"
        return _modify(name, value, operator, word, null_is_unset)

    def until(self, stop: str, raw_escapes: bool) -> str:
        try:
            return self.read(stop, raw_escapes)[0]
        except ExpansionError:
            if not self.peek():
                raise ExpansionError(f"syntax error: missing '{stop}'") from None
            raise

    def replace(self, name: str, value: str | None) -> str:
        every = self.peek() == "/"
        if every:
            self.at += 1
        pattern = self.until("/", raw_escapes=True)
        replacement = self.until("}", raw_escapes=True)
        if value is None and self.keep_unset:
            return f"${{{name}{'//' if every else '/'}{pattern}/{replacement}}}"
        regex = shell_pattern(pattern, greedy=True)
        return regex.sub(lambda _: replacement, value or "", count=0 if every else 1)


def _modify(name: str, value: str | None, operator: str, word: str, null_is_unset: bool) -> str:
    absent = value is None or (null_is_unset and value == "")
    if operator == "-":
        return word if absent else value or ""
    if operator == "+":
        return "" if absent else word
    if operator == "?":
        if absent:
            state = "unset" if value is None else "empty"
            raise ExpansionError(f"{name}: {word or f'is not allowed to be {state}'}")
        return value or ""
    longest = word.startswith(operator)
    regex = shell_pattern(word[1:] if longest else word, greedy=longest)
    text = value or ""
    if operator == "#":
        match = regex.match(text)
        return text[match.end() :] if match else text
    cuts = range(len(text) + 1) if longest else range(len(text), -1, -1)
    for cut in cuts:
        if regex.fullmatch(text, cut):
            return text[:cut]
    return text


def shell_pattern(pattern: str, greedy: bool) -> re.Pattern[str]:
    """A pattern of `*`, `?` and escapes as a regular expression."""
    out = []
    chars = iter(pattern)
    for char in chars:
        if char == "*":
            out.append(".*" if greedy else ".*?")
        elif char == "?":
            out.append(".")
        elif char == "\\":
            following = next(chars, "")
            if following not in ("}", "/", "*", "?", "\\"):
                raise ExpansionError(f"invalid pattern ({pattern}) in substitution: invalid escape '\\{following}'")
            out.append(re.escape(following))
        else:
            out.append(re.escape(char))
    return re.compile("".join(out))


def expand(word: str, env: Mapping[str, str], escape: str = "\\", quotes: bool = True) -> str:
    """One word: quotes and escapes removed (kept as plain characters with `quotes=False`), variables replaced."""
    return _Reader(word, env, escape, quotes=quotes).read("", False)[0]


def expand_words(word: str, env: Mapping[str, str], escape: str = "\\") -> list[str]:
    """As `expand`, then split at the spaces that no quote protects."""
    return _Reader(word, env, escape).read("", False)[1]


def split_words(text: str, raw: bool) -> list[str]:
    """Words of `text` with every variable left alone; with `raw` quotes and escapes are kept too."""
    return _Reader(text, {}, raw=raw, keep_unset=True).read("", raw)[1]
