"""How long to wait before an event runs again, and when to give up; how often who waits looks again. No storage."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from eventq import clock
from eventq.model import Dropped, Failure, Outcome, Rejected, Retried, Settings, State


def backoff(failures: int, settings: Settings, jitter: Callable[[], float] = random.random) -> float:
    """Seconds before the next attempt after the given number of failures (1 or more).

    Doubles from `retry_delay` up to `retry_delay_max`; "equal jitter" (half fixed, half random, after Brooker,
    "Exponential Backoff And Jitter", AWS 2015) keeps events that failed together from coming back together.

    >>> backoff(1, Settings(retry_delay=1.0), jitter=lambda: 1.0)
    1.0
    >>> backoff(4, Settings(retry_delay=1.0), jitter=lambda: 0.0)
    4.0
    """
    ceiling = min(settings.retry_delay * 2.0 ** min(failures - 1, 60), settings.retry_delay_max)
    return ceiling * (0.5 + 0.5 * jitter())


def after_failure(
    failure: Failure | None, failures: int, max_attempts: int | None, settings: Settings, delay: float | None
) -> Outcome:
    """What a failed attempt leads to: another one after a delay, or the dead letters.

    `failures` counts those before this one; `delay` given by the handler beats the backoff.
    """
    if failures + 1 >= (settings.max_attempts if max_attempts is None else max_attempts):
        return Rejected(failure)
    return Retried(backoff(failures + 1, settings) if delay is None else delay, failure)


def before_start(
    now: float, expires: float | None, crashes: int, max_crashes: int | None, settings: Settings
) -> Outcome | None:
    """Why an event must not be started any more (None: start it). Every storage asks this at each claim."""
    if expires is not None and now >= expires:
        return Dropped(State.EXPIRED, "not started before its expiry")
    limit = settings.max_crashes if max_crashes is None else max_crashes
    if crashes >= limit:
        reason = f"poison: {crashes} workers died while they ran it (max_crashes={limit})"
        return Rejected(Failure("WorkerDied", reason))
    return None


SUSPECT_CRASHES = 2
"""An event whose workers died this often is started only while nothing else runs in its worker: so the guilty one is
found, and bystanders are spared."""

FIRST_PAUSE = 0.001
LAST_PAUSE = 0.05


def pauses(timeout: float | None) -> Iterator[float]:
    """The seconds to wait between looks at something that nobody announces, until the time is over (None: never).

    1 ms, 2 ms, 4 ms ... and then twenty times a second. Who uses it looks once more at the end.
    """
    now = clock.SYSTEM.monotonic
    deadline = None if timeout is None else now() + timeout
    pause = FIRST_PAUSE
    while True:
        left = pause if deadline is None else deadline - now()
        if left <= 0:
            return
        yield min(pause, left)
        pause = min(pause * 2, LAST_PAUSE)
