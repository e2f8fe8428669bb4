"""The operations on what was put: giving back, editing, retention, names, recovery. See `scenarios`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eventq.model import (
    Cancel,
    Completed,
    Delete,
    Dropped,
    Move,
    Rejected,
    Released,
    Requeue,
    Retried,
    State,
)
from faults.scenarios import ERROR, ready, scenario
from faults.world import DELIVERED, NOWHERE, World

# ---------------------------------------------------------------------------- giving back


@scenario
def give_back(world: World) -> Iterator[None]:
    world.put(*"abcdef")
    world.claim(2)
    yield
    world.a.give_back("q")


@scenario
def give_back_everything(world: World) -> Iterator[None]:
    world.put(*"abc")
    claimed = world.claim()[0]
    world.settle(claimed, Released())
    yield
    world.a.give_back("q")


@scenario
def share(world: World) -> Iterator[None]:
    world.put(*"abcdefgh")
    world.claim()
    world.extra = world.b.watch(queue="q")
    yield
    world.a.maintain()


@scenario
def close(world: World) -> Iterator[None]:
    world.put("single")
    world.settle(world.claim()[0])
    world.put(*"abcdef")
    world.claim(2)
    world.clock.advance(1.0)
    world.put("high", priority=1)
    world.a.recover()
    world.claim()
    world.a.take_slot("slot")
    yield
    world.a.close()


# ---------------------------------------------------------------------------- edits


def _edit(world: World, payload: str, edit: Any, *fates: str, word: str, fate: str) -> None:
    world.allow(payload, *fates)
    assert world.a.edit("q", [world.ledger.ids[payload]], edit) == [word]
    world.allow(payload, fate)


@scenario
def cancel_waiting(world: World) -> Iterator[None]:
    world.put("a", worker=world.b)
    ready(world)
    yield
    _edit(world, "a", Cancel("no"), DELIVERED, "cancelled", word="cancelled", fate="cancelled")


@scenario
def cancel_one_of_several(world: World) -> Iterator[None]:
    world.put(*"abc", worker=world.b)
    ready(world)
    yield
    _edit(world, "b", Cancel("no"), DELIVERED, "cancelled", word="cancelled", fate="cancelled")


@scenario
def cancel_fetched(world: World) -> Iterator[None]:
    world.put(*"abc")
    world.claim()
    yield
    _edit(world, "b", Cancel("no"), DELIVERED, "cancelled", word="cancelled", fate="cancelled")


@scenario
def cancel_of_another(world: World) -> Iterator[None]:
    world.put(*"abc", worker=world.b)
    world.claim(worker=world.b)
    ready(world)
    yield
    world.allow("b", DELIVERED, "cancelled")
    world.a.edit("q", [world.ledger.ids["b"]], Cancel())
    world.clock.advance(0.25)
    world.b.recover()


@scenario
def answer_a_request(world: World) -> Iterator[None]:
    world.put(*"abc")
    world.claim()
    world.b.edit("q", [world.ledger.ids["b"]], Cancel())
    world.b.edit("q", [world.ledger.ids["c"]], Move("elsewhere"))
    world.allow("b", DELIVERED, "cancelled")
    world.clock.advance(0.25)
    yield
    world.a.recover()


@scenario
def cancel_a_key(world: World) -> Iterator[None]:
    world.put_key("a", "key", worker=world.b)
    ready(world)
    yield
    _edit(world, "a", Cancel("no"), DELIVERED, "cancelled", word="cancelled", fate="cancelled")


@scenario
def requeue_dead(world: World) -> Iterator[None]:
    world.put("a", "b")
    for one in world.claim(2):
        world.settle(one, Rejected(ERROR))
    yield
    _edit(world, "a", Requeue(), DELIVERED, "dead", word=world.ledger.ids["a"], fate=DELIVERED)
    _edit(world, "b", Requeue(), DELIVERED, "dead", word=world.ledger.ids["b"], fate=DELIVERED)


@scenario
def requeue_delayed(world: World) -> Iterator[None]:
    world.put("a", due=world.clock.now() + 15)
    yield
    _edit(world, "a", Requeue(), DELIVERED, word=world.ledger.ids["a"], fate=DELIVERED)


@scenario
def move_to_another_queue(world: World) -> Iterator[None]:
    world.put("a", "b", worker=world.b)
    ready(world)
    yield
    _edit(world, "a", Move("other"), DELIVERED, word="moved", fate=DELIVERED)
    _edit(world, "b", Move("other"), DELIVERED, word="moved", fate=DELIVERED)


@scenario
def move_delayed(world: World) -> Iterator[None]:
    world.put("a", due=world.clock.now() + 5, worker=world.b)
    ready(world)
    yield
    _edit(world, "a", Move("other"), DELIVERED, word="moved", fate=DELIVERED)


@scenario
def delete(world: World) -> Iterator[None]:
    world.put(*"abc", worker=world.b)
    ready(world)
    yield
    _edit(world, "b", Delete(), DELIVERED, NOWHERE, word="deleted", fate=NOWHERE)


@scenario
def purge(world: World) -> Iterator[None]:
    world.put(*"abc", worker=world.b)
    world.ledger.together.clear()
    world.put("d", worker=world.b, due=world.clock.now() + 5)
    ready(world)
    yield
    for payload in "abc":
        world.allow(payload, DELIVERED, NOWHERE)
    world.a.purge("q", State.READY)
    world.become(*"abc", fate=NOWHERE)


@scenario
def purge_dead(world: World) -> Iterator[None]:
    world.put("a")
    world.settle(world.claim()[0], Rejected(ERROR))
    yield
    world.allow("a", "dead", NOWHERE)
    world.a.purge("q", State.DEAD)
    world.become("a", fate=NOWHERE)


@scenario
def drop(world: World) -> Iterator[None]:
    world.put(*"ab", worker=world.b)
    world.ledger.together.clear()
    world.put("c", worker=world.b, due=world.clock.now() + 5)
    ready(world)
    yield
    for payload in "abc":
        world.allow(payload, DELIVERED, NOWHERE)
    world.a.drop("q")
    world.become(*"abc", fate=NOWHERE)


@scenario
def prune(world: World) -> Iterator[None]:
    world.put(*"abc")
    first, second, third = world.claim(3)
    world.settle(first, Completed(b"1"))
    world.settle(second, Rejected(ERROR))
    world.settle(third, Dropped(State.CANCELLED, "no"))
    world.clock.advance(30 * 86400.0)
    for payload, state in zip("abc", ("completed", "dead", "cancelled"), strict=True):
        world.allow(payload, state, NOWHERE)
    yield
    world.a.prune("q")
    world.become(*"abc", fate=NOWHERE)


@scenario
def configure(world: World) -> Iterator[None]:
    world.put("a")
    world.a.configure("q", {"max_attempts": 5})
    yield
    world.a.configure("q", {"max_attempts": 7})


# ---------------------------------------------------------------------------- names and slots


@scenario
def names(world: World) -> Iterator[None]:
    ready(world)
    yield
    assert world.a.take_name("leader", b"1")[1]
    assert not world.a.take_name("leader", b"2")[1]
    assert world.a.release_name("leader")


@scenario
def replace_names(world: World) -> Iterator[None]:
    ready(world)
    held = world.a.take_name("leader", b"1")[0]
    yield
    assert world.a.replace_name(held, b"2")
    assert not world.a.replace_name(held, b"3")
    assert world.a.replace_name(world.a.get_names(["leader"])["leader"], None)


@scenario
def slots(world: World) -> Iterator[None]:
    ready(world)
    yield
    slot = world.a.take_slot("slot", 2)
    assert slot is not None
    slot.release()


# ---------------------------------------------------------------------------- the dead


def leave_a_rich_room(world: World) -> None:
    """Worker `b` dies with claims of every kind, drafts and a slot; also in the middle of a move and a keyed put."""
    b = world.b
    world.put(*"abcd", worker=b)
    world.clock.advance(1.0)
    world.put("e", worker=b)
    world.clock.advance(1.0)
    world.put("high", priority=4, worker=b)
    first, second = world.claim(2, worker=b)
    world.settle(first, worker=b)
    world.settle(second, Completed(b"2"), worker=b)
    b.take_slot("slot")
    claims = world.root / "workers" / b.worker / "claims"
    world.claim(worker=b)
    drafts = claims.parent / "drafts"
    (drafts / ("0" * 38)).write_bytes(b"half a draft")
    (drafts / f"key~q~0~{0:016x}~{'0' * 38}").write_bytes(b"half a keyed draft")
    world.kill(b)


@scenario
def recover_a_dead_room(world: World) -> Iterator[None]:
    assert world.a.worker
    leave_a_rich_room(world)
    world.clock.advance(0.25)
    yield
    world.a.recover()


@scenario
def take_over_a_lease(world: World) -> Iterator[None]:
    world.a.configure("q", {"lease": 1.0})
    world.put("a", "b", worker=world.b)
    world.claim(worker=world.b)
    world.claim()
    world.look()
    world.clock.advance(2.0)
    yield
    world.a.recover()
    world.claim()


@scenario
def settle_under_a_lease(world: World) -> Iterator[None]:
    world.a.configure("q", {"lease": 100.0})
    world.put(*"abc")
    claimed = world.claim(2)
    yield
    world.settle(claimed[0])
    world.settle(claimed[1], Retried(0.0, ERROR))
