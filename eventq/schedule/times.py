"""When a schedule is due: a cron expression in a time zone, an interval, or a single instant. Nothing but computing.

Every time follows from the schedule alone, never from when the one before was noticed: nothing drifts, and whoever
computes a time gets the same one.

Cron is that of Debian, by `cronsim`. Where a clock is put forward, a fixed hour and minute that is left out is due
right after the gap; where it is put back, it is due once, the first time. What says `*` for the hour or the minute
follows the clock: nothing in the gap, and through both of the hours that have the same name.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from eventq import clock
from eventq.config import instant, seconds, text
from eventq.errors import ConfigError
from eventq.storage import load_driver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, tzinfo

Missed = Literal["skip", "once", "all"]

UTC_NAME = "UTC"
LEAST_EVERY = 0.01
"""Seconds: the shortest interval."""
LEAST_GRACE, MOST_GRACE = 1.0, 60.0
"""Seconds between which the grace is that nobody has said: the time to the next run."""
MOST_AT_ONCE = 1000
"""So many runs are put for one look, at most, by a schedule whose grace is much longer than its interval."""
FIRST_WINDOW = 64.0


class When(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of three: `cron` with its zone, `every` so many seconds, or `at` an instant."""

    cron: str | None = None
    tz: str = UTC_NAME
    every: float | None = None
    at: float | None = None

    def __str__(self) -> str:
        if self.cron is not None:
            return self.cron if self.tz == UTC_NAME else f"{self.cron} ({self.tz})"
        if self.every is not None:
            return f"every {self.every:g} s"
        assert self.at is not None
        return f"at {clock.aware(self.at).isoformat()}"


class Lateness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to become of runs that were not started in time."""

    missed: Missed = "once"
    limit: int = 100
    grace: float | None = None


def checked_when(cron: str | None, tz: str | None, every: float | None, at: datetime | None) -> When:
    """What was said of a schedule's times. Raises TypeError, ConfigError, MissingExtra."""
    said = [name for name, value in (("cron", cron), ("every=", every), ("at=", at)) if value is not None]
    if len(said) != 1:
        both = f"{' and '.join(said)} both say when" if said else "nothing says when"
        raise ConfigError(f"{both}; give one of them: a cron expression, every=, or at=")
    if cron is None and tz is not None:
        raise ConfigError("tz= is the zone of a cron expression; leave it out, or give one")
    if every is not None:
        if seconds("every", every) < LEAST_EVERY:
            raise ConfigError(f"every={every}; at least {LEAST_EVERY} seconds")
        return When(every=float(every))
    if at is not None:
        return When(at=instant("at", at))
    when = When(cron=" ".join(text("a cron expression", cron).split()), tz=text("tz=", UTC_NAME if tz is None else tz))
    if after(when, 0.0, 0.0) is None:
        raise ConfigError(f"the cron expression {cron!r} is never due; its day is in none of its months")
    return when


def after(when: When, start: float, moment: float) -> float | None:
    """The first time later than an instant; None if there is none. An interval counts from `start`."""
    if when.every is not None:
        return start + (_count(when.every, start, moment) + 1) * when.every
    if when.at is not None:
        return when.at if when.at > moment else None
    return next(_cron_times(when, moment), None)


def latest(when: When, start: float, since: float, until: float, limit: int) -> list[float]:
    """The last times from `since` to `until`, both included, at most `limit` of them; oldest first."""
    if limit < 1 or since > until:
        return []
    if when.every is not None:
        last = _count(when.every, start, until)
        times = (start + number * when.every for number in range(max(1, last - limit + 1), last + 1))
        return [moment for moment in times if moment >= since]
    if when.at is not None:
        return [when.at] if since <= when.at <= until else []
    return _latest_of_cron(when, since, until, limit)


def due_times(when: When, start: float, at: float, now: float, late: Lateness) -> list[float]:
    """The times for which runs are to be put now, if the time `at` and perhaps later ones have come; oldest first."""
    until = max(at, now)
    grace = late.grace
    if grace is None:
        following = after(when, start, at)
        grace = min(MOST_GRACE, max(LEAST_GRACE, MOST_GRACE if following is None else following - at))
    in_time = latest(when, start, max(at, until - grace), until, MOST_AT_ONCE)
    if late.missed == "skip" or until - at <= grace:
        return in_time
    if late.missed == "once":
        return in_time or latest(when, start, at, until, 1)
    behind = math.nextafter(until - grace, -math.inf)
    return latest(when, start, at, behind, late.limit) + in_time


def _count(every: float, start: float, moment: float) -> int:
    """How many times have come up to an instant, itself included."""
    number = max(0, math.floor((moment - start) / every))
    while number and start + number * every > moment:
        number -= 1
    while start + (number + 1) * every <= moment:
        number += 1
    return number


# ---------------------------------------------------------------- cron


def _cron_times(when: When, moment: float) -> Iterator[float]:
    """The times of a cron expression later than an instant."""
    cronsim: Any = load_driver("cronsim", "cron", "a cron expression")
    begin = clock.aware(moment).astimezone(_zone(when.tz))
    try:
        found = cronsim.CronSim(when.cron, begin)
    except cronsim.CronSimError as error:
        raise ConfigError(
            f"{when.cron!r} is no cron expression ({error}); write minute, hour, day, month and weekday, as '0 3 * * *'"
        ) from error
    for each in found:  # in the hour that comes twice it begins with the first of the two
        if each.timestamp() > moment:
            yield each.timestamp()


def _latest_of_cron(when: When, since: float, until: float, limit: int) -> list[float]:
    """Looks back further and further: a year of minutes costs no more than the few that are wanted."""
    width = FIRST_WINDOW
    while True:
        begin = max(since, until - width)
        times: deque[float] = deque(maxlen=limit)
        for moment in _cron_times(when, begin - 1.0):
            if moment > until:
                break
            if moment >= begin:
                times.append(moment)
        if len(times) == limit or begin <= since:
            return list(times)
        width *= 4


def _zone(name: str) -> tzinfo:
    if name == UTC_NAME:
        return clock.aware(0.0).tzinfo  # type: ignore[return-value]
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise ConfigError(
            f"no time zone {name!r} is known here; write one such as 'Europe/Berlin', or pip install tzdata"
        ) from error
