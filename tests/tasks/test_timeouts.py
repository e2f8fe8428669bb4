"""Timeouts: a coroutine is ended, a thread is told (W9)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from eventq import App, Context, TaskFailed
from eventq.clock import SYSTEM
from eventq.model import State
from eventq.testing import FakeClock
from tasks.running import PATIENCE, burst, until, working


def test_a_coroutine_is_ended(app: App) -> None:
    ended = []

    @app.task(name="hangs", timeout=0.05, max_attempts=1)
    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(1)
            raise

    with working(app), pytest.raises(TaskFailed, match=r"TaskTimeout: .*0\.05 s") as caught:
        hangs.enqueue().result(PATIENCE)
    assert ended == [1]
    assert caught.value.failure is not None
    assert caught.value.failure.type == "eventq.errors.TaskTimeout"


def test_a_timeout_is_a_failed_attempt(app: App) -> None:
    runs = []

    @app.task(name="hangs", timeout=0.05, max_attempts=2, retry_delay=0)
    async def hangs() -> None:
        runs.append(1)
        await asyncio.Event().wait()

    with working(app):
        assert hangs.enqueue().wait(PATIENCE)
    assert len(runs) == 2


def test_a_coroutine_that_is_quick_enough_is_left_alone(app: App) -> None:
    @app.task(name="quick", timeout=60)
    async def quick() -> int:
        await asyncio.sleep(0.01)
        return 1

    with working(app):
        assert quick.enqueue().result(PATIENCE) == 1


def test_one_coroutine_that_hangs_does_not_hold_up_others(app: App) -> None:
    @app.task(name="hangs", timeout=30)
    async def hangs() -> None:
        await asyncio.Event().wait()

    @app.task(name="quick")
    async def quick(number: int) -> int:
        return number

    with working(app, concurrency=2, stop_timeout=0):
        hangs.enqueue()
        assert [quick.enqueue(n).result(PATIENCE) for n in range(5)] == list(range(5))


@pytest.mark.parametrize("catches", [asyncio.CancelledError, BaseException])
def test_a_coroutine_may_finish_on_its_way_out(app: App, catches: Any) -> None:
    @app.task(name="hangs", timeout=0.05, max_attempts=1)
    async def hangs() -> str:
        try:
            await asyncio.Event().wait()
        except catches:
            return "what there was until then"
        raise AssertionError

    with working(app):
        assert hangs.enqueue().result(PATIENCE) == "what there was until then"


def test_a_thread_is_told_when_it_asks(app: App) -> None:
    @app.task(name="long", bind=True, timeout=0.05, max_attempts=1)
    def long(context: Context) -> None:
        gate = threading.Event()
        while True:
            context.check()
            gate.wait(0.005)

    with working(app), pytest.raises(TaskFailed, match="TaskTimeout"):
        long.enqueue().result(PATIENCE)


def test_a_thread_that_never_asks_finishes(app: App) -> None:
    @app.task(name="long", timeout=0.02)
    def long() -> int:
        until_then = SYSTEM.monotonic() + 0.1
        while SYSTEM.monotonic() < until_then:
            threading.Event().wait(0.01)
        return 1

    with working(app):
        assert long.enqueue().result(PATIENCE) == 1


def test_the_deadline_is_that_of_the_run_not_of_the_put(frozen: App, clock: FakeClock) -> None:
    left = []

    @frozen.task(name="look", bind=True, timeout=10)
    def look(context: Context) -> None:
        left.append(context.remaining())

    look.enqueue()
    clock.advance(1000)
    burst(frozen)
    assert left == [10.0]


def test_with_a_clock_of_its_own(frozen: App, clock: FakeClock) -> None:
    """Only the clock decides: without a step of it, nothing is out of time."""
    running = threading.Event()

    @frozen.task(name="hangs", timeout=1000, max_attempts=1)
    async def hangs() -> None:
        running.set()
        await asyncio.Event().wait()

    with working(frozen) as serving:
        handle = hangs.enqueue()
        assert running.wait(PATIENCE)
        assert handle.status() is State.CLAIMED
        clock.advance(1001)
        until(lambda: handle.status() is State.DEAD, "the timeout")
        assert serving.code is None
