"""Reading without claiming: where an event is, what it holds, and pages of events in id order.

A reader takes no lock. Files move while it looks, so what it does not find in one search may have moved behind its
back: it searches again before it says that an event is not there.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from eventq.clock import Clock
from eventq.ids import ID_LENGTH, index_of, stem_of
from eventq.model import FINAL_STATES, Filter, Page, Record, State, Stats
from eventq.storage.file import disk, line
from eventq.storage.file.feed import MAX_FILE_BYTES
from eventq.storage.file.kept import kept_folders
from eventq.storage.file.layout import (
    BLOCKED_FILE,
    CLAIM_FILE,
    DELAYED_FILE,
    EVENT_FILE,
    PRIORITY,
    QueuePaths,
    bucket_of,
    decode_queue,
)
from eventq.storage.file.line import Folded

SEARCHES = 2
"""An event is taken for missing only if so many searches in a row miss it."""
LIKELY = 4
"""Queues that are searched first."""
MOST_SEARCHES = 10
"""Searches for an event that moves while it is searched for."""


class Found(msgspec.Struct, frozen=True):
    """An event file, where a reader saw it."""

    path: str
    name: str
    """As in `ready/`: without due time or claim prefix."""
    queue: str
    priority: int
    state: State
    """What its folder says: `claimed` files also hold events that are still ready."""
    due: float | None = None
    worker: str | None = None

    @property
    def bare(self) -> str:
        return self.name.rstrip("+")


class Reader:
    """Reads one store."""

    def __init__(self, root: str, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._found_in: tuple[str, ...] = ()
        """The queues in which events were found last: most who ask, ask for events of a few queues again and again."""

    # ------------------------------------------------------------------ files

    def open_files(self, paths: QueuePaths) -> Iterator[Found]:
        """The files of a queue that may hold open events, in the direction in which they usually move."""
        yield from self._delayed(paths)
        yield from self._blocked(paths)  # from here to `ready/`
        yield from self._ready(paths)
        yield from self._claimed(paths)
        yield from self._blocked(paths)  # and from the rooms to here: whoever reads knows a file that comes twice

    def _ready(self, paths: QueuePaths) -> Iterator[Found]:
        for folder in disk.list_if_any(paths.ready):
            if PRIORITY.match(folder):
                for name in disk.list_if_any(paths.ready + folder):
                    if EVENT_FILE.match(name):
                        path = f"{paths.ready}{folder}/{name}"
                        yield Found(path, name, paths.name, int(folder), State.READY)

    def _delayed(self, paths: QueuePaths) -> Iterator[Found]:
        now = self._clock.now()
        for bucket in disk.list_if_any(paths.delayed):
            for name in disk.list_if_any(paths.delayed + bucket):
                if (match := DELAYED_FILE.match(name)) is not None:
                    path = f"{paths.delayed}{bucket}/{name}"
                    due = int(match[1], 16) / 1e9
                    state = State.DELAYED if due > now else State.READY
                    yield Found(path, match[3], paths.name, int(match[2]), state, due)

    def _blocked(self, paths: QueuePaths) -> Iterator[Found]:
        for folder in disk.list_if_any(paths.blocked):
            for name in disk.list_if_any(paths.blocked + folder):
                if (match := BLOCKED_FILE.match(name)) is not None:
                    path = f"{paths.blocked}{folder}/{name}"
                    yield Found(path, match[4], paths.name, int(match[3]), State.READY)

    def _claimed(self, paths: QueuePaths) -> Iterator[Found]:
        workers = self._root + "/workers/"
        for worker in disk.list_if_any(workers):
            for name in disk.list_if_any(f"{workers}{worker}/claims"):
                match = CLAIM_FILE.match(name)
                if match is not None and match[1] == paths.encoded and EVENT_FILE.match(match[3]):
                    path = f"{workers}{worker}/claims/{name}"
                    yield Found(path, match[3], paths.name, int(match[2]), State.CLAIMED, None, worker)

    def final_files(self, paths: QueuePaths, state: State, start: str = "") -> Iterator[Found]:
        """The files of a final state, from a bucket on, in order."""
        folders = [paths.final(state), *(kept_folders(paths) if state is State.COMPLETED else ())]
        yield from heapq.merge(*(self._final(paths, state, folder, start) for folder in folders), key=_by_name)

    def _final(self, paths: QueuePaths, state: State, folder: str, start: str) -> Iterator[Found]:
        for bucket in disk.list_if_any(folder):
            if bucket < bucket_of(start):
                continue
            for name in disk.list_if_any(folder + bucket):
                if EVENT_FILE.match(name):
                    yield Found(f"{folder}{bucket}/{name}", name, paths.name, 0, state)

    def fold(self, found: Found) -> Folded | None:
        """A file's content; None if it has moved."""
        try:
            return line.fold(disk.read_file(found.path, MAX_FILE_BYTES), stem_of(found.name))
        except OSError:
            return None

    def records(self, found: Found) -> list[Record]:
        """The events that a file holds, each with the state in which it is."""
        folded = self.fold(found)
        return [] if folded is None else records_of(found, folded)

    # ------------------------------------------------------------------ one event

    def locate(self, queues: Iterable[QueuePaths], id: str) -> tuple[Found, Record] | None:
        """Where an event is, and what it is."""
        likely = self._found_in
        known = sorted(queues, key=lambda paths: paths.name not in likely)
        for paths in known[: len(likely)]:
            if (found := self._completed(paths, id) or self._locate(paths, id)) is not None:
                break
        else:
            found = self._search(known, id)
        if found is not None and found[0].queue not in likely:
            self._found_in = (found[0].queue, *likely)[:LIKELY]
        return found

    def _search(self, known: list[QueuePaths], id: str) -> tuple[Found, Record] | None:
        for paths in known:  # most who ask wait for a result, which is final: two names, and no listing
            if (ended := self._completed(paths, id)) is not None:
                return ended
        if (found := self._by_name(known, id)) is not None:
            return found
        for search in range(MOST_SEARCHES):
            seen = False
            for paths in known:
                found, moves = self._locate_born(paths, id)
                if found is not None:
                    return found
                seen = seen or moves
            if (found := self._by_name(known, id)) is not None:  # it has just got a file of its own
                return found
            if search and not seen:
                break
        return None

    def _by_name(self, queues: list[QueuePaths], id: str) -> tuple[Found, Record] | None:
        for paths in queues:
            if (found := self._locate(paths, id)) is not None:
                return found
        return None

    def _completed(self, paths: QueuePaths, id: str) -> tuple[Found, Record] | None:
        """Where an event with a value ends."""
        for name in (stem_of(id), id):
            found = Found(f"{paths.completed}{bucket_of(id)}/{name}", name, paths.name, 0, State.COMPLETED)
            record = self._pick(found, id)
            if record is not None:
                return found, record
        return None

    def _locate(self, paths: QueuePaths, id: str) -> tuple[Found, Record] | None:
        """By name: the file it was put in, or one of its own."""
        for found in self._places(paths, id):
            record = self._pick(found, id)
            if record is not None:
                return found, record
        return None

    def _places(self, paths: QueuePaths, id: str) -> Iterator[Found]:
        """Where an event can be by its names, in the direction in which events move: `delayed/`, `blocked/`, `ready/`,
        the rooms, the final folders. `ready/` and those need no listing."""
        names = (stem_of(id), id)
        for found in (*self._delayed(paths), *self._blocked(paths)):
            if found.bare in names:
                yield found
        for folder in disk.list_if_any(paths.ready):
            if PRIORITY.match(folder):
                for name in (*names, names[0] + "+", id + "+"):
                    yield Found(f"{paths.ready}{folder}/{name}", name, paths.name, int(folder), State.READY)
        for found in self._claimed(paths):
            if found.bare in names:
                yield found
        for state in FINAL_STATES:
            for name in names:
                yield Found(f"{paths.final(state)}{bucket_of(id)}/{name}", name, paths.name, 0, state)
        for kept in kept_folders(paths):
            for name in names:
                yield Found(f"{kept}{bucket_of(id)}/{name}", name, paths.name, 0, State.COMPLETED)

    def _locate_born(self, paths: QueuePaths, id: str) -> tuple[tuple[Found, Record] | None, bool]:
        """By content: it was given back together with others. The only search that reads the open files.

        Also whether it moves right now, so that it may be where the search has been: a file that held it does not any
        more, or a file went away before it was read.
        """
        needle = b'"born":"%b"' % id.encode()
        moves = False
        for found in self.open_files(paths):
            if found.name[:16] != id[:16]:
                continue  # wherever an event goes, its file has a name of the same time
            try:
                data = disk.read_file(found.path, MAX_FILE_BYTES)
            except OSError:
                moves = True
                continue
            if needle in data:
                moves = True
                record = self._record_of(found, line.fold(data, stem_of(found.name)), id)
                if record is not None:
                    return (found, record), True
        return None, moves

    def _pick(self, found: Found, id: str) -> Record | None:
        """One event of a file, without reading the lines of the others."""
        try:
            data = disk.read_file(found.path, MAX_FILE_BYTES)
        except OSError:
            return None  # it is not there, or not any more
        return self._record_of(found, line.fold(line.lines_of(data, id), stem_of(id)), id)

    def _record_of(self, found: Found, folded: Folded, id: str) -> Record | None:
        """One event of a file."""
        for record in records_of(found, folded, self._owed(found, folded)):
            if record.id == id:
                return record
        return None

    def _owed(self, found: Found, folded: Folded) -> set[int]:
        """What moved out of a file, and stands where it was until its new file has its name: that is owed."""
        owed: set[int] = set()
        if found.worker is not None:
            for move in folded.moves:
                if disk.exists(f"{self._root}/workers/{found.worker}/drafts/{move.to.rpartition('/')[2]}"):
                    owed.update(move.of)
        return owed

    # ------------------------------------------------------------------ many events

    def here(self, queues: Sequence[QueuePaths], ids: Iterable[str]) -> set[str]:
        """Which of these events are in the store, in whatever state. Lists all that is open, and reads only files of
        their times. Raises OSError for one that cannot be read: it might be there that an event is."""
        wanted = set(ids)
        found: set[str] = set()
        for _ in range(SEARCHES):  # what is missed once may have moved behind the search
            times = {id[:16] for id in wanted - found}
            for paths in queues:
                for file in self._of_times(paths, times) if times else ():
                    try:
                        folded = line.fold(disk.read_file(file.path, MAX_FILE_BYTES), stem_of(file.name))
                    except OSError as error:
                        if isinstance(error, FileNotFoundError) or disk.is_wrong_kind(error):
                            continue
                        raise
                    found.update(record.id for record in records_of(file, folded, self._owed(file, folded)))
        return wanted & found

    def _of_times(self, paths: QueuePaths, times: Collection[str]) -> Iterator[Found]:
        """The files of a queue whose names have one of these times: 16 digits each."""
        for found in self.open_files(paths):
            if found.name[:16] in times:
                yield found
        buckets = sorted({bucket_of(time) for time in times})
        folders = {paths.final(state): state for state in FINAL_STATES}
        for folder, state in (folders | dict.fromkeys(kept_folders(paths), State.COMPLETED)).items():
            for bucket in buckets:
                for name in disk.list_if_any(folder + bucket):
                    if name[:16] in times and EVENT_FILE.match(name):
                        yield Found(f"{folder}{bucket}/{name}", name, paths.name, 0, state)

    def claims_of(self, worker: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Ids of the events that a worker has started, and the queues of its claimed files."""
        ids: list[str] = []
        queues: set[str] = set()
        for name in disk.list_if_any(f"{self._root}/workers/{worker}/claims"):
            match = CLAIM_FILE.match(name)
            if match is None or not EVENT_FILE.match(match[3]):
                continue
            queue = decode_queue(match[1])
            path = f"{self._root}/workers/{worker}/claims/{name}"
            records = self.records(Found(path, match[3], queue, int(match[2]), State.CLAIMED, None, worker))
            ids += [record.id for record in records if record.state is State.CLAIMED]
            queues.update(record.queue for record in records)
        return tuple(sorted(ids)), tuple(sorted(queues))

    def has_ready(self, paths: QueuePaths, now: float) -> bool:
        """Whether there is a file to claim."""
        if any(True for _ in self._ready(paths)):
            return True
        return any(found.due is not None and found.due <= now for found in self._delayed(paths))

    def has_claims(self, paths: QueuePaths, own: str, held: Collection[str]) -> bool:
        """Whether a worker has claimed events of a queue that are open. In the folder `own` only those files count that
        are `held`: the others are finished, and kept as drafts."""
        for worker in disk.list_if_any(self._root + "/workers"):
            claims = f"{self._root}/workers/{worker}/claims/"
            for name in disk.list_if_any(claims):
                match = CLAIM_FILE.match(name)
                if match is None or match[1] != paths.encoded or (claims == own and claims + name not in held):
                    continue
                folded = self.fold(Found(claims + name, match[3], paths.name, int(match[2]), State.CLAIMED))
                if folded is not None and folded.open_indexes():
                    return True
        return False

    # ------------------------------------------------------------------ pages

    def scan(self, paths: QueuePaths, state: State, wanted: Filter, cursor: str | None, limit: int) -> Page:
        """A page of records of one state, in id order."""
        if limit < 1:
            raise ValueError(f"limit={limit}: a page has at least one record")
        records: list[Record] = []
        for record in self._ordered(paths, state, cursor or ""):
            if (cursor is None or record.id > cursor) and record.state is state and wanted.matches(record):
                if len(records) == limit:
                    return Page(tuple(records), records[-1].id)
                records.append(record)
        return Page(tuple(records))

    def _ordered(self, paths: QueuePaths, state: State, cursor: str) -> Iterator[Record]:
        """Records in id order, from about a cursor on: files of one time stamp are read together."""
        group: list[Found] = []
        stamp = ""
        for found in self._candidates(paths, state, cursor):
            if found.name[:16] < cursor[:16]:
                continue
            if found.name[:16] != stamp:
                yield from self._group(group)
                group, stamp = [], found.name[:16]
            group.append(found)
        yield from self._group(group)

    def _group(self, group: list[Found]) -> Iterator[Record]:
        seen: dict[str, Record] = {}
        for found in group:
            for record in self.records(found):
                seen.setdefault(record.id, record)
        for id in sorted(seen):
            yield seen[id]

    def _candidates(self, paths: QueuePaths, state: State, cursor: str) -> Iterator[Found]:
        """The files that may hold events of a state. What has ended in company is in a room, or came back from one."""
        if state is State.DELAYED:
            return iter(sorted(self._delayed(paths), key=_by_name))
        if state is State.CLAIMED:
            return iter(sorted(self._claimed(paths), key=_by_name))
        open_files = sorted(self.open_files(paths), key=_by_name)
        if state is State.READY:
            return iter(open_files)
        used = [found for found in open_files if found.worker is not None or found.name.endswith("+")]
        return heapq.merge(self.final_files(paths, state, cursor), used, key=_by_name)

    # ------------------------------------------------------------------ counts

    def stats(self, paths: QueuePaths, now: float) -> Stats:
        """Counts per state, each event once."""
        counts = dict.fromkeys(State, 0)
        oldest: float | None = None
        seen: set[str] = set()
        for found in self.open_files(paths):
            if found.bare in seen:
                continue
            try:
                data = disk.read_file(found.path, MAX_FILE_BYTES)
            except OSError:
                continue
            seen.add(found.bare)
            if found.due is None and found.state is State.READY and found.name == stem_of(found.name):
                counted = data.count(b"\n")  # nobody has claimed it yet: every line is an event
                counts[State.READY] += counted
                first = int(found.name[:16], 16) / 1e9 if counted else None
                oldest = first if oldest is None or (first is not None and first < oldest) else oldest
                continue
            for record in records_of(found, line.fold(data, stem_of(found.name))):
                counts[record.state] += 1
                if record.state is State.READY and (oldest is None or record.created < oldest):
                    oldest = record.created
        for state in (State.COMPLETED, State.DEAD, State.EXPIRED, State.CANCELLED):
            for found in self.final_files(paths, state):
                counts[state] += len(self.records(found)) if state is State.COMPLETED else 1
        return Stats(
            **{state.value: count for state, count in counts.items()},
            oldest_ready=None if oldest is None else max(0.0, now - oldest),
        )


def _by_name(found: Found) -> str:
    return found.name


def records_of(found: Found, folded: Folded, owed: Collection[int] = ()) -> list[Record]:
    """The events of a file as a reader sees them; moved ones are elsewhere (but for those whose move is `owed`), and
    completed ones without a value are gone."""
    records = []
    moved = {index for move in folded.moves for index in move.of if index not in owed}
    own = index_of(found.bare) if len(found.bare) == ID_LENGTH else None
    for index in sorted(folded.lines):
        if index in moved or (own is not None and index != own):
            continue
        past = folded.pasts.get(index)
        state = _state_of(found, past)
        if state is None:
            continue
        record = line.record_of(folded, index, found.queue, found.priority, state, found.due)
        records.append(record)
    return records


def _state_of(found: Found, past: line.Past | None) -> State | None:
    settled = None if past is None else past.settled
    if found.state not in (State.READY, State.DELAYED, State.CLAIMED):
        # in completed/ the folder is the truth, even if a power cut took the last record
        gone = found.state is State.COMPLETED and settled is not None and not settled.has_value()
        return None if gone else found.state
    if settled is not None:
        if settled.outcome == State.COMPLETED:
            return State.COMPLETED if settled.has_value() else None
        return State(settled.outcome)
    if found.state is State.CLAIMED:
        return State.CLAIMED if past is not None and past.running is not None else State.READY
    return found.state
