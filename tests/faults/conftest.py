"""What the tests of this folder share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.disk import FaultyDisk
from faults.world import World, fast_folder, still_maintenance


@pytest.fixture
def make_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    """Makes stores under a disk whose every call can be interrupted."""
    still_maintenance(monkeypatch)
    monkeypatch.setattr("eventq.storage.file.disk.LOCK_TRIES", 1)  # the holder of a lock does not move meanwhile
    monkeypatch.setattr("eventq.storage.file.keys.REPLACE_TRIES", 2)
    disk = FaultyDisk()
    disk.install(monkeypatch)
    folder = Path(tempfile.mkdtemp(prefix="eventq-races-", dir=fast_folder()))
    worlds: list[World] = []

    def make(sync: bool = True) -> World:
        worlds.append(World(folder / str(len(worlds)), disk, sync))
        return worlds[-1]

    yield make
    for world in worlds:
        world.kill_all()
    shutil.rmtree(folder, ignore_errors=True)
    assert not disk.closed_twice, "a descriptor was closed twice"
