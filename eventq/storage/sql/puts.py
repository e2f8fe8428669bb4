"""New events: rows of them, and puts that want a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq import ids
from eventq.model import Dropped, PutOptions, State
from eventq.storage.base import debounced, displaced_by
from eventq.storage.sql import keys, settling
from eventq.storage.sql.rows import NEW, PLAIN, PUT, as_put, group, key_data, text_of
from eventq.storage.sql.schema import digest, stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventq.storage.sql.database import Row
    from eventq.storage.sql.transaction import Transaction

INSERT = (
    f"INSERT INTO {{p}}events ({', '.join(PUT)}) VALUES ({', '.join(f':{name}' for name in PUT)})"
    " ON CONFLICT (id) DO NOTHING"
)


USUAL = PutOptions()
"""What most puts say: nothing."""


def new_rows(
    queue: str, payloads: Sequence[bytes], headers: bytes, options: PutOptions, stem: str, now: float,
    since: float | None = None,
) -> list[Row]:  # fmt: skip
    """Rows of new events, with the columns of `PUT`, and ids from one stem."""
    text, key, needs = "", None, PLAIN
    if since is not None or options != USUAL:
        said = as_put(options, headers, since)
        text, key = text_of(said), key_data(options.key)
        needs = group(said, NEW, key, options.expires)
    delayed = options.due is not None and options.due > now
    place = ids.nanoseconds_of(stem)
    if options.due is not None and (delayed or since is not None):
        place = int(options.due * 1e9)  # a chain whose time is over keeps its place from one put to the next
    state = "delayed" if delayed else "ready"
    name, priority, due, expires = stored(queue), options.priority, options.due, options.expires
    return [
        (ids.event_id(stem, index), name, state, priority, place, due, expires, key, text, needs, bytes(payload))
        for index, payload in enumerate(payloads)
    ]


def insert(tx: Transaction, queue: str, rows: Sequence[Row]) -> None:
    """Store new events; what is there was stored by this very work, before its connection was lost."""
    if tx.again and tx.rows("SELECT 1 FROM {p}events WHERE id = :id", {"id": rows[0][0]}):
        return
    if len(rows) == 1:
        tx.change(INSERT, dict(zip(PUT, rows[0], strict=True)))
    else:
        tx.cursor.many(INSERT, [dict(zip(PUT, row, strict=True)) for row in rows])
    tx.ring(queue)


class NeedsRoom(Exception):
    """A put would add an event to a queue with a `maxsize`, and was not admitted yet."""


class KeyedPut:
    """One put with a key, as part of a transaction: the event that holds the key then, and whether it is this put's
    first."""

    def __init__(
        self, queue: str, payloads: Sequence[bytes], headers: bytes, options: PutOptions, stem: str
    ) -> None:  # fmt: skip
        self._queue = queue
        self._payloads = payloads
        self._headers = headers
        self._options = options
        self._stem = stem
        self._key: bytes = key_data(options.key) or b""
        self._id: str = ids.event_id(stem, 0)

    def run(self, tx: Transaction, has_room: bool) -> tuple[str, bool]:
        """Raises NeedsRoom if it would add an event, and it is not known that it may."""
        if self._options.debounce is not None:
            return self._debounce(tx, has_room)
        held = keys.holder(tx.cursor, self._queue, self._key, tx.now)
        if held is not None:
            return held, held == self._id  # its own: committed before the connection was lost
        if not has_room:
            raise NeedsRoom
        return self._store(tx, self._options, None)

    def _store(self, tx: Transaction, options: PutOptions, since: float | None) -> tuple[str, bool]:
        rows = new_rows(self._queue, self._payloads, self._headers, options, self._stem, tx.now, since)
        said = as_put(options, self._headers, since)
        held = keys.take(tx, self._queue, self._key, self._id, keys.end(said, tx.now))
        if held == self._id:
            insert(tx, self._queue, rows)
        return held, held == self._id

    def _debounce(self, tx: Transaction, has_room: bool) -> tuple[str, bool]:
        # one after the other: each would hold the key, and wait for the event that the other one displaces
        tx.cursor.serialize(f"debounce {digest(stored(self._queue), self._key)}")
        while True:
            held = keys.holder(tx.cursor, self._queue, self._key, tx.now)
            if held == self._id:
                return held, True
            earlier = None if held is None else tx.open_event(held)
            if held is not None and (earlier is None or earlier.options.since is None):
                if earlier is None and keys.holder(tx.cursor, self._queue, self._key, tx.now) != held:
                    continue  # it was just displaced, or ended
                return held, False
            if earlier is not None and earlier.state not in (State.READY, State.DELAYED):
                continue  # it was just started, and has no key any more
            if earlier is None and not has_room:
                raise NeedsRoom
            since = tx.now if earlier is None or earlier.options.since is None else earlier.options.since
            if earlier is not None:
                keys.free(tx, earlier)
            found = self._store(tx, debounced(self._options, tx.now, since), since)
            if earlier is not None and found[1]:
                settling.drop(tx, earlier, Dropped(State.CANCELLED, displaced_by(self._id)))
            if earlier is None and not found[1]:
                continue  # another chain began in this moment
            return found
