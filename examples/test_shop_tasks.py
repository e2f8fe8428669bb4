"""The unit tests of a project's tasks, here of `shop_tasks.py`: in memory, with a clock that moves when it is told to.

    $ pytest -q examples/test_shop_tasks.py
    ...
    6 passed in ...s

Nothing sleeps. pytest finds eventq's fixtures by itself; `eventq_isolated` puts the shop's own app on an empty store.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

import eventq
from eventq.testing import FakeClock, assert_enqueued, inline, run_until_empty

os.environ["EVENTQ_URL"] = "memory://"  # before the import, which opens a store: tests have no use for ./.eventq

import shop_tasks
from shop_tasks import Order, thumbnail, total


@pytest.fixture(autouse=True)
def app(eventq_isolated: Callable[[eventq.App], eventq.App]) -> eventq.App:
    return eventq_isolated(shop_tasks.app)


def test_the_function_itself() -> None:
    assert thumbnail("cat.png") == "thumbnail of cat.png, 128 wide"


def test_what_is_enqueued_and_what_comes_of_it(app: eventq.App) -> None:
    handle = total.enqueue(Order(9.99, 3))
    assert_enqueued(app, total, Order(price=9.99, number=3))
    run_until_empty(app)
    assert handle.result(0) == "an order of 3 for 29.97"


def test_at_once(app: eventq.App) -> None:
    with inline(app), pytest.raises(ValueError, match=r"bad\.png is no picture"):
        thumbnail.using(max_attempts=1).enqueue("bad.png")


def test_a_retry(app: eventq.App) -> None:
    handle = thumbnail.enqueue("bad.png")
    assert [(run.attempt, run.outcome) for run in run_until_empty(app)] == [(1, "failed"), (2, "dead")]
    with pytest.raises(eventq.TaskFailed, match="no picture"):
        handle.result(0)


def test_a_delay(app: eventq.App, eventq_clock: FakeClock) -> None:
    handle = thumbnail.using(delay=3600).enqueue("cat.png")
    assert handle.status() == "delayed"
    run_until_empty(app)
    assert handle.status() == "completed"
    assert eventq_clock.monotonic() >= 3600  # an hour, in no time


def test_a_timeout(eventq_app: eventq.App, eventq_clock: FakeClock) -> None:
    @eventq_app.task(bind=True, timeout=30, max_attempts=1)
    def ask_supplier(context: eventq.Context) -> None:
        eventq_clock.advance(31)  # stands for an answer that does not come
        context.check()

    handle = ask_supplier.enqueue()
    run_until_empty(eventq_app)
    with pytest.raises(eventq.TaskFailed, match="TaskTimeout"):
        handle.result(0)
