"""Whoever dies while it restores: each event is there wholly or not at all, and a second try brings the rest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventq.model import Copy, PutOptions, State
from eventq.storage.file import FileStorage
from faults.disk import Died, FaultyDisk
from faults.scenarios_restoring import copies
from faults.world import World, fast_folder, forget_frames, still_maintenance


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    still_maintenance(monkeypatch)
    disk = FaultyDisk()
    disk.install(monkeypatch)
    return disk


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="eventq-restoring-", dir=fast_folder()))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def is_whole(store: FileStorage, copy: Copy) -> bool:
    """Whether an event is there; then all that is its own has to be."""
    record, wanted = store.get(copy.record.id), copy.record
    if record is None:
        return False
    assert (record.state, record.payload, record.value) == (wanted.state, wanted.payload, wanted.value)
    assert (record.attempts, record.failures, record.settled) == (wanted.attempts, wanted.failures, wanted.settled)
    assert tuple(store.notes(wanted.id)) == copy.notes
    if wanted.key is not None:
        assert store.put_key("q", b'"another"', PutOptions(key=wanted.key, unique=wanted.unique)) == (wanted.id, False)
    return True


def dies_and_is_repeated(world: World, at: int) -> bool:
    """Die in a call of a restore, look at what is there, and restore again; whether there was such a call."""
    made = copies(world.clock)
    world.a.configure("q", {})
    world.note_producers()
    world.disk.arm_death(at)
    try:
        world.a.restore(made)
    except Died as death:
        forget_frames(death)
    finally:
        world.disk.disarm()
    struck = world.disk.struck
    world.kill_all()
    heir = world.open()
    world.look(heir)
    here = [copy for copy in made if is_whole(heir, copy)]
    assert heir.restore(made) == len(made) - len(here)
    assert all(is_whole(heir, copy) for copy in made)
    assert heir.restore(made) == 0
    assert (heir.stats("q").ready, heir.stats("q").delayed) == (4, 1)
    assert [copy.record.state for copy in made].count(State.COMPLETED) == heir.stats("q").completed
    world.kill_all()
    shutil.rmtree(world.root)
    return struck is not None


@pytest.mark.parametrize(
    "stride", [pytest.param(9, id="some"), pytest.param(1, id="all", marks=pytest.mark.exhaustive)]
)
def test_a_restore_that_died_in_any_call_is_repeated(faulty: FaultyDisk, folder: Path, stride: int) -> None:
    at = 1
    while dies_and_is_repeated(World(folder / str(at), faulty), at):
        at += stride
    assert at > 80, "each of the calls was one to die in"
