"""What a failure leads to: every option of retrying, `Retry` and `Reject` (W13)."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from eventq import App, Reject, Retry, TaskFailed
from eventq.model import Record, State
from eventq.testing import FakeClock
from tasks.running import burst

NO = ValueError("no")


def record_of(app: App, id: str) -> Record:
    record = app.get(id)
    assert record is not None
    return record


def delays_of(app: App, clock: FakeClock, id: str, most: int = 10) -> list[float]:
    """Run it until it is no more repeated; the seconds between the end of each run and the next."""
    delays = []
    for _ in range(most):
        burst(app)
        record = record_of(app, id)
        if record.state is not State.DELAYED:
            return delays
        assert record.due is not None
        delays.append(round(record.due - clock.now(), 3))
        clock.advance(record.due - clock.now())
    return delays


def failing(app: App, error: Any = NO, **options: Any) -> Any:
    @app.task(name="fails", **{"jitter": False, **options})
    def fails() -> None:
        raise error

    return fails


def failing_async(app: App, error: Any = NO, **options: Any) -> Any:
    @app.task(name="fails", **{"jitter": False, **options})
    async def fails() -> None:
        raise error

    return fails


@pytest.fixture(params=[failing, failing_async], ids=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


# ---------------------------------------------------------------- how often, and after how long


def test_three_attempts_unless_said(frozen: App, clock: FakeClock, make: Any) -> None:
    handle = make(frozen).enqueue()
    assert delays_of(frozen, clock, handle.id) == [1.0, 2.0]
    record = record_of(frozen, handle.id)
    assert (record.state, record.failures, len(record.attempts)) == (State.DEAD, 3, 3)


@pytest.mark.parametrize(
    ("options", "delays"),
    [
        ({"max_attempts": 1}, []),
        ({"max_attempts": 2}, [1.0]),
        ({"max_attempts": 5, "retry_delay": 2}, [2.0, 4.0, 8.0, 16.0]),
        ({"max_attempts": 5, "retry_delay": 2, "retry_delay_max": 5}, [2.0, 4.0, 5.0, 5.0]),
        ({"max_attempts": 4, "retry_delay": 2, "backoff": "linear"}, [2.0, 4.0, 6.0]),
        ({"max_attempts": 4, "retry_delay": 2, "backoff": "constant"}, [2.0, 2.0, 2.0]),
        ({"max_attempts": 6, "retry_delay": [1, 5, 30]}, [1.0, 5.0, 30.0, 30.0, 30.0]),
        ({"max_attempts": 3, "retry_delay": [100], "retry_delay_max": 60}, [60.0, 60.0]),
    ],
)
def test_delays(frozen: App, clock: FakeClock, options: Any, delays: list[float]) -> None:
    assert delays_of(frozen, clock, failing(frozen, **options).enqueue().id) == delays


def test_without_a_delay_it_runs_again_at_once(frozen: App) -> None:
    handle = failing(frozen, retry_delay=0, max_attempts=4).enqueue()
    burst(frozen)
    assert record_of(frozen, handle.id).failures == 4


def test_jitter_leaves_out_up_to_half(frozen: App, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(7)
    handle = failing(frozen, jitter=True, retry_delay=100, backoff="constant", max_attempts=9).enqueue()
    delays = delays_of(frozen, clock, handle.id)
    assert len(set(delays)) == 8
    assert all(50 <= delay <= 100 for delay in delays)


def test_it_may_work_the_next_time(frozen: App, clock: FakeClock) -> None:
    tries: list[int] = []

    @frozen.task(name="third")
    def third() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("not yet")
        return len(tries)

    handle = third.enqueue()
    delays_of(frozen, clock, handle.id)
    assert handle.result(0) == 3
    assert [attempt.outcome for attempt in record_of(frozen, handle.id).attempts] == ["failed", "failed", "completed"]


def test_what_was_said_of_the_event_beats_the_task(frozen: App, clock: FakeClock) -> None:
    task = failing(frozen)
    assert delays_of(frozen, clock, task.using(max_attempts=1).enqueue().id) == []
    assert delays_of(frozen, clock, task.using(retry_delay=[7]).enqueue().id) == [7.0, 7.0]


def test_the_queue_does_not_decide(frozen: App, clock: FakeClock) -> None:
    frozen.queue("default", max_attempts=9, retry_delay=99)
    assert delays_of(frozen, clock, failing(frozen).enqueue().id) == [1.0, 2.0]


# ---------------------------------------------------------------- for which errors


@pytest.mark.parametrize(
    ("options", "error", "again"),
    [
        ({}, ValueError(), True),
        ({"retry_for": OSError}, ValueError(), False),
        ({"retry_for": OSError}, ConnectionError(), True),
        ({"retry_for": (OSError, KeyError)}, KeyError(), True),
        ({"dont_retry_for": ValueError}, ValueError(), False),
        ({"dont_retry_for": ValueError}, UnicodeError(), False),
        ({"dont_retry_for": ValueError}, OSError(), True),
        ({"retry_for": OSError, "dont_retry_for": FileNotFoundError}, FileNotFoundError(), False),
        ({"retry_for": OSError}, Retry(), True),
        ({"dont_retry_for": Exception}, Retry(), True),
        ({}, Reject("never"), False),
        ({"retry_for": Reject}, Reject("never"), False),
    ],
)
def test_which_errors_are_repeated(frozen: App, make: Any, options: Any, error: Exception, again: bool) -> None:
    handle = make(frozen, error, **options).enqueue()
    burst(frozen)
    assert handle.status() is (State.DELAYED if again else State.DEAD)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_would_end_a_program_ends_the_run_only(frozen: App, error: BaseException) -> None:
    def other() -> int:
        return 1

    handle, after = failing(frozen, error, max_attempts=1).enqueue(), frozen.task(name="other")(other).enqueue()
    burst(frozen, concurrency=1)
    assert handle.status() is State.DEAD
    assert after.result(0) == 1


def test_sys_exit_in_a_task(frozen: App, make: Any) -> None:
    @frozen.task(name="exits", max_attempts=1)
    def exits() -> None:
        sys.exit("bye")

    handle = exits.enqueue()
    burst(frozen)
    with pytest.raises(TaskFailed, match="SystemExit: bye"):
        handle.result(0)


# ---------------------------------------------------------------- instructions


def test_retry_says_when(frozen: App, clock: FakeClock, make: Any) -> None:
    handle = make(frozen, Retry(delay=42, reason="the other side asks for patience")).enqueue()
    assert delays_of(frozen, clock, handle.id) == [42.0, 42.0]
    failure = record_of(frozen, handle.id).failure
    assert failure is not None
    assert (failure.type, failure.message) == ("Retry", "the other side asks for patience")


def test_retry_without_a_delay_takes_that_of_the_task(frozen: App, clock: FakeClock) -> None:
    assert delays_of(frozen, clock, failing(frozen, Retry(), retry_delay=[3, 9]).enqueue().id) == [3.0, 9.0]


def test_retry_at_once(frozen: App) -> None:
    handle = failing(frozen, Retry(0), max_attempts=3).enqueue()
    burst(frozen)
    assert record_of(frozen, handle.id).failures == 3


def test_reject_says_why(frozen: App, make: Any) -> None:
    handle = make(frozen, Reject("no such customer")).enqueue()
    burst(frozen)
    with pytest.raises(TaskFailed, match="no such customer"):
        handle.result(0)
    assert record_of(frozen, handle.id).failures in (0, 1)


# ---------------------------------------------------------------- for how long


def test_no_run_begins_later_than_retry_within(frozen: App, clock: FakeClock) -> None:
    task = failing(frozen, max_attempts=50, retry_delay=10, backoff="constant", retry_within=35)
    handle = task.enqueue()
    assert delays_of(frozen, clock, handle.id) == [10.0, 10.0, 10.0]
    assert handle.status() is State.DEAD


def test_retry_within_counts_from_the_put(frozen: App, clock: FakeClock) -> None:
    handle = failing(frozen, retry_within=35).enqueue()
    clock.advance(35)
    burst(frozen)
    assert handle.status() is State.DEAD


def test_retry_within_bounds_an_instruction_too(frozen: App, clock: FakeClock) -> None:
    handle = failing(frozen, Retry(60), retry_within=35).enqueue()
    burst(frozen)
    assert handle.status() is State.DEAD


# ---------------------------------------------------------------- what is kept of it


def test_every_attempt_is_kept(frozen: App, clock: FakeClock, make: Any) -> None:
    handle = make(frozen, ValueError("no such file")).enqueue()
    delays_of(frozen, clock, handle.id)
    record = record_of(frozen, handle.id)
    for attempt in record.attempts:
        assert attempt.error is not None
        assert (attempt.error.type, attempt.error.message) == ("ValueError", "no such file")
        assert "raise error" in attempt.error.traceback
        assert attempt.worker == frozen.store.storage.worker
    assert [attempt.outcome for attempt in record.attempts] == ["failed", "failed", "dead"]


def test_the_log_says_what_happens(frozen: App, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    handle = failing(frozen, max_attempts=2).enqueue()
    delays_of(frozen, clock, handle.id)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "eventq.task"]
    assert lines == [
        ("WARNING", f"task fails failed (event {handle.id}, attempt 1): ValueError: no; again in 1.0 s"),
        ("ERROR", f"task fails is a dead letter (event {handle.id}, attempt 2): ValueError: no"),
    ]


def test_arguments_stay_out_of_the_log(frozen: App, caplog: pytest.LogCaptureFixture) -> None:
    @frozen.task(name="secret", max_attempts=1)
    def secret(password: str) -> None:
        raise ValueError("no")

    secret.enqueue("hunter2")
    burst(frozen)
    assert "hunter2" not in caplog.text
