"""SQLStorage: one worker's view of a store in a database. What several rows decide is in the modules beside it."""

from __future__ import annotations

import functools
import itertools
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from eventq import ids
from eventq.clock import SYSTEM, Clock, sleep
from eventq.config import changed
from eventq.errors import ClaimLost, StorageClosed, StorageError
from eventq.model import Completed, Move, State
from eventq.storage import forks
from eventq.storage.base import LOOK_INTERVAL, Storage, introduction
from eventq.storage.bounds import Bounds
from eventq.storage.checks import (
    check_key,
    check_key_of_several,
    check_name,
    check_name_size,
    check_note,
    check_sizes,
    encode_headers,
)
from eventq.storage.restored import check_copies
from eventq.storage.sql import (
    ahead,
    claims,
    edits,
    limits,
    names,
    notes,
    presence,
    puts,
    reading,
    restoring,
    retention,
    settling,
)
from eventq.storage.sql import keys as held_keys
from eventq.storage.sql.ahead import STALE, Ahead, Hoards
from eventq.storage.sql.holds import Holds, lost
from eventq.storage.sql.names import held_names
from eventq.storage.sql.presence import Leases, Presence
from eventq.storage.sql.rows import Held, as_claimed
from eventq.storage.sql.settings import Known, QueueSettings
from eventq.storage.sql.transaction import Transaction
from eventq.storage.sql.waking import Waking
from eventq.storage.sql.within import Within

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        Stats,
        Worker,
    )
    from eventq.storage.base import PutsOnly, Slot, Watch
    from eventq.storage.sql.database import Cursor, Database, Row

T = TypeVar("T")

CLAIM_PAUSE = 0.001
"""Seconds between two looks, when the store is closed, whether a thread still claims."""
TIDY_INTERVAL = 1.0
"""Seconds between two looks at what retention gives up, which nobody waits for."""


class SQLStorage(Storage):
    """A store in a database. Subclasses open it, and may say in a single statement what the hot paths do."""

    def __init__(self, database: Database, clock: Clock = SYSTEM) -> None:
        self._database = database
        self.absence: float = database.absence
        self._clock = clock
        self._closed = False
        self._queues = QueueSettings(clock)
        self._retention = retention.Retention(database, self._run, self._settings)
        self._leases = Leases(database, self._run, clock)
        self._said: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._begin()
        forks.follow(self)

    def after_fork(self) -> None:
        """In a child made by fork: a worker of its own, which holds nothing."""
        self._waking.be_forgotten()
        self._begin()

    def _begin(self) -> None:
        self._worker = ids.new_worker_id()
        self._stamps = ids.Stamps(self._worker, self._clock)
        self._stamping = threading.Lock()
        self._joining = threading.Lock()
        self._looking = threading.Lock()
        self._looked: float | None = None
        self._tidied: float | None = None
        self._numbers = itertools.count(1)
        self._bounds = Bounds(lambda queue: reading.waiting(self._database, queue), self._clock)
        self._holds = Holds()
        self._claiming: set[int] = set()
        """The threads that claim at this moment."""
        self._ahead: dict[str, Ahead] = {}
        self._hoards = Hoards(self._database, self._run, self._clock)
        self._serves: set[str] = set()
        self._presence = Presence(self._database, self._clock, self._worker)
        self._waking = Waking(self._database, self._worker)
        self._stale = False

    @property
    def worker(self) -> str:
        return self._worker

    # ------------------------------------------------------------------ hot paths, each a statement where it can be

    def _put_plain(self, queue: str, rows: Sequence[Row]) -> None:
        """Store new events, all or none, and tell one watch of the queue, if there is one: `queue <number> <name>`.

        Each row has the columns of `PUT`. What is there already was stored by this very call, before its connection was
        lost, and is left alone (`ON CONFLICT (id) DO NOTHING`).
        """
        self._run(lambda tx: puts.insert(tx, queue, rows))

    def _claim_plain(self, queue: str, limit: int, number: int, now: float) -> list[Row] | None:
        """Claim up to `limit` plain events of a queue: the columns of `CLAIM`, in the order of claims. None if another
        one is ready or due (`needs <> ''`): then nothing was claimed, and each must be looked at.

        Plain ones have `needs = ''`, and are ready, or delayed and due by `now`. A claimed one has `state = 'claimed'`,
        `worker`, `token = number`, `started = now`, `progress` one more, `due` left as it is. `number` is of this call
        alone: if the connection was lost, what has this worker and token already is what the lost call claimed.

        If nothing is ready, what others have fetched and not started is claimed instead.
        """
        return self._run(lambda tx: claims.plain(tx, queue, limit, number), now)

    def _fetch_plain(self, queue: str, limit: int, number: int, now: float) -> list[Row]:
        """As `_claim_plain`, but nothing is started: `started` and `progress` stay as they are. It need not find
        everything that may be claimed: then it is asked to claim."""
        return self._run(lambda tx: claims.fetch_plain(tx, queue, limit, number), now)

    def _start_plain(self, id: str, number: int, now: float) -> bool:
        """Start what this worker has fetched with this token: `started = now`, `progress` one more. False if it is
        there no more. If the connection was lost, what was started at this instant was started by this very call."""
        return self._run(lambda tx: ahead.start(tx, id, number), now)

    def _settle_plain(self, id: str, number: int) -> bool:
        """Delete a claimed event (this worker, token `number`) that nothing else depends on: whether it was there. If
        it is `awaited`, tell each of its watchers: `event <id>`, and forget them.

        If the connection was lost, an event that is gone was settled by this very call.
        """
        return self._run(lambda tx: settling.complete(tx, id, number))

    def _cursor_within(self, connection: object) -> Cursor:
        """A cursor in the transaction that a caller's connection has open, or will have. Raises TypeError for a
        connection of another kind, or to another database."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what every method begins with

    def _check(self) -> None:
        if self._closed:
            raise StorageClosed("this store was closed; open a new one")

    def _run(self, work: Callable[[Transaction], T], now: float | None = None, lasting: bool = True) -> T:
        worker, at = self._worker, self._clock.now() if now is None else now

        def within(cursor: Cursor, again: bool) -> T:
            settings = lambda queue: self._queues.known(queue, cursor).settings  # noqa: E731
            return work(Transaction(cursor, again, worker, at, settings))

        return self._database.run(within) if lasting else self._database.run_lightly(within)

    def _settings(self, queue: str) -> Settings:
        return self._queues.known(queue, self._database).settings

    def _join(self) -> None:
        """Be alive in the store: who holds something of it must be."""
        if not self._presence.joined:
            with self._joining:
                self._check()  # for who was on its way when the store was closed
                if not self._presence.joined:
                    if self._said is not None:
                        self._presence.introduce(self._said)
                    self._presence.join(self._hear)

    def _hear(self, word: str) -> None:
        """A word from the store, in a thread of the database."""
        if word.startswith("cancel "):
            self._holds.cancel(word.removeprefix("cancel "))
        else:
            self._stale = self._stale or not word
            self._waking.hear(word)

    def _stem(self) -> str:
        with self._stamping:
            return self._stamps.next()

    # ------------------------------------------------------------------ events

    def put(self, queue: str, payloads: Sequence[bytes], options: PutOptions) -> list[str]:
        if options.key is not None:
            check_key_of_several(options)
            return ids.of_same_put(self._put_keyed(queue, payloads, options)[0], len(payloads)) if payloads else []
        headers, known = self._prepared(queue, payloads, options)
        if not payloads:
            return []
        with self._bounds.admit(queue, known.settings.maxsize, len(payloads)):
            rows = puts.new_rows(queue, payloads, headers, options, self._stem(), self._clock.now())
            self._put_plain(queue, rows)
        return [row[0] for row in rows]

    def _prepared(self, queue: str, payloads: Sequence[bytes], options: PutOptions) -> tuple[bytes, Known]:
        """Check a put, and make its queue if need be: its headers as data, and what is known of the queue."""
        check_name(queue)
        headers = encode_headers(options)
        self._check()
        known = self._queues.known(queue, self._database)
        check_sizes(payloads, known.settings.max_bytes)
        if payloads and not known.exists:
            self._queues.make(queue, self._database)
        return headers, known

    def put_key(self, queue: str, payload: bytes, options: PutOptions) -> tuple[str, bool]:
        check_key(options)
        return self._put_keyed(queue, [payload], options)

    def _put_keyed(self, queue: str, payloads: Sequence[bytes], options: PutOptions) -> tuple[str, bool]:
        headers, known = self._prepared(queue, payloads, options)
        put = puts.KeyedPut(queue, payloads, headers, options, self._stem())
        try:
            return self._run(lambda tx: put.run(tx, known.settings.maxsize is None))
        except puts.NeedsRoom:
            with self._bounds.admit(queue, known.settings.maxsize, len(payloads)):
                return self._run(lambda tx: put.run(tx, True))

    def within(self, connection: object) -> PutsOnly:
        self._check()
        return Within(self._cursor_within(connection), self._queues, self._stem, self._clock, self._worker)

    def restore(self, copies: Sequence[Copy], names: Sequence[Name] = ()) -> int:
        check_copies(copies)
        self._check()
        return restoring.restore(self._run, self._database, copies, names)

    def claim(self, queue: str, limit: int = 1) -> list[Claimed]:
        check_name(queue)
        thread = threading.get_ident()
        self._claiming.add(thread)
        try:
            return self._claim_now(queue, limit)
        finally:
            self._claiming.discard(thread)

    def _claim_now(self, queue: str, limit: int) -> list[Claimed]:
        self._check()
        self._join()
        self._serves.add(queue)
        now = self._clock.now()
        settings = self._settings(queue)
        if is_paused(settings, now) or self._must_be_alone():
            self._give_back(queue)
            held: list[Held] = []
        elif limit == 1 and settings.concurrency is None and (one := self._claim_fetched(queue, now)) is not None:
            held = [one]
        else:
            held = self._claim(queue, limit, settings, now)
        if len(held) < limit:
            self._waking.register(queue)
        return [one.claimed for one in held]

    def _claim_fetched(self, queue: str, now: float) -> Held | None:
        """Start what was fetched ahead; fetch if this worker claims fast. None: nothing was fetched."""
        fetched, monotonic = self._ahead.get(queue), SYSTEM.monotonic()
        if fetched is None:
            fetched = self._ahead.setdefault(queue, Ahead())
        wanted = fetched.wanted(monotonic)
        if fetched.is_stale(monotonic):
            self._give_back(queue)
        if wanted > 1 and not fetched:
            number = next(self._numbers)
            rows = self._fetch_plain(queue, wanted, number, now)
            fetched.add(rows, number, monotonic)
            if len(rows) < wanted:
                fetched.rest()
        while (one := fetched.pop()) is not None:
            row, number = one
            if self._start_plain(row[0], number, now):
                held = as_claimed(row, queue, self._worker, number, now)
                self._holds.add([held])
                return held
        return None

    def _claim(self, queue: str, limit: int, settings: Settings, now: float) -> list[Held]:
        self._give_back(queue)
        number, worker = next(self._numbers), self._worker
        if settings.concurrency is None:
            rows = self._claim_plain(queue, limit, number, now)
            if rows is not None:
                held = [as_claimed(row, queue, worker, number, now) for row in rows]
                self._holds.add(held)
                return held
        careful = functools.partial(claims.careful, queue=queue, limit=limit, number=number, alone=not self._holds)
        taken = self._run(careful, now)
        self._holds.suspect = taken.suspect
        held = [event.held(worker, number, now) for event in taken.events]
        self._holds.add(held)
        return held

    def _must_be_alone(self) -> bool:
        """Whether a suspect runs here, or was met and waits for the rest to end (else it might for ever)."""
        suspect = self._holds.waiting_suspect()
        if suspect is None:
            return self._holds.runs_suspect()
        record = self.get(suspect)
        if record is None or record.state is not State.READY:
            self._holds.suspect = None
        return self._holds.suspect is not None

    def settle(self, claimed: Claimed, outcome: Outcome) -> None:
        self._check()
        held = self._holds.held(claimed)
        try:
            self._settle(claimed, held, outcome)
        except ClaimLost:
            self._holds.remove(held)
            self._check()  # to who closes the store meanwhile the claim is not lost: it was given back
            raise
        self._holds.remove(held)
        if not isinstance(outcome, Completed):
            self._give_back(claimed.queue)  # it may be the first again

    def _settle(self, claimed: Claimed, held: Held, outcome: Outcome) -> None:
        plain = held.plain and not held.noted and isinstance(outcome, Completed) and outcome.value is None
        if not plain or self._settings(claimed.queue).concurrency is not None:
            self._run(lambda tx: settling.settle(tx, claimed, held, outcome))
        elif not self._settle_plain(claimed.id, held.number):
            raise lost(claimed.id)

    def give_back(self, queue: str) -> None:
        check_name(queue)
        self._check()
        self._give_back(queue)

    def _give_back(self, queue: str) -> None:
        fetched = self._ahead.get(queue)
        if fetched:
            fetched.clear()
            self._run(lambda tx: ahead.give_back(tx, self._worker, queue))

    def note(self, claimed: Claimed, kind: str, data: bytes) -> None:
        check_note(data)
        self._check()
        held = self._holds.held(claimed)
        held.noted = True
        try:
            self._run(notes.Noting(held, kind, bytes(data)).run)
        except ClaimLost:
            self._check()
            raise

    # ------------------------------------------------------------------ reading

    def get(self, id: str) -> Record | None:
        self._check()
        return reading.get(self._database, id, self._clock.now())

    def notes(self, id: str, after: int = 0) -> list[Note]:
        self._check()
        return notes.read(self._database, id, after)

    def scan(self, queue: str, state: State, filter: Filter, cursor: str | None = None, limit: int = 100) -> Page:
        check_name(queue)
        if limit < 1:
            raise ValueError(f"limit={limit} gives no page; ask for at least 1")
        self._check()
        return reading.scan(self._database, queue, state, filter, cursor, limit, self._clock.now())

    def stats(self, queue: str) -> Stats:
        check_name(queue)
        self._check()
        return reading.stats(self._database, queue, self._clock.now())

    def queues(self) -> list[str]:
        self._check()
        return reading.queues(self._database)

    # ------------------------------------------------------------------ changing

    def edit(self, queue: str | None, ids: Sequence[str], edit: Edit) -> list[str]:
        for name in (queue, edit.queue if isinstance(edit, Move) else None):
            if name is not None:
                check_name(name)
        self._check()
        if isinstance(edit, Move) and not self._queues.known(edit.queue, self._database).exists:
            self._queues.make(edit.queue, self._database)
        return [self._edit(id, edit) for id in ids]

    def _edit(self, id: str, edit: Edit) -> str:
        if not ids.is_event_id(id):
            return edits.UNKNOWN
        word = self._run(edits.Change(id, edit, self._stem()).run)
        if word == "requested":
            self._holds.cancel(id)  # if it runs here: the others are told
        return word

    def purge(self, queue: str, state: State) -> int:
        check_name(queue)
        self._check()
        if state is State.CLAIMED:
            return 0
        purge = retention.purge_open if state in (State.READY, State.DELAYED) else retention.purge_ended
        count = 0
        while gone := self._run(retention.Deletion(functools.partial(purge, queue=queue, state=state)).run):
            count += gone
        return count

    def prune(self, queue: str) -> int:
        check_name(queue)
        self._check()
        return self._retention.prune(queue, self._clock.now())

    def settings(self, queue: str) -> Settings:
        check_name(queue)
        self._check()
        self._queues.forget(queue)
        return self._settings(queue)

    def configure(self, queue: str, changes: dict[str, Any]) -> Settings:
        check_name(queue)
        self._check()
        changed(self._settings(queue), changes)  # what is wrong makes no queue

        def work(tx: Transaction) -> Settings:
            settings = self._queues.change(queue, tx.cursor, lambda settings: changed(settings, changes))
            tx.ring(queue, everybody=True)  # perhaps it was resumed
            return settings

        settings = self._run(work)
        self._queues.forget(queue)
        return settings

    def drop(self, queue: str) -> None:
        check_name(queue)
        self._check()
        claimed = self._run(lambda tx: retention.drop(tx, queue))
        self._queues.forget(queue)
        if claimed:
            raise StorageError(f"{claimed} events of queue {queue!r} are claimed; drop it later")

    # ------------------------------------------------------------------ life

    def introduce(self, queues: Sequence[str], tasks: Sequence[str]) -> None:
        for queue in queues:
            check_name(queue)
        said = introduction(queues, tasks)
        self._check()
        self._said = said
        self._presence.introduce(said)
        if self._presence.joined:
            self._presence.be_listed()
        self._join()

    def workers(self) -> list[Worker]:
        self._check()
        return self._presence.workers()

    def recover(self) -> float:
        self._check()
        for queue, fetched in list(self._ahead.items()):
            if fetched.is_stale(SYSTEM.monotonic()):
                self._give_back(queue)
        now, monotonic = self._clock.now(), self._clock.monotonic()
        must_look = self._looked is None or monotonic - self._looked >= LOOK_INTERVAL
        if must_look and self._looking.acquire(blocking=False):
            try:
                self._looked = monotonic
                self._look()
                if self._tidied is None or monotonic - self._tidied >= TIDY_INTERVAL:
                    self._tidied = monotonic
                    self._tidy(now)
            finally:
                self._looking.release()
        return self._next_look(now)

    def _look(self) -> None:
        if self._stale:
            self._stale = False
            self._presence.be_listed()
            self._waking.renew()
        presence.bury(self._run, self._presence.dead())
        every = self._queues.read_all(self._database)
        self._hoards.look()
        self._leases.look({name: one.lease for name, one in every.items() if one.lease is not None})
        self._holds.look(self._database, self._worker)

    def _tidy(self, now: float) -> None:
        """What nobody waits for: give up what is over."""
        limits.forget_starts(self._database, now)
        held_keys.forget_ended(self._database, now)
        self._retention.look(now)

    def _next_look(self, now: float) -> float:
        wait = STALE if any(self._ahead.values()) else LOOK_INTERVAL
        for queue in list(self._serves):
            if not is_paused(self._settings(queue), now):
                wait = min(wait, claims.next_due(self._database, self._run, queue, now) - now)
        return max(0.0, wait)

    def watch(self, queue: str | None = None, id: str | None = None) -> Watch:
        if id is None:
            if queue is None:
                raise TypeError("watch() needs a queue or an event id")
            check_name(queue)
        self._check()
        self._join()
        if id is not None:
            return self._waking.event(id, ids.is_event_id(id))
        return self._waking.queue(str(queue))

    # ------------------------------------------------------------------ names and slots

    def take_name(self, name: str, data: bytes) -> tuple[Name, bool]:
        self._check()
        check_name_size(name, data)
        return names.Take(name, self._worker, self._clock.now(), bytes(data)).go(self._database)

    def get_names(self, names: Sequence[str]) -> dict[str, Name]:
        self._check()
        return held_names(self._database, names)

    def names(self, prefix: str = "") -> list[Name]:
        self._check()
        return names.listed(self._database, prefix)

    def replace_name(self, held: Name, data: bytes | None) -> bool:
        self._check()
        check_name_size(held.name, data or b"")
        return names.Replace(held, self._worker, self._clock.now(), data).go(self._database)

    def release_name(self, name: str) -> bool:
        self._check()
        return names.Release(name).go(self._database)

    def take_slot(self, name: str, limit: int = 1) -> Slot | None:
        if limit < 1:
            raise ValueError(f"a slot of {limit} can never be taken; the limit is at least 1")
        self._check()
        self._join()
        taken = names.take_slot(self._database, name, limit, self._worker)
        if taken is None and (dead := self._presence.dead()):
            presence.bury(self._run, dead)
            taken = names.take_slot(self._database, name, limit, self._worker)
        return taken

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._waking.close()
        try:
            while self._claiming - {threading.get_ident()}:  # what they claim is given back as well
                sleep(CLAIM_PAUSE)
            with self._joining:
                self._presence.leave(self._run)
        finally:
            self._database.close()

    def abandon(self) -> None:
        """For tests: die as by kill -9. Nothing is given back; the others find out in `recover`."""
        self._closed = True
        self._database.abandon()
        self._waking.close()


def is_paused(settings: Settings, now: float) -> bool:
    until = settings.paused_until
    return settings.paused and (until is None or now < until)
