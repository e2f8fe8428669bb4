"""When an event runs again, and when it does not."""

from __future__ import annotations

import doctest
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventq import retry
from eventq.model import Dropped, Failure, Rejected, Retried, Settings, State
from eventq.testing import FakeClock

SETTINGS = Settings(max_attempts=3, max_crashes=2, retry_delay=1.0, retry_delay_max=60.0)
BROKEN = Failure("ValueError", "broken")


def highest() -> float:
    return 1.0


def lowest() -> float:
    return 0.0


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (10_000, 60.0)])
def test_the_delay_doubles_up_to_its_limit(failures: int, seconds: float) -> None:
    assert retry.backoff(failures, SETTINGS, highest) == seconds
    assert retry.backoff(failures, SETTINGS, lowest) == seconds / 2


@given(st.integers(1, 100_000), st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_the_delay_stays_within_half_and_whole(failures: int, delay: float, most: float) -> None:
    found = retry.backoff(failures, Settings(retry_delay=delay, retry_delay_max=most))
    assert 0.5 * min(delay, most) <= found <= most


def test_delays_differ() -> None:
    assert len({retry.backoff(5, SETTINGS) for _ in range(100)}) > 50


def test_a_failure_is_retried_until_the_last_attempt() -> None:
    for failures in (0, 1):
        outcome = retry.after_failure(BROKEN, failures, None, SETTINGS, None)
        assert isinstance(outcome, Retried)
        assert outcome.failure == BROKEN
        assert 0.5 * 2**failures <= outcome.delay <= 2**failures
    assert retry.after_failure(BROKEN, 2, None, SETTINGS, None) == Rejected(BROKEN)
    assert retry.after_failure(BROKEN, 50, None, SETTINGS, None) == Rejected(BROKEN)


def test_an_events_own_max_attempts_beats_the_queues() -> None:
    assert retry.after_failure(BROKEN, 0, 1, SETTINGS, None) == Rejected(BROKEN)
    assert isinstance(retry.after_failure(BROKEN, 5, 7, SETTINGS, None), Retried)


def test_a_delay_of_the_handler_beats_the_backoff() -> None:
    assert retry.after_failure(BROKEN, 0, None, SETTINGS, 0.0) == Retried(0.0, BROKEN)
    assert retry.after_failure(None, 1, None, SETTINGS, 7.5) == Retried(7.5, None)
    assert retry.after_failure(BROKEN, 2, None, SETTINGS, 7.5) == Rejected(BROKEN)


def test_an_event_may_start() -> None:
    assert retry.before_start(100.0, None, 0, None, SETTINGS) is None
    assert retry.before_start(100.0, 100.1, 1, None, SETTINGS) is None


@pytest.mark.parametrize("expires", [100.0, 99.9, 0.0])
def test_an_expired_event_must_not_start(expires: float) -> None:
    outcome = retry.before_start(100.0, expires, 0, None, SETTINGS)
    assert outcome == Dropped(State.EXPIRED, "not started before its expiry")


def test_a_poisonous_event_must_not_start() -> None:
    outcome = retry.before_start(100.0, None, 2, None, SETTINGS)
    assert isinstance(outcome, Rejected)
    assert outcome.failure is not None
    assert outcome.failure.type == "WorkerDied"
    assert "2 workers died" in outcome.failure.message
    assert "max_crashes=2" in outcome.failure.message


def test_an_events_own_max_crashes_beats_the_queues() -> None:
    assert retry.before_start(100.0, None, 2, 3, SETTINGS) is None
    assert retry.before_start(100.0, None, 1, 1, SETTINGS) is not None


def test_the_examples_in_the_docstrings() -> None:
    failed, tried = doctest.testmod(retry)
    assert (failed, tried > 0) == (0, True)


def test_pauses_grow_to_a_twentieth_of_a_second() -> None:
    pauses = list(itertools.islice(retry.pauses(None), 8))
    assert pauses == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05]
    assert list(retry.pauses(0)) == []
    assert list(itertools.islice(retry.pauses(60), 3)) == pauses[:3]


def test_pauses_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(retry.clock, "SYSTEM", clock)
    waited = []
    for pause in retry.pauses(0.01):
        waited.append(pause)
        clock.advance(pause)
    assert waited == [0.001, 0.002, 0.004, pytest.approx(0.003)]
