"""The files of slots: they stay a little longer than the lock, and never longer than their process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventq.storage.file import FileStorage, disk, names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FileStorage]:
    with FileStorage(tmp_path / "store", sync=False) as storage:
        yield storage


def files(storage: FileStorage) -> set[str]:
    return set(disk.listdir(storage.root + "/slots"))


def test_a_slot_that_is_taken_again_makes_no_file(storage: FileStorage) -> None:
    for _ in range(3):
        slot = storage.take_slot("s")
        assert slot is not None
        seen = disk.stat(slot.path).st_ino
        slot.release()
        assert disk.stat(slot.path).st_ino == seen


def test_free_slots_leave_few_files(storage: FileStorage) -> None:
    for number in range(names.MAX_IDLE + 10):
        slot = storage.take_slot(f"s{number}")
        assert slot is not None
        slot.release()
    assert len(files(storage)) == names.MAX_IDLE


def test_the_file_of_a_free_slot_goes_after_a_while(storage: FileStorage) -> None:
    for name in ("a", "b"):
        slot = storage.take_slot(name)
        assert slot is not None
        slot.release()
    storage._slots.tidy()
    assert len(files(storage)) == 2
    storage._slots.tidy(0.0)
    assert files(storage) == set()


def test_the_file_of_a_slot_that_another_worker_has_taken_stays(storage: FileStorage) -> None:
    slot = storage.take_slot("s")
    assert slot is not None
    slot.release()
    with FileStorage(storage.root) as other:
        taken = other.take_slot("s")
        assert taken is not None
        storage._slots.tidy(0.0)
        assert storage.take_slot("s") is None
        storage.close()
        assert len(files(other)) == 1


def test_a_worker_that_leaves_leaves_no_files_of_slots(tmp_path: Path) -> None:
    with FileStorage(tmp_path / "store", sync=False) as storage:
        held, left = storage.take_slot("held"), storage.take_slot("left")
        assert held is not None
        assert left is not None
        left.release()
        assert len(files(storage)) == 2
    assert files(storage) == set()
