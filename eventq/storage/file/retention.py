"""Pruning what has been kept long enough, a bounded step at a time, the oldest first.

A finished event's bucket is that of its creation, so it can be found from its id alone; what was settled later than
it was created is read before it is removed, once. What is kept for a time of its own stands in a folder for such times.
Each step goes on where the last one stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from eventq.clock import SYSTEM, Clock, perf_counter
from eventq.ids import STEM_LENGTH, stem_of
from eventq.model import FINAL_STATES, Settings, State
from eventq.storage.file import disk, line
from eventq.storage.file.feed import MAX_FILE_BYTES
from eventq.storage.file.kept import kept_folders, lower
from eventq.storage.file.keys import prune_key
from eventq.storage.file.layout import BUCKET, BUCKET_DIGITS, EVENT_FILE, NOTES_FILE, QueuePaths, bucket_of
from eventq.storage.file.notes import remove_notes

log: logging.Logger = logging.getLogger("eventq.storage")

STEP_SECONDS = 0.02
PAUSE = 1.0
"""Seconds between two steps, unless the last one did not finish."""
BUCKET_SECONDS = 16 ** (16 - BUCKET_DIGITS) / 1e9
YOUNG = 600.0
"""A count never prunes a result younger than this."""
MAX_REMEMBERED = 100_000
COUNTING_SHARE = 50
"""Counting lists all that is kept, so it may take one fiftieth of the time at most."""


class Pruner:
    """Prunes one queue. The clock paces its steps; how long one takes is measured in real time."""

    def __init__(self, paths: QueuePaths, clock: Clock = SYSTEM) -> None:
        self._paths = paths
        self._clock = clock
        self._walks: dict[str, Iterator[tuple[str, str]]] = {}
        """Per folder, where the next step goes on. A walk lists each bucket once, however many steps it takes."""
        self._later: dict[str, float] = {}
        """Of files that were read and may not go yet, when they may."""
        self._keeps = (0.0, 0.0)
        self._notes: Iterator[str] = iter(())
        self._keys: Iterator[str] = iter(())
        self._next = 0.0
        self._next_count = 0.0

    def step(self, settings: Settings, now: float, force: bool = False) -> int:
        """Remove what is due, for about 20 ms (`force`: all of it); how many records."""
        started = self._clock.monotonic()
        if started < self._next and not force:
            return 0
        deadline = float("inf") if force else perf_counter() + STEP_SECONDS
        keeps = (settings.keep, settings.keep_dead)
        if force:
            self._walks.clear()
        if force or keeps != self._keeps or len(self._later) > MAX_REMEMBERED:
            self._keeps = keeps
            self._later.clear()
        count = 0
        for state in FINAL_STATES:
            keep = settings.keep if state is State.COMPLETED else settings.keep_dead
            count += self._by_age(self._paths.final(state), keep, now, keep, deadline)
        kept = kept_folders(self._paths)
        for folder, seconds in kept.items():
            count += self._by_age(folder, lower(seconds), now, settings.keep, deadline)
        if force or started >= self._next_count:
            before = perf_counter()
            for state in FINAL_STATES:
                count += self._by_count(state, settings, now, deadline)
            for folder in kept:
                self._empty_buckets(folder, now)
                self._remove_folder(folder)
            took = perf_counter() - before
            self._next_count = self._clock.monotonic() + max(PAUSE, COUNTING_SHARE * took)
        self._prune_notes(now, max(keeps), deadline, [*map(self._paths.final, FINAL_STATES), *kept])
        self._prune_keys(now, deadline)
        self._next = self._clock.monotonic() + PAUSE if perf_counter() < deadline else 0.0
        return count

    def _buckets(self, folder: str) -> list[str]:
        """The buckets of a folder, the oldest first; what somebody else put there is not one."""
        return [name for name in disk.list_if_any(folder) if BUCKET.match(name)]

    def _files(self, folder: str) -> Iterator[tuple[str, str]]:
        for bucket in self._buckets(folder):
            for name in disk.list_if_any(folder + bucket):
                if EVENT_FILE.match(name):
                    yield bucket, name

    def _by_age(self, folder: str, least: float, now: float, keep: float, deadline: float) -> int:
        """Remove what has been kept long enough in a folder whose files are kept for so long at `least`; `keep` holds
        for those events that do not say how long they are kept."""
        count = 0
        walk = self._walks.get(folder)
        if walk is None:
            walk = self._walks[folder] = self._files(folder)
        for bucket, name in walk:
            if int(bucket, 16) * BUCKET_SECONDS > now - least:
                break  # created too recently to have been kept long enough; so are all that follow
            path = f"{folder}{bucket}/{name}"
            if self._later.get(path, now) <= now and (events := self._may_go(path, name, now, keep)):
                count += len(events)
                self._remove(path, events)
            if perf_counter() > deadline:
                return count
        del self._walks[folder]
        return count

    def _may_go(self, path: str, name: str, now: float, keep: float) -> list[str]:
        """The ids of the records in a file, if all of them have been kept long enough; else none."""
        try:
            folded = line.fold(disk.read_file(path, MAX_FILE_BYTES), stem_of(name))
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("%s cannot be read, and is not pruned: %s", path, error)
            return []
        ids, later = [], 0.0
        for index, past in folded.pasts.items():
            if past.settled is None:
                continue
            completed = past.settled.outcome == State.COMPLETED
            own = past.keep if completed else None
            later = max(later, past.settled.at + (keep if own is None else own))
            if (not completed or past.settled.has_value()) and not folded.is_moved(index):
                ids.append(f"{stem_of(name)}.{index:05x}")
        if later > now:
            self._later[path] = later
            return []
        return ids or [name]

    def _by_count(self, state: State, settings: Settings, now: float, deadline: float) -> int:
        """Remove the oldest beyond the limit, and empty buckets. Lists all of a state, so it is done seldom."""
        completed = state is State.COMPLETED
        limit = settings.keep_count if completed else settings.keep_dead_count
        count = 0
        if limit is not None:
            folder = self._paths.final(state)
            names = list(self._files(folder))
            for bucket, name in names[: max(0, len(names) - limit)]:
                path = f"{folder}{bucket}/{name}"
                events = self._may_go(path, name, now - YOUNG, 0.0) if completed else [name]
                if events:
                    self._remove(path, events)
                    count += len(events)
                if perf_counter() > deadline:
                    return count
        self._empty_buckets(self._paths.final(state), now)
        return count

    def _remove(self, path: str, ids: list[str]) -> None:
        """Remove a file, and the notes of its events."""
        try:
            disk.unlink_if_any(path)
        except (IsADirectoryError, PermissionError) as error:
            log.warning("%s cannot be pruned: %s", path, error)
            return
        self._later.pop(path, None)
        if disk.exists(f"{self._paths.notes}{bucket_of(ids[0])}/"):
            for id in ids:
                remove_notes(self._paths, id)

    def _empty_buckets(self, folder: str, now: float) -> None:
        for bucket in self._buckets(folder)[:-1]:
            if int(bucket, 16) * BUCKET_SECONDS < now - 2 * BUCKET_SECONDS:
                self._remove_folder(folder + bucket)

    def _remove_folder(self, folder: str) -> None:
        try:
            disk.rmdir(folder)
        except OSError:
            return  # not empty

    def _prune_notes(self, now: float, keep: float, deadline: float, finals: list[str]) -> None:
        """Notes of events that left no record go with their bucket."""
        for bucket in self._notes:
            if (int(bucket, 16) + 1) * BUCKET_SECONDS > now - keep:
                break
            kept = {name[:STEM_LENGTH] for folder in finals for name in disk.list_if_any(folder + bucket)}
            for name in disk.list_if_any(self._paths.notes + bucket):
                if NOTES_FILE.match(name) and name[:STEM_LENGTH] not in kept:
                    disk.unlink_if_any(f"{self._paths.notes}{bucket}/{name}")
            self._remove_folder(self._paths.notes + bucket)
            if perf_counter() > deadline:
                return
        self._notes = iter(self._buckets(self._paths.notes))

    def _prune_keys(self, now: float, deadline: float) -> None:
        """Markers of keys whose period is over hold nothing, and the same key may never be put again."""
        for name in self._keys:
            prune_key(self._paths, name, now)
            if perf_counter() > deadline:
                return
        self._keys = iter(disk.list_if_any(self._paths.keys))
