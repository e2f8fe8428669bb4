"""Notes in files: numbered lines, in two files of which the older one goes; cheap to look at, cheap to write."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventq.errors import StorageError
from eventq.model import Claimed, Completed, Delete, Move, PutOptions, Released
from eventq.storage.file import FileStorage, disk, fsck
from eventq.storage.file.layout import QueuePaths, bucket_of
from eventq.storage.file.notes import MAX_NOTES_BYTES
from eventq.storage.file.wake import ResultWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.testing import FakeClock

LARGE = b'"' + b"x" * 100_000 + b'"'


@pytest.fixture
def worker(tmp_path: Path, clock: FakeClock) -> Iterator[FileStorage]:
    with FileStorage(tmp_path / "store", sync=False, clock=clock) as storage:
        yield storage


@pytest.fixture
def other(worker: FileStorage, clock: FakeClock) -> Iterator[FileStorage]:
    with FileStorage(worker.root, sync=False, clock=clock) as storage:
        yield storage


def claim(worker: FileStorage, queue: str = "q") -> Claimed:
    if not worker.stats(queue).ready:
        worker.put(queue, [b"1"], PutOptions())
    (claimed,) = worker.claim(queue)
    return claimed


def file_of(worker: FileStorage, id: str, queue: str = "q") -> Path:
    return Path(QueuePaths(worker.root, queue).notes, bucket_of(id), id)


def numbers(worker: FileStorage, id: str, after: int = 0) -> list[int]:
    return [note.number for note in worker.notes(id, after)]


# ---------------------------------------------------------------- what is on disk


def test_the_older_half_goes(worker: FileStorage) -> None:
    claimed = claim(worker)
    for count in range(1, 21):
        worker.note(claimed, "output", LARGE)
        assert numbers(worker, claimed.id)[-1] == count
    newer = file_of(worker, claimed.id)
    assert sorted(os.listdir(newer.parent)) == [claimed.id, claimed.id + "~"]
    assert all(path.stat().st_size <= MAX_NOTES_BYTES // 2 for path in newer.parent.iterdir())
    assert numbers(worker, claimed.id) == list(range(11, 21))
    assert fsck.check(worker.root) == []


def test_another_worker_goes_on_with_the_numbers(worker: FileStorage, other: FileStorage) -> None:
    claimed = claim(worker)
    for _ in range(6):
        worker.note(claimed, "output", LARGE)
    worker.settle(claimed, Released())
    again = claim(other)
    other.note(again, "output", b"1")
    assert numbers(worker, claimed.id) == [1, 2, 3, 4, 5, 6, 7]
    file_of(worker, claimed.id).rename(file_of(worker, claimed.id + "~"))  # its writer died between two files
    other.note(again, "output", b"1")
    assert numbers(worker, claimed.id, after=6) == [7, 8]


def test_what_a_death_left_of_a_line_is_cut_off(worker: FileStorage, other: FileStorage) -> None:
    claimed = claim(worker)
    worker.note(claimed, "output", b'"whole"')
    worker.settle(claimed, Released())
    with file_of(worker, claimed.id).open("ab") as file:
        file.write(b'{"at":1795246950.25,"kind":"output","data":"' + b"torn" * 100)
    assert numbers(worker, claimed.id) == [1]
    other.note(claim(other), "output", b'"next"')
    assert [bytes(note.data) for note in worker.notes(claimed.id)] == [b'"whole"', b'"next"']
    assert numbers(worker, claimed.id, after=1) == [2]


def test_a_full_disk_loses_no_note_before(worker: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = claim(worker)
    worker.note(claimed, "output", b'"before"')
    real = disk.pwrite

    def half(fd: int, data: bytes, at: int) -> int:
        if len(data) > 40:
            return real(fd, data[:40], at)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "pwrite", half)
        with pytest.raises(StorageError, match="full"):
            worker.note(claimed, "output", b'"' + b"x" * 20 + b'"')
    worker.note(claimed, "output", b'"after"')
    assert [bytes(note.data) for note in worker.notes(claimed.id)] == [b'"before"', b'"after"']
    assert numbers(worker, claimed.id) == [1, 2]


def test_both_files_go_with_the_event(worker: FileStorage, clock: FakeClock) -> None:
    claimed = claim(worker)
    for _ in range(8):
        worker.note(claimed, "output", LARGE)
    worker.settle(claimed, Released())
    assert worker.edit("q", [claimed.id], Move("other")) == ["moved"]
    assert numbers(worker, claimed.id) == list(range(1, 9))
    assert os.listdir(file_of(worker, claimed.id).parent) == []
    again = claim(worker, "other")
    worker.note(again, "output", b"1")
    assert numbers(worker, claimed.id) == list(range(1, 10))
    worker.settle(again, Completed(b"1"))
    assert worker.edit("other", [claimed.id], Delete()) == ["deleted"]
    assert worker.notes(claimed.id) == []
    assert os.listdir(file_of(worker, claimed.id, "other").parent) == []
    kept = claim(worker)
    for _ in range(8):
        worker.note(kept, "output", LARGE)
    worker.settle(kept, Completed(b"1"))
    clock.advance(3700.0)
    assert worker.prune("q") == 1
    assert os.listdir(file_of(worker, kept.id).parent) == []


# ---------------------------------------------------------------- what it costs


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The disk calls made, by name; those that look at an open descriptor are not counted."""
    made: list[str] = []

    def recorded(name: str) -> None:
        real = getattr(disk, name)

        def call(*args: object) -> object:
            made.append(name)
            return real(*args)

        monkeypatch.setattr(disk, name, call)

    for name in ("open_read", "open_file", "open_or_create", "open_fifo_writer", "stat", "listdir", "pread", "write",
                 "exists", "rename", "read_bytes"):  # fmt: skip
        recorded(name)
    return made


def test_only_what_is_new_is_read(worker: FileStorage, other: FileStorage, calls: list[str]) -> None:
    claimed = claim(worker)
    for queue in "abc":
        worker.put(queue, [b"1"], PutOptions())
    for _ in range(9):
        worker.note(claimed, "output", LARGE)
    assert numbers(other, claimed.id)[-1] == 9
    calls.clear()
    assert other.notes(claimed.id, 9) == []
    assert calls == ["open_read", "pread"]
    worker.note(claimed, "output", b"1")
    calls.clear()
    assert numbers(other, claimed.id, 9) == [10]
    assert calls == ["open_read", "pread"]


def test_a_reader_is_not_led_astray_by_a_file_that_is_another(worker: FileStorage, other: FileStorage) -> None:
    claimed = claim(worker)
    seen = 0
    for count in (1, 5, 1, 6, 11, 2, 20):
        for _ in range(count):
            worker.note(claimed, "output", LARGE)
        fresh = numbers(other, claimed.id, seen)
        assert fresh == list(range(fresh[0], fresh[-1] + 1))
        assert fresh[0] == seen + 1 or count > 5
        seen += count
        assert fresh[-1] == seen


def test_a_note_of_which_nobody_wants_to_know_costs_one_open_that_fails(
    worker: FileStorage, other: FileStorage, calls: list[str]
) -> None:
    for putter, told in ((other, ["open_fifo_writer"]), (worker, [])):  # its own process needs no FIFO
        putter.put("q", [b"1"], PutOptions())
        (claimed,) = worker.claim("q")
        worker.note(claimed, "progress", b"1")
        calls.clear()
        worker.note(claimed, "progress", b"2")
        assert calls == ["open_or_create", "pread", *told]


def test_a_waiter_has_one_wake_for_many_notes(worker: FileStorage) -> None:
    watch = worker.watch(id="18ea02eba58bb4009f3c51d07ab2e84600002a.00000")
    assert isinstance(watch, ResultWatch)
    try:
        for _ in range(3):
            for _ in range(100_000):  # more than a pipe holds
                watch.ring()
            watch.clear()
            assert select.select([watch.fileno()], [], [], 0)[0] == []
    finally:
        watch.close()
