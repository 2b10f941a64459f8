"""Checks after every test that nothing of its state roots is left on the host, and skips what the host cannot run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from runtime.layout import Layout
from tests.support.leftovers import forget_run_directories, wait_until_clean

_made: dict[str, Layout] = {}
"""Every state root that this session named, by id: objects on the host carry that id, so the check sees only ours."""

_original_init = Layout.__init__


def _recording_init(self: Layout, *args: object, **kwargs: object) -> None:
    _original_init(self, *args, **kwargs)  # type: ignore[arg-type]
    if not _is_default(self):
        _made.setdefault(self.id, self)


def _is_default(layout: Layout) -> bool:
    """The machine's real root may hold someone's running stacks; no test may use it, so none is blamed for it."""
    return layout.root == "/var/lib/holdfast"


def pytest_configure(config: pytest.Config) -> None:
    Layout.__init__ = _recording_init  # type: ignore[assignment,method-assign]


def pytest_unconfigure(config: pytest.Config) -> None:
    Layout.__init__ = _original_init  # type: ignore[method-assign]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    is_root = os.geteuid() == 0
    is_long = os.environ.get("HOLDFAST_LONG") == "1"
    for item in items:
        if item.get_closest_marker("root") and not is_root:
            item.add_marker(pytest.mark.skip(reason="needs root"))
        if item.get_closest_marker("long") and not is_long:
            item.add_marker(pytest.mark.skip(reason="long suite: set HOLDFAST_LONG=1"))


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """A root first named inside a test must be gone from the host when the test ends.

    Roots of wider fixtures were named before this fixture ran; `nothing_left_behind_at_the_end` looks at those.
    """
    before = set(_made)
    yield
    mine = [layout for id, layout in _made.items() if id not in before and os.path.isdir(layout.run)]
    left = wait_until_clean(mine)
    assert not left, "left behind:\n  " + "\n  ".join(left)
    forget_run_directories(mine)


@pytest.fixture(autouse=True, scope="session")
def nothing_left_behind_at_the_end() -> Iterator[None]:
    yield
    left = wait_until_clean(_made.values())
    assert not left, "left behind:\n  " + "\n  ".join(left)
    forget_run_directories(_made.values())
