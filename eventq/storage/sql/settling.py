"""The ends of claims and of events: where an event goes, what goes with it, and who hears of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventq import retry
from eventq.model import Completed, Dropped, Failure, Outcome, Rejected, State
from eventq.storage.endings import CRASHED, Ending, ending
from eventq.storage.sql import keys, limits
from eventq.storage.sql.holds import lost
from eventq.storage.sql.rows import COMMON, ENDED, text_of
from eventq.storage.sql.schema import stored

if TYPE_CHECKING:
    from eventq.model import Claimed, Settings
    from eventq.storage.sql.rows import Held, Options, StoredEvent
    from eventq.storage.sql.transaction import Transaction

KEPT = "kept"
"""The shelf of completed events that have a `keep` of their own, by its end; the others are by their state."""


def shelf(state: State | str, queue: str) -> str:
    """Where retention finds what has ended: one shelf for each rule and queue."""
    return f"{state} {stored(queue)}"


# ---------------------------------------------------------------- claims


def complete(tx: Transaction, id: str, number: int) -> bool:
    """End a claim that nothing else depends on: see `SQLStorage._settle_plain`."""
    gone = tx.rows(COMPLETE, {"id": id, "worker": tx.worker, "number": number})
    if gone and gone[0][0]:
        tx.tell_watchers(id, forget=True)
    return bool(gone) or (tx.again and not tx.rows("SELECT 1 FROM {p}events WHERE id = :id", {"id": id}))


COMPLETE = """DELETE FROM {p}events WHERE id = :id AND state = 'claimed' AND worker = :worker AND token = :number
    RETURNING awaited"""


def settle(tx: Transaction, claimed: Claimed, held: Held, outcome: Outcome) -> None:
    """End a claim as its holder says. Raises ClaimLost."""
    event = tx.open_event(claimed.id)
    if event is None or not is_held(event, held):
        if tx.again and _was_settled(tx, held):
            return
        raise lost(claimed.id)
    end = ending(outcome, tx.now)
    if isinstance(outcome, Completed):
        event.value = outcome.value
        event.remember(codec=outcome.codec)
        event.options = _kept(event, claimed.keep)
    conclude(tx, event, end)


def _kept(event: StoredEvent, keep: float | None) -> Options:
    """Its options, with what its last holder said of how long it is kept."""
    return event.options if event.options.keep == keep else msgspec.structs.replace(event.options, keep=keep)


def is_held(event: StoredEvent, held: Held) -> bool:
    return event.state is State.CLAIMED and event.worker == held.worker and event.token == held.number


def _was_settled(tx: Transaction, held: Held) -> bool:
    """Whether this very claim has ended: as the last attempt of the event, or with all that is known of it."""
    event = tx.event(held.claimed.id)
    if event is None:
        return True
    return any(
        attempt.worker == held.worker and attempt.started == held.started and attempt.outcome != CRASHED.word
        for attempt in event.history.attempts
    )


def conclude(tx: Transaction, event: StoredEvent, end: Ending) -> None:
    """A claim ends; the event is open again, or over."""
    history = event.history
    if end.failed:
        event.remember(failures=history.failures + 1)
    if end is CRASHED:
        event.remember(crashes=history.crashes + 1)
    if end.skipped and event.worker is not None:
        event.remember(skippers=tuple(sorted({*history.skippers, event.worker})))
    if not end.is_open:
        finish(tx, event, end.state, end.error)
        return
    if end.failed:
        event.remember(failure=end.error)
    event.end_attempt(tx.now, end.word, end.error)
    event.state = end.state
    if end.due is not None:
        event.due, event.place = end.due, int(end.due * 1e9)
    limits.free(tx, event)
    save(tx, event)
    tx.ring(event.queue, everybody=end.skipped)


def crash(tx: Transaction, event: StoredEvent) -> None:
    """The holder died, or outlived its lease."""
    conclude(tx, event, CRASHED)


# ---------------------------------------------------------------- events


def save(tx: Transaction, event: StoredEvent) -> None:
    """An open event as it is now; nobody holds it."""
    tx.change(SAVE, {
        "id": event.id, "queue": stored(event.queue), "state": str(event.state), "place": event.place,
        "due": event.due, "expires": event.expires, "options": text_of(event.options),
        "history": text_of(event.history), "needs": event.needs,
    })  # fmt: skip


SAVE = """UPDATE {p}events SET queue = :queue, state = :state, place = :place, due = :due, expires = :expires,
    options = :options, history = :history, needs = :needs, worker = NULL, token = NULL, started = NULL, cancelled = 0
    WHERE id = :id"""


def must_not_start(tx: Transaction, event: StoredEvent) -> bool:
    """Whether an event is past starting; then it has ended here."""
    settings, options = tx.settings(event.queue), event.options
    verdict = retry.before_start(tx.now, event.expires, event.history.crashes, options.max_crashes, settings)
    if isinstance(verdict, Dropped):
        drop(tx, event, verdict)
    elif isinstance(verdict, Rejected):
        finish(tx, event, State.DEAD, verdict.failure)
    return verdict is not None


def drop(tx: Transaction, event: StoredEvent, outcome: Dropped) -> None:
    finish(tx, event, outcome.state, Failure(str(outcome.state), outcome.reason))


def finish(tx: Transaction, event: StoredEvent, state: State, failure: Failure | None) -> None:
    """An open event is over; its record stays if it is one to keep."""
    if event.state is State.CLAIMED:
        limits.free(tx, event)
    event.end_attempt(tx.now, str(state), failure)
    event.remember(failure=None if state is State.COMPLETED else failure or event.history.failure)
    event.state, event.settled = state, tx.now
    keys.free(tx, event)
    settings = tx.settings(event.queue)
    tx.change("DELETE FROM {p}events WHERE id = :id", {"id": event.id})
    if (state is State.COMPLETED and event.value is None) or keep_of(event, settings) <= 0:
        forget(tx, event)
    else:
        tx.change(SHELVE, shelved(event))
        tell_end(tx, event)


def keep_of(event: StoredEvent, settings: Settings) -> float:
    """Seconds that a record stays; an event's own `keep` beats the queue's."""
    if event.state is not State.COMPLETED:
        return settings.keep_dead
    return settings.keep if event.options.keep is None else event.options.keep


def shelved(event: StoredEvent) -> dict[str, Any]:
    """The values of `SHELVE` for an event that is over, and whose record is kept."""
    assert event.settled is not None
    own = event.options.keep if event.state is State.COMPLETED else None
    return {
        "id": event.id, "queue": stored(event.queue), "state": str(event.state), "priority": event.priority,
        "place": event.place, "due": event.due, "expires": event.expires, "key": event.key,
        "options": text_of(event.options), "history": text_of(event.history), "notes": event.notes,
        "note_bytes": event.note_bytes, "awaited": 0, "payload": event.payload, "settled": event.settled,
        "shelf": shelf(event.state if own is None else KEPT, event.queue),
        "lapses": event.settled + (own or 0.0), "value": event.value,
    }  # fmt: skip


SHELVE = (
    f"INSERT INTO {{p}}ended ({', '.join((*COMMON, *ENDED))})"
    f" VALUES ({', '.join(f':{name}' for name in (*COMMON, *ENDED))}) ON CONFLICT (id) DO NOTHING"
)


def forget(tx: Transaction, event: StoredEvent) -> None:
    """An event whose row is gone leaves no trace."""
    if event.notes:
        tx.delete_notes([event.id])
    tell_end(tx, event)


def tell_end(tx: Transaction, event: StoredEvent) -> None:
    if event.awaited:
        tx.tell_watchers(event.id, forget=True)
