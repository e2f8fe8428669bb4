"""What the workers of one memory store share, and the transitions of its events.

Every function here is called with `Store.lock` held.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import msgspec

from eventq import ids, retry
from eventq.model import (
    MAX_PLACES,
    Attempt,
    Cancel,
    Claimed,
    Completed,
    Copy,
    Delete,
    Dropped,
    Edit,
    Failure,
    Move,
    Name,
    Outcome,
    PutOptions,
    Rejected,
    Released,
    Requeue,
    Retried,
    Skipped,
    State,
)
from eventq.storage.base import debounced, displaced_by
from eventq.storage.bells import Bells, PipeWatch
from eventq.storage.memory.queue import Hold, Needs, StoredEvent, StoredQueue
from eventq.storage.restored import holds_key, restored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventq.clock import Clock

RATES_STEP = 64
PRUNE_STEP = 1000
"""Records that one look at a queue gives up at most."""


class Seat:
    """One worker's place in the store: what others give back when it dies."""

    def __init__(self, worker: str, since: float) -> None:
        self.worker: str = worker
        self.since: float = since
        self.introduction: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        """The queues it serves, the tasks it knows."""
        self.holds: dict[str, Hold] = {}
        self.queues: set[str] = set()
        self.slots: set[MemorySlot] = set()
        self.watches: set[PipeWatch] = set()


class Starts:
    """When events with a rate were started, the last one last."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MAX_PLACES)
        self._longest = 0.0

    def add(self, now: float, seconds: float) -> None:
        self._times.append(now)
        self._longest = max(self._longest, seconds)

    def free_at(self, places: int, seconds: float, now: float) -> float:
        """When another one may start, of so many within so many seconds."""
        times = self._times
        for at in range(len(times) - 1, -1, -1):
            if times[at] <= now:
                break
            times[at] = now  # the clock was set back: or it would count until the clock is there again
        return times[-places] + seconds if len(times) >= places else 0.0

    def is_over(self, now: float) -> bool:
        """Whether no start counts any more."""
        return self._times[-1] + self._longest <= now


class MemorySlot:
    """One place of a semaphore."""

    def __init__(self, store: Store, seat: Seat, name: str) -> None:
        self._store = store
        self._seat = seat
        self._name = name
        store.slots.setdefault(name, set()).add(self)
        seat.slots.add(self)

    def release(self) -> None:
        with self._store.lock:
            self._seat.slots.discard(self)
            holders = self._store.slots.get(self._name, set())
            holders.discard(self)
            if not holders:
                self._store.slots.pop(self._name, None)


class Store:
    """The shared state behind every `MemoryStorage` of one name."""

    def __init__(self) -> None:
        self.lock: threading.RLock = threading.RLock()
        self.queues: dict[str, StoredQueue] = {}
        self.events: dict[str, StoredEvent] = {}
        self.seats: dict[str, Seat] = {}
        self.dead: list[Seat] = []
        self.names: dict[str, Name] = {}
        self.slots: dict[str, set[MemorySlot]] = {}
        self.places: dict[str, set[int]] = {}
        """Which places of the limits that events name are held."""
        self.rates: OrderedDict[str, Starts] = OrderedDict()
        """What was started of each name of a rate, the name of the last start last."""
        self.bells: Bells = Bells(self.lock)

    def queue(self, name: str) -> StoredQueue:
        """A queue, made on first use."""
        if name not in self.queues:
            self.queues[name] = StoredQueue(name)
        return self.queues[name]

    def queue_of(self, event: StoredEvent) -> StoredQueue:
        return self.queues[event.queue]

    def tidy(self, queue: StoredQueue, now: float) -> None:
        """Bring a queue up to date; every look at it begins here."""
        queue.promote(now)
        self.prune(queue, now, PRUNE_STEP)

    def prune(self, queue: StoredQueue, now: float, most: int | None = None) -> int:
        """Forget what retention gives up, at most so many records; how many went."""
        count = 0
        while count != most and (event := queue.lapsed(now)) is not None:
            self.forget(event)
            count += 1
        return count

    def purge(self, queue: StoredQueue, state: State) -> int:
        """Forget all events of a state; how many went."""
        found = [event for event in queue.events.values() if event.state is state]
        for event in found:
            queue.free_key(event)
            self.forget(event)
        return len(found)

    # ------------------------------------------------------------------ transitions

    def add(
        self, queue: StoredQueue, id: str, payload: bytes, headers: bytes, options: PutOptions, now: float
    ) -> StoredEvent:
        """A new event, with its key if that is free. Nobody is woken yet."""
        event = StoredEvent(id, queue.name, payload, headers, options)
        delayed = event.due is not None and event.due > now
        if event.due is not None and (delayed or options.debounce is not None):
            event.wait_until(event.due)  # a chain whose time is over keeps its place from one put to the next
        queue.enter(event, State.DELAYED if delayed else State.READY)
        queue.hold_key(event, now)
        self.events[id] = event
        return event

    def displace(
        self, queue: StoredQueue, earlier: StoredEvent | None, id: str, payload: bytes, headers: bytes,
        options: PutOptions, now: float,
    ) -> None:  # fmt: skip
        """A new debounced event, in the place of an earlier one that waits."""
        since = now if earlier is None or earlier.since is None else earlier.since
        options = debounced(options, now, since)
        if earlier is not None:
            queue.free_key(earlier)
        self.add(queue, id, payload, headers, options, now).since = since
        if earlier is not None:
            self.drop(earlier, now, Dropped(State.CANCELLED, displaced_by(id)))

    def restore(self, copy: Copy, now: float) -> bool:
        """An event that another store had, as it was there; False if there is one of its id."""
        record = copy.record
        if record.id in self.events:
            return False
        queue = self.queue(record.queue)
        event = self.events[record.id] = StoredEvent.copied(copy)
        queue.enter(event, restored(record).state)
        if holds_key(record, now):
            queue.hold_key(event, now, ids.created_of(record.id))
        if event.state is State.READY:
            self.ring("queue", queue.name)
        return True

    def start(self, event: StoredEvent, seat: Seat, clock: Clock) -> Claimed:
        queue = self.queue_of(event)
        queue.leave(event)
        event.hold = hold = Hold(event, seat, clock.now(), clock.monotonic())
        limits, rates = event.needs
        for name, places in limits:
            hold.places.append((name, self._free_place(name, places)))
            self.places.setdefault(name, set()).add(hold.places[-1][1])
        for name, _, seconds in rates:
            self.rates.setdefault(name, Starts()).add(hold.started, seconds)
            self.rates.move_to_end(name)
        queue.enter(event, State.CLAIMED)
        seat.holds[event.id] = hold
        if event.unique == "waiting":
            queue.free_key(event)
        hold.claimed = Claimed(
            event.id, event.queue, event.payload, event.codec, msgspec.json.decode(event.headers),
            event.priority, event.failures, event.crashes, event.max_attempts, event.keep, hold,
        )  # fmt: skip
        return hold.claimed

    def _free_place(self, name: str, places: int) -> int:
        """The first place of a name that nobody holds; `places` if none of so many is free."""
        held = self.places.get(name, ())
        return next((place for place in range(places) if place not in held), places)

    def may_start(self, needs: Needs, now: float) -> bool:
        """Whether an event with these needs may start now."""
        limits, rates = needs
        return all(self._free_place(name, places) < places for name, places in limits) and (
            not rates or self.free_at(rates, now) <= now
        )

    def free_at(self, rates: Iterable[tuple[str, int, float]], now: float) -> float:
        """When all of these rates let another event start."""
        return max(
            self.rates[name].free_at(places, seconds, now) if name in self.rates else 0.0
            for name, places, seconds in rates
        )

    def forget_starts(self, now: float) -> None:
        """Forget names of which no start counts any more; a few at a time, those whose last start is long ago first."""
        for name in list(itertools.islice(self.rates, RATES_STEP)):
            if self.rates[name].is_over(now):
                del self.rates[name]
            else:
                self.rates.move_to_end(name)

    def _free(self, hold: Hold) -> None:
        """An event does not run any more: its places are free, and whoever waits for them hears of it."""
        for name, place in hold.places:
            self.places[name].discard(place)
            if not self.places[name]:
                del self.places[name]
            for queue in self.queues.values():
                if queue.waits_for(name):
                    self.ring("queue", queue.name)
        if self.queue_of(hold.event).settings.concurrency is not None:
            self.ring("queue", hold.event.queue)

    def must_not_start(self, event: StoredEvent, now: float) -> bool:
        """Whether an event is past starting; then it is settled here."""
        settings = self.queue_of(event).settings
        verdict = retry.before_start(now, event.expires, event.crashes, event.max_crashes, settings)
        if isinstance(verdict, Dropped):
            self.drop(event, now, verdict)
        elif isinstance(verdict, Rejected):
            self.finish(event, now, State.DEAD, verdict.failure)
        return verdict is not None

    def settle(self, claimed: Claimed, outcome: Outcome, now: float) -> None:
        hold: Hold = claimed.token
        event = hold.event
        match outcome:
            case Completed(value, codec):
                event.value, event.value_codec, event.keep = value, codec, claimed.keep
                self.finish(event, now, State.COMPLETED, None)
            case Retried(delay, failure):
                event.failures += 1
                event.failure = failure
                self.put_back(event, now, "failed", delay, failure)
            case Released(delay):
                self.put_back(event, now, "released", delay)
            case Skipped():
                self.put_back(event, now, "skipped", skipper=hold.seat.worker)
            case Rejected(failure):
                event.failures += 1
                self.finish(event, now, State.DEAD, failure)
            case Dropped():
                self.drop(event, now, outcome)

    def put_back(
        self, event: StoredEvent, now: float, outcome: str, delay: float = 0.0, error: Failure | None = None,
        skipper: str | None = None,
    ) -> None:  # fmt: skip
        """A claim ends and the event is open again: at its old place, or after a delay."""
        queue = self.queue_of(event)
        queue.leave(event)
        self._end_attempt(event, now, outcome, error)
        if skipper is not None:
            event.skippers |= {skipper}
        if delay > 0:
            event.wait_until(now + delay)
        queue.enter(event, State.DELAYED if delay > 0 else State.READY)
        self.ring("queue", event.queue, everybody=skipper is not None)

    def crash(self, hold: Hold, now: float) -> None:
        """The holder died, or outlived its lease."""
        hold.event.crashes += 1
        self.put_back(hold.event, now, "crashed")

    def drop(self, event: StoredEvent, now: float, outcome: Dropped) -> None:
        if outcome.state not in (State.EXPIRED, State.CANCELLED):
            raise ValueError(f"Dropped ends an event as expired or cancelled, not {outcome.state}")
        self.finish(event, now, outcome.state, Failure(str(outcome.state), outcome.reason))

    def finish(self, event: StoredEvent, now: float, state: State, failure: Failure | None) -> None:
        """The event reaches a final state; its record stays if it is one to keep."""
        queue = self.queue_of(event)
        queue.leave(event)
        self._end_attempt(event, now, str(state), failure)
        event.settled = now
        event.failure = None if state is State.COMPLETED else failure or event.failure
        queue.free_key(event)
        empty = state is State.COMPLETED and event.value is None
        if empty or queue.keep_of(state, event.keep) <= 0:
            del self.events[event.id]
        else:
            queue.enter(event, state)
            self.tidy(queue, now)
        self.ring("event", event.id, everybody=True)

    def forget(self, event: StoredEvent) -> None:
        """An event leaves without a trace."""
        self.queue_of(event).leave(event)
        del self.events[event.id]
        self.ring("event", event.id, everybody=True)

    def _end_attempt(self, event: StoredEvent, now: float, outcome: str, error: Failure | None) -> None:
        hold, event.hold = event.hold, None
        if hold is not None:
            event.add_attempt(Attempt(hold.seat.worker, hold.started, now, outcome, error))
            del hold.seat.holds[event.id]
            hold.claimed = None
            self._free(hold)

    # ------------------------------------------------------------------ edits

    def edit(self, event: StoredEvent, edit: Edit, now: float, stamps: ids.Stamps) -> str:
        """One edit of one event; the word of `Storage.edit`."""
        waiting = event.state in (State.READY, State.DELAYED)
        match edit:
            case Cancel(unstarted=True) if event.attempts or not waiting:
                return "too late"
            case Cancel(reason) if waiting:
                self.drop(event, now, Dropped(State.CANCELLED, reason))
                return "cancelled"
            case Cancel() if event.hold is not None and event.hold.claimed is not None:
                event.hold.claimed.cancelled = True
                return "requested"
            case Requeue() if event.state is State.COMPLETED:
                return self._replay(event, now, stamps)
            case Requeue() if event.state not in (State.READY, State.CLAIMED):
                self._requeue(event, now, stamps)
                return event.id
            case Move(target) if waiting:
                self._move(event, self.queue(target), now)
                return "moved"
            case Delete() if event.state is not State.CLAIMED:
                self.queue_of(event).free_key(event)
                self.forget(event)
                return "deleted"
        return "too late"

    def _requeue(self, event: StoredEvent, now: float, stamps: ids.Stamps) -> None:
        """Ready at the end of its queue, as if new but for its id and its history."""
        queue = self.queue_of(event)
        queue.leave(event)
        event.place = ids.nanoseconds_of(stamps.next())
        event.due = event.failure = None
        event.settled = 0.0
        event.failures = event.crashes = 0
        if event.expires is not None and event.expires <= now:
            event.expires = None
        queue.enter(event, State.READY)
        queue.hold_key_again(event, now)
        self.ring("queue", queue.name)

    def _replay(self, event: StoredEvent, now: float, stamps: ids.Stamps) -> str:
        options = PutOptions(
            codec=event.codec, priority=event.priority, max_attempts=event.max_attempts,
            max_crashes=event.max_crashes, keep=event.keep, limits=dict(event.needs[0]),
            rates=event.rates(),
        )  # fmt: skip
        replay = ids.event_id(stamps.next(), 0)
        self.add(self.queue_of(event), replay, event.payload, event.headers, options, now)
        self.ring("queue", event.queue)
        return replay

    def _move(self, event: StoredEvent, target: StoredQueue, now: float) -> None:
        source = self.queue_of(event)
        source.leave(event)
        source.free_key(event)
        event.queue = target.name
        target.enter(event, event.state)
        target.hold_key_again(event, now)
        self.ring("queue", target.name)

    # ------------------------------------------------------------------ death and waking

    def leave(self, seat: Seat) -> None:
        """A worker is gone, by will or not: its slots and watches are free at once."""
        self.seats.pop(seat.worker, None)
        for slot in list(seat.slots):
            slot.release()
        for watch in list(seat.watches):
            watch.close()

    def bury(self, now: float) -> None:
        """Put back what dead workers held."""
        for seat in self.dead:
            for hold in list(seat.holds.values()):
                self.crash(hold, now)
        self.dead.clear()

    def end_leases(self, now: float, monotonic: float) -> None:
        """Take over what was held too long; `held` is in order of progress, so only those are looked at."""
        for queue in self.queues.values():
            lease = queue.settings.lease
            while lease is not None and queue.held:
                hold = next(iter(queue.held.values()))
                if monotonic - hold.progress < lease:
                    break
                self.crash(hold, now)

    def ring(self, kind: str, name: str, everybody: bool = False) -> None:
        self.bells.ring(kind, name, everybody)

    def watch(self, seat: Seat, kind: str, name: str) -> PipeWatch:
        """A watch for `"queue"` or `"event"`."""
        watch = self.bells.watch(kind, name, seat.watches.discard)
        seat.watches.add(watch)
        return watch
