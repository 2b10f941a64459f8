"""Remembers what was applied to each stack: generations, recorded intent and events, in one SQLite file.

The database is a record and never the truth about what runs: identity lives in labels on the objects, so a lost
or damaged `state.db` costs history and intent, but no container. A generation's `desired` never holds secret bytes.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from reconciler.database import Database
from reconciler.lock import StackLocked, stack_lock
from runtime.errors import CorruptContent, EngineError, NotFound

if TYPE_CHECKING:
    from reconciler.model import Desired

__all__ = [
    "Generation",
    "Generations",
    "Intent",
    "RecordedEvent",
    "StackLocked",
    "digest_of",
    "read_desired",
    "stack_lock",
]

GenerationResult = Literal["unfinished", "converged", "failed", "timeout", "interrupted"]
IntentKind = Literal["suspended", "destroyed"]

KEPT_GENERATIONS = 100
"""A stack's history is this long; the wanted generation is kept whatever its age."""
KEPT_EVENTS = 10_000
_TRIM_EVERY = 256
_MESSAGE_LIMIT = 2_000


@dataclass(frozen=True, slots=True)
class Generation:
    """One applied desired state. `desired` is the canonical JSON text ("" where only the summary was asked for).

    `images` maps an image's name to the id it had when the apply finished. `finished_at` 0.0 while unfinished.
    """

    stack: str
    number: int
    created_at: float
    finished_at: float
    revision: str
    source: str
    digest: str
    result: GenerationResult
    problem: str
    wanted: bool
    images: Mapping[str, str]
    prune: bool = True
    """Whether its apply removes what is no longer declared; the agent goes on as the apply was told."""
    desired: str = ""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a person asked to be left alone: `resource` like `service/web`, "" for the whole stack.

    `until` 0.0 is for good.
    """

    stack: str
    resource: str
    kind: IntentKind
    reason: str
    owner: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    id: int
    time: float
    stack: str
    resource: str
    action: str
    message: str
    generation: int


class Generations:
    """`<root>/state.db`, opened on first use; safe for several threads and several processes.

    Raises DiskFull, CorruptContent, Unavailable (locked too long) and NotFound, each naming the file.
    """

    def __init__(self, root: str, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self._file = Database(root)
        self._clock = clock
        self._recorded = 0

    def close(self) -> None:
        self._file.close()

    # ---- generations --------------------------------------------------------------------------------------------

    def begin(
        self,
        stack: str,
        desired: str,
        revision: str = "",
        source: str = "",
        *,
        by_hand: bool = True,
        prune: bool = True,
        digest: str = "",
    ) -> int:
        """Make `desired` the wanted generation and return its number; the same digest again keeps the number.

        `digest` is the identity of the desired state where that is less than its text (which also holds line numbers).

        `by_hand` is an apply that a person asked for: it ends the stack's destroyed intent even when nothing changed. A
        changed desired state ends every intent of the stack, whoever brought it.
        """
        digest = digest or digest_of(desired)
        now = self._clock()
        with self._file.transaction() as db:
            row = db.execute(
                "SELECT number, digest, prune FROM generations WHERE stack = ? AND wanted = 1", (stack,)
            ).fetchone()
            if row is not None and row[1] == digest:
                if by_hand:
                    db.execute("DELETE FROM intents WHERE stack = ? AND kind = 'destroyed'", (stack,))
                if by_hand and bool(row[2]) != prune:
                    db.execute("UPDATE generations SET prune = ? WHERE stack = ? AND wanted = 1", (prune, stack))
                return int(row[0])
            db.execute(
                "UPDATE generations SET result = 'interrupted', finished_at = ?"
                " WHERE stack = ? AND result = 'unfinished'",
                (now, stack),
            )
            last = db.execute("SELECT max(number) FROM generations WHERE stack = ?", (stack,)).fetchone()[0]
            number = int(last or 0) + 1
            db.execute("UPDATE generations SET wanted = 0 WHERE stack = ? AND wanted = 1", (stack,))
            db.execute(
                "INSERT INTO generations"
                " (stack, number, created_at, revision, source, digest, desired, result, wanted, prune)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 'unfinished', 1, ?)",
                (stack, number, now, revision, source, digest, desired, prune),
            )
            db.execute("DELETE FROM intents WHERE stack = ?", (stack,))
            db.execute(
                "DELETE FROM generations WHERE stack = ? AND number <= ? AND wanted = 0",
                (stack, number - KEPT_GENERATIONS),
            )
        return number

    def finish(
        self,
        stack: str,
        number: int,
        result: GenerationResult,
        problem: str = "",
        images: Mapping[str, str] | None = None,
    ) -> None:
        """Record how the apply of a generation ended. Costs one read when that is already on record."""
        pictures = json.dumps(dict(images), sort_keys=True) if images is not None else None
        row = self._file.read(
            "SELECT result, problem, images FROM generations WHERE stack = ? AND number = ?", (stack, number)
        )
        if row and row[0][0] == result and row[0][1] == problem and pictures in (None, row[0][2]):
            return
        with self._file.transaction() as db:
            db.execute(
                "UPDATE generations SET result = ?, problem = ?, finished_at = ?, images = coalesce(?, images)"
                " WHERE stack = ? AND number = ?",
                (result, problem[:_MESSAGE_LIMIT], self._clock(), pictures, stack, number),
            )

    def wanted(self, stack: str) -> Generation | None:
        rows = self._file.read(f"{_WITH_DESIRED} WHERE stack = ? AND wanted = 1", (stack,))
        return _generation(rows[0]) if rows else None

    def get(self, stack: str, number: int) -> Generation:
        rows = self._file.read(f"{_WITH_DESIRED} WHERE stack = ? AND number = ?", (stack, number))
        if not rows:
            raise NotFound(
                f'cannot read generation "{stack} {number}": no such generation', "`holdfast history` lists them"
            )
        return _generation(rows[0])

    def history(self, stack: str) -> list[Generation]:
        """The stack's history, newest first, without the desired texts."""
        rows = self._file.read(f"{_SUMMARY} WHERE stack = ? ORDER BY number DESC", (stack,))
        return [_generation(row) for row in rows]

    def stacks(self) -> list[str]:
        """Names of all stacks that have a wanted generation, destroyed ones included."""
        return [
            str(row[0]) for row in self._file.read("SELECT stack FROM generations WHERE wanted = 1 ORDER BY stack", ())
        ]

    def previous_good(self, stack: str) -> Generation | None:
        """The newest converged generation before the wanted one: where `rollback` goes when none is named."""
        rows = self._file.read(
            f"{_WITH_DESIRED} WHERE stack = :stack AND wanted = 0 AND result = 'converged' AND number <{_WANTED_NUMBER}"
            " ORDER BY number DESC LIMIT 1",
            {"stack": stack},
        )
        return _generation(rows[0]) if rows else None

    def data_version(self) -> int:
        """Changes when another process (or this one, through another connection) wrote the file; a cheap poll."""
        rows = self._file.read("PRAGMA data_version", ())
        return int(rows[0][0]) if rows else 0

    # ---- intent -------------------------------------------------------------------------------------------------

    def suspend(self, stack: str, resource: str = "", *, reason: str = "", owner: str = "", until: float = 0.0) -> None:
        self._intend(stack, resource, "suspended", reason=reason, owner=owner, until=until)

    def mark_destroyed(self, stack: str, *, reason: str = "", owner: str = "") -> None:
        self._intend(stack, "", "destroyed", reason=reason, owner=owner, until=0.0)

    def resume(self, stack: str, resource: str = "") -> bool:
        """End a suspension; without a resource, of the whole stack and all in it. True when there was one."""
        if not self._file.read("SELECT 1 FROM intents WHERE stack = ? AND kind = 'suspended' LIMIT 1", (stack,)):
            return False
        with self._file.transaction() as db:
            done = db.execute(
                "DELETE FROM intents WHERE stack = ? AND kind = 'suspended' AND (? = '' OR resource = ?)",
                (stack, resource, resource),
            )
            return done.rowcount > 0

    def intents(self, stack: str | None = None) -> list[Intent]:
        """Intent in force now; what has expired is left out (and removed by `trim`)."""
        where, values = ("WHERE stack = ?", (stack,)) if stack is not None else ("", ())
        rows = self._file.read(
            f"SELECT stack, resource, kind, reason, owner, since, until FROM intents {where} ORDER BY stack, resource",  # noqa: S608
            values,
        )
        now = self._clock()
        return [intent for intent in (Intent(*row) for row in rows) if not 0.0 < intent.until <= now]

    def _intend(self, stack: str, resource: str, kind: IntentKind, *, reason: str, owner: str, until: float) -> None:
        with self._file.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO intents (stack, resource, kind, reason, owner, since, until)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (stack, resource, kind, reason[:_MESSAGE_LIMIT], owner, self._clock(), until),
            )

    # ---- events -------------------------------------------------------------------------------------------------

    def record_event(self, stack: str, resource: str, action: str, message: str = "", generation: int = 0) -> None:
        """Append to the bounded journal. A full disk or a damaged file loses the event and nothing else."""
        try:
            with self._file.transaction(durable=False) as db:
                db.execute(
                    "INSERT INTO events (time, stack, resource, action, message, generation) VALUES (?, ?, ?, ?, ?, ?)",
                    (self._clock(), stack, resource, action, message[:_MESSAGE_LIMIT], generation),
                )
                self._recorded += 1
                if self._recorded % _TRIM_EVERY == 0:
                    _trim_events(db)
        except EngineError:
            return

    def events(
        self, stack: str | None = None, resource: str | None = None, *, after: int = 0, limit: int = 200
    ) -> list[RecordedEvent]:
        """The newest `limit` events with an id above `after`, oldest first."""
        conditions: list[str] = ["id > ?"]
        values: list[Any] = [after]
        for column, value in (("stack", stack), ("resource", resource)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        rows = self._file.read(
            "SELECT id, time, stack, resource, action, message, generation FROM events"  # noqa: S608
            f" WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?",
            (*values, limit),
        )
        return [RecordedEvent(*row) for row in reversed(rows)]

    def trim(self) -> None:
        """Drop expired intents and all but the newest events; the agent's clean-up timer calls it."""
        with self._file.transaction(durable=False) as db:
            _trim_events(db)
            db.execute("DELETE FROM intents WHERE until > 0 AND until <= ?", (self._clock(),))


_COLUMNS = "stack, number, created_at, finished_at, revision, source, digest, result, problem, wanted, images, prune"
_SUMMARY = f"SELECT {_COLUMNS} FROM generations"  # noqa: S608


def read_desired(generation: Generation) -> Desired:
    """The desired state of a generation. Secrets' bytes are not in it: the engine holds them by their digests."""
    from reconciler.desired import from_json

    try:
        return from_json(json.loads(generation.desired))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CorruptContent(
            f'cannot read generation "{generation.stack} {generation.number}": {error}', "apply the manifests again"
        ) from None


_WANTED_NUMBER = " (SELECT number FROM generations WHERE stack = :stack AND wanted = 1)"
_WITH_DESIRED = f"SELECT {_COLUMNS}, desired FROM generations"  # noqa: S608


def digest_of(desired: str) -> str:
    return "sha256:" + hashlib.sha256(desired.encode()).hexdigest()


def _generation(row: tuple[Any, ...]) -> Generation:
    stack, number, created_at, finished_at, revision, source, digest, result, problem, wanted, images, prune = row[:12]
    return Generation(
        stack=stack, number=number, created_at=created_at, finished_at=finished_at, revision=revision, source=source,
        digest=digest, result=result, problem=problem, wanted=bool(wanted), images=json.loads(images),
        prune=bool(prune), desired=row[12] if len(row) > 12 else "",
    )  # fmt: skip


def _trim_events(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (KEPT_EVENTS,))
