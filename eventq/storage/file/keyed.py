"""Putting events with keys: at most one holds a key, however many are put at once, and whoever dies at it.

The draft first, then the marker, then the event's name: a draft whose marker names it is published by whoever finds
it, any other is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from eventq.clock import Clock
from eventq.errors import OutcomeUnknown, StorageError
from eventq.ids import Stamps, event_id, is_event_id, stem_of
from eventq.model import PutOptions, State
from eventq.storage.file import disk, line
from eventq.storage.file.drafts import Draft, Drafts
from eventq.storage.file.keys import Marker, marker_for, release_key, take_key
from eventq.storage.file.layout import QueuePaths
from eventq.storage.file.presence import Room
from eventq.storage.file.reading import Reader
from eventq.storage.file.wake import wake

log: logging.Logger = logging.getLogger("eventq.storage")


class Keyed:
    """Puts events with keys. The caller has the claims lock."""

    def __init__(
        self, root: str, room: Room, drafts: Drafts, stamps: Stamps, durable: bool, clock: Clock, reader: Reader,
        published: Callable[[str, int, str], None],
    ) -> None:  # fmt: skip
        self._workers = root + "/workers/"
        self._room = room
        self._drafts = drafts
        self._stamps = stamps
        self._durable = durable
        self._clock = clock
        self._reader = reader
        self._published = published

    def put(self, paths: QueuePaths, payload: bytes, options: PutOptions) -> tuple[str, bool]:
        """Put an event unless its key is held; see `Storage.put_key`."""
        assert options.key is not None
        now = self._clock.now()
        stem = self._stamps.at(int(now * 1e9))
        id = event_id(stem, 0)
        body = line.event_lines(stem, [payload], options.codec, line.event_options(options))
        draft = self._drafts.named(paths.keyed_draft(options.due, options.priority, stem), body)
        try:
            holder = self._take(paths, marker_for(options.key, id, options, now), stem, now)
        except BaseException:
            disk.close(draft.fd)
            self._withdraw(paths, options.key, id, draft.path)
            raise
        if holder != id:
            self._drafts.drop(draft)
            return holder, False
        self._publish(paths, options, stem, draft)
        wake(paths.wake)
        return id, True

    def _take(self, paths: QueuePaths, marker: Marker, stem: str, now: float) -> str:
        """Put the marker in its place if that is free; who holds the key then."""
        source = self._drafts.named(stem + ".marker", msgspec.json.encode(marker))
        try:
            if self._durable:
                disk.sync_folder(self._room.drafts)
            return take_key(paths, marker, source.path, self._durable, now, lambda held: self._holds(paths, held))
        finally:
            self._drafts.drop(source)

    def _publish(self, paths: QueuePaths, options: PutOptions, stem: str, draft: Draft) -> None:
        assert options.key is not None
        folder, name = paths.ready_at(options.priority), stem
        if options.due is not None:
            folder, name = paths.delayed_name(options.due, options.priority, stem)
        try:
            self._drafts.publish(draft, folder, name)
        except BaseException as error:
            if not isinstance(error, OutcomeUnknown) and (isinstance(error, StorageError) or disk.exists(draft.path)):
                self._withdraw(paths, options.key, event_id(stem, 0), draft.path)
            raise
        finally:
            disk.close(draft.fd)
        self._published(paths.name, options.priority, name)

    def _withdraw(self, paths: QueuePaths, key: str, id: str, source: str) -> None:
        """Take a keyed put back that found no place: the marker first, without which its draft means nothing."""
        try:
            release_key(paths, key, id)
        except OSError as error:
            raise OutcomeUnknown(
                f"the event has its key and not its place, and neither could be undone ({error}): it appears when this "
                "worker leaves; put it again with the same key"
            ) from error
        try:
            disk.unlink_if_any(source)
        except OSError as error:
            log.warning("a draft stays behind until its worker leaves: %s", error)

    def _holds(self, paths: QueuePaths, marker: Marker) -> bool:
        """Whether the event that a marker names still holds its key."""
        if not is_event_id(marker.id):
            return False
        for worker in disk.list_if_any(self._workers):
            names = disk.list_if_any(f"{self._workers}{worker}/drafts")
            if any(name.startswith("key~") and name.endswith(stem_of(marker.id)) for name in names):
                return True  # about to be published, by its producer or by whoever buries it
        located = self._reader.locate([paths], marker.id)
        if located is None:
            return False
        record = located[1]
        if record.state in (State.READY, State.DELAYED):
            return not marker.waiting or not record.attempts
        return record.state is State.CLAIMED and not marker.waiting
