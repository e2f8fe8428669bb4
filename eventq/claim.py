"""A claim: the right of one worker to handle one event, and the five ways to end it."""

from __future__ import annotations

import logging
import traceback
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from eventq.codec import JSON, packer
from eventq.config import seconds
from eventq.errors import ClaimLost
from eventq.model import (
    Completed,
    Dropped,
    Event,
    Failure,
    Rejected,
    Released,
    Retried,
    Skipped,
    State,
)
from eventq.retry import after_failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from eventq.aio import AsyncClaim
    from eventq.model import Claimed, Outcome
    from eventq.store import Store

T = TypeVar("T")

log: logging.Logger = logging.getLogger("eventq.claim")

MAX_TRACEBACK = 16 << 10
MAX_MESSAGE = 4 << 10
"""In characters: what is kept of a failure. A long text loses its middle: the two ends say where and why."""

OWN_HEADERS = "eventq."
"""Headers that begin so concern one event alone and are not carried to its follow-ups."""

DONE = Completed()
pack_note: Callable[[Any], bytes] = packer(JSON)

current: ContextVar[Claim[Any] | None] = ContextVar("eventq_claim", default=None)
"""The claim that is being handled here: within `with claim`, in this thread or coroutine."""


class Retry(Exception):
    """Raise it in a handler to have the event run again after `delay` seconds (None: the queue's backoff).

    It counts as a failed attempt: after `max_attempts` of them the event is a dead letter. Not an `EventqError`, so
    that `except EventqError` never swallows an instruction.
    """

    def __init__(self, delay: float | None = None, reason: str = "") -> None:
        super().__init__(delay, reason)
        self.delay: float | None = None if delay is None else seconds("delay", delay)
        self.reason: str = reason

    def __str__(self) -> str:
        return self.reason


class Reject(Exception):
    """Raise it in a handler to give the event up at once: it becomes a dead letter with this reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason: str = reason


class Claim(msgspec.Struct, Generic[T], eq=False):
    """The exclusive right of this process to handle one event, until it is settled.

    As a context manager it settles itself; `with claim as event` and `async with claim as event` do the same:

    - the block returns: completed;
    - it raises an Exception: logged, and retried after a delay; a dead letter once its attempts are used up.
      The exception ends here, so that a loop over `claims()` goes on. `Retry` and `Reject` are obeyed;
    - KeyboardInterrupt, SystemExit, CancelledError, GeneratorExit: released, not counted, and raised on;
    - settled inside the block already: left alone (an exception after that is logged, with its traceback).

    Within the block, events that are put carry on the headers of this one (see `Queue.put`).

    A claim that another worker has taken over (only a queue with a `lease` allows that) cannot be settled any more:
    ClaimLost, also at the end of the block.
    """

    store: Store
    """The opened store that it belongs to."""
    _claimed: Claimed
    _payload: T
    _settled: bool = False
    _event: Event[T] | None = None
    _outer: Claim[Any] | None = None

    @property
    def id(self) -> str:
        """The id of the event."""
        return self._claimed.id

    @property
    def event(self) -> Event[T]:
        """The event, with its decoded payload."""
        event = self._event
        if event is None:
            claimed = self._claimed
            event = self._event = Event(
                claimed.id,
                claimed.queue,
                self._payload,
                claimed.headers,
                claimed.priority,
                claimed.failures + claimed.crashes + 1,
            )
        return event

    @property
    def settled(self) -> bool:
        """Whether it was ended through this object."""
        return self._settled

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel it while it runs. A long handler looks, and calls `cancel()`."""
        return self._claimed.cancelled

    @property
    def aio(self) -> AsyncClaim[T]:
        """The same, awaitable."""
        from eventq.aio import AsyncClaim

        return AsyncClaim(self)

    # ------------------------------------------------------------------ the ends

    def complete(self, value: Any = None) -> None:
        """End it as done. With a value, the event is kept for a while and its handle returns the value.

        None is no value: nothing is kept. Raises PayloadError, and stays claimed, if the value would not come back
        equal; ClaimLost if the claim is settled or lost.
        """
        if value is None:
            self.settle(DONE)
        else:
            codec = self.store.codec
            self.settle(Completed(packer(codec)(value), codec.name))

    def retry(self, delay: float | None = None, error: BaseException | Failure | str | None = None) -> None:
        """End this attempt as failed; the event runs again after `delay` seconds (None: the queue's backoff).

        If that was its last attempt it becomes a dead letter. Raises ClaimLost.
        """
        wait = None if delay is None else seconds("delay", delay)
        self._fail(failure_of(error, "Retry"), wait)

    def release(self) -> None:
        """Give it back untouched: claimable at once in its old place, no attempt counted. Raises ClaimLost."""
        self.settle(Released())

    def reject(self, error: BaseException | Failure | str | None = None) -> None:
        """End it as failed for good: a dead letter, kept until retried or pruned. Raises ClaimLost."""
        failure = failure_of(error, "Reject")
        self.settle(Rejected(failure))
        self._log_dead(failure)

    def skip(self) -> None:
        """Give it back for others, never to this worker again; no attempt counted. Raises ClaimLost."""
        self.settle(Skipped())

    def cancel(self, reason: str = "") -> None:
        """End it as cancelled: what a handler does that has seen `cancelled`. Raises ClaimLost."""
        self.settle(Dropped(State.CANCELLED, reason))

    def settle(self, outcome: Outcome) -> None:
        """End it with an outcome; what the others rest on. After a StorageError it is still claimed: try again.

        Raises ClaimLost if it is settled already or was taken over.
        """
        if self._settled:
            raise ClaimLost(f"event {self._claimed.id} was settled already through this claim")
        self.store.storage.settle(self._claimed, outcome)
        self._settled = True

    # ------------------------------------------------------------------ notes

    def note(self, kind: str, data: Any = None) -> None:
        """Append a line (any JSON value) to the event, which others can read at once. Raises ClaimLost."""
        self.store.storage.note(self._claimed, kind, pack_note(data))

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far it is: a note of the kind `progress`. Raises ClaimLost."""
        self.note("progress", {"done": done, "total": total, "note": note})

    # ------------------------------------------------------------------ as a context manager

    def __enter__(self) -> Event[T]:
        event = self.event
        # The outer claim is kept rather than a token: a generator may be closed in another context than it
        # began in.
        self._outer = current.get()
        current.set(self)
        return event

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        current.set(self._outer)
        if error is None and not self._settled:
            self.store.storage.settle(self._claimed, DONE)
            self._settled = True
            return False
        return self._end(error)

    async def __aenter__(self) -> Event[T]:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        current.set(self._outer)
        if isinstance(error, GeneratorExit):  # a coroutine that is being closed must not await any more
            return self._end(error)
        return await self.store.bridge.call(self._end, error)

    def carried(self) -> dict[str, Any]:
        """The headers that follow-ups of this event get."""
        headers = {name: value for name, value in self._claimed.headers.items() if not name.startswith(OWN_HEADERS)}
        headers.setdefault("correlation_id", self._claimed.id)
        return headers

    def __repr__(self) -> str:
        settled = ", settled" if self._settled else ""
        return f"<Claim of {self._claimed.id} in {self._claimed.queue!r}{settled}>"

    # ------------------------------------------------------------------ how a block ends

    def _end(self, error: BaseException | None) -> bool:
        """Settle as the block ended. True if its exception ends here."""
        if error is not None and not isinstance(error, Exception):
            self._release_on_the_way_out()
            return False
        if self._settled:
            if error is not None:
                log.error("event %s raised after it was settled", self._claimed.id, exc_info=error)
            return error is not None
        if error is None:
            self.settle(DONE)
        elif isinstance(error, Reject):
            self.reject(error)
        else:
            self._fail(failure_of(error), error.delay if isinstance(error, Retry) else None)
        return error is not None

    def _release_on_the_way_out(self) -> None:
        if self._settled:
            return
        try:
            self.release()
        except ClaimLost:  # what is on its way matters more
            log.warning("event %s was lost before it could be released", self._claimed.id)

    def _fail(self, failure: Failure | None, delay: float | None) -> None:
        claimed = self._claimed
        settings = self.store.storage.settings(claimed.queue)
        outcome = after_failure(failure, claimed.failures, claimed.max_attempts, settings, delay)
        self.settle(outcome)
        if isinstance(outcome, Retried):
            log.warning(
                "event %s in %s: attempt %d failed (%s), again in %.1f s",
                *(claimed.id, claimed.queue, claimed.failures + 1, _summary(failure), outcome.delay),
            )
        else:
            self._log_dead(failure)

    def _log_dead(self, failure: Failure | None) -> None:
        claimed = self._claimed
        log.error(
            "event %s in %s is a dead letter after %d failed attempts (%s)",
            *(claimed.id, claimed.queue, claimed.failures + 1, _summary(failure)),
        )


# ---------------------------------------------------------------- failures as text


def failure_of(error: BaseException | Failure | str | None, kind: str = "Error") -> Failure | None:
    """An error as bounded text that any storage can keep; `kind` is the type of one that is only a text."""
    if error is None or isinstance(error, Failure):
        return error
    if isinstance(error, str):
        return Failure(kind, _bounded(error, MAX_MESSAGE)) if error else None
    cls = type(error)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    if isinstance(error, Retry | Reject):
        name = cls.__name__
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - the user's own __str__; the failure must still be kept
        message = f"<its text cannot be had: {type(broken).__name__}>"
    lines = traceback.format_exception(error)
    return Failure(name, _bounded(message, MAX_MESSAGE), _bounded("".join(lines), MAX_TRACEBACK))


def _bounded(text: str, limit: int) -> str:
    # Surrogates (from file names, mostly) cannot be stored as UTF-8, and a failure must always be storable.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= limit:
        return text
    head = limit // 4
    tail = limit - head - 60
    return f"{text[:head]}\n... {len(text) - head - tail} characters left out ...\n{text[-tail:]}"


def _summary(failure: Failure | None) -> str:
    if failure is None:
        return "no reason given"
    return f"{failure.type}: {failure.message}" if failure.message else failure.type
