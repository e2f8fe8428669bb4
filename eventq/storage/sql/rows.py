"""How an event stands in a row, and back."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from eventq import ids
from eventq.errors import PayloadError
from eventq.model import Attempt, Claimed, Failure, PutOptions, Record, State
from eventq.retry import is_suspect
from eventq.storage.endings import remembered
from eventq.storage.sql.schema import digest, named

if TYPE_CHECKING:
    from eventq.storage.sql.database import Row

PUT = ("id", "queue", "state", "priority", "place", "due", "expires", "key", "options", "needs", "payload")
"""The columns of a new event, in the order of a row for `SQLStorage._put_plain`; the others have defaults."""
CLAIM = ("id", "priority", "place", "key", "options", "history", "notes", "payload")
"""The columns of an event that `SQLStorage._claim_plain` returns."""
COMMON = (
    "id", "queue", "state", "priority", "place", "due", "expires", "key", "options", "history", "notes", "note_bytes",
    "awaited", "payload",
)  # fmt: skip
"""The columns that an event has all its life."""
OPEN = ("needs", "worker", "token", "started", "cancelled")
ENDED = ("settled", "shelf", "lapses", "value")

FROM_EVENTS = f"SELECT {', '.join((*COMMON, *OPEN))}, NULL, NULL, NULL, NULL FROM {{p}}events"
FROM_ENDED = f"SELECT {', '.join(COMMON)}, '', NULL, NULL, NULL, 0, {', '.join(ENDED)} FROM {{p}}ended"
"""What `StoredEvent` is made of."""

FETCHED = "state = 'claimed' AND started IS NULL"
"""Of a ready event that a worker has fetched ahead: see `ahead`."""
STARTED = "state = 'claimed' AND started IS NOT NULL"

PLAIN = ""
CAREFUL = "!"
"""What an event needs, as a claim must know it: nothing; to be looked at before it is started (it may have expired, or
crashed its workers, or holds a key until it is started). Then follows a digest, if some workers skipped it."""
NEEDY = "~"
"""And with this before the digest: places, or rates, or both."""


NO_HEADERS = msgspec.Raw(b"{}")


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said when an event was put, but for what the columns say."""

    codec: str = "json"
    headers: msgspec.Raw = NO_HEADERS
    unique: str | float = "open"
    since: float | None = None
    """When the first of the debounced puts came whose last one this is."""
    max_attempts: int | None = None
    max_crashes: int | None = None
    keep: float | None = None
    limits: dict[str, int] = {}
    rates: dict[str, tuple[int, float]] = {}


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an event so far."""

    failures: int = 0
    crashes: int = 0
    attempts: tuple[Attempt, ...] = ()
    failure: Failure | None = None
    skippers: tuple[str, ...] = ()
    """The workers that skipped it, sorted."""
    codec: str = "json"
    """How its value is written."""


DEFAULT = Options()
NEW = History()
_options = msgspec.json.Decoder(Options)
_history = msgspec.json.Decoder(History)
_encode = msgspec.json.Encoder().encode


def options_of(text: str) -> Options:
    return DEFAULT if not text else _shared(text) if len(text) < 1000 else _options.decode(text)


@functools.lru_cache(256)
def _shared(text: str) -> Options:
    """Most events of a queue are put alike."""
    return _options.decode(text)


def headers_of(options: Options) -> dict[str, Any]:
    """Its headers, as nobody else has them."""
    headers: dict[str, Any] = {} if options.headers is NO_HEADERS else msgspec.json.decode(options.headers)
    return headers


def history_of(text: str) -> History:
    return _history.decode(text) if text else NEW


def text_of(struct: Options | History) -> str:
    """As JSON; empty if it says nothing. Raises PayloadError for a text that is not Unicode."""
    try:
        data = _encode(struct)
    except (TypeError, ValueError) as error:
        raise PayloadError(f"cannot be stored as JSON: {error}") from error
    return "" if data == b"{}" else data.decode()


def as_put(options: PutOptions, headers: bytes, since: float | None = None) -> Options:
    """What a put says; its headers are JSON already."""
    return Options(
        codec=options.codec, headers=NO_HEADERS if headers == b"{}" else msgspec.Raw(headers),
        unique=options.unique, since=since, max_attempts=options.max_attempts, max_crashes=options.max_crashes,
        keep=options.keep, limits=dict(options.limits), rates=dict(options.rates),
    )  # fmt: skip


def key_data(key: str | None) -> bytes | None:
    return None if key is None else key.encode("utf-8", "surrogatepass")


def group(options: Options, history: History, key: bytes | None, expires: float | None) -> str:
    """In which group of equal needs an event waits to be claimed: the column `needs`."""
    if options.limits or options.rates:
        mark = NEEDY
    elif history.skippers:
        mark = CAREFUL
    elif expires is not None or history.crashes or _is_poison(options) or _is_freed_at_start(options, key):
        return CAREFUL
    else:
        return PLAIN
    return mark + digest(_encode((sorted(options.limits.items()), sorted(options.rates.items()), history.skippers)))


def _is_freed_at_start(options: Options, key: bytes | None) -> bool:
    return key is not None and options.unique == "waiting"


def _is_poison(options: Options) -> bool:
    return options.max_crashes is not None and options.max_crashes < 1


class StoredEvent:
    """One event, as a transaction has read it and is about to change it."""

    __slots__ = (
        "awaited", "cancelled", "due", "expires", "history", "id", "key", "lapses", "note_bytes", "notes", "options",
        "payload", "place", "priority", "queue", "settled", "shelf", "started", "state", "token", "value", "was",
        "worker",
    )  # fmt: skip

    def __init__(self, row: Row) -> None:
        """From the columns of `FROM_EVENTS` or `FROM_ENDED`."""
        self.id: str = row[0]
        self.queue: str = named(row[1])
        self.state: State = State(row[2])
        self.priority: int = row[3]
        self.place: int = row[4]
        self.due: float | None = row[5]
        self.expires: float | None = row[6]
        self.key: bytes | None = row[7]
        self.options: Options = options_of(row[8])
        self.history: History = history_of(row[9])
        self.notes: int = row[10]
        self.note_bytes: int = row[11]
        self.awaited: bool = bool(row[12])
        self.payload: bytes = row[13]
        self.worker: str | None = row[15]
        self.token: int | None = row[16]
        self.started: float | None = row[17]
        self.cancelled: bool = bool(row[18])
        if self.state is State.CLAIMED and self.started is None:  # somebody has fetched it, which is no claim
            self.state, self.worker, self.token = State.READY, None, None
        self.settled: float | None = row[19]
        self.shelf: str | None = row[20]
        self.lapses: float | None = row[21]
        self.value: bytes | None = row[22]

    @property
    def is_open(self) -> bool:
        return self.settled is None

    @property
    def needs(self) -> str:
        return group(self.options, self.history, self.key, self.expires)

    def end_attempt(self, now: float, outcome: str, error: Failure | None) -> None:
        """It runs no more."""
        if self.worker is not None and self.started is not None:
            attempt = Attempt(self.worker, self.started, now, outcome, error)
            self.remember(attempts=remembered(self.history.attempts, attempt))
        self.worker = self.token = self.started = None
        self.cancelled = False

    def remember(self, **changes: Any) -> None:
        self.history = msgspec.structs.replace(self.history, **changes)

    def state_at(self, now: float) -> State:
        """Where it stands: what is due is ready, also if nobody has looked since."""
        due = self.state is State.DELAYED and self.due is not None and self.due <= now
        return State.READY if due else self.state

    def record(self, now: float) -> Record:
        options, history = self.options, self.history
        attempts = history.attempts
        if self.worker is not None and self.started is not None:
            attempts = remembered(attempts, Attempt(self.worker, self.started))
        return Record(
            id=self.id, queue=self.queue, state=self.state_at(now), payload=self.payload, codec=options.codec,
            headers=headers_of(options), priority=self.priority,
            created=ids.created_of(self.id), due=self.due, expires=self.expires,
            key=None if self.key is None else self.key.decode("utf-8", "surrogatepass"), worker=self.worker,
            failures=history.failures, crashes=history.crashes, attempts=attempts, settled=self.settled,
            value=self.value, value_codec=history.codec, failure=history.failure,
            limits=dict(options.limits), rates=dict(options.rates), unique=options.unique,
            max_attempts=options.max_attempts, max_crashes=options.max_crashes, keep=options.keep,
        )  # fmt: skip

    def held(self, worker: str, number: int, started: float) -> Held:
        """What a worker holds once it has started this."""
        row = (self.id, self.priority, self.place, self.key, self.options, self.history, self.notes, self.payload)
        return as_held(row, self.queue, worker, number, started, bool(self.options.limits))


class Held:
    """One claim of this worker: `Claimed.token`."""

    __slots__ = ("claimed", "noted", "number", "plain", "started", "suspect", "worker")

    def __init__(self, claimed: Claimed, worker: str, number: int, started: float, plain: bool, suspect: bool) -> None:
        self.claimed: Claimed = claimed
        self.worker: str = worker
        self.number: int = number
        """The column `token`."""
        self.started: float = started
        self.plain: bool = plain
        """Whether nothing else depends on its end: no key, no place."""
        self.noted: bool = False
        """Whether it has notes, which go with it."""
        self.suspect: bool = suspect


def as_claimed(row: Row, queue: str, worker: str, number: int, started: float) -> Held:
    """What a worker holds once it has claimed a row with the columns of `CLAIM`, as they are stored."""
    id, priority, place, key, options, history, notes, payload = row
    decoded = (id, priority, place, key, options_of(options), history_of(history), notes, bytes(payload))
    return as_held(decoded, queue, worker, number, started, False)


def as_held(row: Row, queue: str, worker: str, number: int, started: float, has_places: bool) -> Held:
    """The same, of decoded columns."""
    id, priority, _, key, options, history, notes, payload = row
    claimed = Claimed(
        id, queue, payload, options.codec, headers_of(options), priority, history.failures, history.crashes,
        options.max_attempts, options.keep, None,
    )  # fmt: skip
    suspect = is_suspect(history.crashes, options.max_crashes)
    held = Held(claimed, worker, number, started, key is None and not has_places, suspect)
    held.noted = notes > 0
    claimed.token = held
    return held
