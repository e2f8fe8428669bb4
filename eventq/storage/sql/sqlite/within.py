"""Puts in a transaction of the caller's: by its own connection, if that leads to the same file."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eventq.storage.sql.database import NOTHING, Cursor
from eventq.storage.sql.sqlite.errors import failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventq.storage.sql.database import Row
    from eventq.storage.sql.sqlite.database import SQLiteDatabase

LEGACY = -1
"""`Connection.autocommit` of a connection that `isolation_level` decides about."""


def cursor_within(connection: object, database: SQLiteDatabase) -> Cursor:
    """A cursor in the transaction that a `sqlite3.Connection` has open, or begins with the first statement that writes.

    Raises TypeError for anything else, and for a connection to another file.
    """
    connection = getattr(connection, "driver_connection", None) or connection
    connection = getattr(getattr(connection, "connection", None), "driver_connection", None) or connection
    if not isinstance(connection, sqlite3.Connection):
        raise TypeError(f"connection= takes a sqlite3.Connection, not a {type(connection).__name__}")
    theirs = CallersCursor(connection, database)
    files = [os.fsdecode(row[2]) for row in theirs.execute("PRAGMA database_list") if os.fsdecode(row[1]) == "main"]
    path = database.target.path
    if not files or not files[0] or os.path.realpath(files[0]) != path:
        raise TypeError(
            f"this connection leads to {files[0] or 'a database in memory'}, and the store is in {path}: "
            "what they change cannot be one transaction"
        )
    return theirs


class CallersCursor(Cursor):
    """The caller's transaction, whatever its connection makes of rows. Nothing is repeated: an error is the caller's.

    What waits for events is not told, for nothing says when the caller commits: it finds them at its next look.
    """

    def __init__(self, connection: sqlite3.Connection, database: SQLiteDatabase) -> None:
        self._connection = connection
        self._database = database

    def _run(self, statement: str, values: Mapping[str, Any]) -> sqlite3.Cursor:
        cursor = self._connection.cursor(sqlite3.Cursor)
        cursor.row_factory = None
        try:
            return cursor.execute(self._database.spell(statement), values)
        except sqlite3.Error as error:
            raise failure(self._database.target.path, error) from error

    def execute(self, statement: str, values: Mapping[str, Any] = NOTHING) -> list[Row]:
        return self._run(statement, values).fetchall()

    def change(self, statement: str, values: Mapping[str, Any] = NOTHING) -> int:
        return self._run(statement, values).rowcount

    def many(self, statement: str, values: Sequence[Mapping[str, Any]]) -> None:
        for each in values:
            self._run(statement, each)

    def serialize(self, name: str) -> None:
        """Whoever writes is alone."""

    def tell(self, worker: str, word: str) -> None:
        """Nobody knows when."""

    def _autocommits(self) -> bool:
        """Whether each statement of this connection is a transaction, unless it begins one itself."""
        said = getattr(self._connection, "autocommit", LEGACY)  # Python 3.12 brought it
        return bool(said) if said != LEGACY else self._connection.isolation_level is None

    @contextmanager
    def whole(self) -> Iterator[None]:
        """In autocommit mode without a transaction, a transaction of its own; in any case all or nothing."""
        own = self._autocommits() and not self._connection.in_transaction
        if not own and not self._connection.in_transaction:
            # as sqlite3 itself before a statement that writes; a savepoint alone would end with a commit
            self._run(f"BEGIN {self._connection.isolation_level or ''}", NOTHING)
        self._run("BEGIN IMMEDIATE" if own else "SAVEPOINT eventq", NOTHING)
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:
                self._run("ROLLBACK" if own else "ROLLBACK TO eventq", NOTHING)
                if not own:
                    self._run("RELEASE eventq", NOTHING)
            raise
        self._run("COMMIT" if own else "RELEASE eventq", NOTHING)
