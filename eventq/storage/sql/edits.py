"""Changing events that are not claimed: cancel, requeue, move, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventq import ids
from eventq.model import Cancel, Delete, Dropped, Edit, Move, Requeue, State
from eventq.storage.sql import keys, settling
from eventq.storage.sql.puts import INSERT
from eventq.storage.sql.rows import NEW, PUT, Options, group, text_of
from eventq.storage.sql.schema import stored

if TYPE_CHECKING:
    from eventq.storage.sql.rows import StoredEvent
    from eventq.storage.sql.transaction import Transaction

UNKNOWN = "unknown"
TOO_LATE = "too late"


class Change:
    """One edit of one event, which has one answer, however often its transaction is repeated."""

    def __init__(self, id: str, edit: Edit, stem: str) -> None:
        self._id = id
        self._edit = edit
        self._stem = stem
        """For a new place, or a new id."""
        self._word = UNKNOWN
        """What the last transaction found, which may have been committed."""

    def run(self, tx: Transaction) -> str:
        """The word of `Storage.edit`."""
        word = change(tx, self._id, self._edit, self._stem)
        if tx.again and word in (UNKNOWN, TOO_LATE):
            word = self._word
        self._word = word
        return word


def change(tx: Transaction, id: str, edit: Edit, stem: str) -> str:
    event = tx.event(id)
    if event is None:
        return UNKNOWN
    waiting = event.state in (State.READY, State.DELAYED)
    match edit:
        case Cancel(unstarted=True) if event.history.attempts or not waiting:
            return TOO_LATE
        case Cancel(reason) if waiting:
            settling.drop(tx, event, Dropped(State.CANCELLED, reason))
            return "cancelled"
        case Cancel() if event.state is State.CLAIMED:
            return _ask(tx, event)
        case Requeue() if event.state is State.COMPLETED:
            return _replay(tx, event, stem)
        case Requeue() if not (event.state is State.CLAIMED or event.state_at(tx.now) is State.READY):
            return _requeue(tx, event, stem)
        case Move(target) if waiting:
            return _move(tx, event, target)
        case Delete() if event.state is not State.CLAIMED:
            return _delete(tx, event)
    return TOO_LATE


def _ask(tx: Transaction, event: StoredEvent) -> str:
    """Its holder learns of it at once, or at its next look."""
    tx.change("UPDATE {p}events SET cancelled = 1 WHERE id = :id", {"id": event.id})
    if event.worker is not None:
        tx.cursor.tell(event.worker, f"cancel {event.id}")
    return "requested"


def _requeue(tx: Transaction, event: StoredEvent, stem: str) -> str:
    """Ready at the end of its queue, as if new but for its id and its history."""
    was_open = event.is_open
    event.place = ids.nanoseconds_of(stem)
    event.due = event.settled = event.value = None
    event.remember(failures=0, crashes=0, failure=None)
    if event.expires is not None and event.expires <= tx.now:
        event.expires = None
    event.state = State.READY
    if was_open:
        settling.save(tx, event)
    else:
        tx.change("DELETE FROM {p}ended WHERE id = :id", {"id": event.id})
        tx.change(REOPEN, reopened(event))
    keys.take_again(tx, event)
    tx.ring(event.queue)
    return event.id


def reopened(event: StoredEvent) -> dict[str, Any]:
    """The values of `REOPEN` for an open event that has a past."""
    return {
        "id": event.id, "queue": stored(event.queue), "state": str(event.state), "priority": event.priority,
        "place": event.place, "due": event.due, "expires": event.expires, "key": event.key,
        "options": text_of(event.options), "needs": event.needs, "payload": event.payload,
        "history": text_of(event.history), "notes": event.notes, "note_bytes": event.note_bytes,
    }  # fmt: skip


_REOPENED = (*PUT, "history", "notes", "note_bytes")
REOPEN = (
    f"INSERT INTO {{p}}events ({', '.join(_REOPENED)}) VALUES ({', '.join(f':{name}' for name in _REOPENED)})"
    " ON CONFLICT (id) DO NOTHING"
)


def _replay(tx: Transaction, event: StoredEvent, stem: str) -> str:
    """A completed event is put anew, with what it was put with."""
    said = event.options
    options = Options(
        codec=said.codec, headers=said.headers, max_attempts=said.max_attempts, max_crashes=said.max_crashes,
        keep=said.keep, limits=said.limits, rates=said.rates,
    )  # fmt: skip
    id = ids.event_id(stem, 0)
    tx.change(INSERT, {
        "id": id, "queue": stored(event.queue), "state": "ready", "priority": event.priority,
        "place": ids.nanoseconds_of(stem), "due": None, "expires": None, "key": None, "options": text_of(options),
        "needs": group(options, NEW, None, None), "payload": event.payload,
    })  # fmt: skip
    tx.ring(event.queue)
    return id


def _move(tx: Transaction, event: StoredEvent, target: str) -> str:
    keys.free(tx, event)
    event.queue = target
    event.state = event.state_at(tx.now)
    settling.save(tx, event)
    keys.take_again(tx, event)
    tx.ring(target)
    return "moved"


def _delete(tx: Transaction, event: StoredEvent) -> str:
    keys.free(tx, event)
    table = "events" if event.is_open else "ended"
    tx.change(f"DELETE FROM {{p}}{table} WHERE id = :id", {"id": event.id})
    settling.forget(tx, event)
    return "deleted"
