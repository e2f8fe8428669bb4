"""What a copied event is where it is restored, whatever stores it there: see `Storage.restore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventq.errors import PayloadError
from eventq.ids import created_of, is_event_id, nanoseconds_of
from eventq.model import FINAL_STATES, OPEN_STATES, PutOptions, Record, State
from eventq.storage.base import MAX_PUT_EVENTS
from eventq.storage.checks import check_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventq.model import Copy


def check_copies(copies: Sequence[Copy]) -> None:
    """Refuse what no store has. Raises PayloadError for too many, ValueError for what is no event's id, ConfigError for
    what cannot be a queue's name; nothing is stored then."""
    if len(copies) > MAX_PUT_EVENTS:
        raise PayloadError(f"{len(copies)} events to restore at once; at most {MAX_PUT_EVENTS}")
    for copy in copies:
        if not is_event_id(copy.record.id):
            raise ValueError(f"{copy.record.id!r} is no event's id: only what a store has can be restored")
        check_name(copy.record.queue)


def restored(record: Record) -> Record:
    """An event as it is stored anew: one that was claimed is ready again, without the attempt that was running, and
    one that has ended did so at a known time."""
    if record.state in FINAL_STATES:
        return record if record.settled is not None else msgspec.structs.replace(record, settled=created_of(record.id))
    attempts = record.attempts
    if attempts and attempts[-1].outcome == "running":
        attempts = attempts[:-1]
    state = State.DELAYED if record.state is State.DELAYED and record.due is not None else State.READY
    return msgspec.structs.replace(record, state=state, worker=None, attempts=attempts, settled=None)


def place_of(record: Record) -> int:
    """Where an event stands in the order: nanoseconds, as its id says, or its due time if that was later."""
    return max(nanoseconds_of(record.id), int((record.due or 0.0) * 1e9))


def options_of(record: Record) -> PutOptions:
    """What was said of an event when it was put, as far as its record knows."""
    return PutOptions(
        codec=record.codec, priority=record.priority, due=record.due, expires=record.expires, headers=record.headers,
        key=record.key, unique=record.unique, max_attempts=record.max_attempts, max_crashes=record.max_crashes,
        keep=record.keep, limits=record.limits, rates=record.rates,
    )  # fmt: skip


def key_end(record: Record) -> float | None:
    """When the time is over for which an event's key is held; None if it is not held for a time."""
    return None if isinstance(record.unique, str) else created_of(record.id) + record.unique


def holds_key(record: Record, now: float) -> bool:
    """Whether a copied event (as it was in its store, so before `restored`) still has its key.

    A key that is held until the first start is free once there was one; by a record it cannot be told whether the
    event was requeued since.
    """
    if record.key is None:
        return False
    end = key_end(record)
    if end is not None:
        return now < end
    return record.state in OPEN_STATES and not (record.unique == "waiting" and record.attempts)
