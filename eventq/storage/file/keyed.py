"""Putting events with keys: at most one holds a key, however many are put at once, and whoever dies at it.

The draft first, then the marker, then the event's name: a draft whose marker names it is published by whoever finds
it, any other is dropped. A debounced put renames its marker over that of the event whose place it takes, and cancels
that event once its own has its name: whoever dies in between leaves one of the two, or both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from eventq.clock import Clock
from eventq.errors import OutcomeUnknown, QueueFull, StorageError
from eventq.ids import Stamps, event_id, is_event_id, stem_of
from eventq.model import PutOptions, State
from eventq.storage.base import debounced
from eventq.storage.bounds import Bounds
from eventq.storage.file import disk, keys, line
from eventq.storage.file.drafts import Draft, Drafts
from eventq.storage.file.keys import Marker, displace_key, is_held, marker_for, read_marker, release_key, take_key
from eventq.storage.file.layout import QueuePaths
from eventq.storage.file.presence import Room
from eventq.storage.file.reading import Reader
from eventq.storage.file.wake import wake

log: logging.Logger = logging.getLogger("eventq.storage")


class Keyed:
    """Puts events with keys. The caller has the claims lock."""

    def __init__(
        self, root: str, room: Room, drafts: Drafts, stamps: Stamps, durable: bool, clock: Clock, reader: Reader,
        bounds: Bounds, published: Callable[[str, int, str], None], displaced: Callable[[str, str, str], None],
    ) -> None:  # fmt: skip
        self._workers = root + "/workers/"
        self._room = room
        self._drafts = drafts
        self._stamps = stamps
        self._durable = durable
        self._clock = clock
        self._reader = reader
        self._bounds = bounds
        self._published = published
        self._displaced = displaced

    def put(
        self, paths: QueuePaths, payloads: Sequence[bytes], options: PutOptions, maxsize: int | None = None
    ) -> tuple[str, bool]:
        """Put events unless their key is held: the first one, or who holds it; see `Storage.put_key`."""
        assert options.key is not None
        put = self._put if options.debounce is None else self._debounce
        if maxsize is None:
            return put(paths, payloads, options)
        try:
            with self._bounds.admit(paths.name, maxsize, len(payloads)):
                return put(paths, payloads, options)
        except QueueFull:
            holder = self._holder(paths, options.key)
            if holder is None:
                raise
            if options.debounce is None or holder.since is None:
                return holder.id, False
        return put(paths, payloads, options)  # it takes the place of one that is counted

    def hold(self, paths: QueuePaths, marker: Marker) -> None:
        """Give a free key to an event that is about to be restored. Until that is there, others may take it."""
        self._take(paths, marker, stem_of(marker.id), None)

    def _put(self, paths: QueuePaths, payloads: Sequence[bytes], options: PutOptions) -> tuple[str, bool]:
        """The first put of a key wins."""
        assert options.key is not None
        now = self._clock.now()
        stem = self._stamps.at(int(now * 1e9))
        id = event_id(stem, 0)
        holder = self._store(paths, payloads, options, stem, marker_for(options.key, id, options, now))
        return holder, holder == id

    def _debounce(self, paths: QueuePaths, payloads: Sequence[bytes], options: PutOptions) -> tuple[str, bool]:
        """The last put of a key wins, if the first one was debounced, too."""
        assert options.key is not None
        for _ in range(keys.REPLACE_TRIES):
            earlier = self._holder(paths, options.key)
            if earlier is not None and earlier.since is None:
                return earlier.id, False
            now = self._clock.now()
            since = now
            over: tuple[str, ...] = ()
            if earlier is not None and earlier.since is not None:
                since, over = earlier.since, self._not_yet_there(paths, earlier)
            stem = self._stamps.at(int(now * 1e9))
            marker = Marker(options.key, event_id(stem, 0), None, True, since, over)
            if self._store(paths, payloads, debounced(options, now, since), stem, marker, earlier) != marker.id:
                continue  # another one was faster: with it, look again
            if earlier is not None:
                for id in (earlier.id, *over):
                    self._displaced(paths.name, id, marker.id)
            self._yield(paths, marker)
            return marker.id, True
        raise keys.too_fast(options.key)

    def _not_yet_there(self, paths: QueuePaths, earlier: Marker) -> tuple[str, ...]:
        """Events that this chain displaced while they were drafts: they come, and whoever looked for them before has
        missed them. One that has its place already is found by the put that displaced it, or by this one."""
        late = tuple(id for id in earlier.over if self._holds(paths, Marker(earlier.key, id, waiting=True)))
        return (*late, earlier.id) if self._is_drafted(earlier.id) else late

    def _yield(self, paths: QueuePaths, marker: Marker) -> None:
        """A later put that took the key before our event had its place may have looked for it too early. If that one
        is there by now we do its work; if it is not, it has yet to look, and may still fail."""
        try:
            latest = read_marker(paths, marker.key)
            if latest is None or latest.id == marker.id or not is_event_id(latest.id):
                return
            if self._reader.locate([paths], latest.id) is not None:
                self._displaced(paths.name, marker.id, latest.id)
        except OSError as error:  # ours is put, whatever became of its key
            log.warning("event %s may run although a later one took its place: %s", marker.id, error)

    def _store(
        self, paths: QueuePaths, payloads: Sequence[bytes], options: PutOptions, stem: str, marker: Marker,
        earlier: Marker | None = None,
    ) -> str:  # fmt: skip
        """Store an event if its marker gets the key: a free one, or that of `earlier`. The id that holds it then."""
        body = line.event_lines(stem, payloads, options.codec, line.event_options(options))
        draft = self._drafts.named(paths.keyed_draft(options.due, options.priority, stem), body)
        try:
            holder = self._take(paths, marker, stem, earlier)
        except BaseException:
            disk.close(draft.fd)
            self._withdraw(paths, marker, draft.path, earlier)
            raise
        if holder != marker.id:
            self._drafts.drop(draft)
            return holder
        self._publish(paths, options, stem, draft, marker, earlier)
        wake(paths.wake)
        return holder

    def _take(self, paths: QueuePaths, marker: Marker, stem: str, earlier: Marker | None) -> str:
        """Put the marker in its place if that is free, or still `earlier`'s; who holds the key then ("": unknown)."""
        source = self._drafts.named(stem + ".marker", msgspec.json.encode(marker))
        try:
            if self._durable:
                disk.sync_folder(self._room.drafts)
            if earlier is not None:
                return marker.id if displace_key(paths, earlier, source.path, self._durable) else ""
            now = self._clock.now()
            return take_key(paths, marker, source.path, self._durable, now, lambda held: self._holds(paths, held))
        finally:
            disk.close(source.fd)
            self._discard(source.path)

    def _publish(
        self, paths: QueuePaths, options: PutOptions, stem: str, draft: Draft, marker: Marker, earlier: Marker | None
    ) -> None:
        folder, name = paths.ready_at(options.priority), stem
        if options.due is not None:
            folder, name = paths.delayed_name(options.due, options.priority, stem)
        try:
            self._drafts.publish(draft, folder, name)
        except BaseException as error:
            if not isinstance(error, OutcomeUnknown) and (isinstance(error, StorageError) or disk.exists(draft.path)):
                self._withdraw(paths, marker, draft.path, earlier)
            raise
        finally:
            disk.close(draft.fd)
        self._published(paths.name, options.priority, name)

    def _withdraw(self, paths: QueuePaths, marker: Marker, draft: str, earlier: Marker | None) -> None:
        """Take a keyed put back that found no place: the marker first, without which its draft means nothing."""
        try:
            if earlier is None:
                release_key(paths, marker.key, marker.id)
            else:
                self._give_back(paths, marker, earlier)
        except OSError as error:
            raise OutcomeUnknown(
                f"the event has its key and not its place, and neither could be undone ({error}): it appears when this "
                "worker leaves; put it again with the same key"
            ) from error
        self._discard(draft)

    def _give_back(self, paths: QueuePaths, marker: Marker, earlier: Marker) -> None:
        """The key is again the earlier event's, if we got it, and nobody has taken it from us meanwhile."""
        latest = read_marker(paths, marker.key)
        if latest is None or latest.id != marker.id:
            return
        source = self._drafts.named(stem_of(marker.id) + ".marker", msgspec.json.encode(earlier))
        try:
            displace_key(paths, marker, source.path, self._durable)
        finally:
            disk.close(source.fd)
            self._discard(source.path)

    def _discard(self, path: str) -> None:
        try:
            disk.unlink_if_any(path)
        except OSError as error:
            log.warning("a draft stays behind until its worker leaves: %s", error)

    # ------------------------------------------------------------------ who has a key

    def _holder(self, paths: QueuePaths, key: str) -> Marker | None:
        """The marker of whoever holds a key now."""
        marker = read_marker(paths, key)
        if marker is None or not is_held(marker, self._clock.now(), lambda held: self._holds(paths, held)):
            return None
        return marker

    def _holds(self, paths: QueuePaths, marker: Marker) -> bool:
        """Whether the event that a marker names still holds its key."""
        if not is_event_id(marker.id):
            return False
        if self._is_drafted(marker.id):
            return True
        located = self._reader.locate([paths], marker.id)
        if located is None:
            return False
        record = located[1]
        if record.state in (State.READY, State.DELAYED):
            return not marker.waiting or not record.attempts
        return record.state is State.CLAIMED and not marker.waiting

    def _is_drafted(self, id: str) -> bool:
        """Whether an event is about to be published, by its producer or by whoever buries it."""
        stem = stem_of(id)
        for worker in disk.list_if_any(self._workers):
            names = disk.list_if_any(f"{self._workers}{worker}/drafts")
            if any(name.startswith("key~") and name.endswith(stem) for name in names):
                return True
        return False
