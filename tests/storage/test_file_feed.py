"""Claiming when the disk fails in the middle, and when what is at hand must not be started."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from eventq.errors import StorageError
from eventq.model import Completed, PutOptions, Released
from eventq.retry import SUSPECT_CRASHES
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.file import FileStorage, disk, feed
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventq.model import Claimed


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FileStorage]:
    with FileStorage(tmp_path / "store", sync=False) as opened:
        yield opened


def fail_from(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """From its given call on, a function of the disk fails."""
    real, calls = getattr(disk, name), iter(range(1, 1000))

    def failing(*arguments: object) -> object:
        if next(calls) >= call:
            raise OSError(errno.EIO, "injected")
        return real(*arguments)

    monkeypatch.setattr(disk, name, failing)


def test_what_was_claimed_before_an_error_is_not_lost_to_its_caller(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("q", [b"1", b"2", b"3"], PutOptions())
    with monkeypatch.context() as patch:
        fail_from(patch, "pwrite", 3)  # two starts are recorded
        claimed = storage.claim("q", 3)
    assert [one.payload for one in claimed] == [b"1", b"2"]
    for one in claimed:
        storage.settle(one, Completed())
    assert [one.payload for one in storage.claim("q", 3)] == [b"3"]


def test_an_event_whose_start_cannot_be_recorded_is_claimed_later(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("q", [b"1"], PutOptions())
    with monkeypatch.context() as patch:
        fail_from(patch, "pwrite", 1)
        with pytest.raises(StorageError):
            storage.claim("q")
    assert [one.payload for one in storage.claim("q")] == [b"1"]


def test_a_key_that_cannot_be_freed_at_the_start_does_not_hide_the_claim(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put_key("q", b"1", PutOptions(key="k", unique="waiting"))
    with monkeypatch.context() as patch:
        fail_from(patch, "unlink", 1)
        (claimed,) = storage.claim("q")
    _, fresh = storage.put_key("q", b"2", PutOptions(key="k", unique="waiting"))
    assert fresh  # its event was started, so it does not hold the key any more
    storage.settle(claimed, Completed())


# ---------------------------------------------------------------- events at hand that must wait


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """What tells a feed when to look again: as long as it stands still, a feed takes what it has at hand."""
    timer = FakeClock()
    monkeypatch.setattr(feed, "perf_counter", timer.monotonic)
    return timer


def next_of(storage: FileStorage, times: int) -> list[bytes]:
    """What so many claims of one event each give."""
    return [one.payload for _ in range(times) for one in storage.claim("q")]


def at_hand(storage: FileStorage) -> list[Claimed]:
    """Put three events and claim the first one; the others are at hand then."""
    storage.put("q", [b"1", b"2", b"3"], PutOptions())
    return storage.claim("q")


@pytest.mark.usefixtures("timer")
def test_nothing_at_hand_is_started_in_a_paused_queue(storage: FileStorage) -> None:
    at_hand(storage)
    storage.configure("q", {"paused": True})
    assert next_of(storage, 2) == []
    storage.configure("q", {"paused": False})
    assert next_of(storage, 3) == [b"2", b"3"]


def test_nothing_at_hand_is_started_once_another_worker_has_paused(
    storage: FileStorage, tmp_path: Path, timer: FakeClock
) -> None:
    at_hand(storage)
    with FileStorage(tmp_path / "store", sync=False) as other:
        other.configure("q", {"paused": True})
    timer.advance(LOOK_INTERVAL)
    assert next_of(storage, 2) == []


@pytest.mark.usefixtures("timer")
def test_what_is_at_hand_keeps_to_the_concurrency_of_its_queue(storage: FileStorage) -> None:
    (first,) = at_hand(storage)
    storage.settle(first, Completed())
    storage.configure("q", {"concurrency": 1})
    (second,) = storage.claim("q")
    assert next_of(storage, 2) == []
    storage.put("q", [b"4"], PutOptions())
    storage.settle(second, Completed())
    assert next_of(storage, 2) == [b"3"]
    storage.configure("q", {"concurrency": None})
    assert next_of(storage, 2) == [b"4"]


@pytest.mark.usefixtures("timer")
def test_nothing_at_hand_is_started_beside_a_suspect(tmp_path: Path) -> None:
    clock = FakeClock()
    with FileStorage(tmp_path / "store", sync=False, clock=clock) as storage:
        (first,) = at_hand(storage)
        storage.settle(first, Completed())
        storage.put("q", [b"4"], PutOptions(priority=1))
        for _ in range(SUSPECT_CRASHES):
            victim = FileStorage(tmp_path / "store", sync=False, clock=clock)
            assert next_of(victim, 1) == [b"4"]
            victim.abandon()
            clock.advance(LOOK_INTERVAL)
            storage.recover()
        (suspect,) = storage.claim("q")
        assert (suspect.payload, suspect.crashes) == (b"4", SUSPECT_CRASHES)
        assert next_of(storage, 2) == []
        storage.settle(suspect, Completed())
        assert next_of(storage, 3) == [b"2", b"3"]


def test_giving_back_for_later_lists_nothing_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a retry costs as much as there are events that wait for theirs."""
    clock = FakeClock()
    listed: list[str] = []
    with FileStorage(tmp_path / "store", sync=False, clock=clock) as storage:
        for number in range(50):
            storage.put("q", [b"%d" % number], PutOptions(due=clock.now() + 1))
        clock.advance(2)
        monkeypatch.setattr(feed, "perf_counter", lambda: 0.0)  # what was listed stays fresh
        real = disk.listdir
        monkeypatch.setattr(disk, "listdir", lambda path: (listed.append(path), real(path))[1])
        seen = []
        for _ in range(50):
            (claimed,) = storage.claim("q")
            seen.append(claimed.payload)
            storage.settle(claimed, Released(60))
        assert seen == [b"%d" % number for number in range(50)]
        assert sum("/delayed/" in path for path in listed) < 10
        monkeypatch.undo()
        assert storage.claim("q") == []
        clock.advance(61)
        assert len(storage.claim("q", 100)) == 50
