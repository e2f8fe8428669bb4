"""Claims: how a block ends, what is recorded, and what goes on to others."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import pytest

import eventq
from eventq import (
    App,
    Claim,
    ClaimLost,
    ConfigError,
    Failure,
    PayloadError,
    Queue,
    Record,
    Reject,
    Retry,
    State,
    StorageError,
)
from eventq.claim import MAX_TRACEBACK, failure_of
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def app(url: str, clock: FakeClock) -> Iterator[App]:
    with App(url, clock=clock) as app:
        yield app


@pytest.fixture
def queue(app: App) -> Queue[Any]:
    return app.queue("orders")


def claimed(queue: Queue[Any], payload: Any = "x") -> Claim[Any]:
    queue.put(payload)
    claim = queue.claim()
    assert claim is not None
    return claim


def record_of(queue: Queue[Any], claim: Claim[Any]) -> Record:
    record = queue.get(claim.id)
    assert record is not None
    return record


# ---------------------------------------------------------------- blocks


def test_returning_completes(queue: Queue[Any]) -> None:
    claim = claimed(queue)
    with claim as event:
        assert event.payload == "x"
        assert not claim.settled
    assert claim.settled
    assert queue.get(claim.id) is None


def test_raising_retries_then_kills(queue: Queue[Any], clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    queue.configure(max_attempts=2, retry_delay=10)
    claim = claimed(queue, "s3cret")
    with caplog.at_level(logging.WARNING, "eventq"), claim:
        raise ZeroDivisionError("by zero")
    record = record_of(queue, claim)
    assert (record.state, record.failures) == (State.DELAYED, 1)
    assert [entry.levelname for entry in caplog.records] == ["WARNING"]
    assert claim.id in caplog.text
    assert "ZeroDivisionError: by zero" in caplog.text

    clock.advance(10)
    again = queue.claim()
    assert again is not None
    assert again.event.attempt == 2
    caplog.clear()
    with caplog.at_level(logging.WARNING, "eventq"), again:
        raise ValueError("worse")
    record = record_of(queue, claim)
    assert record.state is State.DEAD
    assert record.failure is not None
    assert (record.failure.type, record.failure.message) == ("ValueError", "worse")
    assert "test_claim.py" in record.failure.traceback
    errors = [attempt.error for attempt in record.attempts]
    assert [error.message for error in errors if error is not None] == ["by zero", "worse"]
    assert [entry.levelname for entry in caplog.records] == ["ERROR"]
    assert caplog.records[0].name == "eventq.claim"
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, BaseException])
def test_being_stopped_releases_and_raises_on(queue: Queue[Any], error: type[BaseException]) -> None:
    claim = claimed(queue)
    with pytest.raises(error), claim:
        raise error
    record = record_of(queue, claim)
    assert (record.state, record.failures) == (State.READY, 0)
    again = queue.claim()
    assert again is not None
    assert again.event.attempt == 1


def test_a_generator_that_is_closed_releases(queue: Queue[Any]) -> None:
    claim = claimed(queue)

    def handler() -> Iterator[int]:
        with claim:
            yield 1

    running = handler()
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert record_of(queue, claim).state is State.READY


def test_retry_is_obeyed(queue: Queue[Any], clock: FakeClock) -> None:
    claim = claimed(queue)
    with claim:
        raise Retry(30, "the shop is closed")
    record = record_of(queue, claim)
    assert record.state is State.DELAYED
    assert record.due == pytest.approx(clock.now() + 30, abs=1e-5)
    assert record.failure is not None
    assert (record.failure.type, record.failure.message) == ("Retry", "the shop is closed")


def test_retry_counts_attempts(queue: Queue[Any], clock: FakeClock) -> None:
    queue.configure(max_attempts=2)
    claim = claimed(queue)
    with claim:
        raise Retry(1)
    clock.advance(1)
    again = queue.claim()
    assert again is not None
    with again:
        raise Retry(1)
    assert record_of(queue, claim).state is State.DEAD


def test_reject_is_obeyed(queue: Queue[Any]) -> None:
    claim = claimed(queue)
    with claim:
        raise Reject("no such customer")
    record = record_of(queue, claim)
    assert (record.state, record.failures) in ((State.DEAD, 0), (State.DEAD, 1))
    assert record.failure is not None
    assert (record.failure.type, record.failure.message) == ("Reject", "no such customer")


def test_instructions_are_outside_the_tree() -> None:
    assert not issubclass(Retry, eventq.EventqError)
    assert not issubclass(Reject, eventq.EventqError)
    assert str(Retry(5)) == ""
    with pytest.raises(ConfigError):
        Retry(-1)


@pytest.mark.parametrize("verb", ["complete", "retry", "release", "reject", "skip", "cancel"])
def test_settled_inside_is_left_alone(queue: Queue[Any], verb: str) -> None:
    claim = claimed(queue)
    with claim:
        getattr(claim, verb)()
        before = queue.get(claim.id)
    assert queue.get(claim.id) == before


def test_raising_after_settling_is_logged(queue: Queue[Any], caplog: pytest.LogCaptureFixture) -> None:
    claim = claimed(queue)
    with caplog.at_level(logging.ERROR, "eventq"), claim:
        claim.complete("done")
        raise RuntimeError("too late")
    assert record_of(queue, claim).state is State.COMPLETED
    assert "RuntimeError: too late" in caplog.text
    assert claim.id in caplog.text


def test_stopping_after_settling_raises_on(queue: Queue[Any]) -> None:
    claim = claimed(queue)
    with pytest.raises(KeyboardInterrupt), claim:
        claim.complete("done")
        raise KeyboardInterrupt
    assert record_of(queue, claim).state is State.COMPLETED


@pytest.mark.parametrize("verb", ["complete", "retry", "release", "reject", "skip", "cancel"])
def test_settling_twice(queue: Queue[Any], verb: str) -> None:
    claim = claimed(queue)
    claim.release()
    with pytest.raises(ClaimLost, match=claim.id):
        getattr(claim, verb)()


def lose(claim: Claim[Any]) -> None:
    """Have the claim end behind the back of its object, as a takeover does."""
    twin: Claim[Any] = Claim(claim.store, claim._claimed, None)
    twin.release()


def test_the_loser_of_a_claim_knows(queue: Queue[Any]) -> None:
    claim = claimed(queue)
    with pytest.raises(ClaimLost), claim:
        lose(claim)
    assert record_of(queue, claim).state is State.READY


def test_losing_a_claim_does_not_hide_an_interrupt(queue: Queue[Any], caplog: pytest.LogCaptureFixture) -> None:
    claim = claimed(queue)
    with caplog.at_level(logging.WARNING, "eventq"), pytest.raises(KeyboardInterrupt), claim:
        lose(claim)
        raise KeyboardInterrupt
    assert "was lost" in caplog.text


def test_a_failing_storage_leaves_it_claimed(queue: Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    claim = claimed(queue)

    def settle(*_: object) -> None:
        raise StorageError("disk on fire")

    with monkeypatch.context() as patch:
        patch.setattr(queue.store.storage, "settle", settle)
        with pytest.raises(StorageError, match="on fire"), claim:
            pass
    assert not claim.settled
    claim.complete()
    assert claim.settled


# ---------------------------------------------------------------- verbs


def test_complete_with_a_value(queue: Queue[Any]) -> None:
    claim = claimed(queue)
    claim.complete({"total": 3})
    record = record_of(queue, claim)
    assert (record.state, record.value) == (State.COMPLETED, b'{"total":3}')


def test_a_value_that_would_change_is_refused(queue: Queue[Any]) -> None:
    claim = claimed(queue)
    with pytest.raises(PayloadError):
        claim.complete((1, 2))
    assert not claim.settled
    claim.complete([1, 2])


def test_retry_by_hand(queue: Queue[Any], clock: FakeClock) -> None:
    claim = claimed(queue)
    claim.retry(delay=5, error="not yet")
    record = record_of(queue, claim)
    assert record.due == pytest.approx(clock.now() + 5, abs=1e-5)
    assert record.failure == Failure("Retry", "not yet")
    clock.advance(5)
    again = queue.claim()
    assert again is not None
    assert again.event.attempt == 2
    with pytest.raises(ConfigError, match="delay"):
        again.retry(delay=-1)
    again.retry()
    record = record_of(queue, again)
    assert record.due is not None
    assert clock.now() + 1 <= record.due <= clock.now() + 2, "the second delay: 2 s, half of it by chance"


def test_release_counts_no_attempt(queue: Queue[Any]) -> None:
    queue.put("first")
    queue.put("second")
    claim = queue.claim()
    assert claim is not None
    claim.release()
    again = queue.claim()
    assert again is not None
    assert (again.event.payload, again.event.attempt) == ("first", 1)


def test_reject_by_hand(queue: Queue[Any]) -> None:
    claim = claimed(queue)
    claim.reject("bad address")
    assert record_of(queue, claim).failure == Failure("Reject", "bad address")
    claim = claimed(queue)
    claim.reject(LookupError("gone"))
    failure = record_of(queue, claim).failure
    assert failure is not None
    assert (failure.type, failure.message) == ("LookupError", "gone")


def test_skip_is_for_others(tmp_path: Path) -> None:
    with App(f"memory://{tmp_path}") as mine, App(f"memory://{tmp_path}") as theirs:
        claimed(mine.queue("q")).skip()
        assert mine.queue("q").claim() is None
        claim = theirs.queue("q").claim()
        assert claim is not None
        assert claim.event.attempt == 1
        claim.complete()


def test_cancelling_a_running_event(app: App, queue: Queue[Any], clock: FakeClock) -> None:
    claim = claimed(queue)
    assert not claim.cancelled
    assert app.cancel(claim.id) == "requested"
    clock.advance(1)
    app.store.storage.recover()
    assert claim.cancelled
    claim.cancel("as asked")
    record = record_of(queue, claim)
    assert record.state is State.CANCELLED
    assert record.failure is not None
    assert record.failure.message == "as asked"


def test_notes_are_seen_at_once(app: App, queue: Queue[Any]) -> None:
    claim = claimed(queue)
    claim.note("temperature", {"celsius": 21.5})
    claim.progress(3, 10, "copying")
    notes = app.handle(claim.id).notes()
    assert [note.kind for note in notes] == ["temperature", "progress"]
    assert bytes(notes[1].data) == b'{"done":3,"total":10,"note":"copying"}'
    assert app.handle(claim.id).notes(after=1) == notes[1:]
    with pytest.raises(PayloadError):
        claim.note("bad", {1, 2})
    claim.release()
    with pytest.raises(ClaimLost):
        claim.note("late")


def test_the_event_is_the_same_object(queue: Queue[Any]) -> None:
    claim = claimed(queue)
    with claim as event:
        assert event is claim.event
        with pytest.raises(AttributeError):
            event.payload = "other"  # type: ignore[misc]


# ---------------------------------------------------------------- failures as text


def raised(error: BaseException) -> BaseException:
    with contextlib.suppress(type(error)):
        raise error
    return error


def test_failures_are_bounded() -> None:
    failure = failure_of(raised(ValueError("x" * 100_000)))
    assert failure is not None
    assert len(failure.message) <= 4096
    assert len(failure.traceback) <= MAX_TRACEBACK
    assert failure.traceback.startswith("Traceback")
    assert "characters left out" in failure.traceback


def test_failures_can_always_be_stored(queue: Queue[Any]) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    claim = claimed(queue)
    with claim:
        raise Unprintable
    failure = record_of(queue, claim).failure
    assert failure is not None
    assert "Unprintable" in failure.type
    assert "RuntimeError" in failure.message

    claim = claimed(queue)
    with claim:
        raise ValueError("\ud800")
    failure = record_of(queue, claim).failure
    assert failure is not None
    assert failure.message == "\\ud800"


def test_types_of_failures() -> None:
    assert failure_of(None) is None
    assert failure_of("") is None
    failure = Failure("A", "b")
    assert failure_of(failure) is failure
    own = failure_of(StorageError("x"))
    assert own is not None
    assert own.type == "eventq.errors.StorageError"


def test_causes_are_in_the_traceback() -> None:
    try:
        try:
            raise KeyError("root")
        except KeyError as error:
            raise ValueError("top") from error
    except ValueError as error:
        failure = failure_of(error)
    assert failure is not None
    assert "KeyError: 'root'" in failure.traceback
    assert failure.traceback.rstrip().endswith("ValueError: top")
