"""A thread closes the store while another one is in the middle of a call: that one comes to its end, or hears that the
store is closed, and nothing is lost or left behind either way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from eventq.errors import StorageClosed, StorageError
from eventq.model import Cancel, Completed, Rejected
from faults.test_interleavings import everywhere
from faults.world import World, Worlds

A_MOMENT = 0.01
"""Seconds: a close takes less, unless it waits for the call that it meets."""


def put(world: World) -> None:
    world.put("x")


def put_to_a_new_queue(world: World) -> None:
    world.put("x", queue="new")


def put_many(world: World) -> None:
    world.put("x", "y", "z")


def put_with_a_key(world: World) -> None:
    world.put_key("x", "key")


def put_in_anothers_place(world: World) -> None:
    world.put_debounced("x", "chain")


def claim(world: World) -> None:
    world.claim(2)


def complete(world: World) -> None:
    world.settle(world.extra, Completed(b"1"))


def reject(world: World) -> None:
    world.settle(world.extra, Rejected())


def note(world: World) -> None:
    world.a.note(world.extra, "progress", b"1")


def cancel(world: World) -> None:
    world.allow("c", "delivered", "cancelled")
    world.a.edit("q", [world.ledger.ids["c"]], Cancel())


def configure(world: World) -> None:
    world.a.configure("q", {"max_attempts": 7})


def introduce(world: World) -> None:
    world.a.introduce(["q"], ["task"])


def take_a_name(world: World) -> None:
    world.a.take_name("name", b"1")


def take_a_slot(world: World) -> None:
    world.a.take_slot("slot")


def watch(world: World) -> None:
    world.a.watch(id=world.ledger.ids["c"]).close()


CALLS = [
    put, put_to_a_new_queue, put_many, put_with_a_key, put_in_anothers_place, claim, complete, reject, note, cancel,
    configure, introduce, take_a_name, take_a_slot, watch,
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_store_is_closed_at_any_point_of_a_call(make_world: Worlds, call: Callable[[World], None]) -> None:
    """Not before, and not after it: a put that had begun in the room which the close removed did not say that the
    store was closed, but that a file was missing."""

    def prepare(world: World) -> None:
        world.put(*"abc")
        world.extra = world.claim()[0]

    meet_a_close(make_world, prepare, call)


def test_a_store_is_closed_at_any_point_of_its_first_call(make_world: Worlds) -> None:
    """The room that this call makes does not stay, held by nobody who would leave it."""
    meet_a_close(make_world, lambda world: world.put(*"abc", worker=world.b), put)


@pytest.mark.parametrize("call", [put, put_to_a_new_queue, put_many])
def test_a_signals_handler_may_close_the_store_in_the_middle_of_a_put(
    make_world: Worlds, call: Callable[[World], None]
) -> None:
    """In the same thread, which would wait for itself: the put fails, or is done."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put("a")

        def work() -> None:
            with suppress(StorageError):
                call(world)

        return work, world.a.close

    everywhere(make_world, scene)


def meet_a_close(make_world: Worlds, prepare: Callable[[World], object], call: Callable[[World], object]) -> None:
    """Let another thread close worker `a` at each point of its call, or at some."""
    closing: list[threading.Thread] = []

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        prepare(world)

        def work() -> None:
            try:
                call(world)
            except StorageClosed:
                assert closing

        def close() -> None:
            closing.append(threading.Thread(target=world.a.close, daemon=True))
            closing[-1].start()
            closing[-1].join(A_MOMENT)

        return work, close

    def come_to_the_end(world: World) -> None:
        while closing:
            closing[-1].join(20)
            assert not closing.pop().is_alive()
        world.a.close()
        world.clock.advance(6.0)  # what was debounced may be claimed
        assert [worker.id for worker in world.b.workers()] in ([], [world.b.worker])
        assert world.b.take_slot("slot") is not None

    everywhere(make_world, scene, after=come_to_the_end)
