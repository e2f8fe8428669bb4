"""What a store in PostgreSQL is compared with: a queue in one table, as a careful programmer writes it with psycopg.

Autocommit, each statement prepared; claim is `UPDATE .. RETURNING` over `FOR UPDATE SKIP LOCKED` with a partial index
on what is ready, settle is `DELETE`. Nothing here gives a dead claimer's rows back, retries, or wakes anybody.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from benchmarks import postgresql_server
from benchmarks.systems.base import System

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TABLE = """CREATE TABLE event
    (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, claimed boolean NOT NULL DEFAULT false, payload text NOT NULL);
    CREATE INDEX event_ready ON event (id) WHERE NOT claimed"""
PUT = "INSERT INTO event (payload) VALUES (%s)"
CLAIM = """UPDATE event SET claimed = true
    WHERE id = (SELECT id FROM event WHERE NOT claimed ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id, payload"""
SETTLE = "DELETE FROM event WHERE id = %s"


class PostgresqlTable(postgresql_server.OnPostgresql, System):
    name = "postgresql-table"
    family = "PostgreSQL"
    note = "a table by hand, psycopg, Unix socket, synchronous_commit=on"
    modes = frozenset({"postgresql"})
    requires = "psycopg"
    imports = "import psycopg"

    def __init__(self, folder: Path) -> None:
        psycopg = importlib.import_module("psycopg")
        self.connection = psycopg.connect(postgresql_server.url(folder), autocommit=True, prepare_threshold=0)

    @classmethod
    def furnish(cls, folder: Path) -> None:
        with importlib.import_module("psycopg").connect(postgresql_server.url(folder)) as connection:
            connection.execute(TABLE)

    def put(self, payload: Any) -> None:
        self.connection.execute(PUT, (payload,))

    def put_many(self, payloads: Sequence[Any]) -> None:
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(PUT, [(payload,) for payload in payloads])

    def take(self) -> tuple[Any, Any] | None:
        row: tuple[Any, Any] | None = self.connection.execute(CLAIM).fetchone()
        return row

    def settle(self, token: Any) -> None:
        self.connection.execute(SETTLE, (token,))

    def close(self) -> None:
        self.connection.close()

    @classmethod
    def version(cls) -> str:
        return f"{postgresql_server.version()} with psycopg {super().version()}"


class PostgresqlTableOff(PostgresqlTable):
    name = "postgresql-table-off"
    note = "the same, synchronous_commit=off"
    modes = frozenset({"postgresql-off"})
    server_settings = ("synchronous_commit=off",)
