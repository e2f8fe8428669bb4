"""Pruning what has been kept long enough, a bounded step at a time, the oldest first.

A finished event's bucket is that of its creation, so it can be found from its id alone; what was settled later than
it was created is read before it is removed. Each step goes on where the last one stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from eventq.clock import perf_counter
from eventq.ids import ID_PATTERN, stem_of
from eventq.model import FINAL_STATES, Settings, State
from eventq.storage.file import disk, line
from eventq.storage.file.feed import MAX_FILE_BYTES
from eventq.storage.file.keys import prune_key
from eventq.storage.file.layout import BUCKET, BUCKET_DIGITS, EVENT_FILE, QueuePaths, bucket_of

log: logging.Logger = logging.getLogger("eventq.storage")

STEP_SECONDS = 0.02
PAUSE = 1.0
"""Seconds between two steps, unless the last one did not finish."""
BUCKET_SECONDS = 16 ** (16 - BUCKET_DIGITS) / 1e9
YOUNG = 600.0
"""A count never prunes a result younger than this."""
COUNTING_SHARE = 50
"""Counting lists all that is kept, so it may take one fiftieth of the time at most."""


class Pruner:
    """Prunes one queue."""

    def __init__(self, paths: QueuePaths) -> None:
        self._paths = paths
        self._walks: dict[State, Iterator[tuple[str, str]]] = {}
        """Per state, where the next step goes on. A walk lists each bucket once, however many steps it takes."""
        self._keys: Iterator[str] = iter(())
        self._next = 0.0
        self._next_count = 0.0

    def step(self, settings: Settings, now: float, force: bool = False) -> int:
        """Remove what is due, for about 20 ms (`force`: all of it); how many records."""
        started = perf_counter()
        if started < self._next and not force:
            return 0
        deadline = float("inf") if force else started + STEP_SECONDS
        if force:
            self._walks.clear()
        count = 0
        for state in FINAL_STATES:
            keep = settings.keep if state is State.COMPLETED else settings.keep_dead
            count += self._by_age(state, now, keep, deadline)
        if force or started >= self._next_count:
            before = perf_counter()
            for state in FINAL_STATES:
                count += self._by_count(state, settings, now, deadline)
            self._next_count = perf_counter() + max(PAUSE, COUNTING_SHARE * (perf_counter() - before))
        self._prune_notes(now, max(settings.keep, settings.keep_dead), deadline)
        self._prune_keys(now, deadline)
        self._next = perf_counter() + PAUSE if perf_counter() < deadline else 0.0
        return count

    def _buckets(self, folder: str) -> list[str]:
        """The buckets of a folder, the oldest first; what somebody else put there is not one."""
        return [name for name in disk.list_if_any(folder) if BUCKET.match(name)]

    def _files(self, state: State) -> Iterator[tuple[str, str]]:
        folder = self._paths.final(state)
        for bucket in self._buckets(folder):
            for name in disk.list_if_any(folder + bucket):
                if EVENT_FILE.match(name):
                    yield bucket, name

    def _by_age(self, state: State, now: float, keep: float, deadline: float) -> int:
        count = 0
        walk = self._walks.get(state)
        if walk is None:
            walk = self._walks[state] = self._files(state)
        for bucket, name in walk:
            if int(bucket, 16) * BUCKET_SECONDS > now - keep:
                break  # created too recently to have been kept long enough; so are all that follow
            path = f"{self._paths.final(state)}{bucket}/{name}"
            if events := self._may_go(path, name, now, keep):
                self._remove(path, name)
                count += events
            if perf_counter() > deadline:
                return count
        del self._walks[state]
        return count

    def _may_go(self, path: str, name: str, now: float, keep: float) -> int:
        """How many records are in a file if all of them have been kept long enough; else 0."""
        try:
            folded = line.fold(disk.read_file(path, MAX_FILE_BYTES), stem_of(name))
        except FileNotFoundError:
            return 0
        except OSError as error:
            log.warning("%s cannot be read, and is not pruned: %s", path, error)
            return 0
        count = 0
        for past in folded.pasts.values():
            if past.settled is None:
                continue
            completed = past.settled.outcome == State.COMPLETED
            own = past.keep if completed else None
            if past.settled.at + (keep if own is None else own) > now:
                return 0
            count += not completed or past.settled.has_value()
        return max(count, 1)

    def _by_count(self, state: State, settings: Settings, now: float, deadline: float) -> int:
        """Remove the oldest beyond the limit, and empty buckets. Lists all of a state, so it is done seldom."""
        completed = state is State.COMPLETED
        limit = settings.keep_count if completed else settings.keep_dead_count
        count = 0
        if limit is not None:
            names = list(self._files(state))
            for bucket, name in names[: max(0, len(names) - limit)]:
                path = f"{self._paths.final(state)}{bucket}/{name}"
                events = self._may_go(path, name, now - YOUNG, 0.0) if completed else 1
                if events:
                    self._remove(path, name)
                    count += events
                if perf_counter() > deadline:
                    return count
        self._empty_buckets(state, now)
        return count

    def _remove(self, path: str, name: str) -> None:
        try:
            disk.unlink_if_any(path)
        except (IsADirectoryError, PermissionError) as error:
            log.warning("%s cannot be pruned: %s", path, error)
            return
        if len(name) > len(stem_of(name)):
            disk.unlink_if_any(f"{self._paths.notes}{bucket_of(name)}/{name}")

    def _empty_buckets(self, state: State, now: float) -> None:
        folder = self._paths.final(state)
        for bucket in self._buckets(folder)[:-1]:
            if int(bucket, 16) * BUCKET_SECONDS < now - 2 * BUCKET_SECONDS:
                try:
                    disk.rmdir(folder + bucket)
                except OSError:
                    continue  # not empty

    def _prune_notes(self, now: float, keep: float, deadline: float) -> None:
        """Notes of events that left no record go with their bucket."""
        for bucket in self._buckets(self._paths.notes):
            if (int(bucket, 16) + 1) * BUCKET_SECONDS > now - keep or perf_counter() > deadline:
                return
            for name in disk.list_if_any(self._paths.notes + bucket):
                if ID_PATTERN.match(name):
                    disk.unlink_if_any(f"{self._paths.notes}{bucket}/{name}")
            try:
                disk.rmdir(self._paths.notes + bucket)
            except OSError:
                continue

    def _prune_keys(self, now: float, deadline: float) -> None:
        """Markers of keys whose period is over hold nothing, and the same key may never be put again."""
        for name in self._keys:
            prune_key(self._paths, name, now)
            if perf_counter() > deadline:
                return
        self._keys = iter(disk.list_if_any(self._paths.keys))
