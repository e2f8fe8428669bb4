"""Notes: lines that the holder of an event appends to `notes/<bucket>/<id>`: progress, yielded values, output."""

from __future__ import annotations

import logging

import msgspec

from eventq.model import Note
from eventq.storage.file import disk
from eventq.storage.file.drafts import make_folder, rename_into
from eventq.storage.file.layout import QueuePaths, bucket_of
from eventq.storage.file.line import one_line

log: logging.Logger = logging.getLogger("eventq.storage")

MAX_NOTES_BYTES = 1 << 20


def append_note(paths: QueuePaths, id: str, note: Note) -> None:
    """One more note; past 1 MiB further ones are dropped, and the last line says so."""
    folder = f"{paths.notes}{bucket_of(id)}/"
    try:
        fd = disk.open_or_create(folder + id)
    except FileNotFoundError:
        make_folder(folder, durable=False)
        fd = disk.open_or_create(folder + id)
    try:
        size = disk.fstat(fd).st_size
        text = one_line(msgspec.json.encode(note)) + b"\n"
        if size + len(text) > MAX_NOTES_BYTES:
            if size > MAX_NOTES_BYTES:
                return
            text = msgspec.json.encode(Note(note.at, "truncated")) + b"\n"
            text += b" " * max(0, MAX_NOTES_BYTES + 1 - size - len(text))
        disk.write_all(fd, text, size)
    finally:
        disk.close(fd)


def move_notes(source: QueuePaths, target: QueuePaths, id: str) -> None:
    """Let an event's notes follow it into another queue."""
    try:
        rename_into(f"{source.notes}{bucket_of(id)}/{id}", f"{target.notes}{bucket_of(id)}/", id, durable=False)
    except FileNotFoundError:
        return  # it has none


def read_notes(paths: QueuePaths, id: str) -> list[Note]:
    """The notes of an event, in order."""
    try:
        data = disk.read_file(f"{paths.notes}{bucket_of(id)}/{id}", 2 * MAX_NOTES_BYTES)
    except FileNotFoundError:
        return []
    notes = []
    for raw in data[: data.rfind(b"\n") + 1].splitlines():
        try:
            notes.append(msgspec.json.decode(raw, type=Note))
        except msgspec.MsgspecError as error:
            log.warning("a note of event %s cannot be read: %s", id, error)
    return notes
