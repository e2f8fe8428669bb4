"""Rates: how many events of a name are started within a time, over all processes and queues.

`rates/<digest>` is a name's log: lines of one width, the first with the longest time that any of its events counted,
then one with the time of each start, in order. An event of which *n* may start within *s* seconds is started if the
last but *n* start was that long ago. The log is looked at and added to under its lock, held for microseconds, until the
start is recorded; nobody waits for it, and nothing is held while the event runs: what has been started counts, whatever
became of it.
"""

from __future__ import annotations

import functools
import heapq
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from eventq.clock import perf_counter
from eventq.errors import StorageError
from eventq.model import MAX_PLACES
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.file import disk
from eventq.storage.file.drafts import make_folder
from eventq.storage.file.layout import digest

log: logging.Logger = logging.getLogger("eventq.storage")

WIDTH = 19
TRIM_AT = 1024
"""A log with a multiple of so many starts is looked at, and its older half dropped if nobody counts it any more."""
OPEN_TRIES = 100
MAX_PRUNED = 64
"""Logs that one look judges at most."""
PRUNE_INTERVAL = 10.0
"""Seconds between two listings of all logs."""
MAX_LOG_BYTES = 4 * MAX_PLACES * WIDTH


class Share(NamedTuple):
    """How much of a slot an event counts: so many places, and of a rate the seconds for which each is taken."""

    places: int
    seconds: float = 0.0

    def text(self) -> str:
        """As it stands in the names of files."""
        return f"{self.places}-{math.ceil(self.seconds * 1e9):x}" if self.seconds else f"{self.places}"


def share_of(text: str) -> Share:
    """What `Share.text` says."""
    places, _, period = text.partition("-")
    return Share(int(places), int(period, 16) / 1e9 if period else 0.0)


@functools.lru_cache(256)
def rate_share(places: int, seconds: float) -> Share:
    """The share of an event with a rate, as it is read from its file's name while it waits: or who brings it back and
    who starts it would not agree to the last bit."""
    return share_of(Share(min(max(places, 1), MAX_PLACES), seconds).text())


@functools.lru_cache(1024)
def rate_key(name: str) -> str:
    """The digest of a rate's slot: its log, and the folder of those who wait."""
    return digest(rate_slot(name))


def rate_slot(name: str) -> str:
    """The slot of a rate: its own kind of name, which no limit has."""
    return f"rate:{name}"


def time_line(value: float) -> bytes:
    """A time as a log shows it: so wide that a double comes back unchanged."""
    return b"%018.7f\n" % min(max(value, 0.0), 9_999_999_999.0)


def time_of(raw: bytes) -> float:
    """The time in a line; 0 for what is none, so that damage holds nobody up."""
    try:
        return float(raw)
    except ValueError:
        return 0.0


class Log:
    """A name's log, open, and locked unless it is only read."""

    __slots__ = ("count", "fd", "longest")

    def __init__(self, fd: int) -> None:
        self.fd: int = fd
        self.count: int = max(0, disk.fstat(fd).st_size // WIDTH - 1)
        """How many starts are in it."""
        self.longest: float = time_of(disk.pread(fd, WIDTH, 0))

    def start(self, index: int) -> float:
        return time_of(disk.pread(self.fd, WIDTH, (1 + index) * WIDTH))

    def last(self) -> float:
        return self.start(self.count - 1) if self.count else 0.0

    def free_at(self, share: Share) -> float:
        """When an event with this share may start; 0 if there were not so many starts."""
        return self.start(self.count - share.places) + share.seconds if self.count >= share.places else 0.0

    def room(self, share: Share, now: float) -> int:
        """How many with this share may start now."""
        counted = min(share.places, self.count)
        data = disk.pread(self.fd, counted * WIDTH, (1 + self.count - counted) * WIDTH)
        used = 0
        for at in range(len(data) - WIDTH, -1, -WIDTH):
            if time_of(data[at : at + WIDTH]) + share.seconds <= now:
                break
            used += 1
        return share.places - used

    def bound(self, now: float) -> None:
        """Let what was started later than now, before the clock was set back, count as started now: or it would be
        counted until the clock is there again."""
        if self.last() <= now:
            return
        index = self.count
        while index and self.start(index - 1) > now:
            index -= 1
        disk.write_all(self.fd, time_line(now) * (self.count - index), (1 + index) * WIDTH)

    def add(self, now: float, seconds: float) -> None:
        """One more start, about to be."""
        if not self.count:
            disk.write_all(self.fd, time_line(seconds) + time_line(now))
        else:
            disk.write_all(self.fd, time_line(now), (1 + self.count) * WIDTH)
            if seconds > self.longest:
                disk.write_all(self.fd, time_line(seconds))
        self.longest = max(self.longest, seconds)
        self.count += 1

    def confirm(self, at: float) -> None:
        """The last start was at that time, which may be a little later than it was meant to be."""
        if at > self.last():
            disk.write_all(self.fd, time_line(at), self.count * WIDTH)
        if self.count % TRIM_AT == 0:
            self._trim(at)

    def undo(self) -> None:
        """The last start was none."""
        self.count -= 1
        disk.truncate(self.fd, (1 + self.count) * WIDTH)

    def _trim(self, now: float) -> None:
        """Drop the older half, if it is too old, or too long ago, to count. The newer one is copied over it, and stays
        where it is until the log is cut: a death in between changes nothing that counts."""
        kept = self.count // 2
        dropped = self.count - kept
        if kept < MAX_PLACES and self.start(dropped - 1) + self.longest > now:
            return
        disk.write_all(self.fd, disk.pread(self.fd, kept * WIDTH, (1 + dropped) * WIDTH), WIDTH)
        disk.truncate(self.fd, (1 + kept) * WIDTH)
        self.count = kept


class Rates:
    """The logs of one store. The caller has the claims lock."""

    def __init__(self, root: str, durable: bool, now: Callable[[], float]) -> None:
        self._folder = root + "/rates/"
        self._durable = durable
        self._now = now
        self._open: list[Log] = []
        """The logs to which the start of an event was added that is about to be recorded."""
        self._walk: Iterator[str] = iter(())
        self._next_walk = 0.0

    def take(self, rates: Mapping[str, Share]) -> str | None:
        """Count a start of each name, or of none: then the name that has no room, or whose log is in use. What was
        counted is to be confirmed, or undone, at once."""
        logs: list[Log] = []
        try:
            for name in sorted(rates):  # in one order, so that of several takers one has them all
                found = self._lock(rate_key(name))
                if found is None:
                    return name
                logs.append(found)
            now = self._now()
            for name, found in zip(sorted(rates), logs, strict=True):
                found.bound(now)
                if found.free_at(rates[name]) > now:
                    return name
            for name, found in zip(sorted(rates), logs, strict=True):
                found.add(now, rates[name].seconds)
            self._open, logs = logs, []
        finally:
            for found in logs:
                _leave(found.fd)
        return None

    def confirm(self, at: float) -> None:
        """The event was started then."""
        self._close(lambda found: found.confirm(at))

    def undo(self) -> None:
        """The event was not started."""
        self._close(Log.undo)

    def _close(self, last: Callable[[Log], None]) -> None:
        logs, self._open = self._open, []
        for found in logs:
            try:
                last(found)
            except OSError as error:
                log.warning("a start counts from when it was meant to be: %s", error)
            finally:
                _leave(found.fd)

    def room(self, key: str, share: Share) -> tuple[int, float]:
        """How many with this share may start now; and, if none, when the next one may."""
        try:
            fd = disk.open_file(self._folder + key)
        except FileNotFoundError:
            return share.places, 0.0
        try:
            if not disk.lock_soon(fd):
                return 0, self._now() + LOOK_INTERVAL
            found, now = Log(fd), self._now()
            found.bound(now)
            return found.room(share, now), found.free_at(share)
        finally:
            _leave(fd)

    def _lock(self, key: str) -> Log | None:
        """A log, locked; None if somebody else has it."""
        path = self._folder + key
        for _ in range(OPEN_TRIES):
            try:
                fd = disk.open_or_create(path)
            except FileNotFoundError:
                make_folder(self._folder, self._durable)
                continue
            try:
                if not disk.lock_soon(fd):
                    disk.close(fd)
                    return None
                if disk.stat(path).st_ino == disk.fstat(fd).st_ino:
                    return Log(fd)
            except FileNotFoundError:
                pass  # pruned between our open and our lock: take the next file of that name
            except OSError:
                disk.close(fd)
                raise
            disk.close(fd)
        raise StorageError(f"{path} is removed as fast as it is made; try again")

    # ------------------------------------------------------------------ pruning

    def prune(self) -> None:
        """Remove logs of which nothing counts any more; some at each look, in turn."""
        for judged, name in enumerate(self._walk, 1):
            try:
                self._judge(self._folder + name)
            except OSError as error:
                log.warning("a log of a rate stays until the next look: %s", error)
            if judged == MAX_PRUNED:
                return
        if perf_counter() >= self._next_walk:
            self._next_walk = perf_counter() + PRUNE_INTERVAL
            self._walk = iter(disk.list_if_any(self._folder))

    def _judge(self, path: str) -> None:
        try:
            fd = disk.open_file(path)
        except FileNotFoundError:
            return
        try:
            if not disk.try_lock(fd):
                return
            found, now = Log(fd), self._now()
            found.bound(now)
            if found.last() + found.longest <= now and disk.stat(path).st_ino == disk.fstat(fd).st_ino:
                disk.unlink(path)
        except FileNotFoundError:
            return  # somebody else was faster
        finally:
            _leave(fd)


def _leave(fd: int) -> None:
    """Close a log. Its lock is given up first, or a process that was forked meanwhile would still have it."""
    disk.unlock(fd)
    disk.close(fd)


class Due:
    """When the events that wait for rates come back, by the folder of their queue and the log's name: as far as this
    worker knows, of the queues that it claims from."""

    def __init__(self) -> None:
        self.serves: Callable[[str], bool] = lambda _queue: True
        self._at: dict[tuple[str, str], float] = {}
        self._order: list[tuple[float, str, str]] = []
        self._unknown: dict[str, set[str]] = {}
        """Who waits for a start of others that came back already."""

    def add(self, queue: str, key: str, at: float | None) -> None:
        """Some wait until then; or (None) until others have started."""
        if not self.serves(queue):
            return
        if at is None:
            self._at.pop((queue, key), None)
            self._unknown.setdefault(key, set()).add(queue)
        elif self._at.get((queue, key)) != at:
            self._at[queue, key] = at
            heapq.heappush(self._order, (at, queue, key))

    def started(self, key: str, now: float) -> None:
        """An event was started here: whoever waited for that is to be judged."""
        for queue in self._unknown.pop(key, ()):
            self.add(queue, key, now)

    def pause(self, now: float) -> float:
        """Seconds until the earliest time; infinity if there is none."""
        at = self._next()
        return math.inf if at is None else max(0.0, at - now)

    def _next(self) -> float | None:
        order = self._order
        while order and self._at.get(order[0][1:]) != order[0][0]:
            heapq.heappop(order)
        return order[0][0] if order else None

    def take(self, now: float, most: int) -> list[tuple[str, str]]:
        """Those whose time has come, at most so many; they are not waited for any more."""
        found: list[tuple[str, str]] = []
        while len(found) < most and (at := self._next()) is not None and at <= now:
            place = self._order[0][1:]
            del self._at[place]
            found.append(place)
        return found
