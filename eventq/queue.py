"""A queue: put events, claim them, look at them, change them."""

from __future__ import annotations

import logging
import math
import select
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from eventq.claim import Claim, current
from eventq.clock import SYSTEM
from eventq.codec import packer
from eventq.config import QueueSettings, a_state, at_least_one, known, patience, seconds, text, window
from eventq.errors import ClaimLost, ConfigError, PayloadError, QueueFull, StorageClosed
from eventq.handle import Handle
from eventq.model import (
    Delete,
    Failure,
    Filter,
    Move,
    PutOptions,
    Rejected,
    Requeue,
    State,
)
from eventq.put import PutArguments, put_encoded, put_options, puts_of, several, when_there_is_room
from eventq.storage.base import LOOK_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from typing import Unpack

    from eventq.aio import AsyncQueue
    from eventq.model import Claimed, Page, Record, Settings, Stats
    from eventq.put import IfExists, Unique
    from eventq.store import Store

T = TypeVar("T")

log: logging.Logger = logging.getLogger("eventq.queue")

WAITING = (State.READY, State.DELAYED)


class Queue(Generic[T]):
    """A named line of events in a store, made by `app.queue(...)`. It exists once something is put or set.

    Objects are light and may be used by many threads. With a type, payloads are checked when put and decoded to it when
    claimed; without one, they must be plain data that comes back equal from the codec.
    """

    __slots__ = ("_codec_name", "_decode", "_decoders", "_pack", "_plain", "name", "store", "type")

    def __init__(self, store: Store, name: str, type: Any = Any) -> None:
        self.name: str = text("the name of a queue", name)
        """Its name."""
        self.type: Any = type
        """What its payloads are; `typing.Any` if nothing was said."""
        codec = store.codec
        self.store: Store = store
        """The opened store that it belongs to."""
        self._pack = packer(codec, type)
        self._codec_name = codec.name
        self._decode = codec.decoder(type)
        self._decoders: dict[str, Callable[[bytes], Any]] = {codec.name: self._decode}
        self._plain = PutOptions(codec=codec.name)

    @property
    def aio(self) -> AsyncQueue[T]:
        """The same, awaitable."""
        from eventq.aio import AsyncQueue

        return AsyncQueue(self, self._look, self._give_back)

    def __repr__(self) -> str:
        typed = "" if self.type is Any else f", type={getattr(self.type, '__qualname__', self.type)}"
        return f"<Queue {self.name!r}{typed}>"

    # ------------------------------------------------------------------ putting

    def put(
        self,
        payload: T,
        *,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | None = None,
        expires: float | None = None,
        key: str | None = None,
        unique: Unique = "open",
        if_exists: IfExists = "return",
        throttle: float | None = None,
        debounce: float | None = None,
        debounce_max: float | None = None,
        limits: Mapping[str, int] | None = None,
        rates: Mapping[str, tuple[int, float]] | None = None,
        headers: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        connection: object | None = None,
    ) -> str:
        """Store an event and return its id. When it returns, the event survives the death of every process.

        `priority`: -100..100, higher is claimed first. `delay` (seconds) or `at` (an aware datetime): not claimable
        before. `expires`: seconds after it becomes claimable (so a delay does not count) within which it must be
        started; else it ends as `expired`.

        `key`: at most one event holds a key of the queue. A put whose key is held stores nothing and returns the
        holder's id, or raises DuplicateKey with `if_exists="raise"`. `unique` says how long it is held: until the event
        is settled (`"open"`), until it is first started (`"waiting"`), or for a number of seconds.

        `throttle`, with a key: the first put wins for so many seconds, whatever becomes of its event; the same as
        `unique` with that number.

        `debounce`, with a key: the last put wins. The event is claimable so many seconds after the last such put of its
        key, but at most `debounce_max` seconds after the first. While it waits, each further one cancels it and is
        stored in its place; once it is started, the next one begins anew. The id is the new one, except where an event
        that was put otherwise holds the key: then nothing is stored, and the id is that one's.

        `limits`: at most so many at once, as `{"customer:7": 1}`. The event is started only while it holds one of that
        many places of each name; it gives them back when it ends, is put back, or its process dies. Names are shared by
        all queues of the store; an event that must wait is ready, and does not stop those behind it. The places of a
        name are numbered: events that give it different numbers share the first ones.

        `rates`: at most so many starts within so many seconds, as `{"smtp": (10, 60.0)}`: of events that give that
        name, over all queues and processes. A start counts from then on, whatever becomes of the event or its process;
        a second attempt is another start. An event that must wait is ready, and does not stop those behind it. A limit
        and a rate of one name have nothing to do with each other; an event may have both.

        `headers`: JSON values by name. Within `with claim`, the headers of the claimed event come along, with
        `correlation_id`: that event's own, else its id. Headers given here win.

        `timeout` matters in a queue with a `maxsize`: how many seconds to wait for room (None: for ever; 0: not at
        all). `delay` and `expires` count from when the event is stored.

        `connection`, in a store in PostgreSQL or SQLite: an open connection of your own to the same database. The event
        becomes part of its transaction, and exists for others once you commit, together with what else you changed; if
        you roll back, it never was. Nothing waits for room then.

        Raises PayloadError if the payload is not of the queue's type or would not come back equal; QueueFull if there
        was no room in time; StorageError if the storage failed, and then nothing was stored unless it is
        OutcomeUnknown.
        """
        data = self._pack(payload)
        if (
            priority == 0
            and delay is None
            and at is None
            and expires is None
            and key is None
            and throttle is debounce is debounce_max is None
            and limits is None
            and rates is None
            and (headers, timeout, connection) == (None, None, None)
            and unique == "open"
            and if_exists == "return"
            and current.get() is None
        ):
            try:
                return self.store.storage.put(self.name, (data,), self._plain)[0]
            except QueueFull:
                log.debug("%s is full: waiting for room", self.name)
        given: PutArguments = {
            "priority": priority, "delay": delay, "at": at, "expires": expires, "key": key, "unique": unique,
            "if_exists": if_exists, "throttle": throttle, "debounce": debounce, "debounce_max": debounce_max,
            "limits": limits, "rates": rates, "headers": headers,
        }  # fmt: skip

        def attempt() -> str:
            return put_encoded(puts, self.name, data, put_options(self.store, **given), if_exists)

        puts = puts_of(self.store, connection)
        return when_there_is_room(self.store, attempt, timeout, connection)

    def put_many(
        self,
        payloads: Iterable[T],
        *,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | None = None,
        expires: float | None = None,
        limits: Mapping[str, int] | None = None,
        rates: Mapping[str, tuple[int, float]] | None = None,
        headers: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        connection: object | None = None,
    ) -> list[str]:
        """Store many events, all or none, and return their ids in order; much cheaper than one by one.

        The options are those of `put` and hold for each event; keys are for single puts. At most 100,000 events and 64
        MiB: PayloadError names the limit. More than the queue's `maxsize` never fit: QueueFull, at once.
        """
        pack = self._pack
        packed: list[bytes] = []
        try:
            for payload in several(payloads):
                packed.append(pack(payload))  # noqa: PERF401 - the length tells which one failed
        except PayloadError as error:
            raise PayloadError(f"payload {len(packed)} of this put_many: {error}; nothing was stored") from error
        given: PutArguments = {
            "priority": priority,
            "delay": delay,
            "at": at,
            "expires": expires,
            "limits": limits,
            "rates": rates,
            "headers": headers,
        }

        def attempt() -> list[str]:
            return puts.put(self.name, packed, put_options(self.store, **given))

        puts = puts_of(self.store, connection)
        return when_there_is_room(self.store, attempt, timeout, connection) if packed else []

    # ------------------------------------------------------------------ claiming

    def claim(self, timeout: float | None = 0) -> Claim[T] | None:
        """The next event, exclusively; None if there is none within `timeout` seconds (None: wait for ever).

        Highest priority first, then oldest first. It stays claimed until it is settled or this process dies, however
        long that takes: use `with claim as event`. An event whose payload does not decode to the queue's type (any
        more) becomes a dead letter with the reason, and the next one is claimed.
        """
        while found := self.store.storage.claim(self.name, 1):
            claim = self._start(found[0])
            if claim is not None:
                return claim
        claims = self._wait(1, patience(timeout))
        return claims[0] if claims else None

    def claim_many(self, limit: int, timeout: float | None = 0) -> list[Claim[T]]:
        """Up to `limit` events at once, as soon as there is one; `[]` if there is none within `timeout` seconds.

        All of them count as started: if this process dies, each has had a crash. `claims()` starts one at a time.
        """
        limit = at_least_one(limit)
        return self._look(limit) or self._wait(limit, patience(timeout))

    def claims(self, timeout: float | None = None) -> Iterator[Claim[T]]:
        """Claim one event after the other, waiting for more; ends once it was idle for `timeout` seconds.

        `for claim in queue.claims():` with `with claim as event:` inside is a whole worker. Leaving the loop gives back
        at once what the storage had fetched ahead; a claim that was handed out and not settled stays claimed.
        """
        return self._claims(patience(timeout))

    def _claims(self, timeout: float | None) -> Iterator[Claim[T]]:
        storage, name, start = self.store.storage, self.name, self._start
        fetch, monotonic = storage.claim, SYSTEM.monotonic
        look_at = monotonic() + LOOK_INTERVAL
        try:
            while True:
                found = fetch(name, 1)
                if found:
                    claim = start(found[0])
                    if claim is not None:
                        yield claim
                    if monotonic() >= look_at:  # a busy loop must look after dead workers as well
                        storage.recover()
                        look_at = monotonic() + LOOK_INTERVAL
                    continue
                waited = self._wait(1, timeout)
                if not waited:
                    return
                yield waited[0]
        finally:
            self._give_back()

    def _give_back(self) -> None:
        try:
            self.store.storage.give_back(self.name)
        except StorageClosed:
            log.debug("closing the store gave back what %s had fetched ahead", self.name)

    def _start(self, claimed: Claimed) -> Claim[T] | None:
        """The claim with its payload decoded; None if that cannot be, and then it is a dead letter."""
        try:
            if claimed.codec == self._codec_name:
                payload = self._decode(claimed.payload)
            else:
                payload = self._decoder(claimed.codec)(claimed.payload)
        except Exception as error:  # noqa: BLE001 - own codecs may raise anything; the loop must go on
            self._bury(claimed, error)
            return None
        return Claim(self.store, claimed, payload)

    def _decoder(self, codec: str) -> Callable[[bytes], Any]:
        decoder = self._decoders.get(codec)
        if decoder is None:
            decoder = self._decoders[codec] = self.store.codec_named(codec).decoder(self.type)
        return decoder

    def _bury(self, claimed: Claimed, error: Exception) -> None:
        wanted = "" if self.type is Any else f" as {getattr(self.type, '__qualname__', self.type)}"
        reason = f"the payload cannot be decoded from {claimed.codec}{wanted}: {error}"
        try:
            self.store.storage.settle(claimed, Rejected(Failure("PayloadError", reason)))
        except ClaimLost:  # whoever has it now finds the same
            log.warning("event %s in %s was lost before it could be rejected", claimed.id, self.name)
        else:
            log.error("event %s in %s is a dead letter: its payload cannot be decoded", claimed.id, self.name)

    def _look(self, limit: int) -> list[Claim[T]]:
        """Claim what is there now. Payloads that do not decode do not hide what stands behind them."""
        while found := self.store.storage.claim(self.name, limit):
            claims = [claim for claimed in found if (claim := self._start(claimed)) is not None]
            if claims:
                return claims
        return []

    def _wait(self, limit: int, timeout: float | None) -> list[Claim[T]]:
        """Wait until there is something to claim. A look before it found nothing."""
        storage = self.store.storage
        if timeout == 0:
            storage.recover()  # whoever polls must find what dead workers left, too
            return []
        monotonic = SYSTEM.monotonic
        deadline = math.inf if timeout is None else monotonic() + timeout
        # The watch comes before the look, or a put in between would wake nobody. It is open only while idle:
        # an open watch tells busy workers that here is somebody to share their events with.
        watch = storage.watch(queue=self.name)
        try:
            poller = select.poll()
            poller.register(watch.fileno(), select.POLLIN)
            while True:
                claims = self._look(limit)
                if claims:
                    return claims
                pause, left = storage.recover(), deadline - monotonic()
                if left <= 0:
                    return []
                if poller.poll(math.ceil(min(pause, left) * 1000)):  # 0: something is due by now
                    watch.clear()
        finally:
            watch.close()

    # ------------------------------------------------------------------ looking

    def handle(self, id: str) -> Handle[Any]:
        """The waiter's side of an event: its result, its end. Raises UnknownEvent for what is no id."""
        return Handle(self.store, id)

    def get(self, id: str) -> Record | None:
        """Everything known of an event of this queue; None if there is no such record (any more)."""
        record = self.store.storage.get(id)
        return record if record is not None and record.queue == self.name else None

    def scan(
        self,
        state: State | str = State.READY,
        *,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        headers: Mapping[str, Any] | None = None,
        worker: str | None = None,
        settled_from: datetime | None = None,
        settled_to: datetime | None = None,
        run_time_from: float | None = None,
        run_time_to: float | None = None,
        exit_code: int | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """A page of the records in one state, in id order, without claiming them.

        Pass the page's `cursor` to get the next one, until it is None. What stays in the state meanwhile appears
        exactly once. Of what is created, settled (aware datetimes) and how long the last attempt took (seconds), the
        `_from` is included and the `_to` is not; each of `headers` must be there and equal; `worker` holds the event,
        or had its last attempt; `exit_code` is that of `Record`: 0, 1, or 130 for what was aborted.
        """
        if exit_code not in (None, 0, 1, 130):
            raise ConfigError(f"exit_code={exit_code!r} is none of 0 (completed), 1 (failed) and 130 (aborted)")
        wanted = Filter(
            created_from=window("created_from", created_from),
            created_to=window("created_to", created_to),
            headers=dict(headers or {}),
            worker=worker,
            settled_from=window("settled_from", settled_from),
            settled_to=window("settled_to", settled_to),
            run_time_from=None if run_time_from is None else seconds("run_time_from", run_time_from),
            run_time_to=None if run_time_to is None else seconds("run_time_to", run_time_to),
            exit_code=exit_code,
        )
        return self.store.storage.scan(self.name, a_state(state), wanted, cursor, at_least_one(limit))

    def payload_of(self, record: Record) -> T:
        """The decoded payload of a record. Raises PayloadError if it does not fit the queue's type."""
        payload: T = self.store.load(record.payload, record.codec, self.type)
        return payload

    def stats(self) -> Stats:
        """How many events stand in each state, and the age of the oldest ready one in seconds."""
        return self.store.storage.stats(self.name)

    def settings(self) -> Settings:
        """The settings in force for every process; the defaults for a queue that does not exist yet."""
        return self.store.storage.settings(self.name)

    # ------------------------------------------------------------------ changing

    def configure(self, **settings: Unpack[QueueSettings]) -> Settings:
        """Store settings that differ, for every process, and return all. Those not given stay as they are.

        The last writer wins. Raises TypeError for an unknown setting, ConfigError for a wrong value.
        """
        given = known(settings, QueueSettings, "a queue")
        stored = self.store.storage.settings(self.name)
        changes = {name: value for name, value in given.items() if getattr(stored, name) != value}
        if not changes:
            return stored
        after = self.store.storage.configure(self.name, changes)
        for name in changes:
            log.info("%s: %s is %r now, was %r", self.name, name, getattr(after, name), getattr(stored, name))
        return after

    def pause(self, for_: float | None = None) -> None:
        """Stop all claiming here, in every process, until `resume()` or for some seconds. What runs goes on."""
        until = None if for_ is None else self.store.clock.now() + seconds("for_", for_, zero=False)
        self.store.storage.configure(self.name, {"paused": True, "paused_until": until})

    def resume(self) -> None:
        """Let all processes claim again."""
        self.store.storage.configure(self.name, {"paused": False, "paused_until": None})

    def cancel(self, ids: str | Sequence[str], reason: str = "") -> list[str]:
        """Cancel events, by one id or several. One word for each, in order:

        `"cancelled"`, `"requested"` (it runs, and its worker was asked), `"too late"` (it has ended), `"unknown"`.
        """
        return self.store.cancel(self.name, [ids] if isinstance(ids, str) else list(ids), reason)

    def retry(self, ids: str | Sequence[str]) -> list[str]:
        """Make events ready again, whatever they ended as, their attempts forgotten. A completed one is put anew.

        For each, in order: the id under which it runs again, `"too late"` (it is ready or runs), or `"unknown"`.
        """
        return self._edit(ids, Requeue())

    def move(self, ids: str | Sequence[str], to: str | Queue[Any]) -> list[str]:
        """Move waiting events to another queue. For each: `"moved"`, `"too late"` or `"unknown"`."""
        name = to.name if isinstance(to, Queue) else text("the name of a queue", to)
        return self._edit(ids, Move(name))

    def remove(self, ids: str | Sequence[str]) -> list[str]:
        """Remove events for good. For each: `"deleted"`, `"too late"` (it runs) or `"unknown"`."""
        return self._edit(ids, Delete())

    def purge(self, states: State | str | Iterable[State | str] = WAITING) -> int:
        """Remove all events in some states (waiting ones, if nothing is said), and return how many there were.

        Claimed events cannot be purged: ConfigError. What is put or ends meanwhile may stay, and so may what has just
        ended, while its worker still has the file in its hands.
        """
        wanted = [a_state(states)] if isinstance(states, str) else [a_state(state) for state in states]
        if State.CLAIMED in wanted:
            raise ConfigError("claimed events cannot be purged; cancel them, or let their workers settle them")
        return sum(self.store.storage.purge(self.name, state) for state in wanted)

    def prune(self) -> int:
        """Apply the queue's retention now and completely, and return how many records went.

        Otherwise it happens by itself, in small steps.
        """
        return self.store.storage.prune(self.name)

    def delete(self) -> None:
        """Remove the queue with everything in it. Raises StorageError while events of it are claimed."""
        self.store.storage.drop(self.name)

    def _edit(self, ids: str | Sequence[str], edit: Requeue | Move | Delete) -> list[str]:
        wanted = [ids] if isinstance(ids, str) else list(ids)
        return self.store.storage.edit(self.name, wanted, edit) if wanted else []
