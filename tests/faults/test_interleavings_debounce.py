"""Debounced puts in each other's way: of all that succeed one is not cancelled, and it holds the key."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from typing import Any

import pytest

from eventq.errors import StorageError
from eventq.model import Cancel, State
from faults.check import check
from faults.test_interleavings import claim_all, close, everywhere
from faults.world import World, Worlds

Parties = tuple[Callable[[], object], Callable[[], object]]
WAITING = (State.READY, State.DELAYED)
PATIENCE = 30.0


def put(world: World, payload: str, *, by_b: bool = False) -> None:
    """A put that another one, which stands still with the marker locked, may stop."""
    try:
        world.put_debounced(payload, "key", worker=world.b if by_b else world.a)
    except StorageError as error:
        assert "put again" in str(error)


def one_survives(world: World) -> None:
    """The others are cancelled, and a put of the key is answered with that one."""
    states = {id: record.state for id in world.ledger.ids.values() if (record := world.a.get(id)) is not None}
    waiting = [id for id, state in states.items() if state in WAITING]
    assert len(waiting) == 1, states
    assert set(states.values()) <= {State.CANCELLED, states[waiting[0]]}
    assert world.put_key("probe", "key", worker=world.b) == (waiting[0], False)
    del world.ledger.keys["key"]


def survives(make_world: Worlds, scene: Callable[[World], Parties]) -> None:
    def run(world: World) -> Parties:
        assert world.a.worker
        assert world.b.worker
        return scene(world)

    everywhere(make_world, run, after=one_survives)


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "third"])
@pytest.mark.parametrize("times", [1, 2])
def test_debounced_puts_come_at_any_point_of_another(make_world: Worlds, earlier: bool, times: int) -> None:
    def scene(world: World) -> Parties:
        if earlier:
            put(world, "old", by_b=True)

        def other() -> None:
            for number in range(times):
                put(world, f"b{number}", by_b=True)

        return lambda: put(world, "a"), other

    survives(make_world, scene)


def test_the_displaced_one_is_started_at_any_point_of_a_put(make_world: Worlds) -> None:
    """It is left alone, or it was cancelled before: it never runs and is cancelled as well."""

    def scene(world: World) -> Parties:
        world.put_debounced("old", "key", worker=world.b, seconds=0.1)
        world.clock.advance(1.0)
        assert world.a.worker

        def other() -> None:
            claim_all(world, world.b)

        return lambda: put(world, "a"), other

    everywhere(make_world, scene)


def test_the_displaced_one_is_cancelled_at_any_point_of_a_put(make_world: Worlds) -> None:
    def scene(world: World) -> Parties:
        put(world, "old", by_b=True)
        return lambda: put(world, "a"), lambda: world.b.edit("q", [world.ledger.ids["old"]], Cancel("by hand"))

    survives(make_world, scene)


def test_a_plain_put_comes_at_any_point_of_a_debounced_one(make_world: Worlds) -> None:
    """One of the two has the key: the plain one stores nothing, or the debounced one finds it and stores nothing."""
    answers: dict[str, tuple[str, bool]] = {}

    def scene(world: World) -> Parties:
        answers.clear()
        assert world.a.worker
        assert world.b.worker

        def debounced() -> None:
            answers["a"] = world.put_key("a", "key", debounce=5.0)

        def plain() -> None:
            answers["b"] = world.put_key("b", "key", worker=world.b)

        return debounced, plain

    def one_won(_: World) -> None:
        assert sum(fresh for _, fresh in answers.values()) == 1
        assert len({id for id, _ in answers.values()}) == 1

    everywhere(make_world, scene, after=one_won)


# ---------------------------------------------------------------------------- three at once


class Stopped:
    """A debounced put of worker `a` that stands still before its `at`-th disk call, until it is told to go on."""

    def __init__(self, world: World, at: int) -> None:
        self._world = world
        self._at = at
        self._stopped = threading.Event()
        self._go = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.struck = False

    def start(self) -> None:
        self._thread.start()
        assert self._stopped.wait(PATIENCE)

    def finish(self) -> None:
        self._go.set()
        self._thread.join(PATIENCE)
        assert self._done.is_set()

    def _run(self) -> None:
        disk = self._world.disk

        def stand_still(name: str, args: tuple[Any, ...]) -> Any:
            disk.disarm()
            self.struck = True
            self._stopped.set()
            assert self._go.wait(PATIENCE)
            return disk.pass_on(name, args)

        disk.arm(self._at, stand_still)
        put(self._world, "a")
        self._done.set()
        self._stopped.set()


def three(make_world: Worlds, first: int, second: int) -> tuple[bool, bool]:
    """A stops in its `first` call; B puts; B puts again, and in its `second` call A goes on. Whether both came."""
    world = make_world()
    assert world.a.worker
    put(world, "old", by_b=True)
    stopped = Stopped(world, first)
    stopped.start()
    put(world, "b", by_b=True)
    came = []

    def let_finish(name: str, args: tuple[Any, ...]) -> Any:
        world.disk.disarm()
        came.append(name)
        stopped.finish()
        return world.disk.pass_on(name, args)

    world.disk.arm(second, let_finish)
    put(world, "c", by_b=True)
    world.disk.disarm()
    stopped.finish()
    one_survives(world)
    close(world)
    check(world)
    shutil.rmtree(world.root)
    return stopped.struck, bool(came)


def test_a_late_put_meets_one_that_is_under_way(make_world: Worlds) -> None:
    """Whoever displaced it looked for it before it was there, and whoever comes after has its own to displace."""
    stride = max(2, make_world.stride)  # all pairs would take minutes
    for first in range(1, 500, 2 * stride - 1):
        for second in range(1 + first % stride, 500, stride):
            struck, came = three(make_world, first, second)
            if not came:
                break
        if not struck:
            assert first > 20
            return
    raise AssertionError("too many calls")
