"""A handle: the waiter's side of an event."""

from __future__ import annotations

import logging
import math
import select
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from eventq.clock import SYSTEM
from eventq.config import patience
from eventq.errors import (
    EventqError,
    ResultMissing,
    ResultTimeout,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    UnknownEvent,
)
from eventq.ids import is_event_id
from eventq.inbox import addressee_of, is_serving, why_gone
from eventq.model import FINAL_STATES, Cancel, Note, Progress, State

if TYPE_CHECKING:
    from eventq.aio import AsyncHandle
    from eventq.model import Record
    from eventq.store import Store

R = TypeVar("R")

log: logging.Logger = logging.getLogger("eventq.handle")

WARN_AFTER = 3.0
"""Seconds of waiting after which the log says that no worker is there."""


class Handle(Generic[R]):
    """What became of an event, by its id: ask, or wait for it. Any process may, any number of times.

    Waiting is woken when the event ends, and looks four times a second besides, so that no lost wake and no dead worker
    can make it hang. If no live worker claims from the queue, the log says so once, after three seconds; what is for
    one worker alone (`task.using(worker=...)`) is cancelled then, if that has gone.
    """

    __slots__ = ("_type", "id", "store")

    def __init__(self, store: Store, id: str, type: Any = Any) -> None:
        if not is_event_id(id):
            raise UnknownEvent(f"{id!r} is not the id of an event; put() returns one")
        self.store: Store = store
        """The opened store that it belongs to."""
        self._type = type
        self.id: str = id
        """The id of the event."""

    @property
    def aio(self) -> AsyncHandle[R]:
        """The same, awaitable."""
        from eventq.aio import AsyncHandle

        return AsyncHandle(self, self._value)

    def result(self, timeout: float | None = None) -> R:
        """The value the event was completed with, which may be None; waits for it.

        Raises what became of it otherwise: TaskFailed (with the remote traceback), TaskCancelled, TaskExpired;
        ResultMissing if it ended and no value is kept; ResultTimeout if it has not ended after `timeout` seconds.
        """
        return self._value(self._wait(timeout), timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event has ended, however; False if it has not after `timeout` seconds."""
        return ended(self._wait(timeout), self.store)

    def ready(self) -> bool:
        """Whether the event has ended, however. Never waits."""
        return ended(self.store.storage.get(self.id), self.store)

    def status(self) -> State | None:
        """Where the event stands; None if there is no record of it (any more).

        A completed event without a value leaves no record, and neither does one whose time to be kept is over.
        """
        record = self.store.storage.get(self.id)
        if record is None:
            return None
        return State.EXPIRED if overdue(record, self.store) else record.state

    def exception(self) -> EventqError | None:
        """The error that `result` would raise now; None if there is a value, or the event has not ended."""
        record = self.store.storage.get(self.id)
        return why_no_value(self.id, record, self.store) if ended(record, self.store) else None

    def cancel(self, reason: str = "") -> str:
        """Cancel the event: `"cancelled"`, `"requested"` (it runs, its worker was asked) or `"too late"`.

        `"unknown"` means that there is no record of it (any more). See `App.cancel` for runs of workflows.
        """
        return self.store.cancel(None, [self.id], reason)[0]

    def notes(self, after: int = 0) -> list[Note]:
        """What its handler noted so far (progress and the like), in order, from all attempts.

        Only those whose `Note.number` is greater than `after`: give the number of the last note that you have read. Of
        too many the oldest are not kept; then the first number is greater than `after + 1`.
        """
        return self.store.storage.notes(self.id, after)

    def progress(self) -> Progress | None:
        """How far its handler said it is, last; None if it said nothing. The claim's side is `claim.progress`."""
        said = [note for note in self.notes() if note.kind == "progress"]
        return msgspec.convert(said[-1].value, Progress) if said else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and (self.id, self.store) == (other.id, other.store)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Handle of {self.id}>"

    def _value(self, record: Record | None, timeout: float | None) -> R:
        if record is not None and not ended(record, self.store):
            raise ResultTimeout(f"event {self.id} is still {record.state} after {timeout} s; it goes on, ask again")
        error = why_no_value(self.id, record, self.store)
        if error is not None:
            raise error
        assert record is not None
        assert record.value is not None
        value: R = self.store.load(record.value, record.value_codec, self._type)
        return value

    def _wait(self, timeout: float | None) -> Record | None:
        """The record when the event has ended or the time is over. Coroutines wait in `AsyncHandle`."""
        patient = Patience(self.store, self.id, timeout)
        record, pause = patient.look()
        if pause <= 0:
            return record
        watch = self.store.storage.watch(id=self.id)  # before the next look, or an end in between wakes nobody
        try:
            poller = select.poll()
            poller.register(watch.fileno(), select.POLLIN)
            while True:
                record, pause = patient.look()
                if pause <= 0:
                    return record
                if poller.poll(math.ceil(pause * 1000)):
                    watch.clear()
        finally:
            watch.close()


class Patience:
    """One wait for one event: when to look again, when to stop, when to say that nobody is there."""

    __slots__ = ("_deadline", "_id", "_store", "_warn_at")

    def __init__(self, store: Store, id: str, timeout: float | None) -> None:
        wait = patience(timeout)
        now = SYSTEM.monotonic()
        self._store = store
        self._id = id
        self._deadline = math.inf if wait is None else now + wait
        self._warn_at = now + WARN_AFTER

    def look(self) -> tuple[Record | None, float]:
        """The record, and the seconds until the next look: 0 if the event has ended or the time is over."""
        store = self._store
        record = store.storage.get(self._id)
        now = SYSTEM.monotonic()
        if record is None or ended(record, store) or now >= self._deadline:
            return record, 0.0
        if now >= self._warn_at:
            addressee = addressee_of(record.queue)
            self._warn_at = math.inf if addressee is None else now + WARN_AFTER
            if addressee is not None:
                self._cancel_if_gone(record, addressee)
            else:
                self._warn(record)
        pause = min(store.storage.recover(), self._deadline - now)
        if record.expires is not None and record.state is not State.CLAIMED:
            pause = min(pause, record.expires - store.clock.now())
        return record, max(pause, 0.001)

    def _cancel_if_gone(self, record: Record, worker: str) -> None:
        """Nobody else may be there to say that the only worker that could run it has gone."""
        storage = self._store.storage
        if record.state is not State.CLAIMED and not is_serving(storage, worker):
            storage.edit(record.queue, [self._id], Cancel(why_gone(worker)))

    def _warn(self, record: Record) -> None:
        storage = self._store.storage
        if record.state is State.CLAIMED:
            return
        for worker in storage.workers():
            if record.queue in worker.queues or record.queue in worker.serves:
                return
            # One that has neither said nor shown what it claims from may be about to; this process itself only waits.
            if not (worker.queues or worker.serves) and worker.id != storage.worker:
                return
        log.warning(
            "waiting for event %s, but no live worker claims from %r; start one, or claim there",
            *(record.id, record.queue),
        )


# ---------------------------------------------------------------- what a record means to a waiter


def overdue(record: Record, store: Store) -> bool:
    """Whether it has expired, though no worker has come by to say so: after its expiry nothing is started."""
    waits = record.state in (State.READY, State.DELAYED)
    return waits and record.expires is not None and store.clock.now() >= record.expires


def ended(record: Record | None, store: Store) -> bool:
    """Whether nothing can happen to the event any more; no record is an end, too."""
    return record is None or record.state in FINAL_STATES or overdue(record, store)


def why_no_value(id: str, record: Record | None, store: Store) -> EventqError | None:
    """Why an event that has ended has no value; None if it has one."""
    if record is None:
        return ResultMissing(
            f"there is no record of event {id}: it was completed without a value, its time to be kept is "
            "over, or it was deleted"
        )
    if record.state is State.EXPIRED or overdue(record, store):
        return TaskExpired(f"event {id} expired before a worker started it")
    if record.state is State.CANCELLED:
        reason = record.failure.message if record.failure is not None else ""
        return TaskCancelled(f"event {id} was cancelled{': ' + reason if reason else ''}")
    if record.state is State.DEAD:
        return TaskFailed(id, record.failure)
    if record.value is None:
        return ResultMissing(f"event {id} was completed without a value")
    return None
