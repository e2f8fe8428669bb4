"""What the tests of this folder share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.disk import FaultyDisk
from faults.world import Worlds, fast_folder, still_maintenance

SOME = pytest.param(9, id="some points")
ALL = pytest.param(1, id="all points", marks=pytest.mark.exhaustive)


@pytest.fixture(params=[SOME, ALL])
def make_world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worlds]:
    """Makes stores under a disk whose every call can be interrupted; the quick tests interrupt every ninth."""
    still_maintenance(monkeypatch)
    monkeypatch.setattr("eventq.storage.file.disk.LOCK_TRIES", 1)  # the holder of a lock does not move meanwhile
    monkeypatch.setattr("eventq.storage.file.keys.REPLACE_TRIES", 2)
    monkeypatch.setattr("eventq.storage.file.names.PATIENCE", 0.0)
    disk = FaultyDisk()
    disk.install(monkeypatch)
    folder = Path(tempfile.mkdtemp(prefix="eventq-races-", dir=fast_folder()))
    worlds = Worlds(folder, disk, request.param)
    yield worlds
    worlds.kill_all()
    shutil.rmtree(folder, ignore_errors=True)
    assert not disk.closed_twice, "a descriptor was closed twice"
