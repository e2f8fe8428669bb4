"""Completed events that are kept for a time of their own: in which folder, found how, gone when, read how often."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventq.model import Completed, Delete, Filter, PutOptions, Released, State
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.file import FileStorage, disk, fsck, retention
from eventq.storage.file.kept import AS_QUEUE, KEPT, longer, lower, upper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.testing import FakeClock


@pytest.fixture
def worker(tmp_path: Path, clock: FakeClock) -> Iterator[FileStorage]:
    with FileStorage(tmp_path / "store", sync=False, clock=clock) as storage:
        yield storage


def complete(worker: FileStorage, *keeps: float | None) -> list[str]:
    """Put, claim and complete an event for each, all in one file."""
    ids = [worker.put("q", [b"1"], PutOptions(keep=keep))[0] for keep in keeps]
    for claimed in worker.claim("q", len(ids)):
        worker.settle(claimed, Completed(b'"value"'))
    return ids


def folders(worker: FileStorage) -> list[str]:
    root = Path(worker.root, "queues/q")
    return sorted({path.parent.parent.name for path in root.glob("completed*/*/*")})


@given(st.floats(0, 1e10))
def test_a_folder_is_for_a_time_and_a_little_less(keep: float) -> None:
    seconds = upper(keep)
    assert lower(seconds) < keep <= seconds or keep == lower(seconds) == 0
    assert upper(seconds) == seconds
    assert lower(seconds) >= 0.9 * seconds - 1
    match = KEPT.match(f"completed~{seconds}")
    assert match is not None
    assert int(match[1]) == seconds


def test_few_folders_do_for_many_times() -> None:
    assert len({upper(keep) for keep in range(100_000)}) == 99 + 3 * 90 + 1


@pytest.mark.parametrize(
    ("kept", "own", "queue", "longest"),
    [(0.0, None, 60.0, AS_QUEUE), (0.0, 5.0, 60.0, 5.0), (0.0, 60.0, 60.0, AS_QUEUE), (5.0, 70.0, 60.0, 70.0),
     (AS_QUEUE, 5.0, 60.0, AS_QUEUE), (AS_QUEUE, 70.0, 60.0, 70.0), (70.0, None, 60.0, 70.0),
     (5.0, None, 60.0, AS_QUEUE), (0.0, None, 0.0, AS_QUEUE)],
)  # fmt: skip
def test_the_longest_time_counts(kept: float, own: float | None, queue: float, longest: float) -> None:
    assert longer(kept, own, queue) == longest


@pytest.mark.parametrize(
    ("keeps", "folder"),
    [((None,), "completed"), ((3600.0,), "completed"), ((7200.0,), "completed~7200"), ((90000.5,), "completed~91000"),
     ((0.25,), "completed~1"), ((60.0, 7200.0), "completed~7200"), ((60.0, None), "completed"),
     ((None, 7200.0, None), "completed~7200")],
)  # fmt: skip
def test_the_folder_is_that_of_the_longest_time(
    worker: FileStorage, keeps: tuple[float | None, ...], folder: str
) -> None:
    ids = complete(worker, *keeps)
    assert folders(worker) == [folder]
    assert fsck.check(worker.root) == []
    assert [worker.get(id) is not None for id in ids] == [True] * len(ids)
    assert worker.stats("q").completed == len(ids)


def test_pages_are_in_order_over_all_folders(worker: FileStorage, clock: FakeClock) -> None:
    ids = []
    for number in range(30):
        clock.advance(40.0)
        ids += complete(worker, (None, 7200.0, 1e6)[number % 3])
    assert folders(worker) == ["completed", "completed~1000000", "completed~7200"]
    found: list[str] = []
    cursor = None
    while True:
        page = worker.scan("q", State.COMPLETED, Filter(), cursor, 7)
        found += [record.id for record in page.records]
        cursor = page.cursor
        if cursor is None:
            break
    assert found == ids
    assert worker.edit("q", ids[:3], Delete()) == ["deleted"] * 3
    assert worker.purge("q", State.COMPLETED) == 27
    assert folders(worker) == []


def test_what_is_kept_long_is_not_read_again_and_again(
    worker: FileStorage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor what was settled long after it was put."""
    monkeypatch.setattr(retention, "PAUSE", 0.0)
    long = complete(worker, 1e6)
    for number in range(9):
        worker.put("q", [b"%d" % number], PutOptions(keep=500.0))
        clock.advance(1.0)
    clock.advance(1000.0)
    while claimed := worker.claim("q", 1):
        worker.settle(claimed[0], Completed(b"1"))
    read: list[str] = []
    real = disk.read_file
    monkeypatch.setattr(disk, "read_file", lambda path, limit: [read.append(path), real(path, limit)][1])  # type: ignore[func-returns-value]
    for _ in range(20):
        clock.advance(LOOK_INTERVAL)
        worker.recover()
    files = [path for path in read if "/completed" in path]
    assert len(files) == 9
    assert not [path for path in files if long[0][:38] in path]


def test_folders_go_when_they_are_empty(worker: FileStorage, clock: FakeClock) -> None:
    complete(worker, 60.0)
    clock.advance(300.0)
    complete(worker, 60.0)
    clock.advance(61.0)
    assert worker.prune("q") == 2
    clock.advance(300.0)
    worker.prune("q")
    assert folders(worker) == []
    assert len(list(Path(worker.root, "queues/q").glob("completed~60/*"))) <= 1


def test_a_shorter_time_beside_a_longer_one_waits_for_it(worker: FileStorage, clock: FakeClock) -> None:
    ids = complete(worker, 60.0, 7200.0)
    clock.advance(7100.0)
    assert worker.prune("q") == 0
    clock.advance(200.0)
    assert worker.prune("q") == 2
    assert [worker.get(id) for id in ids] == [None, None]


def test_a_longer_setting_holds_for_what_says_nothing(worker: FileStorage, clock: FakeClock) -> None:
    """Though it shares a file with what had a longer time when it was settled."""
    ids = complete(worker, 7200.0, None)
    worker.configure("q", {"keep": 1e5})
    clock.advance(50_000.0)
    assert worker.prune("q") == 0
    assert worker.get(ids[1]) is not None
    clock.advance(60_000.0)
    assert worker.prune("q") == 2


def test_a_death_before_the_rename_loses_no_time(tmp_path: Path, worker: FileStorage, clock: FakeClock) -> None:
    """The next claimer finishes the file, and finds how long in its lines: of the put, and of who settled."""
    dead = FileStorage(worker.root, sync=False, clock=clock)
    first, second, _ = (worker.put("q", [b"1"], PutOptions(keep=keep))[0] for keep in (7200.0, None, None))
    claims = dead.claim("q", 3)
    claims[1].keep = 1e6
    for claimed in claims[:2]:
        dead.settle(claimed, Completed(b"1"))
    dead.abandon()
    clock.advance(LOOK_INTERVAL)
    worker.recover()
    (again,) = worker.claim("q", 9)
    worker.settle(again, Released())
    (again,) = worker.claim("q", 9)
    worker.settle(again, Completed())
    assert folders(worker) == ["completed~1000000"]
    clock.advance(9e5)
    assert worker.prune("q") == 0
    assert worker.get(first) is not None
    assert worker.get(second) is not None
    clock.advance(2e5)
    assert worker.prune("q") == 2
