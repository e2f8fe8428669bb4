"""What SQLite's errors mean for who uses the store."""

from __future__ import annotations

import sqlite3

from eventq.errors import StorageError

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: make room; nothing was changed",
    sqlite3.SQLITE_READONLY: "it cannot be written: look at the permissions of the file and of its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: look at the permissions, and whether the folder exists",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore a copy, or save what can be read with sqlite3's .recover",
    sqlite3.SQLITE_NOTADB: "this is no SQLite database",
    sqlite3.SQLITE_IOERR: "the disk, or the file system, failed",
    sqlite3.SQLITE_BUSY: "another program kept writing for longer than busy_timeout",
    sqlite3.SQLITE_LOCKED: "another program kept writing for longer than busy_timeout",
}


def code_of(error: sqlite3.Error) -> int:
    """The primary result code; 0 if it is not SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else writes at this moment."""
    return code_of(error) in BUSY


def failure(path: str, error: sqlite3.Error) -> StorageError:
    """The same, in words that say what to do."""
    advice = ADVICE.get(code_of(error))
    return StorageError(f"the database {path}: {error}" + (f"; {advice}" if advice else ""))
