"""Limits as programs see them: `limits=` and `rates=` of a put, `concurrency` of a queue."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, ConfigError, Queue
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def app(url: str) -> Iterator[App]:
    with App(url, clock=FakeClock()) as app:
        yield app


@pytest.fixture
def queue(app: App) -> Queue[Any]:
    return app.queue("orders")


def test_one_at_a_time_for_each_customer(queue: Queue[Any]) -> None:
    for customer, number in [(7, 1), (7, 2), (8, 3)]:
        queue.put(number, limits={f"customer:{customer}": 1})
    first, second = queue.claim_many(9)
    assert [first.event.payload, second.event.payload] == [1, 3]
    assert queue.stats().ready == 1
    with first:
        assert queue.claim() is None
    third = queue.claim()
    assert third is not None
    assert third.event.payload == 2


def test_a_failure_gives_the_place_to_the_next(queue: Queue[Any]) -> None:
    queue.put(1, limits={"c": 1})
    queue.put(2, limits={"c": 1})
    claim = queue.claim()
    assert claim is not None
    assert queue.claim() is None
    with claim:
        raise ValueError("the handler fails, and its event waits for its next attempt")
    after = queue.claim()
    assert after is not None
    assert after.event.payload == 2


def test_put_many_gives_each_event_its_limits(queue: Queue[Any]) -> None:
    limits = {"c": 2}
    ids = queue.put_many(range(4), limits=limits)
    limits["c"] = 9  # what was put does not change any more
    assert [record.limits for id in ids if (record := queue.get(id)) is not None] == [{"c": 2}] * 4
    assert len(queue.claim_many(9)) == 2


def test_who_waits_is_woken(queue: Queue[Any]) -> None:
    queue.put(1, limits={"c": 1})
    queue.put(2, limits={"c": 1})
    claim = queue.claim()
    assert claim is not None
    assert queue.claim() is None
    threading.Timer(0.01, claim.complete).start()
    after = queue.claim(timeout=20)
    assert after is not None
    assert after.event.payload == 2


def test_a_queue_has_a_limit_of_its_own(app: App) -> None:
    queue = app.queue("mails", concurrency=2)
    queue.put_many(range(5))
    first, second = queue.claim_many(5)
    assert queue.claim() is None
    first.complete()
    assert len(queue.claim_many(5)) == 1
    second.complete()
    queue.configure(concurrency=None)
    assert len(queue.claim_many(5)) == 2


def test_the_awaitable_twins(app: App) -> None:
    async def main() -> list[Any]:
        queue = await app.aio.queue("mails", concurrency=2)
        await queue.aio.put(1, limits={"c": 1})
        await queue.aio.put_many([2, 3], limits={"d": 1})
        found = await queue.aio.claim_many(9)
        assert await queue.aio.claim() is None
        waiting = asyncio.ensure_future(queue.aio.claim(timeout=20))
        await found[1].aio.complete()
        claim = await waiting
        assert claim is not None
        return [*(claim.event.payload for claim in found), claim.event.payload]

    assert asyncio.run(main()) == [1, 2, 3]


@pytest.mark.parametrize(
    ("limits", "error", "match"),
    [
        (["c"], TypeError, "a dict"),
        ("c", TypeError, "a dict"),
        ({"c": "1"}, TypeError, "'c' has str"),
        ({"c": 1.0}, TypeError, "'c' has float"),
        ({"c": True}, TypeError, "'c' has bool"),
        ({"c": 0}, ConfigError, "1 to 10000"),
        ({"c": 10_001}, ConfigError, "1 to 10000"),
        ({"": 1}, ConfigError, "is empty"),
        ({1: 1}, TypeError, "is a text"),
        ({"\ud800": 1}, ConfigError, "Unicode"),
    ],
)
def test_wrong_limits_are_refused_before_anything_is_put(
    queue: Queue[Any], limits: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        queue.put(1, limits=limits)
    with pytest.raises(error, match=match):
        queue.put_many([1], limits=limits)
    assert queue.stats().ready == 0


@pytest.mark.parametrize("concurrency", [0, -1, 10_001, "2", 1.5])
def test_a_wrong_concurrency_is_refused(app: App, concurrency: Any) -> None:
    with pytest.raises(ConfigError, match="concurrency"):
        app.queue("mails", concurrency=concurrency)


def test_no_limits_are_no_limits(queue: Queue[Any]) -> None:
    queue.put(1, limits={})
    queue.put(2, limits=None)
    assert len(queue.claim_many(9)) == 2


# ---------------------------------------------------------------- rates


def advance(app: App, seconds: float) -> None:
    clock = app.store.clock
    assert isinstance(clock, FakeClock)
    clock.advance(seconds)
    app.store.storage.recover()


def test_at_most_so_many_starts_within_a_time(app: App, queue: Queue[Any]) -> None:
    rates = {"smtp": (2, 60)}
    ids = queue.put_many(range(3), rates=rates)
    rates["smtp"] = (9, 1)  # what was put does not change any more
    queue.put(3)
    found = queue.claim_many(9)
    assert [claim.event.payload for claim in found] == [0, 1, 3]
    for claim in found:
        claim.complete()
    assert queue.claim() is None
    record = queue.get(ids[2])
    assert record is not None
    assert record.rates == {"smtp": (2, 60.0)}
    advance(app, 60.0)
    assert [claim.event.payload for claim in queue.claim_many(9)] == [2]


def test_a_rate_is_waited_for(tmp_path: Path) -> None:
    with App(str(tmp_path / "store")) as app:
        queue = app.queue("mails")
        for number in range(3):
            queue.put(number, rates={"smtp": (1, 0.3)}, limits={"smtp": 1})
        starts = []
        for number in range(3):
            claim = queue.claim(timeout=20)
            assert claim is not None
            assert claim.event.payload == number
            starts.append(app.store.clock.now())
            claim.complete()
        assert all(0.29 < later - earlier < 5 for earlier, later in pairwise(starts))


def test_rates_with_await(app: App) -> None:
    async def main() -> list[int]:
        queue = await app.aio.queue("mails")
        await queue.aio.put(1, rates={"r": (1, 60)})
        await queue.aio.put_many([2, 3], rates={"r": (1, 60), "s": (1, 60)})
        return [claim.event.payload for claim in await queue.aio.claim_many(9)]

    assert asyncio.run(main()) == [1]


@pytest.mark.parametrize(
    ("rates", "error", "match"),
    [
        (["r"], TypeError, "a dict"),
        ({"r": 1}, TypeError, "as .10, 60.0.; 'r' has 1"),
        ({"r": (1,)}, TypeError, "'r' has"),
        ({"r": "12"}, TypeError, "'r' has '12'"),
        ({"r": ("1", 2)}, TypeError, "'r' has str"),
        ({"r": (True, 2)}, TypeError, "'r' has bool"),
        ({"r": (1, "2")}, TypeError, "seconds of 'r' in rates= takes seconds"),
        ({"r": (0, 1)}, ConfigError, "1 to 10000"),
        ({"r": (10_001, 1)}, ConfigError, "1 to 10000"),
        ({"r": (1, 0)}, ConfigError, "more than 0"),
        ({"r": (1, -1)}, ConfigError, "more than 0"),
        ({"r": (1, float("inf"))}, ConfigError, "no duration"),
        ({"r": (1, float("nan"))}, ConfigError, "no duration"),
        ({"r": (1, 1e11)}, ConfigError, "at most 1e"),
        ({"": (1, 1)}, ConfigError, "is empty"),
        ({1: (1, 1)}, TypeError, "is a text"),
        ({"\ud800": (1, 1)}, ConfigError, "Unicode"),
    ],
)
def test_wrong_rates_are_refused_before_anything_is_put(
    queue: Queue[Any], rates: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        queue.put(1, rates=rates)
    with pytest.raises(error, match=match):
        queue.put_many([1], rates=rates)
    assert queue.stats().ready == 0


def test_no_rates_are_no_rates(queue: Queue[Any]) -> None:
    queue.put(1, rates={})
    queue.put(2, rates=None)
    assert len(queue.claim_many(9)) == 2
