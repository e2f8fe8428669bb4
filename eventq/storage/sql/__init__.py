"""Stores in a database: SQLite, by the standard library, and PostgreSQL, by psycopg.

sqlite:///queue.db, sqlite:////srv/queue.db     `sqlite.url` tells what else may be said
postgresql://user:password@host/database        likewise `postgresql.url`

storage.py      SQLStorage: the seam, one worker's view of a store
schema.py       the tables, and their versions
rows.py         how an event stands in a row, and back
puts.py, claims.py, settling.py, edits.py, restoring.py     what changes events, each within one transaction
keys.py, limits.py, names.py, notes.py                      what several events share, or say
ahead.py        what a busy worker fetches before it starts it
presence.py, waking.py, retention.py                        what goes on beside them
database.py     what all this needs of a database; sqlite/ and postgresql/ give it, and say the hot paths their own way
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq.errors import ConfigError
from eventq.storage import load_driver

if TYPE_CHECKING:
    from eventq.storage.sql.database import Database

__all__ = ["migrate"]


def migrate(url: str) -> tuple[int, int]:
    """Make the tables of the store that a URL names, or bring them up to date: their version before and after.

    0 is a database without any. Harmless when repeated; a store of a newer version is left alone. Programs of an older
    version can no longer open the store. Raises ConfigError, StorageError.
    """
    from eventq.storage.sql import schema

    database = _open(url)
    try:
        return schema.migrate(database)
    finally:
        database.close()


def _open(url: str) -> Database:
    """The database that a URL names; each driver is imported only then."""
    scheme = url.partition("://")[0]
    if scheme == "sqlite":
        from eventq.storage.sql.sqlite.database import SQLiteDatabase
        from eventq.storage.sql.sqlite.url import target as file

        return SQLiteDatabase(file(url))
    if scheme in ("postgresql", "postgres"):
        load_driver("psycopg", "sql", f"{scheme}://")
        from eventq.storage.sql.postgresql.database import PostgreSQLDatabase
        from eventq.storage.sql.postgresql.url import target as server

        return PostgreSQLDatabase(server(url))
    raise ConfigError(f"{scheme}:// is no database with tables: migrate sqlite:// and postgresql://")
