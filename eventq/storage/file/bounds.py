"""How many more events queues with a `maxsize` take: counted now and then, and used up by this process's own puts.

A count reads the files that hold open events, so it costs as much as a `stats` of the waiting ones. It is good for as
many puts as it found room for, and for one look interval: what other processes put meanwhile is what a queue may
exceed its bound by.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from eventq.clock import Clock
from eventq.errors import QueueFull
from eventq.ids import stem_of
from eventq.model import State
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.file import disk
from eventq.storage.file.feed import MAX_FILE_BYTES
from eventq.storage.file.layout import QueuePaths
from eventq.storage.file.line import fold
from eventq.storage.file.reading import Reader, records_of


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

    def __init__(self, reader: Reader, clock: Clock) -> None:
        self._reader = reader
        self._now = clock.monotonic
        self._changed = threading.Condition()
        self._rooms: dict[str, Room] = {}

    @contextmanager
    def admit(self, paths: QueuePaths, maxsize: int, count: int) -> Iterator[None]:
        """Within it, so many events may be put. Raises QueueFull if they do not fit.

        What is then not stored is room that nobody uses until the next count.
        """
        room = self._take(paths, maxsize, count)
        try:
            yield
        finally:
            with self._changed:
                room.passing -= 1
                self._changed.notify_all()

    def _take(self, paths: QueuePaths, maxsize: int, count: int) -> Room:
        if count > maxsize:
            raise QueueFull(paths.name, maxsize, count)
        with self._changed:
            room = self._rooms.setdefault(paths.name, Room())
            while self._now() >= room.until or room.maxsize != maxsize or room.left < count:
                if room.passing:
                    room.until = 0.0  # whoever comes now waits as well, so that the count gets its turn
                    self._changed.wait()
                    continue
                room.left = maxsize - waiting(self._reader, paths)
                room.maxsize = maxsize
                room.until = self._now() + LOOK_INTERVAL
                if room.left < count:
                    raise QueueFull(paths.name, maxsize, count)
            room.left -= count
            room.passing += 1
            return room


def waiting(reader: Reader, paths: QueuePaths) -> int:
    """How many events of a queue are ready or delayed, as `Reader.stats` counts them; what has ended is not read."""
    count = 0
    seen: set[str] = set()
    for found in reader.open_files(paths):
        if found.bare in seen:
            continue
        try:
            data = disk.read_file(found.path, MAX_FILE_BYTES)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or disk.is_wrong_kind(error):
                continue  # it moved on, to where it is found next; or it is nothing of ours
            raise  # what cannot be counted may be too much
        seen.add(found.bare)
        if found.state is State.READY and found.due is None and found.name == stem_of(found.name):
            count += data.count(b"\n")  # nobody has claimed it yet: every line is an event
        else:
            records = records_of(found, fold(data, stem_of(found.name)))
            count += sum(record.state in (State.READY, State.DELAYED) for record in records)
    return count
