"""Putting: options, keys, headers, follow-ups, and what is refused before anything is stored."""

from __future__ import annotations

import pickle
import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, ConfigError, DuplicateKey, PayloadError, Queue, QueueFull, State, TaskCancelled
from eventq.model import PutOptions
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def app(url: str, clock: FakeClock) -> Iterator[App]:
    with App(url, clock=clock) as app:
        yield app


@pytest.fixture
def queue(app: App) -> Queue[Any]:
    return app.queue("orders")


def drain(queue: Queue[Any]) -> list[Any]:
    payloads = []
    for claim in queue.claims(timeout=0):
        with claim as event:
            payloads.append(event.payload)
    return payloads


# ---------------------------------------------------------------- putting


def test_an_event_goes_through(queue: Queue[Any], clock: FakeClock) -> None:
    id = queue.put({"sku": 7}, headers={"user": "ann"}, priority=2)
    claim = queue.claim()
    assert claim is not None
    event = claim.event
    assert event is claim.event
    assert (event.id, event.queue, event.payload) == (id, "orders", {"sku": 7})
    assert (event.headers, event.priority, event.attempt) == ({"user": "ann"}, 2, 1)
    assert event.created == datetime.fromtimestamp(clock.now(), UTC)
    claim.complete()
    assert queue.claim() is None
    assert queue.get(id) is None


def test_the_payload_is_a_copy(queue: Queue[Any]) -> None:
    payload = {"list": [1]}
    headers = {"h": [1]}
    queue.put(payload, headers=headers)
    payload["list"].append(2)
    headers["h"].append(2)
    claim = queue.claim()
    assert claim is not None
    assert claim.event.payload == {"list": [1]}
    assert claim.event.headers == {"h": [1]}


def test_priorities_then_age(queue: Queue[Any]) -> None:
    for priority, payload in ((1, "a"), (3, "b"), (5, "c"), (5, "d"), (-100, "e"), (100, "f")):
        queue.put(payload, priority=priority)
    assert drain(queue) == ["f", "c", "d", "b", "a", "e"]


def test_delay_and_at(queue: Queue[Any], clock: FakeClock) -> None:
    queue.put("delay", delay=5)
    queue.put("at", at=datetime.fromtimestamp(clock.now() + 3, timezone(timedelta(hours=2))))
    assert queue.stats().delayed == 2
    assert drain(queue) == []
    clock.advance(3.01)
    assert drain(queue) == ["at"]
    clock.advance(2)
    assert drain(queue) == ["delay"]


def test_expiry_counts_from_the_due_time(queue: Queue[Any], clock: FakeClock) -> None:
    now = queue.put("now", expires=10)
    later = queue.put("later", delay=100, expires=10)
    clock.advance(11)
    assert drain(queue) == []
    assert [record.id for record in queue.scan(State.EXPIRED).records] == [now]
    clock.advance(94)  # 105 s: due for 5 s
    assert drain(queue) == ["later"]
    assert queue.get(later) is None


def test_one_event_per_key(queue: Queue[Any]) -> None:
    first = queue.put("a", key="k")
    assert queue.put("b", key="k") == first
    with pytest.raises(DuplicateKey) as caught:
        queue.put("c", key="k", if_exists="raise")
    assert caught.value.id == first
    assert drain(queue) == ["a"]
    assert queue.put("d", key="k", if_exists="raise") != first


def test_how_long_a_key_is_held(queue: Queue[Any], clock: FakeClock) -> None:
    waiting = queue.put("a", key="waiting", unique="waiting")
    for_a_while = queue.put("b", key="period", unique=60)
    claims = queue.claim_many(2)
    assert queue.put("c", key="waiting", unique="waiting") != waiting
    for claim in claims:
        claim.complete()
    assert queue.put("d", key="period", unique=60) == for_a_while
    clock.advance(61)
    assert queue.put("e", key="period", unique=60) != for_a_while


def test_throttle_lets_one_through_in_each_period(queue: Queue[Any], clock: FakeClock) -> None:
    first = queue.put("a", key="k", throttle=10)
    assert drain(queue) == ["a"]
    clock.advance(9)
    assert queue.put("b", key="k", throttle=10) == first
    with pytest.raises(DuplicateKey):
        queue.put("c", key="k", throttle=10, if_exists="raise")
    clock.advance(2)
    assert queue.put("d", key="k", throttle=10) != first
    assert drain(queue) == ["d"]


def test_debounce_lets_the_last_one_through(queue: Queue[Any], clock: FakeClock) -> None:
    ids = []
    for payload in "abcd":
        ids.append(queue.put(payload, key="k", debounce=3, debounce_max=7, expires=60))
        clock.advance(2)
    assert len(set(ids)) == 4
    assert [record.id for record in queue.scan("cancelled").records] == ids[:3]
    assert drain(queue) == ["d"]  # 7 s after the first
    queue.put("e", key="k", debounce=3)
    assert queue.put("f", key="other", debounce=3) not in ids
    clock.advance(4)
    assert sorted(drain(queue)) == ["e", "f"]


def test_a_debounced_put_can_be_waited_for(app: App, queue: Queue[Any]) -> None:
    handle = app.handle(queue.put("a", key="k", debounce=3))
    later = queue.put("b", key="k", debounce=3)
    with pytest.raises(TaskCancelled, match=later):
        handle.result(timeout=0)


# ---------------------------------------------------------------- at most so many


@pytest.fixture
def full(queue: Queue[Any]) -> Queue[Any]:
    queue.configure(maxsize=1)
    queue.put("there", timeout=0)
    return queue


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_full_queue_refuses_in_time(full: Queue[Any], timeout: float) -> None:
    with pytest.raises(QueueFull, match=r"'orders'.*maxsize=1.*timeout="):
        full.put("x", timeout=timeout)
    with pytest.raises(QueueFull):
        full.put("x", key="k", timeout=timeout)
    with pytest.raises(QueueFull):
        full.put_many(["x"], timeout=timeout)
    assert drain(full) == ["there"]


def test_what_never_fits_is_refused_at_once(full: Queue[Any]) -> None:
    with pytest.raises(QueueFull, match="never fit") as caught:
        full.put_many(["x", "y"])
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.never) == (str(caught.value), True)


@pytest.mark.parametrize("how", ["put", "put with a key", "put_many"])
def test_a_put_waits_for_room(full: Queue[Any], how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = full.store.storage
    waits = threading.Event()
    recover = storage.recover

    def look() -> float:
        waits.set()
        return recover()

    monkeypatch.setattr(storage, "recover", look)
    puts: dict[str, Callable[[], object]] = {
        "put": lambda: full.put("late"),
        "put with a key": lambda: full.put("late", key="k", timeout=20),
        "put_many": lambda: full.put_many(["late"]),
    }
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(puts[how]()), daemon=True)
    thread.start()
    assert waits.wait(20)
    assert not done
    claim = full.claim()
    assert claim is not None
    claim.complete()
    thread.join(20)
    assert done
    assert drain(full) == ["late"]


def test_put_many(queue: Queue[Any]) -> None:
    ids = queue.put_many((number for number in range(5)), priority=1, headers={"batch": "x"})
    assert ids == sorted(ids)
    claims = queue.claim_many(10)
    assert [claim.id for claim in claims] == ids
    assert [claim.event.payload for claim in claims] == [0, 1, 2, 3, 4]
    assert {claim.event.headers["batch"] for claim in claims} == {"x"}
    assert queue.put_many([]) == []


def test_put_many_is_all_or_nothing(queue: Queue[Any]) -> None:
    with pytest.raises(PayloadError, match=r"payload 2 of this put_many.*nothing was stored"):
        queue.put_many([1, 2, (3,), 4])
    assert queue.stats().ready == 0


@pytest.mark.parametrize("payloads", ["abc", b"abc", {"a": 1}])
def test_put_many_is_for_several(queue: Queue[Any], payloads: Any) -> None:
    with pytest.raises(TypeError, match="wrap"):
        queue.put_many(payloads)


NOW = datetime.now(UTC)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"priority": 101}, ConfigError, r"-100\.\.100"),
    ({"priority": -101}, ConfigError, r"-100\.\.100"),
    ({"priority": 1.5}, TypeError, "whole number"),
    ({"priority": True}, TypeError, "whole number"),
    ({"priority": "high"}, TypeError, "whole number"),
    ({"delay": -1}, ConfigError, "delay"),
    ({"delay": float("nan")}, ConfigError, "delay"),
    ({"delay": float("inf")}, ConfigError, "delay"),
    ({"delay": "5"}, TypeError, "delay"),
    ({"delay": 1, "at": NOW}, ConfigError, "give one"),
    ({"at": datetime(2030, 1, 1)}, ConfigError, "time zone"),  # noqa: DTZ001 - refused on purpose
    ({"at": 5.0}, TypeError, "aware datetime"),
    ({"expires": 0}, ConfigError, "expires"),
    ({"expires": -1}, ConfigError, "expires"),
    ({"key": ""}, ConfigError, "key= is empty"),
    ({"key": 5}, TypeError, "key="),
    ({"key": "k", "unique": "always"}, ConfigError, "'open', 'waiting'"),
    ({"key": "k", "unique": 0}, ConfigError, "unique"),
    ({"key": "k", "unique": None}, TypeError, "unique"),
    ({"key": "k", "if_exists": "ignore"}, ConfigError, "'raise'"),
    ({"unique": "waiting"}, ConfigError, "give key="),
    ({"if_exists": "raise"}, ConfigError, "give key="),
    ({"throttle": 5}, ConfigError, "give key="),
    ({"key": "k", "throttle": 0}, ConfigError, "throttle"),
    ({"key": "k", "throttle": "5"}, TypeError, "throttle"),
    ({"key": "k", "throttle": 5, "unique": 5}, ConfigError, "give one of them"),
    ({"debounce": 5}, ConfigError, "give key="),
    ({"key": "k", "debounce": 0}, ConfigError, "debounce"),
    ({"key": "k", "debounce": "5"}, TypeError, "debounce"),
    ({"key": "k", "debounce_max": 5}, ConfigError, "give debounce="),
    ({"key": "k", "debounce": 5, "debounce_max": 4}, ConfigError, "debounce_max=4.0 is less"),
    ({"key": "k", "debounce": 5, "debounce_max": "9"}, TypeError, "debounce_max"),
    ({"key": "k", "debounce": 5, "delay": 1}, ConfigError, "leave delay="),
    ({"key": "k", "debounce": 5, "at": NOW}, ConfigError, "leave delay="),
    ({"key": "k", "debounce": 5, "throttle": 5}, ConfigError, "give one of them"),
    ({"key": "k", "debounce": 5, "unique": "waiting"}, ConfigError, "give one of them"),
    ({"key": "k", "debounce": 5, "if_exists": "raise"}, ConfigError, "if_exists"),
    ({"timeout": -1}, ConfigError, "timeout"),
    ({"timeout": "5"}, TypeError, "timeout"),
    ({"headers": {"a": (1,)}}, PayloadError, "JSON"),
    ({"headers": {"a": {1}}}, PayloadError, "JSON"),
    ({"headers": {1: "a"}}, TypeError, "by name"),
    ({"headers": ["a"]}, TypeError, "by name"),
    ({"retries": 3}, TypeError, "retries"),
]


@pytest.mark.parametrize(("options", "error", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_options_store_nothing(
    queue: Queue[Any], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        queue.put("x", **options)
    assert queue.stats().ready + queue.stats().delayed == 0


def test_default_puts_share_one_options_object(monkeypatch: pytest.MonkeyPatch) -> None:
    with App("memory://") as app:
        seen: list[PutOptions] = []

        def put(queue: str, payloads: Any, options: PutOptions) -> list[str]:
            seen.append(options)
            return ["id"]

        monkeypatch.setattr(app.store.storage, "put", put)
        queue = app.queue("orders")
        queue.put(1)
        queue.put(2)
        assert seen[0] is seen[1]
        assert seen[0] == PutOptions()


# ---------------------------------------------------------------- follow-ups


def test_follow_ups_carry_the_headers_on(app: App) -> None:
    orders, mails = app.queue("orders"), app.queue("mails")
    parent = orders.put("order", headers={"user": "ann", "eventq.reply": "room", "trace": "t1"})
    claim = orders.claim()
    assert claim is not None
    with claim:
        mails.put("plain")
        mails.put("own", headers={"trace": "t2", "extra": 1})
        mails.put_many(["many"])
    mails.put("outside")
    carried = {"user": "ann", "trace": "t1", "correlation_id": parent}
    assert [claim.event.headers for claim in mails.claim_many(9)] == [
        carried,
        carried | {"trace": "t2", "extra": 1},
        carried,
        {},
    ]


def test_the_correlation_id_is_the_first_parents(app: App) -> None:
    queue = app.queue("q")
    first = queue.put(0)
    for generation in range(3):
        claim = queue.claim()
        assert claim is not None
        with claim as event:
            assert event.headers.get("correlation_id") == (first if generation else None)
            queue.put(generation + 1)


def test_claims_within_claims(app: App) -> None:
    queue, out = app.queue("q"), app.queue("out")
    outer_id, inner_id = queue.put_many(["outer", "inner"])
    outer, inner = queue.claim_many(2)
    with outer:
        with inner:
            out.put(1)
        out.put(2)
    out.put(3)
    headers = [claim.event.headers.get("correlation_id") for claim in out.claim_many(3)]
    assert headers == [inner_id, outer_id, None]


def test_threads_do_not_share_the_event_being_handled(app: App) -> None:
    queue, out = app.queue("q"), app.queue("out")
    queue.put("x")
    claim = queue.claim()
    assert claim is not None
    with claim:
        thread = threading.Thread(target=out.put, args=("from a thread",))
        thread.start()
        thread.join(20)
    other = out.claim()
    assert other is not None
    assert other.event.headers == {}
