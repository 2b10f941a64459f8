"""The few programs that the fake engine understands, so that one contract suite runs on it and on the real engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_STATEMENT = re.compile(r"\s*(?:;|&&|\n)\s*")
_MISSING = re.compile(r"(^|/)no-such")


@dataclass
class Program:
    """What a command line would do: print, run for `lasts` seconds (None: until killed), then exit with `code`."""

    lasts: float | None = None
    code: int = 0
    output: list[tuple[int, bytes]] = field(default_factory=list)
    missing: bool = False
    ignores_term: bool = False
    oom: bool = False


def interpret(argv: Sequence[str]) -> Program:
    """Understands sleep, true, false, echo, exit, trap '' TERM and `sh -c` with these; anything else runs for ever."""
    if not argv:
        return Program()
    words = [str(word) for word in argv]
    if _MISSING.search(words[0]):
        return Program(missing=True)
    name = words[0].rpartition("/")[2]
    if name == "busybox" and len(words) > 1:
        return interpret(words[1:])
    if name == "sh" and len(words) > 2 and words[1] == "-c":
        return _shell(words[2])
    return _simple(name, words[1:])


def _shell(text: str) -> Program:
    whole = Program(lasts=0.0)
    for statement in filter(None, _STATEMENT.split(text.strip())):
        if statement.startswith("trap '' TERM"):
            whole.ignores_term = True
            continue
        words = statement.removeprefix("exec ").split()
        if words[0] == "exit":
            whole.code = int(words[1]) if len(words) > 1 else whole.code
            return whole
        part = interpret([word for word in words if word not in (">&2", "1>&2")])
        if ">&2" in statement:
            part.output = [(2, line) for _, line in part.output]
        whole.output += part.output
        if part.missing:
            whole.code = 127
            continue
        if part.lasts is None:
            whole.lasts = None
            return whole
        whole.lasts = (whole.lasts or 0.0) + part.lasts
        whole.code = part.code
    return whole


def _simple(name: str, words: list[str]) -> Program:
    if name == "sleep" and words:
        return Program(lasts=None) if words[0] == "infinity" else Program(lasts=float(words[0]))
    if name == "true":
        return Program(lasts=0.0)
    if name == "false":
        return Program(lasts=0.0, code=1)
    if name == "echo":
        return Program(lasts=0.0, output=[(1, " ".join(words).strip("'\"").encode())])
    return Program()
