"""Fetching ahead, over SQLite and PostgreSQL: what is fetched is ready to all, and started once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stores import new_store

from eventq.model import Cancel, Completed, Delete, Filter, Move, PutOptions, Released, Retried, State
from eventq.storage import open_storage
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.sql import ahead
from eventq.storage.sql.ahead import HOLD, MOST, STALE, STREAK, Ahead
from eventq.testing import FakeClock, StorageConformance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from eventq.storage.base import Storage

EVERYTHING = Filter()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with new_store(request.param, tmp_path) as url:
        if request.param == "postgresql":
            from eventq.storage.sql import migrate

            migrate(url)
        yield url


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def open_worker(url: str, clock: FakeClock) -> Iterator[Callable[[], Storage]]:
    opened: list[Storage] = []

    def open_worker() -> Storage:
        opened.append(open_storage(url, clock=clock))
        return opened[-1]

    yield open_worker
    for store in opened:
        store.close()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every claim fetches eight, and nothing grows stale by itself."""
    monkeypatch.setattr(Ahead, "wanted", lambda self, now: 8)
    monkeypatch.setattr(Ahead, "is_stale", lambda self, now: False)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes between claims, however slow the machine is."""
    monkeypatch.setattr("eventq.storage.sql.storage.SYSTEM", FakeClock())


@pytest.mark.exhaustive
class TestEager(StorageConformance):
    """The whole suite holds for workers that fetch at every claim."""

    @pytest.fixture(autouse=True)
    def always(self, eager: None) -> None:
        pass

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def open_worker(self, url: str, clock: FakeClock) -> Callable[[], Storage]:
        return lambda: open_storage(url, clock=clock)

    @pytest.fixture
    def kill(self) -> Callable[[Storage], None]:
        return lambda store: store.abandon()  # type: ignore[attr-defined]


def numbered(store: Storage, count: int) -> list[str]:
    return store.put("q", [b"%d" % number for number in range(count)], PutOptions())


def drained(store: Storage) -> list[int]:
    """What is claimed and completed until there is nothing more."""
    found = []
    while claims := store.claim("q"):
        assert len(claims) == 1
        found.append(int(claims[0].payload))
        store.settle(claims[0], Completed())
    return found


def counts(store: Storage) -> tuple[int, int]:
    stats = store.stats("q")
    return stats.ready, stats.claimed


# ---------------------------------------------------------------- pace


def test_a_worker_fetches_what_it_starts_within_the_hold() -> None:
    fetched, now = Ahead(), 100.0
    wanted = []
    for _ in range(STREAK + 100):
        now += HOLD / 8
        wanted.append(fetched.wanted(now))
    assert wanted[: STREAK - 1] == [1] * (STREAK - 1)
    assert set(wanted[-20:]) <= {7, 8}
    assert fetched.wanted(now + HOLD / 1000) <= MOST
    assert fetched.wanted(now + 2 * HOLD) == 1, "after a rest it begins anew"
    assert fetched.wanted(now + 2 * HOLD) == 1


def test_however_fast_it_is_there_is_a_most() -> None:
    fetched = Ahead()
    wanted = [fetched.wanted(100.0 + number * 1e-6) for number in range(1000)]
    assert (min(wanted), max(wanted), wanted[-1]) == (1, MOST, MOST)


def test_a_queue_that_has_no_more_is_claimed_one_by_one(open_worker: Callable[[], Storage], at_once: None) -> None:
    store = open_worker()
    numbered(store, STREAK * 3)
    assert drained(store) == list(range(STREAK * 3))
    numbered(store, 2)
    store.claim("q")
    assert counts(store) == (1, 1)
    assert not store._ahead["q"], "nothing is fetched for two"  # type: ignore[attr-defined]


def test_a_worker_whose_events_fail_does_not_fetch_them_again_and_again(
    open_worker: Callable[[], Storage], at_once: None
) -> None:
    store = open_worker()
    numbered(store, STREAK * 2)
    for _ in range(STREAK):
        (claimed,) = store.claim("q")
        store.settle(claimed, Completed())
    fetched = store._ahead["q"]  # type: ignore[attr-defined]
    (claimed,) = store.claim("q")
    assert fetched
    store.settle(claimed, Retried(0.0))
    assert not fetched
    for _ in range(STREAK // 2):
        (claimed,) = store.claim("q")
        assert not fetched
        store.settle(claimed, Retried(60.0))


# ---------------------------------------------------------------- ready to all


def test_what_is_fetched_is_ready_to_who_looks(open_worker: Callable[[], Storage], eager: None) -> None:
    store, other = open_worker(), open_worker()
    ids = numbered(store, 4)
    (claimed,) = store.claim("q")
    assert claimed.id == ids[0]
    for looker in (store, other):
        assert counts(looker) == (3, 1)
        assert [record.id for record in looker.scan("q", State.READY, EVERYTHING).records] == ids[1:]
        assert [record.id for record in looker.scan("q", State.CLAIMED, EVERYTHING).records] == ids[:1]
        record = looker.get(ids[2])
        assert record is not None
        assert (record.state, record.worker, record.attempts) == (State.READY, None, ())
        assert {worker.id: worker.claims for worker in looker.workers()}[store.worker] == (ids[0],)


def test_others_take_over_what_is_fetched_one_at_a_time(open_worker: Callable[[], Storage], eager: None) -> None:
    store, other = open_worker(), open_worker()
    numbered(store, 8)
    (mine,) = store.claim("q")
    (theirs,) = other.claim("q")
    assert (mine.payload, theirs.payload) == (b"0", b"1")
    assert counts(store) == (6, 2)
    store.settle(mine, Completed())
    assert drained(store) == [2, 3, 4, 5, 6, 7]
    other.settle(theirs, Completed())
    assert counts(store) == (0, 0)


def test_who_wants_several_takes_over_so_many(open_worker: Callable[[], Storage], eager: None) -> None:
    store, other = open_worker(), open_worker()
    numbered(store, 8)
    store.claim("q")
    assert [claimed.payload for claimed in other.claim("q", 3)] == [b"1", b"2", b"3"]
    assert counts(store) == (4, 4)


def test_also_in_a_queue_whose_events_need_care(open_worker: Callable[[], Storage], eager: None) -> None:
    store, other = open_worker(), open_worker()
    numbered(store, 3)
    (claimed,) = store.claim("q")
    store.put("q", [b"9"], PutOptions(limits={"one": 1}))
    assert [drained(other), drained(other)] == [[9, 1, 2], []]
    store.settle(claimed, Completed())
    assert drained(store) == []


@pytest.mark.parametrize(
    ("edit", "left"),
    [(Cancel(), [0, 2, 3]), (Move("other"), [0, 2, 3]), (Delete(), [0, 2, 3])],
    ids=lambda e: str(e)[:6],
)
def test_what_was_changed_after_it_was_fetched_is_not_started(
    open_worker: Callable[[], Storage], eager: None, edit: Cancel | Move | Delete, left: list[int]
) -> None:
    store, other = open_worker(), open_worker()
    ids = numbered(store, 4)
    (claimed,) = store.claim("q")
    (word,) = other.edit("q", [ids[1]], edit)
    assert word in ("cancelled", "moved", "deleted")
    store.settle(claimed, Completed())
    assert [0, *drained(store)] == left


def test_what_was_purged_after_it_was_fetched_is_not_started(open_worker: Callable[[], Storage], eager: None) -> None:
    store, other = open_worker(), open_worker()
    numbered(store, 4)
    (claimed,) = store.claim("q")
    assert other.purge("q", State.READY) == 3
    store.settle(claimed, Completed())
    assert drained(store) == []


def test_a_queue_can_be_dropped_of_which_much_is_fetched(open_worker: Callable[[], Storage], eager: None) -> None:
    store, other = open_worker(), open_worker()
    numbered(store, 4)
    (claimed,) = store.claim("q")
    store.settle(claimed, Completed())
    other.drop("q")
    assert drained(store) == []
    assert "q" not in other.queues()


# ---------------------------------------------------------------- given back


def test_what_a_killed_worker_had_fetched_counts_no_crash(
    open_worker: Callable[[], Storage], eager: None, clock: FakeClock
) -> None:
    victim, heir = open_worker(), open_worker()
    ids = numbered(victim, 4)
    victim.claim("q")
    victim.abandon()  # type: ignore[attr-defined]
    for _ in range(8):
        clock.advance(LOOK_INTERVAL)
        heir.recover()
    crashes = {record.id: record.crashes for record in heir.scan("q", State.READY, EVERYTHING).records}
    assert crashes == dict(zip(ids, [1, 0, 0, 0], strict=True))
    assert drained(heir) == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["close", "give_back", "release", "pause", "several"])
def test_what_is_fetched_is_given_back_in_order(open_worker: Callable[[], Storage], eager: None, how: str) -> None:
    store, other = open_worker(), open_worker()
    numbered(store, 4)
    (claimed,) = store.claim("q")
    if how == "close":
        store.close()
    elif how == "give_back":
        store.give_back("q")
    elif how == "release":
        store.settle(claimed, Released())
        (claimed,) = store.claim("q")
        assert claimed.payload == b"0"
        store.give_back("q")
    elif how == "several":
        assert [one.payload for one in store.claim("q", 2)] == [b"1", b"2"]
    else:
        other.configure("q", {"paused": True})
        store.settings("q")
        assert store.claim("q") == []
    assert not ahead_of(store)
    if how != "close":
        assert counts(other)[0] == len(other.scan("q", State.READY, EVERYTHING).records)


def ahead_of(store: Storage) -> int:
    """How many rows say that the worker has fetched them."""
    database = store._database  # type: ignore[attr-defined]
    if store._closed:  # type: ignore[attr-defined]
        return 0
    return sum(row[2] for row in database.execute(ahead.HOARDS) if row[0] == store.worker)


def test_what_is_stale_is_given_back_by_its_worker(
    open_worker: Callable[[], Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ahead, "wanted", lambda self, now: 8)
    store = open_worker()
    numbered(store, 4)
    (claimed,) = store.claim("q")
    assert ahead_of(store) == 3
    assert store.recover() <= STALE
    store._ahead["q"]._since -= 2 * STALE  # type: ignore[attr-defined]
    store.recover()
    assert ahead_of(store) == 0
    store.settle(claimed, Completed())
    assert drained(store) == [1, 2, 3]


def test_a_hoard_is_taken_back_from_a_worker_that_does_nothing(
    open_worker: Callable[[], Storage], eager: None, clock: FakeClock
) -> None:
    hoarder, other = open_worker(), open_worker()
    numbered(hoarder, 4)
    (claimed,) = hoarder.claim("q")
    other.recover()
    assert ahead_of(hoarder) == 3
    clock.advance(LOOK_INTERVAL)
    other.recover()
    assert ahead_of(hoarder) == 0
    assert drained(other) == [1, 2, 3]
    hoarder.settle(claimed, Completed())
    assert drained(hoarder) == []
