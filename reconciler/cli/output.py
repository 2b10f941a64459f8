"""How results look: aligned tables, JSON, colours on a terminal only, and no control character from anyone's data."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

import click

_CODES = {
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
    "dim": "2",
    "bold": "1",
}
_COLOUR_OF_STATE = {
    "running": "green",
    "healthy": "green",
    "converged": "green",
    "done": "green",
    "completed": "green",
    "created": "yellow",
    "starting": "yellow",
    "paused": "yellow",
    "suspended": "yellow",
    "progressing": "yellow",
    "waiting": "yellow",
    "pending": "yellow",
    "stopped": "dim",
    "unhealthy": "red",
    "failed": "red",
    "failing": "red",
    "degraded": "red",
    "missing": "red",
}


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON: stable, and the same for every reader.")(
        command
    )


def quiet_option(what: str = "ids") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("-q", "--quiet", is_flag=True, help=f"Print {what} only, one a line.")


def yes_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def is_coloured(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """`text` in a colour, where `stream` (stdout by default) shows colours."""
    code = _CODES.get(colour)
    return f"\033[{code}m{text}\033[0m" if code and is_coloured(stream or sys.stdout) else text


def paint_state(text: str) -> str:
    return paint(text, _COLOUR_OF_STATE.get(text.split(" ", maxsplit=1)[0], ""))


def clean(text: object) -> str:
    """One line without control characters: names, labels and commands come from strangers."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], stated: Sequence[int] = ()) -> None:
    """Columns two blanks apart. `stated` columns are coloured by the state that they name."""
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(len(line[index]) for line in [list(headers), *cells]) for index in range(len(headers))]
    last = len(headers) - 1
    print(paint("  ".join(h if i == last else h.ljust(widths[i]) for i, h in enumerate(headers)).rstrip(), "bold"))
    for row in cells:
        padded = [cell if index == last else cell.ljust(widths[index]) for index, cell in enumerate(row)]
        line = "  ".join(paint_state(cell) if index in stated else cell for index, cell in enumerate(padded))
        print(line.rstrip())


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """`name   value` lines, names aligned."""
    lines = [(name, clean(value)) for name, value in pairs]
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        print(f"{paint(name.ljust(width), 'dim')}  {value}".rstrip())


def note(text: str) -> None:
    """A remark for a person: on stderr, so that data stays alone on stdout."""
    print(text, file=sys.stderr)


def warn(text: str) -> None:
    print(paint(text, "yellow", sys.stderr), file=sys.stderr)


def iso_time(seconds: float) -> str | None:
    """RFC 3339 in UTC with milliseconds, or None for "never"."""
    if not seconds:
        return None
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def age(seconds: float, now: float | None = None) -> str:
    """How long ago, in the largest fitting unit: "12s", "5m", "3h", "9d"."""
    if not seconds:
        return "-"
    return span(max(0.0, (time.time() if now is None else now) - seconds))


def span(seconds: float) -> str:
    for unit, length, limit in (("s", 1, 120), ("m", 60, 120 * 60), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds // 86400)}d"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def confirm(question: str, assume_yes: bool) -> None:
    """Ask, but only on a terminal; a refusal ends the command with nothing touched."""
    if assume_yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if not click.confirm(question, default=False, err=True):
        from reconciler.cli.errors import CommandFailed

        raise CommandFailed("nothing was touched")
