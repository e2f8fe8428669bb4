"""Puts in a transaction of the caller's: by its own connection, if that leads to the same database."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.numeric import Int8BinaryDumper

from eventq.storage.sql.database import NOTHING
from eventq.storage.sql.postgresql.database import PostgreSQLCursor
from eventq.storage.sql.postgresql.errors import failure
from eventq.storage.sql.postgresql.listener import INCARNATION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventq.storage.sql.database import Cursor, Row
    from eventq.storage.sql.postgresql.database import PostgreSQLDatabase

WHERE = f"{INCARNATION}, (SELECT oid::bigint FROM pg_database WHERE datname = current_database())"
"""The server, and the database there."""


def cursor_within(connection: object, database: PostgreSQLDatabase) -> Cursor:
    """A cursor in the transaction that a connection of the caller's has open, or begins with the first statement.

    SQLAlchemy's Connection serves as well, if its driver is psycopg. Raises TypeError for anything else, and for a
    connection to another database.
    """
    connection = driver_connection(connection)
    if isinstance(connection, psycopg.AsyncConnection):
        raise TypeError(
            "connection= takes a psycopg.Connection, not an AsyncConnection, whose statements must be awaited; "
            "put with a Connection in a thread, or without connection="
        )
    if not isinstance(connection, psycopg.Connection):
        raise TypeError(f"connection= takes a psycopg.Connection, not a {type(connection).__name__}")
    cursor = connection.cursor(row_factory=tuple_row, binary=True)
    cursor.adapters.register_dumper(int, Int8BinaryDumper)
    theirs = CallersCursor(connection, cursor, database)
    if theirs.execute(WHERE) != database.execute(WHERE):
        raise TypeError(
            f"this connection leads to another database than the store, {database.shown}: "
            "what they change cannot be one transaction"
        )
    return theirs


class CallersCursor(PostgreSQLCursor):
    """The caller's transaction. Nothing is repeated: an error ends it, and is his."""

    def __init__(
        self, connection: psycopg.Connection[Any], cursor: psycopg.Cursor[Any], database: PostgreSQLDatabase
    ) -> None:
        super().__init__(cursor, database.dialect, database.namespace)
        self._connection = connection
        self._database = database

    def whole(self) -> contextlib.AbstractContextManager[object]:
        """A connection in autocommit, without an open transaction, gets one for each put."""
        if self._connection.autocommit and self._connection.info.transaction_status == TransactionStatus.IDLE:
            return self._connection.transaction()
        return contextlib.nullcontext()

    def execute(self, statement: str, values: Mapping[str, Any] = NOTHING) -> list[Row]:
        with self._told():
            return super().execute(statement, values)

    def change(self, statement: str, values: Mapping[str, Any] = NOTHING) -> int:
        with self._told():
            return super().change(statement, values)

    def many(self, statement: str, values: Sequence[Mapping[str, Any]]) -> None:
        with self._told():
            super().many(statement, values)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise failure(error, self._database.shown, self._database.namespace) from error


def driver_connection(connection: object) -> object:
    """What SQLAlchemy's Connection is made of; any other as it is."""
    return getattr(getattr(connection, "connection", None), "driver_connection", connection)
