"""The storage seam: read this first.

Everything that eventq does rests on one `Storage`: synchronous, records in and out, no callbacks. Queues, claims,
handles, tasks, schedules and workflows are shared code above it; files, memory, Redis and SQL are implementations
below it. A storage is whatever passes `eventq.testing.StorageConformance`; that suite, not this text, decides in
case of doubt.

The life of an event:

    put ──► ready ◄──────────────┐            requeue (from dead, expired, cancelled)
      │       │ claim            │ release, skip, death of the worker
      ▼       ▼                  │
    delayed  claimed ────────────┤
      ▲       │                  │
      └───────┤ retry(delay)     │
              ├─► completed      │
              ├─► dead           │
              ├─► expired, cancelled

What every storage promises, whatever it is made of:

1. **Nothing acknowledged is lost.** When `put` returns, the events survive the death of every process (and, in a
   durable store, a power cut). When `put` raises, nothing was stored, unless it raises `OutcomeUnknown`.
2. **A claim is exclusive.** Between `claim` and `settle` no other worker gets the event, however slow the holder
   is, unless it died or the queue has a `lease`. Whoever lost a claim learns it: `ClaimLost`.
3. **A dead worker's claims go back** within a second, without a lease to tune, by anybody's `recover()`. Each event
   that it had started counts one crash; those it held unstarted count none.
4. **No clock decides about the living.** Ready events are claimable whatever the wall clock says; it decides only
   `due`, `expires` and retention.
5. **Cost depends on open work**, never on history or backlog.
6. Methods raise `StorageError` (the system's error chained) when the storage fails, and leave it usable.

Two rules keep the layers above free of coordination: *a put with a key is idempotent*, and *follow-ups are put
before the event is settled*.

A `Storage` object is one worker's view of a store: it has a worker id, may be used by many threads, and not after a
fork (the child gets a fresh worker id on first use).

Writing a storage
-----------------

Subclass `Storage`, subclass `eventq.testing.StorageConformance`, and go on until it passes: a kill fixture included, or
the hardest rules are skipped. `storage/memory/` is the reference, to be read first. `examples/socket_storage.py` is a
whole storage, its server included, in two hundred lines. An order in which each step can be tested (`pytest -k`):

1. `put`, `get`, `queues`, `stats`, `scan`; `claim` and `settle` of a single worker; `configure`.
2. `workers`, `recover`, `close`: several workers, and their deaths. Then `watch`.
3. `put_key`, `edit`, `purge`, `prune`, `drop`, `note`, names and slots; `lease`, limits, rates, `restore`.

What is hard:

- **One claim, one transition.** Taking an event, its places and its starts is one atomic step, as is each way back;
  and a settle holds only if its claim does. Give every claim a token of its own, and compare that, not the worker.
- **Who is dead.** Rest on what the system ends with a process: a lock, a connection. A time stamp that is not renewed
  tells of a slow worker as well. What only silence tells, `observed.Observed` measures by the observer's own clock.
- **Waking.** A caller makes its watch, looks, and then waits; so a put is stored first, and rings after. One wake for
  one waiter; whoever finds less than it asked for has to be woken again. `bells` has the pipes for one process.
- **An answer that is lost.** If a server may have done what it was asked, ask again in a way that does it once: ids are
  made here, before; a claim or settle that is repeated finds its own token. Else raise `OutcomeUnknown`, not a guess.
- **Forks.** A child has the parent's descriptors: it must not speak on them, nor keep them open, or the parent's death
  is not seen. `forks.follow`; then a new worker id at the first use, and its introduction said again.
- **Clocks.** Times come from the `clock` that the storage was given, never from a server; waits by `monotonic`. What
  was put in an order is claimed in it whatever the clock says: by `eventq.ids`, which never go back.
- **Bounds.** Retention in steps, notes by size, attempts by number; a look at the store costs what is open.

What helps: `checks` refuses what every storage refuses, in the same words; `endings` says what an outcome means for its
event, `retry.before_start` what must not be started; `config.changed` merges settings; `restored` says what a copied
event becomes. Names, keys and headers are any text: keep them away from whatever has a syntax.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from eventq.errors import ConfigError
from eventq.model import (
    Claimed,
    Copy,
    Edit,
    Filter,
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

S = TypeVar("S", bound="Storage")

LOOK_INTERVAL = 0.25
"""Seconds between two looks at what others left behind: dead workers, due events, requests. Four wakeups a second."""

MAX_PUT_EVENTS = 100_000
MAX_PUT_BYTES = 64 << 20
MAX_NOTE_BYTES = 512 << 10
"""The data of one note, at most."""
MAX_NAME_BYTES = 1 << 20
"""A name with its data, at most."""
MAX_INTRODUCTION = 1 << 20
"""Bytes of the names by which a worker introduces itself, at most."""


def debounced(options: PutOptions, now: float, since: float) -> PutOptions:
    """A debounced put as it is stored at `now`, if its chain began at `since`: due when no more of them came for
    `debounce` seconds, or `debounce_max` after the first. Its key is held until it is started."""
    assert options.debounce is not None
    due = now + options.debounce
    if options.debounce_max is not None:
        due = min(due, since + options.debounce_max)
    return msgspec.structs.replace(options, due=due, unique="waiting")


def introduction(queues: Sequence[str], tasks: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names by which a worker introduces itself. Raises ConfigError if they are too long to be kept."""
    size = sum(len(name.encode()) for name in (*queues, *tasks))
    if size > MAX_INTRODUCTION:
        raise ConfigError(f"the names of queues and tasks take {size} bytes; at most {MAX_INTRODUCTION}")
    return tuple(queues), tuple(tasks)


def displaced_by(id: str) -> str:
    """The reason that an event is cancelled with when a debounced put takes its place."""
    return f"debounced: {id} was put in its place"


class Watch(Protocol):
    """Tells when it is worth looking again. Threads poll its `fileno()`, event loops add it as a reader.

    A watch is only a hint: it may fire for nothing, and what it misses is found at the next look
    (`Storage.recover` says when). One wake is for one waiter: `clear()` takes a single wake, not all of them.
    """

    def fileno(self) -> int:
        """A descriptor that is readable when there is a wake."""
        ...

    def clear(self) -> None:
        """Take one wake, if there is one; never blocks."""
        ...

    def close(self) -> None: ...


class PutsOnly(Protocol):
    """What puts: a `Storage`, or what `Storage.within` gives."""

    def put(self, queue: str, payloads: Sequence[bytes], options: PutOptions) -> list[str]:
        """As `Storage.put`."""
        ...

    def put_key(self, queue: str, payload: bytes, options: PutOptions) -> tuple[str, bool]:
        """As `Storage.put_key`."""
        ...


class Slot(Protocol):
    """A lock or one place of a semaphore, held until `release()` or the death of this process."""

    def release(self) -> None:
        """Give it up; harmless when repeated."""
        ...


class Storage(abc.ABC):
    """One worker's view of a store. Implementers: each docstring ends with your duties."""

    shared: ClassVar[bool] = True
    """Whether other processes can open the same store."""
    absence: float = 0.0
    """Seconds for which a worker must have been seen to be gone before `recover` gives back what it held."""

    @property
    @abc.abstractmethod
    def worker(self) -> str:
        """This worker's id in the store."""

    # ------------------------------------------------------------------ events

    @abc.abstractmethod
    def put(self, queue: str, payloads: Sequence[bytes], options: PutOptions) -> list[str]:
        """Store events and return their ids, in order; all of them or none.

        With a key, which is held for a time (`options.unique` in seconds, no `debounce`): unless that is held. Then
        the ids are those of the put that holds it, which had as many events: it is for who repeats a put.

        Duties: ids from `eventq.ids`, rising per worker. At most `MAX_PUT_EVENTS` events and `MAX_PUT_BYTES` (or one
        event of up to `Settings.max_bytes`), else PayloadError. Wake one claimer of the queue per put. Create the
        queue if need be.

        QueueFull, at once, if more than `Settings.maxsize` events would be ready or delayed then, as `stats` counts
        them. Exact for all threads of one storage object; several may together exceed it by what each put within one
        `LOOK_INTERVAL`. Nothing but puts is ever refused for it.
        """

    @abc.abstractmethod
    def put_key(self, queue: str, payload: bytes, options: PutOptions) -> tuple[str, bool]:
        """Put one event unless its key is held: its id and True, or the holder's id and False.

        Duties: exactly one of any number of racing puts wins. A key is held as `options.unique` says, and never by
        an event that no longer exists. A crash in between leaves either the event with its key, or neither.

        With `options.debounce` the last put wins. A key held by an earlier such event that no worker has started is
        this put's: it is stored as `debounced` says for the chain of puts that began with the first of them, and the
        earlier one is cancelled with a reason that names the new id. Of racing puts all but one end so, and none
        before its successor is stored: a crash in between may leave several, never none. A key that anything else
        holds is its holder's: the answer is its id and False.

        QueueFull as in `put`, unless the key is held: then nothing is added.
        """

    def within(self, connection: object) -> PutsOnly:
        """What puts into this store as part of the transaction that a connection of the caller's has open.

        The events exist once the caller commits, and never if it rolls back; keys and `maxsize` hold as ever. Raises
        ConfigError for a storage that is not in a database, TypeError for a connection of another kind or to another
        database.
        """
        raise ConfigError(
            f"this store shares no transaction with a {type(connection).__name__}: connection= is for a store in "
            "the same database, postgresql:// or sqlite://"
        )

    @abc.abstractmethod
    def restore(self, copies: Sequence[Copy], names: Sequence[Name] = ()) -> int:
        """Store events as another store had them, and named claims: how many events are new here.

        Ids, places in the order (as the id says, or the due time if that was later), states, attempts, values and notes
        stay as they were; a claimed event is ready again, without its running attempt, and no worker is named by it. A
        key is held as it was: by an open event as `unique` says, for a time until that is over, counted from the put;
        unless another event has it here. An event whose id is here already, in whatever state, is left alone, and a
        taken name stays its holder's: so it may be repeated.

        Duties: each event wholly or not at all. No bound of a queue and no retention refuses one. Wake a claimer of
        each queue that has claimable ones. At most `MAX_PUT_EVENTS` copies.
        """

    @abc.abstractmethod
    def claim(self, queue: str, limit: int = 1) -> list[Claimed]:
        """Start up to `limit` events: due ones, highest priority first, then oldest first. Empty: `[]`, at once.

        An event counts as started when this returns it. What must not be started (`retry.before_start`) is settled
        instead, here. A suspect (`retry.is_suspect`) is returned only alone, while nothing else that this storage
        object claimed is unsettled; meanwhile nothing else is returned.

        An event with `limits` is started only while it holds one of so many places of each name, all or none. Places
        are numbered, and shared by all queues: an event that gives a name *n* places takes the lowest free one of the
        first *n*. They are free once the event leaves this worker in whatever way, or the worker dies. Who must wait
        for one is ready, is passed over, and is claimed first (by priority, then age) when it is free. Of a queue with
        a `concurrency` at most so many events are claimed at once, over all workers.

        An event with `rates` is started only if fewer events with that name were started within its seconds; of each
        name, over all queues and workers, and together with its limits, or not at all. A start counts whatever becomes
        of the event, its worker or its process. Who must wait is ready, is passed over, and is claimed first when it
        may be. When the clock is set back, what was started later than now counts as started now.

        Duties: never wait for another process. Skip paused queues. Never return an event that this worker skipped.
        Record worker and time of the start before returning.
        """

    @abc.abstractmethod
    def settle(self, claimed: Claimed, outcome: Outcome) -> None:
        """End a claim. Raises ClaimLost if it is not held any more (settled already, or taken over).

        `Completed` with a value keeps it readable for `claimed.keep` (else the queue's `keep`) seconds; `Retried`
        and `Released` make it claimable after their delay; `Skipped` makes it claimable by others; `Rejected` and
        `Dropped` record the reason. A key held `"open"` is free afterwards unless the event is open again.

        Duties: wake a claimer when the event is claimable again, or another may have its place, and whoever watches
        the event when it ended with a record. On a full disk it still succeeds.
        """

    @abc.abstractmethod
    def give_back(self, queue: str) -> None:
        """Return events that this storage fetched ahead but has not started. A storage that never does: nothing."""

    @abc.abstractmethod
    def note(self, claimed: Claimed, kind: str, data: bytes) -> None:
        """Append a note (JSON) to a claimed event, readable at once by `notes`.

        Raises PayloadError for more than `MAX_NOTE_BYTES`, ClaimLost if the claim is gone.

        Duties: wake whoever watches the event. Number the notes of an event from 1, over all attempts, and give no
        number twice. Bounded: beyond about 1 MiB an event the oldest go, never the newest. Pruned with the event.
        """

    # ------------------------------------------------------------------ reading

    @abc.abstractmethod
    def get(self, id: str) -> Record | None:
        """Everything known of an event, from its id alone; None if there is no such record (any more)."""

    @abc.abstractmethod
    def notes(self, id: str, after: int = 0) -> list[Note]:
        """The notes of an event whose number is greater than `after`, in order.

        If the first one's number is greater than `after + 1`, those between were too many to be kept.

        Duties: cheap if nothing is new for who read the ones before.
        """

    @abc.abstractmethod
    def scan(self, queue: str, state: State, filter: Filter, cursor: str | None = None, limit: int = 100) -> Page:
        """Records of one state in id order, a page at a time.

        Events that stay in the state during the scan appear exactly once; those that come or go may or may not.
        """

    def has_ready(self, queue: str) -> bool:
        """Whether something in a queue may be claimed now. What a worker, this one included, has fetched and not
        started need not count. To be overridden where a `scan` costs much more than that."""
        return bool(self.scan(queue, State.READY, Filter(), None, 1).records)

    @abc.abstractmethod
    def stats(self, queue: str) -> Stats:
        """Counts per state; linear in what the queue holds, exact when nothing moves."""

    @abc.abstractmethod
    def queues(self) -> list[str]:
        """Names of all queues, sorted."""

    # ------------------------------------------------------------------ changing

    @abc.abstractmethod
    def edit(self, queue: str | None, ids: Sequence[str], edit: Edit) -> list[str]:
        """Change events that are not claimed. Returns one word per id, in order:

        `Cancel`: `"cancelled"`, `"requested"` (its holder was asked: see `Claimed.cancelled`) or `"too late"`. With
        `unstarted` nothing is done to an event that has ever been started, here or by a holder that is asked.
        `Requeue`: the id under which it runs again (a new one for a completed event), or `"too late"`.
        `Move`: `"moved"` or `"too late"`. `Delete`: `"deleted"` or `"too late"`. For any: `"unknown"`.

        `queue` is a hint that saves the search; None when only the id is known.
        """

    @abc.abstractmethod
    def purge(self, queue: str, state: State) -> int:
        """Delete all events of one state (claimed ones stay); how many went.

        What ends meanwhile may stay, and so may an event that has just ended, or whose neighbours of one put have
        not, while its worker still has them in its hands.
        """

    @abc.abstractmethod
    def prune(self, queue: str) -> int:
        """Apply the queue's retention now and completely, not in steps; how many records went."""

    @abc.abstractmethod
    def settings(self, queue: str) -> Settings:
        """The queue's settings as stored (defaults for a queue that does not exist yet)."""

    @abc.abstractmethod
    def configure(self, queue: str, changes: dict[str, Any]) -> Settings:
        """Store changed settings (last writer wins) and return them all. Creates the queue.

        Raises ConfigError for an unknown name or a wrong value.
        """

    @abc.abstractmethod
    def drop(self, queue: str) -> None:
        """Remove a queue with everything in it. Raises StorageError while events of it are claimed."""

    # ------------------------------------------------------------------ life

    @abc.abstractmethod
    def introduce(self, queues: Sequence[str], tasks: Sequence[str]) -> None:
        """Say which queues this worker claims from, and which tasks it knows, for others to see in `workers()`.

        Only a word: nothing is claimed or made. What is said later takes the place of what was said before. Raises
        ConfigError for what cannot be a queue's name, and for more than `MAX_INTRODUCTION` bytes of names.

        Duties: where this storage object gets a new worker id (a fork), the new worker says it as well.
        """

    @abc.abstractmethod
    def workers(self) -> list[Worker]:
        """The living workers of the store, this one included if it has joined."""

    @abc.abstractmethod
    def recover(self) -> float:
        """Look after what others left: dead workers' claims, retention (in bounded steps), requests to cancel.

        Cheap to call often: it does its work at most once per `LOOK_INTERVAL`. Returns the seconds after which the
        caller should look again: at most `LOOK_INTERVAL`, less if a delayed event of a queue that this storage
        claims from becomes due sooner, or a rate lets one start that waits for it.
        """

    @abc.abstractmethod
    def watch(self, queue: str | None = None, id: str | None = None) -> Watch:
        """A watch for new claimable events of a queue, or for the notes and the end of an event.

        Make the watch first, then look, then wait: what happens after it was made wakes it.
        """

    # ------------------------------------------------------------------ names and slots

    @abc.abstractmethod
    def take_name(self, name: str, data: bytes) -> tuple[Name, bool]:
        """Take a name for ever (until released): the holder's record, and whether that is this call. Raises
        PayloadError above `MAX_NAME_BYTES`."""

    @abc.abstractmethod
    def get_names(self, names: Sequence[str]) -> dict[str, Name]:
        """Those of these names that are taken, at a cost that does not depend on how many others are. Each is read by
        itself: they need never have been taken all at the same time."""

    @abc.abstractmethod
    def names(self, prefix: str = "") -> list[Name]:
        """Taken names that begin with a prefix, sorted."""

    @abc.abstractmethod
    def replace_name(self, held: Name, data: bytes | None) -> bool:
        """Say something else about a taken name, or free it (None), if its record still is exactly this one, as it was
        read: so of several that have read the same, one wins. Whether that was so; the record then says that this
        worker did it, and when."""

    @abc.abstractmethod
    def release_name(self, name: str) -> bool:
        """Free a name, whatever its record says; False if it was not taken."""

    @abc.abstractmethod
    def take_slot(self, name: str, limit: int = 1) -> Slot | None:
        """Take one of `limit` slots, without waiting; None if all are held.

        Duties: a slot whose process dies is free at once. Two takers in one process exclude each other as well.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what is held (counts no attempt) and leave. Harmless when repeated."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
