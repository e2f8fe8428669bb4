"""Event ids: unique, rising per producer, sorted by time as plain text.

An id is `<time><worker><n>.<index>`: 16 hex digits of nanoseconds since the epoch, 16 of the producing worker's
random id, 6 of a counter, and 5 of the place within one put. A producer's time never repeats and never goes back,
whatever the wall clock does (`max(last + 1, now)`), so ids of one producer rise, and ids of several sort by time
as well as their clocks agree. The part before the dot names one put (in the file storage: one file).
"""

from __future__ import annotations

import itertools
import re
import secrets

from eventq.clock import Clock

STEM_LENGTH = 38
ID_LENGTH = STEM_LENGTH + 6
ID_PATTERN = re.compile(r"[0-9a-f]{38}\.[0-9a-f]{5}\Z")


def new_worker_id() -> str:
    """A worker id: 16 random hex digits, new for every process start; never a pid, which the system reuses."""
    return secrets.token_hex(8)


class Stamps:
    """Makes the stems (`<time><worker><n>`) of one worker's ids. `next` is for one thread at a time, `at` for any."""

    __slots__ = ("_clock", "_count", "_last", "worker")

    def __init__(self, worker: str, clock: Clock) -> None:
        self.worker: str = worker
        self._clock = clock
        self._last = 0
        self._count = itertools.count(1)

    def next(self) -> str:
        """The next stem; later than every one before it even if the wall clock was set back."""
        self._last = max(self._last + 1, int(self._clock.now() * 1e9))
        return self.at(self._last)

    def at(self, nanoseconds: int) -> str:
        """A new, unique stem that sorts at a given time: for events that keep their place when they are moved."""
        return f"{nanoseconds:016x}{self.worker}{next(self._count) & 0xFFFFFF:06x}"


def event_id(stem: str, index: int) -> str:
    """The id of the index-th event of one put."""
    return f"{stem}.{index:05x}"


def of_same_put(id: str, count: int) -> list[str]:
    """The ids of the first events of the put that an event came with."""
    stem = stem_of(id)
    return [event_id(stem, index) for index in range(count)]


def is_event_id(text: str) -> bool:
    """Whether a text from outside has the form of an event id (and so may safely become a file name)."""
    return ID_PATTERN.match(text) is not None


def stem_of(id: str) -> str:
    return id[:STEM_LENGTH]


def index_of(id: str) -> int:
    return int(id[STEM_LENGTH + 1 :], 16)


def nanoseconds_of(id: str) -> int:
    return int(id[:16], 16)


def created_of(id: str) -> float:
    """When an event was put, in seconds since the epoch, by its producer's clock."""
    return int(id[:16], 16) / 1e9


def worker_of(id: str) -> str:
    """The worker that put an event."""
    return id[16:32]
