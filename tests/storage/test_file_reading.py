"""Reading while others write: pages that miss nothing that stays, and counts whose cost grows with what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventq.model import Completed, Failure, Filter, PutOptions, Rejected, Released, Retried, State
from eventq.storage.file import FileStorage, disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventq.testing import FakeClock

PLAIN = PutOptions()
ALL = Filter()


@pytest.fixture
def storage(tmp_path: Path, clock: FakeClock) -> Iterator[FileStorage]:
    with FileStorage(tmp_path / "store", sync=False, clock=clock) as storage:
        yield storage


def put(storage: FileStorage, clock: FakeClock, count: int, **options: object) -> list[str]:
    """So many events, each in a file of its own."""
    ids = []
    for _ in range(count):
        clock.advance(0.02)
        ids += storage.put("q", [b"1"], PutOptions(**options))  # type: ignore[arg-type]
    return ids


def test_pages_while_others_put_and_claim(storage: FileStorage, clock: FakeClock) -> None:
    """What is there from the first page to the last is seen once, in order; what comes later, once or not at all."""
    stay = put(storage, clock, 30)
    storage.put("q", [b"0"], PutOptions(priority=9))
    seen: list[str] = []
    cursor = None
    while True:
        page = storage.scan("q", State.READY, ALL, cursor, 4)
        seen += [record.id for record in page.records]
        cursor = page.cursor
        if cursor is None:
            break
        put(storage, clock, 3)
        (claimed,) = storage.claim("q")
        storage.settle(claimed, Released())
    assert seen == sorted(seen)
    assert len(seen) == len(set(seen))
    assert [id for id in seen if id in set(stay)] == stay


def test_a_page_in_the_middle_of_a_large_file(storage: FileStorage) -> None:
    ids = storage.put("q", [b"%d" % number for number in range(25)], PLAIN)
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = storage.scan("q", State.READY, ALL, cursor, 10)
        seen += [record.id for record in page.records]
        cursor, pages = page.cursor, pages + 1
    assert (seen, pages) == (ids, 3)


def test_a_moved_event_stands_where_its_id_says(storage: FileStorage, clock: FakeClock) -> None:
    """It goes on in another file, and is listed among those of its time."""
    ids = storage.put("q", [b"1", b"2", b"3"], PLAIN)
    ids += put(storage, clock, 2)
    first, second = storage.claim("q", 2)
    storage.settle(first, Retried(0.0, Failure("E", "x")))
    storage.settle(second, Released())
    storage.give_back("q")
    assert [record.id for record in storage.scan("q", State.READY, ALL).records] == ids
    assert [storage.get(id) is not None for id in ids] == [True] * 5


@pytest.mark.parametrize("state", [State.READY, State.COMPLETED, State.DEAD])
def test_stats_read_each_file_once(
    storage: FileStorage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    def cost(count: int) -> int:
        put(storage, clock, count)
        if state is not State.READY:
            for claimed in storage.claim("q", count):
                storage.settle(claimed, Completed(b"1") if state is State.COMPLETED else Rejected())
        reads: list[str] = []
        real = disk.read_file
        with monkeypatch.context() as patch:
            patch.setattr(disk, "read_file", lambda path, limit: reads.append(path) or real(path, limit))
            stats = storage.stats("q")
        reads = [path for path in reads if not path.endswith(".json")]  # the maintenance thread's own look
        assert getattr(stats, state.value) >= count
        assert len(reads) == len(set(reads))
        return len(reads)

    first = cost(10)
    assert cost(30) <= 4 * max(first, 10) + 5


def test_a_file_that_moves_while_it_is_looked_for_is_found(
    storage: FileStorage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has looked into `delayed/` and `ready/`; then the event is released back, behind its back."""
    (id,) = put(storage, clock, 1)
    (claimed,) = storage.claim("q")
    real = storage.reader._claimed
    moved: list[int] = []

    def claimed_too_late(paths: object) -> object:
        if not moved:
            moved.append(1)
            storage.settle(claimed, Released())
        return real(paths)  # type: ignore[arg-type]

    monkeypatch.setattr(storage.reader, "_claimed", claimed_too_late)
    record = storage.get(id)
    assert moved
    assert record is not None
    assert record.state is State.READY


def test_one_unreadable_file_hides_no_other(storage: FileStorage, clock: FakeClock) -> None:
    ids = put(storage, clock, 3)
    path = f"{storage.root}/queues/q/ready/0/{ids[1][:38]}"
    fd = disk.open_file(path)
    disk.write_all(fd, b"\0\xff" * 20)
    disk.close(fd)
    assert [record.id for record in storage.scan("q", State.READY, ALL).records] == [ids[0], ids[2]]
    assert storage.get(ids[1]) is None
    assert [claimed.id for claimed in storage.claim("q", 3)] == [ids[0], ids[2]]
    assert len(disk.listdir(storage.root + "/corrupt")) == 1
