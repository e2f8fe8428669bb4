"""Two parties change what one name says: one disk function is replaced by one that lets the other party run first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eventq.errors import StorageError
from faults.test_interleavings import everywhere
from faults.world import World, Worlds


@pytest.mark.parametrize("act", ["replace", "free", "release"])
def test_two_replace_a_name_at_once_and_one_wins(make_world: Worlds, act: str) -> None:
    """Both have read the same; the other one comes at each call of the first. A name that was freed meanwhile is not
    brought back. Who finds it locked is told to come again."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        held = world.a.take_name("n", b"1")[0]
        assert world.b.worker
        won: dict[str, bool] = {}
        world.extra = won

        def replace() -> None:
            won["first"] = world.a.replace_name(held, b"2")

        def other() -> None:
            try:
                if act == "release":
                    won["other"] = world.b.release_name("n")
                else:
                    won["other"] = world.b.replace_name(held, b"3" if act == "replace" else None)
            except StorageError as error:
                assert "is locked" in str(error)  # the first one stands still, and has it
                won["other"] = False

        return replace, other

    def one_won(world: World) -> None:
        won, said = world.extra, [bytes(name.data) for name in world.a.names()]
        if won.get("other"):
            assert said == ([b"3"] if act == "replace" else [])
            assert act == "release" or not won["first"]
        else:
            assert won["first"]
            assert said == [b"2"]

    everywhere(make_world, scene, after=one_won)
