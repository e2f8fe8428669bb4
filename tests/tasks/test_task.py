"""What `@app.task` makes, refuses and names (W1); tasks by name (W2)."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import pytest

from eventq import App, ConfigError, DuplicateName, Task, UnknownTask
from eventq.model import State
from eventq.task import AsyncGeneratorTask, CoroutineTask, GeneratorTask
from tasks.conftest import OpenApp
from tasks.running import burst, until, working


def double(number: int) -> int:
    return number * 2


async def double_later(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def test_bare(app: App) -> None:
    task = app.task(double)
    assert (type(task), task.name, app.tasks) == (Task, f"{__name__}.double", {task.name: task})


def test_with_options(app: App) -> None:
    task = app.task(max_attempts=9, name="shop.double")(double)
    assert (task.name, task.options.retry.max_attempts) == ("shop.double", 9)


@pytest.mark.parametrize("function", [double, double_later])
def test_sync_and_async_run_alike(app: App, function: Any) -> None:
    handle = app.task(function).enqueue(21)
    burst(app)
    assert handle.result(0) == 42


def test_calling_it_runs_it_here(app: App) -> None:
    thread: list[int] = []

    @app.task(name="where")
    def where(more: int) -> int:
        thread.append(threading.get_ident())
        return more + 1

    assert where(1) == 2
    assert thread == [threading.get_ident()]
    assert asyncio.run(app.task(double_later)(4)) == 8
    assert app.queues() == []


def test_what_a_plain_call_returns_is_not_checked_or_copied(app: App) -> None:
    @app.task(name="same")
    def same(value: Any) -> Any:
        return value

    thing = object()
    assert same(thing) is thing


def test_every_kind_of_function_has_its_class(app: App) -> None:
    def numbers() -> Any:
        yield 1

    async def later() -> Any:
        yield 1

    kinds = [double, double_later, numbers, later]
    made = [type(app.task(name=function.__name__)(function)) for function in kinds]
    assert made == [Task, CoroutineTask, GeneratorTask, AsyncGeneratorTask]


def test_own_class(app: App) -> None:
    class Counted(Task[Any, Any]):
        __slots__ = ("calls",)

        def enqueue(self, *args: Any, **kwargs: Any) -> Any:
            self.calls = getattr(self, "calls", 0) + 1
            return super().enqueue(*args, **kwargs)

    task: Any = app.task(cls=Counted, name="c")(double)
    task.enqueue(1)
    assert (type(task), task.calls) == (Counted, 1)
    with pytest.raises(TypeError, match=r"subclass of eventq\.Task"):
        app.task(cls=int, name="d")(double)  # type: ignore[call-overload]


# ---------------------------------------------------------------- refused


def test_a_name_is_registered_once(app: App) -> None:
    app.task(double)
    with pytest.raises(DuplicateName, match="name="):
        app.task(double)
    with pytest.raises(DuplicateName, match=r"shop\.x"):
        app.task(name="shop.x")(double)
        app.task(name="shop.x")(double_later)


class Callable_:
    def __call__(self) -> None: ...


@pytest.mark.parametrize("thing", [5, "text", Callable_(), int, Callable_, functools.partial(double, 1), None, []])
def test_what_is_no_function_is_refused(app: App, thing: Any) -> None:
    if thing is None:
        assert callable(app.task(None))  # the same as @app.task()
        return
    with pytest.raises(TypeError, match="a function"):
        app.task(thing)
    assert app.tasks == {}


def test_a_lambda_is_refused(app: App) -> None:
    with pytest.raises(TypeError, match="lambda"):
        app.task(lambda: 1)


def test_a_task_is_not_made_of_a_task(app: App) -> None:
    with pytest.raises(TypeError, match="a task already"):
        app.task(app.task(double))


def test_a_function_inside_another_needs_a_name_where_others_must_find_it(app: App, storage_kind: str) -> None:
    def inner() -> int:
        return 1

    if storage_kind == "memory":
        handle = app.task(inner).enqueue()
        burst(app)
        assert handle.result(0) == 1
        return
    with pytest.raises(ConfigError, match="name="):
        app.task(inner)
    assert app.task(name="inner")(inner).name == "inner"


def test_in_a_process_pool_it_cannot_be_inside_another_at_all(app: App) -> None:
    def inner() -> None: ...

    with pytest.raises(TypeError, match="top of a module"):
        app.task(name="inner", executor="process")(inner)
    assert app.tasks == {}


# ---------------------------------------------------------------- by name


def test_enqueued_by_name_without_the_code(app: App, open_app: OpenApp) -> None:
    sender = open_app()
    handle = sender.task_named("shop.double").enqueue(4)
    app.task(name="shop.double")(double)
    burst(app)
    assert handle.result(0) == 8


def test_by_name_where_it_is_defined_is_the_task(app: App) -> None:
    task = app.task(double)
    assert app.task_named(task.name) is task
    assert app.task_named(task.name, priority=5).options.put == {"priority": 5}
    with pytest.raises(TypeError, match="number"):
        app.task_named(task.name).enqueue("text")


def test_by_name_with_options(app: App) -> None:
    id = app.task_named("shop.double", queue="other", priority=7, headers={"user": 1}).enqueue(1).id
    record = app.get(id)
    assert record is not None
    assert (record.queue, record.priority, record.headers) == ("other", 7, {"user": 1})


def test_only_known_by_name_it_cannot_be_called(app: App) -> None:
    with pytest.raises(UnknownTask, match="enqueue"):
        app.task_named("shop.double")(1)


def test_an_unknown_task_waits_for_a_worker_that_knows_it(app: App, open_app: OpenApp) -> None:
    app.task(double)
    unknown = app.task_named("shop.new").enqueue(4)
    known = app.tasks[f"{__name__}.double"].enqueue(1)
    burst(app)
    assert known.result(0) == 2
    assert unknown.status() is State.READY
    record = app.get(unknown.id)
    assert record is not None
    assert record.failures == 0

    newer = open_app()
    newer.task(name="shop.new")(double)
    burst(newer)
    assert unknown.result(0) == 8


def test_an_unknown_task_does_not_hold_up_a_worker(app: App) -> None:
    task = app.task(double)
    with working(app, concurrency=1):
        unknown = [app.task_named("shop.new").enqueue(n) for n in range(5)]
        assert [task.enqueue(n).result(20) for n in range(5)] == [0, 2, 4, 6, 8]
        until(lambda: app.queue("default").stats().ready == 5)
    assert {handle.status() for handle in unknown} == {State.READY}


def test_the_log_says_so(app: App, caplog: pytest.LogCaptureFixture) -> None:
    app.task(double)
    app.task_named("shop.new").enqueue()
    burst(app)
    assert "task 'shop.new'" in caplog.text


def test_many_threads_enqueue_one_task(app: App) -> None:
    task = app.task(double)
    ids: list[str] = []

    def enqueue() -> None:
        ids.extend(task.enqueue(n).id for n in range(50))

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    burst(app)
    assert len(set(ids)) == 200
    assert sum(app.handle(id).result(0) for id in ids) == 4 * sum(range(0, 100, 2))


def test_await_form(app: App) -> None:
    task = app.task(double)

    async def main() -> int:
        handle = await task.aio.enqueue(4)
        with pytest.raises(TypeError):
            await task.aio.enqueue("text")  # type: ignore[arg-type]
        return await handle.aio.result(20)

    with working(app):
        assert asyncio.run(main()) == 8


def test_repr(app: App) -> None:
    assert repr(app.task(name="shop.double")(double)) == "<Task 'shop.double'>"


# ---------------------------------------------------------------- many at once


def test_many_calls_at_once(app: App) -> None:
    told: list[str] = []
    task = app.task(name="w")(scaled)
    app.on("after_enqueue", lambda _task, event: told.append(event))
    handles = task.enqueue_many([(1,), (2, 3), [4]])
    assert [handle.id for handle in handles] == sorted(told)
    burst(app)
    assert [handle.result(0) for handle in handles] == [2, 6, 8]
    assert task.enqueue_many([]) == []
    assert asyncio.run(task.aio.enqueue_many([(5,)]))[0].status() is State.READY


@pytest.mark.parametrize(
    ("calls", "error", "says"),
    [
        ([(1,), ("one",)], TypeError, "number"),
        ([(1,), 2], TypeError, "call 1 is no sequence of arguments"),
        (["12"], TypeError, r"write \('12',\)"),
        ([(1, 2, 3)], TypeError, "too many"),
    ],
)
def test_many_calls_are_stored_together_or_not_at_all(app: App, calls: Any, error: type[Exception], says: str) -> None:
    task = app.task(name="w")(scaled)
    with pytest.raises(error, match=says):
        task.enqueue_many(calls)
    with pytest.raises(ConfigError, match="one by one"):
        task.using(key="k").enqueue_many([(1,)])
    assert app.queue("default").stats().ready == 0


def scaled(number: int, by: int = 2) -> int:
    return number * by


# ---------------------------------------------------------------- how long keys are held


def test_a_task_may_say_how_long_its_keys_are_held(app: App) -> None:
    task = app.task(name="w", unique=3600.0)(scaled)
    assert task.enqueue(1).id != task.enqueue(1).id  # no key, nothing held
    keyed = task.using(key="k")
    handle = keyed.enqueue(1)
    burst(app)
    assert handle.result(0) == 2
    assert keyed.enqueue(1) == handle
    with pytest.raises(ConfigError, match="key="):
        task.using(unique="waiting").enqueue(1)
    with pytest.raises(ConfigError, match="debounce"):
        app.task(name="x", debounce=0.0)(scaled)
