"""What `eventq.testing` gives to tests of programs: runs without workers, assertions, isolation (W16)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import eventq.testing
from eventq import App, Context, Reject, Retry, TaskFailed, UnknownTask
from eventq.clock import SYSTEM
from eventq.model import State
from eventq.testing import (
    FakeClock,
    Ran,
    assert_enqueued,
    assert_not_enqueued,
    enqueued,
    inline,
    isolated,
    run_until_empty,
)
from tasks.conftest import OpenApp
from tasks.test_arguments import Order


def double(number: int) -> int:
    return number * 2


async def double_later(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def noting(began: list[float], clock: FakeClock) -> Any:
    def note_the_time() -> None:
        began.append(clock.now())

    return note_the_time


def words(ran: list[Ran]) -> list[tuple[str, int, str]]:
    return [(each.task, each.attempt, each.outcome) for each in ran]


# ---------------------------------------------------------------- run_until_empty


def test_every_name_is_there() -> None:
    for name in eventq.testing.__all__:
        assert getattr(eventq.testing, name).__doc__
    with pytest.raises(AttributeError, match="run_untl_empty"):
        eventq.testing.run_untl_empty  # noqa: B018


def test_the_clock_moves_to_when_a_rate_lets_the_next_one_start(frozen: App, clock: FakeClock) -> None:
    began: list[float] = []
    task = frozen.task(name="w", rates={"smtp": (2, 60.0)})(noting(began, clock))
    for _ in range(4):
        task.enqueue()
    other = frozen.task(name="later", delay=10.0)(noting([], clock))
    other.enqueue()
    first = clock.now()
    assert words(run_until_empty(frozen)) == [(name, 1, "completed") for name in ("w", "w", "later", "w", "w")]
    assert [round(at - first) for at in began] == [0, 0, 60, 60]


def test_what_its_rate_does_not_hold_ends_the_wait(frozen: App, clock: FakeClock) -> None:
    task = frozen.task(name="w", rates={"smtp": (2, 60.0)})(double)
    task.enqueue(1)
    frozen.queue("default").pause()
    first = clock.now()
    assert run_until_empty(frozen) == []
    assert 60 <= clock.now() - first < 70


@pytest.mark.parametrize("function", [double, double_later])
def test_run_until_empty(frozen: App, function: Any) -> None:
    task = frozen.task(name="d")(function)
    handles = [task.enqueue(number) for number in range(3)]
    assert words(run_until_empty(frozen)) == [("d", 1, "completed")] * 3
    assert [handle.result(0) for handle in handles] == [0, 2, 4]
    assert run_until_empty(frozen) == []


def test_sync_functions_run_in_this_thread(frozen: App) -> None:
    @frozen.task(name="t")
    def thread() -> int:
        return threading.get_ident()

    handle = thread.enqueue()
    run_until_empty(frozen)
    assert handle.result(0) == threading.get_ident()


def test_retries_and_delays_take_no_time(frozen: App, clock: FakeClock) -> None:
    tries: list[float] = []

    @frozen.task(name="third", retry_delay=[1800, 3600], jitter=False)
    def third() -> int:
        tries.append(clock.now())
        if len(tries) < 3:
            raise ValueError("not yet")
        return len(tries)

    handle = third.using(delay=86400).enqueue()
    began, start = SYSTEM.monotonic(), clock.now()
    ran = run_until_empty(frozen)
    assert SYSTEM.monotonic() - began < 5
    assert words(ran) == [("third", 1, "failed"), ("third", 2, "failed"), ("third", 3, "completed")]
    assert [type(each.error) for each in ran] == [ValueError, ValueError, type(None)]
    assert [round(at - start) for at in tries] == [86400, 88200, 91800]
    assert handle.result(0) == 3


def test_what_runs_may_enqueue_more(frozen: App) -> None:
    @frozen.task(name="down")
    def down(number: int) -> None:
        if number:
            down.using(delay=number).enqueue(number - 1)

    down.enqueue(4)
    assert len(run_until_empty(frozen)) == 5


def test_outcomes(frozen: App) -> None:
    @frozen.task(name="ends", bind=True, max_attempts=2, retry_delay=0)
    def ends(context: Context, how: str) -> None:
        if how == "reject":
            raise Reject("no")
        if how == "retry" and context.attempt == 1:
            raise Retry(5)
        if how == "cancel":
            context.app.cancel(context.id)
            context.check()

    for how in ("reject", "retry", "cancel", "return"):
        ends.enqueue(how)
    ran = run_until_empty(frozen)
    assert [each.outcome for each in ran] == ["dead", "failed", "cancelled", "completed", "completed"]
    assert isinstance(ran[0].error, Reject)


def test_it_ends_when_it_does_not_end(frozen: App) -> None:
    @frozen.task(name="again")
    def again() -> None:
        again.enqueue()

    again.enqueue()
    with pytest.raises(RuntimeError, match="20 runs"):
        run_until_empty(frozen, limit=20)


def test_with_a_real_clock_what_is_not_due_stays(app: App) -> None:
    task = app.task(name="d")(double)
    late = task.using(delay=60).enqueue(1)
    task.enqueue(2)
    assert len(run_until_empty(app)) == 1
    assert late.status() is State.DELAYED


def test_only_some_queues(frozen: App) -> None:
    task = frozen.task(name="d")(double)
    task.using(queue="a").enqueue(1)
    task.using(queue="b").enqueue(2)
    assert len(run_until_empty(frozen, ["b"])) == 1
    assert len(run_until_empty(frozen, ["b", "a"])) == 1


def test_unknown_tasks_are_left(frozen: App) -> None:
    frozen.task(name="d")(double)
    handle = frozen.task_named("shop.new").enqueue()
    assert run_until_empty(frozen) == []
    assert handle.status() is State.READY


@pytest.mark.exhaustive
def test_a_coroutine_that_hangs_is_timed_out(frozen: App, clock: FakeClock) -> None:
    @frozen.task(name="hangs", timeout=3600, max_attempts=1)
    async def hangs() -> None:
        await asyncio.Event().wait()

    hangs.enqueue()
    (ran,) = run_until_empty(frozen)
    assert (ran.outcome, str(ran.error)) == ("dead", "the run took longer than 3600.0 s and was ended")


def test_a_coroutine_that_moves_the_clock_is_timed_out_at_once(frozen: App, clock: FakeClock) -> None:
    @frozen.task(name="slow", timeout=30, max_attempts=1)
    async def slow() -> None:
        clock.advance(31)
        await asyncio.Event().wait()

    began = SYSTEM.monotonic()
    slow.enqueue()
    assert [each.outcome for each in run_until_empty(frozen)] == ["dead"]
    assert SYSTEM.monotonic() - began < 0.9


def test_a_function_that_checks_is_timed_out(frozen: App, clock: FakeClock) -> None:
    @frozen.task(name="slow", bind=True, timeout=30, max_attempts=1)
    def slow(context: Context) -> None:
        clock.advance(31)
        context.check()

    slow.enqueue()
    assert [each.outcome for each in run_until_empty(frozen)] == ["dead"]


def test_hooks_and_output_are_as_with_a_worker(frozen: App) -> None:
    told: list[Any] = []
    frozen.on("on_success", lambda _context, value: told.append(value))

    @frozen.task(name="speaks")
    def speaks() -> int:
        print("hello")
        return 5

    hooks = frozen.hooks
    handle = speaks.enqueue()
    run_until_empty(frozen)
    assert told == [5]
    assert [note.kind for note in handle.notes()] == ["output"]
    assert frozen.hooks is hooks


def test_streams(frozen: App) -> None:
    @frozen.task(name="n")
    def numbers() -> Iterator[int]:
        yield from range(3)

    handle = numbers.enqueue()
    run_until_empty(frozen)
    assert list(handle) == [0, 1, 2]


# ---------------------------------------------------------------- inline


@pytest.mark.parametrize("function", [double, double_later])
def test_inline(frozen: App, function: Any) -> None:
    task = frozen.task(name="d")(function)
    with inline(frozen) as ran:
        assert task.enqueue(4).result(0) == 8
    assert words(ran) == [("d", 1, "completed")]
    assert not task.enqueue(5).ready(), "afterwards it waits again"


def test_inline_raises_what_the_task_raises(frozen: App) -> None:
    @frozen.task(name="fails")
    def fails() -> None:
        raise ValueError("in the task")

    with inline(frozen) as ran, pytest.raises(ValueError, match="in the task"):
        fails.enqueue()
    assert words(ran) == [("fails", 1, "failed")]
    assert frozen.queue("default").stats().delayed == 1, "it was settled all the same"


def test_inline_may_keep_errors(frozen: App) -> None:
    @frozen.task(name="fails", max_attempts=1)
    async def fails() -> None:
        raise ValueError("in the task")

    with inline(frozen, raises=False), pytest.raises(TaskFailed, match="in the task"):
        fails.enqueue().result(0)


def test_inline_within_inline(frozen: App) -> None:
    inner = frozen.task(name="inner")(double_later)

    @frozen.task(name="outer")
    def outer(number: int) -> int:
        return inner.enqueue(number).result(0) + 1

    @frozen.task(name="outer_async")
    async def outer_async(number: int) -> int:
        return (await inner.aio.enqueue(number)).result(0) + inner.enqueue(1).result(0)

    with inline(frozen) as ran:
        assert outer.enqueue(4).result(0) == 9
        assert outer_async.enqueue(4).result(0) == 10
    assert [each.task for each in ran] == ["inner", "outer", "inner", "inner", "outer_async"]


def test_inline_leaves_what_is_not_due(frozen: App, clock: FakeClock) -> None:
    task = frozen.task(name="d")(double)
    with inline(frozen):
        handle = task.using(delay=5).enqueue(1)
    assert handle.status() is State.DELAYED
    run_until_empty(frozen)
    assert handle.result(0) == 2


def test_inline_checks_as_ever(frozen: App) -> None:
    task = frozen.task(name="d")(double)
    with inline(frozen), pytest.raises(TypeError):
        task.enqueue("text")  # type: ignore[arg-type]


def test_hooks_that_are_added_meanwhile_stay(frozen: App) -> None:
    told: list[str] = []
    task = frozen.task(name="d")(double)
    frozen.on("after_enqueue", lambda _task, _id: told.append("before"))
    with inline(frozen):
        frozen.on("after_enqueue", lambda _task, _id: told.append("meanwhile"))
        task.enqueue(1)
    task.enqueue(1)
    assert told == ["before", "meanwhile"] * 2
    assert len(frozen.hooks.after_enqueue) == 2


# ---------------------------------------------------------------- what waits


def charge(order: Order, amount: float = 1.0, *, currency: str = "eur") -> None: ...


def test_assert_enqueued(frozen: App) -> None:
    task = frozen.task(name="charge")(charge)
    task.using(priority=3, delay=5, headers={"user": 1}).enqueue(Order(1), currency="usd")
    found = assert_enqueued(frozen, task)
    assert (found.task, found.args, found.kwargs) == ("charge", [Order(1)], {"currency": "usd"})
    assert (found.record.priority, found.record.state, found.record.headers) == (3, State.DELAYED, {"user": 1})
    for args, kwargs in [
        ((Order(1),), {"currency": "usd"}),
        ((Order(1), 1.0), {"currency": "usd"}),
        ((), {"order": Order(1), "amount": 1, "currency": "usd"}),
        (({"number": 1},), {"currency": "usd"}),
    ]:  # fmt: skip
        assert assert_enqueued(frozen, task, *args, **kwargs).id == found.id
        assert assert_enqueued(frozen, "charge", *args, **kwargs).id == found.id
        with pytest.raises(AssertionError, match="is enqueued"):
            assert_not_enqueued(frozen, task, *args, **kwargs)
    assert_not_enqueued(frozen, task, Order(2))
    assert_not_enqueued(frozen, task, Order(1))
    with pytest.raises(AssertionError, match=r"(?s)charge\(Order\(number=2.*is not enqueued; these wait:\n  charge\("):
        assert_enqueued(frozen, task, Order(2))
    with pytest.raises(TypeError, match="colour"):
        assert_enqueued(frozen, task, Order(1), colour="red")


def test_nothing_waits(frozen: App) -> None:
    task = frozen.task(name="charge")(charge)
    assert_not_enqueued(frozen, task)
    with pytest.raises(AssertionError, match="nothing waits"):
        assert_enqueued(frozen, task)
    task.enqueue(Order(1))
    run_until_empty(frozen)
    assert_not_enqueued(frozen, task)


def test_a_misspelt_name_is_no_task_that_nobody_enqueues(frozen: App) -> None:
    frozen.task(name="charge")(charge)
    with pytest.raises(UnknownTask, match="charge"):
        assert_not_enqueued(frozen, "chrage")


def test_enqueued(frozen: App) -> None:
    task = frozen.task(name="d")(double)
    task.enqueue(1)
    frozen.task_named("elsewhere", queue="z").enqueue("x", y=2)
    frozen.queue("plain").put({"no": "call"})
    task.using(queue="a").enqueue(2)
    assert [(call.task, call.args, call.kwargs) for call in enqueued(frozen)] == [
        ("d", [1], {}), ("elsewhere", ["x"], {"y": 2}), ("d", [2], {})
    ]  # fmt: skip
    assert [call.args for call in enqueued(frozen, task)] == [[1], [2]]
    assert_enqueued(frozen, "elsewhere", "x", y=2)


# ---------------------------------------------------------------- isolation


def test_isolated(app: App) -> None:
    task = app.task(name="d", bind=True, state=list)(_appends)
    queue = app.queue("plain")
    queue.put(1)
    outside = task.enqueue(1)
    run_until_empty(app)
    storage, clock = app.store.storage, app.store.clock
    with isolated(app) as same:
        assert same is app
        assert isinstance(app.store.clock, FakeClock)
        assert (app.queues(), queue.stats().ready) == ([], 0)
        queue.put(2)
        inside = task.using(delay=9999).enqueue(7)
        assert [each.outcome for each in run_until_empty(app)] == ["completed"]
        assert inside.result(0) == [7], "the state of the task is that of the test"
        assert outside.status() is None
    assert (app.store.storage, app.store.clock) == (storage, clock)
    assert outside.result(0) == [1]
    assert queue.stats().ready == 1


def _appends(context: Context, number: int) -> list[int]:
    context.state.append(number)
    return list(context.state)


def test_isolated_after_an_error(app: App) -> None:
    storage = app.store.storage
    with pytest.raises(ValueError, match="in the test"), isolated(app):
        raise ValueError("in the test")
    assert app.store.storage is storage


def test_isolated_twice(app: App) -> None:
    task = app.task(name="d")(double)
    for _ in range(2):
        with isolated(app):
            task.enqueue(1)
            assert len(enqueued(app)) == 1


def test_with_a_clock_of_the_test(app: App, clock: FakeClock) -> None:
    with isolated(app, clock):
        assert app.store.clock is clock


def test_other_apps_do_not_see_it(app: App, open_app: OpenApp) -> None:
    task = app.task(name="d")(double)
    with isolated(app):
        task.enqueue(1)
        assert open_app().queues() == []
