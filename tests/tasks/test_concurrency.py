"""How many runs of one kind there are at once, over all workers (W7)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from eventq import App
from tasks.conftest import OpenApp
from tasks.running import PATIENCE, until, working


class Meter:
    """How many are inside at once. Those who come wait until there have been `places`, so that it does not depend on
    how fast they come whether there ever are as many."""

    def __init__(self, places: int = 1) -> None:
        self.places = places
        self.were_full = threading.Event()
        self.most = 0
        self.total = 0
        self._inside = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            self.total += 1
            self.most = max(self.most, self._inside)
            if self._inside >= self.places:
                self.were_full.set()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1


def define(app: App, meter: Meter, on_loop: bool, **options: Any) -> Any:
    def work(number: int) -> int:
        with meter:
            assert meter.were_full.wait(PATIENCE)
            threading.Event().wait(0.003)  # who is one too many may come
        return number

    async def work_async(number: int) -> int:
        with meter:
            assert await asyncio.to_thread(meter.were_full.wait, PATIENCE)
            await asyncio.sleep(0.003)
        return number

    return app.task(name="work", **options)(work_async if on_loop else work)


@pytest.mark.parametrize("on_loop", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("places", [1, 2])
def test_of_a_task_over_two_workers(open_app: OpenApp, on_loop: bool, places: int) -> None:
    meter = Meter(places)
    first, second = open_app(), open_app()
    task = define(first, meter, on_loop, concurrency=places)
    define(second, meter, on_loop, concurrency=places)
    with working(first, concurrency=4), working(second, concurrency=4):
        handles = [task.enqueue(number) for number in range(16)]
        assert [handle.result(PATIENCE) for handle in handles] == list(range(16))
    assert (meter.total, meter.most) == (16, places)


def test_of_a_key_over_two_workers(open_app: OpenApp) -> None:
    meters = {0: Meter(), 1: Meter()}
    apps = [open_app(), open_app()]

    def work(customer: int) -> None:
        with meters[customer]:
            threading.Event().wait(0.003)

    tasks = [app.task(name="work")(work) for app in apps]
    with working(apps[0], concurrency=4), working(apps[1], concurrency=4):
        handles = [
            tasks[0].using(limits={f"customer:{number % 2}": 1}).enqueue(number % 2) for number in range(16)
        ]  # fmt: skip
        assert all(handle.wait(PATIENCE) for handle in handles)
    assert [(meter.total, meter.most) for meter in meters.values()] == [(8, 1), (8, 1)]


def test_of_a_queue_over_two_workers(open_app: OpenApp) -> None:
    meter = Meter(2)
    first, second = open_app(), open_app()
    first.queue("narrow", concurrency=2)
    task = define(first, meter, False, queue="narrow")
    define(second, meter, False, queue="narrow")
    with working(first, concurrency=4), working(second, concurrency=4):
        handles = [task.enqueue(number) for number in range(16)]
        assert all(handle.wait(PATIENCE) for handle in handles)
    assert (meter.total, meter.most) == (16, 2)


def test_one_task_at_its_limit_does_not_hold_up_others(app: App) -> None:
    gate, running = threading.Event(), threading.Event()

    @app.task(name="narrow", concurrency=1)
    def narrow() -> None:
        running.set()
        assert gate.wait(PATIENCE)

    @app.task(name="other")
    def other(number: int) -> int:
        return number

    with working(app, concurrency=2):
        waiting = [narrow.enqueue() for _ in range(5)]
        assert running.wait(PATIENCE)
        assert [other.enqueue(number).result(PATIENCE) for number in range(5)] == list(range(5))
        gate.set()
        assert all(handle.wait(PATIENCE) for handle in waiting)


def test_the_place_of_a_dead_worker_is_free(open_app: OpenApp) -> None:
    first, second = open_app(), open_app()
    meter = Meter()
    task = define(first, meter, False, concurrency=1)
    define(second, meter, False, concurrency=1)
    handles = [task.enqueue(number) for number in range(2)]
    assert len(first.store.storage.claim("default")) == 1
    first.store.storage.abandon()  # type: ignore[attr-defined]
    with working(second):
        assert all(handle.store is first.store for handle in handles)
        done = [second.handle(handle.id) for handle in handles]
        assert until(lambda: all(handle.ready() for handle in done))
    assert meter.total == 2
