"""Tells on stderr how a converge goes: lines of text, or on a terminal one living line for each action under way."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reconciler.cli.output import clean, is_coloured, paint, span, warn

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from reconciler.convergence import Progress

_COLOURS = {"done": "green", "failed": "red", "skipped": "yellow"}
_DONE_WORDS = {
    "create": "created",
    "replace": "replaced",
    "start": "started",
    "stop": "stopped",
    "restart": "restarted",
    "remove": "removed",
    "repair": "repaired",
    "update": "updated",
    "build": "built",
    "bootstrap": "bootstrapped",
    "load": "loaded",
}


class PlainProgress:
    """One line for each thing that was done, aligned: pipes, logs and CI."""

    def __init__(self) -> None:
        self._began: dict[tuple[str, str], float] = {}
        self._said: set[str] = set()
        self._width = 12

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def __call__(self, event: Progress) -> None:
        if event.kind == "warning":
            self.say_warning(event.message)
        elif event.kind == "waiting":
            self.show_waiting(event)
        elif event.kind == "action":
            self.show_action(event)

    def say_warning(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warn(clean(message))

    def show_waiting(self, event: Progress) -> None:
        text = f"waiting      {event.key}  {event.message}".rstrip()
        if text not in self._said:
            self._said.add(text)
            self.print_line(paint(clean(text), "dim", sys.stderr))

    def show_action(self, event: Progress) -> None:
        name = (event.key, event.verb)
        if event.state == "started":
            self._began[name] = time.monotonic()
        elif event.state == "waiting":
            self.show_waiting(event)
        elif event.state == "progress":
            self.print_line(paint(f"  {clean(event.key)}: {clean(event.message)}", "dim", sys.stderr))
        else:
            self.print_line(self.ended_line(event))

    def ended_line(self, event: Progress) -> str:
        took = time.monotonic() - self._began.pop((event.key, event.verb), time.monotonic())
        word = _DONE_WORDS.get(event.verb, event.verb) if event.state == "done" else event.state
        if event.state != "done" and event.verb:
            word = f"{word} {event.verb}"
        detail = clean(event.message) if event.state != "done" else ""
        tail = f"  ({took:.1f} s)" if took >= 1.0 else ""
        line = f"{word.ljust(self._width)} {clean(event.key)}{'  ' + detail if detail else ''}{tail}"
        return paint(line, _COLOURS.get(event.state, ""), sys.stderr)

    def print_line(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class LiveProgress(PlainProgress):
    """The same lines, and below them what is under way now. rich is imported when there is something to show."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None
        self._active: dict[tuple[str, str], tuple[float, str]] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._active.clear()
            self._live.stop()

    def show_waiting(self, event: Progress) -> None:
        began, _ = self._active.get((event.key, "wait"), (time.monotonic(), ""))
        self._active[event.key, "wait"] = (began, event.message)
        self._draw()

    def show_action(self, event: Progress) -> None:
        name = (event.key, event.verb)
        if event.state == "started":
            self._began[name] = time.monotonic()
            self._active[name] = (time.monotonic(), "")
        elif event.state in ("progress", "waiting"):
            self._active[name] = (self._active.get(name, (time.monotonic(), ""))[0], event.message)
        else:
            self._active.pop(name, None)
            self._active.pop((event.key, "wait"), None)
            self.print_line(self.ended_line(event))
        self._draw()

    def print_line(self, line: str) -> None:
        if self._live is None:
            super().print_line(line)
            return
        from rich.text import Text

        self._live.console.print(Text.from_ansi(line), highlight=False)

    def _draw(self) -> None:
        if self._live is None:
            if not self._active:
                return
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, highlight=False)
            self._live = Live(console=console, get_renderable=self._table, transient=True, refresh_per_second=8)
            self._live.start()
        self._live.refresh()

    def _table(self) -> Table:
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        shown = sorted(self._active.items(), key=lambda item: item[1][0])[:12]
        for (key, verb), (began, message) in shown:
            if not hasattr(self, "_spinner"):
                self._spinner: Any = Spinner("dots", style="cyan")
            took = span(time.monotonic() - began)
            table.add_row(
                self._spinner,
                verb,
                clean(key),
                took,
                Text(clean(message), style="dim", no_wrap=True, overflow="ellipsis"),
            )
        if len(self._active) > len(shown):
            table.add_row("", "", f"and {len(self._active) - len(shown)} more", "", "")
        return table


def make_progress() -> PlainProgress:
    return LiveProgress() if is_coloured(sys.stderr) else PlainProgress()
