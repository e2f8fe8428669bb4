"""The only module that knows what time it is.

Everything else asks a `Clock`, so a test can hand in a clock that it moves itself. Two times exist: `now()`
is the wall clock, which an administrator or NTP may step in either direction and which therefore decides only
"not before" and what a person reads; `monotonic()` never steps and measures every wait. Neither ever decides
whether a worker is alive.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What a storage needs to know of time. Implement it to control time in tests."""

    def now(self) -> float:
        """The wall clock, in seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...


class SystemClock:
    """The machine's own clocks."""

    now: Callable[[], float] = staticmethod(time.time)
    monotonic: Callable[[], float] = staticmethod(time.monotonic)


SYSTEM: Clock = SystemClock()

sleep: Callable[[float], None] = time.sleep
perf_counter: Callable[[], float] = time.perf_counter


def aware(seconds: float) -> datetime:
    """An instant as people read it: an aware datetime in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def epoch(instant: datetime) -> float:
    """Seconds since the epoch of an aware datetime. Raises ValueError for a naive one, whose zone is a guess."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant!r} has no time zone; use an aware datetime, e.g. datetime.now(timezone.utc)")
    return instant.timestamp()
