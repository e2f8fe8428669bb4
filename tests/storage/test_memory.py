"""What is peculiar to the memory storage: names, forks, its cost, and that it forgets."""

from __future__ import annotations

import os
import select
import tracemalloc
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventq.errors import ClaimLost, ConfigError, StorageClosed
from eventq.model import Cancel, Completed, Delete, Filter, PutOptions, Rejected, Requeue, Retried, Settings, State
from eventq.storage import open_storage
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.memory import MemoryStorage
from eventq.storage.memory.queue import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.storage.base import Watch
    from eventq.testing import FakeClock

NOW = PutOptions()


@pytest.fixture
def store(clock: FakeClock) -> Iterator[MemoryStorage]:
    with MemoryStorage(clock=clock) as store:
        yield store


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    name = request.node.nodeid
    yield name
    MemoryStorage.forget(name)


def fires(watch: Watch) -> bool:
    return bool(select.select([watch], [], [], 0)[0])


# ---------------------------------------------------------------- names and sharing


def test_nameless_stores_are_private() -> None:
    with MemoryStorage() as one, MemoryStorage() as two:
        one.put("q", [b"1"], NOW)
        assert two.claim("q") == []
        assert two.queues() == []


def test_a_name_is_shared(name: str) -> None:
    with MemoryStorage(name) as one, MemoryStorage(name) as two:
        one.put("q", [b"1"], NOW)
        assert [claimed.payload for claimed in two.claim("q")] == [b"1"]
        assert one.worker != two.worker


def test_a_named_store_outlives_its_workers_until_forgotten(name: str) -> None:
    with MemoryStorage(name) as one:
        one.put("q", [b"1"], NOW)
    with MemoryStorage(name) as two:
        assert two.stats("q").ready == 1
        MemoryStorage.forget(name)
        with MemoryStorage(name) as three:
            assert three.queues() == []
        assert two.queues() == ["q"]


def test_it_opens_by_url(name: str) -> None:
    with open_storage(f"memory://{name}") as one, MemoryStorage(name) as two, open_storage("memory://") as other:
        one.put("q", [b"1"], NOW)
        assert two.stats("q").ready == 1
        assert other.stats("q").ready == 0
    with pytest.raises(ConfigError, match="sync"):
        open_storage("memory://", sync=True)


def test_one_worker_cannot_settle_for_another(name: str) -> None:
    with MemoryStorage(name) as one, MemoryStorage(name) as two:
        one.put("q", [b"1"], NOW)
        (claimed,) = one.claim("q")
        with pytest.raises(ClaimLost):
            two.settle(claimed, Completed())
        one.settle(claimed, Completed())


def test_a_forked_child_is_told(store: MemoryStorage) -> None:
    store.put("q", [b"1"], NOW)
    with store._gate:  # as if another thread were inside at the fork
        child = os.fork()
        if child == 0:
            try:
                store.claim("q")
            except StorageClosed:
                os._exit(7)
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.put("q", [b"1"], PutOptions(key="k")),
        lambda store: store.put_key("q", b"1", NOW),
        lambda store: store.put_key("q", b"1", PutOptions(key="k", unique="forever")),
        lambda store: store.scan("q", State.READY, Filter(), limit=0),
        lambda store: store.take_slot("s", 0),
    ],
)
def test_wrong_use_is_a_value_error(store: MemoryStorage, call: Callable[[MemoryStorage], Any]) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        call(store)
    assert store.queues() == []


def test_a_watch_of_nothing_is_a_type_error(store: MemoryStorage) -> None:
    with pytest.raises(TypeError, match="queue or an event id"):
        store.watch()


# ---------------------------------------------------------------- isolation


def test_a_payload_is_the_stores_own(store: MemoryStorage) -> None:
    payload = bytearray(b"1")
    (id,) = store.put("q", [payload], NOW)  # type: ignore[list-item]
    payload[:] = b"2"
    record = store.get(id)
    assert record is not None
    assert record.payload == b"1"


def test_headers_come_back_as_from_a_file(store: MemoryStorage) -> None:
    store.put("q", [b"1"], PutOptions(headers={"pair": (1, 2)}))
    assert store.claim("q")[0].headers == {"pair": [1, 2]}


# ---------------------------------------------------------------- leases


def test_a_note_is_progress(name: str, clock: FakeClock) -> None:
    with MemoryStorage(name, clock=clock) as busy, MemoryStorage(name, clock=clock) as other:
        busy.configure("q", {"lease": 1.0})
        busy.put("q", [b"1", b"2"], NOW)
        working, hung = busy.claim("q", 2)
        for _ in range(5):
            clock.advance(0.5)
            busy.note(working, "progress", b"1")
            other.recover()
        with pytest.raises(ClaimLost):
            busy.note(hung, "progress", b"1")
        busy.settle(working, Completed())
        assert [claimed.payload for claimed in other.claim("q", 5)] == [b"2"]


def test_a_lease_is_not_measured_by_the_wall_clock(name: str, clock: FakeClock) -> None:
    with MemoryStorage(name, clock=clock) as one, MemoryStorage(name, clock=clock) as other:
        one.configure("q", {"lease": 10.0})
        one.put("q", [b"1"], NOW)
        (claimed,) = one.claim("q")
        clock.step_wall(1e6)
        clock.advance(1.0)
        other.recover()
        assert other.claim("q") == []
        one.settle(claimed, Completed())


# ---------------------------------------------------------------- waking


def test_wakes_do_not_pile_up(store: MemoryStorage) -> None:
    watch = store.watch("q")
    for _ in range(1000):
        store.put("q", [b"1"], NOW)
    watch.clear()
    assert not fires(watch)
    watch.close()


def test_a_put_wakes_one_of_two_and_a_resume_both(store: MemoryStorage) -> None:
    one, two = store.watch("q"), store.watch("q")
    store.put("q", [b"1"], NOW)
    one.clear()
    assert not fires(two)
    store.configure("q", {"paused": False})
    one.clear()
    assert fires(two)
    one.close()
    two.close()


def test_closed_watches_leave_no_descriptor(store: MemoryStorage) -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(100):
        watches = [store.watch("q"), store.watch("q"), store.watch(id="x")]
        for watch in watches:
            watch.close()
        assert [watch.fileno() for watch in watches] == [-1] * 3
    store.watch("q")
    store.close()
    assert len(os.listdir("/dev/fd")) == before


def test_everyone_who_watches_an_event_is_woken(name: str) -> None:
    with MemoryStorage(name) as one, MemoryStorage(name) as two:
        (id,) = one.put("q", [b"1"], NOW)
        watches = [one.watch(id=id), two.watch(id=id)]
        one.settle(one.claim("q")[0], Completed())
        for watch in watches:
            assert fires(watch)
            watch.clear()
        for watch in watches:
            watch.close()


# ---------------------------------------------------------------- time


def test_a_delayed_event_is_due_to_the_instant(store: MemoryStorage, clock: FakeClock) -> None:
    due = clock.now() + 10
    store.put("q", [b"1"], PutOptions(due=due))
    clock.advance(9.999)
    assert store.claim("q") == []
    assert store.recover() == pytest.approx(0.001, abs=1e-6)
    clock.advance(due - clock.now())
    assert len(store.claim("q")) == 1


def test_ready_stays_ready_when_the_clock_steps_back(store: MemoryStorage, clock: FakeClock) -> None:
    store.put("q", [b"1"], PutOptions(due=clock.now() + 10))
    clock.advance(10)
    (claimed,) = store.claim("q")
    clock.step_wall(-3600)
    store.settle(claimed, Retried(0.0))
    assert [one.failures for one in store.claim("q")] == [1]


def test_recover_does_its_work_once_per_look(name: str, clock: FakeClock) -> None:
    with MemoryStorage(name, clock=clock) as store:
        victim = MemoryStorage(name, clock=clock)
        victim.put("q", [b"1"], NOW)
        victim.claim("q")
        assert store.recover() == LOOK_INTERVAL
        victim.abandon()
        store.recover()
        assert store.claim("q") == []
        clock.advance(LOOK_INTERVAL)
        store.recover()
        assert [claimed.crashes for claimed in store.claim("q")] == [1]


def test_retention_is_exact(store: MemoryStorage, clock: FakeClock) -> None:
    store.configure("q", {"keep": 10.0, "keep_dead": 20.0, "keep_dead_count": 2})
    ids = store.put("q", [b"1"] * 6, NOW)
    claimed = store.claim("q", 6)
    for one in claimed[:2]:
        store.settle(one, Completed(b"1"))
    for one in claimed[2:]:
        store.settle(one, Rejected())
    assert [store.get(id) is not None for id in ids] == [True, True, False, False, True, True]
    clock.advance(10.0)
    assert [store.get(id) is not None for id in ids] == [False, False, False, False, True, True]
    store.configure("q", {"keep_dead": 5.0})
    assert store.prune("q") == 2
    assert store.stats("q").dead == 0


# ---------------------------------------------------------------- cost


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(
    "step",
    [
        lambda store, claimed: store.settle(claimed, Completed()),
        lambda store, claimed: store.settle(claimed, Completed(b"1")),
        lambda store, claimed: store.settle(claimed, Rejected()),
        lambda store, claimed: store.settle(claimed, Retried(0.0)) or store.purge("q", State.READY),
        lambda store, claimed: store.settle(claimed, Retried(1e6)) or store.edit("q", [claimed.id], Cancel()),
        lambda store, claimed: store.settle(claimed, Rejected()) or store.edit("q", [claimed.id], Delete()),
    ],
)  # fmt: skip
def test_memory_does_not_grow_with_history(
    store: MemoryStorage, clock: FakeClock, step: Callable[..., Any], count: int
) -> None:
    store.configure("q", {"keep": 1.0, "keep_dead": 1.0})

    def live(count: int) -> None:
        for number in range(count):
            options = PutOptions(key=f"key{number}", unique=0.5, due=clock.now() - 1, expires=clock.now() + 1e6)
            store.put_key("q", b"1", options)
            step(store, store.claim("q")[0])
            clock.advance(0.1)

    live(100)
    tracemalloc.start()
    try:
        live(100)
        before = tracemalloc.get_traced_memory()[0]
        live(count)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 100 * count, f"{grown} bytes more after {count} events"


def test_cancelled_events_leave_no_trace_in_a_queue_that_nobody_claims_from(store: MemoryStorage) -> None:
    store.configure("q", {"keep_dead": 0})
    for number in range(2000):
        due = PutOptions(due=1e12) if number % 2 else NOW
        assert store.edit("q", store.put("q", [b"1"], due), Cancel()) == ["cancelled"]
    queue = store._store.queues["q"]
    assert len(queue.delayed._heap) + sum(len(line._heap) for line in queue.ready.values()) < 200
    assert not queue.events


def test_a_line_gives_its_names_in_order() -> None:
    line = Line()
    for name in "hgfedcba":
        line.add(name, ord(name))
    for name in "bdh":
        line.remove(name)
    line.remove("never there")
    line.add("a", 1000)  # a new place
    order = []
    while (head := line.first()) is not None:
        order.append(head[1])
        line.remove(head[1])
    assert order == ["c", "e", "f", "g", "a"]
    assert len(line) == 0


def test_removed_names_do_not_pile_up_in_a_line() -> None:
    line = Line()
    for number in range(10_000):
        line.add(str(number), number)
        if number >= 10:
            line.remove(str(number - 10))
    assert len(line) == 10
    assert len(line._heap) < 200
    assert line.first() == (9990, "9990")


def test_notes_that_went_still_count(store: MemoryStorage) -> None:
    store.put("q", [b"1"], NOW)
    (claimed,) = store.claim("q")
    for number in range(20):
        store.note(claimed, str(number), b'"' + b"x" * 100_000 + b'"')
    kept = store.notes(claimed.id)
    assert [note.kind for note in kept] == [str(number) for number in range(10, 20)]
    assert [note.kind for note in store.notes(claimed.id, after=15)] == ["15", "16", "17", "18", "19"]


# ---------------------------------------------------------------- what it decides where others may differ


def test_a_requeued_event_has_its_key_again(store: MemoryStorage) -> None:
    options = PutOptions(key="k")
    id, _ = store.put_key("q", b"1", options)
    store.settle(store.claim("q")[0], Rejected())
    assert store.edit("q", [id], Requeue()) == [id]
    assert store.put_key("q", b"1", options) == (id, False)


def test_a_requeued_event_takes_no_key_from_another(store: MemoryStorage) -> None:
    options = PutOptions(key="k")
    old, _ = store.put_key("q", b"1", options)
    store.settle(store.claim("q")[0], Rejected())
    new, _ = store.put_key("q", b"2", options)
    store.edit("q", [old], Requeue())
    assert store.put_key("q", b"3", options) == (new, False)


def test_settings_convert_as_they_would_from_a_file(store: MemoryStorage) -> None:
    assert store.configure("q", {"keep": 5}) == msgspec.json.decode(b'{"keep": 5}', type=Settings)
    with pytest.raises(ConfigError, match="there are max_attempts"):
        store.configure("q", {"keeep": 5})
