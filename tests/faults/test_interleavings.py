"""Two parties in each other's way, at a chosen call: one disk function is replaced by one that lets the other party
run first. No sleeping, no luck."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from eventq.errors import ClaimLost, OutcomeUnknown, StorageError
from eventq.ids import nanoseconds_of
from eventq.model import Cancel, Claimed, Completed, Outcome, Rejected, Released, Requeue, Retried, State
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.file import FileStorage
from faults.check import check
from faults.world import DELIVERED, NOWHERE, World, Worlds, fate_of, payload_of


@pytest.fixture
def world(make_world: Worlds) -> World:
    return make_world()


def at_call(world: World, at: int, other: Callable[[], object], work: Callable[[], object]) -> bool:
    """Do `work`, and just before its `at`-th disk call let somebody else do `other`; whether there was such a call."""
    disk = world.disk

    def let_in(name: str, args: tuple[Any, ...]) -> Any:
        disk.disarm()
        other()
        return disk.pass_on(name, args)

    disk.arm(at, let_in)
    try:
        work()
    finally:
        struck = disk.struck
        disk.disarm()
    return struck is not None


def everywhere(
    make_world: Worlds, scene: Callable[[World], tuple[Callable[[], object], Callable[[], object]]],
    sync: bool = True, after: Callable[[World], object] = lambda _: None,
) -> None:  # fmt: skip
    """Run a race once for each call of its first party, or for some; `scene` returns the two parties."""
    for at in range(1, 500, make_world.stride):
        world = make_world(sync)
        work, other = scene(world)
        struck = at_call(world, at, other, work)
        after(world)
        close(world)
        check(world)
        shutil.rmtree(world.root)
        if not struck:
            assert at > 1
            return
    raise AssertionError("too many calls")


def close(world: World) -> None:
    for worker in list(world.workers):
        worker.close()
    world.workers.clear()


# ---------------------------------------------------------------------------- append and claim


def claim_only(world: World) -> None:
    world.claim(5, worker=world.b)


def claim_and_settle(world: World) -> None:
    for claimed in world.claim(5, worker=world.b):
        world.settle(claimed, worker=world.b)


def claim_settle_and_reuse(world: World) -> None:
    """Its file becomes the file of other events, in the same place."""
    claim_and_settle(world)
    world.put("x", worker=world.b)


def claim_settle_reuse_and_append(world: World) -> None:
    claim_settle_and_reuse(world)
    world.put("y", worker=world.b)


def claim_and_release(world: World) -> None:
    for claimed in world.claim(5, worker=world.b):
        world.settle(claimed, Released(), worker=world.b)


def claim_and_give_back(world: World) -> None:
    world.claim(1, worker=world.b)
    world.b.give_back("q")


def claim_and_die(world: World) -> None:
    """And be recovered: the file is back in `ready/`, under another name."""
    world.claim(5, worker=world.b)
    world.kill(world.b)
    world.clock.advance(LOOK_INTERVAL)
    world.b.recover()


def claim_and_retry_later(world: World) -> None:
    for claimed in world.claim(5, worker=world.b):
        world.settle(claimed, Retried(3.0), worker=world.b)


CLAIMERS = [
    claim_only,
    claim_and_settle,
    claim_settle_and_reuse,
    claim_settle_reuse_and_append,
    claim_and_release,
    claim_and_give_back,
    claim_and_die,
    claim_and_retry_later,
]


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("claimer", CLAIMERS)
def test_a_claimer_comes_at_any_point_of_an_append(
    make_world: Worlds, claimer: Callable[[World], None], sync: bool
) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        assert world.a.worker
        assert world.b.worker
        world.put("a")
        return lambda: world.put("b"), lambda: claimer(world)

    everywhere(make_world, scene, sync)


@pytest.mark.parametrize("sync", [True, False])
def test_an_append_comes_at_any_point_of_a_claim(make_world: Worlds, sync: bool) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        assert world.a.worker
        world.put("a", worker=world.b)
        return lambda: claim_all(world), lambda: world.put("b", worker=world.b)

    everywhere(make_world, scene, sync)


def claim_all(world: World, worker: FileStorage | None = None) -> list[Claimed]:
    """Claim and complete what is there."""
    found = world.claim(9, worker=worker)
    for claimed in found:
        world.settle(claimed, worker=worker)
    return found


def test_two_claimers_at_one_file(make_world: Worlds) -> None:
    """Only one gets it; the other goes on to the next."""
    taken: list[str] = []

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        taken.clear()
        assert world.a.worker
        assert world.b.worker
        world.put("a", worker=world.b)
        world.clock.advance(1.0)
        world.put("b", worker=world.b)

        def claim(worker: FileStorage) -> None:
            for claimed in world.claim(worker=worker):
                taken.append(payload_of(claimed))
                world.settle(claimed, worker=worker)

        def other() -> None:
            world.extra = True
            claim(world.b)

        return lambda: claim(world.a), other

    def each_once(world: World) -> None:
        assert sorted(taken) == (["a", "b"] if world.extra else ["a"])

    everywhere(make_world, scene, after=each_once)


# ---------------------------------------------------------------------------- keys

GONE = pytest.param("its event is gone", marks=pytest.mark.exhaustive)  # which is searched for again and again


@pytest.mark.parametrize("stale", ["no marker", "its period is over", "it is torn", GONE])
def test_keyed_puts_race_and_one_wins(make_world: Worlds, stale: str) -> None:
    """At each call of one put comes another one, complete; also when both find a marker to replace."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        assert world.a.worker
        assert world.b.worker
        if stale != "no marker":
            world.put_key("old", "key", unique=1.0)
            world.settle(world.claim()[0])
            world.clock.advance(2.0)
            world.ledger.held.clear()
        (marker,) = (world.root / "queues/q/keys").iterdir() if stale != "no marker" else (None,)
        if marker is not None and stale == "its event is gone":
            marker.write_bytes(msgspec.json.encode({"key": "key", "id": world.ledger.ids["old"]}))
        elif marker is not None and stale == "it is torn":
            marker.write_bytes(marker.read_bytes()[:20])

        def other() -> None:
            try:
                world.put_key("b", "key", worker=world.b)
            except StorageError as error:
                assert "put again" in str(error)  # the first one stands still, with the marker locked
                world.extra = error

        return lambda: world.put_key("a", "key"), other

    def one_won(world: World) -> None:
        won = [payload for payload in "ab" if world.ledger.fates.get(payload) == {DELIVERED}]
        assert won == ["a"] if world.extra else len(won) == 1, f"{won} of two puts with one key won"

    everywhere(make_world, scene, after=one_won)


def test_two_replace_one_stale_marker_and_a_third_stays(make_world: Worlds) -> None:
    """A is about to remove a stale marker; meanwhile B removes it, puts its own, and its event is even settled and
    the key taken by C: A must not remove C's."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put_key("old", "key", unique=1.0)
        world.settle(world.claim()[0])
        world.clock.advance(2.0)
        world.ledger.held.clear()
        assert world.b.worker

        def other() -> None:
            try:
                fresh = world.put_key("b", "key", worker=world.b)[1]
            except StorageError:
                return  # the first one stands still, with the marker locked
            if fresh:
                claim_all(world, world.b)
                world.put_key("c", "key", worker=world.b)

        return lambda: world.put_key("a", "key"), other

    everywhere(make_world, scene)


def test_a_settle_frees_the_key_while_it_is_put(make_world: Worlds) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put_key("a", "key", worker=world.b)
        (claimed,) = world.claim(worker=world.b)
        return lambda: world.put_key("b", "key"), lambda: world.settle(claimed, worker=world.b)

    everywhere(make_world, scene)


# ---------------------------------------------------------------------------- settles and edits


OUTCOMES: list[Outcome] = [Completed(), Completed(b"1"), Released(), Retried(1.0), Rejected()]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_cancel_comes_at_any_point_of_a_settle(make_world: Worlds, outcome: Outcome) -> None:
    """It finds the event where it is, or is too late; it never makes a second one of it."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put(*"abc")
        claimed = world.claim()[0]
        assert world.b.worker

        def cancel() -> None:
            fates = world.ledger.fates["a"]
            world.allow("a", *fates, "cancelled")
            word = world.b.edit("q", [world.ledger.ids["a"]], Cancel())[0]
            if word == "cancelled":
                world.allow("a", "cancelled")

        def settle() -> None:
            fates_before = world.ledger.fates["a"]
            world.settle(claimed, outcome)
            if world.b.get(world.ledger.ids["a"]) is not None and fates_before:
                record = world.b.get(world.ledger.ids["a"])
                if record is not None and record.state is State.CANCELLED:
                    world.allow("a", "cancelled")

        return settle, cancel

    everywhere(make_world, scene)


def test_claim_comes_at_any_point_of_a_cancel(make_world: Worlds) -> None:
    """Either it is cancelled, or it runs."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put("a", "b", worker=world.b)
        assert world.a.worker

        def cancel() -> None:
            world.allow("a", DELIVERED, NOWHERE, "cancelled")
            word = world.a.edit("q", [world.ledger.ids["a"]], Cancel())[0]
            delivered = world.extra or []
            assert word in ("cancelled", "requested", "too late", "unknown")
            assert (word == "cancelled") == ("a" not in delivered)
            world.allow("a", "cancelled" if word == "cancelled" else NOWHERE)

        def claim() -> None:
            world.extra = [payload_of(claimed) for claimed in claim_all(world, world.b)]

        return cancel, claim

    everywhere(make_world, scene)


def test_requeue_comes_at_any_point_of_another_requeue(make_world: Worlds) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put("a")
        world.settle(world.claim()[0], Rejected())
        world.allow("a", DELIVERED)
        id = world.ledger.ids["a"]
        return lambda: world.a.edit("q", [id], Requeue()), lambda: world.b.edit("q", [id], Requeue())

    everywhere(make_world, scene)


def test_requeue_comes_at_any_point_of_a_release(make_world: Worlds) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put("a")
        claimed = world.claim()[0]
        id = world.ledger.ids["a"]
        assert world.b.worker
        return lambda: world.settle(claimed, Released(5.0)), lambda: world.b.edit("q", [id], Requeue())

    everywhere(make_world, scene)


def test_a_starving_worker_is_fed_at_any_point_of_a_start(make_world: Worlds) -> None:
    """`share` gives half away between any two calls of a claim that starts what is left."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put(*"abcdef", worker=world.b)
        world.claim(1, worker=world.b)
        world.extra = world.a.watch(queue="q")
        return lambda: (world.b.maintain(), claim_all(world, world.b)), lambda: claim_all(world, world.a)

    def fold(world: World) -> None:
        world.extra.close()
        world.extra = None
        world.allow("a", DELIVERED)

    everywhere(make_world, scene, after=fold)


def test_retention_comes_at_any_point_of_a_get(make_world: Worlds) -> None:
    """A reader finds a record or none; never half of one, and no error."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put("a")
        world.settle(world.claim()[0], Completed(b"1"))
        world.clock.advance(7200.0)
        world.allow("a", NOWHERE)
        id = world.ledger.ids["a"]

        def get() -> None:
            record = world.a.get(id)
            assert record is None or record.value == b"1"

        return get, lambda: world.b.prune("q")

    everywhere(make_world, scene, after=lambda world: world.b.prune("q"))


def test_a_queue_is_dropped_at_any_point_of_a_put(make_world: Worlds) -> None:
    """The put makes the queue again, or its event went with the queue; it never fails in between for good."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put("before")
        world.clock.advance(1.0)
        assert world.b.worker

        def drop() -> None:
            for payload in world.ledger.fates:
                world.allow(payload, NOWHERE, DELIVERED)
            world.b.drop("q")
            world.allow("before", NOWHERE)

        def put() -> None:
            try:
                world.put("a")
            except OutcomeUnknown:
                pass  # it was there, and its folder is not
            world.allow("a", DELIVERED, NOWHERE)

        return put, drop

    def put_again(world: World) -> None:
        world.put("after")

    everywhere(make_world, scene, after=put_again)


# ---------------------------------------------------------------------------- leases


def test_a_late_settle_overwrites_nothing(make_world: Worlds) -> None:
    """A lease passes at any point of a settle: the late worker's record stands, or it learns that its claim is lost."""
    for outcome in OUTCOMES:

        def scene(world: World, outcome: Outcome = outcome) -> tuple[Callable[[], object], Callable[[], object]]:
            world.a.configure("q", {"lease": 1.0})
            world.put("a", "b")
            claimed = world.claim()[0]
            world.claim(worker=world.b)
            world.look(world.b)

            def settle() -> None:
                world.extra = []
                lost = False
                try:
                    world.settle(claimed, outcome)
                except ClaimLost:
                    lost = True
                if "a" in world.extra:
                    assert lost or isinstance(outcome, Released | Retried), "settled by both"
                    world.allow("a", NOWHERE)
                elif lost:
                    world.allow("a", DELIVERED, fate_of(outcome))  # its record came in time or not

            def take_over() -> None:
                world.clock.advance(2.0)
                world.b.recover()
                for other in world.claim(2, worker=world.b):
                    world.extra.append(payload_of(other))
                    world.settle(other, worker=world.b)

            return settle, take_over

        everywhere(make_world, scene, after=lambda world: setattr(world, "extra", None))


def test_a_worker_that_lost_a_file_lets_go_of_all_its_events(world: World) -> None:
    """Those that it had not started, too: it must neither start them nor give them back."""
    world.a.configure("q", {"lease": 1.0})
    world.put(*"abc")
    claimed = world.claim()[0]
    world.claim(worker=world.b)
    world.look(world.b)
    world.clock.advance(2.0)
    world.b.recover()
    taken = world.claim(3, worker=world.b)
    assert [payload_of(one) for one in taken] == list("abc")
    with pytest.raises(ClaimLost):
        world.a.settle(claimed, Completed())
    assert world.claim(3) == []
    world.a.give_back("q")
    for one in taken:
        world.settle(one, worker=world.b)
    close(world)
    check(world)


# ---------------------------------------------------------------------------- rooms


def test_a_room_is_made_beside_somebody_who_looks_for_the_dead(make_world: Worlds) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put("first")
        other = world.b

        def look() -> None:
            world.clock.advance(LOOK_INTERVAL)
            world.a.recover()

        return lambda: world.put("a", worker=other), look

    everywhere(make_world, scene)


def test_two_look_after_one_dead_room(make_world: Worlds) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put(*"abc")
        first = world.claim(2)[0]
        world.settle(first, Completed(b"1"))
        victim = world.workers[0]
        one, two = world.open(), world.open()
        assert one.worker
        assert two.worker
        world.kill(victim)
        world.clock.advance(LOOK_INTERVAL)
        return one.recover, two.recover

    everywhere(make_world, scene)


def test_a_room_is_left_beside_somebody_who_looks_for_the_dead(make_world: Worlds) -> None:
    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        world.put(*"abc", worker=world.b)
        world.claim(worker=world.b)
        leaver = world.workers[1]

        def look() -> None:
            world.clock.advance(LOOK_INTERVAL)
            world.a.recover()

        return leaver.close, look

    everywhere(make_world, scene)


def test_two_make_one_store(make_world: Worlds) -> None:
    """What the faster maker decided about durability holds for both."""

    def scene(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
        def make(number: int) -> None:
            store = FileStorage(world.root, clock=world.clock)
            world.workers.append(store)
            world.put(f"by {number}", worker=store)

        return lambda: make(1), lambda: make(2)

    everywhere(make_world, scene)


# ---------------------------------------------------------------------------- clocks


def test_ids_rise_when_the_clock_is_stepped(world: World) -> None:
    ids = []
    for step in (0.0, -1e6, 1.0, 5e6, -1e7, 0.0):
        world.clock.step_wall(step)
        for _ in range(3):
            ids += world.put(f"e{len(ids)}")
            world.clock.advance(0.005)
    assert ids == sorted(ids)
    assert len({nanoseconds_of(id) for id in ids}) > 6
    delivered = []
    while found := world.claim(4):
        for claimed in found:
            delivered.append(payload_of(claimed))
            world.settle(claimed)
    assert delivered == [f"e{number}" for number in range(len(ids))]


def test_a_clock_that_was_stepped_back_still_delivers_what_is_delayed(world: World) -> None:
    world.put("a", due=world.clock.now() + 5)
    world.clock.step_wall(-3600.0)
    assert world.claim() == []
    world.clock.advance(3606.0)
    world.look()
    claimed = world.claim()
    assert [payload_of(one) for one in claimed] == ["a"]
    world.settle(claimed[0])


def test_a_locked_file_is_no_error_and_comes_later(world: World) -> None:
    """Somebody holds an event file's lock: a claimer passes it over; an edit says so."""
    world.put("a", worker=world.b)
    assert world.a.worker
    (path,) = (world.root / "queues/q/ready/0").iterdir()
    fd = world.disk.pass_on("open_file", (str(path),))
    assert world.disk.real["try_lock"](fd)
    with pytest.raises(StorageError, match="stopped within a put"):
        world.a.edit("q", [world.ledger.ids["a"]], Cancel())
    assert world.claim() == []
    world.disk.pass_on("close", (fd,))
    world.look()
    claimed = world.claim()
    assert [payload_of(one) for one in claimed] == ["a"]
    world.settle(claimed[0])
    close(world)
    check(world)
