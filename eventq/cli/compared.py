"""Two stores side by side: the same events of a queue in both, what differs, and a sum of what is compared.

Events are read in id order, page by page, so that the memory this takes does not depend on how many there are.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventq.ids import created_of
from eventq.model import FINAL_STATES, OPEN_STATES, Copy, Filter, Record, State
from eventq.storage.restored import restored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventq.model import Note, Settings
    from eventq.storage.base import Storage

PAGE_EVENTS = 5000
PAGE_BYTES = 8 << 20
"""What the payloads and values of one page are to take, about."""
MEANWHILE = 600.0
"""Records that are kept for less than so many seconds more are not compared: one of the stores may prune them first."""
PRECISION = 0.002
"""Seconds by which two times may differ: some stores keep fewer digits."""

GROUPS: dict[str, tuple[State, ...]] = {"waiting": OPEN_STATES, **{str(state): (state,) for state in FINAL_STATES}}
"""What is compared with what. Ready, delayed and claimed are one: what is due becomes ready by itself."""

COMPARED = (
    "id", "queue", "state", "payload", "codec", "headers", "priority", "key", "unique", "failures", "crashes",
    "attempts", "failure", "value", "value_codec", "limits", "rates", "max_attempts", "max_crashes", "keep", "notes",
)  # fmt: skip
"""What goes into the sum of each event; of its attempts and notes all but their times, which are compared apart."""


def pages(storage: Storage, queue: str, state: State) -> Iterator[Record]:
    """All records of a state, in id order."""
    cursor: str | None = None
    limit = 100
    while True:
        page = storage.scan(queue, state, Filter(), cursor, limit)
        yield from page.records
        cursor = page.cursor
        if cursor is None:
            return
        size = sum(len(record.payload) + len(record.value or b"") + 500 for record in page.records)
        limit = max(10, min(PAGE_EVENTS, 4 * limit, PAGE_BYTES * len(page.records) // size))


def copies(storage: Storage, queue: str, group: str) -> Iterator[Copy]:
    """The events of a group, with their notes, each once. Only what has run has any."""
    before = ""
    for record in heapq.merge(*(pages(storage, queue, state) for state in GROUPS[group]), key=_id):
        if record.id != before:  # it became due between two pages
            yield Copy(record, tuple(storage.notes(record.id)) if record.attempts else ())
        before = record.id


def _id(record: Record) -> str:
    return record.id


class Pair(NamedTuple):
    """An event as the two stores have it; None: this one has not."""

    source: Copy | None
    target: Copy | None

    @property
    def record(self) -> Record:
        """Of either."""
        copy = self.source or self.target
        assert copy is not None
        return copy.record

    def is_alike(self) -> bool:
        """Whether the two say the same of it."""
        if self.source is None or self.target is None:
            return False
        return _alike(_told(self.source), _told(self.target)) and _alike(_times(self.source), _times(self.target))

    def add_to(self, source: Sum, target: Sum, group: str) -> None:
        """Count it in the sum of each store that has it."""
        for copy, total in ((self.source, source), (self.target, target)):
            if copy is not None:
                total.add(group, copy)


def pairs(source: Storage, target: Storage, queue: str, group: str) -> Iterator[Pair]:
    """The events of a group in either store, in id order."""
    ours = ((copy.record.id, 0, copy) for copy in copies(source, queue, group))
    theirs = ((copy.record.id, 1, copy) for copy in copies(target, queue, group))
    merged = heapq.merge(ours, theirs, key=lambda item: item[:2])
    for _, found in itertools.groupby(merged, key=lambda item: item[0]):
        both: dict[int, Copy] = {side: copy for _, side, copy in found}
        yield Pair(both.get(0), both.get(1))


def is_lasting(record: Record, settings: Settings, now: float) -> bool:
    """Whether a record stays for long enough to be compared."""
    if record.state in OPEN_STATES:
        return True
    keep = settings.keep_dead
    if record.state is State.COMPLETED:
        keep = settings.keep if record.keep is None else record.keep
    settled = created_of(record.id) if record.settled is None else record.settled
    return settled + keep > now + MEANWHILE


def is_full(copies: list[Copy]) -> bool:
    """Whether so many are enough for one go; looked at for every hundredth, since a sum takes its time."""
    return len(copies) % 100 == 0 and (len(copies) >= PAGE_EVENTS or sum(map(_size, copies)) >= PAGE_BYTES)


def _size(copy: Copy) -> int:
    record = copy.record
    return len(record.payload) + len(record.value or b"") + sum(len(bytes(note.data)) for note in copy.notes)


class Sum:
    """Counts per queue and group, and the SHA-256 of what is compared of each event, in the order of their coming."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = {}
        self._hash = hashlib.sha256()

    def add(self, group: str, copy: Copy) -> None:
        counts = self.counts.setdefault(copy.record.queue, dict.fromkeys(GROUPS, 0))
        counts[group] += 1
        self._hash.update(msgspec.json.encode(_told(copy), order="sorted") + b"\n")

    @property
    def checksum(self) -> str:
        return self._hash.hexdigest()


# ---------------------------------------------------------------- what is compared


def _told(copy: Copy) -> dict[str, Any]:
    """What is said of an event, without times: see `COMPARED`."""
    record = restored(copy.record)
    told: dict[str, Any] = {name: getattr(record, name) for name in COMPARED if name != "notes"}
    told["attempts"] = [(attempt.worker, attempt.outcome, attempt.error) for attempt in record.attempts]
    told["notes"] = [(note.number, note.kind, note.data) for note in copy.notes]
    told["state"] = "waiting" if record.state in OPEN_STATES else str(record.state)
    told["failure"] = _failure(record)
    return told


def _failure(record: Record) -> Any:
    """Why it ended so. What the last failure of an open event was, its attempts tell."""
    if record.state in OPEN_STATES or record.state is State.COMPLETED:
        return None
    errors: Iterable[Any] = (attempt.error for attempt in reversed(record.attempts) if attempt.error is not None)
    return record.failure or next(iter(errors), None)


def _times(copy: Copy) -> list[float | None]:
    """The times of an event. When a ready one was due is of no use any more, and not every store keeps it."""
    record = restored(copy.record)
    times = [record.expires, record.settled, record.due if record.state is State.DELAYED else None]
    for attempt in record.attempts:
        times += [attempt.started, attempt.ended]
    notes: tuple[Note, ...] = copy.notes
    return times + [note.at for note in notes]


def _alike(one: Any, other: Any) -> bool:
    """Whether two of these are the same; times may differ in what no store promises to keep."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= PRECISION
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other)
