"""The state root's one SQLite file: opened late, migrated, safe for threads and processes, its errors translated."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runtime.errors import Conflict, CorruptContent, DiskFull, Unavailable

_BUSY_MS = 5_000

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE generations (
             stack TEXT NOT NULL, number INTEGER NOT NULL, created_at REAL NOT NULL,
             finished_at REAL NOT NULL DEFAULT 0,
             revision TEXT NOT NULL, source TEXT NOT NULL, digest TEXT NOT NULL, desired TEXT NOT NULL,
             images TEXT NOT NULL DEFAULT '{}', result TEXT NOT NULL, problem TEXT NOT NULL DEFAULT '',
             wanted INTEGER NOT NULL DEFAULT 0,
             prune INTEGER NOT NULL DEFAULT 1, PRIMARY KEY (stack, number)) WITHOUT ROWID""",
        "CREATE UNIQUE INDEX one_wanted ON generations (stack) WHERE wanted = 1",
        """CREATE TABLE intents (
             stack TEXT NOT NULL, resource TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, owner TEXT NOT NULL,
             since REAL NOT NULL, until REAL NOT NULL, PRIMARY KEY (stack, resource)) WITHOUT ROWID""",
        """CREATE TABLE events (
             id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, stack TEXT NOT NULL, resource TEXT NOT NULL,
             action TEXT NOT NULL, message TEXT NOT NULL, generation INTEGER NOT NULL)""",
        "CREATE INDEX events_by_stack ON events (stack, id)",
    ),
)


class Database:
    """`<root>/state.db`. `read` of an absent file finds nothing and creates nothing.

    Raises DiskFull, CorruptContent, Unavailable (locked too long) and Conflict (a newer version's), naming the file.
    """

    def __init__(self, root: str) -> None:
        self.path = f"{root}/state.db"
        self._mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        with self._mutex:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            os.makedirs(os.path.dirname(self.path), mode=0o711, exist_ok=True)
            # The resolved manifests hold environment values: nobody but root may read them, the WAL included.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            db = sqlite3.connect(self.path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
            try:
                _become_wal(db)
                _migrate(db)
            except BaseException:
                db.close()
                raise
            self._connection = db
        return self._connection

    def read(self, sql: str, values: Any) -> list[tuple[Any, ...]]:
        with self._mutex:
            if self._connection is None and not os.path.exists(self.path):
                return []
            try:
                with _translated("read", self.path):
                    return self._open().execute(sql, values).fetchall()
            except DiskFull:
                return self._read_as_it_lies(sql, values)

    def _read_as_it_lies(self, sql: str, values: Any) -> list[tuple[Any, ...]]:
        """Reading through the WAL needs a little disk. On a full one, what was last folded into the file must do."""
        from urllib.parse import quote

        with _translated("read", self.path):
            db = sqlite3.connect(f"file:{quote(self.path)}?mode=ro&immutable=1", uri=True)
            try:
                return db.execute(sql, values).fetchall()
            finally:
                db.close()

    @contextmanager
    def transaction(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """`durable` survives a power cut once it returns (the WAL is synced); events are not worth that wait."""
        with self._mutex, _translated("write", self.path):
            db = self._open()
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                # A failed COMMIT (disk full) may have rolled back already; then there is nothing to undo.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise


def _migrate(db: sqlite3.Connection) -> None:
    if db.execute("PRAGMA user_version").fetchone()[0] == len(_MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        # Read again under the write lock: two first commands may race to make the tables.
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise Conflict(
                f"cannot read the state database: it has version {version}, this holdfast knows {len(_MIGRATIONS)}",
                "use the newer holdfast that wrote it",
            )
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _become_wal(db: sqlite3.Connection) -> None:
    """The switch to WAL does not wait for others as statements do (sqlite.org/wal.html): it is tried again."""
    deadline = time.monotonic() + _BUSY_MS / 1000
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


@contextmanager
def _translated(verb: str, path: str) -> Iterator[None]:
    where = f'cannot {verb} the state database "{path}"'
    try:
        yield
    except sqlite3.OperationalError as error:
        code = error.sqlite_errorcode & 0xFF if hasattr(error, "sqlite_errorcode") else 0
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
            raise DiskFull(
                f"{where}: the disk is full", "free space below the state root; what runs is untouched"
            ) from None
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Unavailable(f"{where}: another process keeps it locked", "try again") from None
        raise Unavailable(f"{where}: {error}", "is the state root writable?") from None
    except sqlite3.DatabaseError as error:
        raise CorruptContent(
            f"{where}: {error}",
            "it holds only history and intent: move it away and apply again; what runs is untouched",
        ) from None
    except OSError as error:
        kind = DiskFull if error.errno in (28, 122) else Unavailable
        raise kind(f"{where}: {error.strerror}") from None


def _is_full(path: str) -> bool:
    try:
        stat = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return stat.f_bavail * stat.f_frsize < 64 << 10
