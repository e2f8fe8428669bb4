"""Hooks: each told once, errors in them harmless, two of them may refuse (W14, O1)."""

from __future__ import annotations

from typing import Any

import pytest

from eventq import App, ConfigError, Context, Middleware
from eventq.middleware import HOOKS
from eventq.model import State
from eventq.testing import FakeClock
from tasks.running import burst


class Diary(Middleware):
    """Notes which hook was told, and what about."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def before_enqueue(self, task: Any, args: Any, kwargs: Any) -> None:
        self.lines.append(f"before_enqueue {task.name} {list(args)} {dict(kwargs)}")

    def after_enqueue(self, task: Any, id: str) -> None:
        self.lines.append(f"after_enqueue {task.name} {bool(id)}")

    def before_run(self, context: Context) -> None:
        self.lines.append(f"before_run {context.task} {context.attempt}")

    def after_run(self, context: Context) -> None:
        self.lines.append(f"after_run {context.task} {context.attempt}")

    def on_success(self, context: Context, value: Any) -> None:
        self.lines.append(f"on_success {context.task} {value}")

    def on_retry(self, context: Context, error: BaseException) -> None:
        self.lines.append(f"on_retry {context.task} {error}")

    def on_failure(self, context: Context, error: BaseException) -> None:
        self.lines.append(f"on_failure {context.task} {error}")

    def on_complete(self, context: Context) -> None:
        self.lines.append(f"on_complete {context.task}")

    def worker_started(self, worker: Any) -> None:
        self.lines.append("worker_started")

    def worker_stopped(self, worker: Any) -> None:
        self.lines.append("worker_stopped")


def work(number: int) -> int:
    if number < 0:
        raise ValueError("negative")
    return number


async def work_async(number: int) -> int:
    return work(number)


@pytest.mark.parametrize("function", [work, work_async])
def test_each_hook_is_told_once(frozen: App, clock: FakeClock, function: Any) -> None:
    diary = Diary()
    frozen.use(diary)
    task = frozen.task(name="w", max_attempts=2)(function)
    task.enqueue(5)
    burst(frozen)
    assert diary.lines == [
        "before_enqueue w [5] {}", "after_enqueue w True", "worker_started", "before_run w 1", "on_success w 5",
        "on_complete w", "after_run w 1", "worker_stopped",
    ]  # fmt: skip
    diary.lines.clear()
    task.enqueue(number=-1)
    burst(frozen)
    clock.advance(10)
    burst(frozen)
    assert diary.lines == [
        "before_enqueue w [] {'number': -1}", "after_enqueue w True", "worker_started", "before_run w 1",
        "on_retry w negative", "after_run w 1", "worker_stopped", "worker_started", "before_run w 2",
        "on_failure w negative", "on_complete w", "after_run w 2", "worker_stopped",
    ]  # fmt: skip


def test_hooks_of_one_task(frozen: App, clock: FakeClock) -> None:
    told: list[Any] = []
    task = frozen.task(
        name="w",
        max_attempts=2,
        on_success=lambda context, value: told.append(("success", context.task, value)),
        on_failure=lambda context, error: told.append(("failure", context.attempt, type(error))),
        on_retry=lambda context, error: told.append(("retry", context.attempt, type(error))),
        on_complete=lambda context: told.append(("complete", context.id)),
    )(work)
    good = task.enqueue(5)
    burst(frozen)
    assert told == [("success", "w", 5), ("complete", good.id)]
    told.clear()
    bad = task.enqueue(-1)
    burst(frozen)
    clock.advance(10)
    burst(frozen)
    assert told == [("retry", 1, ValueError), ("failure", 2, ValueError), ("complete", bad.id)]


def test_several_are_told_in_order(app: App) -> None:
    told: list[str] = []
    app.on("on_success", lambda _context, _value: told.append("first"))
    app.on("on_success", lambda _context, _value: told.append("second"))
    task = app.task(name="w", on_success=lambda _context, _value: told.append("the task's own"))(work)
    task.enqueue(1)
    burst(app)
    assert told == ["first", "second", "the task's own"]


def test_only_what_is_overridden_costs(app: App) -> None:
    class One(Middleware):
        def on_failure(self, context: Context, error: BaseException) -> None: ...

    app.use(One())
    assert [name for name in HOOKS if getattr(app.hooks, name)] == ["on_failure"]


def test_cancelled_completes(app: App) -> None:
    told: list[str] = []
    app.on("on_complete", lambda context: told.append(context.id))

    @app.task(name="c", bind=True)
    def cancels(context: Context) -> None:
        context.app.cancel(context.id)
        context.check()

    handle = cancels.enqueue()
    burst(app)
    assert handle.status() is State.CANCELLED
    assert told == [handle.id]


# ---------------------------------------------------------------- errors in hooks


@pytest.mark.parametrize(
    "hook", ["after_enqueue", "after_run", "on_success", "on_complete", "worker_started", "worker_stopped"]
)
def test_an_error_in_a_hook_is_logged_and_changes_nothing(
    app: App, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    def fails(*_: Any) -> None:
        raise RuntimeError("the hook is broken")

    app.on(hook, fails)
    app.on(hook, lambda *_: told.append(1))
    handle = app.task(name="w")(work).enqueue(5)
    assert burst(app) == 0
    assert handle.result(0) == 5
    assert told == [1], "the others are told all the same"
    assert f"a hook for {hook} failed" in caplog.text
    assert "the hook is broken" in caplog.text


@pytest.mark.parametrize("hook", ["on_retry", "on_failure"])
def test_an_error_in_a_hook_about_errors(frozen: App, clock: FakeClock, hook: str) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("the hook is broken")

    frozen.on(hook, fails)
    handle = frozen.task(name="w", max_attempts=2)(work).enqueue(-1)
    burst(frozen)
    clock.advance(10)
    burst(frozen)
    error = handle.exception()
    assert error is not None
    assert "negative" in str(error)


# ---------------------------------------------------------------- refusing


def test_before_enqueue_may_refuse(app: App) -> None:
    def refuse(task: Any, args: Any, kwargs: Any) -> None:
        if args[0] > 9:
            raise PermissionError("too large for you")

    after: list[str] = []
    app.on("before_enqueue", refuse)
    app.on("after_enqueue", lambda _task, event: after.append(event))
    task = app.task(name="w")(work)
    with pytest.raises(PermissionError, match="too large"):
        task.enqueue(10)
    assert (app.queues(), after) == ([], [])
    assert task.enqueue(9).id == after[0]


@pytest.mark.parametrize("function", [work, work_async])
def test_before_run_may_refuse(frozen: App, clock: FakeClock, function: Any) -> None:
    """What it raises counts as the run's own."""
    diary = Diary()
    refusals = [ValueError("not now")]

    def refuse(context: Context) -> None:
        if refusals:
            raise refusals.pop()

    frozen.on("before_run", refuse)
    frozen.use(diary)
    handle = frozen.task(name="w")(function).enqueue(5)
    burst(frozen)
    assert handle.status() is State.DELAYED
    assert "on_retry w not now" in diary.lines
    assert not any(line.startswith("on_success") for line in diary.lines)
    clock.advance(10)
    burst(frozen)
    assert handle.result(0) == 5


# ---------------------------------------------------------------- wrong use


def test_wrong_use(app: App) -> None:
    with pytest.raises(ConfigError, match="on_success"):
        app.on("on_sucess", print)
    with pytest.raises(TypeError, match="a function"):
        app.on("on_success", "print")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Middleware"):
        app.use(Diary)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Middleware"):
        app.use(object())  # type: ignore[arg-type]


def test_follow_ups_of_a_hook_are_put_before_the_event_is_settled(app: App) -> None:
    """So nothing that a hook puts is lost; what it puts carries the headers of the event."""
    task = app.task(name="w", queue="q")(work)
    seen: list[Any] = []

    def next_one(context: Context, value: int) -> None:
        record = app.get(context.id)
        assert record is not None
        seen.append(record.state)
        if value < 3:
            task.enqueue(value + 1)

    app.on("on_success", next_one)
    first = task.using(headers={"user": "ann"}).enqueue(1)
    burst(app)
    assert seen == [State.CLAIMED] * 3
    kept = app.queue("q").scan(State.COMPLETED).records
    assert [record.headers for record in kept if record.id != first.id] == [
        {"user": "ann", "correlation_id": first.id}
    ] * 2  # fmt: skip
