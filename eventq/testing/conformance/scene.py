"""What the tests of the suite act on: one store, its workers, its time."""

from __future__ import annotations

import contextlib
import select
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest

from eventq.clock import SYSTEM, sleep
from eventq.errors import StorageClosed
from eventq.model import Claimed, Completed, Filter, PutOptions, Record, State
from eventq.storage.base import LOOK_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventq.storage.base import Storage, Watch
    from eventq.testing.clock import FakeClock

T = TypeVar("T")

PATIENCE = 30.0
"""Real seconds after which a fact that does not come true is a failure."""
EVERYTHING = Filter()


class Scene:
    """A store with its workers. `open`, `kill` and time; the rest are short words for frequent sentences."""

    def __init__(
        self,
        open_worker: Callable[[], Storage],
        clock: FakeClock | None,
        kill: Callable[[Storage], None] | None,
    ) -> None:
        self._open = open_worker
        self._kill = kill
        self.clock: FakeClock | None = clock
        self._workers: list[Storage] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            for worker in self._workers:
                self._stack.callback(worker.close)

    # ------------------------------------------------------------------ workers and time

    def open(self) -> Storage:
        """One more worker."""
        worker = self._open()
        self._workers.append(worker)
        return worker

    def kill(self, worker: Storage) -> None:
        """Let a worker die; skips the test if there is no way to."""
        if self._kill is None:
            pytest.skip("this storage has no way to kill a worker")
        self._kill(worker)
        self._workers.remove(worker)

    def now(self) -> float:
        return (self.clock or SYSTEM).now()

    def wait(self, seconds: float) -> None:
        """Let time pass: at once on a FakeClock, else really."""
        if self.clock is not None:
            self.clock.advance(seconds)
        else:
            sleep(seconds)

    def long_wait(self, seconds: float) -> None:
        """Let much time pass; skips the test if that would be real time."""
        if self.clock is None:
            pytest.skip(f"needs a FakeClock: {seconds} s pass")
        self.clock.advance(seconds)

    def look(self, *workers: Storage) -> None:
        """Let each worker look after the store once."""
        self.wait(LOOK_INTERVAL)
        for worker in workers:
            worker.recover()

    def until(self, fact: Callable[[], T], *workers: Storage) -> T:
        """Wait for a fact, with the given workers looking after the store; what it returned when it was true."""
        deadline = SYSTEM.monotonic() + PATIENCE
        while not (found := fact()):
            assert SYSTEM.monotonic() < deadline, f"did not come true within {PATIENCE} s"
            self.look(*workers)
        return found

    # ------------------------------------------------------------------ events

    def put(self, worker: Storage, *payloads: object, queue: str = "q", **options: Any) -> list[str]:
        """Put events, all in one; their payloads are JSON."""
        return worker.put(queue, [msgspec.json.encode(payload) for payload in payloads], PutOptions(**options))

    def put_each(self, worker: Storage, *payloads: object, queue: str = "q", **options: Any) -> list[str]:
        """Put events one by one."""
        return [self.put(worker, payload, queue=queue, **options)[0] for payload in payloads]

    def put_key(self, worker: Storage, key: str, payload: object = "k", **options: Any) -> tuple[str, bool]:
        return worker.put_key("q", msgspec.json.encode(payload), PutOptions(key=key, **options))

    def claim(self, worker: Storage, queue: str = "q") -> Claimed:
        """Claim the one event that must be there."""
        claimed = worker.claim(queue)
        assert len(claimed) == 1, f"{len(claimed)} events were claimed; one had to be there"
        return claimed[0]

    def drain(self, worker: Storage, queue: str = "q") -> list[Any]:
        """Claim and complete all that can be claimed; the payloads, in order."""
        payloads = []
        while claimed := worker.claim(queue, 1):
            payloads.append(payload_of(claimed[0]))
            worker.settle(claimed[0], Completed())
        return payloads

    def record(self, worker: Storage, id: str) -> Record:
        """The record of an event that must have one."""
        record = worker.get(id)
        assert record is not None, f"no record of event {id}"
        return record

    def all_of(self, worker: Storage, state: State, queue: str = "q", filter: Filter = EVERYTHING) -> list[Any]:
        """The payloads of all events in a state, in id order."""
        return [msgspec.json.decode(record.payload) for record in records_of(worker, state, queue, filter)]


def records_of(
    worker: Storage, state: State, queue: str = "q", filter: Filter = EVERYTHING, limit: int = 100
) -> list[Record]:
    """All pages of a scan."""
    records: list[Record] = []
    cursor = None
    while True:
        page = worker.scan(queue, state, filter, cursor, limit)
        records += page.records
        cursor = page.cursor
        if cursor is None:
            return records


def payload_of(claimed: Claimed) -> Any:
    return msgspec.json.decode(claimed.payload)


def payloads_of(claimed: Sequence[Claimed]) -> list[Any]:
    return [payload_of(one) for one in claimed]


def fires(watch: Watch, timeout: float = 0.0) -> bool:
    """Whether a watch has a wake (within real seconds)."""
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run `work(0)` ... `work(count - 1)` at once, each in a thread; the first error is raised here."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            start.wait(PATIENCE)
            work(number)
        except BaseException as error:  # noqa: BLE001 - it is raised in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 2)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


def closes(worker: Storage) -> bool:
    """Whether a call says that this worker was closed."""
    try:
        worker.queues()
    except StorageClosed:
        return True
    return False
