"""Notes: lines that the holder of an event appends to `notes/<bucket>/<id>`: progress, yielded values, output.

They are numbered from 1, and each line has its number. A file that would exceed half of `MAX_NOTES_BYTES` is first
renamed to `<id>~`, over the one before: so the newest notes are there, the oldest go, and who misses numbers knows it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from eventq.errors import PayloadError
from eventq.model import Note
from eventq.storage.base import MAX_NOTE_BYTES
from eventq.storage.file import disk
from eventq.storage.file.drafts import make_folder, rename_into
from eventq.storage.file.layout import QueuePaths, bucket_of
from eventq.storage.file.line import one_line

log: logging.Logger = logging.getLogger("eventq.storage")

MAX_NOTES_BYTES = 1 << 20
OLDER = "~"
REMEMBERED = 256
"""Of so many events the ends of their notes are remembered, as written and as read."""

_decode: Callable[[bytes], Note] = msgspec.json.Decoder(Note).decode


class End(NamedTuple):
    """How far an event's notes were written, or read."""

    path: str
    size: int
    """Up to the end of the last whole line."""
    number: int
    """Of that line."""

    @property
    def mark(self) -> bytes:
        """How that line ends, and no other one of the event ever does: proof that the file is still the same one."""
        return b'"number":%d}\n' % self.number


class Notes:
    """The notes of one store's events, as one process writes and reads them."""

    def __init__(self) -> None:
        self._written: dict[str, End] = {}
        self._seen: dict[str, End] = {}

    # ------------------------------------------------------------------ writing

    def append(self, paths: QueuePaths, id: str, at: float, kind: str, data: bytes) -> None:
        """One more note. Only the holder of the event appends. Raises PayloadError, OSError."""
        if len(data) > MAX_NOTE_BYTES:
            raise PayloadError(f"a note of {len(data)} bytes; at most {MAX_NOTE_BYTES}: note less, or note it in parts")
        folder = f"{paths.notes}{bucket_of(id)}/"
        path = folder + id
        try:
            fd = disk.open_or_create(path)
        except FileNotFoundError:
            make_folder(folder, durable=False)
            fd = disk.open_or_create(path)
        try:
            end = self._end_of(fd, path, id)
            text = one_line(msgspec.json.encode(Note(at, kind, msgspec.Raw(data), end.number + 1))) + b"\n"
            if end.size and end.size + len(text) > MAX_NOTES_BYTES // 2:
                disk.rename(path, path + OLDER)
                full, fd = fd, -1
                disk.close(full)
                fd = disk.open_or_create(path)
                end = End(path, 0, end.number)
            try:
                disk.write_all(fd, text, end.size)
            except OSError:
                disk.truncate(fd, end.size)
                raise
        finally:
            if fd >= 0:
                disk.close(fd)
        _remember(self._written, id, End(path, end.size + len(text), end.number + 1))

    def _end_of(self, fd: int, path: str, id: str) -> End:
        """Where the next note goes, and the number of the last one. What a death left of a line is cut off."""
        present = disk.fstat(fd).st_size
        known = self._written.get(id)
        if known is not None and known[:2] == (path, present):
            mark = known.mark
            if disk.pread(fd, len(mark), present - len(mark)) == mark:
                return known
        data = disk.read_bytes(fd, present)
        size = data.rfind(b"\n") + 1
        if size < present:
            disk.truncate(fd, size)
        found = [*_parsed(_content(path + OLDER), id), *_parsed(data[:size], id)]
        return End(path, size, max((note.number for note in found), default=0))

    # ------------------------------------------------------------------ reading

    def read(self, queues: Callable[[], Iterable[QueuePaths]], id: str, after: int) -> list[Note]:
        """The notes of an event whose number is greater than `after`, in order. If those before were read here, only
        what is new is read."""
        seen = self._seen.get(id)
        if seen is not None and after >= seen.number and (fresh := self._read_on(seen, id)) is not None:
            return [note for note in fresh if note.number > after]
        found: dict[int, Note] = {}
        ends: list[End] = []
        for paths in queues():
            path = f"{paths.notes}{bucket_of(id)}/{id}"
            notes, end = _whole(path, id)
            older = _parsed(_content(path + OLDER), id)  # after the newer: a rename in between hides nothing
            found.update((note.number, note) for note in (*notes, *older))
            if end is not None:
                ends.append(end)
        if len(ends) == 1:
            _remember(self._seen, id, ends[0])
        return [found[number] for number in sorted(found) if number > after]

    def _read_on(self, seen: End, id: str) -> list[Note] | None:
        """What was added since; None if the file is another one by now."""
        mark = seen.mark
        try:
            fd = disk.open_read(seen.path)
        except FileNotFoundError:
            return None
        try:
            size = disk.fstat(fd).st_size
            data = disk.pread(fd, size - seen.size + len(mark), seen.size - len(mark)) if size >= seen.size else b""
        finally:
            disk.close(fd)
        if not data.startswith(mark):
            return None
        data = data[len(mark) : data.rfind(b"\n") + 1]
        notes = _parsed(data, id)
        if notes:
            _remember(self._seen, id, End(seen.path, seen.size + len(data), notes[-1].number))
        return notes


def _remember(ends: dict[str, End], id: str, end: End) -> None:
    ends.pop(id, None)
    ends[id] = end
    while len(ends) > REMEMBERED:
        try:
            ends.pop(next(iter(ends)), None)
        except (StopIteration, RuntimeError):
            return  # another thread is at it


def _content(path: str) -> bytes:
    """A file's whole lines; nothing, if it is not there."""
    try:
        data = disk.read_file(path, 2 * MAX_NOTES_BYTES)
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


def _whole(path: str, id: str) -> tuple[list[Note], End | None]:
    """The notes in a file, and where they end; None if there are none."""
    try:
        fd = disk.open_read(path)
    except FileNotFoundError:
        return [], None
    try:
        data = disk.read_all(fd, 2 * MAX_NOTES_BYTES)
    finally:
        disk.close(fd)
    data = data[: data.rfind(b"\n") + 1]
    notes = _parsed(data, id)
    return notes, End(path, len(data), notes[-1].number) if notes else None


def _parsed(data: bytes, id: str) -> list[Note]:
    notes = []
    for raw in data.splitlines():
        try:
            notes.append(_decode(raw))
        except msgspec.MsgspecError as error:
            log.warning("a note of event %s cannot be read: %s", id, error)
    return notes


# ---------------------------------------------------------------------------- with their event


def move_notes(source: QueuePaths, target: QueuePaths, id: str) -> None:
    """Let an event's notes follow it into another queue."""
    for name in (id + OLDER, id):
        try:
            rename_into(f"{source.notes}{bucket_of(id)}/{name}", f"{target.notes}{bucket_of(id)}/", name, durable=False)
        except FileNotFoundError:
            continue  # it has none


def notes_files(id: str, notes: Iterable[Note]) -> dict[str, bytes]:
    """All notes of an event as its files have them: the newest in the one, those before in the other."""
    lines = [one_line(msgspec.json.encode(note)) + b"\n" for note in notes]
    newest: list[bytes] = []
    size = 0
    while lines and (not newest or size + len(lines[-1]) <= MAX_NOTES_BYTES // 2):
        size += len(lines[-1])
        newest.append(lines.pop())
    files = {id + OLDER: b"".join(lines), id: b"".join(reversed(newest))}
    return {name: data for name, data in files.items() if data}


def remove_notes(paths: QueuePaths, id: str) -> None:
    """Remove an event's notes, if it has any."""
    for name in (id, id + OLDER):
        disk.unlink_if_any(f"{paths.notes}{bucket_of(id)}/{name}")
