"""Cancelling: what waits, what runs as a coroutine, what runs in a thread (W10)."""

from __future__ import annotations

import asyncio
import threading

import pytest

from eventq import App, Context, TaskCancelled
from eventq.model import State
from tasks.conftest import OpenApp
from tasks.running import PATIENCE, burst, runs_of, until, working


def test_what_waits_never_runs(app: App) -> None:
    ran = []

    @app.task(name="note")
    def note() -> None:
        ran.append(1)

    handle = note.enqueue()
    assert handle.cancel("changed my mind") == "cancelled"
    burst(app)
    assert ran == []
    with pytest.raises(TaskCancelled, match="changed my mind"):
        handle.result(0)
    assert handle.cancel() == "too late"


def test_a_waiter_learns_of_it_at_once(app: App) -> None:
    @app.task(name="note")
    def note() -> None: ...

    handle = note.enqueue()
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            handle.result(PATIENCE)
        except TaskCancelled as error:
            caught.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    handle.cancel()
    waiter.join(PATIENCE)
    assert len(caught) == 1


def test_a_running_coroutine_gets_a_cancelled_error(app: App, open_app: OpenApp) -> None:
    running, cancelled = threading.Event(), threading.Event()

    @app.task(name="hangs")
    async def hangs() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    elsewhere = open_app()
    with working(app):
        handle = hangs.enqueue()
        assert running.wait(PATIENCE)
        assert elsewhere.cancel(handle.id) == "requested"
        assert cancelled.wait(PATIENCE)
        with pytest.raises(TaskCancelled):
            elsewhere.handle(handle.id).result(PATIENCE)
    assert handle.status() is State.CANCELLED


def test_a_running_thread_is_told_when_it_asks(app: App, open_app: OpenApp) -> None:
    running = threading.Event()

    @app.task(name="long", bind=True)
    def long(context: Context) -> None:
        running.set()
        while True:
            context.check()
            threading.Event().wait(0.005)

    elsewhere = open_app()
    with working(app):
        handle = long.enqueue()
        assert running.wait(PATIENCE)
        assert elsewhere.cancel(handle.id) == "requested"
        with pytest.raises(TaskCancelled):
            handle.result(PATIENCE)


def test_a_thread_may_look_for_itself(app: App) -> None:
    running = threading.Event()

    @app.task(name="long", bind=True)
    def long(context: Context) -> str:
        running.set()
        while not context.cancelled:
            threading.Event().wait(0.005)
        return "half of it"

    with working(app):
        handle = long.enqueue()
        assert running.wait(PATIENCE)
        assert handle.cancel() == "requested"
        assert handle.result(PATIENCE) == "half of it"


def test_a_cancelled_run_is_not_repeated(app: App) -> None:
    runs = []
    running = threading.Event()

    @app.task(name="hangs", max_attempts=5, retry_delay=0)
    async def hangs() -> None:
        runs.append(1)
        running.set()
        await asyncio.Event().wait()

    with working(app):
        handle = hangs.enqueue()
        assert running.wait(PATIENCE)
        handle.cancel()
        assert handle.wait(PATIENCE)
    assert burst(app) == 0
    assert runs == [1]


def test_task_cancelled_raised_by_the_function_itself_is_a_failure(app: App) -> None:
    """Nobody asked: it is an error like any other."""

    @app.task(name="odd", max_attempts=1)
    def odd() -> None:
        raise TaskCancelled("of another event, which it waited for")

    handle = odd.enqueue()
    burst(app)
    assert handle.status() is State.DEAD


def test_cancelled_error_raised_by_the_function_itself_is_a_failure(app: App) -> None:
    @app.task(name="odd", max_attempts=1)
    async def odd() -> None:
        raise asyncio.CancelledError

    handle = odd.enqueue()
    burst(app)
    assert handle.status() is State.DEAD


def test_cancelled_before_its_first_step(app: App) -> None:
    """A coroutine that the loop has taken in and not begun ends, too: the loop is busy with another one meanwhile."""
    blocked, gate = threading.Event(), threading.Event()

    @app.task(name="blocks")
    async def blocks() -> None:
        blocked.set()
        gate.wait(PATIENCE)  # what a coroutine should not do

    @app.task(name="late")
    async def late() -> int:
        return 1

    with working(app, stop_timeout=1) as serving:
        blocks.enqueue()
        assert blocked.wait(PATIENCE)
        handle = late.enqueue()
        until(lambda: len(runs_of(serving.worker)) == 2, "the second run")
        assert handle.cancel() == "requested"
        until(lambda: any(run.stopped for run in runs_of(serving.worker)), "the request to stop")
        gate.set()
        assert handle.wait(5), "the run never ended"
        assert handle.status() is State.CANCELLED
