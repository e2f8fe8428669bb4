"""Whoever asks for an event finds it, however it moves meanwhile: a waiter must not take it for gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventq.model import Completed, Outcome, Rejected, Released, Retried
from faults.test_interleavings import everywhere

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.world import World, Worlds

OUTCOMES: list[Outcome] = [Completed(b"1"), Released(), Retried(1.0), Rejected()]


def given_back_together(world: World) -> str:
    """The id of an event that went on in another file, with one of its file's others, and is held by worker b."""
    world.put(*"abc")
    world.claim()
    world.a.give_back("q")
    claimed = world.claim(worker=world.b)[0]
    assert claimed.id == world.ledger.ids["b"]
    world.extra = [claimed]
    return claimed.id


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_an_event_is_settled_at_any_point_of_a_search(make_world: Worlds, outcome: Outcome) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        id = given_back_together(world)

        def search() -> None:
            assert world.a.get(id) is not None

        return search, lambda: world.settle(world.extra[0], outcome, worker=world.b)

    everywhere(make_world, scene)


def test_an_event_changes_hands_at_any_point_of_a_search(make_world: Worlds) -> None:
    """It is given back once more, and claimed by another worker, while it is searched for."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        given_back_together(world)
        id = world.ledger.ids["c"]  # fetched ahead by b, and not started
        third = world.open()
        assert third.worker

        def search() -> None:
            assert world.a.get(id) is not None

        def change_hands() -> None:
            world.b.give_back("q")
            world.claim(worker=third)

        return search, change_hands

    everywhere(make_world, scene)


@pytest.mark.parametrize("outcome", [*OUTCOMES, Retried(0.0)], ids=repr)
def test_somebody_searches_at_any_point_of_a_settle(make_world: Worlds, outcome: Outcome) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put(*"abc")
        claimed = world.claim()[0]
        assert world.b.worker

        def search() -> None:
            assert world.b.get(claimed.id) is not None

        return lambda: world.settle(claimed, outcome), search

    everywhere(make_world, scene)


def test_somebody_searches_at_any_point_of_a_give_back(make_world: Worlds) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put(*"abc")
        world.claim()
        assert world.b.worker

        def search() -> None:
            assert world.b.get(world.ledger.ids["c"]) is not None

        return lambda: world.a.give_back("q"), search

    everywhere(make_world, scene)
