"""The measure of all: a queue in one SQLite table, as a careful programmer writes it with `sqlite3`.

WAL; autocommit, so that each statement is one transaction that takes the write lock at its start; claim is
`UPDATE .. RETURNING`, settle is `DELETE`, a batch is one transaction. The primary key is the index: settled
rows are gone, so the first ready row is near its beginning. A second index, over what is ready, was measured:
it halves the rate of puts and makes no claim faster. Nothing here gives a dead claimer's rows back.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.systems.base import System

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CLAIM = """UPDATE event SET claimed = 1
    WHERE id = (SELECT id FROM event WHERE claimed = 0 ORDER BY id LIMIT 1) RETURNING id, payload"""


class SqliteNormal(System):
    name = "sqlite-normal"
    family = "SQLite"
    note = "standard library, WAL, synchronous=NORMAL"
    modes = frozenset({"relaxed", "sqlite"})
    imports = "import sqlite3"
    synchronous: ClassVar[str] = "NORMAL"

    def __init__(self, folder: Path) -> None:
        self.db = sqlite3.connect(folder / "queue.db", timeout=60, isolation_level=None, check_same_thread=False)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute(f"PRAGMA synchronous = {self.synchronous}")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS event"
            " (id INTEGER PRIMARY KEY, claimed INTEGER NOT NULL DEFAULT 0, payload TEXT NOT NULL)"
        )
        self.was_empty = False

    def put(self, payload: Any) -> None:
        self.db.execute("INSERT INTO event (payload) VALUES (?)", (payload,))

    def put_many(self, payloads: Sequence[Any]) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        self.db.executemany("INSERT INTO event (payload) VALUES (?)", [(payload,) for payload in payloads])
        self.db.execute("COMMIT")

    def take(self) -> tuple[Any, Any] | None:
        # An idle claimer reads before it writes: it must not take the write lock a thousand times a second.
        if self.was_empty and not self.db.execute("SELECT 1 FROM event WHERE claimed = 0 LIMIT 1").fetchall():
            return None
        rows = self.db.execute(CLAIM).fetchall()  # all: it commits when read to its end
        self.was_empty = not rows
        return rows[0] if rows else None

    def settle(self, token: Any) -> None:
        self.db.execute("DELETE FROM event WHERE id = ?", (token,))

    def close(self) -> None:
        self.db.close()

    @classmethod
    def version(cls) -> str:
        return sqlite3.sqlite_version


class SqliteFull(SqliteNormal):
    name = "sqlite-full"
    note = "standard library, WAL, synchronous=FULL"
    modes = frozenset({"durable", "sqlite-full"})
    synchronous = "FULL"
