"""Putting events: appended to this process's newest file while nobody has claimed it, else in a file of their own.

When claimers keep up, a file holds one event; when they fall behind, files fill and the cost per event falls:
batching by back-pressure, with nothing to configure.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from eventq.clock import Clock
from eventq.errors import OutcomeUnknown, PayloadError, StorageClosed, StorageError
from eventq.ids import Stamps, event_id
from eventq.model import PutOptions, Settings
from eventq.storage.base import LOOK_INTERVAL, MAX_PUT_BYTES, MAX_PUT_EVENTS
from eventq.storage.bounds import Bounds
from eventq.storage.file import disk, line
from eventq.storage.file.drafts import Draft, Drafts
from eventq.storage.file.layout import QueuePaths
from eventq.storage.file.presence import CLOSED
from eventq.storage.file.wake import wake

MAX_APPENDS = 64
MAX_AGE = 0.010
MAX_APPENDED_BYTES = 16 << 10
"""A larger event gets a file of its own, so that it does not slow the claim of others."""
PADDING = 16 << 10
_BYTES = [f"{number:02x}" for number in range(256)]


class Newest:
    """This process's newest event file, to which it may still append."""

    __slots__ = (
        "born", "broken", "capacity", "count", "durable", "fd", "head", "path", "priority", "queue", "size", "stem",
        "syncing",
    )  # fmt: skip

    def __init__(
        self, draft: Draft, paths: QueuePaths, priority: int, stem: str, data: bytes, capacity: int, born: float
    ) -> None:
        size = len(data)
        self.fd: int = draft.fd
        self.queue: str = paths.name
        self.priority: int = priority
        self.stem: str = stem
        self.head: bytes = data[: line.INDEX]
        self.path: str = f"{paths.ready_at(priority)}{stem}"
        self.size: int = size
        self.durable: int = size
        self.capacity: int = capacity
        self.count: int = 1
        self.born: float = born
        self.broken: bool = False
        self.syncing: threading.Lock = threading.Lock()

    def sync(self, upto: int) -> None:
        """Make the first `upto` bytes durable. Threads that wait here share one `fdatasync`."""
        with self.syncing:
            if self.durable >= upto:
                return
            if not self.broken:
                size = self.size
                try:
                    disk.sync(self.fd)
                    self.durable = size
                    return
                except OSError:
                    self.broken = True  # a second fdatasync of the same file would lie
            raise OutcomeUnknown(
                "the event is visible, but making it durable failed: it may or may not survive a power cut; "
                "put it again only if being handled twice does no harm"
            )

    def __del__(self) -> None:
        if self.fd >= 0:
            disk.close(self.fd)


class Producer:
    """Puts events without keys. Safe for several threads."""

    def __init__(
        self, drafts: Drafts, stamps: Stamps, durable: bool, clock: Clock, settings: Callable[[str], Settings],
        bounds: Bounds, published: Callable[[str, int, str], None],
    ) -> None:  # fmt: skip
        self._drafts = drafts
        self._stamps = stamps
        self._durable = durable
        self._now = clock.monotonic
        self._settings = settings
        self._bounds = bounds
        self._published = published
        self._lock = threading.RLock()  # a signal's handler may close the store in the middle of a put
        self._newest: Newest | None = None
        self._burst = False
        self._closed = False
        self._options: PutOptions | None = None
        self._prefix = b""
        self._limit: tuple[str, float, int, int | None] = ("", 0.0, 0, None)
        """A queue, until when the rest is taken for granted, its largest payload, its `maxsize`: one value, replaced as
        a whole, since several threads put."""

    def put(self, paths: QueuePaths, payloads: Sequence[bytes], options: PutOptions, bounded: bool = True) -> list[str]:
        """Store events; see `Storage.put`. Not `bounded`: whatever the queue's `maxsize`."""
        if len(payloads) == 1:
            return [self._put_one(paths, payloads[0], options, bounded)]
        return self._put_many(paths, payloads, options)

    def _put_one(self, paths: QueuePaths, payload: bytes, options: PutOptions, bounded: bool) -> str:
        large = len(payload) > MAX_APPENDED_BYTES
        now = self._now()
        known, until, limit, maxsize = self._limit
        if now >= until or paths.name != known:
            limit, maxsize = self._read_limit(paths.name, now)
        if len(payload) > limit:
            raise _too_large(paths, payload, limit)
        if maxsize is not None and bounded:
            with self._bounds.admit(paths.name, maxsize, 1):
                return self._put_one(paths, payload, options, False)
        with self._lock:
            if options is not self._options:
                self._options, self._prefix = options, line.event_options(options)
            newest = self._newest
            if (
                newest is not None
                and newest.queue == paths.name
                and newest.priority == options.priority
                and newest.count < MAX_APPENDS
                and options.due is None
                and not large
                and now - newest.born < MAX_AGE
                and not newest.broken
            ):
                index = newest.count
                text = line.event_line(newest.head, index, payload, options.codec, self._prefix)
                if self._append(newest, text):
                    newest.count = index + 1
                    self._burst = True
                    upto = newest.size
                else:
                    newest = None
            else:
                newest = None
            if newest is None:
                return event_id(self._new_file(paths, (payload,), options, not large), 0)
        if self._durable:
            newest.sync(upto)
        return event_id(newest.stem, index)

    def _put_many(self, paths: QueuePaths, payloads: Sequence[bytes], options: PutOptions) -> list[str]:
        if not payloads:
            return []
        if len(payloads) > MAX_PUT_EVENTS:
            raise PayloadError(f"{len(payloads)} events in one put; at most {MAX_PUT_EVENTS}: put them in several")
        largest = max(payloads, key=len)
        limit, maxsize = self._read_limit(paths.name, self._now())
        if len(largest) > limit:
            raise _too_large(paths, largest, limit)
        if (size := sum(map(len, payloads))) > MAX_PUT_BYTES:
            raise PayloadError(f"{size} bytes in one put; at most {MAX_PUT_BYTES}: put them in several")
        with self._bounds.admit(paths.name, maxsize, len(payloads)), self._lock:
            if options is not self._options:
                self._options, self._prefix = options, line.event_options(options)
            stem = self._new_file(paths, payloads, options, False)
        return _ids(stem, len(payloads))

    def _read_limit(self, queue: str, now: float) -> tuple[int, int | None]:
        settings = self._settings(queue)
        self._limit = (queue, now + LOOK_INTERVAL, settings.max_bytes, settings.maxsize)
        return settings.max_bytes, settings.maxsize

    def _append(self, newest: Newest, text: bytes) -> bool:
        """One more line, if the file's name still stands in `ready/`: the whole append rule.

        A claimer renames first and locks after; we lock first and look after. So either it finds our line, or we
        find its rename. The name alone proves it, since names are never used twice and a file that comes back to
        `ready/` comes under another. The lock is never waited for: whoever has it has claimed the file.
        """
        if not disk.try_lock(newest.fd):
            self._newest = None
            return False
        try:
            size = newest.size
            if not disk.exists(newest.path) or size < newest.capacity < size + len(text):
                self._newest = None
                return False
            try:
                # at our own offset: O_APPEND would ignore it, and go to the end of the padding
                written = disk.pwrite(newest.fd, text, size)
            except OSError as error:
                if not disk.is_full(error):
                    self._newest = None
                    raise StorageError(f"cannot put an event: {error}") from error
                written = 0
            if written != len(text):
                self._newest = None
                disk.truncate(newest.fd, size)  # needs no space; a draft may find some, or says why not
                return False
            newest.size = size + written
            return True
        finally:
            disk.unlock(newest.fd)

    def _new_file(self, paths: QueuePaths, payloads: Sequence[bytes], options: PutOptions, stay_open: bool) -> str:
        if self._closed:
            raise StorageClosed(CLOSED)
        stem = self._stamps.next()
        data = line.event_lines(stem, payloads, options.codec, self._prefix)
        # The last file of a durable store got a second event: overwriting inside this one's padding will then need
        # no journal commit, which makes the next fdatasync 1.4 times as fast on ext4.
        padding = PADDING if stay_open and self._burst and self._durable and options.due is None else 0
        self._burst = False
        try:
            draft = self._drafts.quick(stem, data, padding)
        except OSError as error:
            raise StorageError(f"nothing was put: {error}") from error
        if options.due is None:
            folder, name = paths.ready_at(options.priority), stem
        else:
            folder, name = paths.delayed_name(options.due, options.priority, stem)
        try:
            self._drafts.publish(draft, folder, name)
        except OutcomeUnknown:
            disk.close(draft.fd)
            raise
        except StorageError:
            self._drafts.drop(draft)
            raise
        self._newest = None  # what comes next is put later, so its id must sort later
        if stay_open and options.due is None:
            self._newest = Newest(draft, paths, options.priority, stem, data, max(len(data), padding), self._now())
        else:
            disk.close(draft.fd)
        self._published(paths.name, options.priority, name)
        wake(paths.wake)
        return stem

    def surrender(self, name: str) -> int:
        """The descriptor of the newest file, if a claimer of this process has just claimed it; else -1.

        Saves it the opening. Not in a durable store, where another thread may still wait for its `fdatasync`.
        """
        newest = self._newest
        if newest is None or newest.stem != name or self._durable or not self._lock.acquire(blocking=False):
            return -1
        try:
            if self._newest is not newest:
                return -1
            self._newest = None
            fd, newest.fd = newest.fd, -1
            return fd
        finally:
            self._lock.release()

    def close(self) -> None:
        """Let a put that is under way come to its end, and refuse those that come later: their drafts would be made in
        a room that is about to go."""
        with self._lock:
            self._closed = True
            self._newest = None

    def abandon(self) -> None:
        """Forget the newest file; its descriptor closes with the last thread that syncs it."""
        self._newest = None


def _ids(stem: str, count: int) -> list[str]:
    """The ids of a put, joined from two parts: formatting each of them would take five times as long."""
    beginnings = [f"{stem}.{number:03x}" for number in range((count + 255) // 256)]
    return [beginning + end for beginning in beginnings for end in _BYTES][:count]


def _too_large(paths: QueuePaths, payload: bytes, limit: int) -> PayloadError:
    return PayloadError(
        f"a payload of {len(payload)} bytes; queue {paths.name!r} takes {limit} (its max_bytes): "
        "store large data elsewhere and put where it is"
    )
