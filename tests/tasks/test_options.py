"""The options of a task: who may say what, who wins, and that nothing leaks (W4)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventq import App, ConfigError
from eventq.model import State
from eventq.testing import FakeClock
from tasks.conftest import OpenApp
from tasks.running import burst


def work(number: int = 0) -> int:
    return number


def record_of(app: App, id: str) -> Any:
    record = app.get(id)
    assert record is not None
    return record


# ---------------------------------------------------------------- precedence


def test_the_call_beats_the_configuration_beats_the_decorator_beats_the_default(open_app: OpenApp) -> None:
    app = open_app(tasks={"*": {"priority": 2, "timeout": 20, "keep": 20}, "w": {"timeout": 30, "keep": 30}})
    task = app.task(name="w", priority=1, timeout=10, keep=10, retry_delay=10)(work)
    using = task.using(keep=40)
    assert task.options.put == {"priority": 2}
    assert (task.options.timeout, task.options.keep, task.options.retry.retry_delay) == (30.0, 30.0, 10.0)
    assert (using.options.timeout, using.options.keep, using.options.retry.retry_delay) == (30.0, 40.0, 10.0)
    assert task.options.retry.max_attempts == 3


def test_using_again_adds(app: App) -> None:
    task = app.task(name="w")(work).using(priority=1, delay=5).using(delay=6)
    assert task.options.put == {"priority": 1, "delay": 6}


def test_options_of_one_call_do_not_leak(app: App) -> None:
    task = app.task(name="w")(work)
    special = record_of(app, task.using(priority=9, headers={"a": 1}, queue="other", delay=60).enqueue().id)
    usual = record_of(app, task.enqueue().id)
    assert (special.priority, special.headers, special.queue, special.state) == (9, {"a": 1}, "other", State.DELAYED)
    assert (usual.priority, usual.headers, usual.queue, usual.state) == (0, {}, "default", State.READY)
    assert task.options.put == {}


def test_a_dict_that_was_given_may_change_later(app: App) -> None:
    headers: dict[str, Any] = {"a": [1]}
    task = app.task(name="w")(work).using(headers=headers)
    first = task.enqueue().id
    headers["b"] = 2
    headers["a"].append(2)
    assert record_of(app, first).headers == {"a": [1]}


# ---------------------------------------------------------------- what an option does


def test_put_options(frozen: App, clock: FakeClock) -> None:
    task = frozen.task(name="w", queue="mail", priority=4, expires=100, headers={"team": "x"})(work)
    record = record_of(frozen, task.using(delay=30, limits={"c": 2}).enqueue().id)
    assert (record.queue, record.priority, record.headers, record.limits) == ("mail", 4, {"team": "x"}, {"c": 2})
    assert record.due == pytest.approx(clock.now() + 30)
    assert record.expires == pytest.approx(clock.now() + 130)


def test_a_delay_is_counted_from_each_call(frozen: App, clock: FakeClock) -> None:
    task = frozen.task(name="w", delay=10)(work)
    task.enqueue()
    clock.advance(100)
    assert record_of(frozen, task.enqueue().id).due == pytest.approx(clock.now() + 10)


def test_at_an_instant(frozen: App, clock: FakeClock) -> None:
    at = datetime.fromtimestamp(clock.now(), UTC) + timedelta(hours=1)
    handle = frozen.task(name="w")(work).using(at=at).enqueue(5)
    burst(frozen)
    assert handle.status() is State.DELAYED
    clock.advance(3601)
    burst(frozen)
    assert handle.result(0) == 5


def test_key(app: App) -> None:
    task = app.task(name="w")(work)
    first = task.using(key="k").enqueue(1)
    assert task.using(key="k").enqueue(2).id == first.id
    burst(app)
    assert first.result(0) == 1
    assert task.using(key="k").enqueue(3).id != first.id


def test_priority(app: App) -> None:
    ran: list[int] = []

    @app.task(name="note")
    def note(number: int) -> None:
        ran.append(number)

    for priority in (1, 5, 3):
        note.using(priority=priority).enqueue(priority)
    burst(app, concurrency=1)
    assert ran == [5, 3, 1]


def test_run_options_of_a_call_reach_the_worker(frozen: App, clock: FakeClock) -> None:
    runs: list[float | None] = []

    @frozen.task(name="w", bind=True, timeout=10, max_attempts=1)
    def fails(context: Any) -> None:
        runs.append(context.remaining())
        raise ValueError

    handle = fails.using(max_attempts=2, timeout=500, retry_delay=77, jitter=False).enqueue()
    burst(frozen)
    record = record_of(frozen, handle.id)
    assert record.due == pytest.approx(clock.now() + 77)
    clock.advance(78)
    burst(frozen)
    assert handle.status() is State.DEAD
    assert runs == [500.0, 500.0]
    other = fails.enqueue()
    burst(frozen)
    assert other.status() is State.DEAD
    assert runs[2:] == [10.0]


def test_run_options_of_a_call_concern_it_alone(app: App) -> None:
    """The header that carries them is not carried on to follow-ups."""

    @app.task(name="inner")
    def inner() -> int:
        return 1

    @app.task(name="outer")
    def outer() -> str:
        return inner.enqueue().id

    handle = outer.using(timeout=60).enqueue()
    burst(app)
    assert set(record_of(app, handle.result(0)).headers) == {"correlation_id"}


# ---------------------------------------------------------------- refused


def test_unknown_options_are_errors(app: App) -> None:
    with pytest.raises(TypeError, match="retries"):
        app.task(retries=3)(work)  # type: ignore[call-overload]
    task = app.task(name="w")(work)
    with pytest.raises(TypeError, match="has no option 'name'"):
        task.using(name="x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="colour"):
        task.using(colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="colour"):
        app.task_named("w", colour="red")  # type: ignore[call-arg]
    assert list(app.tasks) == ["w"]


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("max_attempts", 0, ConfigError),
        ("max_attempts", "3", TypeError),
        ("max_attempts", True, TypeError),
        ("max_crashes", 0, ConfigError),
        ("retry_delay", -1, ConfigError),
        ("retry_delay", [], ConfigError),
        ("retry_delay", [1, "2"], TypeError),
        ("retry_delay_max", float("inf"), ConfigError),
        ("backoff", "quadratic", ConfigError),
        ("jitter", "yes", ConfigError),
        ("retry_for", ValueError(), TypeError),
        ("retry_for", [ValueError], TypeError),
        ("dont_retry_for", "ValueError", TypeError),
        ("retry_within", -5, ConfigError),
        ("timeout", 0, ConfigError),
        ("timeout", "1", TypeError),
        ("keep", -1, ConfigError),
        ("result", "no", ConfigError),
        ("capture", 2, ConfigError),
        ("ack", "sometimes", ConfigError),
        ("executor", "fibre", ConfigError),
        ("concurrency", 0, ConfigError),
        ("concurrency", 1.5, TypeError),
        ("queue", "", ConfigError),
        ("queue", 5, TypeError),
        ("name", "", ConfigError),
        ("on_failure", "print", TypeError),
        ("state", 5, TypeError),
        ("priority", 101, ConfigError),
        ("priority", "high", TypeError),
        ("delay", -1, ConfigError),
        ("expires", 0, ConfigError),
        ("unique", "always", ConfigError),
        ("headers", {1: 2}, TypeError),
        ("limits", {"a": 0}, ConfigError),
        ("rates", {"a": (0, 60.0)}, ConfigError),
        ("rates", {"a": 5}, TypeError),
        ("at", datetime(2026, 1, 1), ConfigError),  # noqa: DTZ001 - that it has no zone is the point
    ],
)
def test_a_value_that_cannot_be_is_refused_where_it_is_said(app: App, option: str, value: Any, error: Any) -> None:
    with pytest.raises(error):
        app.task(**{"name": "w", option: value})(work)
    assert app.tasks == {}, "what is refused is not registered"


def test_early_means_once(app: App) -> None:
    with pytest.raises(ConfigError, match="max_attempts"):
        app.task(name="w", ack="early", max_attempts=3)(work)
    assert app.task(name="w", ack="early")(work).options.max_crashes == 1
