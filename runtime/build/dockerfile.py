"""Reads the line grammar of a Dockerfile: directives, comments, continuations, flags, JSON forms and heredocs.

`parse_lines` yields one `Node` an instruction, each with its line numbers. What the words mean is the business of
`instructions`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from runtime.build.expand import ExpansionError, is_space, split_words
from runtime.errors import InvalidSpec

DIRECTIVES = frozenset({"syntax", "escape", "check"})
_SPACES = re.compile(r"[\t\v\f\r ]+")
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$")
_BARE_HEREDOC = re.compile(r"\d*<<-?")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)", re.DOTALL)


class Problem(ValueError):
    """One fault of a Dockerfile; `line` 0 means the file as a whole, or not known yet."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def reject(name: str, problems: Iterable[Problem]) -> InvalidSpec:
    """The error for a Dockerfile: every problem as `NAME:LINE: message`, in the order of lines."""
    lines = [
        f"{name}:{p.line}: {p.message}" if p.line else f"{name}: {p.message}"
        for p in sorted(problems, key=lambda p: p.line)
    ]
    if len(lines) == 1:
        return InvalidSpec(f'cannot read Dockerfile "{name}": {lines[0]}')
    return InvalidSpec(f'cannot read Dockerfile "{name}": {len(lines)} problems:\n' + "\n".join(lines))


@dataclass(frozen=True, slots=True)
class Heredoc:
    """`<<NAME`: with `expand` variables are replaced, with `chomp` (`<<-`) leading tabs are dropped."""

    name: str
    expand: bool
    chomp: bool
    content: str = ""

    @property
    def text(self) -> str:
        """The content, without the leading tabs that `<<-` drops."""
        return re.sub(r"^\t+", "", self.content, flags=re.MULTILINE) if self.chomp else self.content


@dataclass(slots=True)
class Node:
    """One instruction as written. `args` are its words; for ENV and LABEL, flat triples of key, value, separator."""

    instruction: str
    args: list[str]
    text: str
    flags: list[str] = field(default_factory=list)
    json: bool = False
    sub: Node | None = None
    """What ONBUILD wraps."""
    heredocs: list[Heredoc] = field(default_factory=list)
    line: int = 0
    end_line: int = 0


@dataclass(slots=True)
class Lines:
    """A Dockerfile's instructions, its escape character, its directives and what is odd about it."""

    nodes: list[Node]
    escape: str
    directives: dict[str, str]
    warnings: list[str]


def parse_heredoc(word: str) -> Heredoc | None:
    """`word` as the start of a heredoc, or None when it is none."""
    match = _HEREDOC.fullmatch(word)
    if not match:
        return None
    plain, raw = split_words(match[3], raw=False), split_words(match[3], raw=True)
    if len(plain) != 1 or len(raw) != 1:
        return None
    return Heredoc(name=plain[0], expand=plain == raw, chomp=bool(match[2]))


def _words(text: str, escape: str) -> list[str]:
    """Space-separated words; quotes join, and stay in the word."""
    words: list[str] = []
    word = ""
    quote = ""
    started = False
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if not quote and is_space(char):
            if started:
                words.append(word)
            word, started = "", False
            continue
        if char == escape and quote != "'":
            if at == len(text):
                quote = ""
                continue
            word += char + text[at]
            started = True
            at += 1
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        word += char
        started = True
    if started:
        words.append(word)
    return words


def _json_list(text: str) -> list[str] | None:
    """A JSON array of strings; None when it is not JSON, a Problem when it holds anything but strings."""
    text = text.lstrip()
    if not text.startswith("["):
        return None
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(value, str) for value in values):
        raise Problem("when using JSON array syntax, arrays must be comprised of strings only")
    return [str(value) for value in values]


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


def _split_spaces(text: str, limit: int = 0) -> list[str]:
    return _SPACES.split(text, maxsplit=limit)


Parsed = tuple[list[str], bool]


def _read_list(rest: str, escape: str) -> Parsed:
    return (_split_spaces(rest) if rest else []), False


def _read_text(rest: str, escape: str) -> Parsed:
    return ([rest] if rest else []), False


def _read_words(rest: str, escape: str) -> Parsed:
    return _words(rest, escape), False


def _read_command(rest: str, escape: str) -> Parsed:
    values = _json_list(rest)
    return (values, True) if values is not None else _read_text(rest, escape)


def _read_paths(rest: str, escape: str) -> Parsed:
    values = _json_list(rest)
    return (values, True) if values is not None else _read_list(rest, escape)


def _read_health(rest: str, escape: str) -> Parsed:
    match = re.match(r"(\S+)\s*(.*)", rest, re.DOTALL)
    if not match:
        return [], False
    args, is_json = _read_command(match[2], escape)
    return [match[1], *args], is_json


def _read_pairs(name: str) -> Callable[[str, str], Parsed]:
    def read(rest: str, escape: str) -> Parsed:
        words = _words(rest, escape)
        if not words:
            return [], False
        if "=" not in words[0]:  # the old form: the rest of the line is the value
            parts = _split_spaces(rest, 1)
            if len(parts) < 2:
                raise Problem(f"{name} must have two arguments")
            return [parts[0], parts[1], ""], False
        args: list[str] = []
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise Problem(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
            args += [key, value, "="]
        return args, False

    return read


_READERS: dict[str, Callable[[str, str], Parsed]] = {
    "add": _read_paths,
    "arg": _read_words,
    "cmd": _read_command,
    "copy": _read_paths,
    "entrypoint": _read_command,
    "env": _read_pairs("ENV"),
    "expose": _read_list,
    "from": _read_list,
    "healthcheck": _read_health,
    "label": _read_pairs("LABEL"),
    "maintainer": _read_text,
    "run": _read_command,
    "shell": _read_command,
    "stopsignal": _read_text,
    "user": _read_text,
    "volume": _read_paths,
    "workdir": _read_text,
}


def _split_flags(text: str) -> tuple[list[str], str]:
    """The leading `--flag` words, unquoted, and what follows them."""
    flags: list[str] = []
    at = 0
    while True:
        while at < len(text) and is_space(text[at]):
            at += 1
        if not text.startswith("--", at):
            return flags, text[at:]
        word, quote = "", ""
        while at < len(text) and (quote or not is_space(text[at])):
            char = text[at]
            at += 1
            if char == quote:
                quote = ""
            elif not quote and char in "'\"":
                quote = char
            elif char == "\\":
                word += text[at : at + 1]
                at += 1
            else:
                word += char
        if word == "--":
            return flags, text[at:]
        flags.append(word)


def _parse_node(line: str, escape: str) -> Node:
    parts = _split_spaces(line.strip(), 1)
    name = parts[0]
    flags, rest = _split_flags(parts[1]) if len(parts) == 2 else ([], "")
    rest = rest.strip()
    node = Node(name, [], line, flags)
    if name.lower() == "onbuild":
        node.sub = _parse_node(rest, escape) if rest else None
    elif read := _READERS.get(name.lower()):
        node.args, node.json = read(rest, escape)
    return node


def _opened_heredocs(node: Node, is_closed: Callable[[Heredoc], bool]) -> list[Heredoc]:
    """Those that begin on the line. `<< WORD` with a space is one only if it ends: it could be a shift, `1 << 2`."""
    inner = node.sub if node.sub else node
    if inner.instruction.lower() not in ("add", "copy", "run") or inner.json or "<<" not in node.text:
        return []
    try:
        words = split_words(node.text, raw=True)
        found = []
        for at, word in enumerate(words):
            spaced = at + 1 < len(words) and _BARE_HEREDOC.fullmatch(word)
            heredoc = parse_heredoc(word + words[at + 1] if spaced else word)
            if heredoc and not (spaced and not is_closed(heredoc)):
                found.append(heredoc)
    except ExpansionError as error:
        raise Problem(str(error)) from None
    return found


def parse_lines(text: str) -> Lines:
    """The instructions of `text`; raises Problem (with its line) at the first line that cannot be one."""
    source = text.removeprefix("\ufeff").split("\n")
    if source[-1] == "":
        source.pop()
    reader = _LineReader(source)
    reader.read()
    if not reader.nodes:
        raise Problem("file with no instructions")
    return Lines(reader.nodes, reader.escape, reader.directives, reader.warnings)


def _ends(line: str, heredoc: Heredoc) -> bool:
    line = line.rstrip("\r")
    return (line.lstrip("\t") if heredoc.chomp else line) == heredoc.name


class _LineReader:
    def __init__(self, source: list[str]) -> None:
        self.source = source
        self.at = 0
        self.escape = "\\"
        self.directives: dict[str, str] = {}
        self.directives_over = False
        self.nodes: list[Node] = []
        self.warnings: list[str] = []

    def read(self) -> None:
        while self.at < len(self.source):
            line = self.source[self.at].rstrip("\r").lstrip()
            self.at += 1
            self.take_directive(line)
            if line.startswith("#") or not line:
                continue
            start = self.at
            try:
                self.nodes.append(self.read_instruction(line, start))
            except Problem as problem:
                raise Problem(problem.message, problem.line or start) from None

    def take_directive(self, line: str) -> None:
        if self.directives_over:
            return
        match = _DIRECTIVE.match(line)
        name = match[1].lower() if match else ""
        if not match or name not in DIRECTIVES:
            self.directives_over = True
            return
        if name in self.directives:
            raise Problem(f"only one {name} parser directive can be used", self.at)
        self.directives[name] = match[2]
        if name == "escape":
            if match[2] not in ("\\", "`"):
                raise Problem(f"invalid escape token '{match[2]}' does not match ` or \\", self.at)
            self.escape = match[2]

    def trim_continuation(self, line: str) -> tuple[str, bool]:
        bare = line.rstrip(" \t")
        if bare.endswith(self.escape) and not bare.endswith(self.escape * 2):
            return bare[:-1], True
        return line, False

    def read_instruction(self, line: str, start: int) -> Node:
        line, more = self.trim_continuation(line)
        gap = False
        while more and self.at < len(self.source):
            following = self.source[self.at].rstrip("\r")
            self.at += 1
            bare = following.lstrip()
            if bare.startswith("#"):
                continue
            if not bare:
                gap = True
                continue
            following, more = self.trim_continuation(following)
            line += following
        if gap:
            self.warnings.append(f"line {start}: Empty continuation line found in: {line.strip()}")
        node = _parse_node(line, self.escape)
        node.line = start
        for heredoc in _opened_heredocs(node, self.is_closed):
            node.heredocs.append(self.read_heredoc(heredoc))
        node.end_line = self.at
        if node.sub:
            node.sub.line, node.sub.end_line, node.sub.heredocs = start, self.at, node.heredocs
        return node

    def is_closed(self, heredoc: Heredoc) -> bool:
        return any(_ends(line, heredoc) for line in self.source[self.at :])

    def read_heredoc(self, heredoc: Heredoc) -> Heredoc:
        body: list[str] = []
        while self.at < len(self.source):
            line = self.source[self.at]
            self.at += 1
            if _ends(line, heredoc):
                return Heredoc(heredoc.name, heredoc.expand, heredoc.chomp, "".join(body))
            body.append(line + "\n")
        raise Problem(f'unterminated heredoc "{heredoc.name}"')
