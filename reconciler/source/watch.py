"""Notices changes below the manifests' paths; a hint that shortens the wait, while the periodic reload is the truth.

inotify loses events on overlay and network file systems and across renamed directories, so nobody may rely on it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

_SETTLE_MS = 200
"""Changes closer together than this are one: an editor writes, renames and touches."""
_RETRY = 2.0


class Watch:
    """Calls `on_change()` from its own thread some time after anything below `paths` changed. Started at once."""

    def __init__(self, paths: Sequence[str], on_change: Callable[[], None]) -> None:
        self._paths = [os.path.abspath(path) for path in paths if path != "-"]
        self._on_change = on_change
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        if self._paths:
            self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        from watchfiles import watch

        while not self._stop.is_set():
            places = watched_places(self._paths)
            try:
                for _changes in watch(
                    *places, watch_filter=_is_worth_a_look, debounce=_SETTLE_MS, step=50, rust_timeout=1000,
                    stop_event=self._stop, recursive=True, raise_interrupt=False, yield_on_timeout=True,
                ):  # fmt: skip
                    if _changes:
                        self._on_change()
                    # A watched directory that was replaced (an atomic swap, a re-clone) needs watching anew.
                    if watched_places(self._paths) != places:
                        self._on_change()
                        break
            except (OSError, RuntimeError):
                # No inotify instances left, or the path vanished in between: the periodic reload goes on without us.
                self._stop.wait(_RETRY)


def watched_places(paths: Sequence[str]) -> list[str]:
    """Directories to watch: a file's own directory (editors replace files), or the nearest ancestor that exists."""
    places = set()
    for path in paths:
        place = os.path.realpath(path)
        if not os.path.isdir(place):
            place = os.path.dirname(place)
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        places.add(place)
    return sorted(places)


def _is_worth_a_look(change: object, path: str) -> bool:
    """Editors' own files and version control's bookkeeping are no manifests."""
    name = os.path.basename(path)
    return not (name.endswith(("~", ".swp", ".swx", ".tmp")) or "/.git/" in path or name.startswith(".#"))
