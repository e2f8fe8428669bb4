"""Rooms: in which order they are made and removed, and what proves a death."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from eventq.errors import StorageError
from eventq.model import PutOptions, Worker
from eventq.storage.file import FileStorage, disk, fsck, presence
from eventq.storage.file.presence import INNER, Room, join, remove_room, take_dead_room

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def workers(tmp_path: Path) -> str:
    (tmp_path / "workers").mkdir()
    return f"{tmp_path}/workers/"


def enter(workers: str, durable: bool = False) -> Room:
    return join(workers, durable, 1.0, lambda: False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every call that changes a folder, in order, with the last part of its path."""
    made: list[tuple[str, str]] = []

    def recorded(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            made.append((name, os.path.basename(args[0]) if isinstance(args[0], str) else ""))
            return real(*args)

        return call

    for name in ("mkdir", "create", "rename", "rmdir", "unlink", "try_hold", "sync_folder"):
        monkeypatch.setattr(disk, name, recorded(name, getattr(disk, name)))
    return made


def test_a_room_is_visible_only_when_its_lock_is_held(workers: str, calls: list[tuple[str, str]]) -> None:
    room = enter(workers)
    hidden = f".{room.worker}"
    assert calls == [
        ("mkdir", hidden), ("create", "lock"), ("try_hold", ""), *(("mkdir", name) for name in INNER),
        ("create", "info.json"), ("rename", hidden),
    ]  # fmt: skip
    assert take_dead_room(room.path) is None
    room.leave()


def test_a_room_is_gone_before_its_lock_is_given_up(workers: str, calls: list[tuple[str, str]]) -> None:
    room = enter(workers)
    calls.clear()
    room.leave()
    order = [name for _, name in calls]
    assert order[:3] == list(INNER)
    assert order[-2:] == ["lock", room.worker]
    assert os.listdir(workers) == []


def test_what_is_left_in_a_room_keeps_it(workers: str) -> None:
    room = enter(workers)
    Path(room.claims, "q~0~something").touch()
    room.leave()
    assert os.path.exists(room.path + "/lock")
    fd = take_dead_room(room.path)
    assert fd is not None
    os.unlink(room.claims + "q~0~something")
    assert remove_room(room.path)
    disk.close(fd)
    assert os.listdir(workers) == []


def test_a_durable_room_is_synced_before_it_is_used(workers: str, calls: list[tuple[str, str]]) -> None:
    room = enter(workers, durable=True)
    synced = [number for number, (name, _) in enumerate(calls) if name == "sync_folder"]
    (renamed,) = [number for number, (name, _) in enumerate(calls) if name == "rename"]
    assert [calls[number][1] for number in synced if number < renamed] == ["claims", "drafts", f".{room.worker}"]
    assert len(synced) == 4
    assert synced[-1] > renamed
    room.leave()


def test_a_dead_room_has_one_taker(workers: str) -> None:
    room = enter(workers)
    disk.close(room.lock_fd)
    first = take_dead_room(room.path)
    assert first is not None
    assert take_dead_room(room.path) is None
    disk.close(first)


def test_a_late_taker_brings_nothing_back(workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its open and its lock the room was removed: the lock that it gets is of a file without a name."""
    room = enter(workers)
    disk.close(room.lock_fd)
    real = disk.try_hold

    def removed_just_before(fd: int) -> bool:
        monkeypatch.setattr(disk, "try_hold", real)
        assert remove_room(room.path)
        return real(fd)

    monkeypatch.setattr(disk, "try_hold", removed_just_before)
    assert take_dead_room(room.path) is None
    assert os.listdir(workers) == []


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.EACCES])
def test_an_error_is_no_proof_of_death(workers: str, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    room = enter(workers)
    disk.close(room.lock_fd)

    def fail(path: str) -> int:
        raise OSError(code, os.strerror(code), path)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "open_file", fail)
        assert take_dead_room(room.path) is None
    assert os.path.exists(room.path + "/lock")
    fd = take_dead_room(room.path)
    assert fd is not None
    disk.close(fd)


@pytest.mark.parametrize("steps", range(7))
def test_a_room_that_was_half_made_is_removed(workers: str, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Its maker died after so many calls."""

    class Died(BaseException):
        pass

    left = [steps]

    def count(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            if not left[0]:
                raise Died
            left[0] -= 1
            return real(*args)

        return call

    with monkeypatch.context() as patch:
        for name in ("mkdir", "create", "rename"):
            patch.setattr(disk, name, count(getattr(disk, name)))
        patch.setattr(presence, "remove_room", lambda room: False)  # the dead do not tidy up
        with pytest.raises(Died):
            enter(workers)
    for name in os.listdir(workers):
        fd = take_dead_room(workers + name)
        if fd is not None:
            assert remove_room(workers + name)
            disk.close(fd)
    assert os.listdir(workers) == []


def test_a_room_made_while_it_is_taken_for_litter_is_whole(workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cleaner found the folder before it had its `lock`; by the time it cleans, the maker has made the rest."""
    real = disk.create
    opened: list[str] = []

    def seen_by_a_cleaner(path: str) -> int:
        if not path.endswith("/lock"):
            return real(path)
        made: list[int] = []

        def open_file(path: str) -> int:
            opened.append(path)
            made.append(real(path))
            for name in INNER:
                disk.mkdir(f"{os.path.dirname(path)}/{name}")
            raise FileNotFoundError(path)

        with monkeypatch.context() as patch:
            patch.setattr(disk, "open_file", open_file)
            assert take_dead_room(os.path.dirname(path)) is None
        assert sorted(os.listdir(os.path.dirname(path))) == sorted([*INNER, "lock"])
        for name in INNER:
            disk.rmdir(f"{os.path.dirname(path)}/{name}")  # for the maker to make again
        return made[0]

    monkeypatch.setattr(disk, "create", seen_by_a_cleaner)
    room = enter(workers)
    assert opened
    assert set(INNER) <= set(os.listdir(room.path))
    room.leave()
    assert os.listdir(workers) == []


def test_who_finds_its_own_room_gone_makes_another(workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cleaner took the half-made room for litter, since its lock was not held yet."""
    real = disk.create
    removed: list[str] = []

    def create(path: str) -> int:
        if not removed:
            removed.append(path)
            os.rmdir(os.path.dirname(path))
        return real(path)

    monkeypatch.setattr(disk, "create", create)
    room = enter(workers)
    assert os.listdir(workers) == [room.worker]
    room.leave()


def test_on_a_full_disk_space_is_made_and_else_it_says_why(workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = disk.mkdir
    asked: list[int] = []

    def full(path: str) -> None:
        if not asked:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    monkeypatch.setattr(disk, "mkdir", full)
    with pytest.raises(StorageError, match="No space"):
        enter(workers)
    room = join(workers, False, 1.0, lambda: not asked.append(1))
    assert os.listdir(workers) == [room.worker]
    room.leave()


# ---------------------------------------------------------------- introductions


def test_a_forked_child_introduces_itself_as_its_parent_did(tmp_path: Path) -> None:
    with FileStorage(tmp_path / "store", sync=False) as storage:
        storage.introduce(["q"], ["t"])
        mine, reader, writer = storage.worker, *os.pipe()
        child = os.fork()
        if not child:
            try:
                storage.put("q", [b"1"], PutOptions())
                found = [worker for worker in storage.workers() if worker.id == storage.worker]
                os.write(writer, msgspec.json.encode(found))
                storage.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            (told,) = msgspec.json.decode(pipe.read(), type=list[Worker])
        assert told.id != mine
        assert (told.pid, told.serves, told.tasks) == (child, ("q",), ("t",))
        assert [worker.id for worker in storage.workers()] == [mine]


def test_an_introduction_replaces_the_file_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a longer recycled file; and one that fails leaves what was said before, and no draft."""
    with FileStorage(tmp_path / "store", sync=False) as storage:
        storage.introduce(["q" * 50] * 9, [])
        storage.introduce(["q"], ["t"])
        assert fsck.check(storage.root) == []

        def fail(source: str, target: str) -> None:
            raise OSError(errno.EIO, "no", target)

        with monkeypatch.context() as patch:
            patch.setattr(disk, "rename", fail)
            with pytest.raises(StorageError):
                storage.introduce(["other"], [])
        (worker,) = storage.workers()
        assert (worker.serves, worker.tasks, worker.pid) == (("q",), ("t",), os.getpid())
        assert disk.listdir(f"{storage.root}/workers/{worker.id}/drafts") == []


def test_a_room_whose_info_cannot_be_read_is_a_workers_all_the_same(tmp_path: Path) -> None:
    with FileStorage(tmp_path / "store", sync=False) as storage:
        Path(storage.root, "workers", storage.worker, "info.json").write_text("{")
        (worker,) = storage.workers()
        assert (worker.id, worker.pid, worker.serves) == (storage.worker, 0, ())
        storage.introduce(["q"], [])
        assert storage.workers()[0].pid == os.getpid()


def test_a_look_that_a_close_overtakes_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that stopped in order warned now and then that its store was closed."""
    storage = FileStorage(tmp_path / "store", sync=False)
    storage.put("q", [b"1"], PutOptions())
    assert storage.claim("q")  # from now on it looks
    recover = storage.recover

    def closed_meanwhile() -> float:
        storage.close()
        return recover()

    monkeypatch.setattr(storage, "recover", closed_meanwhile)
    with caplog.at_level(logging.WARNING):
        assert storage.maintain() == (False, False)
    assert not caplog.records
