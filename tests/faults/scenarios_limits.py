"""Operations on events of which only so many run at once. See `scenarios`."""

from __future__ import annotations

from collections.abc import Iterator

from eventq.model import Cancel, Completed, Move, Rejected, Released, Requeue, Retried, State
from eventq.storage.file.gate import ALONE
from faults.scenarios import ERROR, ready, scenario
from faults.scenarios_changing import _edit
from faults.world import DELIVERED, NOWHERE, World, payload_of

ONE = {"c": 1}


def hold(world: World) -> None:
    """Worker `b` runs an event that has the only place; worker `a` has joined."""
    world.put("held", limits=ONE, worker=world.b)
    assert len(world.claim(worker=world.b)) == 1
    ready(world)


def block(world: World, *payloads: str, queue: str = "q") -> None:
    """Let events wait for the place that `b` holds."""
    for payload in payloads:
        world.clock.advance(1.0)
        world.put(payload, limits=ONE, worker=world.b, queue=queue)
    assert world.claim(9, queue=queue) == []


# ---------------------------------------------------------------------------- blocking


@scenario
def start_with_limits(world: World) -> Iterator[None]:
    world.put("a", limits={"c": 1, "d": 3, "e": 2}, worker=world.b)
    ready(world)
    yield
    for claimed in world.claim():
        world.settle(claimed)


@scenario
def block_alone(world: World) -> Iterator[None]:
    hold(world)
    world.clock.advance(1.0)
    world.put("a", limits=ONE, worker=world.b)
    yield
    world.claim()


@scenario
def block_some_of_several(world: World) -> Iterator[None]:
    world.put(*"abc", limits=ONE, worker=world.b)
    world.clock.advance(1.0)
    world.put("plain", worker=world.b)
    ready(world)
    yield
    world.claim(4)


@scenario
def block_the_rest_of_many(world: World) -> Iterator[None]:
    """The first ones each by itself, then the others in one file; and that one again when it comes back."""
    many = [f"many {number}" for number in range(21)]
    world.put(*many, limits=ONE, worker=world.b)
    ready(world)
    for claimed in world.claim(ALONE + 3):
        world.settle(claimed)
    world.ledger.together.clear()
    for _ in range(ALONE):
        (claimed,) = world.claim()
        world.settle(claimed)
    yield
    for claimed in world.claim(9):
        world.settle(claimed)


@scenario
def block_a_file_of_many(world: World) -> Iterator[None]:
    world.put(*(f"many {number}" for number in range(ALONE + 3)), limits=ONE, worker=world.b)
    ready(world)
    yield
    world.claim(9)


@scenario
def block_and_give_back_the_other_places(world: World) -> Iterator[None]:
    hold(world)
    world.clock.advance(1.0)
    world.put("a", limits={"b": 1, "c": 1}, worker=world.b)
    world.put("after", limits={"b": 1}, worker=world.b)
    yield
    world.claim(2)


@scenario
def block_a_key(world: World) -> Iterator[None]:
    hold(world)
    world.put_key("a", "key", limits=ONE, worker=world.b)
    yield
    world.claim()


# ---------------------------------------------------------------------------- coming back


@scenario
def settle_while_others_wait(world: World) -> Iterator[None]:
    hold(world)
    block(world, "a", "b")
    block(world, "c", queue="other")
    claimed = next(iter(world.b._joined().holder.files)).entries[0].claimed
    assert claimed is not None
    yield
    world.settle(claimed, worker=world.b)


def _end(name: str, outcome: object) -> None:
    def end(world: World) -> Iterator[None]:
        world.put("a", "b", limits=ONE)
        claimed = world.claim(2)
        assert len(claimed) == 1
        yield
        world.settle(claimed[0], outcome)  # type: ignore[arg-type]

    end.__name__ = f"{name}_while_another_waits"
    scenario(end)


for _name, _outcome in {
    "complete_with_value": Completed(b"1"), "retry": Retried(0.0, ERROR), "release_later": Released(5.0),
    "reject": Rejected(ERROR),
}.items():  # fmt: skip
    _end(_name, _outcome)


@scenario
def claim_who_waited(world: World) -> Iterator[None]:
    world.put("a", "b", limits=ONE)
    world.settle(world.claim(2)[0])
    yield
    for claimed in world.claim(2):
        assert payload_of(claimed) == "b"
        world.settle(claimed)


@scenario
def recover_a_dead_holder(world: World) -> Iterator[None]:
    hold(world)
    block(world, "a", "b")
    block(world, "c", queue="other")
    world.kill(world.b)
    world.clock.advance(0.25)
    yield
    world.a.recover()
    world.claim(3)
    world.claim(3, queue="other")


@scenario
def sweep_an_expired_one(world: World) -> Iterator[None]:
    hold(world)
    world.put("a", limits=ONE, worker=world.b, expires=world.clock.now() + 1)
    assert world.claim() == []
    world.clock.advance(2.0)
    world.allow("a", State.EXPIRED.value)
    yield
    world.a.recover()
    world.claim()


@scenario
def close_with_places(world: World) -> Iterator[None]:
    world.put("a", "b", limits=ONE)
    world.claim(2)
    world.a.configure("q", {"concurrency": 5})
    world.put("c")
    world.claim(1)
    yield
    world.a.close()


# ---------------------------------------------------------------------------- edits of who waits


@scenario
def cancel_who_waits(world: World) -> Iterator[None]:
    hold(world)
    block(world, "a", "b")
    yield
    _edit(world, "a", Cancel("no"), DELIVERED, "cancelled", word="cancelled", fate="cancelled")


@scenario
def move_who_waits(world: World) -> Iterator[None]:
    hold(world)
    block(world, "a", "b")
    yield
    _edit(world, "a", Move("other"), DELIVERED, word="moved", fate=DELIVERED)


@scenario
def requeue_with_limits(world: World) -> Iterator[None]:
    world.put("a", limits=ONE)
    world.settle(world.claim()[0], Rejected(ERROR))
    yield
    _edit(world, "a", Requeue(), DELIVERED, "dead", word=world.ledger.ids["a"], fate=DELIVERED)


@scenario
def purge_who_waits(world: World) -> Iterator[None]:
    hold(world)
    block(world, "a", "b")
    yield
    for payload in "ab":
        world.allow(payload, DELIVERED, NOWHERE)
    world.a.purge("q", State.READY)
    world.become(*"ab", fate=NOWHERE)


# ---------------------------------------------------------------------------- a queue's own limit


@scenario
def claim_up_to_the_concurrency(world: World) -> Iterator[None]:
    world.a.configure("q", {"concurrency": 2})
    world.put(*"abc", worker=world.b)
    ready(world)
    yield
    assert len(world.claim(3)) < 3


@scenario
def settle_in_a_full_queue(world: World) -> Iterator[None]:
    world.a.configure("q", {"concurrency": 1})
    world.put("a", "b")
    (claimed,) = world.claim(2)
    world.extra = world.b.watch(queue="q")
    yield
    world.settle(claimed)
    for after in world.claim():
        world.settle(after)


@scenario
def recover_a_dead_worker_of_a_full_queue(world: World) -> Iterator[None]:
    world.b.configure("q", {"concurrency": 1})
    ready(world)
    world.put("a", "b", worker=world.b)
    world.claim(worker=world.b)
    world.kill(world.b)
    world.clock.advance(0.25)
    yield
    world.a.recover()
    world.claim(2)
