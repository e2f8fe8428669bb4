"""What became of a call, for who waits (R1-R4), and calls that expire (Q8)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from eventq import (
    App,
    ResultMissing,
    ResultTimeout,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
)
from eventq.clock import SYSTEM
from eventq.model import State
from eventq.testing import FakeClock
from tasks.conftest import OpenApp
from tasks.running import PATIENCE, burst, until, working


def same(value: Any) -> Any:
    return value


async def same_async(value: Any) -> Any:
    return value


# ---------------------------------------------------------------- R1


@pytest.mark.parametrize("function", [same, same_async])
@pytest.mark.parametrize("value", [1, None, "text", [], {"a": [1, None]}, 0, False])
def test_the_value_may_be_read_again_and_again(app: App, open_app: OpenApp, function: Any, value: Any) -> None:
    handle = app.task(name="same")(function).enqueue(value)
    burst(app)
    assert [handle.result(0), handle.result(0), open_app().handle(handle.id).result(0)] == [value] * 3
    assert (handle.ready(), handle.exception(), handle.status()) == (True, None, State.COMPLETED)


def test_none_is_a_value_with_a_hint_too(app: App) -> None:
    @app.task(name="nothing")
    def nothing() -> None: ...

    @app.task(name="maybe")
    def maybe() -> int | None:
        return None

    handles: list[Any] = [nothing.enqueue(), maybe.enqueue()]
    burst(app)
    assert [handle.result(0) for handle in handles] == [None, None]


def test_before_its_end(app: App) -> None:
    handle = app.task(name="same")(same).enqueue(1)
    assert (handle.ready(), handle.wait(0), handle.exception(), handle.status()) == (False, False, None, State.READY)
    with pytest.raises(ResultTimeout, match="ready"):
        handle.result(0)


def test_a_waiter_is_woken(app: App, open_app: OpenApp) -> None:
    task = app.task(name="same")(same)
    handle = open_app().handle(task.enqueue(5).id)
    values: list[Any] = []
    waiter = threading.Thread(target=lambda: values.append(handle.result(PATIENCE)))
    waiter.start()
    with working(app):
        waiter.join(PATIENCE)
    assert values == [5]


def test_no_wait_is_as_long_as_a_look(app: App) -> None:
    """Waiting is by wakes and not by polling: many calls in turn take less than a look each."""
    task = app.task(name="same")(same)
    with working(app):
        assert task.enqueue(0).result(PATIENCE) == 0
        began = SYSTEM.monotonic()
        for number in range(40):
            assert task.enqueue(number).result(PATIENCE) == number
        assert SYSTEM.monotonic() - began < 40 * 0.125


def test_await_form(app: App) -> None:
    task = app.task(name="same")(same)

    async def main() -> list[Any]:
        handles = [await task.aio.enqueue(number) for number in range(5)]
        values = await asyncio.gather(*(handle.aio.result(PATIENCE) for handle in handles))
        assert await handles[0].aio.wait(0)
        assert await handles[0].aio.status() is State.COMPLETED
        return list(values)

    with working(app):
        assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_a_result_awaited_within_a_coroutine_task(app: App) -> None:
    """The loop is free meanwhile, and runs what is waited for."""
    inner = app.task(name="inner")(same_async)

    @app.task(name="outer")
    async def outer(number: int) -> int:
        handle = await inner.aio.enqueue(number)
        return await handle.aio.result(PATIENCE) + 1

    with working(app, concurrency=2):
        assert outer.enqueue(4).result(PATIENCE) == 5


# ---------------------------------------------------------------- R2


def test_results_are_kept_for_a_time(frozen: App, clock: FakeClock) -> None:
    task = frozen.task(name="same", keep=60)(same)
    handle, longer = task.enqueue(1), task.using(keep=600, queue="long").enqueue(2)
    burst(frozen, ["default", "long"])
    clock.advance(59)
    frozen.queue("default").prune()
    assert handle.result(0) == 1
    clock.advance(200)  # pruned in steps, never before its time
    frozen.queue("default").prune()
    with pytest.raises(ResultMissing, match="no record"):
        handle.result(0)
    assert longer.result(0) == 2


def test_an_hour_unless_said(frozen: App, clock: FakeClock) -> None:
    handle = frozen.task(name="same")(same).enqueue(1)
    burst(frozen)
    clock.advance(3599)
    frozen.queue("default").prune()
    assert handle.result(0) == 1
    clock.advance(200)
    frozen.queue("default").prune()
    assert handle.status() is None


@pytest.mark.parametrize("options", [{"result": False}, {"keep": 0}])
def test_no_result_at_all(app: App, options: Any) -> None:
    handle = app.task(name="same", **options)(same).enqueue(1)
    burst(app)
    with pytest.raises(ResultMissing):
        handle.result(0)
    assert handle.wait(0)


# ---------------------------------------------------------------- R3


class Broken(Exception):
    pass


@pytest.mark.parametrize("on_loop", [False, True])
def test_the_failure_as_text(app: App, on_loop: bool) -> None:
    def fails() -> None:
        raise Broken("the disk is on fire")

    async def fails_async() -> None:
        fails()

    handle = app.task(name="fails", max_attempts=1)(fails_async if on_loop else fails).enqueue()
    burst(app)
    with pytest.raises(TaskFailed, match="the disk is on fire") as caught:
        handle.result(0)
    failure = caught.value.failure
    assert failure is not None
    assert failure.type == f"{__name__}.Broken"
    assert failure.message == "the disk is on fire"
    assert 'raise Broken("the disk is on fire")' in failure.traceback
    assert "remote traceback" in str(caught.value)
    assert isinstance(handle.exception(), TaskFailed)


def test_no_class_that_a_record_names_is_imported(app: App) -> None:
    from eventq.model import Failure, Rejected

    handle = app.task(name="same")(same).enqueue(1)
    (claimed,) = app.store.storage.claim("default")
    app.store.storage.settle(claimed, Rejected(Failure("os.system", "rm -rf", "trace")))
    error = handle.exception()
    assert type(error) is TaskFailed


# ---------------------------------------------------------------- R4


def test_waiting_ends_when_the_call_cannot_succeed_any_more(app: App) -> None:
    def fails() -> None:
        raise Broken

    task = app.task(name="same")(same)
    dead = app.task(name="fails", max_attempts=1)(fails).enqueue()
    cancelled = task.using(delay=60).enqueue(1)
    expired = task.using(expires=0.01, queue="nobody").enqueue(3)
    cancelled.cancel()
    with working(app):
        for handle, error in [(dead, TaskFailed), (cancelled, TaskCancelled), (expired, TaskExpired)]:
            with pytest.raises(error):
                handle.result(PATIENCE)


def test_a_waiter_that_waits_already_is_told(app: App) -> None:
    task = app.task(name="same")(same)
    handle = task.using(expires=0.2).enqueue(1)
    with pytest.raises(TaskExpired):
        handle.result(PATIENCE)


def test_a_record_that_is_gone(app: App) -> None:
    handle = app.task(name="same")(same).using(delay=60).enqueue(2)
    app.queue("default").purge(State.DELAYED)
    with pytest.raises(ResultMissing):
        handle.result(PATIENCE)


# ---------------------------------------------------------------- Q8


def test_what_expires_never_runs_and_is_listed_with_the_reason(frozen: App, clock: FakeClock) -> None:
    ran: list[int] = []

    @frozen.task(name="note", expires=30)
    def note(number: int) -> None:
        ran.append(number)

    late, soon = note.enqueue(1), note.using(expires=300).enqueue(2)
    clock.advance(31)
    burst(frozen)
    assert ran == [2]
    assert soon.status() is State.COMPLETED
    (record,) = frozen.queue("default").scan(State.EXPIRED).records
    assert record.id == late.id
    assert record.failure is not None
    assert "expiry" in record.failure.message
    with pytest.raises(TaskExpired):
        late.result(0)


def test_what_has_started_does_not_expire(frozen: App, clock: FakeClock) -> None:
    @frozen.task(name="long", expires=30)
    def long() -> int:
        clock.advance(100)
        return 1

    handle = long.enqueue()
    burst(frozen)
    assert handle.result(0) == 1


def test_a_log_line_says_that_no_worker_is_there(
    app: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventq.handle.WARN_AFTER", 0.0)
    task = app.task(name="same", queue="lonely")(same)
    with pytest.raises(ResultTimeout):
        task.enqueue(1).result(0.3)
    assert "no live worker claims from 'lonely'" in caplog.text


def test_no_log_line_while_a_worker_is_there(
    app: App, open_app: OpenApp, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventq.handle.WARN_AFTER", 0.0)
    gate, running = threading.Event(), threading.Event()

    @app.task(name="waits")
    def waits() -> None:
        running.set()
        gate.wait(PATIENCE)

    with working(app, concurrency=1):
        waits.enqueue()
        assert running.wait(PATIENCE)
        second = open_app().handle(waits.enqueue().id)
        with pytest.raises(ResultTimeout):
            second.result(0.3)
        gate.set()
        until(second.ready)
    assert "no live worker" not in caplog.text
