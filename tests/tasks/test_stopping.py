"""A graceful stop: what runs may finish, what waits goes back at once; and a forced one (W11)."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from typing import Any, cast

import pytest

from eventq import App, Context
from eventq.model import State
from tasks.conftest import OpenApp
from tasks.running import PATIENCE, Serving, burst, until, working


class Gate:
    """A task that runs until it is let go."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.go = threading.Event()

    def sync(self) -> str:
        self.running.set()
        assert self.go.wait(PATIENCE)
        return "finished"

    async def on_loop(self) -> str:
        self.running.set()
        while not self.go.is_set():  # noqa: ASYNC110 - the test lets it go from another thread
            await asyncio.sleep(0.002)
        return "finished"


@pytest.fixture
def gate() -> Any:
    gate = Gate()
    yield gate
    gate.go.set()


@pytest.fixture(params=["sync", "on_loop"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def define(app: App, gate: Gate, kind: str) -> Any:
    async def on_loop() -> str:
        return await gate.on_loop()

    def sync() -> str:
        return gate.sync()

    return app.task(name="waits")(on_loop if kind == "on_loop" else sync)


def other(number: int) -> int:
    return number


def threads_of_workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if re.match(r"eventq-(\d|loop)", thread.name)}


def claims_no_more(serving: Serving) -> bool:
    crew = serving.worker._crew
    return crew is None or (crew.stopping and not crew.waiting)


def test_what_runs_finishes(app: App, gate: Gate, kind: str) -> None:
    task = define(app, gate, kind)
    with working(app, stop_timeout=PATIENCE) as serving:
        handle = task.enqueue()
        assert gate.running.wait(PATIENCE)
        serving.worker.stop()
        serving.worker.stop()  # harmless when repeated
        until(lambda: claims_no_more(serving), "the stop")
        later = task.enqueue()
        assert handle.status() is State.CLAIMED
        gate.go.set()
        assert serving.join() == 0
    assert handle.result(0) == "finished"
    assert later.status() is State.READY


def test_what_was_fetched_ahead_goes_back_at_once(open_app: OpenApp, gate: Gate, kind: str) -> None:
    """Another worker runs it while the first one still waits for what it runs."""
    first, second = open_app(), open_app()
    task = define(first, gate, kind)
    handle = task.enqueue()
    rest = [first.task_named("other").enqueue(number) for number in range(20)]
    first.task(name="other")(other)
    define(second, gate, kind)
    second.task(name="other")(other)
    with working(first, concurrency=1, stop_timeout=PATIENCE) as serving:
        assert gate.running.wait(PATIENCE)
        serving.worker.stop()
        with working(second):
            assert [second.handle(each.id).result(PATIENCE) for each in rest] == list(range(20))
        assert serving.code is None, "it still waits"
        assert handle.status() is State.CLAIMED
        gate.go.set()
        assert serving.join() == 0


def test_what_is_claimed_while_the_stop_comes(open_app: OpenApp, gate: Gate) -> None:
    """A claim that has begun before the stop fetches ahead after it; that goes back, too."""
    first, second = open_app(), open_app()
    claiming, given_back = threading.Event(), threading.Event()
    storage = first.store.storage
    claim, give_back = storage.claim, storage.give_back

    def slow_claim(queue: str, limit: int = 1) -> Any:
        claiming.set()
        assert given_back.wait(PATIENCE)
        return claim(queue, limit)

    def told_give_back(queue: str) -> None:
        give_back(queue)
        given_back.set()

    cast("Any", storage).claim = slow_claim
    cast("Any", storage).give_back = told_give_back
    task = define(first, gate, "sync")
    handles = [task.enqueue()] + [first.task_named("other").enqueue(number) for number in range(20)]
    first.task(name="other")(other)
    define(second, gate, "sync")
    second.task(name="other")(other)
    with working(first, concurrency=1, stop_timeout=PATIENCE) as serving:
        assert claiming.wait(PATIENCE)
        serving.worker.stop()
        with working(second, concurrency=2):
            assert [second.handle(each.id).result(5) for each in handles[1:]] == list(range(20))
            gate.go.set()
        serving.join()


def test_after_the_time_for_it_the_rest_is_handed_back(app: App, open_app: OpenApp, gate: Gate, kind: str) -> None:
    task = define(app, gate, kind)
    handle = task.enqueue()
    serving = Serving(app.worker(stop_timeout=0.05), burst=False)
    serving.start()
    assert gate.running.wait(PATIENCE)
    assert serving.stop() == 130
    record = app.get(handle.id)
    assert record is not None
    assert (record.state, record.failures, record.crashes) == (State.READY, 0, 0)
    gate.go.set()
    again = open_app()
    define(again, gate, kind)
    burst(again)
    assert again.handle(handle.id).result(0) == "finished"


def test_force_does_not_wait(app: App, gate: Gate, kind: str) -> None:
    task = define(app, gate, kind)
    handle = task.enqueue()
    serving = Serving(app.worker(stop_timeout=1000), burst=False)
    serving.start()
    assert gate.running.wait(PATIENCE)
    serving.worker.stop()
    serving.worker.stop(force=True)
    assert serving.join() == 130
    assert handle.status() is State.READY


def test_a_forced_stop_cancels_coroutines(app: App) -> None:
    running, cancelled = threading.Event(), threading.Event()

    @app.task(name="hangs")
    async def hangs() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    handle = hangs.enqueue()
    serving = Serving(app.worker(), burst=False)
    serving.start()
    assert running.wait(PATIENCE)
    serving.worker.stop(force=True)
    serving.join()
    assert cancelled.is_set()
    record = app.get(handle.id)
    assert record is not None
    assert (record.state, record.failures) == (State.READY, 0)


def test_a_late_thread_cannot_settle_what_was_handed_back(app: App, gate: Gate) -> None:
    before = threads_of_workers()
    task = define(app, gate, "sync")
    handle = task.enqueue()
    serving = Serving(app.worker(stop_timeout=0), burst=False)
    serving.start()
    assert gate.running.wait(PATIENCE)
    assert serving.stop() == 130
    gate.go.set()
    until(lambda: not threads_of_workers() - before, "the thread's end")
    assert handle.status() is State.READY


def test_nothing_begins_once_it_has_stopped(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that was on its way when the stop came gives back what it got: `run` has returned."""
    monkeypatch.setattr("eventq.worker.FORCE_TIMEOUT", 0.05)  # it is sure to pass: the claim waits for the end of `run`
    before = threads_of_workers()
    claiming, stopped = threading.Event(), threading.Event()
    storage = app.store.storage
    claim = storage.claim

    def slow_claim(queue: str, limit: int = 1) -> Any:
        claiming.set()
        assert stopped.wait(PATIENCE)
        return claim(queue, limit)

    cast("Any", storage).claim = slow_claim
    began = threading.Event()

    @app.task(name="begins")
    def begins() -> None:
        began.set()

    handle = begins.enqueue()
    serving = Serving(app.worker(stop_timeout=0.05), burst=False)
    serving.start()
    assert claiming.wait(PATIENCE)
    serving.worker.stop(force=True)
    serving.join()
    stopped.set()
    until(lambda: not threads_of_workers() - before, "the end of its threads")
    assert not began.is_set()
    assert handle.status() is State.READY


def test_a_timeout_still_counts_during_the_stop(app: App) -> None:
    running = threading.Event()

    @app.task(name="hangs", timeout=0.1, max_attempts=1)
    async def hangs() -> None:
        running.set()
        await asyncio.Event().wait()

    with working(app, stop_timeout=PATIENCE) as serving:
        handle = hangs.enqueue()
        assert running.wait(PATIENCE)
        assert serving.stop() == 0
    assert handle.status() is State.DEAD


def test_stopped_by_a_task(app: App) -> None:
    """A task may stop the worker that runs it."""

    @app.task(name="last", bind=True)
    def last(context: Context) -> int:
        serving.worker.stop()
        return 1

    serving = Serving(app.worker(), burst=False)
    handle = last.enqueue()
    serving.start()
    assert serving.join() == 0
    assert handle.result(0) == 1


def test_idle_it_stops_at_once(app: App) -> None:
    app.task(name="other")(other)
    with working(app) as serving:
        assert serving.stop() == 0


def test_a_stop_that_comes_just_before_the_run_is_heard(app: App) -> None:
    """A thread that was started to run the worker may come to it later than whoever stops it."""
    app.task(name="other")(other)
    serving = Serving(app.worker(), burst=False)
    serving.worker.stop()
    thread = threading.Thread(target=serving._run, daemon=True)
    thread.start()
    thread.join(3)
    heard = not thread.is_alive()
    serving.worker.stop()
    thread.join(PATIENCE)
    assert heard, "the stop was lost, and the worker went on"


def test_no_thread_is_left_behind(app: App) -> None:
    before = threads_of_workers()

    async def nothing() -> None: ...

    app.task(name="a")(nothing).enqueue()
    app.task(name="other")(other).enqueue(1)
    burst(app)
    until(lambda: not threads_of_workers() - before, "the end of its threads")


# ---------------------------------------------------------------- beside the program


def test_a_worker_runs_in_a_thread_for_the_time_of_a_block(app: App) -> None:
    task = app.task(name="w")(one)
    with app.worker() as worker:
        assert task.enqueue().result(PATIENCE) == 1
        assert app.ping()[0].id == worker.id
    handle = task.enqueue()
    with worker:
        assert handle.result(PATIENCE) == 1
    with pytest.raises(ZeroDivisionError), worker:
        raise ZeroDivisionError


def test_a_worker_that_ended_by_itself_runs_again_in_the_next_block(app: App) -> None:
    task = app.task(name="w")(one)
    with app.worker(max_tasks=1) as worker:
        assert task.enqueue().result(PATIENCE) == 1
        until(lambda: worker._crew is None)
    with worker:
        assert task.enqueue().result(PATIENCE) == 1


def test_what_ended_it_is_raised_where_the_block_ends(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.task(name="w")(one)
    worker = app.worker()

    def fails(*_: object) -> None:
        raise RuntimeError("no thread for it")

    monkeypatch.setattr(worker, "_watch_over", fails)
    with pytest.raises(RuntimeError, match="no thread for it"), worker:
        until(lambda: worker._raised is not None)


def test_a_burst_says_what_it_has_left(app: App, caplog: pytest.LogCaptureFixture) -> None:
    task = app.task(name="w", rates={"r": (1, 3600.0)})(one)
    task.enqueue_many([()] * 3)
    task.using(delay=3600).enqueue()
    with caplog.at_level(logging.INFO, "eventq.worker"):
        burst(app)
    assert "default has 1 delayed, and 2 ready that could not start now" in caplog.text


def one() -> int:
    return 1
