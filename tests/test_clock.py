"""Clocks: the machine's, and the one that tests move by hand."""

from __future__ import annotations

import doctest
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

import eventq.testing.clock
from eventq import clock
from eventq.testing import FakeClock


def test_the_system_clock_is_the_machines() -> None:
    before = time.time(), time.monotonic()
    found = clock.SYSTEM.now(), clock.SYSTEM.monotonic()
    after = time.time(), time.monotonic()
    assert before[0] <= found[0] <= after[0]
    assert before[1] <= found[1] <= after[1]


def test_aware_and_epoch_are_each_others_inverse() -> None:
    instant = datetime(2026, 11, 21, 8, 15, 30, 250_000, tzinfo=UTC)
    assert clock.aware(clock.epoch(instant)) == instant
    assert clock.aware(0).isoformat() == "1970-01-01T00:00:00+00:00"


def test_epoch_minds_the_zone() -> None:
    there = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert clock.epoch(there) == clock.epoch(datetime(2026, 1, 1, tzinfo=UTC))


def test_a_naive_datetime_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        clock.epoch(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


def test_a_fake_clock_moves_when_told() -> None:
    fake = FakeClock(now=100.0)
    assert (fake.now(), fake.monotonic()) == (100.0, 0.0)
    assert fake.now() == 100.0
    fake.advance(1.5)
    assert (fake.now(), fake.monotonic()) == (101.5, 1.5)


def test_a_step_of_the_wall_clock_takes_no_time() -> None:
    fake = FakeClock(now=100.0)
    fake.advance(5)
    fake.step_wall(-50)
    assert (fake.now(), fake.monotonic()) == (55.0, 5.0)
    fake.step_wall(1000)
    assert (fake.now(), fake.monotonic()) == (1055.0, 5.0)


def test_time_does_not_go_back() -> None:
    fake = FakeClock()
    with pytest.raises(ValueError, match="step_wall"):
        fake.advance(-1)
    assert fake.monotonic() == 0.0


def test_the_examples_of_the_fake_clock() -> None:
    failed, tried = doctest.testmod(eventq.testing.clock)
    assert (failed, tried > 0) == (0, True)
