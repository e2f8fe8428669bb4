"""`FileStorage`: a store in a directory. PROTOCOL.md beside this file specifies what is on disk; this module wires
the parts together and turns the system's errors into eventq's."""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from eventq.clock import SYSTEM, Clock
from eventq.errors import ClaimLost, ConfigError, EventqError, StorageClosed, StorageError
from eventq.ids import is_event_id, of_same_put
from eventq.model import (
    Cancel,
    Claimed,
    Completed,
    Copy,
    Edit,
    Filter,
    Move,
    Name,
    Note,
    Outcome,
    Page,
    PutOptions,
    Record,
    Settings,
    State,
    Stats,
    Worker,
)
from eventq.storage import forks
from eventq.storage.base import LOOK_INTERVAL, MAX_PUT_BYTES, Storage, displaced_by, introduction
from eventq.storage.checks import check_key_of_several, check_name_size, check_sizes
from eventq.storage.file import disk
from eventq.storage.file.ballast import Ballast
from eventq.storage.file.edits import make_queue
from eventq.storage.file.feed import Feed
from eventq.storage.file.format import open_format
from eventq.storage.file.held import STARTED, Entry
from eventq.storage.file.layout import QueuePaths, decode_queue, digest
from eventq.storage.file.leases import Leases
from eventq.storage.file.membership import Membership
from eventq.storage.file.names import FileSlot, Names, Slots
from eventq.storage.file.notes import Notes
from eventq.storage.file.places import Places
from eventq.storage.file.presence import CLOSED, Introduction, join, read_info
from eventq.storage.file.reading import Reader
from eventq.storage.file.recovery import bury_dead, sweep_dropped
from eventq.storage.file.restoring import Restorer
from eventq.storage.file.retention import Pruner
from eventq.storage.file.settings import SettingsFile
from eventq.storage.file.settle import settle
from eventq.storage.file.wake import QueueWatch, ResultWatch, wake
from eventq.storage.restored import check_copies

log: logging.Logger = logging.getLogger("eventq.storage")

F = TypeVar("F", bound=Callable[..., Any])


def guarded(method: F) -> F:
    """Turn what the system says into StorageError."""

    @functools.wraps(method)
    def call(self: FileStorage, *args: Any, **kwargs: Any) -> Any:
        if self._closed:
            raise StorageClosed(CLOSED)
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            raise self.failed(method.__name__, error) from error

    return cast("F", call)


class FileStorage(Storage):
    """A store in a directory, shared by any number of processes of one machine.

    The directory is made if it is missing. `sync` is fixed when the store is made (True unless said): whether each
    put is durable against power cuts when it returns. Raises ConfigError for another value later, for a directory
    that is something else, and where the system cannot do what the protocol needs.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool | None = None, clock: Clock = SYSTEM) -> None:
        if sys.platform == "win32":
            raise ConfigError(
                "file stores need flock, FIFOs and atomic renames of open files, which Windows lacks; "
                "use memory:// there, or a server's URL"
            )
        self.root: str = os.path.abspath(os.fspath(path))
        self.clock: Clock = clock
        self.reader: Reader = Reader(self.root, clock)
        self._closed = False
        try:
            self.durable: bool = open_format(self.root, sync)
        except OSError as error:
            raise StorageError(f"cannot open the store at {self.root}: {error}") from error
        self._paths: dict[str, QueuePaths] = {}
        self._made: set[str] = set()
        self._said: Introduction = ((), ())
        self._reset()
        forks.follow(self)

    def _reset(self) -> None:
        """Begin without a room: at the start, and in a forked child."""
        self._lock = threading.RLock()
        self._joining = threading.RLock()
        self._member: Membership | None = None
        self._slots = Slots(self.root, self.durable)
        self.places: Places = Places(self.root, self._slots, self.durable, self.clock.now)
        self.places.on_return = self._returned
        self.places.due.serves = lambda folder: bool(self._feeds_of(folder))
        self._names = Names(self.root, self.durable)
        self._notes = Notes()
        self._leases = Leases(self.root, self.clock)
        self._pruners: dict[str, Pruner] = {}
        self._prune_turn = 0
        self._next_look = 0.0
        self._ballast = Ballast(self.root, self.clock)

    def failed(self, doing: str, error: OSError) -> Exception:
        """The system's error as ours; our own stay as they are. Who works without the claims lock may find the room
        gone: another thread has closed the store meanwhile."""
        if isinstance(error, EventqError):
            return error
        if self._closed:
            return StorageClosed(CLOSED)
        return StorageError(f"the store at {self.root} failed to {doing}: {error}")

    # ------------------------------------------------------------------ membership

    @property
    def worker(self) -> str:
        """This process's id in the store; joins it."""
        return self._joined().room.worker

    def _joined(self) -> Membership:
        member = self._member
        if member is None:
            with self._joining:
                if self._closed:  # asked within: nobody would leave a room that is made after the close
                    raise StorageClosed(CLOSED)
                if self._member is None:
                    space = self._ballast.give_up
                    room = join(self.root + "/workers/", self.durable, self.clock.now(), space, self._said)
                    self._member = Membership(self, room)
                member = self._member
        return member

    def queue_paths(self, queue: str) -> QueuePaths:
        """Where a queue is; makes it if it is missing."""
        paths = self._known_paths(queue)
        if queue not in self._made:
            if not disk.exists(paths.wake):
                make_queue(paths, self.durable)
            self._made.add(queue)
        return paths

    def _known_paths(self, queue: str) -> QueuePaths:
        if (paths := self._paths.get(queue)) is None:
            paths = self._paths[queue] = QueuePaths(self.root, queue)
        return paths

    def _feed(self, queue: str) -> Feed:
        feeds = self._joined().feeds
        if (feed := feeds.get(queue)) is None:
            paths = self.queue_paths(queue)
            member = self._joined()
            feed = feeds[queue] = Feed(member.holder, paths, SettingsFile(paths), member.producer.surrender)
        return feed

    def published(self, queue: str, priority: int, name: str) -> None:
        """A file was put: a claimer in this process need not list the folder to find it."""
        member = self._member
        if member is not None and (feed := member.feeds.get(queue)) is not None:
            feed.hint(priority, name)

    def _returned(self, folder: str) -> None:
        """A blocked event came back to a queue: it comes before what is younger, also in this worker's hands."""
        for feed in self._feeds_of(folder):
            feed.see_returned()

    def _feeds_of(self, folder: str) -> list[Feed]:
        feeds = self._member.feeds.values() if self._member is not None else ()
        return [feed for feed in feeds if feed.paths.encoded == folder]

    def displaced(self, queue: str, id: str, by: str) -> None:
        """The key of an event passed to a later put: cancel the event, if no worker has started it."""
        try:
            self.edit(queue, [id], Cancel(displaced_by(by), unstarted=True))
        except EventqError as error:
            log.warning("event %s still waits, so it may run as well as %s, put in its place: %s", id, by, error)

    def forget(self, entry: Entry) -> None:
        """An unstarted event leaves this worker's hands by an edit."""
        if (feed := self._joined().feeds.get(entry.held.paths.name)) is not None:
            feed.forget_entry(entry)

    # ------------------------------------------------------------------ events

    # put, claim and settle are guarded in line: the wrapper would cost each of them a call

    def put(self, queue: str, payloads: Sequence[bytes], options: PutOptions) -> list[str]:
        if options.key is not None:
            return self._put_keyed(queue, payloads, options)
        try:
            paths = self._paths[queue] if queue in self._made else self.queue_paths(queue)
            return (self._member or self._joined()).producer.put(paths, payloads, options)
        except OSError as error:
            raise self.failed("put", error) from error

    @guarded
    def put_key(self, queue: str, payload: bytes, options: PutOptions) -> tuple[str, bool]:
        return self._put_key(queue, [payload], options)

    @guarded
    def _put_keyed(self, queue: str, payloads: Sequence[bytes], options: PutOptions) -> list[str]:
        """Several events with one key."""
        check_key_of_several(options)
        return of_same_put(self._put_key(queue, payloads, options)[0], len(payloads)) if payloads else []

    def _put_key(self, queue: str, payloads: Sequence[bytes], options: PutOptions) -> tuple[str, bool]:
        paths, settings = self.queue_paths(queue), self.settings(queue)
        check_sizes(payloads, min(settings.max_bytes, MAX_PUT_BYTES))
        with self._lock:
            return self._joined().keyed.put(paths, payloads, options, settings.maxsize)

    @guarded
    def restore(self, copies: Sequence[Copy], names: Sequence[Name] = ()) -> int:
        check_copies(copies)
        return Restorer(self, self._joined()).restore(copies, names)

    def put_copy(self, queue: str, payload: bytes, options: PutOptions) -> str:
        """Put one event, for a replay, which no `maxsize` refuses."""
        return self._joined().producer.put(self.queue_paths(queue), [payload], options, bounded=False)[0]

    def claim(self, queue: str, limit: int = 1) -> list[Claimed]:
        with self._lock:
            member = self._member or self._joined()
            try:
                return (member.feeds.get(queue) or self._feed(queue)).claim(limit)
            except OSError as error:
                raise self.failed("claim", error) from error

    def settle(self, claimed: Claimed, outcome: Outcome) -> None:
        with self._lock:
            entry: Entry = claimed.token
            member = self._member
            if entry.state != STARTED or entry.claimed is not claimed or member is None:
                if self._closed:
                    raise StorageClosed(CLOSED)
                raise ClaimLost(f"event {claimed.id} is not this worker's any more: it was settled, or taken over")
            try:
                holder = member.holder
                if type(outcome) is Completed and outcome.value is None:
                    holder.complete(entry)
                else:
                    settle(holder, self._feed(entry.held.paths.name), entry, outcome)
            except OSError as error:
                raise self.failed("settle", error) from error

    @guarded
    def give_back(self, queue: str) -> None:
        with self._lock:
            if self._member is not None and (feed := self._member.feeds.get(queue)) is not None:
                feed.give_back()

    @guarded
    def note(self, claimed: Claimed, kind: str, data: bytes) -> None:
        with self._lock:
            entry: Entry = claimed.token
            if entry.state != STARTED or (entry.held.leased and not disk.exists(entry.held.path)):
                raise ClaimLost(f"event {claimed.id} is not this worker's any more")
            self._notes.append(entry.held.paths, claimed.id, self.clock.now(), kind, data)
            self._joined().holder.announce(claimed.id)

    # ------------------------------------------------------------------ reading

    @guarded
    def get(self, id: str) -> Record | None:
        if not is_event_id(id):
            return None
        located = self.reader.locate([self._known_paths(queue) for queue in self.queues()], id)
        return None if located is None else located[1]

    @guarded
    def notes(self, id: str, after: int = 0) -> list[Note]:
        if not is_event_id(id):
            return []
        return self._notes.read(lambda: [self._known_paths(queue) for queue in self.queues()], id, after)

    @guarded
    def has_ready(self, queue: str) -> bool:
        return self.reader.has_ready(self._known_paths(queue), self.clock.now())

    @guarded
    def scan(self, queue: str, state: State, filter: Filter, cursor: str | None = None, limit: int = 100) -> Page:
        return self.reader.scan(self._known_paths(queue), state, filter, cursor, limit)

    @guarded
    def stats(self, queue: str) -> Stats:
        return self.reader.stats(self._known_paths(queue), self.clock.now())

    @guarded
    def queues(self) -> list[str]:
        return sorted(paths.name for paths in self.all_paths() if disk.exists(paths.root))

    def all_paths(self) -> list[QueuePaths]:
        """Where every queue is, or might be: by its name, of which nobody says that it is a folder's."""
        paths = []
        for folder in disk.list_if_any(self.root + "/queues"):
            try:
                paths.append(self._known_paths(decode_queue(folder)))
            except (ValueError, ConfigError):
                continue  # not a queue's folder
        return paths

    # ------------------------------------------------------------------ changing

    @guarded
    def edit(self, queue: str | None, ids: Sequence[str], edit: Edit) -> list[str]:
        if isinstance(edit, Move):
            self.queue_paths(edit.queue)
        names = self.queues() if queue is None else [queue]
        queues = [self._known_paths(name) for name in names]
        with self._lock:
            member = self._joined()
            words = [member.editor.edit(queues, id, edit) for id in ids]
            for feed in member.feeds.values():
                feed.forget_listing()
        return words

    @guarded
    def purge(self, queue: str, state: State) -> int:
        with self._lock:
            if (feed := self._joined().feeds.get(queue)) is not None:
                feed.give_back()
            return self._joined().editor.purge(self._known_paths(queue), state)

    @guarded
    def settings(self, queue: str) -> Settings:
        return SettingsFile(self._known_paths(queue)).current(self.clock.now())

    @guarded
    def configure(self, queue: str, changes: dict[str, Any]) -> Settings:
        paths = self.queue_paths(queue)
        with self._lock:
            member = self._joined()
            name = "settings-" + member.stamps.at(int(self.clock.now() * 1e9))
            settings = SettingsFile(paths).write(changes, member.drafts, name)
            for feed in member.feeds.values():
                feed.forget_listing()
        wake(paths.wake)
        return settings

    @guarded
    def drop(self, queue: str) -> None:
        paths = self._known_paths(queue)
        with self._lock:
            member = self._joined()
            if (feed := member.feeds.pop(queue, None)) is not None:
                feed.give_back()
            if self.reader.has_claims(paths, member.room.claims, {held.path for held in member.holder.files}):
                raise StorageError(f"queue {queue!r} has claimed events; stop its workers and drop it again")
            self._made.discard(queue)
            aside = f"{self.root}/queues/.{member.stamps.at(0)}"
            try:
                disk.rename(paths.root.rstrip("/"), aside)
            except FileNotFoundError:
                return
            disk.remove_tree(aside)

    # ------------------------------------------------------------------ life

    @guarded
    def introduce(self, queues: Sequence[str], tasks: Sequence[str]) -> None:
        for queue in queues:
            self._known_paths(queue)
        said = introduction(queues, tasks)
        with self._lock:
            self._joined().introduce(said)
            self._said = said

    @guarded
    def workers(self) -> list[Worker]:
        found = []
        for name in disk.list_if_any(self.root + "/workers"):
            room = f"{self.root}/workers/{name}"
            if name.startswith(".") or not disk.is_held(room + "/lock"):
                continue
            info = read_info(room)
            claims, queues = self.reader.claims_of(name)
            told = msgspec.structs.asdict(info)
            found.append(Worker(id=name, claims=claims, queues=queues, **told))
        return found

    @guarded
    def recover(self) -> float:
        now = self.clock.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_INTERVAL
            self._look()
        pause = max(0.0, self._next_look - now)
        member = self._member
        if member is not None:
            wall = self.clock.now()
            for feed in list(member.feeds.values()):
                if feed.next_due is not None:
                    pause = min(pause, max(0.0, feed.next_due - wall))
            if self.places.due.pause(wall) <= 0:
                with self._lock:
                    self.places.return_due()
            pause = min(pause, self.places.due.pause(wall))
        return min(pause, LOOK_INTERVAL)

    def _look(self) -> None:
        """Everything that is done four times a second."""
        member = self._member
        own = member.room.worker if member is not None else ""
        buried = bury_dead(self.root, own, self.durable)
        if buried and member is not None:
            with self._lock:
                for feed in member.feeds.values():
                    feed.forget_listing()
        with self._lock:
            sweep_dropped(self.root, own)
            self.places.sweep(self.clock.now(), everything=buried > 0)
        if member is None:
            return
        with self._lock:
            member.holder.pay_owed()
            member.editor.answer_requests()
            for feed in member.feeds.values():
                feed.refresh_settings(0.0)
            self._leases.look(member.feeds.values())
            self._ballast.renew()
            self._slots.tidy()
            self._prune_one()

    def _prune_one(self) -> None:
        """Retention, one queue a look."""
        queues = self.queues()
        if not queues:
            return
        self._prune_turn = (self._prune_turn + 1) % len(queues)
        self._prune(queues[self._prune_turn], force=False)

    def _prune(self, queue: str, force: bool) -> int:
        pruner = self._pruners.get(queue)
        if pruner is None:
            pruner = self._pruners[queue] = Pruner(self._known_paths(queue), self.clock)
        return pruner.step(self.settings(queue), self.clock.now(), force)

    @guarded
    def prune(self, queue: str) -> int:
        with self._lock:
            return self._prune(queue, force=True)

    def maintain(self) -> tuple[bool, bool]:
        """What the maintenance thread does; see `Maintenance`."""
        member = self._member
        if member is None or self._closed:
            return False, False
        try:
            with self._lock:
                for feed in list(member.feeds.values()):
                    feed.share()
            self.recover()
            hoards = any(feed.hoards for feed in list(member.feeds.values()))
        except StorageClosed:  # meanwhile; `close` waits for us, and gives back what is held
            return False, False
        except (OSError, EventqError) as error:
            log.warning("a look at the store failed and is repeated: %s", error)
            return True, False
        return bool(member.holder.files), hoards

    @guarded
    def watch(self, queue: str | None = None, id: str | None = None) -> QueueWatch | ResultWatch:
        if id is not None:
            return self._joined().board.watch(id)
        if queue is None:
            raise TypeError("watch(queue=...) or watch(id=...)")
        paths = self.queue_paths(queue)
        try:
            return QueueWatch(paths.wake)
        except FileNotFoundError:
            make_queue(paths, self.durable)  # dropped by another process since we made it
            return QueueWatch(paths.wake)

    # ------------------------------------------------------------------ names and slots

    @guarded
    def take_name(self, name: str, data: bytes) -> tuple[Name, bool]:
        check_name_size(name, data)
        return self.take_as(Name(name, self.worker, self.clock.now(), msgspec.Raw(data)))

    def take_as(self, record: Name) -> tuple[Name, bool]:
        """Take a name for whoever the record says."""
        with self._lock:
            return self._names.take(record, self._joined().drafts)

    @guarded
    def get_names(self, names: Sequence[str]) -> dict[str, Name]:
        return {name: held for name in names if (held := self._names.read(digest(name))) is not None}

    @guarded
    def names(self, prefix: str = "") -> list[Name]:
        return self._names.all(prefix)

    @guarded
    def replace_name(self, held: Name, data: bytes | None) -> bool:
        check_name_size(held.name, data or b"")
        by = None if data is None else Name(held.name, self.worker, self.clock.now(), msgspec.Raw(data))
        return self._names.replace(held, by, self._joined().drafts)

    @guarded
    def release_name(self, name: str) -> bool:
        return self._names.release(name)

    @guarded
    def take_slot(self, name: str, limit: int = 1) -> FileSlot | None:
        with self._lock:
            if self._closed:  # meanwhile: nobody would release it
                raise StorageClosed(CLOSED)
            return self._slots.take(name, limit)

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        with self._joining:  # who joins just now has joined; whoever comes later hears that it is closed
            if self._closed:
                return
            self._closed = True
            member, self._member = self._member, None
        forks.forget(self)
        if member is not None and member.maintenance is not None:
            member.maintenance.stop()
        with self._lock:
            self._slots.close()
            if member is None:
                return
            member.board.close()
            member.producer.close()
            self._leave(member)

    def _leave(self, member: Membership) -> None:
        queues = {held.paths for held in member.holder.files}
        try:
            for feed in member.feeds.values():
                feed.give_back()
            member.holder.pay_owed()
            for held in list(member.holder.files):
                if not held.owed:
                    member.holder.release_file(held)
            member.drafts.close()
        except (OSError, EventqError) as error:
            log.warning("what could not be given back is recovered by the next worker's look: %s", error)
            member.holder.abandon()
            member.drafts.abandon()
        member.room.leave()
        for paths in queues:
            wake(paths.wake)

    def abandon(self) -> None:
        """Close every descriptor and give nothing back, as death would. For tests."""
        forks.forget(self)
        self._closed = True
        member, self._member = self._member, None
        if member is not None and member.maintenance is not None:
            member.maintenance.stop()
        with self._lock:
            self._drop_descriptors(member)
            if member is not None:
                member.board.close()

    def _drop_descriptors(self, member: Membership | None) -> None:
        self._names.abandon()
        self._slots.abandon()
        if member is not None:
            member.holder.abandon()
            member.drafts.abandon()
            member.producer.abandon()
            disk.close(member.room.lock_fd)

    def after_fork(self) -> None:
        """In a forked child: close what was inherited, unlock nothing, and join anew on first use."""
        member, self._member = self._member, None
        self._drop_descriptors(member)
        self._reset()
