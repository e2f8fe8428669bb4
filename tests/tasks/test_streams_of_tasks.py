"""Generator tasks: what they yield is read in order, while they run and afterwards (R6)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest

from eventq import App, Context, TaskCancelled, TaskFailed, clock
from eventq.model import State
from eventq.testing import FakeClock
from tasks.conftest import OpenApp
from tasks.running import PATIENCE, burst, working
from tasks.test_arguments import Order


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


async def numbers_async(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


@pytest.mark.parametrize("function", [numbers, numbers_async])
def test_read_afterwards(app: App, function: Any) -> None:
    handle = app.task(name="n")(function).enqueue(5)
    burst(app)
    assert [list(handle), list(handle), list(handle.stream(start=3))] == [[0, 1, 2, 3, 4]] * 2 + [[3, 4]]
    assert handle.result(0) is None


@pytest.mark.parametrize("function", [numbers, numbers_async])
def test_nothing_yielded(app: App, function: Any) -> None:
    handle = app.task(name="n")(function).enqueue(0)
    burst(app)
    assert list(handle) == []


def test_read_while_it_runs(app: App, open_app: OpenApp) -> None:
    """Each value is there before the next one is made."""
    gates = [threading.Event() for _ in range(3)]

    @app.task(name="n")
    def steps() -> Iterator[int]:
        for number, gate in enumerate(gates):
            yield number
            assert gate.wait(PATIENCE)

    with working(app):
        handle = steps.enqueue()
        seen = []
        for value in handle.stream(timeout=PATIENCE):
            seen.append(value)
            gates[value].set()
    assert seen == [0, 1, 2]


def test_async_for(app: App) -> None:
    task = app.task(name="n")(numbers_async)

    async def main() -> list[int]:
        handle = await task.aio.enqueue(4)
        return [value async for value in handle.stream(timeout=PATIENCE).aio]

    with working(app):
        assert asyncio.run(main()) == [0, 1, 2, 3]


def test_values_come_as_the_hint_says(app: App) -> None:
    @app.task(name="orders")
    def orders() -> Iterator[Order]:
        yield Order(1)
        yield Order(2, ["x"])

    handle = orders.enqueue()
    burst(app)
    assert list(handle) == [Order(1), Order(2, ["x"])]


def test_what_a_generator_returns_is_the_result(app: App) -> None:
    @app.task(name="both")
    def both() -> Generator[int, None, str]:
        yield 1
        return "end"

    handle: Any = both.enqueue()
    burst(app)
    assert (list(handle), handle.result(0)) == ([1], "end")


def test_a_run_that_fails_half_way(frozen: App, clock: FakeClock) -> None:
    """Who reads gets each value once, also of a run that is repeated."""
    runs: list[int] = []

    @frozen.task(name="n", max_attempts=2)
    def half() -> Iterator[int]:
        runs.append(1)
        yield 0
        yield 1
        if len(runs) == 1:
            raise ValueError("half way")
        yield 2

    handle = half.enqueue()
    burst(frozen)
    clock.advance(10)
    burst(frozen)
    assert (len(runs), list(handle)) == (2, [0, 1, 2])


def test_a_stream_that_fails_raises_after_its_values(app: App) -> None:
    @app.task(name="n", max_attempts=1)
    def fails() -> Iterator[int]:
        yield 0
        raise ValueError("the end")

    handle = fails.enqueue()
    burst(app)
    seen = []
    with pytest.raises(TaskFailed, match="the end"):
        for value in handle:
            seen.append(value)  # noqa: PERF402 - what came before the error is the point
    assert seen == [0]


def test_a_value_that_cannot_be_kept_fails_the_run(app: App) -> None:
    @app.task(name="n", max_attempts=1)
    def strange() -> Iterator[Any]:
        yield object()

    handle = strange.enqueue()
    burst(app)
    assert handle.status() is State.DEAD


def test_a_generator_that_is_cancelled_is_closed(app: App) -> None:
    closed, running = threading.Event(), threading.Event()

    @app.task(name="n")
    def endless() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
                running.set()
                clock.sleep(0.005)  # not to fill the notes
        finally:
            closed.set()

    with working(app):
        handle = endless.enqueue()
        assert running.wait(PATIENCE)
        handle.cancel()
        with pytest.raises(TaskCancelled):
            handle.result(PATIENCE)
    assert closed.is_set()


def test_an_async_generator_that_is_cancelled_is_closed(app: App) -> None:
    closed, running = threading.Event(), threading.Event()

    @app.task(name="n")
    async def endless() -> AsyncIterator[int]:
        try:
            yield 0
            running.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    with working(app):
        handle = endless.enqueue()
        assert running.wait(PATIENCE)
        handle.cancel()
        with pytest.raises(TaskCancelled):
            handle.result(PATIENCE)
        assert closed.wait(PATIENCE)


def test_bound(app: App) -> None:
    @app.task(name="n", bind=True)
    def attempts(context: Context) -> Iterator[int]:
        yield context.attempt

    handle = attempts.enqueue()
    burst(app)
    assert list(handle) == [1]
    assert list(attempts()) == [1]


def test_called_it_is_the_generator(app: App) -> None:
    assert list(app.task(name="n")(numbers)(3)) == [0, 1, 2]
