"""Reads `.env` and `env_file` texts as Compose does: export, comments, quotes, escapes, interpolation."""

from __future__ import annotations

import re
from collections.abc import Mapping

from reconciler.manifest.interpolate import InterpolationError, expand
from reconciler.manifest.texts import Variables
from reconciler.model import Mark, Problem

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_EXPORT = re.compile(r"export[ \t]+")
_BLANK = " \t\r\v\f"
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def parse_dotenv(
    text: str, name: str, variables: Variables, problems: list[Problem], raw: bool = False
) -> dict[str, str]:
    """KEY -> value; a later line sees the earlier ones, and the caller's variables go before those.

    A key without `=` takes its value from `variables`, or is left out. `raw`: one KEY=VALUE a line, taken literally.
    """
    return (
        _Dotenv(text, name, variables, problems).read_raw() if raw else _Dotenv(text, name, variables, problems).read()
    )


class _Dotenv:
    def __init__(self, text: str, name: str, variables: Variables, problems: list[Problem]) -> None:
        self.text = text.removeprefix("\ufeff").replace("\r\n", "\n")
        self.name = name
        self.variables = variables
        self.problems = problems
        self.position = 0
        self.values: dict[str, str] = {}

    def mark(self, position: int) -> Mark:
        before = self.text.rfind("\n", 0, position)
        return Mark(self.name, self.text.count("\n", 0, position) + 1, position - before)

    def report(self, message: str, position: int) -> None:
        self.problems.append(Problem(message, self.mark(position)))

    def line_end(self) -> int:
        end = self.text.find("\n", self.position)
        return len(self.text) if end < 0 else end

    def read_raw(self) -> dict[str, str]:
        for line in self.text.split("\n"):
            key, equals, value = line.partition("=")
            if key.strip() and not key.lstrip().startswith("#"):
                if equals:
                    self.values[key.strip()] = value
                elif (inherited := self.variables.get(key.strip())) is not None:
                    self.values[key.strip()] = inherited
        return self.values

    def read(self) -> dict[str, str]:
        while self.position < len(self.text):
            if self.text[self.position] in _BLANK or self.text[self.position] == "\n":
                self.position += 1
            elif self.text[self.position] == "#":
                self.position = self.line_end()
            else:
                self.read_entry()
        return self.values

    def read_entry(self) -> None:
        export = _EXPORT.match(self.text, self.position)
        if export:
            self.position = export.end()
        start = self.position
        match = _KEY.match(self.text, start)
        if match is None:
            self.report("expected the name of a variable", start)
            self.position = self.line_end()
            return
        key, self.position = match[0], match.end()
        self.skip_blank()
        if self.position >= len(self.text) or self.text[self.position] in "\n#":
            inherited = self.variables.get(key)
            if inherited is not None:
                self.values[key] = inherited
            self.position = self.line_end()
            return
        if self.text[self.position] not in "=:":
            self.report(f'expected "=" after "{key}"', self.position)
            self.position = self.line_end()
            return
        self.position += 1
        self.skip_blank()
        self.read_value(key)

    def skip_blank(self) -> None:
        while self.position < len(self.text) and self.text[self.position] in _BLANK:
            self.position += 1

    def read_value(self, key: str) -> None:
        start = self.position
        quote = self.text[start : start + 1]
        if quote not in ("'", '"'):
            line = self.text[start : self.line_end()]
            comment = re.search(r"(?:^|[ \t])#", line)
            self.position = self.line_end()
            self.store(key, (line[: comment.start()] if comment else line).strip(_BLANK), start, quoted=False)
            return
        end = start + 1
        while end < len(self.text) and self.text[end] != quote:
            end += 2 if self.text[end] == "\\" and (quote == '"' or self.text[end + 1 : end + 2] == "'") else 1
        if end >= len(self.text):
            self.report(f"the quote that begins the value of {key} is not closed", start)
            self.position = len(self.text)
            return
        content = self.text[start + 1 : end]
        self.position = end + 1
        rest = self.text[self.position : self.line_end()].strip(_BLANK)
        if rest and not rest.startswith("#"):
            self.report(f"unexpected text after the quoted value of {key}", self.position)
        self.position = self.line_end()
        if quote == "'":
            self.values[key] = content.replace("\\'", "'")
        else:
            self.store(key, content, start, quoted=True)

    def store(self, key: str, content: str, start: int, quoted: bool) -> None:
        template = _unescape(content) if quoted else content
        try:
            self.values[key] = expand(template, _Layered(self.variables, self.values))
        except InterpolationError as error:
            hint = ' (single quotes keep "$" as it is)'
            self.report(f"{key}: {error}{hint}", start)


class _Layered(Variables):
    """The caller's variables before the file's own earlier lines."""

    __slots__ = ("_earlier", "_outer")

    def __init__(self, outer: Variables, earlier: Mapping[str, str]) -> None:
        super().__init__({}, None, outer.used)
        self._outer = outer
        self._earlier = earlier

    def get(self, name: str) -> str | None:
        value = self._outer.get(name)
        return self._earlier.get(name) if value is None else value

    def names(self) -> set[str]:
        return {*self._outer.names(), *self._earlier}


def _unescape(text: str) -> str:
    """Backslash escapes of a double-quoted value; an escaped `$` becomes `$$`, which interpolation takes back."""
    parts: list[str] = []
    position = 0
    while position < len(text):
        if text[position] == "\\" and position + 1 < len(text):
            following = text[position + 1]
            parts.append("$$" if following == "$" else _ESCAPES.get(following, f"\\{following}"))
            position += 2
        else:
            parts.append(text[position])
            position += 1
    return "".join(parts)
