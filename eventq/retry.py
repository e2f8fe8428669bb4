"""How long to wait before an event runs again, and when to give up; how often who waits looks again. No storage."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from eventq import clock
from eventq.model import Dropped, Failure, Outcome, Rejected, Retried, Settings, State

Growth = Literal["exponential", "linear", "constant"]


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


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a task that say what its failures lead to."""

    max_attempts: int = 3
    """Failed runs before the event is a dead letter; 1: it never runs again."""
    retry_delay: float | tuple[float, ...] = 1.0
    """Seconds before the second run; or those before each further one, the last of them for all that follow."""
    backoff: Growth = "exponential"
    """How the delay grows with each failure: doubling, by the same amount, or not at all."""
    retry_delay_max: float = 3600.0
    """The longest delay, in seconds."""
    jitter: bool = True
    """Whether a random part of up to half the delay is left out, so that what failed together does not come back so."""
    retry_within: float | None = None
    """No run begins more than so many seconds after the event was put: then it is a dead letter."""

    def delay(self, failures: int, jitter: Callable[[], float] = random.random) -> float:
        """Seconds before the next run after so many failures (1 or more); the jitter is that of `backoff`.

        >>> RetryPolicy(retry_delay=(1, 5, 30), jitter=False).delay(4)
        30.0
        >>> RetryPolicy(retry_delay=2.0, backoff="linear", jitter=False).delay(3)
        6.0
        """
        if isinstance(self.retry_delay, tuple):
            seconds = float(self.retry_delay[min(failures, len(self.retry_delay)) - 1])
        elif self.backoff == "exponential":
            seconds = self.retry_delay * 2.0 ** min(failures - 1, 60)
        else:
            seconds = self.retry_delay * (failures if self.backoff == "linear" else 1)
        seconds = min(seconds, self.retry_delay_max)
        return seconds * (0.5 + 0.5 * jitter()) if self.jitter else seconds


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
FOR_EVER = 1_000_000_000
"""`max_attempts` and `max_crashes` of what is never given up: eventq's own events. None of them is ever a suspect, for
it would wait until its worker runs nothing else, which one with much to do may never come to."""


def is_suspect(crashes: int, max_crashes: int | None) -> bool:
    """Whether an event that was started so often in vain, and has this `max_crashes` of its own, must run alone."""
    return crashes >= SUSPECT_CRASHES and (max_crashes is None or max_crashes < FOR_EVER)


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
