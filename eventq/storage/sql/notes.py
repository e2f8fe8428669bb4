"""What the holder of an event says about it while it runs: numbered, bounded, readable at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventq import ids
from eventq.model import Note
from eventq.storage.checks import MAX_NOTES_BYTES, NOTE_OVERHEAD
from eventq.storage.sql.holds import lost
from eventq.storage.sql.schema import named, stored

if TYPE_CHECKING:
    from eventq.storage.sql.database import Database
    from eventq.storage.sql.rows import Held
    from eventq.storage.sql.transaction import Transaction

COUNT = """UPDATE {p}events SET notes = notes + 1, note_bytes = note_bytes + :size, progress = progress + 1
    WHERE id = :id AND state = 'claimed' AND worker = :worker AND token = :number
    RETURNING notes, note_bytes, awaited"""
ADD = "INSERT INTO {p}notes (id, number, at, kind, data) VALUES (:id, :number, :at, :kind, :data)"
READ = "SELECT at, kind, data, number FROM {p}notes WHERE id = :id AND number > :after ORDER BY number"


class Noting:
    """One note, which is there once, however often its transaction is repeated."""

    def __init__(self, held: Held, kind: str, data: bytes) -> None:
        self._held = held
        self._kind = kind
        self._data = data
        self._number = 0
        """Its number, once a transaction has given it one."""

    def run(self, tx: Transaction) -> None:
        id = self._held.claimed.id
        if tx.again and self._number and self._is_there(tx):
            return
        size = NOTE_OVERHEAD + len(self._data)
        values = {"id": id, "worker": self._held.worker, "number": self._held.number, "size": size}
        counted = tx.rows(COUNT, values)
        if not counted:
            raise lost(id)
        self._number, total, awaited = counted[0]
        tx.change(ADD, {
            "id": id, "number": self._number, "at": tx.now, "kind": stored(self._kind), "data": self._data,
        })  # fmt: skip
        if total > MAX_NOTES_BYTES:
            self._give_up_oldest(tx, total)
        if awaited:
            tx.tell_watchers(id, forget=False)

    def _is_there(self, tx: Transaction) -> bool:
        rows = tx.rows(READ, {"id": self._held.claimed.id, "after": self._number - 1})
        return any(row[0] == tx.now and bytes(row[2]) == self._data and row[3] == self._number for row in rows)

    def _give_up_oldest(self, tx: Transaction, total: int) -> None:
        """Beyond the bound the oldest go."""
        id = self._held.claimed.id
        sizes = tx.rows("SELECT number, length(data) FROM {p}notes WHERE id = :id ORDER BY number", {"id": id})
        for number, length in sizes:
            if total <= MAX_NOTES_BYTES:
                break
            total -= NOTE_OVERHEAD + length
            tx.change("DELETE FROM {p}notes WHERE id = :id AND number = :number", {"id": id, "number": number})
        tx.change("UPDATE {p}events SET note_bytes = :total WHERE id = :id", {"id": id, "total": total})


def read(database: Database, id: str, after: int) -> list[Note]:
    """The notes of an event whose number is greater."""
    if not ids.is_event_id(id):
        return []
    rows = database.execute(READ, {"id": id, "after": after})
    return [Note(at, named(kind), msgspec.Raw(bytes(data)), number) for at, kind, data, number in rows]
