"""Restoring the events of another store: each in a file of its own under its id, those of one put in one file.

First the notes, then the keys, then the events, each of these durable before the next begins. So an event that is
there has all that is its own, whoever dies; and what a death leaves of the others means nothing, and is replaced when
they are restored after all. Who restores holds a slot, since of two both would find that an event is not there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from eventq.clock import sleep
from eventq.errors import StorageError
from eventq.ids import nanoseconds_of, stem_of
from eventq.model import FINAL_STATES, Copy, Name, Record, State
from eventq.retry import pauses
from eventq.storage.file import disk, line
from eventq.storage.file.drafts import Draft, rename_into, sync_name
from eventq.storage.file.kept import kept_folder
from eventq.storage.file.keys import Marker
from eventq.storage.file.layout import QueuePaths, bucket_of
from eventq.storage.file.notes import notes_files, remove_notes
from eventq.storage.file.wake import wake
from eventq.storage.restored import holds_key, key_end, restored

if TYPE_CHECKING:
    from eventq.storage.file.membership import Membership
    from eventq.storage.file.storage import FileStorage

SLOT = "restore:"
PATIENCE = 60.0
"""Seconds to wait for another process that restores."""


class File(NamedTuple):
    """A file to be written."""

    folder: str
    name: str
    data: bytes


class Restorer:
    """Restores events on behalf of one worker."""

    def __init__(self, storage: FileStorage, member: Membership) -> None:
        self._storage = storage
        self._member = member
        self._drafts = member.drafts

    def restore(self, copies: Sequence[Copy], names: Sequence[Name]) -> int:
        """Store what is not here yet; see `Storage.restore`."""
        with self._alone():
            for name in names:
                self._storage.take_as(name)
            new = self._missing(copies)
            for copy in new:
                self._paths(copy.record)
            self._write(list(self._notes(new)))
            self._hold_keys(new)
            self._write(list(self._events([restored(copy.record) for copy in new])))
            for paths in {self._paths(copy.record) for copy in new if copy.record.state not in FINAL_STATES}:
                self._storage.places.on_return(paths.encoded)
                wake(paths.wake)
            return len(new)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time. Each put of a page takes a while, so others look again for a minute."""
        slot = self._storage.take_slot(SLOT)
        for pause in pauses(PATIENCE):
            if slot is not None:
                break
            sleep(pause)
            slot = self._storage.take_slot(SLOT)
        if slot is None:
            raise StorageError(f"another process restores into the store at {self._storage.root}; repeat it after that")
        try:
            yield
        finally:
            slot.release()

    def _missing(self, copies: Sequence[Copy]) -> Collection[Copy]:
        """Those whose events are not here, each once."""
        here = self._storage.reader.here(self._storage.all_paths(), [copy.record.id for copy in copies])
        return {copy.record.id: copy for copy in reversed(copies) if copy.record.id not in here}.values()

    def _paths(self, record: Record) -> QueuePaths:
        return self._storage.queue_paths(record.queue)

    # ------------------------------------------------------------------ the parts

    def _notes(self, copies: Collection[Copy]) -> Iterator[File]:
        for copy in copies:
            paths, id = self._paths(copy.record), copy.record.id
            remove_notes(paths, id)  # of an earlier try, or an earlier event of this id
            for name, data in notes_files(id, copy.notes).items():
                yield File(f"{paths.notes}{bucket_of(id)}/", name, data)

    def _hold_keys(self, copies: Collection[Copy]) -> None:
        """A marker whose event is not there, yet or ever, holds its key only if that is for a time."""
        now = self._storage.clock.now()
        for copy in copies:
            record = copy.record
            if record.key is not None and holds_key(record, now):
                marker = Marker(record.key, record.id, key_end(record), record.unique == "waiting")
                self._member.keyed.hold(self._paths(record), marker)

    def _events(self, records: Sequence[Record]) -> Iterator[File]:
        now = self._storage.clock.now()
        together: dict[tuple[str, int, str], list[Record]] = {}
        for record in records:
            paths, id = self._paths(record), record.id
            if record.state in FINAL_STATES:
                yield File(_final(paths, record), id, line.copied_line(record, id) + line.ended_line(record))
            elif record.due is not None and (record.state is State.DELAYED or record.due <= now):
                place = paths.delayed_name(record.due, record.priority, id)
                yield File(*place, line.copied_line(record, id))
            else:
                together.setdefault((record.queue, record.priority, stem_of(id)), []).append(record)
        for group in together.values():
            yield self._group(group)

    def _group(self, records: list[Record]) -> File:
        """Ready events of one put: in one file, of a stem of the same time."""
        first = records[0]
        folder = self._paths(first).ready_at(first.priority)
        if len(records) == 1:
            return File(folder, first.id, line.copied_line(first, first.id))
        stem = self._member.stamps.at(nanoseconds_of(first.id))
        records.sort(key=lambda record: record.id)
        lines = [line.copied_line(record, f"{stem}.{index:05x}") for index, record in enumerate(records)]
        return File(folder, stem, b"".join(lines))

    # ------------------------------------------------------------------ files

    def _write(self, files: Sequence[File]) -> None:
        """Give each file its name when it is whole; then make the names durable, folder by folder."""
        last: dict[str, Draft] = {}
        try:
            for file in files:
                draft = self._drafts.named(file.name.rstrip("~"), file.data)
                try:
                    rename_into(draft.path, file.folder, file.name, self._storage.durable)
                except BaseException:
                    self._drafts.drop(draft)
                    raise
                before, last[file.folder] = last.get(file.folder), draft
                if before is not None:
                    disk.close(before.fd)
            if self._storage.durable:
                for folder, draft in last.items():
                    sync_name(folder, draft.fd)
        finally:
            for draft in last.values():
                disk.close(draft.fd)


def _final(paths: QueuePaths, record: Record) -> str:
    """Where an event stands that has ended."""
    folder = paths.final(record.state)
    if record.state is State.COMPLETED and record.keep is not None:
        folder = kept_folder(paths, record.keep)
    return f"{folder}{bucket_of(record.id)}/"
