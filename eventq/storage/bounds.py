"""How many more events queues with a `maxsize` take: counted now and then, and used up by this process's own puts.

A count is good for as many puts as it found room for, and for one look interval: what other processes put meanwhile is
what a queue may exceed its bound by.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from eventq.errors import QueueFull
from eventq.storage.base import LOOK_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.clock import Clock

UNBOUNDED = nullcontext()


class Room:
    """What is known of one queue."""

    __slots__ = ("left", "maxsize", "passing", "until")

    def __init__(self) -> None:
        self.left: int = 0
        self.maxsize: int = 0
        self.until: float = 0.0
        self.passing: int = 0
        """Puts of this process that were admitted and are not stored yet: a count would miss some, and not others."""


class Bounds:
    """Admits the puts of one process to queues with a `maxsize`. Exact for all its threads."""

    def __init__(self, count: Callable[[str], int], clock: Clock) -> None:
        self._count = count
        """How many events of a queue are ready or delayed."""
        self._now = clock.monotonic
        self._changed = threading.Condition()
        self._rooms: dict[str, Room] = {}

    def admit(self, queue: str, maxsize: int | None, count: int) -> AbstractContextManager[None]:
        """Within it, so many events may be put. Raises QueueFull if they do not fit.

        What is then not stored is room that nobody uses until the next count.
        """
        return UNBOUNDED if maxsize is None else self._admit(queue, maxsize, count)

    @contextmanager
    def _admit(self, queue: str, maxsize: int, count: int) -> Iterator[None]:
        room = self._take(queue, maxsize, count)
        try:
            yield
        finally:
            with self._changed:
                room.passing -= 1
                self._changed.notify_all()

    def _take(self, queue: str, maxsize: int, count: int) -> Room:
        if count > maxsize:
            raise QueueFull(queue, maxsize, count)
        with self._changed:
            room = self._rooms.setdefault(queue, Room())
            while self._now() >= room.until or room.maxsize != maxsize or room.left < count:
                if room.passing:
                    room.until = 0.0  # whoever comes now waits as well, so that the count gets its turn
                    self._changed.wait()
                    continue
                room.left = maxsize - self._count(queue)
                room.maxsize = maxsize
                room.until = self._now() + LOOK_INTERVAL
                if room.left < count:
                    raise QueueFull(queue, maxsize, count)
            room.left -= count
            room.passing += 1
            return room
