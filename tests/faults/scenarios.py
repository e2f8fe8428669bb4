"""Every operation of a store, each with the state that it needs. A scenario is a generator: what is before its
`yield` happens in peace, what is after it under fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from eventq.errors import QueueFull
from eventq.model import (
    Completed,
    Dropped,
    Failure,
    Outcome,
    Rejected,
    Released,
    Retried,
    Skipped,
    State,
)
from faults.world import DELIVERED, World, payload_of

Scenario = Callable[[World], Iterator[None]]
SCENARIOS: dict[str, Scenario] = {}
ERROR = Failure("ValueError", "no", "traceback")
LARGE = "x" * 40_000


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def ready(world: World) -> None:
    """Worker `a` has joined and its queue is there."""
    world.a.configure("q", {})
    world.a.recover()


# ---------------------------------------------------------------------------- opening


@scenario
def open_a_store(world: World) -> Iterator[None]:
    yield
    world.put("a")


@scenario
def join(world: World) -> Iterator[None]:
    world.put("other", worker=world.a)
    world.b.queues()
    yield
    world.put("a", worker=world.b)


# ---------------------------------------------------------------------------- put


@scenario
def put(world: World) -> Iterator[None]:
    ready(world)
    yield
    world.put("a")


@scenario
def put_to_a_new_priority(world: World) -> Iterator[None]:
    ready(world)
    yield
    world.put("a", priority=7)


@scenario
def put_three_into_one_file(world: World) -> Iterator[None]:
    ready(world)
    world.put("a")
    yield
    world.put("b")
    world.put("c")


@scenario
def put_into_padding(world: World) -> Iterator[None]:
    ready(world)
    world.put("a")
    world.put("b")
    world.clock.advance(1.0)
    yield
    world.put("c")
    world.put("d")


@scenario
def put_past_the_padding(world: World) -> Iterator[None]:
    ready(world)
    world.put("a")
    world.put("b")
    world.clock.advance(1.0)
    world.put("c")
    yield
    world.put("d" * 16_000)
    world.put("e")


@scenario
def put_large(world: World) -> Iterator[None]:
    ready(world)
    world.put("a")
    yield
    world.put(LARGE)
    world.put("b")


@scenario
def put_delayed(world: World) -> Iterator[None]:
    ready(world)
    yield
    world.put("a", due=world.clock.now() + 5)


@scenario
def put_many(world: World) -> Iterator[None]:
    ready(world)
    yield
    world.put(*(f"many {number}" for number in range(5)))


@scenario
def put_recycled(world: World) -> Iterator[None]:
    """Into files that held other events: a kept one, and one from `free/`."""
    world.put("old 1")
    world.clock.advance(1.0)
    world.put("old 2", LARGE)
    for _ in range(3):
        world.settle(world.claim()[0])
    world.b.queues()
    world.put("old 3", worker=world.b)
    world.settle(world.claim(worker=world.b)[0], worker=world.b)
    world.b.close()
    world.workers.pop()
    yield
    world.put("a")
    world.clock.advance(1.0)
    world.put("b")
    world.clock.advance(1.0)
    world.put("c")


# ---------------------------------------------------------------------------- keys


@scenario
def put_key(world: World) -> Iterator[None]:
    ready(world)
    yield
    world.put_key("a", "key")


@scenario
def put_key_delayed(world: World) -> Iterator[None]:
    ready(world)
    yield
    world.put_key("a", "key", due=world.clock.now() + 5, priority=2)


@scenario
def put_key_held(world: World) -> Iterator[None]:
    world.put_key("a", "key", worker=world.b)
    ready(world)
    yield
    world.put_key("b", "key")


@scenario
def put_key_for_seconds(world: World) -> Iterator[None]:
    ready(world)
    yield
    world.put_key("a", "key", unique=1e6)


@scenario
def put_key_over_a_stale_marker(world: World) -> Iterator[None]:
    ready(world)
    world.put_key("a", "key", unique=1.0)
    world.ledger.held.clear()
    world.settle(world.claim()[0])
    world.clock.advance(2.0)
    yield
    world.put_key("b", "key")


@scenario
def put_key_debounced(world: World) -> Iterator[None]:
    ready(world)
    yield
    world.put_debounced("a", "key")


@scenario
def put_key_debounced_over_another(world: World) -> Iterator[None]:
    """One's own, one of another worker that lives."""
    world.put_debounced("a", "key", worker=world.b)
    ready(world)
    yield
    world.put_debounced("b", "key", debounce_max=7.0)
    world.put_debounced("c", "key", debounce_max=7.0)


@scenario
def put_key_debounced_over_a_stale_marker(world: World) -> Iterator[None]:
    ready(world)
    world.put_debounced("a", "key", seconds=0.1)
    world.clock.advance(1.0)
    paths = list((world.root / "queues/q/keys").iterdir())
    marker = paths[0].read_bytes()
    world.settle(world.claim()[0])
    world.ledger.chains.clear()
    paths[0].write_bytes(marker)  # as if its worker had died between the start and the key's release
    paths[0].chmod(0o600)
    yield
    world.put_debounced("b", "key")


# ---------------------------------------------------------------------------- at most so many


def full(world: World) -> None:
    """A queue of two events with no room for a third."""
    world.a.configure("q", {"maxsize": 2})
    world.put("1", worker=world.b)
    world.put_key("2", "key", worker=world.b)
    ready(world)


@scenario
def put_to_a_full_queue(world: World) -> Iterator[None]:
    full(world)
    yield
    with pytest.raises(QueueFull):
        world.put("a")
    with pytest.raises(QueueFull):
        world.put("b", "c")


@scenario
def put_a_key_to_a_full_queue(world: World) -> Iterator[None]:
    full(world)
    yield
    assert not world.put_key("3", "key")[1]
    with pytest.raises(QueueFull):
        world.put_key("a", "another")


@scenario
def put_when_there_is_room_again(world: World) -> Iterator[None]:
    full(world)
    world.settle(world.claim(worker=world.b)[0], worker=world.b)
    yield
    world.put("a")


@scenario
def settle_a_key(world: World) -> Iterator[None]:
    world.put_key("a", "key")
    claimed = world.claim()[0]
    yield
    world.settle(claimed)


@scenario
def reject_a_key(world: World) -> Iterator[None]:
    world.put_key("a", "key")
    claimed = world.claim()[0]
    yield
    world.settle(claimed, Rejected(ERROR))


@scenario
def start_a_waiting_key(world: World) -> Iterator[None]:
    world.put_key("a", "key", unique="waiting")
    world.ledger.keys.clear()  # from here on it is free, or held until the event is started
    yield
    world.claim()
    assert world.put_key("b", "key")[1]


# ---------------------------------------------------------------------------- claim


@scenario
def claim(world: World) -> Iterator[None]:
    world.put("a", worker=world.b)
    ready(world)
    yield
    world.claim()


@scenario
def claim_delayed(world: World) -> Iterator[None]:
    world.put("a", worker=world.b, due=world.clock.now() + 1)
    ready(world)
    world.clock.advance(200.0)
    yield
    world.claim()


@scenario
def claim_many(world: World) -> Iterator[None]:
    world.put(*(f"many {number}" for number in range(12)), worker=world.b)
    world.clock.advance(1.0)
    world.put("high", priority=3, worker=world.b)
    ready(world)
    yield
    world.claim(5)


@scenario
def claim_what_another_still_appends_to(world: World) -> Iterator[None]:
    world.put("a", worker=world.b)
    ready(world)
    yield
    world.claim()
    world.put("b", worker=world.b)


@scenario
def claim_foreign(world: World) -> Iterator[None]:
    ready(world)
    (world.root / "queues/q/ready/0/import").write_text('"f1"\n"f2"\n"f3"')
    for payload in ("f1", "f2", "f3"):
        world.become(payload, fate=DELIVERED)
    yield
    world.claim()


@scenario
def claim_what_came_back(world: World) -> Iterator[None]:
    world.put("a", "b", "c", worker=world.b)
    first, second = world.claim(2, worker=world.b)
    world.settle(first, worker=world.b)
    world.settle(second, Completed(b"2"), worker=world.b)
    world.kill(world.b)
    world.look()
    yield
    world.claim(3)


@scenario
def claim_expired(world: World) -> Iterator[None]:
    world.put("a", "b", expires=world.clock.now() + 1, worker=world.b)
    ready(world)
    world.clock.advance(2.0)
    for payload in ("a", "b"):
        world.allow(payload, State.EXPIRED.value)
    yield
    world.claim()


@scenario
def claim_poison(world: World) -> Iterator[None]:
    world.a.configure("q", {"max_crashes": 1})
    world.put("a", "b", worker=world.b)
    world.claim(worker=world.b)
    world.kill(world.b)
    world.allow("a", State.DEAD.value)
    world.allow("b", DELIVERED, State.DEAD.value)  # started here, and this worker may die, too
    world.look()
    yield
    world.claim()


# ---------------------------------------------------------------------------- settle


OUTCOMES: dict[str, Callable[[World], Outcome]] = {
    "complete": lambda _: Completed(),
    "complete_with_value": lambda _: Completed(b'"value"'),
    "retry": lambda _: Retried(0.0, ERROR),
    "retry_later": lambda _: Retried(5.0, ERROR),
    "release": lambda _: Released(),
    "release_later": lambda _: Released(5.0),
    "skip": lambda _: Skipped(),
    "reject": lambda _: Rejected(ERROR),
    "cancel": lambda _: Dropped(State.CANCELLED, "not needed"),
    "expire": lambda _: Dropped(State.EXPIRED, "too old"),
}


def _settle_alone(name: str) -> Scenario:
    def settle(world: World) -> Iterator[None]:
        world.put("a")
        claimed = world.claim()[0]
        yield
        world.settle(claimed, OUTCOMES[name](world))

    return settle


def _settle_several(name: str) -> Scenario:
    """The first of four that are started, then the last of them, beside two that wait."""

    def settle(world: World) -> Iterator[None]:
        world.put(*"abcdef")
        claimed = world.claim(4)
        yield
        world.settle(claimed[0], OUTCOMES[name](world))
        world.settle(claimed[3], OUTCOMES[name](world))

    return settle


def _settle_all(name: str) -> Scenario:
    def settle(world: World) -> Iterator[None]:
        world.put(*"abc")
        claimed = world.claim(3)
        yield
        for one in claimed:
            world.settle(one, OUTCOMES[name](world))

    return settle


for _name in OUTCOMES:
    SCENARIOS[f"{_name}_alone"] = _settle_alone(_name)
    SCENARIOS[f"{_name}_one_of_several"] = _settle_several(_name)
    SCENARIOS[f"{_name}_all"] = _settle_all(_name)


@scenario
def complete_moved_with_value(world: World) -> Iterator[None]:
    world.put(*"abcd")
    world.settle(world.claim()[0], Retried())
    world.settle(world.claim()[0])
    claimed = next(one for one in world.claim(9) if payload_of(one) == "a")
    yield
    world.settle(claimed, Completed(b"1"))


@scenario
def note(world: World) -> Iterator[None]:
    world.put("a")
    claimed = world.claim()[0]
    yield
    world.a.note(claimed, "progress", b"1")
    world.a.note(claimed, "progress", b"2")
