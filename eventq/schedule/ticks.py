"""Ticks: the next time of a schedule, as one delayed event in a queue of its own. No leader, and nothing that loops.

A tick that is due is claimed by whichever worker is first. It puts the run, with the key of its time; then the tick of
the following time, with a key, too; and only then is it settled. Who is killed anywhere in between leaves the tick to
another worker, which repeats what it finds done, and that changes nothing.

Who changes a schedule begins another chain. Who is killed before that leaves another event, put before the change: it
begins the chain `BEGIN_AFTER` seconds later, if nobody else has.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from eventq import clock
from eventq.arguments import Call
from eventq.claim import failure_of
from eventq.clock import SYSTEM
from eventq.disabled import disabled_among
from eventq.errors import ClaimLost, ConfigError, EventqError, MissingExtra, StorageClosed, StorageError
from eventq.model import OPEN_STATES, Completed, Delete, Filter, PutOptions, Rejected, Released, Retried, Skipped, State
from eventq.retry import FOR_EVER
from eventq.schedule.record import SCHEDULES, Definition, Entry, LastRun, current, new_chain
from eventq.schedule.times import after, due_times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventq.model import Claimed, Outcome, Record
    from eventq.storage.base import Storage
    from eventq.store import Store

log: logging.Logger = logging.getLogger("eventq.schedule")

QUEUE = "schedules"
"""The queue of ticks. It is eventq's own: workers take nothing else from it."""
TICK = "eventq.tick"
TICK_HEADER = "eventq.tick"
"""The header of a tick: the name of its schedule."""
RUN_HEADER = "eventq.schedule"
"""The header of a run: the name of its schedule, and its time."""
KEY = "eventq.schedule/"
"""So begins the key of a run, in the queue of its task."""
BEGIN_AFTER = 5.0
LEAST_HELD, MOST_HELD = 60.0, 3600.0
"""Seconds for which the key of a run is held, so that a tick that is repeated puts nothing twice."""
AGAIN_AFTER, FAILED_AFTER = 1.0, 60.0
"""Seconds until a tick is repeated: if the storage failed, or something that nobody expects."""
PAGE = 1000


class Tick(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A time of a schedule. Without one it begins the chain, in case that whoever made that was killed."""

    name: str
    chain: str
    at: float | None = None
    last: LastRun | None = None
    """The last run before."""


# ---------------------------------------------------------------- putting


def put_tick(storage: Storage, tick: Tick) -> str:
    """Put a tick unless it is there already; the id of its event."""
    assert tick.at is not None
    return storage.put_key(QUEUE, _packed(tick), _tick_options(tick, tick.at, f"{tick.chain}@{tick.at!r}"))[0]


def put_beginning(storage: Storage, tick: Tick, now: float) -> str:
    """Put what begins a chain a little later, if by then nobody has; the id of its event."""
    return storage.put(QUEUE, (_packed(tick),), _tick_options(tick, now + BEGIN_AFTER, None))[0]


def _tick_options(tick: Tick, due: float, key: str | None) -> PutOptions:
    headers = {TICK_HEADER: tick.name}
    return PutOptions(due=due, key=key, headers=headers, max_attempts=FOR_EVER, max_crashes=FOR_EVER)


def _packed(tick: Tick) -> bytes:
    return msgspec.json.encode(Call(TICK, kwargs=msgspec.to_builtins(tick)))


def put_run(store: Store, name: str, definition: Definition, at: float, key: str | None, hold: float = 1.0) -> str:
    """Put a run of a schedule, with a key that is held for some seconds, or without one; the id of its event."""
    about = {"name": name, "at": clock.aware(at).isoformat()}
    options = PutOptions(
        codec=definition.codec,
        priority=definition.priority,
        expires=None if definition.expires is None else store.clock.now() + definition.expires,
        headers={**definition.headers, RUN_HEADER: about},
        key=key,
        unique="open" if key is None else hold,
        limits=definition.limits,
        rates=definition.rates,
        max_attempts=definition.max_attempts,
        max_crashes=definition.max_crashes,
        keep=definition.keep,
    )
    if key is None:
        return store.storage.put(definition.queue, (definition.payload,), options)[0]
    return store.storage.put_key(definition.queue, definition.payload, options)[0]


# ---------------------------------------------------------------- reading


class OpenTick(NamedTuple):
    """A tick with the id of its event."""

    id: str
    tick: Tick


def open_ticks(storage: Storage, name: str | None = None) -> dict[str, OpenTick]:
    """The last tick that is open of each chain, by the chain; of one schedule, or of all."""
    found: dict[str, OpenTick] = {}
    filter = Filter() if name is None else Filter(headers={TICK_HEADER: name})
    if QUEUE not in storage.queues():
        return found
    for state in (State.CLAIMED, State.READY, State.DELAYED):
        cursor: str | None = None
        while True:
            page = storage.scan(QUEUE, state, filter, cursor, PAGE)
            for record in page.records:
                tick = tick_of(record)
                if tick is not None and tick.at is not None and _is_later(tick.at, found.get(tick.chain)):
                    found[tick.chain] = OpenTick(record.id, tick)
            cursor = page.cursor
            if cursor is None:
                break
    return found


def _is_later(at: float, other: OpenTick | None) -> bool:
    return other is None or other.tick.at is None or at > other.tick.at


def delete(storage: Storage, found: Sequence[OpenTick]) -> None:
    """Delete ticks that are not needed any more. One that is claimed just now finds that by itself."""
    if found:
        storage.edit(QUEUE, [each.id for each in found], Delete())


def tick_of(event: Record | Claimed) -> Tick | None:
    """The tick that an event is; None if it is something else."""
    try:
        call = msgspec.json.decode(event.payload, type=Call)
        return msgspec.convert(call.kwargs, Tick) if call.task == TICK else None
    except msgspec.MsgspecError:
        return None


# ---------------------------------------------------------------- firing


class Firing:
    """A worker's side: claims the ticks that are due, and does what they are for. For one thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._owed: list[tuple[Claimed, Outcome]] = []
        """What could not be settled yet: as long as this worker lives, nobody else may repeat it."""
        self._begins = False

    def fire_due(self, budget: float) -> bool:
        """Do what is due, for so many seconds at most; whether there is more to do at once: that was too short, or runs
        of workflows were put, that are to begin. Raises StorageError."""
        until = SYSTEM.monotonic() + budget
        self._begins = False
        self._settle_owed()
        while claims := self._store.storage.claim(QUEUE, 1):
            self._settle(claims[0], self._outcome(claims[0]))
            if SYSTEM.monotonic() >= until:
                return True
        return self._begins

    def leave(self) -> None:
        """The worker ends: give back what its storage has fetched ahead, and settle what is owed."""
        if QUEUE in self._store.storage.queues():
            self._store.storage.give_back(QUEUE)
        self._settle_owed()

    def _settle_owed(self) -> None:
        while self._owed:
            self._settle(*self._owed.pop())

    def _settle(self, claimed: Claimed, outcome: Outcome) -> None:
        try:
            self._store.storage.settle(claimed, outcome)
        except (ClaimLost, StorageClosed) as error:
            log.warning("a tick of a schedule was not settled, and is repeated: %s", error)
        except StorageError:
            self._owed.append((claimed, outcome))
            raise

    def _outcome(self, claimed: Claimed) -> Outcome:
        tick = tick_of(claimed)
        if tick is None:
            log.error("event %s in %s is no tick of a schedule, and now a dead letter", claimed.id, QUEUE)
            return Rejected(failure_of(f"the queue {QUEUE!r} is for eventq's own ticks; put it into another"))
        try:
            self._fire(tick)
        except StorageError as error:
            log.error("schedule %s: %s; tried again in %.1f s", tick.name, error, AGAIN_AFTER)
            return Released(AGAIN_AFTER)
        except (MissingExtra, ConfigError) as error:  # of this machine: another may have it
            log.error("schedule %s is left for another worker: %s", tick.name, error)
            return Skipped()
        except Exception as error:
            log.exception("schedule %s failed; tried again in %.0f s", tick.name, FAILED_AFTER)
            return Retried(FAILED_AFTER, failure_of(error))
        return Completed()

    def _fire(self, tick: Tick) -> None:
        storage = self._store.storage
        entry = current(storage, tick.name, tick.chain)
        if entry is None:
            log.debug("a tick of schedule %s is of a chain that is over", tick.name)
        elif tick.at is None:
            begin(storage, tick, entry)
        else:
            self._put_due(tick, tick.at, entry)

    def _put_due(self, tick: Tick, at: float, entry: Entry) -> None:
        """Put the runs that are due, then the next tick."""
        now, when = self._store.clock.now(), entry.definition.when
        following = after(when, entry.start, max(at, now))
        times = due_times(when, entry.start, at, now, entry.definition.late)
        if not times or times[0] != at:
            log.warning("schedule %s missed its run of %s, %.1f s ago", tick.name, clock.aware(at), now - at)
        if times and disabled_among(self._store.storage, [entry.definition.task]):
            log.info("schedule %s: its task %s is switched off, and no run is put", tick.name, entry.definition.task)
            times = []
        hold = MOST_HELD if following is None else min(MOST_HELD, max(LEAST_HELD, 1000 * (following - at)))
        last = tick.last
        for moment in times:
            last = self._put_one(tick.name, entry.definition, moment, last, hold)
        if following is not None:
            put_tick(self._store.storage, msgspec.structs.replace(tick, at=following, last=last))
        else:
            self._end(tick, msgspec.structs.replace(entry, since=max(at, now), last=last))

    def _end(self, tick: Tick, entry: Entry) -> None:
        """It is never due again: it goes, unless a program declares it, and would have it made once more."""

        def ended(old: Entry | None) -> Entry | None:
            if old is None or old.chain != tick.chain:
                return old  # changed meanwhile: that counts
            return None if entry.declared is None else msgspec.structs.replace(entry, chain=new_chain())

        SCHEDULES.change(self._store.storage, tick.name, ended)
        log.info("schedule %s has had its last run", tick.name)

    def _put_one(
        self, name: str, definition: Definition, moment: float, last: LastRun | None, hold: float
    ) -> LastRun | None:
        """Put a run; the last run then."""
        if not definition.overlap and last is not None and last.at != moment and self._is_open(last.id):
            log.warning("schedule %s: no run for %s, event %s is still open", name, clock.aware(moment), last.id)
            return last
        try:
            id = put_run(self._store, name, definition, moment, f"{KEY}{name}@{moment!r}", hold)
        except StorageError:
            raise
        except EventqError as error:
            log.error("schedule %s: no run for %s could be put: %s", name, clock.aware(moment), error)
            return last
        log.debug("schedule %s: put event %s for %s", name, id, clock.aware(moment))
        self._begins = self._begins or definition.workflow is not None
        return LastRun(moment, id)

    def _is_open(self, id: str) -> bool:
        record = self._store.storage.get(id)
        return record is not None and record.state in OPEN_STATES


def begin(storage: Storage, tick: Tick, entry: Entry) -> None:
    """Put the first tick of a chain."""
    first = None if entry.paused else after(entry.definition.when, entry.start, entry.since)
    if first is not None:
        put_tick(storage, Tick(name=tick.name, chain=tick.chain, at=first, last=entry.last))
