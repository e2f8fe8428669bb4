"""Recycling: only what eventq wrote, with one name and of bounded size, and never for reading."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventq.errors import OutcomeUnknown, StorageError
from eventq.model import Completed, PutOptions
from eventq.storage.file import FileStorage, disk
from eventq.storage.file.drafts import BLOCK, MAX_FREE, MAX_KEPT, MAX_RECYCLED_BYTES, Drafts, rename_into
from eventq.storage.file.presence import Room, join

if TYPE_CHECKING:
    from collections.abc import Iterator

STEM = "18ea02eba58bb4009f3c51d07ab2e84600002a"


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    for name in ("workers", "free", "ready"):
        (tmp_path / name).mkdir()
    room = join(f"{tmp_path}/workers/", False, 0.0, lambda: False)
    yield room
    disk.close(room.lock_fd)


@pytest.fixture
def drafts(tmp_path: Path, room: Room) -> Drafts:
    return Drafts(str(tmp_path), room, durable=False)


def free(root: Path) -> list[str]:
    return sorted(os.listdir(root / "free"))


def finished(root: Path, name: str, data: bytes = b"old") -> tuple[str, int]:
    path = f"{root}/{name}"
    fd = disk.create(path)
    disk.write_all(fd, data)
    return path, fd


def test_a_finished_file_becomes_the_next_draft(tmp_path: Path, drafts: Drafts) -> None:
    path, fd = finished(tmp_path, "done", b"x" * 9000)
    inode = os.stat(path).st_ino
    drafts.give(path, fd)
    assert len(free(tmp_path)) == 1
    draft = drafts.named(STEM, b"new\n")
    assert disk.fstat(draft.fd).st_ino == inode
    assert Path(draft.path).read_bytes() == b"new\n"
    drafts.drop(draft)


def test_nothing_of_the_old_content_stays(tmp_path: Path, drafts: Drafts) -> None:
    for size in (1, 10, BLOCK - 1, BLOCK, BLOCK + 1, MAX_RECYCLED_BYTES):
        drafts.give(*finished(tmp_path, f"done{size}", b"o" * size))
        drafts._next_look = 0.0
        draft = drafts.named(STEM, b"new\n", 8)
        content = Path(draft.path).read_bytes()
        assert content.rstrip(b" ") == b"new\n", size
        assert len(content) >= 8
        drafts.drop(draft)


@pytest.mark.parametrize("what", ["large", "linked"])
def test_what_is_large_or_has_another_name_is_never_recycled(tmp_path: Path, drafts: Drafts, what: str) -> None:
    path, fd = finished(tmp_path, "done", b"precious" if what == "linked" else b"x" * (MAX_RECYCLED_BYTES + 1))
    if what == "linked":
        os.link(path, tmp_path / "backup")
    drafts.give(path, fd)
    assert free(tmp_path) == []
    assert not os.path.exists(path)
    if what == "linked":
        assert (tmp_path / "backup").read_bytes() == b"precious"


@pytest.mark.parametrize("what", ["large", "linked", "link"])
def test_what_somebody_put_into_free_is_not_written_to(tmp_path: Path, drafts: Drafts, what: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    path = tmp_path / "free" / f"{'0' * 16}1"
    if what == "large":
        path.write_bytes(b"x" * (MAX_RECYCLED_BYTES + 1))
    elif what == "linked":
        os.link(outside, path)
    else:
        path.symlink_to(outside)
    (tmp_path / "corrupt").mkdir()
    draft = drafts.named(STEM, b"new\n")
    assert Path(draft.path).read_bytes() == b"new\n"
    drafts.drop(draft)
    assert outside.read_bytes() == b"precious"
    assert len(os.listdir(tmp_path / "corrupt")) == (what == "link")


def test_links_and_folders_in_free_do_not_stop_putting(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    with FileStorage(tmp_path / "store", sync=False) as storage:
        Path(storage.root, "free", f"{'0' * 16}1").symlink_to(outside)
        Path(storage.root, "free", f"{'0' * 16}2").mkdir()
        ids = [storage.put("q", [b"1"], PutOptions(priority=priority))[0] for priority in range(3)]
        assert len(set(ids)) == 3
        assert storage.stats("q").ready == 3
    assert outside.read_bytes() == b"precious"


def test_free_is_bounded(tmp_path: Path, drafts: Drafts) -> None:
    for number in range(MAX_FREE + 200):
        drafts.give(*finished(tmp_path, f"done{number}"))
    assert len(free(tmp_path)) <= MAX_FREE
    assert [name for name in os.listdir(tmp_path) if name.startswith("done")] == []


def test_few_files_are_kept_open(tmp_path: Path) -> None:
    with FileStorage(tmp_path / "store", sync=False) as storage:
        for number in range(3 * MAX_KEPT):
            storage.put("q", [b"1"], PutOptions(priority=number))
        for claimed in storage.claim("q", 3 * MAX_KEPT):
            storage.settle(claimed, Completed())
        claims = os.listdir(f"{storage.root}/workers/{storage.worker}/claims")
        assert len(claims) <= MAX_KEPT
        assert len(free(Path(storage.root))) == 3 * MAX_KEPT - len(claims)
    assert len(free(Path(storage.root))) == 3 * MAX_KEPT


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_on_a_full_disk_recycled_files_go_first(
    tmp_path: Path, drafts: Drafts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        drafts.give(*finished(tmp_path, f"done{number}"))
    real = disk.pwrite
    monkeypatch.setattr(disk, "pwrite", lambda *args: full() if free(tmp_path) else real(*args))
    draft = drafts.named(STEM, b"new\n")
    assert free(tmp_path) == []
    assert Path(draft.path).read_bytes() == b"new\n"
    drafts.drop(draft)


def test_a_draft_that_finds_no_space_leaves_nothing(
    tmp_path: Path, drafts: Drafts, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts.give(*finished(tmp_path, "done"))
    monkeypatch.setattr(disk, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        drafts.named(STEM, b"new\n")
    assert os.listdir(room.drafts) == []
    assert free(tmp_path) == []


def test_a_failed_sync_is_not_tried_again_on_the_same_file(
    tmp_path: Path, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have dropped the data, and would say yes the second time."""
    drafts = Drafts(str(tmp_path), room, durable=True)
    synced: list[int] = []

    def fail(fd: int) -> None:
        synced.append(disk.fstat(fd).st_ino)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk, "sync", fail)
    with pytest.raises(OSError, match="Input/output"):
        drafts.named(STEM, b"new\n")
    assert len(synced) == len(set(synced)) == 1
    assert os.listdir(room.drafts) == []


def test_a_rename_that_fails_and_a_sync_that_fails_after_it(
    tmp_path: Path, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the rename nothing has happened; after it, nobody knows what a power cut would leave."""
    drafts = Drafts(str(tmp_path), room, durable=True)
    draft = drafts.named(STEM, b"new\n")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        drafts.publish(draft, f"{tmp_path}/file/", STEM)
    assert not isinstance(caught.value, OutcomeUnknown)
    monkeypatch.setattr(disk, "sync_folder", full)
    with pytest.raises(OutcomeUnknown):
        drafts.publish(draft, f"{tmp_path}/ready/", STEM)
    assert os.listdir(tmp_path / "ready") == [STEM]
    disk.close(draft.fd)


def test_a_file_is_not_taken_for_gone_when_its_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is removed whenever it is found empty: between its making and the rename, and while it is made."""
    source = tmp_path / "source"
    source.write_bytes(b"event")
    folder = f"{tmp_path}/blocked/a/"
    real, made = disk.mkdir, []

    def removed_at_once(path: str) -> None:
        real(path)
        if path + "/" == folder and len(made) < 3:
            made.append(path)
            os.rmdir(path)
            if len(made) == 2:
                raise FileNotFoundError(path)

    monkeypatch.setattr(disk, "mkdir", removed_at_once)
    rename_into(str(source), folder, "name", False)
    assert len(made) == 3
    assert Path(folder + "name").read_bytes() == b"event"
    with pytest.raises(FileNotFoundError):
        rename_into(str(source), folder, "other", False)


def test_a_folder_that_vanishes_for_ever_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not FileNotFoundError, which would say that the source is gone and leave it where nobody looks."""
    source = tmp_path / "source"
    source.write_bytes(b"event")
    monkeypatch.setattr(disk, "mkdir", lambda _path: None)
    with pytest.raises(OSError, match="as fast as it is made") as error:
        rename_into(str(source), f"{tmp_path}/blocked/", "name", False)
    assert not isinstance(error.value, FileNotFoundError)
    assert source.exists()
