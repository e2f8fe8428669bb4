"""The files of names, which one at a time replaces, and of slots: these stay a little longer than the lock, and never
longer than their process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventq import StorageError
from eventq.storage.file import FileStorage, disk, names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FileStorage]:
    with FileStorage(tmp_path / "store", sync=False) as storage:
        yield storage


def name_file(storage: FileStorage) -> str:
    (name,) = disk.listdir(storage.root + "/names")
    return f"{storage.root}/names/{name}"


def test_a_replaced_name_leaves_no_draft(storage: FileStorage) -> None:
    held = storage.take_name("n", b"1")[0]
    assert not storage.replace_name(msgspec.structs.replace(held, at=held.at + 1), b"3")
    assert storage.replace_name(held, b"2")
    assert disk.listdir(f"{storage.root}/workers/{storage.worker}/drafts") == []


def lock_and_stop(root: str, told: Any) -> None:
    """Be stopped while replacing a name."""

    rename = disk.rename

    def stopped(source: str, target: str) -> None:
        if "/names/" in target:
            told.set()
            os.kill(os.getpid(), signal.SIGSTOP)
        rename(source, target)

    with FileStorage(root) as storage:
        held = storage.get_names(["n"])["n"]
        disk.rename = stopped
        storage.replace_name(held, b"2")


def test_the_lock_of_a_process_that_is_killed_while_replacing_a_name_is_free(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then others are told of it, and lose nothing."""
    held = storage.take_name("n", b"1")[0]
    spawning = multiprocessing.get_context("spawn")
    told = spawning.Event()
    victim = spawning.Process(target=lock_and_stop, args=(storage.root, told))
    victim.start()
    assert victim.pid is not None
    try:
        assert told.wait(60)
        monkeypatch.setattr(names, "PATIENCE", 0.05)
        for act in (lambda: storage.replace_name(held, b"3"), lambda: storage.release_name("n")):
            with pytest.raises(StorageError, match="is locked by a process that does not go on"):
                act()
        assert storage.names() == [held]
        monkeypatch.undo()
        waits = threading.Thread(target=storage.replace_name, args=(held, b"3"))
        waits.start()
        os.kill(victim.pid, signal.SIGKILL)
        waits.join(60)
        assert [each.data for each in storage.names()] == [msgspec.Raw(b"3")]
    finally:
        os.kill(victim.pid, signal.SIGKILL)
        victim.join(60)


def test_a_child_that_was_forked_while_a_name_was_locked_does_not_hold_it(storage: FileStorage) -> None:
    held = storage.take_name("n", b"1")[0]
    reader, writer = os.pipe()
    with storage._names._locked(name_file(storage)) as fd:
        assert fd is not None
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)
    try:
        assert storage.replace_name(held, b"2")
    finally:
        os.close(writer)
        assert os.waitpid(child, 0)[1] == 0


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
