"""Waking, and the thread that feeds the idle: woken by facts, never by luck."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

import pytest

from eventq.clock import SYSTEM
from eventq.model import Completed, Dropped, Failure, PutOptions, Rejected, State
from eventq.storage.file import FileStorage, disk
from eventq.storage.file.wake import QueueWatch, wake

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventq.model import Outcome

PATIENCE = 30.0


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[FileStorage, FileStorage]]:
    """Two workers of one store, as two processes would be."""
    with FileStorage(tmp_path / "store", sync=False) as one, FileStorage(tmp_path / "store", sync=False) as other:
        yield one, other


def fires(fd: int, seconds: float = PATIENCE) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


def test_nobody_waits_and_nothing_happens(tmp_path: Path) -> None:
    disk.make_fifo(f"{tmp_path}/wake")
    assert not wake(f"{tmp_path}/wake")
    assert not wake(f"{tmp_path}/missing")


def test_a_watch_is_quiet_after_its_wakers_have_gone(tmp_path: Path) -> None:
    """Opened read-only it would be readable for ever once a writer has closed."""
    disk.make_fifo(f"{tmp_path}/wake")
    watch = QueueWatch(f"{tmp_path}/wake")
    assert wake(f"{tmp_path}/wake")
    assert fires(watch.fileno())
    watch.clear()
    assert not fires(watch.fileno(), 0)
    watch.close()


def test_a_full_fifo_wakes_all_the_same(tmp_path: Path) -> None:
    disk.make_fifo(f"{tmp_path}/wake")
    watch = QueueWatch(f"{tmp_path}/wake")
    assert all(wake(f"{tmp_path}/wake", b"x" * 4096) for _ in range(64))
    assert fires(watch.fileno(), 0)
    watch.close()


@pytest.mark.parametrize(
    "outcome",
    [Completed(b"1"), Rejected(Failure("E", "x")), Dropped(State.CANCELLED, "no")],
    ids=["value", "dead", "gone"],
)
def test_the_end_of_an_event_wakes_the_process_that_put_it(
    pair: tuple[FileStorage, FileStorage], outcome: Outcome
) -> None:
    producer, worker = pair
    first, second = producer.put("q", [b"1", b"2"], PutOptions())
    watches = [producer.watch(id=first), producer.watch(id=second), producer.watch(id=first)]
    one, _ = worker.claim("q", 2)
    worker.settle(one, outcome)
    for watch, fired in zip(watches, (True, False, True), strict=True):
        assert fires(watch.fileno(), PATIENCE if fired else 0) == fired
        watch.close()


def test_a_watch_on_a_dead_producers_event_hurts_nobody(pair: tuple[FileStorage, FileStorage]) -> None:
    producer, worker = pair
    (id,) = producer.put("q", [b"1"], PutOptions())
    producer.watch(id=id).close()
    producer.abandon()
    (claimed,) = worker.claim("q")
    worker.settle(claimed, Completed(b"1"))
    record = worker.get(id)
    assert record is not None
    assert record.state is State.COMPLETED


def test_noise_in_a_rooms_fifo_is_ignored(pair: tuple[FileStorage, FileStorage]) -> None:
    producer, worker = pair
    (id,) = producer.put("q", [b"1"], PutOptions())
    watch = producer.watch(id=id)
    fifo = f"{producer.root}/workers/{producer.worker}/wake"
    assert wake(fifo, b"\n\n\xff\xff noise\n" + b"x" * 44 + b"\n")
    (claimed,) = worker.claim("q")
    worker.settle(claimed, Completed(b"1"))
    assert fires(watch.fileno())
    watch.close()


def test_hoarded_events_go_to_an_idle_claimer(pair: tuple[FileStorage, FileStorage]) -> None:
    """One worker has fetched ten events and is busy with the first; another one begins to wait."""
    busy, idle = pair
    busy.put("q", [b"%d" % number for number in range(10)], PutOptions())
    (running,) = busy.claim("q")
    assert idle.claim("q") == []
    watch = idle.watch("q")
    got: list[bytes] = []
    deadline = SYSTEM.monotonic() + PATIENCE
    while len(got) < 9 and SYSTEM.monotonic() < deadline:
        while claimed := idle.claim("q"):
            got.append(claimed[0].payload)
            idle.settle(claimed[0], Completed())
        fires(watch.fileno(), 0.25)
        watch.clear()
    watch.close()
    assert sorted(got) == [b"%d" % number for number in range(1, 10)]
    assert got[0] >= b"5", "the later half goes first"
    busy.settle(running, Completed())
    assert busy.claim("q") == []


def test_without_an_idle_claimer_nothing_is_given_away(pair: tuple[FileStorage, FileStorage]) -> None:
    busy, _ = pair
    busy.put("q", [b"%d" % number for number in range(10)], PutOptions())
    busy.claim("q")
    for _ in range(3):
        assert busy.maintain() == (True, True)
    folder = f"{busy.root}/queues/q/ready/0"
    assert os.listdir(folder) == []
    (name,) = os.listdir(f"{busy.root}/workers/{busy.worker}/claims")
    assert b'"moved"' not in disk.read_file(f"{busy.root}/workers/{busy.worker}/claims/{name}", 1 << 20)


def test_the_maintenance_thread_ends_with_its_storage(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    storage = FileStorage(tmp_path / "store", sync=False)
    (id,) = storage.put("q", [b"1"], PutOptions())
    storage.watch(id=id).close()
    storage.claim("q")
    started = {thread.name for thread in set(threading.enumerate()) - before}
    assert started == {"eventq-maintenance", "eventq-results"}
    storage.close()
    assert set(threading.enumerate()) <= before
