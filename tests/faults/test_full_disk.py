"""A disk that is full, and one that is read-only: puts fail cleanly, and everything can be drained, by old workers and
by new ones. On small file systems of their own where root can mount them; every call's ENOSPC is in `test_every_call`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from eventq.errors import StorageError
from eventq.model import Completed, Filter, PutOptions, State
from eventq.storage.file import FileStorage
from eventq.testing import FakeClock
from faults.check import check_fsck, check_litter, drain

PADDING = "x" * 1500
LOOKS = 200


def mounted(kind: str, folder: Path) -> Path:
    """Mount a file system of 2 MiB (ext4: 4) at a new folder."""
    place = folder / kind
    place.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    else:
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate(4 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"cannot mount a {kind} here")
    return place


@pytest.fixture(params=["tmpfs", pytest.param("ext4", marks=pytest.mark.exhaustive)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux, to mount a small file system")
    if request.param == "ext4" and shutil.which("mkfs.ext4") is None:
        pytest.skip("needs mkfs.ext4")
    place = mounted(request.param, tmp_path)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # also if a failed test has files open there


def fill(store: FileStorage, clock: FakeClock, size: int) -> list[str]:
    """Put until the disk is full; what was acknowledged."""
    stored: list[str] = []
    for number in range(10_000):
        payload = f"{size}-{number}-{PADDING[:size]}"
        clock.advance(1.0)  # each in a file of its own
        try:
            store.put("q", [msgspec.json.encode(payload)], PutOptions())
        except StorageError:
            return stored
        stored.append(payload)
    raise AssertionError("the disk is never full")


def stuff(folder: Path) -> None:
    """Take the last bytes, as anybody else on this disk may."""
    for size in (1 << 16, 1 << 12, 1 << 8, 1):
        try:
            with (folder / "stuff").open("ab", buffering=0) as file:
                while file.write(b"x" * size):
                    continue
        except OSError:
            continue


@pytest.mark.parametrize("sync", [True, False])
def test_a_full_disk_is_drained_by_its_worker_and_by_a_new_one(place: Path, sync: bool) -> None:
    clock = FakeClock()
    root = place / "store"
    old = FileStorage(root, sync=sync, clock=clock)
    stored = fill(old, clock, 1500) + fill(old, clock, 0)
    stuff(place)
    kept = []
    for _ in range(len(stored) // 3):
        (claimed,) = old.claim("q")
        old.settle(claimed, Completed())
        kept.append(msgspec.json.decode(claimed.payload))
    stuff(place)  # what became free is gone again
    new = FileStorage(root, clock=clock)
    delivered, _ = drain(new, clock)
    assert sorted(kept + delivered) == sorted(stored)
    old.put("q", [b'"after"'], PutOptions())
    assert drain(new, clock)[0] == ["after"]
    new.close()
    old.close()
    check_litter(root)
    check_fsck(root)


def test_a_dead_worker_is_buried_on_a_full_disk(place: Path) -> None:
    clock = FakeClock()
    root = place / "store"
    heir, victim = FileStorage(root, clock=clock), FileStorage(root, clock=clock)
    assert heir.worker
    stored = fill(victim, clock, 1500)
    started = {msgspec.json.decode(claimed.payload) for claimed in victim.claim("q", 20)}
    stuff(place)
    victim.abandon()
    clock.advance(0.25)
    heir.recover()
    delivered, _ = drain(heir, clock)
    assert started <= set(delivered)
    assert sorted(delivered) == sorted(stored)
    heir.close()
    check_litter(root)


def test_values_that_find_no_space_are_kept_until_there_is_some(place: Path) -> None:
    """A settle succeeds on a full disk; its value waits in memory for space."""
    clock = FakeClock()
    store = FileStorage(place / "store", clock=clock)
    store.put("q", [b'"a"', b'"b"'], PutOptions())
    claimed = store.claim("q", 2)
    (place / "reserve").write_bytes(bytes(1 << 16))
    fill(store, clock, 1500)
    stuff(place)
    value = msgspec.json.encode("y" * 8000)
    for one in claimed:
        store.settle(one, Completed(value))
    (place / "reserve").unlink()
    for _ in range(LOOKS):  # the first may be under way in the maintenance thread
        clock.advance(0.25)
        store.recover()
        if store.stats("q").completed == 2:
            break
    values = [record.value for record in store.scan("q", State.COMPLETED, Filter()).records]
    assert values == [value, value]
    store.close()


def test_a_read_only_store_can_be_read(place: Path) -> None:
    root = place / "store"
    with FileStorage(root) as store:
        (id,) = store.put("q", [b'"a"'], PutOptions())
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    try:
        store = FileStorage(root)
        assert store.stats("q").ready == 1
        assert store.queues() == ["q"]
        record = store.get(id)
        assert record is not None
        assert record.state is State.READY
        for change in (
            lambda: store.put("q", [b"1"], PutOptions()),
            lambda: store.put_key("q", b"1", PutOptions(key="k")),
            lambda: store.claim("q"),
            lambda: store.configure("q", {"max_attempts": 1}),
        ):
            with pytest.raises(StorageError):
                change()
        store.close()
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
    clock = FakeClock()
    with FileStorage(root, clock=clock) as store:
        assert drain(store, clock)[0] == ["a"]
    check_litter(root)
