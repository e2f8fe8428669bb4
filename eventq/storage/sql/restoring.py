"""Events as another store had them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventq.model import State
from eventq.storage.checks import NOTE_OVERHEAD, encode_headers
from eventq.storage.restored import holds_key, key_end, options_of, place_of, restored
from eventq.storage.sql import keys, names, settling
from eventq.storage.sql.edits import REOPEN, reopened
from eventq.storage.sql.rows import History, StoredEvent, as_put, key_data
from eventq.storage.sql.schema import stored
from eventq.storage.sql.settings import MAKE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventq.model import Copy, Name, Note
    from eventq.storage.sql.database import Database
    from eventq.storage.sql.transaction import Run, Transaction

STEP = 500
"""Events that are stored in one transaction, at most: others wait for it."""
NOTE = """INSERT INTO {p}notes (id, number, at, kind, data) VALUES (:id, :number, :at, :kind, :data)
    ON CONFLICT (id, number) DO NOTHING"""


def restore(run: Run, database: Database, copies: Sequence[Copy], taken: Sequence[Name]) -> int:
    """Store copies and names that are not here: how many events were new."""
    for name in taken:
        database.run(lambda cursor, _, name=name: names.restore(cursor, name))  # type: ignore[misc]
    count = 0
    for first in range(0, len(copies), STEP):
        count += run(Part(copies[first : first + STEP]).restore)
    return count


class Part:
    """Some copies, which are stored together."""

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._copies = copies
        self._new: set[str] = set()
        """What the last transaction stored, which may have been committed."""

    def restore(self, tx: Transaction) -> int:
        tx.cursor.serialize("restore")  # or another one stores the same between the look and the store
        before = self._new if tx.again else set()
        known = _known(tx, [copy.record.id for copy in self._copies])
        copies = [copy for copy in self._copies if copy.record.id not in known]
        self._new = known & before | {copy.record.id for copy in copies}
        tx.cursor.many(MAKE, [{"name": name} for name in sorted({stored(copy.record.queue) for copy in copies})])
        events = {copy.record.id: _copied(copy) for copy in copies}
        tx.cursor.many(REOPEN, [reopened(event) for event in events.values() if event.is_open])
        tx.cursor.many(settling.SHELVE, [settling.shelved(event) for event in events.values() if not event.is_open])
        for copy in copies:
            key = events[copy.record.id].key
            if key is not None and holds_key(copy.record, tx.now):
                keys.take(tx, copy.record.queue, key, copy.record.id, key_end(copy.record))
        tx.cursor.many(NOTE, [_noted(copy.record.id, note) for copy in copies for note in copy.notes])
        for queue in sorted({event.queue for event in events.values() if event.state is State.READY}):
            tx.ring(queue)
        return len(self._new)


def _known(tx: Transaction, ids: Sequence[str]) -> set[str]:
    """Which of these events are here, open or over; one that goes from one table to the other meanwhile, too."""
    values = {f"id{number}": id for number, id in enumerate(ids)}
    names = ", ".join(f":{name}" for name in values)
    return {
        row[0]
        for table in ("events", "ended", "events")
        for row in tx.rows(f"SELECT id FROM {{p}}{table} WHERE id IN ({names})", values)
    }


def _noted(id: str, note: Note) -> dict[str, Any]:
    return {"id": id, "number": note.number, "at": note.at, "kind": stored(note.kind), "data": bytes(note.data)}


def _copied(copy: Copy) -> StoredEvent:
    """The event as it is stored anew."""
    record = restored(copy.record)
    put = options_of(record)
    event = StoredEvent((
        record.id, stored(record.queue), str(record.state), record.priority, place_of(record), record.due,
        record.expires, key_data(record.key), "", "", max((note.number for note in copy.notes), default=0),
        sum(NOTE_OVERHEAD + len(bytes(note.data)) for note in copy.notes), 0, record.payload, "", None, None, None, 0,
        record.settled, None, None, record.value,
    ))  # fmt: skip
    event.options = msgspec.structs.replace(as_put(put, encode_headers(put)))
    event.history = History(
        failures=record.failures, crashes=record.crashes, attempts=record.attempts, failure=record.failure,
        codec=record.value_codec,
    )  # fmt: skip
    return event
