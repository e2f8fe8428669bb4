"""Rates, between two parties at a chosen call: no more start than may, and nobody waits for longer than need be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eventq.model import Cancel, State
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.file.rates import Rates
from faults.test_interleavings import everywhere
from faults.world import DELIVERED, World

RATE = {"r": (1, 5.0)}


def running(world: World) -> int:
    return sum(worker._joined().holder.running for worker in world.workers)


def two_that_may_not_both(world: World) -> None:
    assert world.a.worker
    for payload in "ab":
        world.clock.advance(1.0)
        world.put(payload, rates=RATE, worker=world.b)


def comes_once_the_time_is_there(world: World) -> None:
    assert running(world) <= 1
    for _ in range(12):
        world.look()
        if world.claim(9) or world.claim(9, worker=world.b):
            break
    assert running(world) in (1, 2)
    world.clock.advance(5.0)


def test_two_start_at_once_and_one_waits(make_world: Callable[..., World]) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        two_that_may_not_both(world)
        return lambda: world.claim(9), lambda: world.claim(9, worker=world.b)

    everywhere(make_world, scene, after=comes_once_the_time_is_there)


def test_a_sweep_comes_at_any_point_of_a_block(make_world: Callable[..., World]) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        two_that_may_not_both(world)
        world.claim(1, worker=world.b)

        def look() -> None:
            world.clock.advance(LOOK_INTERVAL)
            world.b.recover()

        return lambda: world.claim(9), look

    everywhere(make_world, scene, after=comes_once_the_time_is_there)


def test_both_look_when_the_time_is_there(make_world: Callable[..., World]) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        two_that_may_not_both(world)
        world.put("c", rates=RATE, worker=world.b)
        assert len(world.claim(9)) == 1
        assert world.claim(9, worker=world.b) == []
        world.clock.advance(5.0)

        def work() -> None:
            world.a.recover()
            world.claim(9)

        def other() -> None:
            world.b.recover()
            world.claim(9, worker=world.b)

        return work, other

    def after(world: World) -> None:
        assert running(world) == 2, "the first, and one of those that waited"
        world.clock.advance(5.0)

    everywhere(make_world, scene, after=after)


def prune_during_a_start(make_world: Callable[..., World], first: str) -> None:
    """A log of which nothing counts any more goes just when another start is to be counted."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put("before", rates=RATE, worker=world.b)
        world.settle(world.claim(worker=world.b)[0], worker=world.b)
        world.clock.advance(6.0)
        two_that_may_not_both(world)
        pruner = Rates(str(world.root), False, world.clock.now)
        pruner.prune()  # lists the logs
        parties = {"claim": lambda: world.claim(9), "prune": pruner.prune}
        return parties.pop(first), parties.popitem()[1]

    everywhere(make_world, scene, after=comes_once_the_time_is_there)


@pytest.mark.parametrize("first", ["claim", "prune"])
def test_a_log_is_pruned_at_any_point_of_a_start(make_world: Callable[..., World], first: str) -> None:
    prune_during_a_start(make_world, first)


def test_an_edit_comes_at_any_point_of_coming_back(make_world: Callable[..., World]) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        two_that_may_not_both(world)
        assert len(world.claim(9)) == 1
        world.allow("b", DELIVERED, State.CANCELLED.value)
        world.clock.advance(5.0)
        id = world.ledger.ids["b"]
        return world.a.recover, lambda: world.b.edit("q", [id], Cancel())

    everywhere(make_world, scene)
