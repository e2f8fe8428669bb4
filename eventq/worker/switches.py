"""What a worker does about tasks that are switched off: it gives their events back, so that they come again, but not
too many in a second.

Each event that is given back gets a place in time: the first half a second from now, each further one a little after
the one before; and comes back with the next beat after that. So however many wait, no more of them come back than the
worker has places for, and the others are not kept from running; and once the task is on again, they go on coming.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from eventq.disabled import disabled_among

if TYPE_CHECKING:
    from eventq.app import App

HOLD = 0.5
"""Seconds after which an event comes back, at least."""
BEAT = 1.0
"""They come back together, every so many seconds: a look at what is due may cost as much for one as for hundreds."""
ROUNDING = 1e-6
"""A place that is on a beat, but for the rounding of a sum, is on it."""
RATE = 100.0
"""Events of one task that come back within a second, at most."""
SHARE = 4.0
"""So many times as long as it takes to claim one and give it back, is the least time between two: so they never take
more than a quarter of a thread's time, and a burst ends, which else would give back no faster than they come."""


class Switches:
    """The tasks of an app that are switched off, as the last look has found."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._off: frozenset[str] = frozenset()
        self._places: dict[str, float] = {}
        """When the last event of each comes back."""
        self._apart = 1 / RATE
        self._lock = threading.Lock()

    def look(self) -> None:
        """See which are off now. Raises StorageError."""
        tasks = list(self._app.tasks)
        off = frozenset(disabled_among(self._app.store.storage, tasks)) if tasks else frozenset()
        with self._lock:
            self._off = off
            for task in self._places.keys() - off:
                del self._places[task]

    def hold(self, task: str) -> float | None:
        """The seconds for which an event of a task is to be given back; None if the task is on."""
        if task not in self._off:
            return None
        now = self._app.store.clock.monotonic()
        with self._lock:
            at = max(now + HOLD, self._places.get(task, 0.0) + self._apart)
            self._places[task] = at
        return math.ceil(at / BEAT - ROUNDING) * BEAT - now

    def took(self, seconds: float) -> None:
        """Say how long it took to claim one and to give it back."""
        self._apart = max(1 / RATE, SHARE * seconds)
