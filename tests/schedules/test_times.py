"""When schedules are due: tables, at the edges of clocks and calendars. No store."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from eventq import ConfigError
from eventq.schedule.times import Lateness, When, after, checked_when, due_times, latest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.schedule.times import Missed

BERLIN, NEW_YORK, KOLKATA = "Europe/Berlin", "America/New_York", "Asia/Kolkata"


def epoch(text: str, tz: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)).timestamp()


def times_of(when: When, start: float, moment: float) -> Iterator[float]:
    while (following := after(when, start, moment)) is not None:
        yield following
        moment = following


def shown(moment: float, tz: str) -> str:
    return datetime.fromtimestamp(moment, ZoneInfo(tz)).strftime("%d %H:%M%z")


CRON = [
    # the clock is put forward: 02:00 to 03:00 is left out
    ("30 2 * * *", BERLIN, "2026-03-28T12:00", ["29 03:00+0200", "30 02:30+0200"]),
    ("0,30 2 * * *", BERLIN, "2026-03-28T12:00", ["29 03:00+0200", "30 02:00+0200"]),
    ("*/30 2 * * *", BERLIN, "2026-03-28T12:00", ["30 02:00+0200", "30 02:30+0200"]),
    ("0 * * * *", BERLIN, "2026-03-29T00:30", ["29 01:00+0100", "29 03:00+0200", "29 04:00+0200"]),
    ("30 2 * * *", NEW_YORK, "2026-03-07T12:00", ["08 03:00-0400", "09 02:30-0400"]),
    ("0 * * * *", NEW_YORK, "2026-03-08T00:30", ["08 01:00-0500", "08 03:00-0400"]),
    # the clock is put back: 02:00 to 03:00 (in New York 01:00 to 02:00) comes twice
    ("30 2 * * *", BERLIN, "2026-10-24T12:00", ["25 02:30+0200", "26 02:30+0100"]),
    ("*/30 2 * * *", BERLIN, "2026-10-24T12:00", ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100"]),
    ("0 * * * *", BERLIN, "2026-10-25T01:30", ["25 02:00+0200", "25 02:00+0100", "25 03:00+0100"]),
    ("30 1 * * *", NEW_YORK, "2026-10-31T12:00", ["01 01:30-0400", "02 01:30-0500"]),
    ("0 * * * *", NEW_YORK, "2026-11-01T00:30", ["01 01:00-0400", "01 01:00-0500", "01 02:00-0500"]),
    # half an hour off
    ("15 9 * * MON-FRI", KOLKATA, "2026-03-27T12:00", ["30 09:15+0530", "31 09:15+0530"]),
    ("*/20 * * * *", KOLKATA, "2026-03-27T11:50", ["27 12:00+0530", "27 12:20+0530"]),
    # calendars
    ("0 0 31 * *", "UTC", "2026-01-31T12:00", ["31 00:00+0000", "31 00:00+0000"]),
    ("0 12 * * 7", "UTC", "2026-03-27T12:00", ["29 12:00+0000", "05 12:00+0000"]),
    ("*/20 0 12 * * *", "UTC", "2026-03-27T12:00", ["27 12:00+0000", "27 12:00+0000", "28 12:00+0000"]),
]


@pytest.mark.parametrize(("cron", "tz", "start", "expected"), CRON, ids=[f"{c} {z} {s}" for c, z, s, _ in CRON])
def test_cron(cron: str, tz: str, start: str, expected: list[str]) -> None:
    times = islice(times_of(When(cron=cron, tz=tz), 0.0, epoch(start, tz)), len(expected))
    assert [shown(each, tz) for each in times] == expected


@pytest.mark.parametrize(("cron", "tz", "start"), [(c, z, s) for c, z, s, _ in CRON])
def test_a_time_follows_from_the_instant_alone(cron: str, tz: str, start: str) -> None:
    """Whoever computes the next time from any instant in between gets the same one, also in the hour that comes twice;
    and who looks back finds the same times."""
    when, begin = When(cron=cron, tz=tz), epoch(start, tz)
    times = [begin, *islice(times_of(when, 0.0, begin), 5)]
    for before, following in pairwise(times):
        for part in (0.0, 0.0001, 0.3, 0.5, 0.9, 0.9999):
            assert after(when, 0.0, before + part * (following - before)) == following
    assert latest(when, 0.0, times[1], times[-1], 100) == times[1:]
    assert latest(when, 0.0, times[1], times[-1] + 0.5, 2) == times[-2:]
    assert latest(when, 0.0, times[1] + 0.1, times[3] - 0.1, 100) == times[2:3]


def test_the_29th_of_february() -> None:
    times = list(islice(times_of(When(cron="0 0 29 2 *"), 0.0, epoch("2096-02-28T00:00")), 2))
    assert [datetime.fromtimestamp(each, UTC).year for each in times] == [2096, 2104]


def test_an_interval_counts_from_its_start_and_does_not_drift() -> None:
    start = 1_700_000_000.1
    for every in (0.01, 0.25, 0.1, 1 / 3, 7.0, 86_400.0):
        when = When(every=every)
        times = list(islice(times_of(when, start, start), 1000))
        assert times == [start + number * every for number in range(1, 1001)]
        assert after(when, start, start - 1000) == start + every
        assert latest(when, start, start - 5, times[9], 3) == times[7:10]
        assert latest(when, start, times[8], times[9], 3) == times[8:10]
        assert latest(when, start, start - 5, start, 3) == []


def test_a_single_time() -> None:
    when = When(at=100.0)
    assert after(when, 0.0, 99.9) == 100.0
    assert after(when, 0.0, 100.0) is None
    assert latest(when, 0.0, 100.0, 200.0, 5) == [100.0]
    assert latest(when, 0.0, 100.1, 200.0, 5) == []


def test_looking_back_over_years_is_no_work() -> None:
    """Of a hundred million minutes, the last three."""
    end = epoch("2206-01-01T00:00")
    assert latest(When(cron="* * * * *"), 0.0, 0.0, end, 3) == [end - 120, end - 60, end]
    assert latest(When(every=0.01), 0.0, 0.0, end, 1) == [pytest.approx(end, abs=0.011)]
    assert latest(When(cron="0 0 1 1 *"), 0.0, 0.0, end, 3)[0] == epoch("2204-01-01T00:00")


# ---------------------------------------------------------------- what is due


MISSED: list[tuple[Missed, float | None, int, float, list[int]]] = [
    # every 10 s, the tick is for 10: policy, grace, limit, now, the times that are put
    ("once", None, 100, 10.0, [10]),
    ("once", None, 100, 9.5, [10]),  # a clock that is slow
    ("once", None, 100, 19.9, [10]),
    ("once", None, 100, 20.1, [20]),
    ("once", None, 100, 59.0, [50]),
    ("once", 0.0, 100, 50.5, [50]),
    ("once", 0.0, 100, 50.0, [50]),
    ("once", 25.0, 100, 50.0, [30, 40, 50]),
    ("skip", None, 100, 19.9, [10]),
    ("skip", None, 100, 1000.5, [1000]),
    ("skip", 0.4, 100, 1000.5, []),
    ("skip", 0.5, 100, 1000.5, [1000]),
    ("all", 0.4, 100, 40.5, [10, 20, 30, 40]),
    ("all", 0.4, 2, 40.5, [30, 40]),
    ("all", 5.0, 2, 40.5, [20, 30, 40]),
    ("all", 0.4, 100, 10.3, [10]),
]


@pytest.mark.parametrize(("missed", "grace", "limit", "now", "expected"), MISSED)
def test_what_is_due(missed: Missed, grace: float | None, limit: int, now: float, expected: list[int]) -> None:
    late = Lateness(missed=missed, limit=limit, grace=grace)
    assert due_times(When(every=10.0), 0.0, 10.0, now, late) == expected


@pytest.mark.parametrize(
    ("when", "late", "expected"),
    [
        (When(every=0.25), 0.75, 4),  # a second at least: who looks four times a second does not miss any
        (When(every=0.25), 5.0, 5),
        (When(every=30.0), 29.0, 1),
        (When(every=3600.0), 59.0, 1),
        (When(every=3600.0), 61.0, 0),
        (When(cron="0 0 * * *"), 59.0, 1),
        (When(cron="0 0 * * *"), 61.0, 0),
        (When(at=86_400.0), 59.0, 1),
        (When(at=86_400.0), 61.0, 0),
    ],
)
def test_the_grace_that_nobody_has_said(when: When, late: float, expected: int) -> None:
    first = after(when, 0.0, 0.0)
    assert first is not None
    assert len(due_times(when, 0.0, first, first + late, Lateness(missed="skip"))) == expected


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    "cron", ["", "61 * * * *", "* * * *", "* * * * * * *", "@daily", "every day", "0 3 * * FUN", "0 0 31 2 *"]
)
def test_a_bad_cron_expression(cron: str) -> None:
    with pytest.raises(ConfigError, match="cron expression"):
        checked_when(cron, None, None, None)


@pytest.mark.parametrize("tz", ["Europe/Berlyn", "", "../etc/passwd", "Europe", "MEZ+1"])
def test_a_bad_time_zone(tz: str) -> None:
    with pytest.raises(ConfigError, match=r"time zone|tz="):
        checked_when("0 3 * * *", tz, None, None)


def test_what_says_when_is_said_once() -> None:
    now = datetime.fromtimestamp(100, UTC)
    with pytest.raises(ConfigError, match="cron and every= both say when; give one of them"):
        checked_when("0 3 * * *", None, 5, None)
    with pytest.raises(ConfigError, match="every= and at= both say when"):
        checked_when(None, None, 5, now)
    with pytest.raises(ConfigError, match="nothing says when"):
        checked_when(None, None, None, None)
    with pytest.raises(ConfigError, match="tz= is the zone of a cron expression"):
        checked_when(None, "UTC", 5, None)
    with pytest.raises(ConfigError, match=r"every=0.001; at least 0.01 seconds"):
        checked_when(None, None, 0.001, None)
    with pytest.raises(ConfigError, match="no time zone"):
        checked_when(None, None, None, datetime(2026, 1, 1))  # noqa: DTZ001 - a naive one is what is refused
    with pytest.raises(TypeError, match="every= takes seconds"):
        checked_when(None, None, "5", None)  # type: ignore[arg-type]
