"""A clock that moves only when it is told to."""

from __future__ import annotations

import threading


class FakeClock:
    """Both times of `eventq.clock.Clock`, standing still until `advance`; may be shared by threads.

    >>> clock = FakeClock(now=1000.0)
    >>> clock.advance(2.5)
    >>> clock.now(), clock.monotonic()
    (1002.5, 2.5)
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        """The wall clock, in seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that were advanced; never goes back."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks. Raises ValueError for a negative number."""
        if seconds < 0:
            raise ValueError(f"time does not go back by {-seconds} s; step_wall() sets the wall clock back")
        with self._lock:
            self._now += seconds
            self._monotonic += seconds

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP may; no time passes."""
        with self._lock:
            self._now += seconds
