"""SQLite as the SQL storages need it: one writer at a time, readers beside it, and nothing inherited through a fork."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec

from eventq.storage import forks
from eventq.storage.sql.database import NOTHING, Cursor, Database
from eventq.storage.sql.schema import Dialect, spelled
from eventq.storage.sql.sqlite.connections import Connections
from eventq.storage.sql.sqlite.presence import Doors, Listener

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventq.storage.sql.database import Row
    from eventq.storage.sql.sqlite.url import Target

T = TypeVar("T")

DIALECT = Dialect(
    p="eventq_", i="eventq_", text="TEXT", bigint="INTEGER", double="REAL", blob="BLOB",
    hot="WITHOUT ROWID", covering=", state", rowless="WITHOUT ROWID",
    find="SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'eventq_schema'",
)  # fmt: skip


class SQLiteCursor(Cursor):
    """A transaction on a connection."""

    def __init__(
        self, connection: sqlite3.Connection, spell: Callable[[str], str], words: list[tuple[str, str]]
    ) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._spell = spell
        self._words = words
        """What is to be told once it is committed, and to whom."""

    def execute(self, statement: str, values: Mapping[str, Any] = NOTHING) -> list[Row]:
        return self._execute(self._spell(statement), values).fetchall()

    def change(self, statement: str, values: Mapping[str, Any] = NOTHING) -> int:
        return self._execute(self._spell(statement), values).rowcount

    def many(self, statement: str, values: Sequence[Mapping[str, Any]]) -> None:
        self._connection.executemany(self._spell(statement), values)

    def serialize(self, name: str) -> None:
        """Whoever writes is alone."""

    def tell(self, worker: str, word: str) -> None:
        self._words.append((worker, word))


class SQLiteDatabase(Database):
    """A database file, as one process uses it."""

    absence: ClassVar[float] = 0.0

    def __init__(self, target: Target) -> None:
        # one name of the file, whatever links lead there: beside it all find each other
        target = msgspec.structs.replace(target, path=os.path.realpath(target.path))
        self.target: Target = target
        self._spelled: dict[str, str] = {}
        self._doors = Doors(target.path + "-workers")
        self._connections = Connections(target)
        self._listener: Listener | None = None
        try:
            self._connections.use_log()
        except BaseException:
            self._connections.close()
            raise
        forks.follow(self)

    @property
    def dialect(self) -> Dialect:
        return DIALECT

    @property
    def incarnation(self) -> str:
        return ""

    def spell(self, statement: str) -> str:
        """A statement as SQLite understands it."""
        found = self._spelled.get(statement)
        if found is None:
            found = self._spelled[statement] = spelled(statement, DIALECT)
        return found

    # ------------------------------------------------------------------ statements

    def run(self, work: Callable[[Cursor, bool], T]) -> T:
        return self._run(work, True)

    def run_lightly(self, work: Callable[[Cursor, bool], T]) -> T:
        return self._run(work, False)

    def _run(self, work: Callable[[Cursor, bool], T], lasting: bool) -> T:
        words: list[tuple[str, str]] = []
        result = self._connections.write(
            lambda connection: work(SQLiteCursor(connection, self.spell, words), False), lasting=lasting
        )
        for worker, word in words:
            self._doors.say(worker, word)
        return result

    def write(self, statement: str, values: Mapping[str, Any] | Row, lasting: bool = True) -> list[Row]:
        """What a single statement returns, once what it wrote is committed."""
        return self._connections.write_one(self.spell(statement), values, lasting)

    def write_many(self, statement: str, rows: Sequence[Row], then: str, values: Row) -> list[Row]:
        """Run a statement with `?` for each row, and then another: what that returns, once it is committed."""

        def work(connection: sqlite3.Connection) -> list[Row]:
            connection.executemany(self.spell(statement), rows)
            return connection.execute(self.spell(then), values).fetchall()

        return self._connections.write(work)

    def execute(self, statement: str, values: Mapping[str, Any] = NOTHING) -> list[Row]:
        with self._connections.reader() as connection:
            return connection.execute(self.spell(statement), values).fetchall()

    # ------------------------------------------------------------------ workers

    def join(self, worker: str, hear: Callable[[str], None]) -> None:
        self._listener = Listener(self._doors, worker, hear)

    def leave(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.leave()

    def present(self, workers: Iterable[str]) -> set[str]:
        return {worker for worker in workers if self._doors.is_held(worker)}

    # ------------------------------------------------------------------ forks, and the end

    def after_fork(self) -> None:
        """In a child made by fork: what it inherited is its parent's. A connection of another process may be neither
        used nor closed, and a FIFO that the child holds would hide its parent's death."""
        leak(self._connections.inherited())
        self._connections = Connections(self.target, closed=self._connections.closed)
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.be_forgotten()

    def close(self) -> None:
        self.leave()
        self._connections.close()

    def abandon(self) -> None:
        """For tests: as by kill -9, which rolls back what is open, and lets go of the FIFO without a word."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()
        self._connections.close()


def leak(objects: Iterable[object]) -> None:
    """Never finalize these objects, not even when the process ends."""
    import ctypes

    for each in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
