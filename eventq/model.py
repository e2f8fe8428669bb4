"""The records that cross every layer: plain data, and what follows from it alone.

Times are seconds since the epoch, durations seconds.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from eventq.clock import aware
from eventq.ids import created_of

T = TypeVar("T")

MAX_SECONDS = 1e10
"""The longest duration, three hundred years: what is longer is a mistake, and infinity cannot be stored."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)]
Count = Annotated[int, msgspec.Meta(ge=0)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
MAX_PLACES = 10_000
"""How many places a name may have at most (`PutOptions.limits`), and a queue (`Settings.concurrency`)."""


class State(enum.StrEnum):
    """Where an event stands. The same words name the folders of a file store and the columns of `eventq status`."""

    READY = "ready"
    """May be claimed now."""
    DELAYED = "delayed"
    """Waits for its time: put with a delay, or between two attempts."""
    CLAIMED = "claimed"
    """One worker has it."""
    COMPLETED = "completed"
    """Done; kept for a while if it has a value."""
    DEAD = "dead"
    """Rejected, or out of attempts: a dead letter, kept with its reason and history until retried or pruned."""
    EXPIRED = "expired"
    """Was not started before its expiry."""
    CANCELLED = "cancelled"
    """Was cancelled before it was done."""


OPEN_STATES = (State.READY, State.DELAYED, State.CLAIMED)
FINAL_STATES = (State.COMPLETED, State.DEAD, State.EXPIRED, State.CANCELLED)


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an attempt failed, as text: nothing here is ever imported or rebuilt into an exception class."""

    type: str
    message: str = ""
    traceback: str = ""


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One start of an event: by whom, when, and how it ended.

    `outcome` is `failed` (raised or retried), `crashed` (its worker died), `released`, `skipped`, `running`, or the
    final state it led to.
    """

    worker: str = ""
    started: float = 0.0
    ended: float | None = None
    outcome: str = "running"
    error: Failure | None = None


class Event(msgspec.Struct, Generic[T], frozen=True):
    """What a handler gets: an immutable event with its decoded payload."""

    id: str
    queue: str
    payload: T
    headers: dict[str, Any]
    priority: int
    attempt: int
    """1 for the first run; failures and crashes count, releases do not."""

    @property
    def created(self) -> datetime:
        """When it was put, by its producer's clock: an aware datetime in UTC."""
        return aware(created_of(self.id))


class PutOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What one put says about its events beyond their payloads; the defaults mean "claimable now, for ever"."""

    codec: str = "json"
    priority: int = 0
    due: float | None = None
    """Not claimable before this instant."""
    expires: float | None = None
    """Not started after this instant: goes to `expired` instead."""
    headers: dict[str, Any] = {}
    key: str | None = None
    """See `unique`. With several payloads it is held for a time."""
    unique: str | float = "open"
    """How long the key is held: `"waiting"` (until first started), `"open"` (until settled), or seconds from now."""
    debounce: float | None = None
    """Only with a key: take the place of the event of an earlier such put that still waits, and wait so many seconds
    (see `Storage.put_key`). Then `due` and `unique` are the storage's to say."""
    debounce_max: float | None = None
    """At most so many seconds after the first put of a chain."""
    max_attempts: int | None = None
    """Beats the queue's setting; likewise the next two."""
    max_crashes: int | None = None
    keep: float | None = None
    limits: dict[str, int] = {}
    """Names, each with a number of places: the event is started only while it holds one of them of each name."""
    rates: dict[str, tuple[int, float]] = {}
    """Names, each with a number and seconds: the event is started only if fewer events of each name were started
    within so many seconds."""


class Claimed(msgspec.Struct, eq=False):
    """One event that this worker has started and nobody else has. The storage's side of a claim."""

    id: str
    queue: str
    payload: bytes
    codec: str
    headers: dict[str, Any]
    priority: int
    failures: int
    """Attempts that ended in a failure so far."""
    crashes: int
    """Attempts whose worker died so far."""
    max_attempts: int | None
    keep: float | None
    token: Any
    """The storage's own: how it finds what it holds."""
    cancelled: bool = False
    """Somebody asked to cancel while it runs; the handler may look and stop."""


# ---- outcomes: how a claim is settled (the stems of the verbs on Claim)


class Completed(msgspec.Struct, frozen=True):
    """Done. With a value (already encoded), the record is kept for `keep` seconds; without one it is gone."""

    value: bytes | None = None
    codec: str = "json"


class Retried(msgspec.Struct, frozen=True):
    """Failed; claimable again after a delay. Counts an attempt."""

    delay: float = 0.0
    failure: Failure | None = None


class Released(msgspec.Struct, frozen=True):
    """Given back untouched. Counts no attempt and keeps its place."""

    delay: float = 0.0


class Skipped(msgspec.Struct, frozen=True):
    """Not for this worker: given back, and not claimed by this worker again. Counts no attempt."""


class Rejected(msgspec.Struct, frozen=True):
    """Failed for good: a dead letter."""

    failure: Failure | None = None


class Dropped(msgspec.Struct, frozen=True):
    """Ends `expired` or `cancelled`, with a reason."""

    state: State
    reason: str = ""


Outcome = Completed | Retried | Released | Skipped | Rejected | Dropped


# ---- what is read without claiming


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line that the holder of an event appended to it: `progress`, `yielded`, `output`, or an own kind."""

    at: float
    kind: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    number: int = 0
    """1 for the first note of the event, and so on over all attempts. Of too many the oldest go: then who reads on
    after number 7 finds a number greater than 8 first."""

    @property
    def value(self) -> Any:
        """The data, decoded."""
        return msgspec.json.decode(self.data)


class Progress(msgspec.Struct, frozen=True):
    """How far a run is, by its own word: so much of a total, which it need not know, and what it says about it."""

    done: float
    total: float | None = None
    note: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything the store knows of one event."""

    id: str
    queue: str
    state: State
    payload: bytes = b"null"
    codec: str = "json"
    headers: dict[str, Any] = {}
    priority: int = 0
    created: float = 0.0
    due: float | None = None
    expires: float | None = None
    key: str | None = None
    worker: str | None = None
    """Who holds it, while claimed."""
    failures: int = 0
    crashes: int = 0
    attempts: tuple[Attempt, ...] = ()
    """The newest 20, oldest first."""
    settled: float | None = None
    value: bytes | None = None
    value_codec: str = "json"
    failure: Failure | None = None
    """Why it is dead, expired or cancelled; or the last failure of an open event."""
    limits: dict[str, int] = {}
    """As it was put: names, and the number of places of each."""
    rates: dict[str, tuple[int, float]] = {}
    """As it was put: names, and how many of each may start within how many seconds."""
    unique: str | float = "open"
    """As it was put, like the next three: see `PutOptions`."""
    max_attempts: int | None = None
    max_crashes: int | None = None
    keep: float | None = None

    @property
    def run_time(self) -> float | None:
        """Seconds that its last attempt took; None if it never began, or has not ended."""
        last = self.attempts[-1] if self.attempts else None
        return None if last is None or last.ended is None else max(0.0, last.ended - last.started)

    @property
    def exit_code(self) -> int | None:
        """How it ended, as a program would say it: 0 completed; 130 aborted (cancelled, or its run took too long);
        1 failed in any other way, or never started in time. None while it is open."""
        if self.state in OPEN_STATES:
            return None
        if self.state is State.COMPLETED:
            return 0
        too_long = self.failure is not None and self.failure.type.rpartition(".")[2] == "TaskTimeout"
        return 130 if self.state is State.CANCELLED or too_long else 1


class Copy(msgspec.Struct, frozen=True):
    """An event with its notes, as one store hands it to another: see `Storage.restore`."""

    record: Record
    notes: tuple[Note, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """One page of a scan, in id order, and where the next one begins (None: this was the last)."""

    records: tuple[Record, ...]
    cursor: str | None = None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which records a scan wants; None is no restriction."""

    created_from: float | None = None
    created_to: float | None = None
    headers: dict[str, Any] = {}
    """Each given header must be there with an equal value."""
    worker: str | None = None
    """Held by, or last attempted by, this worker."""
    settled_from: float | None = None
    settled_to: float | None = None
    run_time_from: float | None = None
    """Its last attempt took at least so many seconds."""
    run_time_to: float | None = None
    """And less than that."""
    exit_code: int | None = None
    """See `Record.exit_code`."""

    def matches(self, record: Record) -> bool:
        """Whether a record passes, whatever state it is in: for storages that do not ask their database."""
        last = record.attempts[-1].worker if record.attempts else None
        return (
            _within(record.created, self.created_from, self.created_to)
            and _within(record.settled, self.settled_from, self.settled_to)
            and _within(record.run_time, self.run_time_from, self.run_time_to)
            and self.worker in (None, record.worker, last)
            and self.exit_code in (None, record.exit_code)
            and all(name in record.headers and record.headers[name] == value for name, value in self.headers.items())
        )


def _within(value: float | None, first: float | None, end: float | None) -> bool:
    if first is None and end is None:
        return True
    return value is not None and (first is None or value >= first) and (end is None or value < end)


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """How many events of a queue stand where, and how long the oldest ready one has waited."""

    ready: int = 0
    delayed: int = 0
    claimed: int = 0
    completed: int = 0
    dead: int = 0
    expired: int = 0
    cancelled: int = 0
    oldest_ready: float | None = None
    """Age in seconds."""


class Worker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A process that has joined a store."""

    id: str
    pid: int = 0
    host: str = ""
    since: float = 0.0
    claims: tuple[str, ...] = ()
    """Ids of the events it has started and not settled."""
    queues: tuple[str, ...] = ()
    """Of which it has claimed something just now, or once, as the storage sees it."""
    serves: tuple[str, ...] = ()
    """The queues that it claims from, by its own word (`Storage.introduce`); empty if it never said."""
    tasks: tuple[str, ...] = ()
    """The names of the tasks that it knows, likewise."""


class Name(msgspec.Struct, frozen=True, omit_defaults=True):
    """A named claim: who took the name first, when, and what it said about it."""

    name: str
    worker: str
    at: float
    data: msgspec.Raw = msgspec.Raw(b"null")


class Settings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A queue's settings, stored with the queue and seen by every process within a quarter of a second.

    The types say what can be: `config.changed` and whoever reads stored settings hold them to it.
    """

    max_attempts: AtLeastOne = 20
    """An event that failed this often is a dead letter."""
    max_crashes: AtLeastOne = 5
    """An event whose worker died this often is a dead letter (`poison`)."""
    retry_delay: Seconds = 1.0
    """Seconds after the first failure; doubles with each further one, with jitter."""
    retry_delay_max: Seconds = 3600.0
    keep: Seconds = 3600.0
    """Seconds a completed event with a value stays readable; 0 keeps none."""
    keep_count: Count | None = None
    """At most so many completed events; never prunes one younger than ten minutes."""
    keep_dead: Seconds = 14 * 86400.0
    """Seconds dead, expired and cancelled events stay; 0 keeps none."""
    keep_dead_count: Count = 10_000
    """At most so many of each; the oldest go first."""
    lease: Annotated[float, msgspec.Meta(gt=0, le=MAX_SECONDS)] | None = None
    """Seconds after which a claim without progress is taken over although its worker lives. None: never."""
    max_bytes: AtLeastOne = 64 << 20
    """The largest payload, in bytes."""
    maxsize: AtLeastOne | None = None
    """A put that would leave more events than this ready or delayed has to wait, or fails. None: no bound."""
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=MAX_PLACES)] | None = None
    """At most so many events run at once, over all processes. Once it is lowered, what runs already goes on."""
    paused: bool = False
    paused_until: float | None = None
    """With `paused`: the instant at which the pause ends by itself."""


class Cancel(msgspec.Struct, frozen=True):
    """Edit: end waiting events as `cancelled`; ask the holder of a claimed one."""

    reason: str = ""
    unstarted: bool = False
    """Only what no worker has started yet: anything else is left alone, and answered with `"too late"`."""


class Requeue(msgspec.Struct, frozen=True):
    """Edit: make dead, expired, cancelled or delayed events ready again, counters reset; put completed ones anew."""


class Move(msgspec.Struct, frozen=True):
    """Edit: put waiting events into another queue."""

    queue: str


class Delete(msgspec.Struct, frozen=True):
    """Edit: remove events and their records for good. Claimed events stay."""


Edit = Cancel | Requeue | Move | Delete
