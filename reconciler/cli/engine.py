"""Where a command gets its engine: constructed late, on the state root of `--root`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from runtime.api import Engine
    from runtime.layout import Layout


def open_layout(root: str, run_base: str = "") -> Layout:
    from runtime.layout import RUN_BASE, Layout

    return Layout(root, run_base or RUN_BASE)


def open_engine(root: str, run_base: str = "") -> Engine:
    """The real engine on `root`; tests put another function in this place."""
    from runtime.engine import Engine as HostEngine

    layout = open_layout(root, run_base)
    try:
        return HostEngine(layout)
    except PermissionError as error:
        from runtime.errors import Unsupported

        cause = f'cannot open state root "{root}": {error.strerror}'
        raise Unsupported(cause, "containers need root: try sudo, or choose another root with --root") from error


class Session:
    """What one command line works on; the engine is made at first use and closed with the command."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._engine: Engine | None = None

    @property
    def layout(self) -> Layout:
        return open_layout(self.root)

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = open_engine(self.root)
        return self._engine

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def session() -> Session:
    found: Any = click.get_current_context().find_object(Session)
    assert isinstance(found, Session)
    return found


def engine() -> Engine:
    return session().engine
