"""Claiming when the disk fails in the middle."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from eventq.errors import StorageError
from eventq.model import Completed, PutOptions
from eventq.storage.file import FileStorage, disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
