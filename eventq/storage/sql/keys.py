"""Who holds a key: of any number of puts that want it one has it, because a key is one row.

Whoever changes an event and its key changes the event first: so two transactions never wait for each other in a circle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq.storage.sql.schema import digest, stored

if TYPE_CHECKING:
    from eventq.storage.sql.database import Cursor, Database
    from eventq.storage.sql.rows import Options, StoredEvent
    from eventq.storage.sql.transaction import Transaction

KEYS_STEP = 1000


def holder(cursor: Cursor | Database, queue: str, key: bytes, now: float) -> str | None:
    """The id that holds a key at this moment."""
    rows = cursor.execute(
        "SELECT id FROM {p}keys WHERE queue = :queue AND digest = :digest AND (ends IS NULL OR ends > :now)",
        {"queue": stored(queue), "digest": digest(key), "now": now},
    )
    return rows[0][0] if rows else None


def end(options: Options, now: float) -> float | None:
    """Until when a key that is taken now is held, if it is for a time."""
    return None if isinstance(options.unique, str) else now + options.unique


def take(tx: Transaction, queue: str, key: bytes, id: str, ends: float | None) -> str:
    """Hold a key for an event, if it is free: who holds it then."""
    values = {"queue": stored(queue), "digest": digest(key), "id": id, "ends": ends, "now": tx.now}
    while True:
        if tx.change(TAKE, values):
            return id
        if (held := holder(tx.cursor, queue, key, tx.now)) is not None:
            return held


TAKE = """INSERT INTO {p}keys AS held (queue, digest, id, ends) VALUES (:queue, :digest, :id, :ends)
    ON CONFLICT (queue, digest) DO UPDATE SET id = :id, ends = :ends WHERE held.ends <= :now"""


def take_again(tx: Transaction, event: StoredEvent) -> None:
    """The event is open again, or came from another queue: so is its key, if nobody has it by now. Not that of a
    debounced one, which the next put would end."""
    if event.key is not None and isinstance(event.options.unique, str) and event.options.since is None:
        take(tx, event.queue, event.key, event.id, None)


def free(tx: Transaction, event: StoredEvent) -> None:
    """Free an event's key, unless it is held for a time (whatever becomes of the event), or by another one."""
    if event.key is not None and isinstance(event.options.unique, str):
        free_key(tx, event.queue, event.key, event.id)


def free_key(tx: Transaction, queue: str, key: bytes, id: str) -> None:
    values = {"queue": stored(queue), "digest": digest(key), "id": id}
    tx.change("DELETE FROM {p}keys WHERE queue = :queue AND digest = :digest AND id = :id AND ends IS NULL", values)


def forget_ended(database: Database, now: float) -> None:
    """Forget keys that were held for a time which is over; some at a time."""
    found = "SELECT queue, digest FROM {p}keys WHERE ends <= :now LIMIT :step"
    rows = database.execute(found, {"now": now, "step": KEYS_STEP})
    if rows:
        gone = "DELETE FROM {p}keys WHERE queue = :queue AND digest = :digest AND ends <= :now"
        values = [{"queue": queue, "digest": name, "now": now} for queue, name in rows]
        database.run(lambda cursor, _: cursor.many(gone, values))
