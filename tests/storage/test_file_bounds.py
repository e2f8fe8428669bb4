"""Queues with a `maxsize` in the file storage: when it counts, what it reads, and threads that put at once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from eventq.clock import SYSTEM, sleep
from eventq.errors import QueueFull
from eventq.model import Completed, PutOptions, Rejected
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.bounds import Bounds
from eventq.storage.file import FileStorage, disk, membership
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from eventq.storage.file.layout import QueuePaths
    from eventq.storage.file.reading import Reader

PATIENCE = 30.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def storage(tmp_path: Path, clock: FakeClock) -> Iterator[FileStorage]:
    with FileStorage(tmp_path / "store", sync=False, clock=clock) as storage:
        yield storage


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each count found."""
    found: list[int] = []
    count: Callable[[Reader, QueuePaths], int] = membership.waiting

    def waiting(reader: Reader, paths: QueuePaths) -> int:
        found.append(count(reader, paths))
        return found[-1]

    monkeypatch.setattr(membership, "waiting", waiting)
    return found


def put(storage: FileStorage, count: int = 1) -> None:
    for _ in range(count):
        storage.put("q", [b"1"], PutOptions())


def test_a_queue_without_a_bound_is_never_counted(storage: FileStorage, counts: list[int]) -> None:
    put(storage, 3)
    storage.put("q", [b"1", b"2"], PutOptions())
    storage.put_key("q", b"1", PutOptions(key="k"))
    assert counts == []


def test_a_count_is_good_for_its_room_and_for_one_look(
    storage: FileStorage, clock: FakeClock, counts: list[int]
) -> None:
    storage.configure("q", {"maxsize": 10})
    put(storage, 4)
    assert counts == [0]
    clock.advance(LOOK_INTERVAL)
    put(storage, 4)
    assert counts == [0, 4]
    storage.settle(storage.claim("q")[0], Completed())
    put(storage, 3)
    assert counts == [0, 4, 9]
    with pytest.raises(QueueFull):
        put(storage)
    assert counts == [0, 4, 9, 10]


def test_two_queues_are_counted_apart(storage: FileStorage, counts: list[int]) -> None:
    for queue in ("a", "b"):
        storage.configure(queue, {"maxsize": 5})
    for _ in range(5):
        for queue in ("a", "b"):
            storage.put(queue, [b"1"], PutOptions())
    assert counts == [0, 0]


def test_what_has_ended_is_not_read(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.configure("q", {"maxsize": 5})
    put(storage, 2)
    storage.settle(storage.claim("q")[0], Completed(b"1"))
    storage.settle(storage.claim("q")[0], Rejected())
    storage.give_back("q")
    read: list[str] = []
    real = disk.read_file

    def read_file(path: str, limit: int) -> bytes:
        read.append(path)
        return real(path, limit)

    monkeypatch.setattr(disk, "read_file", read_file)
    put(storage, 5)
    with pytest.raises(QueueFull):
        put(storage)
    assert read
    assert not [path for path in read if "/completed/" in path or "/dead/" in path]


def test_who_counts_waits_for_puts_that_are_under_way(storage: FileStorage, clock: FakeClock) -> None:
    """They have their room and are not seen yet: counted now, the queue would take one more than it may."""
    put(storage)
    shared = Bounds(lambda queue: membership.waiting(storage.reader, storage.queue_paths(queue)), clock)
    refused: list[QueueFull] = []

    def put_two() -> None:
        try:
            with shared.admit("q", 3, 2):
                pass
        except QueueFull as error:
            refused.append(error)

    thread = threading.Thread(target=put_two, daemon=True)
    with shared.admit("q", 3, 1):
        assert shared._rooms["q"].until > 0.0
        thread.start()
        deadline = SYSTEM.monotonic() + PATIENCE
        while shared._rooms["q"].until > 0.0:  # it has found too little room, and waits to count
            assert SYSTEM.monotonic() < deadline
            sleep(0.001)
        put(storage)
    thread.join(PATIENCE)
    assert len(refused) == 1
    with shared.admit("q", 3, 1):
        put(storage)
