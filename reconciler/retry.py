"""Remembers, for one stack in the agent, which failed resources are left alone for how long: a pure bookkeeping.

Keyed on generation, resource and reason, so that another failure of the same resource starts at the first step, and a
new generation forgets everything. Also notices a resource that is changed over and over without ever being right.
"""

from __future__ import annotations

from reconciler import backoff
from reconciler.model import Key
from reconciler.plan import Hold, Verb

FLAP_WINDOW = 600.0
FLAP_LIMIT = 5
"""So many successful changes of one kind to one resource within the window, without new input, are an endless loop."""
_CHANGES: frozenset[Verb] = frozenset(("replace", "update", "restart", "repair", "build", "bootstrap", "load"))


class Retries:
    def __init__(self) -> None:
        self._generation = 0
        self._attempts: dict[tuple[Key, str], int] = {}
        self._holds: dict[Key, tuple[Hold, float]] = {}
        """With the time at which each began."""
        self._changes: dict[tuple[Key, int, Verb], list[float]] = {}

    def begin(self, generation: int) -> None:
        """New input clears every wait; the same generation again clears nothing."""
        if generation != self._generation:
            self.clear()
            self._generation = generation

    def clear(self) -> None:
        self._attempts.clear()
        self._holds.clear()
        self._changes.clear()

    def failed(self, key: Key, kind: str, reason: str, now: float, verb: str = "") -> Hold:
        """An action `verb` on `key` failed by an error of class `kind`: hold it back, longer each time in a row."""
        attempts = self._attempts.get((key, kind), 0) + 1
        self._attempts[key, kind] = attempts
        hold = Hold(reason, now + backoff.retry_delay(attempts), verb)
        self._holds[key] = hold, now
        return hold

    def succeeded(self, key: Key, index: int, verb: Verb, now: float) -> Hold | None:
        """An action was done. The value is a hold when this resource is being changed over and over."""
        self._holds.pop(key, None)
        for entry in [entry for entry in list(self._attempts) if entry[0] == key]:
            self._attempts.pop(entry, None)
        if verb not in _CHANGES:
            return None
        times = [time for time in self._changes.get((key, index, verb), []) if 0 <= now - time < FLAP_WINDOW]
        times.append(now)
        self._changes[key, index, verb] = times
        if len(times) <= FLAP_LIMIT:
            return None
        reason = f"{verb} was done {len(times)} times within {FLAP_WINDOW / 60:.0f} minutes and is wanted again"
        hold = Hold(reason, now + backoff.retry_delay(2 + len(times)))
        self._holds[key] = hold, now
        return hold

    def holds(self, now: float) -> dict[Key, Hold]:
        """Who is left alone now. A wait that began in the future is over: the clock has jumped backwards."""
        for key, (hold, since) in list(self._holds.items()):
            if hold.until <= now or now < since:
                self._holds.pop(key, None)
        return {key: hold for key, (hold, _) in self._holds.items()}

    def attempts(self, key: Key) -> int:
        return max((count for (found, _), count in list(self._attempts.items()) if found == key), default=0)
