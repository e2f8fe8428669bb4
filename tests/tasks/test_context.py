"""What a run may know of itself: `bind=True` (W5), and the object kept over calls (W15)."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from eventq import App, Context, TaskTimeout
from eventq.model import State
from eventq.testing import FakeClock
from tasks.running import burst


def test_what_a_run_knows(frozen: App, clock: FakeClock) -> None:
    seen: dict[str, Any] = {}

    @frozen.task(name="look", bind=True, timeout=30)
    def look(context: Context, number: int) -> int:
        seen.update(
            id=context.id, attempt=context.attempt, headers=context.headers, task=context.task, app=context.app,
            deadline=context.deadline, remaining=context.remaining(), cancelled=context.cancelled, state=context.state,
        )  # fmt: skip
        clock.advance(12)
        seen["later"] = context.remaining()
        context.check()
        return number

    now = clock.now()
    handle = look.using(headers={"user": "ann"}).enqueue(5)
    burst(frozen)
    assert handle.result(0) == 5
    assert seen.pop("deadline") == datetime.fromtimestamp(now + 30, UTC)
    assert seen == {
        "id": handle.id, "attempt": 1, "headers": {"user": "ann"}, "task": "look", "app": frozen, "remaining": 30.0,
        "later": 18.0, "cancelled": False, "state": None,
    }  # fmt: skip


def test_callers_leave_it_out(app: App) -> None:
    @app.task(name="look", bind=True)
    def look(context: Context, number: int) -> int:
        return number

    with pytest.raises(TypeError):
        look.enqueue()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        look.enqueue(1, 2)  # type: ignore[call-arg]
    assert look(3) == 3


def test_called_directly_it_gets_one_too(app: App) -> None:
    @app.task(name="look", bind=True, timeout=5)
    def look(context: Context) -> tuple[str, int, str, float | None, bool]:
        context.progress(1, 2)
        context.check()
        context.log.info("said")
        return context.task, context.attempt, context.id, context.remaining(), context.cancelled

    assert look() == ("look", 1, "", None, False)


def test_a_coroutine_has_one(app: App) -> None:
    @app.task(name="look", bind=True)
    async def look(context: Context, number: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return context.attempt, number

    handle = look.enqueue(5)
    burst(app)
    assert handle.result(0) == [1, 5] or handle.result(0) == (1, 5)


def test_without_a_timeout_there_is_no_deadline(app: App) -> None:
    seen = []

    @app.task(name="look", bind=True)
    def look(context: Context) -> None:
        seen.append((context.deadline, context.remaining()))
        context.check()

    look.enqueue()
    burst(app)
    assert seen == [(None, None)]


def test_attempts_are_counted(frozen: App, clock: FakeClock) -> None:
    attempts = []

    @frozen.task(name="look", bind=True, max_attempts=3)
    def look(context: Context) -> None:
        attempts.append(context.attempt)
        raise ValueError

    handle = look.enqueue()
    for _ in range(3):
        burst(frozen)
        clock.advance(100)
    assert attempts == [1, 2, 3]
    assert handle.status() is State.DEAD


def test_check_past_the_deadline(frozen: App, clock: FakeClock) -> None:
    errors = []

    @frozen.task(name="look", bind=True, timeout=5, max_attempts=1)
    def look(context: Context) -> None:
        clock.advance(6)
        assert context.remaining() == 0.0
        try:
            context.check()
        except TaskTimeout as error:
            errors.append(error)
            raise

    handle = look.enqueue()
    burst(frozen)
    assert len(errors) == 1
    assert handle.status() is State.DEAD


def test_the_log_names_the_event(app: App, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="shop.look", bind=True)
    def look(context: Context) -> None:
        context.log.warning("half way of %d", 7)

    handle = look.enqueue()
    burst(app)
    (record,) = [record for record in caplog.records if record.name == "shop.look"]
    assert record.getMessage() == f"[{handle.id}] half way of 7"
    assert record.__dict__["event"] == handle.id


# ---------------------------------------------------------------- state


def test_state_is_made_once_and_kept_over_calls(app: App) -> None:
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(threading.get_ident())
        return {"calls": 0}

    @app.task(name="count", bind=True, state=make)
    def count(context: Context) -> int:
        context.state["calls"] += 1
        return int(context.state["calls"])

    handles = [count.enqueue() for _ in range(3)]
    assert made == [], "not before the first run"
    burst(app, concurrency=1)
    assert sorted(handle.result(0) for handle in handles) == [1, 2, 3]
    assert len(made) == 1


def test_each_task_has_its_own(app: App) -> None:
    first = app.task(name="a", bind=True, state=list)(_state_of)
    second = app.task(name="b", bind=True, state=dict)(_state_of)
    handles = [first.enqueue(), second.enqueue()]
    burst(app)
    assert [handle.result(0) for handle in handles] == ["list", "dict"]


def _state_of(context: Context) -> str:
    return type(context.state).__name__


def test_a_state_that_cannot_be_made_fails_the_run_and_not_the_worker(frozen: App, clock: FakeClock) -> None:
    makes = []

    def make() -> str:
        makes.append(1)
        if len(makes) == 1:
            raise ConnectionError("the database is not there yet")
        return "connection"

    @frozen.task(name="query", bind=True, state=make)
    def query(context: Context) -> str:
        return str(context.state)

    @frozen.task(name="other")
    def other() -> int:
        return 1

    handle, beside = query.enqueue(), other.enqueue()
    burst(frozen, concurrency=1)
    assert beside.status() is State.COMPLETED
    assert handle.status() is State.DELAYED
    clock.advance(5)
    burst(frozen)
    assert handle.result(0) == "connection"
