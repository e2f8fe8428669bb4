"""The threads and the event loop of a worker, where they are most likely to go wrong."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from eventq import App
from eventq.model import State
from tasks.conftest import OpenApp
from tasks.running import PATIENCE, burst, working


def test_many_runs_of_all_kinds_each_once(open_app: OpenApp) -> None:
    """Two workers, short runs and long ones, threads and coroutines, enqueued meanwhile."""
    ran: list[int] = []
    apps = [open_app(), open_app()]

    def define(app: App) -> list[Any]:
        def short(number: int) -> None:
            ran.append(number)

        def long(number: int) -> None:
            threading.Event().wait(0.004)
            ran.append(number)

        async def later(number: int) -> None:
            await asyncio.sleep(0.001)
            ran.append(number)

        return [app.task(name=each.__name__)(each) for each in (short, long, later)]  # type: ignore[type-var]

    tasks, _ = [define(app) for app in apps]
    with working(apps[0], concurrency=4), working(apps[1], concurrency=4):
        handles = [tasks[number % 3].enqueue(number) for number in range(300)]
        assert all(handle.wait(PATIENCE) for handle in handles)
    assert sorted(ran) == list(range(300))


def test_the_usual_time_is_learned_and_forgotten(app: App) -> None:
    """A task that was always short is run by the leader; when it turns long, another thread leads within moments."""
    gate, blocked = threading.Event(), threading.Event()

    @app.task(name="w")
    def work(block: bool) -> None:
        if block:
            blocked.set()
            assert gate.wait(PATIENCE)

    with working(app, concurrency=3):
        for _ in range(200):
            last = work.enqueue(False)
        assert last.wait(PATIENCE)
        long = [work.enqueue(True), work.enqueue(True)]
        assert blocked.wait(PATIENCE)
        assert work.enqueue(False).wait(PATIENCE)
        gate.set()
        assert all(handle.wait(PATIENCE) for handle in long)


def test_an_event_of_no_task_among_others_holds_up_nothing(app: App) -> None:
    @app.task(name="w")
    async def work(number: int) -> int:
        return number

    handles = []
    for number in range(50):
        app.queue("default").put({"no": "call"})
        handles.append(work.enqueue(number))
    burst(app, concurrency=2)
    assert [handle.result(0) for handle in handles] == list(range(50))
    assert app.queue("default").stats().dead == 50


@pytest.mark.exhaustive
def test_a_result_that_the_storage_refuses_fails_the_run(app: App) -> None:
    """And neither ends the worker nor comes back for ever."""

    @app.task(name="w", max_attempts=1)
    def work() -> str:
        return "x" * (70 << 20)

    @app.task(name="other")
    def other() -> int:
        return 1

    handle = work.enqueue()
    burst(app, concurrency=1)
    after = other.enqueue()
    burst(app, concurrency=1)
    assert after.result(0) == 1
    assert handle.status() in (State.DEAD, State.COMPLETED)


@pytest.mark.parametrize("on_loop", [False, True])
def test_an_error_that_has_no_text(app: App, on_loop: bool) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text either")

    def fails() -> None:
        raise Mute

    async def fails_async() -> None:
        raise Mute

    handle = app.task(name="w", max_attempts=1)(fails_async if on_loop else fails).enqueue()
    after = app.task(name="other")(int_one).enqueue()
    assert burst(app, concurrency=1) == 0
    assert handle.status() is State.DEAD
    assert after.result(0) == 1


def int_one() -> int:
    return 1


def test_a_coroutine_that_swallows_its_cancellation_may_go_on(app: App) -> None:
    begun, asked, gate = threading.Event(), threading.Event(), threading.Event()

    @app.task(name="w")
    async def stubborn() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            asked.set()
        await asyncio.to_thread(gate.wait, PATIENCE)
        return "all the same"

    with working(app):
        handle = stubborn.enqueue()
        assert begun.wait(PATIENCE)
        handle.cancel()
        assert asked.wait(PATIENCE)
        gate.set()
        assert handle.result(PATIENCE) == "all the same"


def test_without_more_threads_it_works_with_those_it_has(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start

    def no_second(self: threading.Thread) -> None:
        if self.name == "eventq-2":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", no_second)
    app.task(name="w")(int_one)
    with working(app, concurrency=4):
        handles = [app.tasks["w"].enqueue() for _ in range(3)]
        assert [handle.result(PATIENCE) for handle in handles] == [1, 1, 1]
    assert "can't start new thread: what follows waits for one of 1 threads" in caplog.text


def test_closing_the_app_ends_its_worker(app: App, open_app: OpenApp) -> None:
    app.task(name="w")(int_one)
    with working(app) as serving:
        app.close()
        assert serving.join() == 0
