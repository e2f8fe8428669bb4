"""Changing events that are not being run: cancel, requeue, move, delete, purge.

A waiting event is edited by claiming its file, like any worker would, and giving the rest back. An event that
another worker has fetched is edited by a request in that worker's room, which it reads at its next look: what it has
not started is edited there; what it runs is only told that somebody wants it cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from eventq.clock import sleep
from eventq.errors import StorageError
from eventq.ids import index_of, is_event_id, nanoseconds_of, stem_of
from eventq.model import OPEN_STATES, Cancel, Delete, Edit, Failure, Move, PutOptions, Record, Requeue, State
from eventq.storage.file import disk, line
from eventq.storage.file.drafts import make_folder, rename_into
from eventq.storage.file.feed import MAX_FILE_BYTES
from eventq.storage.file.held import GONE, WAITING, Entry, Held, Holder
from eventq.storage.file.kept import keep_of_values
from eventq.storage.file.keys import release_key
from eventq.storage.file.layout import QueuePaths, came_back
from eventq.storage.file.line import RecordLine
from eventq.storage.file.notes import move_notes, remove_notes
from eventq.storage.file.reading import Found, Reader
from eventq.storage.file.wake import wake

log: logging.Logger = logging.getLogger("eventq.storage")

TOO_LATE = "too late"
UNKNOWN = "unknown"
REQUESTED = "requested"
PAUSES = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.0)
"""Seconds until another try, for an event that has moved on since it was found, or is on its way to its final folder.
For one that does so each time an edit comes too late."""


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What another worker asks of the holder of an event."""

    id: str
    edit: str
    reason: str = ""
    queue: str = ""
    unstarted: bool = False


class Editor:
    """Edits one store on behalf of one worker. The caller has the claims lock."""

    def __init__(
        self, holder: Holder, reader: Reader, queue: Callable[[str], QueuePaths],
        forget: Callable[[Entry], None], put: Callable[[str, bytes, PutOptions], str],
    ) -> None:  # fmt: skip
        self._holder = holder
        self._reader = reader
        self._queue = queue
        self._forget = forget
        self._put = put

    # ------------------------------------------------------------------ one edit

    def edit(self, queues: Sequence[QueuePaths], id: str, edit: Edit) -> str:
        """Edit one event; the word that says what came of it (see `Storage.edit`)."""
        if not is_event_id(id):
            return UNKNOWN
        for entry in self._own(id):
            return self._edit_own(entry, edit)
        for pause in PAUSES:
            located = self._reader.locate(queues, id)
            if located is None:
                return UNKNOWN
            word = self._edit_found(*located, edit)
            if word is not None:
                return word
            sleep(pause)
        return TOO_LATE

    def _own(self, id: str) -> list[Entry]:
        return [
            entry
            for held in self._holder.files
            for entry in held.entries
            if entry.state != GONE and held.stem[:16] == id[:16] and entry.id == id
        ]

    def _edit_own(self, entry: Entry, edit: Edit) -> str:
        """An event in this worker's hands."""
        if entry.state == WAITING:
            if isinstance(edit, Requeue) or (_spares_started(edit) and entry.history().attempts):
                return TOO_LATE
            self._forget(entry)
            return self._apply(entry, edit)
        if isinstance(edit, Cancel) and not edit.unstarted and entry.claimed is not None:
            entry.claimed.cancelled = True
            return REQUESTED
        return TOO_LATE

    def _edit_found(self, found: Found, record: Record, edit: Edit) -> str | None:
        """Edit an event where it was found; None if it has moved meanwhile."""
        if isinstance(edit, Requeue):
            return self._requeue(found, record)
        if record.state not in (State.READY, State.DELAYED, State.CLAIMED):
            return self._remove(found, record) if isinstance(edit, Delete) else TOO_LATE
        if _spares_started(edit) and record.attempts:
            return TOO_LATE
        if found.worker is not None:
            if record.state is State.CLAIMED and not isinstance(edit, Cancel):
                return TOO_LATE
            return self._request(found.worker, record.id, edit)
        held = self._take(found)
        if held is None:
            return None
        word = None
        try:
            for entry in held.entries:
                if entry.state == WAITING and entry.id == record.id:
                    spared = _spares_started(edit) and entry.history().attempts  # by what happened since it was read
                    word = TOO_LATE if spared else self._apply(entry, edit, record.due)
        finally:
            self._return(held, found)
        return word

    def _take(self, found: Found) -> Held | None:
        """Claim a file, as a worker would; None if another was faster."""
        paths = self._queue(found.queue)
        path = self._holder.room.claims + paths.claim_name(found.priority, found.name)
        try:
            disk.rename(found.path, path)
        except FileNotFoundError:
            return None
        fd = disk.open_file(path)
        if not disk.lock_soon(fd):
            disk.close(fd)
            disk.rename(path, found.path)
            raise StorageError(f"{found.path} is locked by a process that is stopped within a put; try again later")
        try:
            data = disk.read_all(fd, MAX_FILE_BYTES)
            folded = line.fold(data, stem_of(found.name))
            if folded.tail:
                disk.pwrite(fd, b" " * (len(data) - folded.end), folded.end)
        finally:
            disk.unlock(fd)
        held = Held(fd, path, paths, found.priority, found.name, folded, len(data), False)
        held.entries = [Entry(held, index, folded.pasts.get(index)) for index in folded.open_indexes()]
        for entry in held.entries:
            if entry.past is not None:
                entry.past.crash()
        held.open = len(held.entries)
        if folded.has_values():
            held.keep = keep_of_values(folded, self._holder.settings_of(found.queue).keep)
        self._holder.files.add(held)
        return held

    def _return(self, held: Held, found: Found) -> None:
        """Put what is left of a file back where it was."""
        if held in self._holder.files:
            folder, _, name = found.path.rpartition("/")
            self._holder.return_file(held, folder + "/", came_back(name))
            wake(held.paths.wake)

    # ------------------------------------------------------------------ what an edit does

    def _apply(self, entry: Entry, edit: Edit, due: float | None = None) -> str:
        """Edit an unstarted event in this worker's hands."""
        holder, held = self._holder, entry.held
        now = holder.clock.now()
        label = f"{held.stem}.{entry.index:05x}"
        if isinstance(edit, Cancel):
            error = Failure(State.CANCELLED.value, edit.reason)
            record = RecordLine(label, "settled", now, error=error, outcome=State.CANCELLED.value)
            holder.bury(entry, State.CANCELLED, record)
            return "cancelled"
        if isinstance(edit, Delete):
            holder.complete(entry)
            return "deleted"
        assert isinstance(edit, Move)
        self._move(entry, self._queue(edit.queue), due)
        return "moved"

    def _move(self, entry: Entry, target: QueuePaths, due: float | None) -> None:
        """Into another queue, under the event's own id; its key stays with the queue it was put in."""
        holder, held = self._holder, entry.held
        event = entry.event()
        id = entry.id
        if event.key is not None:
            release_key(held.paths, event.key, id)
            event.key = None
        # never a name that another file of this event has, or had
        name = holder.stamps.at(nanoseconds_of(id)) if held.name.startswith(id) else id
        body = line.moved_line(event, name if name == id else f"{name}.00000", id, entry.history())
        move_notes(held.paths, target, id)
        folder = target.ready_at(held.priority)
        if due is not None:
            folder, name = target.delayed_name(due, held.priority, name)
        holder.move(held, [entry], folder, name, body)
        wake(target.wake)

    def _requeue(self, found: Found, record: Record) -> str | None:
        """Make an event ready again; a completed one is put anew."""
        if record.state is State.COMPLETED:
            return self._replay(found, record)
        if record.state is State.DELAYED:
            return self._hasten(found, record)
        if record.state in (State.READY, State.CLAIMED) or found.state is State.COMPLETED:
            return TOO_LATE
        return self._revive(found, record)

    def _replay(self, found: Found, record: Record) -> str | None:
        """Put a completed event anew, with all that it was put with but its key and its times."""
        try:
            data = disk.read_file(found.path, MAX_FILE_BYTES)
        except FileNotFoundError:
            return None
        folded = line.fold(line.lines_of(data, record.id), stem_of(record.id))
        index = index_of(record.id)
        if index not in folded.lines:
            return None
        event = folded.event(index)
        options = PutOptions(
            codec=record.codec, priority=record.priority, headers=record.headers, limits=record.limits,
            rates=record.rates, max_attempts=event.max_attempts, max_crashes=event.max_crashes,
            keep=folded.past(index).keep,
        )  # fmt: skip
        return self._put(found.queue, record.payload, options)

    def _hasten(self, found: Found, record: Record) -> str | None:
        """A delayed event is due now, at the end of what is ready, as if new. Others in its file stay delayed."""
        held = self._take(found)
        if held is None:
            return None
        word = None
        try:
            for entry in held.entries:
                if entry.state == WAITING and entry.id == record.id:
                    now = self._holder.clock.now()
                    text = line.record_line(RecordLine(f"{held.stem}.{entry.index:05x}", "requeued", now))
                    self._holder.put_back(entry, text, now)
                    word = record.id
        finally:
            self._return(held, found)
        wake(held.paths.wake)
        return word

    def _rename(self, found: Found, folder: str, name: str, word: str) -> str | None:
        try:
            rename_into(found.path, folder, name, self._holder.durable)
        except FileNotFoundError:
            return None
        if self._holder.durable:
            disk.sync_folder(folder)
        wake(self._queue(found.queue).wake)
        return word

    def _revive(self, found: Found, record: Record) -> str | None:
        """Bring an event back from `dead/`, `expired/` or `cancelled/`: a record that resets its counters, then one
        rename, both under the file's lock, and the record only while the name still stands. Until the rename, the
        folder says what the event is."""
        if found.state in (State.READY, State.DELAYED, State.CLAIMED):
            return None  # it is on its way to its final folder
        paths = self._queue(found.queue)
        try:
            fd = disk.open_file(found.path)
        except FileNotFoundError:
            return None
        try:
            if not disk.lock_soon(fd) or not disk.exists(found.path):
                return None
            data = disk.read_all(fd, MAX_FILE_BYTES)
            end = data.rfind(b"\n") + 1
            text = line.record_line(RecordLine(record.id, "requeued", self._holder.clock.now()))
            disk.write_all(fd, text, end)
            if self._holder.durable:
                disk.sync(fd)
            place = paths.delayed_name(self._holder.clock.now(), record.priority, came_back(found.name))
            return self._rename(found, *place, record.id)  # due now: at the end of what is ready
        finally:
            disk.close(fd)

    def _remove(self, found: Found, record: Record) -> str | None:
        """Delete a finished event's record; None if it is on its way to where that stays. One that shares its file with
        others' values stays until pruned."""
        if found.state is State.COMPLETED and len(found.name) == len(stem_of(found.name)):
            if len(self._reader.records(found)) > 1:
                return TOO_LATE
        elif found.worker is not None:
            others = (each.state for each in self._reader.records(found) if each.id != record.id)
            return TOO_LATE if any(state in OPEN_STATES for state in others) else None
        elif found.state is State.READY:
            return TOO_LATE
        disk.unlink_if_any(found.path)
        remove_notes(self._queue(found.queue), record.id)
        return "deleted"

    # ------------------------------------------------------------------ requests

    def _request(self, worker: str, id: str, edit: Edit) -> str | None:
        """Ask another worker; None if it is gone."""
        request = Request(
            id, type(edit).__name__, getattr(edit, "reason", ""), edit.queue if isinstance(edit, Move) else "",
            _spares_started(edit),
        )  # fmt: skip
        folder = f"{self._holder.root}/workers/{worker}/requests/"
        draft = self._holder.drafts.named(f"request-{id}", msgspec.json.encode(request))
        try:
            disk.rename(draft.path, folder + id)
        except FileNotFoundError:
            self._holder.drafts.drop(draft)
            return None
        disk.close(draft.fd)
        return REQUESTED

    def answer_requests(self) -> None:
        """Do what others asked of this worker."""
        requests = self._holder.room.requests
        for name in disk.list_if_any(requests):
            try:
                request = msgspec.json.decode(disk.read_file(requests + name, MAX_FILE_BYTES), type=Request)
            except (OSError, msgspec.MsgspecError) as error:
                log.error("a request to this worker cannot be read: %s", error)
                disk.unlink_if_any(requests + name)
                continue
            disk.unlink_if_any(requests + name)
            edit: Edit = Cancel(request.reason, request.unstarted) if request.edit == "Cancel" else Delete()
            if request.edit == "Move":
                edit = Move(request.queue)
            queues = [held.paths for held in self._holder.files]
            for entry in self._own(request.id):
                self._edit_own(entry, edit)
                break
            else:
                self.edit(queues, request.id, edit)

    # ------------------------------------------------------------------ purge

    def purge(self, paths: QueuePaths, state: State) -> int:
        """Delete every event of a state; how many. Waiting ones file by file, so that a large file is read once."""
        count = 0
        if state is State.CLAIMED:
            return 0
        if state not in (State.READY, State.DELAYED):
            for found in list(self._reader.final_files(paths, state)):
                count += len(self._reader.records(found))
                disk.unlink_if_any(found.path)
            return count
        for found in list(self._reader.open_files(paths)):
            if found.state is state and (held := self._take(found)) is not None:
                try:
                    for entry in list(held.entries):
                        self._apply(entry, Delete())
                        count += 1
                finally:
                    self._return(held, found)
        return count


def _spares_started(edit: Edit) -> bool:
    """Whether an edit leaves alone what has ever been started."""
    return isinstance(edit, Cancel) and edit.unstarted


def make_queue(paths: QueuePaths, durable: bool) -> None:
    """Make a queue's folders and its FIFO; what exists is fine."""
    make_folder(paths.ready_at(0), durable)
    make_folder(paths.delayed, durable)
    disk.make_fifo(paths.wake)
