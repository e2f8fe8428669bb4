"""Queues: types, claiming, waiting, looking, changing. The storages have their own suite; this is what is above."""

from __future__ import annotations

import dataclasses
import logging
import threading
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

import eventq
from eventq import App, ConfigError, PayloadError, Queue, State
from eventq.clock import SYSTEM
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass
class Order:
    number: int


@dataclasses.dataclass
class Invoice:
    number: int


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


# ---------------------------------------------------------------- typed queues


def test_a_typed_queue_gives_objects_back(app: App) -> None:
    orders = app.queue("orders", type=Order)
    orders.put(Order(42))
    claim = orders.claim()
    assert claim is not None
    assert claim.event.payload == Order(42)
    assert isinstance(claim.event.payload, Order)


def test_a_queue_named_by_its_type(app: App) -> None:
    orders = app.queue(Order)
    assert orders.name == f"{__name__}.Order"
    orders.put(Order(1))
    assert app.queues() == [orders.name]
    with pytest.raises(TypeError, match="type="):
        app.queue(list[int])
    with pytest.raises(TypeError, match="two types"):
        app.queue(Order, type=Invoice)  # type: ignore[call-overload]


@pytest.mark.parametrize("payload", [{"number": 1}, Invoice(1), Order("one"), None, 5])  # type: ignore[arg-type]
def test_a_wrong_payload_is_refused(app: App, payload: Any) -> None:
    orders = app.queue("orders", type=Order)
    with pytest.raises(PayloadError, match="Order"):
        orders.put(payload)
    assert orders.stats().ready == 0


def test_what_does_not_decode_is_a_dead_letter_and_the_loop_goes_on(app: App, caplog: pytest.LogCaptureFixture) -> None:
    plain, orders = app.queue("orders"), app.queue("orders", type=Order)
    plain.put({"number": "s3cret"})
    orders.put(Order(1))
    plain.put("nonsense")
    orders.put(Order(2))
    with caplog.at_level(logging.ERROR, "eventq"):
        assert drain(orders) == [Order(1), Order(2)]
    dead = orders.scan(State.DEAD).records
    assert len(dead) == 2
    for record in dead:
        assert record.failure is not None
        assert record.failure.type == "PayloadError"
        assert "as Order" in record.failure.message
    assert "s3cret" not in caplog.text
    assert dead[0].id in caplog.text


def test_what_does_not_decode_does_not_hide_what_follows(app: App) -> None:
    plain, orders = app.queue("orders"), app.queue("orders", type=Order)
    plain.put_many([1, 2, 3])
    orders.put(Order(9))
    claim = orders.claim()
    assert claim is not None
    assert claim.event.payload == Order(9)
    plain.put_many([1, 2, 3])
    assert orders.claim_many(2, timeout=0) == []


def test_codecs_travel_with_the_event(url: str) -> None:
    with App(url, codec="msgpack") as writer, App(url) as reader:
        writer.queue("q").put({"raw": b"\x00", 5: "five"})
        writer.queue("q").put("text")
        claim = reader.queue("q").claim()
        assert claim is not None
        assert claim.event.payload == {"raw": b"\x00", 5: "five"}
        claim.complete()
        claim = reader.queue("q", type=str).claim()
        assert claim is not None
        assert claim.event.payload == "text"
        claim.complete()


def test_an_unknown_codec_is_a_dead_letter(url: str) -> None:
    class Shout(eventq.Codec):
        name = "shout"

        def encode(self, obj: Any) -> bytes:
            return str(obj).upper().encode()

        def decode(self, data: bytes, type: Any = Any) -> Any:
            return data.decode()

    with App(url, codec=Shout()) as writer, App(url) as stranger, App(url, codecs=[Shout()]) as reader:
        writer.queue("q").put("HELLO")
        claim = reader.queue("q").claim()
        assert claim is not None
        assert claim.event.payload == "HELLO"
        claim.release()
        assert stranger.queue("q").claim() is None
        record = stranger.queue("q").scan("dead").records[0]
        assert record.failure is not None
        assert "codecs=" in record.failure.message


# ---------------------------------------------------------------- waiting


def test_an_empty_queue_is_none(queue: Queue[Any]) -> None:
    assert queue.claim() is None
    assert queue.claim(timeout=0) is None
    assert queue.claim_many(5) == []
    assert list(queue.claims(timeout=0)) == []


def test_a_timeout_is_kept(queue: Queue[Any]) -> None:
    start = SYSTEM.monotonic()
    assert queue.claim(timeout=0.2) is None
    assert 0.2 <= SYSTEM.monotonic() - start < 2.0


def test_a_claim_that_may_wait_for_ever_is_not_none_when_something_falls_due_at_that_moment(
    queue: Queue[Any], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the sleep: there is no time to sleep then, which is not the end of the wait."""
    storage, looks = queue.store.storage, []

    def recover() -> float:
        looks.append(clock.advance(2))
        return 0.0

    monkeypatch.setattr(storage, "recover", recover)
    queue.put(1, delay=1)
    claim = queue.claim(timeout=None)
    assert claim is not None
    assert looks


@pytest.mark.parametrize("timeout", [-1, "soon", True, float("nan")])
def test_a_wrong_timeout(queue: Queue[Any], timeout: Any) -> None:
    for call in (queue.claim, queue.claims):
        with pytest.raises((ConfigError, TypeError), match="timeout"):
            call(timeout=timeout)


@pytest.mark.parametrize(("limit", "error"), [(0, ConfigError), (-1, ConfigError), ("5", TypeError)])
def test_a_wrong_limit(queue: Queue[Any], limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="limit"):
        queue.claim_many(limit)


def test_a_put_wakes_a_waiting_claimer(url: str) -> None:
    with App(url) as mine, App(url) as theirs:
        got: list[Any] = []
        waiting = threading.Event()

        def work() -> None:
            storage, watch = mine.store.storage, mine.store.storage.watch

            def watched(**what: Any) -> Any:
                made = watch(**what)
                waiting.set()
                return made

            storage.watch = watched  # type: ignore[assignment,method-assign]
            claim = mine.queue("q").claim(timeout=20)
            assert claim is not None
            got.append(claim.event.payload)
            claim.complete()

        thread = threading.Thread(target=work)
        thread.start()
        assert waiting.wait(20)
        theirs.queue("q").put("late")
        thread.join(20)
        assert got == ["late"]


def test_a_delayed_event_is_found_when_it_is_due(url: str) -> None:
    with App(url) as app:
        queue = app.queue("q")
        queue.put("x", delay=0.1)
        start = SYSTEM.monotonic()
        claim = queue.claim(timeout=20)
        assert claim is not None
        assert SYSTEM.monotonic() - start < 5
        claim.complete()


def test_claims_ends_when_idle_and_goes_on_while_busy(queue: Queue[Any]) -> None:
    queue.put_many(range(50))
    assert drain(queue) == list(range(50))


def test_leaving_the_loop_gives_the_rest_back(url: str) -> None:
    with App(url) as mine, App(url) as theirs:
        mine.queue("q").put_many(range(10))
        for claim in mine.queue("q").claims():
            with claim as event:
                assert event.payload == 0
            break
        assert drain(theirs.queue("q")) == list(range(1, 10))


def test_a_busy_loop_looks_after_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with App("memory://") as app:
        queue = app.queue("q")
        queue.put_many(range(3))
        looks: list[int] = []
        monkeypatch.setattr(app.store.storage, "recover", lambda: looks.append(1))
        times = iter([0.0, 0.1, 0.3, 0.3, 0.4])
        monkeypatch.setattr("eventq.queue.SYSTEM", type("Ticks", (), {"monotonic": lambda: next(times)}))
        for claim in islice(queue.claims(), 3):
            claim.complete()
        assert len(looks) == 1, "once in a quarter of a second, not with each event"


def test_closing_ends_a_waiting_loop(url: str) -> None:
    app = App(url)
    errors: list[BaseException] = []
    waiting = threading.Event()

    def work() -> None:
        waiting.set()
        try:
            app.queue("q").claim(timeout=20)
        except eventq.StorageClosed as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert waiting.wait(20)
    app.close()
    thread.join(20)
    assert len(errors) == 1


# ---------------------------------------------------------------- looking and changing


def test_scanning_by_pages(queue: Queue[Any]) -> None:
    ids = queue.put_many(range(12))
    pages, cursor = [], None
    while True:
        page = queue.scan("ready", limit=5, cursor=cursor)
        pages.append([record.id for record in page.records])
        queue.put("meanwhile", priority=1)
        cursor = page.cursor
        if cursor is None or len(pages) == 3:
            break
    assert [len(page) for page in pages[:2]] == [5, 5]
    seen = [id for page in pages for id in page]
    assert len(seen) == len(set(seen))
    assert set(ids) <= set(seen)


def test_scanning_with_filters(queue: Queue[Any], clock: FakeClock) -> None:
    queue.put("a", headers={"user": "ann"})
    clock.advance(10)
    instant = datetime.fromtimestamp(clock.now(), UTC)
    clock.advance(10)
    queue.put("b", headers={"user": "bob"})

    def found(**filters: Any) -> list[Any]:
        return [queue.payload_of(record) for record in queue.scan(**filters).records]

    assert found() == ["a", "b"]
    assert found(headers={"user": "bob"}) == ["b"]
    assert found(created_from=instant) == ["b"]
    assert found(created_to=instant) == ["a"]
    assert found(settled_from=instant) == found(run_time_from=0) == found(exit_code=0) == []
    with pytest.raises(ConfigError, match="exit_code=2 is none of"):
        queue.scan(exit_code=2)
    with pytest.raises(ConfigError, match="time zone"):
        queue.scan(created_from=datetime(2030, 1, 1))  # noqa: DTZ001 - refused on purpose
    with pytest.raises(ConfigError, match="ready, delayed"):
        queue.scan("done")


def test_get_is_of_this_queue(app: App) -> None:
    id = app.queue("a").put(1)
    record = app.queue("a").get(id)
    assert record is not None
    assert record.state is State.READY
    assert app.queue("b").get(id) is None
    assert app.get(id) == record


def test_stats(queue: Queue[Any], clock: FakeClock) -> None:
    queue.put_many([1, 2, 3])
    queue.put(4, delay=60)
    clock.advance(2)
    claim = queue.claim()
    stats = queue.stats()
    assert (stats.ready, stats.claimed, stats.delayed) == (2, 1, 1)
    assert stats.oldest_ready == pytest.approx(2, abs=0.1)
    assert claim is not None


def test_settings_that_differ_are_stored(app: App, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "eventq"):
        app.queue("q", max_attempts=3, keep=60)
        assert app.queue("q").settings().max_attempts == 3
        caplog.clear()
        app.queue("q", max_attempts=3)
        assert caplog.text == ""
        app.queue("q", max_attempts=4)
        assert "max_attempts is 4 now, was 3" in caplog.text
    settings = app.queue("q").configure(lease=30.0)
    assert (settings.max_attempts, settings.keep, settings.lease) == (4, 60, 30.0)


def test_wrong_settings(app: App) -> None:
    with pytest.raises(TypeError, match=r"no option 'retries'; there are .*max_attempts"):
        app.queue("q", retries=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="no option 'paused'"):
        app.queue("q").configure(paused=True)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="max_attempts"):
        app.queue("q", max_attempts="three")  # type: ignore[call-overload]


def test_pause_and_resume(app: App, clock: FakeClock) -> None:
    queue = app.queue("q")
    queue.put_many([1, 2])
    queue.pause()
    clock.advance(1)
    assert queue.claim() is None
    queue.resume()
    clock.advance(1)
    assert queue.claim() is not None
    queue.pause(60)
    clock.advance(1)
    assert queue.claim() is None
    clock.advance(60)
    assert queue.claim() is not None
    with pytest.raises(ConfigError, match="for_"):
        queue.pause(0)


def test_cancel_retry_move_remove(app: App) -> None:
    queue, other = app.queue("q"), app.queue("other")
    a, b, c = queue.put_many(["a", "b", "c"])
    assert queue.cancel([a, b], reason="no need") == ["cancelled", "cancelled"]
    assert queue.cancel(a) == ["too late"]
    assert queue.retry(a) == [a]
    assert queue.move(c, "other") == ["moved"]
    assert queue.move([a], other) == ["moved"]
    assert sorted(drain(other)) == ["a", "c"]
    assert queue.remove([b]) == ["deleted"]
    assert queue.remove(b) == ["unknown"]
    assert queue.cancel([]) == []


def test_purge_reports_how_many(queue: Queue[Any]) -> None:
    queue.put_many(range(7))
    queue.put("later", delay=60)
    claim = queue.claim()
    assert claim is not None
    claim.reject("no")
    assert queue.purge() == 7
    assert queue.purge("dead") == 1
    assert queue.purge([State.DEAD, "expired"]) == 0
    with pytest.raises(ConfigError, match="claimed"):
        queue.purge("claimed")
    with pytest.raises(ConfigError, match="no state"):
        queue.purge("gone")


def test_prune_applies_the_retention(app: App, clock: FakeClock) -> None:
    queue = app.queue("q", keep_dead=60)
    queue.put("x")
    claim = queue.claim()
    assert claim is not None
    claim.reject()
    clock.advance(10_000)
    queue.prune()  # or a look in the background was faster
    assert queue.stats().dead == 0


def test_delete(app: App) -> None:
    queue = app.queue("q")
    queue.put(1)
    claim = queue.claim()
    assert claim is not None
    with pytest.raises(eventq.StorageError):
        queue.delete()
    claim.complete()
    queue.delete()
    assert app.queues() == []
