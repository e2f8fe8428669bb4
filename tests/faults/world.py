"""A store with its workers, and a ledger of what they were promised.

The ledger keeps for each event the fates that are still allowed: `delivered` (to whoever drains the store later), one
of the final states, or `nowhere` (done without a record, or never put). While a call runs both its outcomes are
allowed; when it returns, or says that nothing was changed, only one is.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventq.errors import OutcomeUnknown, QueueFull, StorageError
from eventq.model import Claimed, Completed, Dropped, Outcome, PutOptions, Rejected, State
from eventq.storage.file import FileStorage
from eventq.storage.file.maintenance import Maintenance
from eventq.storage.file.producer import Producer
from eventq.testing import FakeClock
from faults.disk import FaultyDisk

DELIVERED = "delivered"
NOWHERE = "nowhere"

Fates = frozenset[str]


class Ledger:
    """What may have become of each event, by its payload."""

    def __init__(self) -> None:
        self.fates: dict[str, Fates] = {}
        self.ids: dict[str, str] = {}
        self.together: list[list[str]] = []
        """Events that were put in one call: all of them are there, or none."""
        self.keys: dict[str, list[str]] = {}
        """Keys, and the payloads that were put with them."""
        self.held: set[str] = set()
        """Keys that are held for a period, whatever became of their events."""
        self.chains: dict[str, dict[str, frozenset[str]]] = {}
        """Keys, the payloads of the debounced puts with them, and which of these puts were over when each began."""
        self.over: set[str] = set()
        """Debounced puts that have returned, or said that they did nothing."""
        self.values: dict[str, bytes] = {}
        self.settled: set[str] = set()
        """Events of which somebody has got hold: what a put has to say of them comes too late."""

    def allow(self, payload: str, *fates: str) -> None:
        self.fates[payload] = frozenset(fates)


def fate_of(outcome: Outcome) -> str:
    """Where an outcome leads."""
    if isinstance(outcome, Completed):
        return NOWHERE if outcome.value is None else "completed"
    if isinstance(outcome, Rejected):
        return "dead"
    if isinstance(outcome, Dropped):
        return outcome.state.value
    return DELIVERED


class World:
    """One store. `a` is the worker that faults strike, `b` one that lives beside it."""

    def __init__(self, root: Path, disk: FaultyDisk, sync: bool = True) -> None:
        self.root = root
        self.disk = disk
        self.sync = sync
        self.clock = FakeClock()
        self.ledger = Ledger()
        self.workers: list[FileStorage] = []
        self.extra: Any = None
        self._producers: list[Producer] = []

    # ------------------------------------------------------------------ workers

    def open(self) -> FileStorage:
        worker = FileStorage(self.root, sync=self.sync, clock=self.clock)
        self.workers.append(worker)
        return worker

    @property
    def a(self) -> FileStorage:
        if not self.workers:
            self.open()
        return self.workers[0]

    @property
    def b(self) -> FileStorage:
        assert self.a
        if len(self.workers) < 2:
            self.open()
        return self.workers[1]

    def kill_all(self) -> None:
        """Every worker dies, with whatever its frames had open."""
        for worker in self.workers:
            worker.abandon()
        self.workers.clear()
        self.extra = None
        for producer in self._producers:
            producer.abandon()
        self._producers.clear()
        self.disk.close_all(set())

    def note_producers(self) -> None:
        """Remember what a worker would forget that dies while it closes."""
        self._producers = [worker._member.producer for worker in self.workers if worker._member is not None]

    def kill(self, worker: FileStorage) -> None:
        """One worker dies between two calls."""
        self.workers.remove(worker)
        worker.abandon()

    def look(self, *workers: FileStorage) -> None:
        self.clock.advance(0.25)
        for worker in workers or self.workers:
            worker.recover()

    # ------------------------------------------------------------------ promises

    def put(self, *payloads: str, worker: FileStorage | None = None, queue: str = "q", **options: Any) -> list[str]:
        """Put events in one call."""
        ledger = self.ledger
        for payload in payloads:
            ledger.allow(payload, DELIVERED, NOWHERE)
        if len(payloads) > 1:
            ledger.together.append(list(payloads))
        data = [msgspec.json.encode(payload) for payload in payloads]
        with self._nothing_changed(*payloads):
            ids = (worker or self.a).put(queue, data, PutOptions(**options))
        for payload, id in zip(payloads, ids, strict=True):
            self._stored(payload, id)
        return ids

    def put_key(self, payload: str, key: str, worker: FileStorage | None = None, **options: Any) -> tuple[str, bool]:
        ledger = self.ledger
        ledger.allow(payload, DELIVERED, NOWHERE)
        ledger.keys.setdefault(key, []).append(payload)
        if not isinstance(options.get("unique", "open"), str):
            ledger.held.add(key)
        with self._nothing_changed(payload, keys=[key]):
            id, fresh = (worker or self.a).put_key("q", msgspec.json.encode(payload), PutOptions(key=key, **options))
        if fresh:
            self._stored(payload, id)
        else:
            ledger.allow(payload, NOWHERE)
        return id, fresh

    def put_debounced(
        self, payload: str, key: str, worker: FileStorage | None = None, seconds: float = 5.0, **options: Any
    ) -> str:
        """Put an event in the place of those of this key that wait."""
        ledger = self.ledger
        chain = ledger.chains.setdefault(key, {})
        for earlier in chain:
            if NOWHERE not in ledger.fates[earlier] or earlier not in ledger.over:
                ledger.allow(earlier, *ledger.fates[earlier], State.CANCELLED.value)
        ledger.allow(payload, DELIVERED, NOWHERE)
        chain[payload] = frozenset(ledger.over)
        options = {"key": key, "debounce": seconds, **options}
        try:
            with self._nothing_changed(payload):
                id, fresh = (worker or self.a).put_key("q", msgspec.json.encode(payload), PutOptions(**options))
        except StorageError as error:
            if not isinstance(error, OutcomeUnknown):
                ledger.over.add(payload)
            raise
        assert fresh
        ledger.ids[payload] = id
        alone = set(chain) <= {payload} | chain[payload]
        ledger.allow(payload, *({DELIVERED} if alone else {DELIVERED, State.CANCELLED.value}))
        ledger.over.add(payload)
        return id

    def _stored(self, payload: str, id: str) -> None:
        self.ledger.ids[payload] = id
        if payload not in self.ledger.settled:
            self.ledger.allow(payload, DELIVERED)

    @contextmanager
    def _nothing_changed(self, *payloads: str, keys: Collection[str] = ()) -> Iterator[None]:
        """StorageError, unless it is OutcomeUnknown, says that the call did nothing; so does QueueFull."""
        try:
            yield
        except OutcomeUnknown:
            raise
        except (StorageError, QueueFull):
            self.ledger.held.difference_update(keys)
            for payload in payloads:
                self.ledger.allow(payload, NOWHERE)
            raise

    def claim(self, limit: int = 1, worker: FileStorage | None = None, queue: str = "q") -> list[Claimed]:
        return (worker or self.a).claim(queue, limit)

    def settle(self, claimed: Claimed, outcome: Outcome | None = None, worker: FileStorage | None = None) -> None:
        outcome = outcome or Completed()
        payload = payload_of(claimed)
        fate = fate_of(outcome)
        self.ledger.settled.add(payload)
        if isinstance(outcome, Completed) and outcome.value is not None:
            self.ledger.values[payload] = outcome.value
        self.ledger.allow(payload, DELIVERED, fate)
        (worker or self.a).settle(claimed, outcome)
        self.ledger.allow(payload, fate)

    def allow(self, payload: str, *fates: str) -> None:
        self.ledger.allow(payload, *fates)

    def become(self, *payloads: str, fate: str) -> None:
        """What a call that has returned must have made of events."""
        for payload in payloads:
            self.ledger.allow(payload, fate)


class Worlds:
    """Makes stores, one after another; `stride`: of so many points where two parties may meet, they meet in one."""

    def __init__(self, folder: Path, disk: FaultyDisk, stride: int = 1) -> None:
        self.stride = stride
        self._folder = folder
        self._disk = disk
        self._made: list[World] = []

    def __call__(self, sync: bool = True) -> World:
        self._made.append(World(self._folder / str(len(self._made)), self._disk, sync))
        return self._made[-1]

    def kill_all(self) -> None:
        for world in self._made:
            world.kill_all()


def payload_of(claimed: Claimed) -> str:
    payload: str = msgspec.json.decode(claimed.payload)
    return payload


def forget_frames(error: BaseException) -> None:
    """Let go of what the frames of an error hold, as the end of their process would."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen.__traceback__ = None
        seen = seen.__context__


def fast_folder() -> str:
    """Where stores of tests go that open thousands of them: in memory, if the machine has such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


def still_maintenance(monkeypatch: pytest.MonkeyPatch) -> None:
    """No maintenance thread, whose calls would come at random: tests call `maintain()` themselves."""
    for name in ("__init__", "held", "hoarding", "stop"):
        monkeypatch.setattr(Maintenance, name, lambda *_: None)
