"""Places of limits, between two parties at a chosen call: no wake is lost, and no place is held twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from eventq.model import Cancel, Claimed, Completed, Outcome, Rejected, Released, State
from eventq.storage.base import LOOK_INTERVAL
from faults.test_interleavings import everywhere
from faults.world import DELIVERED, NOWHERE, World, Worlds, payload_of

ONE = {"c": 1}


def held_by_b(world: World) -> Claimed:
    """What `b` runs, in the only place there is."""
    world.put("held", limits=ONE, worker=world.b)
    (claimed,) = world.claim(worker=world.b)
    return claimed


def comes_without_a_look(world: World, *payloads: str) -> None:
    """Nobody looks after the store, and still one of them runs, or can be claimed: no wake was lost."""
    running = [entry.id for held in world.a._joined().holder.files for entry in held.entries if entry.claimed]
    if not {world.ledger.ids[payload] for payload in payloads} & set(running):
        assert set(payloads) & {payload_of(claimed) for claimed in world.claim(9, worker=world.b)}


@pytest.mark.parametrize("outcome", [Completed(), Released(), Rejected()], ids=["completed", "released", "rejected"])
def test_a_place_is_freed_at_any_point_of_a_block(make_world: Worlds, outcome: Outcome) -> None:
    """Between the place that is not there and the rename into `blocked/`, too: who freed it found nobody waiting."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        claimed = held_by_b(world)
        world.clock.advance(1.0)
        world.put("a", limits=ONE, worker=world.b)
        assert world.a.worker
        return world.claim, lambda: world.settle(claimed, outcome, worker=world.b)

    def after(world: World) -> None:
        if world.ledger.fates["held"] != {DELIVERED}:
            comes_without_a_look(world, "a")

    everywhere(make_world, scene, after=after)


def test_another_needs_the_place_at_any_point_of_a_failed_start(make_world: Worlds) -> None:
    """An event takes one place, finds no other and gives the first back; who wanted that meanwhile must not wait."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        held_by_b(world)
        world.put("both", limits={"b": 1, "c": 1}, queue="q", worker=world.b)
        world.put("a", limits={"b": 1}, queue="other", worker=world.b)
        assert world.a.worker
        return world.claim, lambda: world.claim(queue="other", worker=world.b)

    def after(world: World) -> None:
        found = [entry.id for held in world.b._joined().holder.files for entry in held.entries if entry.claimed]
        if world.ledger.ids["a"] not in found:
            assert [payload_of(claimed) for claimed in world.claim(queue="other", worker=world.b)] == ["a"]

    everywhere(make_world, scene, after=after)


def test_an_event_is_blocked_at_any_point_of_a_settle(make_world: Worlds) -> None:
    """The other way round: the folder comes, or goes, while whoever frees the place looks at it."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        claimed = held_by_b(world)
        world.clock.advance(1.0)
        world.put("a", limits=ONE, worker=world.b)
        assert world.claim() == []
        world.clock.advance(1.0)
        world.put("b", limits=ONE, worker=world.b)
        return lambda: world.settle(claimed, worker=world.b), world.claim

    everywhere(make_world, scene, after=lambda world: comes_without_a_look(world, "a", "b"))


def test_a_sweep_comes_at_any_point_of_a_block(make_world: Worlds) -> None:
    """It removes empty folders, and brings the expired back."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        held_by_b(world)
        world.clock.advance(1.0)
        world.put("a", limits=ONE, worker=world.b)
        assert world.claim() == []
        assert world.b.edit("q", [world.ledger.ids["a"]], Cancel()) == ["cancelled"]  # leaves an empty folder
        world.allow("a", State.CANCELLED.value)
        world.put("b", limits=ONE, worker=world.b)

        def look() -> None:
            world.clock.advance(LOOK_INTERVAL)
            world.b.recover()

        return world.claim, look

    everywhere(make_world, scene)


def test_an_edit_comes_at_any_point_of_coming_back(make_world: Worlds) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        claimed = held_by_b(world)
        world.clock.advance(1.0)
        world.put("a", limits=ONE, worker=world.b)
        assert world.claim() == []
        world.allow("a", DELIVERED, State.CANCELLED.value)
        id = world.ledger.ids["a"]
        return lambda: world.settle(claimed, worker=world.b), lambda: world.a.edit("q", [id], Cancel())

    everywhere(make_world, scene)


def test_a_queue_is_dropped_at_any_point_of_coming_back(make_world: Worlds) -> None:
    """What comes back to a dropped queue does not make it again."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        claimed = held_by_b(world)
        world.put("a", limits=ONE, worker=world.b, queue="other", priority=7)
        assert world.claim(queue="other") == []
        shutil.rmtree(world.root / "queues/other/ready/7")

        def drop() -> None:
            world.allow("a", NOWHERE)
            world.a.drop("other")

        return lambda: world.settle(claimed, worker=world.b), drop

    everywhere(make_world, scene)


def test_places_of_a_queue_are_taken_at_any_point_of_a_claim(make_world: Worlds) -> None:
    """Two claim from a queue that runs one: never both."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.a.configure("q", {"concurrency": 1})
        assert world.b.worker
        for payload in "ab":
            world.put(payload, worker=world.b)
            world.clock.advance(1.0)
        return world.claim, lambda: world.claim(worker=world.b)

    def after(world: World) -> None:
        assert sum(worker._joined().holder.running for worker in world.workers) == 1

    everywhere(make_world, scene, after=after)
