"""How many events of a queue wait: what a queue with a `maxsize` is bounded by."""

from __future__ import annotations

from eventq.ids import stem_of
from eventq.model import State
from eventq.storage.file import disk
from eventq.storage.file.feed import MAX_FILE_BYTES
from eventq.storage.file.layout import QueuePaths
from eventq.storage.file.line import fold
from eventq.storage.file.reading import Reader, records_of


def waiting(reader: Reader, paths: QueuePaths) -> int:
    """How many events of a queue are ready or delayed, as `Reader.stats` counts them; what has ended is not read.

    It costs as much as a `stats` of the waiting ones.
    """
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
