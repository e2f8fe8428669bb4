"""Where functions run: threads, one by one, the event loop; sync code never blocks the loop (W6)."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from eventq import App, ConfigError
from eventq.supervisor import RECYCLED
from tasks.running import PATIENCE, Serving, burst, runs_of, working


def where() -> list[str]:
    return [threading.current_thread().name, str(threading.current_thread() is threading.main_thread())]


async def where_async() -> list[str]:
    asyncio.get_running_loop()
    return where()


def test_sync_in_threads_async_on_the_loop(app: App) -> None:
    sync, on_loop = app.task(name="s")(where).enqueue(), app.task(name="a")(where_async).enqueue()
    burst(app)
    assert sync.result(0)[0].startswith("eventq-")
    assert sync.result(0) != on_loop.result(0)
    assert on_loop.result(0) == ["eventq-loop", "False"]


def test_all_coroutines_share_one_loop(app: App) -> None:
    loops: set[int] = set()

    @app.task(name="a")
    async def which() -> None:
        loops.add(id(asyncio.get_running_loop()))

    handles = [which.enqueue() for _ in range(20)]
    burst(app)
    assert all(handle.ready() for handle in handles)
    assert len(loops) == 1


def test_several_at_once_in_threads(app: App) -> None:
    together = threading.Barrier(4)

    @app.task(name="meet")
    def meet() -> None:
        together.wait(PATIENCE)

    with working(app, concurrency=4):
        handles = [meet.enqueue() for _ in range(4)]
        assert [handle.result(PATIENCE) for handle in handles] == [None] * 4


def test_several_at_once_on_the_loop(app: App) -> None:
    here: list[int] = []
    all_here = threading.Event()

    @app.task(name="meet")
    async def meet() -> None:
        here.append(1)
        if len(here) == 50:
            all_here.set()
        await asyncio.to_thread(all_here.wait, PATIENCE)

    with working(app, concurrency=50):
        handles = [meet.enqueue() for _ in range(50)]
        assert all(handle.wait(PATIENCE) for handle in handles)


def test_no_more_than_concurrency_at_once(app: App) -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def enter(step: int) -> None:
        with lock:
            running[0] += step
            most[0] = max(most[0], running[0])

    @app.task(name="sync")
    def sync() -> None:
        enter(1)
        threading.Event().wait(0.002)
        enter(-1)

    @app.task(name="async")
    async def on_loop() -> None:
        enter(1)
        await asyncio.sleep(0.002)
        enter(-1)

    handles: list[Any] = [task.enqueue() for task in (sync, on_loop) * 30]
    burst(app, concurrency=3)
    assert all(handle.ready() for handle in handles)
    assert 2 <= most[0] <= 3


def test_sync_code_never_blocks_the_loop(app: App) -> None:
    gate, blocked = threading.Event(), threading.Event()

    @app.task(name="blocks")
    def blocks() -> None:
        blocked.set()
        assert gate.wait(PATIENCE)

    @app.task(name="quick")
    async def quick(number: int) -> int:
        await asyncio.sleep(0)
        return number

    with working(app, concurrency=3):
        blocks.enqueue()
        blocks.enqueue()
        assert blocked.wait(PATIENCE)
        assert [quick.enqueue(number).result(PATIENCE) for number in range(5)] == list(range(5))
        gate.set()


def test_a_long_run_does_not_hold_up_others(app: App) -> None:
    """Also if all earlier runs of its task were so short that the leader does them itself."""
    gate, running = threading.Event(), threading.Event()

    @app.task(name="mixed")
    def mixed(number: int) -> int:
        if number == 100:
            running.set()
            assert gate.wait(PATIENCE)
        return number

    with working(app, concurrency=2):
        for number in range(100):
            mixed.enqueue(number)
        last = mixed.enqueue(99)
        assert last.result(PATIENCE) == 99
        long = mixed.enqueue(100)
        assert running.wait(PATIENCE)
        assert [mixed.enqueue(number).result(PATIENCE) for number in range(20)] == list(range(20))
        gate.set()
        assert long.result(PATIENCE) == 100


def test_inline_is_one_by_one_in_one_thread(app: App) -> None:
    threads: set[int] = set()
    running: list[int] = []

    @app.task(name="s")
    def alone() -> None:
        threads.add(threading.get_ident())
        running.append(1)
        assert len(running) == 1
        running.pop()

    handles = [alone.enqueue() for _ in range(20)]
    burst(app, executor="inline", concurrency=9)
    assert all(handle.result(0) is None for handle in handles)
    assert len(threads) == 1


def test_each_run_has_context_variables_of_its_own(app: App) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    @app.task(name="a")
    async def set_it() -> int:
        before = variable.get()
        variable.set(1)
        await asyncio.sleep(0)
        return before

    handles = [set_it.enqueue() for _ in range(5)]
    burst(app)
    assert [handle.result(0) for handle in handles] == [0] * 5


def test_a_worker_may_run_again(app: App) -> None:
    task = app.task(name="s")(where)
    worker = app.worker()
    results = []
    for _ in range(2):
        handle = task.enqueue()
        ended = threading.Thread(target=lambda: results.append(worker.run(burst=True)))
        ended.start()
        ended.join(PATIENCE)
        assert not ended.is_alive()
        assert handle.ready()
    assert results == [0, 0]


def test_one_run_at_a_time(app: App) -> None:
    app.task(name="s")(where)
    with working(app) as serving, pytest.raises(RuntimeError, match="another"):
        serving.worker.run()


def test_burst_runs_what_its_tasks_enqueue(app: App) -> None:
    @app.task(name="down")
    def down(number: int) -> int:
        if number:
            down.enqueue(number - 1)
        return number

    down.enqueue(20)
    burst(app)
    assert app.queue("default").stats().completed == 21


def test_burst_waits_for_what_runs_on_the_loop(app: App) -> None:
    @app.task(name="first")
    async def first() -> None:
        await asyncio.sleep(0.05)
        second.enqueue()

    @app.task(name="second")
    def second() -> int:
        return 1

    first.enqueue()
    burst(app)
    assert app.queue("default").stats().completed == 2


def test_burst_leaves_what_is_not_due(app: App) -> None:
    handle = app.task(name="s")(where).using(delay=60).enqueue()
    assert burst(app) == 0
    assert not handle.ready()


def test_nothing_to_do_costs_no_runs(app: App) -> None:
    app.task(name="s")(where)
    with working(app) as serving:
        assert runs_of(serving.worker) == []
        assert serving.stop() == 0


def test_after_so_many_tasks_it_stops_by_itself(app: App) -> None:
    """So that a supervisor replaces its process."""
    task = app.task(name="s")(where)
    handles = [task.enqueue() for _ in range(5)]
    serving = Serving(app.worker(max_tasks=2, concurrency=1), burst=False)
    serving.start()
    assert serving.join() == RECYCLED
    assert sum(handle.ready() for handle in handles) == 2


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"concurrency": 0}, ConfigError),
        ({"concurrency": 1.5}, TypeError),
        ({"concurrency": True}, TypeError),
        ({"executor": "fibre"}, ConfigError),
        ({"queues": "mail"}, TypeError),
        ({"queues": []}, ConfigError),
        ({"queues": {"mail": 0}}, ConfigError),
        ({"queues": {"mail": 1.5}}, ConfigError),
        ({"queues": [""]}, ConfigError),
        ({"queues": [5]}, TypeError),
        ({"stop_timeout": -1}, ConfigError),
        ({"max_tasks": 0}, ConfigError),
        ({"max_bytes": "1 GiB"}, TypeError),
    ],
)
def test_what_a_worker_cannot_be(app: App, options: Any, error: Any) -> None:
    app.task(name="s")(where)
    with pytest.raises(error):
        app.worker(**options)


def test_a_worker_without_queues(app: App) -> None:
    with pytest.raises(ConfigError, match="define a task"):
        app.worker()
