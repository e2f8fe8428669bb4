"""One queue: its events, each in exactly one place, in order; who holds its keys; what retention gives up."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from eventq import ids
from eventq.errors import QueueFull
from eventq.model import Attempt, Claimed, Copy, Failure, Note, PutOptions, Record, Settings, State
from eventq.storage.checks import NOTE_OVERHEAD, encode_headers
from eventq.storage.endings import remembered
from eventq.storage.restored import options_of, place_of, restored

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.storage.memory.store import Seat

COUNT_SPARES = 600.0
"""A completed event younger than this (seconds) is never given up for `keep_count`."""
NOBODY: frozenset[str] = frozenset()

Needs = tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int, float], ...]]
"""What an event needs to be started, sorted: limits, each with its number of places; rates, each with its number and
seconds."""
NO_NEEDS: Needs = ((), ())


class Line:
    """Names in order of a sort key: adding and taking cost O(log n), and what was removed is soon gone."""

    __slots__ = ("_heap", "_keys")

    def __init__(self) -> None:
        self._heap: list[tuple[Any, str]] = []
        self._keys: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, name: str, key: Any) -> None:
        self._keys[name] = key
        heapq.heappush(self._heap, (key, name))

    def remove(self, name: str) -> None:
        self._keys.pop(name, None)
        if len(self._heap) > 2 * len(self._keys) + 64:
            self._heap = [(key, name) for name, key in self._keys.items()]
            heapq.heapify(self._heap)

    def first(self) -> tuple[Any, str] | None:
        """The smallest (key, name); it stays in the line."""
        heap = self._heap
        while heap and self._keys.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0] if heap else None


class Hold:
    """One claim: who started which event when. It is held as long as the event points back to it."""

    __slots__ = ("claimed", "event", "places", "progress", "seat", "started")

    def __init__(self, event: StoredEvent, seat: Seat, started: float, progress: float) -> None:
        self.event: StoredEvent = event
        self.seat: Seat = seat
        self.started: float = started
        self.progress: float = progress
        """Monotonic instant of the start or of the last note: what a lease is measured from."""
        self.claimed: Claimed | None = None
        self.places: list[tuple[str, int]] = []
        """What it holds of its event's limits: names, and which place of each."""


class StoredEvent:
    """One event with its whole life. `hold` is set exactly while its state is `claimed`."""

    __slots__ = (
        "attempts", "codec", "crashes", "due", "expires", "failure", "failures", "headers", "hold", "id",
        "keep", "key", "max_attempts", "max_crashes", "needs", "note_bytes", "notes", "payload", "place", "priority",
        "queue", "settled", "since", "skippers", "state", "unique", "value", "value_codec",
    )  # fmt: skip

    def __init__(self, id: str, queue: str, payload: bytes, headers: bytes, options: PutOptions) -> None:
        self.id: str = id
        self.queue: str = queue
        self.payload: bytes = payload
        self.headers: bytes = headers  # JSON, so that nobody can change what others will read
        self.codec: str = options.codec
        self.priority: int = options.priority
        self.due: float | None = options.due
        self.expires: float | None = options.expires
        self.key: str | None = options.key
        self.unique: str | float = options.unique
        self.max_attempts: int | None = options.max_attempts
        self.max_crashes: int | None = options.max_crashes
        self.keep: float | None = options.keep
        rates = sorted((name, places, seconds) for name, (places, seconds) in options.rates.items())
        self.needs: Needs = (tuple(sorted(options.limits.items())), tuple(rates))
        self.since: float | None = None
        """When the first of the debounced puts came whose last one this is."""
        self.state: State = State.READY
        self.place: int = ids.nanoseconds_of(id)
        self.failures: int = 0
        self.crashes: int = 0
        self.attempts: tuple[Attempt, ...] = ()
        self.skippers: frozenset[str] = NOBODY
        self.hold: Hold | None = None
        self.settled: float = 0.0
        self.value: bytes | None = None
        self.value_codec: str = "json"
        self.failure: Failure | None = None
        self.notes: list[Note] = []
        self.note_bytes: int = 0

    @classmethod
    def copied(cls, copy: Copy) -> StoredEvent:
        """An event that another store had. Its state is still to be said, by `StoredQueue.enter`."""
        record = restored(copy.record)
        options = options_of(record)
        event = cls(record.id, record.queue, record.payload, encode_headers(options), options)
        event.place = place_of(record)
        event.failures, event.crashes, event.attempts = record.failures, record.crashes, record.attempts
        event.settled, event.failure = record.settled or 0.0, record.failure
        event.value, event.value_codec = record.value, record.value_codec
        event.notes = list(copy.notes)
        event.note_bytes = sum(NOTE_OVERHEAD + len(bytes(note.data)) for note in copy.notes)
        return event

    def wait_until(self, due: float) -> None:
        """Not claimable before that instant, and standing there in the order of events."""
        self.due = due
        self.place = int(due * 1e9)

    def add_attempt(self, attempt: Attempt) -> None:
        self.attempts = remembered(self.attempts, attempt)

    def last_worker(self) -> str | None:
        if self.hold is not None:
            return self.hold.seat.worker
        return self.attempts[-1].worker if self.attempts else None

    def record(self) -> Record:
        attempts = self.attempts
        if self.hold is not None:
            attempts = remembered(attempts, Attempt(self.hold.seat.worker, self.hold.started))
        return Record(
            id=self.id, queue=self.queue, state=self.state, payload=self.payload, codec=self.codec,
            headers=msgspec.json.decode(self.headers), priority=self.priority,
            created=ids.created_of(self.id), due=self.due, expires=self.expires, key=self.key,
            worker=self.hold.seat.worker if self.hold is not None else None,
            failures=self.failures, crashes=self.crashes, attempts=attempts, settled=self.settled or None,
            value=self.value, value_codec=self.value_codec, failure=self.failure,
            limits=dict(self.needs[0]), rates=self.rates(), unique=self.unique,
            max_attempts=self.max_attempts, max_crashes=self.max_crashes, keep=self.keep,
        )  # fmt: skip

    def rates(self) -> dict[str, tuple[int, float]]:
        """Its rates as they were put."""
        return {name: (places, seconds) for name, places, seconds in self.needs[1]}


class StoredQueue:
    """The places of one queue: each event stands in the one of its state. A transition is `leave`, `enter`.

    ready       a line per set of workers that skipped the event, and needs: highest priority first, then by place
    expiring    a line of the ready events that need something, by their expiry: nothing else may reach them in time
    delayed     a line by due time
    held        the claims, the one longest without progress first
    finals      per final state, the one settled first first
    kept        a line of completed events that have a `keep` of their own, by the end of it
    """

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.settings: Settings = Settings()
        self.events: dict[str, StoredEvent] = {}
        self.counts: dict[State, int] = dict.fromkeys(State, 0)
        self.ready: dict[tuple[frozenset[str], Needs], Line] = {(NOBODY, NO_NEEDS): Line()}
        self.expiring: Line = Line()
        self.delayed: Line = Line()
        self.held: OrderedDict[str, Hold] = OrderedDict()
        self.finals: dict[State, Line] = {}
        self.kept: Line = Line()
        self.keys: dict[str, str] = {}
        self.key_ends: Line = Line()

    # ------------------------------------------------------------------ places

    def enter(self, event: StoredEvent, state: State) -> None:
        event.state = state
        self.events[event.id] = event
        self.counts[state] += 1
        if state is State.READY:
            line = self.ready.setdefault((event.skippers, event.needs), Line())
            line.add(event.id, (-event.priority, event.place))
            if event.needs != NO_NEEDS and event.expires is not None:
                self.expiring.add(event.id, event.expires)
        elif state is State.DELAYED:
            self.delayed.add(event.id, event.due)
        elif state is State.CLAIMED:
            assert event.hold is not None
            self.held[event.id] = event.hold
        elif state is State.COMPLETED and event.keep is not None:
            self.kept.add(event.id, event.settled + event.keep)
        else:
            self.finals.setdefault(state, Line()).add(event.id, event.settled)

    def leave(self, event: StoredEvent) -> None:
        del self.events[event.id]
        self.counts[event.state] -= 1
        if event.state is State.READY:
            line = self.ready[event.skippers, event.needs]
            line.remove(event.id)
            self.expiring.remove(event.id)
            if not line and (event.skippers or event.needs != NO_NEEDS):
                del self.ready[event.skippers, event.needs]
        elif event.state is State.DELAYED:
            self.delayed.remove(event.id)
        elif event.state is State.CLAIMED:
            del self.held[event.id]
        elif event.state is State.COMPLETED and event.keep is not None:
            self.kept.remove(event.id)
        else:
            self.finals[event.state].remove(event.id)

    def first_ready(self, worker: str, now: float, may_start: Callable[[Needs, float], bool]) -> StoredEvent | None:
        """The event that a worker would start next: of those that have what they need."""
        heads = [
            line.first()
            for (skippers, needs), line in self.ready.items()
            if worker not in skippers and (needs == NO_NEEDS or may_start(needs, now))
        ]
        head = min((head for head in heads if head is not None), default=None)
        return None if head is None else self.events[head[1]]

    def waits_for(self, name: str) -> bool:
        """Whether a ready event needs a place of this name."""
        return any(name in dict(needs[0]) for (_, needs), line in self.ready.items() if needs[0] and line)

    def rates_waited_for(self) -> list[tuple[tuple[str, int, float], ...]]:
        """The rates of ready events."""
        return [needs[1] for (_, needs), line in self.ready.items() if needs[1] and line]

    def has_room(self) -> bool:
        """Whether the queue's own limit lets another event start."""
        most = self.settings.concurrency
        return most is None or len(self.held) < most

    def next_expired(self, now: float) -> StoredEvent | None:
        """A ready event that needs something and is past its expiry."""
        head = self.expiring.first()
        return self.events[head[1]] if head is not None and head[0] <= now else None

    def promote(self, now: float) -> None:
        """Make ready what has become due; each event pays for this once."""
        while (head := self.delayed.first()) is not None and head[0] <= now:
            event = self.events[head[1]]
            self.leave(event)
            self.enter(event, State.READY)

    def next_due(self) -> float | None:
        head = self.delayed.first()
        return None if head is None else float(head[0])

    def check_room(self, count: int) -> None:
        """Raises QueueFull if so many more events may not be put."""
        most = self.settings.maxsize
        if most is not None and self.counts[State.READY] + self.counts[State.DELAYED] + count > most:
            raise QueueFull(self.name, most, count)

    def paused(self, now: float) -> bool:
        until = self.settings.paused_until
        return self.settings.paused and (until is None or now < until)

    # ------------------------------------------------------------------ retention

    def keep_of(self, state: State, own: float | None) -> float:
        """Seconds that a record of a final state stays; an event's own `keep` beats the queue's."""
        if state is not State.COMPLETED:
            return self.settings.keep_dead
        return self.settings.keep if own is None else own

    def lapsed(self, now: float) -> StoredEvent | None:
        """A record that is not to be kept any longer."""
        head = self.kept.first()
        if head is not None and head[0] <= now:
            return self.events[head[1]]
        for state, line in self.finals.items():
            oldest = line.first()
            if oldest is not None and self._is_over(state, len(line), now - oldest[0]):
                return self.events[oldest[1]]
        return None

    def _is_over(self, state: State, count: int, age: float) -> bool:
        settings = self.settings
        if state is State.COMPLETED:
            most = settings.keep_count
            return age >= settings.keep or (most is not None and count > most and age >= COUNT_SPARES)
        return age >= settings.keep_dead or count > settings.keep_dead_count

    # ------------------------------------------------------------------ keys

    def key_holder(self, key: str, now: float) -> str | None:
        """The id that holds a key."""
        while (head := self.key_ends.first()) is not None and head[0] <= now:
            self._free(head[1])
        return self.keys.get(key)

    def hold_key(self, event: StoredEvent, now: float, since: float | None = None) -> None:
        """Give a new event its key, if it has one and that is free; one that is held for a time, from `since` on."""
        if event.key is None or self.key_holder(event.key, now) is not None:
            return
        self.keys[event.key] = event.id
        if not isinstance(event.unique, str):
            self.key_ends.add(event.key, (now if since is None else since) + event.unique)

    def hold_key_again(self, event: StoredEvent, now: float) -> None:
        """The event is open again, or came from another queue: so is its key, if nobody has it by now. Not that of a
        debounced one, which the next put would end."""
        if isinstance(event.unique, str) and event.since is None:
            self.hold_key(event, now)

    def free_key(self, event: StoredEvent) -> None:
        """Free an event's key, unless it is held for a time (whatever becomes of the event), or by another one."""
        if event.key is not None and isinstance(event.unique, str) and self.keys.get(event.key) == event.id:
            self._free(event.key)

    def _free(self, key: str) -> None:
        del self.keys[key]
        self.key_ends.remove(key)
