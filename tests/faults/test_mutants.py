"""The control of the proofs: without any one of its `fsync`s or locks the file storage fails a test of this folder.

Each call that is not missed has its reason here, so that a new one needs a test or a reason.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventq.errors import EventqError
from eventq.storage.file.rates import Share, rate_key
from faults import test_interleavings as races
from faults import test_interleavings_names as name_races
from faults import test_interleavings_rates as rate_races
from faults.disk import FaultyDisk
from faults.mutants import LOCKS, SYNCS, Mutant, sites
from faults.test_power_cuts import (
    Operation,
    append,
    complete,
    cut_everywhere,
    give_back,
    move,
    put,
    put_debounced,
    put_key,
    put_many,
    replace_name,
    take_name,
)
from faults.world import Worlds, fast_folder, still_maintenance

CAUGHT_BY_POWER_CUTS: dict[str, tuple[Operation, ...]] = {
    "drafts._fill:sync": (put,),
    "drafts.make_folder:sync_folder": (put,),
    "drafts.sync_name:sync_folder": (put,),
    "format._make:sync": (put,),
    "format._make:sync_folder": (put,),
    "held.move:sync_folder": (put_many, move),
    "keys.displace_key:sync_folder": (put_debounced, put_debounced),
    "keys.take_key:sync_folder": (put_key,),
    "names.replace:sync_folder": (take_name, replace_name),
    "names.take:sync_folder": (take_name,),
    "presence._make_room:sync_folder 2": (put_many, give_back, complete),
    "presence._make_room:sync_folder 3": (put_many, give_back, complete),
    "producer.sync:sync": (put, append, append),
}
"""Without this `fsync`, a power cut during these operations loses what was promised."""

NOT_MISSED = {
    "adopt.adopt:sync_folder": "orders two changes of names; both kinds of file systems played here keep their order",
    "drafts.make_ballast:sync": "the ballast holds nothing",
    "drafts.sync_name:sync": "only where a bucket was removed between the rename and its sync: claimed by then",
    "drafts.sync_name:sync_folder 2": "likewise",
    "edits._rename:sync_folder": "a requeued event is there before and after; only where it stands may go back",
    "edits._revive:sync": "likewise: without its record it counts its old failures",
    "held._sync_quietly:sync_folder": "a settle is not promised against power cuts; this makes it likelier to stand",
    "keyed._take:sync_folder": "orders two changes of names; both kinds of file systems played here keep their order",
    "presence._make_room:sync_folder": "the folders are empty",
}
"""Why nothing that was promised is lost without this `fsync`."""


def raced(name: str, *args: object) -> Callable[[Worlds], None]:
    """A test of `test_interleavings`, by its name and arguments."""

    def run(make_world: Worlds) -> None:
        getattr(races, name)(make_world, *args)

    return run


def two_hold_one_slot(make_world: Worlds) -> None:
    world = make_world()
    assert world.a.take_slot("slot") is not None
    assert world.b.take_slot("slot") is None


def the_living_are_buried(make_world: Worlds) -> None:
    world = make_world()
    world.put("a")
    claimed = world.claim()[0]
    assert world.b.worker
    world.look(world.b)
    assert world.claim(worker=world.b) == []
    world.settle(claimed)


def a_stopped_producers_file_is_read(make_world: Worlds) -> None:
    """It is set aside at the first try and at each later one; it is free only when its lock is."""
    world = make_world()
    world.put("a", worker=world.b)
    assert world.a.worker
    (path,) = (world.root / "queues/q/ready/0").iterdir()
    fd = world.disk.pass_on("open_file", (str(path),))
    assert world.disk.real["try_lock"](fd)
    assert world.claim() == []
    world.look()
    assert world.claim() == []


def an_edit_waits_for_no_lock(make_world: Worlds) -> None:
    races.test_a_locked_file_is_no_error_and_comes_later(make_world())


def two_requeues_at_once(make_world: Worlds) -> None:
    """The record of one and the rename of the other exclude each other by the file's lock."""
    world = make_world()
    world.put("a")
    world.settle(world.claim()[0], races.Rejected())
    (path,) = (world.root / "queues/q/dead").rglob("*.00000")
    fd = world.disk.pass_on("open_file", (str(path),))
    assert world.disk.real["try_lock"](fd)
    assert world.a.edit("q", [world.ledger.ids["a"]], races.Requeue()) == ["too late"]


def a_stopped_process_has_a_log(make_world: Worlds) -> None:
    """Whoever brings back who waits for a rate must see what whoever starts them sees, or they would go round."""
    world = make_world()
    world.put("a", rates={"r": (2, 5.0)})
    world.claim()
    fd = world.disk.pass_on("open_file", (f"{world.root}/rates/{rate_key('r')}",))
    assert world.disk.real["try_lock"](fd)
    assert world.a.places._rates.room(rate_key("r"), Share(2, 5.0))[0] == 0


CAUGHT_BY_RACES: dict[str, Callable[[Worlds], None]] = {
    "edits._revive:lock_soon": two_requeues_at_once,
    "edits._take:lock_soon": an_edit_waits_for_no_lock,
    "feed._read:lock_soon": a_stopped_producers_file_is_read,
    "feed._read:try_lock": a_stopped_producers_file_is_read,
    "held._record_leased:lock_soon": raced("test_a_late_settle_overwrites_nothing"),
    "keys._change:lock_soon": raced("test_keyed_puts_race_and_one_wins", "its period is over"),
    "names._locked:lock_soon": lambda make: name_races.test_two_replace_a_name_at_once_and_one_wins(make, "replace"),
    "names._take:try_hold": two_hold_one_slot,
    "presence._make_room:try_hold": the_living_are_buried,
    "presence.take_dead_room:try_hold": the_living_are_buried,
    "rates._judge:try_lock": lambda make_world: rate_races.prune_during_a_start(make_world, "claim"),
    "rates._lock:lock_soon": rate_races.test_two_start_at_once_and_one_waits,
    "rates.room:lock_soon": a_stopped_process_has_a_log,
    "producer._append:try_lock": raced("test_a_claimer_comes_at_any_point_of_an_append", races.claim_and_settle, True),
}
"""Without this lock, this race is lost."""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    still_maintenance(monkeypatch)
    folder = Path(tempfile.mkdtemp(prefix="eventq-mutants-", dir=fast_folder()))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_every_fsync_and_every_lock_is_in_a_table() -> None:
    found = sites()
    syncs = {name for name, site in found.items() if site.call in SYNCS}
    locks = {name for name, site in found.items() if site.call in LOCKS}
    assert syncs == CAUGHT_BY_POWER_CUTS.keys() | NOT_MISSED.keys()
    assert locks == CAUGHT_BY_RACES.keys()


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CAUGHT_BY_POWER_CUTS)
def test_no_fsync_can_go(folder: Path, name: str) -> None:
    sequence = CAUGHT_BY_POWER_CUTS[name]
    cut_everywhere(folder, sequence, limit=3)
    mutant = Mutant(name)
    with pytest.raises((AssertionError, EventqError)):
        cut_everywhere(folder, sequence, limit=3, change=mutant.install)
    assert mutant.spared[name]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CAUGHT_BY_RACES)
def test_no_lock_can_go(folder: Path, name: str) -> None:
    mutant = Mutant(name)

    def run(within: Path, change: Callable[[pytest.MonkeyPatch], None] = lambda _: None) -> None:
        disk = FaultyDisk()
        make = Worlds(within, disk)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("eventq.storage.file.disk.LOCK_TRIES", 1)
            patch.setattr("eventq.storage.file.keys.REPLACE_TRIES", 2)
            patch.setattr("eventq.storage.file.names.PATIENCE", 0.0)
            disk.install(patch)
            change(patch)
            try:
                CAUGHT_BY_RACES[name](make)
            finally:
                disk.disarm()
                make.kill_all()

    run(folder / "whole")
    with pytest.raises((AssertionError, EventqError, pytest.fail.Exception)):
        run(folder / "mutant", mutant.install)
    assert mutant.spared[name]
