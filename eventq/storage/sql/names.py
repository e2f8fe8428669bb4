"""Named claims, which outlive who took them, and slots, which do not."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.errors import OutcomeUnknown, StorageClosed
from eventq.model import Name
from eventq.storage.sql.schema import digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventq.storage.sql.database import Cursor, Database, Row

STARTS = 64
"""Bytes of a name by which names are found."""
TAKE = """INSERT INTO {p}names (digest, start, name, worker, at, data)
    VALUES (:digest, :start, :name, :worker, :at, :data) ON CONFLICT (digest) DO NOTHING"""
HELD = "SELECT name, worker, at, data FROM {p}names WHERE digest = :digest"
AS_IT_WAS = " WHERE digest = :digest AND worker = :was_of AND at = :was_at AND data = :was"
REPLACE = "UPDATE {p}names SET worker = :worker, at = :at, data = :data" + AS_IT_WAS
FREE = "DELETE FROM {p}names" + AS_IT_WAS
SOME = "SELECT name, worker, at, data FROM {p}names WHERE digest IN "
STEP = 200
LISTED = "SELECT name, worker, at, data FROM {p}names WHERE start >= :start"


def bytes_of(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _as_name(row: Row) -> Name:
    return Name(bytes(row[0]).decode("utf-8", "surrogatepass"), row[1], row[2], msgspec.Raw(bytes(row[3])))


class Take:
    """One take of a name, which has one answer, however often its transaction is repeated."""

    def __init__(self, name: str, worker: str, at: float, data: bytes) -> None:
        whole = bytes_of(name)
        self._values: dict[str, Any] = {
            "digest": digest(name), "start": whole[:STARTS], "name": whole, "worker": worker, "at": at, "data": data,
        }  # fmt: skip
        self._mine = False

    def go(self, database: Database) -> tuple[Name, bool]:
        """Who holds the name then, and whether it is this call."""
        return database.run(self._run)

    def _run(self, cursor: Cursor, again: bool) -> tuple[Name, bool]:
        while True:
            taken = cursor.change(TAKE, self._values) == 1
            rows = cursor.execute(HELD, {"digest": self._values["digest"]})
            if rows:  # else it was just released
                held = _as_name(rows[0])
                same = (held.worker, held.at) == (self._values["worker"], self._values["at"])
                self._mine = taken or (again and self._mine and same)
                return held, self._mine


def restore(cursor: Cursor, name: Name) -> None:
    """Take a name for who had it in another store, if it is free."""
    whole = bytes_of(name.name)
    cursor.change(TAKE, {
        "digest": digest(name.name), "start": whole[:STARTS], "name": whole, "worker": name.worker, "at": name.at,
        "data": bytes(name.data),
    })  # fmt: skip


def held_names(database: Database, names: Sequence[str]) -> dict[str, Name]:
    """Those of these names that are taken."""
    found: dict[str, Name] = {}
    for first in range(0, len(names), STEP):
        values = {f"digest{number}": digest(name) for number, name in enumerate(names[first : first + STEP])}
        rows = database.execute(SOME + "(" + ", ".join(f":{each}" for each in values) + ")", values)
        found.update((name.name, name) for name in map(_as_name, rows))
    return found


def listed(database: Database, prefix: str) -> list[Name]:
    start = bytes_of(prefix)[:STARTS]
    above = _above(start)
    upper = " AND start < :above" if above else ""
    rows = database.execute(LISTED + upper, {"start": start, **({"above": above} if above else {})})
    names = (_as_name(row) for row in rows)
    return sorted((name for name in names if name.name.startswith(prefix)), key=lambda name: name.name)


def _above(start: bytes) -> bytes:
    """The first bytes after all that begin so; empty if there are none."""
    start = start.rstrip(b"\xff")
    return start[:-1] + bytes((start[-1] + 1,)) if start else b""


class Replace:
    """One change of what a name says, or its release, which has one answer, however often its transaction is
    repeated."""

    def __init__(self, held: Name, worker: str, at: float, data: bytes | None) -> None:
        was = {"digest": digest(held.name), "was_of": held.worker, "was_at": held.at, "was": bytes(held.data)}
        self._name = held.name
        self._by = None if data is None else {"worker": worker, "at": at, "data": bytes(data)}
        self._values = {**was, **(self._by or {})}
        self._done = False

    def go(self, database: Database) -> bool:
        """Whether the name said what it was to say before. Raises OutcomeUnknown if others have changed it since it was
        changed here, and that may have been in vain."""
        return database.run(self.run)

    def run(self, cursor: Cursor, again: bool) -> bool:
        before = again and self._done
        self._done = cursor.change(FREE if self._by is None else REPLACE, self._values) == 1
        if before and not self._done:
            rows = cursor.execute(HELD, {"digest": self._values["digest"]})
            by = None if not rows else {"worker": rows[0][1], "at": rows[0][2], "data": bytes(rows[0][3])}
            if by != self._by:
                raise OutcomeUnknown(f"the name {self._name!r} was changed by others while the answer was lost: look")
            self._done = True
        return self._done


class Release:
    """One release of a name, which has one answer, however often its transaction is repeated."""

    def __init__(self, name: str) -> None:
        self._values = {"digest": digest(name)}
        self._was_taken = False

    def go(self, database: Database) -> bool:
        """Whether it was taken."""
        return database.run(self._run)

    def _run(self, cursor: Cursor, again: bool) -> bool:
        released = cursor.change("DELETE FROM {p}names WHERE digest = :digest", self._values) == 1
        self._was_taken = released or (again and self._was_taken)
        return self._was_taken


# ---------------------------------------------------------------- slots


class SQLSlot:
    """One place of a semaphore: a row, until it is released or its worker is dead."""

    def __init__(self, database: Database, values: dict[str, Any]) -> None:
        self._database = database
        self._values = values
        self._pid = os.getpid()

    def release(self) -> None:
        """Give it up; harmless when repeated, in a forked child, and after the storage was closed."""
        if self._values and os.getpid() == self._pid:
            values, self._values = self._values, {}
            try:
                self._database.run(lambda cursor, _: cursor.change(RELEASE, values))
            except StorageClosed:
                return  # and all its slots were free then


RELEASE = "DELETE FROM {p}slots WHERE digest = :digest AND worker = :worker AND number = :number"
_numbers = itertools.count(1)


def take_slot(database: Database, name: str, limit: int, worker: str) -> SQLSlot | None:
    """Take one of `limit` slots of a name, if one is free."""
    name = digest(name)
    values = {"digest": name, "worker": worker, "number": next(_numbers)}

    def work(cursor: Cursor, again: bool) -> bool:
        cursor.serialize("slot " + name)
        if again and cursor.execute(MINE, values):
            return True
        ((held,),) = cursor.execute("SELECT count(*) FROM {p}slots WHERE digest = :digest", {"digest": name})
        if held >= limit:
            return False
        cursor.change("INSERT INTO {p}slots (digest, worker, number) VALUES (:digest, :worker, :number)", values)
        return True

    return SQLSlot(database, values) if database.run(work) else None


MINE = "SELECT 1 FROM {p}slots WHERE digest = :digest AND worker = :worker AND number = :number"
