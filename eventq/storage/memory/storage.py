"""MemoryStorage: one worker's view of a store in memory."""

from __future__ import annotations

import heapq
import os
import threading
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from eventq import ids
from eventq.clock import SYSTEM, Clock
from eventq.config import changed
from eventq.errors import ClaimLost, StorageClosed, StorageError
from eventq.model import (
    Claimed,
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
from eventq.retry import is_suspect
from eventq.storage.base import (
    LOOK_INTERVAL,
    Slot,
    Storage,
    Watch,
    introduction,
)
from eventq.storage.checks import (
    MAX_NOTES_BYTES,
    NOTE_OVERHEAD,
    check_key,
    check_key_of_several,
    check_name,
    check_name_size,
    check_note,
    check_sizes,
    encode_headers,
)
from eventq.storage.memory.queue import Hold, StoredEvent, StoredQueue
from eventq.storage.memory.store import MemorySlot, Seat, Store
from eventq.storage.restored import check_copies

if TYPE_CHECKING:
    from collections.abc import Sequence


_named: dict[str, Store] = {}
_named_lock = threading.Lock()


class Gate:
    """What every method passes: one thread at a time, nobody after the close, nobody in a forked child."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._pid = os.getpid()
        self.closed: bool = False

    def __enter__(self) -> None:
        if os.getpid() != self._pid:  # before the lock, which a thread that is not here any more may hold
            raise StorageClosed("a memory store stays in its process; use a file:// store across a fork")
        self._lock.acquire()
        if self.closed:
            self._lock.release()
            raise StorageClosed("this store was closed; open a new one")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class MemoryStorage(Storage):
    """A store in memory: private, or shared by all of one `name` in this process, each a worker of its own.

    A named store lives until the process ends or `forget(name)`, so that one may put, close, and open again.
    The workers of one store need clocks that agree. Nothing crosses a fork: in the child every method raises
    StorageClosed.
    """

    shared: ClassVar[bool] = False

    def __init__(self, name: str | None = None, *, clock: Clock = SYSTEM) -> None:
        with _named_lock:
            self._store = Store() if name is None else _named.setdefault(name, Store())
        self._clock = clock
        self._gate = Gate(self._store.lock)
        self._looked: float | None = None
        self._suspect: StoredEvent | None = None
        self._worker = ids.new_worker_id()
        self._stamps = ids.Stamps(self._worker, clock)
        self._seat = Seat(self._worker, clock.now())
        with self._gate:
            self._store.seats[self._worker] = self._seat

    @property
    def worker(self) -> str:
        return self._worker

    @staticmethod
    def forget(name: str) -> None:
        """Let the next opener of a name find a new store; who has the old one open keeps it."""
        with _named_lock:
            _named.pop(name, None)

    def abandon(self) -> None:
        """For tests: die as by kill -9. Nothing is given back; the others find out in `recover`."""
        with self._gate:
            self._gate.closed = True
            self._store.leave(self._seat)
            self._store.dead.append(self._seat)

    def close(self) -> None:
        if self._gate.closed:
            return
        with self._gate:
            now = self._clock.now()
            for hold in list(self._seat.holds.values()):
                self._store.put_back(hold.event, now, "released")
            self._gate.closed = True
            self._store.leave(self._seat)

    # ------------------------------------------------------------------ events

    def put(self, queue: str, payloads: Sequence[bytes], options: PutOptions) -> list[str]:
        if options.key is not None:
            check_key_of_several(options)
        check_name(queue)
        headers = encode_headers(options)
        with self._gate:
            check_sizes(payloads, self._settings(queue).max_bytes)
            if not payloads:
                return []
            if options.key is not None:
                holder = self._store.queue(queue).key_holder(options.key, self._clock.now())
                if holder is not None:
                    return ids.of_same_put(holder, len(payloads))
            return self._add(queue, payloads, headers, options)

    def put_key(self, queue: str, payload: bytes, options: PutOptions) -> tuple[str, bool]:
        key = check_key(options)
        check_name(queue)
        headers = encode_headers(options)
        with self._gate:
            check_sizes([payload], self._settings(queue).max_bytes)
            holder = self._store.queue(queue).key_holder(key, self._clock.now())
            if options.debounce is not None:
                return self._debounce(queue, holder, bytes(payload), headers, options)
            if holder is not None:
                return holder, False
            return self._add(queue, [payload], headers, options)[0], True

    def _debounce(
        self, queue: str, holder: str | None, payload: bytes, headers: bytes, options: PutOptions
    ) -> tuple[str, bool]:
        place = self._store.queue(queue)
        earlier = None if holder is None else self._store.events.get(holder)
        if holder is not None and (earlier is None or earlier.since is None):
            return holder, False
        if earlier is None:
            place.check_room(1)
        id = ids.event_id(self._stamps.next(), 0)
        self._store.displace(place, earlier, id, payload, headers, options, self._clock.now())
        self._store.ring("queue", queue)
        return id, True

    def _add(self, queue: str, payloads: Sequence[bytes], headers: bytes, options: PutOptions) -> list[str]:
        now = self._clock.now()
        place = self._store.queue(queue)
        if place.settings.maxsize is not None:
            place.check_room(len(payloads))
        stem = self._stamps.next()
        added = [ids.event_id(stem, index) for index in range(len(payloads))]
        for id, payload in zip(added, payloads, strict=True):
            self._store.add(place, id, bytes(payload), headers, options, now)
        self._store.ring("queue", queue)
        return added

    def restore(self, copies: Sequence[Copy], names: Sequence[Name] = ()) -> int:
        check_copies(copies)
        with self._gate:
            for name in names:
                self._store.names.setdefault(name.name, name)
            now = self._clock.now()
            return sum(self._store.restore(copy, now) for copy in copies)

    def claim(self, queue: str, limit: int = 1) -> list[Claimed]:
        check_name(queue)
        with self._gate:
            place = self._store.queues.get(queue)
            self._seat.queues.add(queue)
            if place is None or self._must_be_alone():
                return []
            now = self._clock.now()
            self._store.tidy(place, now)
            claimed: list[Claimed] = []
            while not place.paused(now) and (late := place.next_expired(now)) is not None:
                self._store.must_not_start(late, now)
            while len(claimed) < limit and not place.paused(now) and place.has_room():
                event = place.first_ready(self.worker, now, self._store.may_start)
                if event is None:
                    break
                if self._store.must_not_start(event, now):
                    continue
                suspect = is_suspect(event.crashes, event.max_crashes)
                if suspect and self._seat.holds:
                    self._suspect = event
                    break
                claimed.append(self._store.start(event, self._seat, self._clock))
                if suspect:
                    break
            return claimed

    def _must_be_alone(self) -> bool:
        """Whether a suspect runs here, or was met and waits for the rest to end (else it might for ever)."""
        holds = self._seat.holds
        if len(holds) == 1:
            event = next(iter(holds.values())).event
            if is_suspect(event.crashes, event.max_crashes):
                return True
        if self._suspect is not None and (not holds or self._suspect.state is not State.READY):
            self._suspect = None
        return self._suspect is not None

    def settle(self, claimed: Claimed, outcome: Outcome) -> None:
        with self._gate:
            self._held(claimed)
            self._store.settle(claimed, outcome, self._clock.now())

    def give_back(self, queue: str) -> None:
        """Nothing is ever fetched ahead in memory."""
        check_name(queue)
        with self._gate:
            return

    def note(self, claimed: Claimed, kind: str, data: bytes) -> None:
        check_note(data)
        with self._gate:
            hold = self._held(claimed)
            event = hold.event
            number = event.notes[-1].number + 1 if event.notes else 1
            event.notes.append(Note(self._clock.now(), kind, msgspec.Raw(bytes(data)), number))
            event.note_bytes += NOTE_OVERHEAD + len(data)
            while event.note_bytes > MAX_NOTES_BYTES:  # the oldest go
                event.note_bytes -= NOTE_OVERHEAD + len(bytes(event.notes.pop(0).data))
            hold.progress = self._clock.monotonic()
            self._store.queue_of(event).held.move_to_end(event.id)
            self._store.ring("event", event.id, everybody=True)

    def _held(self, claimed: Claimed) -> Hold:
        hold = claimed.token
        if isinstance(hold, Hold) and hold.event.hold is hold and hold.seat is self._seat:
            return hold
        raise ClaimLost(f"the claim of event {claimed.id} is not held here: settled already, or taken over")

    # ------------------------------------------------------------------ reading

    def get(self, id: str) -> Record | None:
        with self._gate:
            event = self._find(id)
            return None if event is None else event.record()

    def notes(self, id: str, after: int = 0) -> list[Note]:
        with self._gate:
            event = self._find(id)
            if event is None:
                return []
            return event.notes[bisect_right(event.notes, after, key=lambda note: note.number) :]

    def _find(self, id: str) -> StoredEvent | None:
        event = self._store.events.get(id)
        if event is not None:
            self._store.tidy(self._store.queue_of(event), self._clock.now())
        return self._store.events.get(id)

    def scan(self, queue: str, state: State, filter: Filter, cursor: str | None = None, limit: int = 100) -> Page:
        check_name(queue)
        if limit < 1:
            raise ValueError(f"limit={limit} gives no page; ask for at least 1")
        with self._gate:
            place = self._tidied(queue)
            found = (
                event
                for event in place.events.values()
                if event.state is state and (cursor is None or event.id > cursor) and filter.matches(event.record())
            )
            first = heapq.nsmallest(limit + 1, found, key=lambda event: event.id)
            records = tuple(event.record() for event in first[:limit])
            return Page(records, records[-1].id if len(first) > limit else None)

    def stats(self, queue: str) -> Stats:
        check_name(queue)
        with self._gate:
            place = self._tidied(queue)
            ready = (event.place for event in place.events.values() if event.state is State.READY)
            oldest = min(ready, default=None)
            age = None if oldest is None else max(0.0, self._clock.now() - oldest / 1e9)
            return Stats(oldest_ready=age, **{str(state): count for state, count in place.counts.items()})

    def _tidied(self, queue: str) -> StoredQueue:
        place = self._store.queues.get(queue) or StoredQueue(queue)
        self._store.tidy(place, self._clock.now())
        return place

    def queues(self) -> list[str]:
        with self._gate:
            return sorted(self._store.queues)

    # ------------------------------------------------------------------ changing

    def edit(self, queue: str | None, ids: Sequence[str], edit: Edit) -> list[str]:
        for name in (queue, edit.queue if isinstance(edit, Move) else None):
            if name is not None:
                check_name(name)
        with self._gate:
            return [self._edit(id, edit) for id in ids]

    def _edit(self, id: str, edit: Edit) -> str:
        event = self._find(id)
        if event is None:
            return "unknown"
        return self._store.edit(event, edit, self._clock.now(), self._stamps)

    def purge(self, queue: str, state: State) -> int:
        check_name(queue)
        if state is State.CLAIMED:
            return 0
        with self._gate:
            return self._store.purge(self._tidied(queue), state)

    def prune(self, queue: str) -> int:
        check_name(queue)
        with self._gate:
            place = self._store.queues.get(queue)
            return 0 if place is None else self._store.prune(place, self._clock.now())

    def settings(self, queue: str) -> Settings:
        check_name(queue)
        with self._gate:
            return self._settings(queue)

    def _settings(self, queue: str) -> Settings:
        place = self._store.queues.get(queue)
        return Settings() if place is None else place.settings

    def configure(self, queue: str, changes: dict[str, Any]) -> Settings:
        check_name(queue)
        with self._gate:
            settings = changed(self._settings(queue), changes)
            self._store.queue(queue).settings = settings
            self._store.ring("queue", queue, everybody=True)  # perhaps it was resumed
            return settings

    def drop(self, queue: str) -> None:
        check_name(queue)
        with self._gate:
            place = self._store.queues.get(queue)
            if place is None:
                return
            if place.held:
                raise StorageError(f"{len(place.held)} events of queue {queue!r} are claimed; drop it later")
            for event in list(place.events.values()):
                self._store.forget(event)
            del self._store.queues[queue]

    # ------------------------------------------------------------------ life

    def introduce(self, queues: Sequence[str], tasks: Sequence[str]) -> None:
        for queue in queues:
            check_name(queue)
        said = introduction(queues, tasks)
        with self._gate:
            self._seat.introduction = said

    def workers(self) -> list[Worker]:
        with self._gate:
            return [
                Worker(
                    id=seat.worker, pid=os.getpid(), host=os.uname().nodename, since=seat.since,
                    claims=tuple(seat.holds), queues=tuple(sorted(seat.queues)), serves=seat.introduction[0],
                    tasks=seat.introduction[1],
                )
                for seat in self._store.seats.values()
            ]  # fmt: skip

    def recover(self) -> float:
        with self._gate:
            now, monotonic = self._clock.now(), self._clock.monotonic()
            if self._looked is None or monotonic - self._looked >= LOOK_INTERVAL:
                self._looked = monotonic
                self._store.bury(now)
                self._store.end_leases(now, monotonic)
                self._store.forget_starts(now)
                for place in self._store.queues.values():
                    self._store.tidy(place, now)
            return self._next_look(now)

    def _next_look(self, now: float) -> float:
        wait = LOOK_INTERVAL
        for queue in self._seat.queues:
            place = self._store.queues.get(queue)
            if place is None or place.paused(now):
                continue
            place.promote(now)
            due = place.next_due()
            if due is not None:
                wait = min(wait, due - now)
            for rates in place.rates_waited_for():
                if (due := self._store.free_at(rates, now)) > now:
                    wait = min(wait, due - now)
        return wait

    def watch(self, queue: str | None = None, id: str | None = None) -> Watch:
        if id is None:
            if queue is None:
                raise TypeError("watch() needs a queue or an event id")
            check_name(queue)
        with self._gate:
            if id is not None:
                return self._store.watch(self._seat, "event", id)
            return self._store.watch(self._seat, "queue", str(queue))

    # ------------------------------------------------------------------ names and slots

    def take_name(self, name: str, data: bytes) -> tuple[Name, bool]:
        check_name_size(name, data)
        with self._gate:
            held = self._store.names.get(name)
            if held is not None:
                return held, False
            taken = Name(name, self.worker, self._clock.now(), msgspec.Raw(bytes(data)))
            self._store.names[name] = taken
            return taken, True

    def get_names(self, names: Sequence[str]) -> dict[str, Name]:
        with self._gate:
            return {name: held for name in names if (held := self._store.names.get(name)) is not None}

    def names(self, prefix: str = "") -> list[Name]:
        with self._gate:
            return [held for name, held in sorted(self._store.names.items()) if name.startswith(prefix)]

    def replace_name(self, held: Name, data: bytes | None) -> bool:
        check_name_size(held.name, data or b"")
        with self._gate:
            if self._store.names.get(held.name) != held:
                return False
            if data is None:
                del self._store.names[held.name]
            else:
                by = Name(held.name, self.worker, self._clock.now(), msgspec.Raw(bytes(data)))
                self._store.names[held.name] = by
            return True

    def release_name(self, name: str) -> bool:
        with self._gate:
            return self._store.names.pop(name, None) is not None

    def take_slot(self, name: str, limit: int = 1) -> Slot | None:
        if limit < 1:
            raise ValueError(f"a slot of {limit} can never be taken; the limit is at least 1")
        with self._gate:
            if len(self._store.slots.get(name, ())) >= limit:
                return None
            return MemorySlot(self._store, self._seat, name)
