"""Operations on events of which only so many may start within a time; notes, and who says what it serves. See
`scenarios`."""

from __future__ import annotations

from collections.abc import Iterator

from eventq.model import Cancel, Completed, Retried
from faults.scenarios import ERROR, ready, scenario
from faults.scenarios_changing import _edit
from faults.world import DELIVERED, World, payload_of

RATE = {"r": (1, 5.0)}


def use_up(world: World, settled: bool = True) -> None:
    """Worker `b` has started what may start; worker `a` has joined."""
    world.put("first", rates=RATE, worker=world.b)
    (claimed,) = world.claim(worker=world.b)
    if settled:
        world.settle(claimed, worker=world.b)
    ready(world)


@scenario
def start_with_rates(world: World) -> Iterator[None]:
    world.put("a", rates={"r": (2, 5.0), "s": (1, 5.0)}, limits={"c": 1}, worker=world.b)
    ready(world)
    yield
    for claimed in world.claim():
        world.settle(claimed)


@scenario
def start_with_a_log_that_is_there(world: World) -> Iterator[None]:
    use_up(world)
    world.clock.advance(5.0)
    world.put("a", rates={"r": (1, 7.0)}, worker=world.b)
    yield
    for claimed in world.claim():
        world.settle(claimed)


@scenario
def block_for_a_rate(world: World) -> Iterator[None]:
    use_up(world)
    world.put(*"abc", rates={"r": (2, 5.0)}, worker=world.b)
    world.clock.advance(1.0)
    world.put("plain", worker=world.b)
    yield
    world.claim(4)


@scenario
def lack_one_of_two_rates(world: World) -> Iterator[None]:
    use_up(world)
    world.put("a", rates={"q": (1, 5.0), "r": (1, 5.0)}, limits={"c": 1}, worker=world.b)
    world.put("after", rates={"q": (1, 5.0)}, worker=world.b)
    yield
    world.claim(2)


@scenario
def come_back_when_the_time_is_there(world: World) -> Iterator[None]:
    use_up(world)
    for payload in "ab":
        world.clock.advance(0.5)
        world.put(payload, rates=RATE, worker=world.b)
    assert world.claim(9) == []
    world.clock.advance(5.0)
    yield
    world.a.recover()
    for claimed in world.claim(9):
        world.settle(claimed, Completed(b"1"))


@scenario
def come_after_who_waits(world: World) -> Iterator[None]:
    use_up(world)
    world.put("a", rates=RATE, worker=world.b)
    assert world.claim(9) == []
    world.clock.advance(5.0)
    world.put("b", rates=RATE, worker=world.b)
    yield
    for claimed in world.claim(9):
        assert payload_of(claimed) == "a" or world.disk.struck
        world.settle(claimed)


@scenario
def recover_a_dead_starter(world: World) -> Iterator[None]:
    use_up(world, settled=False)
    world.put("a", rates=RATE, worker=world.b)
    assert world.claim() == []
    world.kill(world.b)
    world.clock.advance(0.25)
    yield
    world.a.recover()
    assert world.claim(3) == []


@scenario
def find_the_clock_set_back(world: World) -> Iterator[None]:
    use_up(world)
    world.put("a", rates=RATE, worker=world.b)
    assert world.claim() == []
    world.clock.step_wall(-100.0)
    world.clock.advance(0.25)
    yield
    world.a.recover()
    world.claim()


@scenario
def prune_the_logs(world: World) -> Iterator[None]:
    use_up(world)
    world.clock.advance(6.0)
    yield
    world.a.recover()
    world.clock.advance(0.25)
    world.a.recover()


@scenario
def cancel_who_waits_for_a_rate(world: World) -> Iterator[None]:
    use_up(world)
    world.put("a", rates=RATE, worker=world.b)
    assert world.claim() == []
    yield
    _edit(world, "a", Cancel("no"), DELIVERED, "cancelled", word="cancelled", fate="cancelled")


# ---------------------------------------------------------------------------- kept for a time of their own


@scenario
def complete_with_a_time_of_its_own(world: World) -> Iterator[None]:
    world.put("a", "b", keep=7200.0)
    claims = world.claim(2)
    claims[1].keep = 1e5
    yield
    for claimed in claims:
        world.settle(claimed, Completed(b"1"))


@scenario
def complete_a_moved_one_with_a_time_of_its_own(world: World) -> Iterator[None]:
    world.put("a", "b", keep=7200.0)
    first, second = world.claim(2)
    world.settle(first, Retried(0.0, ERROR))
    (again,) = world.claim()
    yield
    world.settle(again, Completed(b"1"))
    world.settle(second)


# ---------------------------------------------------------------------------- notes, introductions


@scenario
def note_until_the_oldest_go(world: World) -> Iterator[None]:
    world.put("a", worker=world.b)
    (claimed,) = world.claim()
    for _ in range(4):
        world.a.note(claimed, "output", b'"' + b"x" * 100_000 + b'"')
    yield
    before = 4
    for _ in range(9):
        world.a.note(claimed, "output", b'"' + b"x" * 100_000 + b'"')
        numbers = [note.number for note in world.b.notes(claimed.id)]
        if not numbers:
            assert "exists" in (world.disk.struck or ""), "only who does not see the queue sees no notes"
            continue
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[-1] > before
        before = numbers[-1]


@scenario
def introduce_itself(world: World) -> Iterator[None]:
    world.a.introduce(["q"], ["first"])
    yield
    world.a.introduce(["q", "other"], ["second"])
