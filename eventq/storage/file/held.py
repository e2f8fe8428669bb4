"""Claimed files in this worker's hands: writing what happens into them, and letting them go.

A claimed file holds one or more events. Each step of an event's life is one line appended to it; an event leaves it
by a record (`settled`) or by a move to another file; the last one takes the file with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from eventq.clock import Clock
from eventq.errors import ClaimLost, StorageError
from eventq.ids import Stamps, nanoseconds_of, worker_of
from eventq.model import Attempt, Claimed, Settings, State
from eventq.storage.file import disk, line
from eventq.storage.file.drafts import MAX_RECYCLED_BYTES, Draft, Drafts, rename_into, sync_name
from eventq.storage.file.kept import kept_folder
from eventq.storage.file.keys import release_key
from eventq.storage.file.layout import QueuePaths, bucket_of, came_back
from eventq.storage.file.line import EventLine, Folded, Past, RecordLine
from eventq.storage.file.places import Missing, Place, Places
from eventq.storage.file.presence import Room
from eventq.storage.file.wake import wake

log: logging.Logger = logging.getLogger("eventq.storage")

WAITING, STARTED, GONE = range(3)


class Held:
    """A claimed file."""

    __slots__ = (
        "back", "end", "entries", "fd", "folded", "keep", "leased", "name", "open", "owed", "path", "paths",
        "pending", "priority", "size", "stem",
    )  # fmt: skip

    def __init__(
        self, fd: int, path: str, paths: QueuePaths, priority: int, name: str, folded: Folded, size: int, leased: bool
    ) -> None:
        self.fd: int = fd
        self.path: str = path
        self.paths: QueuePaths = paths
        self.priority: int = priority
        self.name: str = name
        self.stem: str = name[:38]
        self.folded: Folded = folded
        self.leased: bool = leased
        self.end: int = folded.end
        self.size: int = size
        self.pending: bytes = b""
        """Records that found no space; they go with the next one."""
        self.entries: list[Entry] = []
        self.open: int = 0
        self.owed: int = 0
        """Moves whose record is written and whose rename is not done: until then this file is their only proof."""
        self.back: tuple[str, str] | None = None
        """Folder and name to which the file returns once it owes nothing."""
        self.keep: float = 0.0
        """How long the values of events that completed here are kept (see `kept.longer`); 0 if there are none."""


class Entry(msgspec.Struct, eq=False):
    """One open event of a claimed file."""

    held: Held
    index: int
    past: Past | None
    plain: bytes | None = None
    """The payload, if nothing else is to be known of the event."""
    state: int = WAITING
    head: bytes = b""
    """How every line about it begins, up to the end of its id; written by `begin`."""
    line: EventLine | None = None
    claimed: Claimed | None = None
    started: float = 0.0
    places: list[Place] | None = None
    """What it holds while it runs, if something limits how many do."""

    def begin(self) -> bytes:
        """Its `head`, to write a line about it."""
        head = self.head
        if not head:
            head = self.head = self.held.folded.lines[self.index][: line.ID_END]
        return head

    def event(self) -> EventLine:
        event = self.line
        if event is None:
            event = self.line = line.decode_event(self.held.folded.lines[self.index])
        return event

    def history(self) -> Past:
        if self.past is None:
            self.past = Past(self.event())
        return self.past

    @property
    def id(self) -> str:
        event = self.event()
        return event.born or event.id


class Owed:
    """A move whose record is written: the draft's rename is tried until it is done."""

    __slots__ = ("draft", "folder", "held", "name")

    def __init__(self, held: Held, draft: Draft, folder: str, name: str) -> None:
        self.held: Held = held
        self.draft: Draft = draft
        self.folder: str = folder
        self.name: str = name


class Holder:
    """Everything this worker holds. The caller has the claims lock."""

    def __init__(
        self, root: str, room: Room, drafts: Drafts, stamps: Stamps, durable: bool, clock: Clock, places: Places
    ) -> None:
        self.root: str = root
        self.room: Room = room
        self.drafts: Drafts = drafts
        self.stamps: Stamps = stamps
        self.durable: bool = durable
        self.clock: Clock = clock
        self.places: Places = places
        self._now = clock.now
        self._worker = room.worker.encode()
        self._told = self._told_until = 0.0
        self._started = self._completed = b""
        self.on_load: Callable[[bool], None] = lambda _hoards: None
        """Told of each claimed file, and whether unstarted events wait behind the first."""
        self.heard: Callable[[str], None] = lambda _id: None
        """Told of each event that this very worker has put, and settled or noted upon."""
        self.settings_of: Callable[[str], Settings] = lambda _queue: Settings()
        self.files: set[Held] = set()
        self.owed: list[Owed] = []
        self.running: int = 0
        """How many events are started and not settled."""
        self.suspect: Entry | None = None
        """A started event whose workers died before: while it runs, nothing else starts here."""
        self.waits: Entry | None = None
        """One that was met while others ran: until these have ended nothing else starts, or it might wait for ever."""

    # ------------------------------------------------------------------ records

    def start(self, entry: Entry) -> None:
        """Record that an event is started."""
        now = self._now()
        if not self._told <= now < self._told_until:
            self._tell(now)
        self.record(entry.held, line.seal(entry.begin() + self._started))
        entry.state = STARTED
        entry.started = now
        self.running += 1

    def release(self, entry: Entry, text: bytes) -> None:
        """A started event waits again, in the file where it is."""
        self.record(entry.held, text)
        past = entry.history()
        past.running = Attempt(self.room.worker, entry.started)
        past.take(line.decode_record(text))
        self.running -= 1
        if self.suspect is entry:
            self.suspect = None
        entry.state = WAITING
        entry.claimed = None
        self._free_places(entry)

    def _tell(self, now: float) -> None:
        """Write down what the records of this millisecond have in common."""
        self._told, self._told_until = now, now + 0.001
        at = b"%.3f" % now
        self._started, self._completed = line.started_step(at, self._worker), line.completed_step(at)

    def record(self, held: Held, text: bytes) -> None:
        """Append a record. On a full disk it stays in memory and goes with the next one; the file's last step is a
        rename, which needs no space. Raises ClaimLost if a leased file was taken over."""
        if held.leased:
            self._record_leased(held, text)
            return
        if held.pending:
            text = held.pending + text
        try:
            written = disk.pwrite(held.fd, text, held.end)
        except OSError as error:
            if not disk.is_full(error):
                raise StorageError(f"cannot write to {held.path}: {error}") from error
            written = 0
        if written == len(text):
            held.end += written
            held.pending = b""
        else:
            self._found_no_space(held, text, written)

    def _found_no_space(self, held: Held, text: bytes, written: int) -> None:
        """Take a half-written record back, and try once more after making space."""
        if written and disk.fstat(held.fd).st_size > held.end + written:
            disk.pwrite(held.fd, b" " * written, held.end)
        elif written:
            disk.truncate(held.fd, held.end)
        held.pending = text
        if self.drafts.make_space():
            self.record_pending(held)

    def record_pending(self, held: Held) -> None:
        """Write what found no space, if it finds some now."""
        if held.pending:
            self.record(held, b"")

    def _record_leased(self, held: Held, text: bytes) -> None:
        """As `record`, under the file's lock and only while the claim's name still stands."""
        if not disk.lock_soon(held.fd):
            raise self.lost(held)
        try:
            if not disk.exists(held.path):
                raise self.lost(held)
            held.leased = False
            self.record(held, text)
        finally:
            held.leased = True
            if held in self.files:
                disk.unlock(held.fd)

    def lost(self, held: Held) -> ClaimLost:
        """Let go of a file that is not ours any more."""
        for entry in held.entries:
            if entry.state != GONE:
                self._leave(entry)
        held.owed = 0
        self.owed = [owed for owed in self.owed if owed.held is not held]
        if held in self.files:
            self._close(held)
        return ClaimLost(
            f"the claim of {held.name} in queue {held.paths.name!r} was taken over: its lease passed, or its file was "
            "removed; whatever this handler did may be done again"
        )

    # ------------------------------------------------------------------ letting go

    def _leave(self, entry: Entry) -> None:
        """An event is not open here any more."""
        if entry.state == STARTED:
            self.running -= 1
            if self.suspect is entry:
                self.suspect = None
        entry.state = GONE
        entry.claimed = None  # they point at each other: without this, each event would wait for the garbage collector
        entry.held.open -= 1
        if entry.places is not None:
            self._free_places(entry)

    def _free_places(self, entry: Entry) -> None:
        """It does not run any more, so others may."""
        places, entry.places = entry.places, None
        if places:
            self.places.free(places)

    def _close(self, held: Held) -> None:
        self.files.discard(held)
        held.entries = []
        disk.close(held.fd)

    def complete(self, entry: Entry) -> None:
        """An event completed without a value."""
        held, now = entry.held, self._now()
        if not self._told <= now < self._told_until:
            self._tell(now)
        text = line.seal((entry.head or entry.begin()) + self._completed)
        if held.open > 1 and (entry.plain is not None or entry.event().key is None):
            self.record(held, text)
            self._leave(entry)
        else:
            self.end(entry, text)

    def end(self, entry: Entry, text: bytes) -> None:
        """An event completed; `text` is its record (with a value, `held.keep` was set).

        The last event of a file needs no record, since its file goes, unless the file stays in sight: as a draft to
        be, for its values, or because it is the proof that a key may be freed.
        """
        held = entry.held
        event = None if entry.plain is not None else entry.event()
        if held.open > 1 or held.owed or held.keep or held.leased or self.drafts.wants(held.end):
            recorded = True
        else:
            recorded = event is not None and event.key is not None
        if recorded:
            self.record(held, text)
        self._leave(entry)
        if event is not None:
            self._release_key(held, event, entry.id)
        if not held.open and not held.owed:
            self.finish(held, recorded)

    def finish(self, held: Held, recorded: bool = True) -> None:
        """The last event of a file is settled: keep the file for its values, or recycle it."""
        if held.keep:
            self._complete(held)
            return
        self.files.discard(held)
        held.entries = []
        # only a file under the name that its producer gave it: that name never comes back, so nobody, not even this
        # worker, will claim another file under the name that this one keeps
        fresh = held.name == held.stem
        if fresh and recorded and not held.pending and not held.leased and self.drafts.wants(held.end):
            self.drafts.keep(held.path, held.fd, max(held.size, held.end))
            return
        try:
            self.drafts.give(held.path, held.fd)
        except FileNotFoundError:
            raise ClaimLost(f"the claim file {held.path} is gone: the event may run again elsewhere") from None

    def _complete(self, held: Held) -> None:
        """Give a file with values its place. One whose values found no space, or whose rename did not work, stays a
        claim that is tried again at each look: without a value its event would have been done for nothing."""
        self.record_pending(held)
        if held.pending:
            log.warning("no space for the values in %s; tried again at the next look", held.path)
            return
        name = held.name.rstrip("+")
        try:
            self._rename(held, f"{kept_folder(held.paths, held.keep)}{bucket_of(name)}/", name)
        except OSError as error:
            log.warning("%s is completed, and its rename is tried again at the next look: %s", held.path, error)
            return
        self._close(held)

    def _rename(self, held: Held, folder: str, name: str) -> None:
        try:
            rename_into(held.path, folder, name, self.durable)
        except FileNotFoundError:
            raise self.lost(held) from None

    def is_alone(self, entry: Entry) -> bool:
        """Whether an event may take its whole file with it."""
        held = entry.held
        return held.open == 1 and not held.keep and not held.owed

    def _is_long(self, entry: Entry) -> bool:
        """Whether an event's file holds much besides the event: a long history, or the remains of a batch."""
        return entry.held.end - len(entry.held.folded.lines[entry.index]) > MAX_RECYCLED_BYTES

    def put_back(self, entry: Entry, text: bytes, due: float | None) -> str:
        """Make an event claimable again, at its old place or at a due time; its file's new name.

        `text` is the record that says why. The only open event of a file takes the file along; another one is moved
        to a file of its own, as is one that would drag a long history with it.
        """
        held = entry.held
        return self._put(entry, text, lambda name: self._place(held, name, due))

    def block(self, entry: Entry, missing: Missing) -> None:
        """Let an unstarted event wait for a place. Raises OSError, StorageError; then it is still here."""
        held, past = entry.held, entry.past
        self.record_pending(held)
        if held.pending:
            raise StorageError(f"no space for what has happened in {held.path}")
        event = entry.event()
        expires = None if past is not None and past.revived else event.expires
        # the others of its file may wait, too, each under its own id: the file's name sorts before those
        first = held.name.startswith(entry.id) or (entry.index == 0 and event.born is None)

        def place(name: str) -> tuple[str, str]:
            return held.paths.blocked_name(missing.slot, missing.places, expires, held.priority, name)

        self._put(entry, b"", place, first)

    def block_together(self, entries: list[Entry], missing: Missing) -> None:
        """As `block`, for several events of one file, in one file of the same time. Raises StorageError; then they
        are still here."""
        held = entries[0].held
        ends = [expires for entry in entries if (expires := entry.event().expires) is not None]
        stem = self.stamps.at(nanoseconds_of(held.stem))
        folder, name = held.paths.blocked_name(
            missing.slot, missing.places, min(ends, default=None), held.priority, stem
        )
        self.move(held, entries, folder, name, self._moved_body(entries, stem))

    def _moved_body(self, entries: list[Entry], stem: str) -> bytes:
        """The lines of events that go on together in another file."""
        return b"".join(
            line.moved_line(entry.event(), f"{stem}.{index:05x}", entry.id, entry.history())
            for index, entry in enumerate(entries)
        )

    def _put(self, entry: Entry, text: bytes, place: Callable[[str], tuple[str, str]], whole: bool = True) -> str:
        """Put an event where `place` says, by folder and file name, for a name (with `whole`, its file may go with
        it); that name."""
        held = entry.held
        if whole and self.is_alone(entry) and not self._is_long(entry):
            if text:
                self.record(held, text)
            name = came_back(held.name)
            folder, placed = place(name)
            self._rename(held, folder, placed)
            self._leave(entry)
            self._close(held)
            return name
        id = entry.id
        name = self.stamps.at(nanoseconds_of(id)) if held.name.startswith(id) else id
        folder, placed = place(name)
        self._apply(entry, text)
        new_id = name if name == id else f"{name}.00000"
        self.move(held, [entry], folder, placed, line.moved_line(entry.event(), new_id, id, entry.history()))
        return name

    def _place(self, held: Held, name: str, due: float | None) -> tuple[str, str]:
        if due is None:
            return held.paths.ready_at(held.priority), name
        return held.paths.delayed_name(due, held.priority, name)

    def _sync_quietly(self, folder: str) -> None:
        """A rename that nobody was promised: if it is lost in a power cut, the event is where it was before."""
        try:
            disk.sync_folder(folder)
        except OSError as error:
            log.warning("cannot sync %s: %s", folder, error)

    def _apply(self, entry: Entry, text: bytes) -> None:
        """Bring an event's past up to date with a record that goes to another file with it."""
        past = entry.history()
        if entry.state == STARTED:
            past.running = Attempt(self.room.worker, entry.started)
        if text:
            past.take(line.decode_record(text))

    def bury(self, entry: Entry, state: State, record: RecordLine) -> None:
        """End an event in a file of its own under its first id: dead, expired, cancelled, or moved and completed."""
        held, event = entry.held, entry.event()
        id = entry.id
        folder = f"{held.paths.final(state)}{bucket_of(id)}/"
        if state is State.COMPLETED and (keep := event.keep if record.keep is None else record.keep) is not None:
            folder = f"{kept_folder(held.paths, keep)}{bucket_of(id)}/"
        text = line.record_line(record)
        if state is not State.COMPLETED and self.settings_of(held.paths.name).keep_dead <= 0:
            self.complete(entry)  # nothing is kept, so nothing says how it ended
        elif self.is_alone(entry) and event.born is None and (held.name.startswith(id) or not self._is_long(entry)):
            self.record(held, text)
            if not held.pending:
                self._release_key(held, event, id)
            self._rename(held, folder, id)
            if held.pending:  # then the folder alone says that it ended, and only now
                self._release_key(held, event, id)
            self._leave(entry)
            self._close(held)
            if self.durable:
                self._sync_quietly(folder)
        else:
            past = entry.history()
            self._apply(entry, text)
            past.settled = None
            body = line.moved_line(event, id, id, past) + line.record_line(
                RecordLine(id, "settled", record.at, error=record.error, outcome=record.outcome, value=record.value,
                           codec=record.codec, data=record.data, keep=record.keep)
            )  # fmt: skip
            self.move(held, [entry], folder, id, body, lambda: self._release_key(held, event, id))
        self.announce(id)

    def _release_key(self, held: Held, event: EventLine, id: str) -> None:
        if event.key is not None and isinstance(event.unique, str):
            release_key(held.paths, event.key, id)

    def announce(self, id: str) -> None:
        """Wake who waits for this event in the process that put it; in this one, without a detour."""
        worker = worker_of(id)
        if worker == self.room.worker:
            self.heard(id)
            return
        wake(f"{self.root}/workers/{worker}/wake", id.encode() + b"\n")

    # ------------------------------------------------------------------ moves

    def move(
        self, held: Held, entries: list[Entry], folder: str, name: str, body: bytes,
        between: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Let events go on in another file: draft it, record that they moved, give the draft its name.

        Before the record nothing has happened. After it the move is owed: a failed rename is tried again at every
        look, the events are not ours any more, and the claim file stays, since it is the only proof. The draft's own
        name is made durable before the record can be: a record without a draft means that the move was done.
        """
        draft = self.drafts.named(name, body)
        to = folder[len(self.root) + 1 :] + name
        try:
            if self.durable:
                disk.sync_folder(self.room.drafts)
            text = line.moved_record(held.stem, [entry.index for entry in entries], to, self.clock.now())
            self.record(held, text)
            if held.pending:
                held.pending = held.pending[: -len(text)]
                raise StorageError(f"no space to move {len(entries)} events out of {held.path}")
        except BaseException:
            self.drafts.drop(draft)
            raise
        for entry in entries:
            self._leave(entry)
        if between is not None:
            between()
        owed = Owed(held, draft, folder, name)
        held.owed += 1
        self.owed.append(owed)
        self._pay(owed)

    def _pay(self, owed: Owed) -> None:
        try:
            try:
                rename_into(owed.draft.path, owed.folder, owed.name, self.durable)
            except FileNotFoundError:
                pass  # done before; only its durability was owed
            if self.durable:
                sync_name(owed.folder, owed.draft.fd)
        except (OSError, StorageError) as error:
            log.warning("a move to %s%s is owed and tried again: %s", owed.folder, owed.name, error)
            return
        self.owed.remove(owed)
        disk.close(owed.draft.fd)
        owed.held.owed -= 1
        wake(owed.held.paths.wake)
        held = owed.held
        if held.owed or held not in self.files:
            return
        if held.back is not None:
            self.return_file(held, *held.back)
        elif not held.open:
            self.finish(held)

    def pay_owed(self) -> None:
        """Try again what is owed: moves, and what a full disk or a failed rename has put off. A lease that passed
        while its handler hangs is seen here, so that its places are free."""
        for held in list(self.files):
            if held.leased and any(entry.places for entry in held.entries) and not disk.exists(held.path):
                log.warning("%s", self.lost(held))
        for owed in list(self.owed):
            self._pay(owed)
        for held in list(self.files):
            if not held.owed and (held.back is not None or not held.open):
                self.return_file(held, *(held.back or ("", "")))

    # ------------------------------------------------------------------ all of it

    def share(self, entries: list[Entry]) -> None:
        """Give unstarted events of one file back, in one file that keeps their place."""
        held = entries[0].held
        self.record_pending(held)
        if held.open == len(entries) and not held.keep and not held.owed:
            name = came_back(held.name)
            folder = held.paths.ready_at(held.priority)
            self._rename(held, folder, name)
            for entry in entries:
                self._leave(entry)
            self._close(held)
            return
        stem = self.stamps.at(nanoseconds_of(held.stem))
        self.move(held, entries, held.paths.ready_at(held.priority), stem, self._moved_body(entries, stem))

    def return_file(self, held: Held, folder: str, name: str) -> None:
        """Put a file back with what is left in it, as soon as it owes nothing."""
        self.record_pending(held)
        if held.owed or (held.pending and held.open):
            held.back = (folder, name)
        elif not held.open:
            self.finish(held)
        else:
            self._rename(held, folder, name)
            for entry in held.entries:
                if entry.state != GONE:
                    self._leave(entry)
            self._close(held)

    def release_file(self, held: Held) -> None:
        """Give a whole file back, started events included; they count no attempt."""
        self.record_pending(held)
        now = self.clock.now()
        for entry in held.entries:
            if entry.state == STARTED:
                record = RecordLine(f"{held.stem}.{entry.index:05x}", "released", now, self.room.worker)
                self.record(held, line.record_line(record))
        self._rename(held, held.paths.ready_at(held.priority), came_back(held.name))
        for entry in held.entries:
            if entry.state != GONE:
                self._leave(entry)
        self._close(held)

    def abandon(self) -> None:
        """Close every descriptor and forget it all, as death would."""
        for held in self.files:
            disk.close(held.fd)
        for owed in self.owed:
            disk.close(owed.draft.fd)
        self.files.clear()
        self.owed.clear()
        self.running = 0
