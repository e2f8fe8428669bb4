"""An event that has just ended: its record says so, and its file is on its way to where it stays."""

from __future__ import annotations

import threading

import pytest

from eventq.model import Completed, Delete, Edit, Failure, Outcome, Rejected, Requeue, State
from eventq.storage.file import disk, edits
from faults.world import NOWHERE, World, Worlds


@pytest.fixture
def world(make_world: Worlds) -> World:
    return make_world()


@pytest.mark.parametrize(
    ("outcome", "state", "edit"),
    [
        (Completed(b"1"), State.COMPLETED, Delete()),
        (Rejected(Failure("E")), State.DEAD, Delete()),
        (Rejected(Failure("E")), State.DEAD, Requeue()),
    ],
)
def test_who_has_seen_an_end_can_remove_it_or_put_it_back_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, state: State, edit: Edit
) -> None:
    """It was told that this is too late."""
    world.put("a", worker=world.a)
    (claimed,) = world.claim(worker=world.b)
    rename, on_its_way, go_on = disk.rename, threading.Event(), threading.Event()

    def stopping(source: str, target: str) -> None:
        if threading.current_thread() is settling and f"/{state}" in target:
            on_its_way.set()
            assert go_on.wait(60)
        rename(source, target)

    def pause(_seconds: float) -> None:
        go_on.set()
        settling.join(60)

    settling = threading.Thread(target=world.settle, args=(claimed, outcome), kwargs={"worker": world.b})
    monkeypatch.setattr(disk, "rename", stopping)
    monkeypatch.setattr(edits, "sleep", pause)
    settling.start()
    assert on_its_way.wait(60)
    seen = world.a.get(claimed.id)
    assert seen is not None
    assert seen.state is state
    (word,) = world.a.edit("q", [claimed.id], edit)
    found = world.a.get(claimed.id)
    if isinstance(edit, Delete):
        assert (word, found) == ("deleted", None)
        world.allow("a", NOWHERE)
    else:
        assert word == claimed.id
        assert found is not None
        assert found.state in (State.READY, State.DELAYED)


def test_one_of_a_file_whose_others_still_run_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("a", "b", worker=world.a)
    first, second = world.claim(2, worker=world.b)
    world.settle(first, Completed(b"1"), worker=world.b)

    def never(_seconds: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(edits, "sleep", never)
    assert world.a.edit("q", [first.id], Delete()) == ["too late"]
    world.settle(second, worker=world.b)
