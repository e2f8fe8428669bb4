"""What the end of a claim means for its event, whatever stores it."""

from __future__ import annotations

import msgspec

from eventq.model import (
    Attempt,
    Completed,
    Dropped,
    Failure,
    Outcome,
    Rejected,
    Released,
    Retried,
    Skipped,
    State,
)

ATTEMPTS_KEPT = 20
"""The newest attempts of an event that are remembered."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a claim ends: where its event goes, and what is remembered of the attempt."""

    state: State
    """Ready or delayed again, or a final state."""
    word: str
    """The outcome of the attempt: see `Attempt`."""
    failed: bool = False
    """Whether it counts as a failure."""
    error: Failure | None = None
    """What the attempt, and a dead, expired or cancelled event, tells."""
    due: float | None = None
    """When a delayed event may run again."""
    skipped: bool = False
    """Whether this worker is not to have it again."""
    value: bytes | None = None
    codec: str = "json"

    @property
    def is_open(self) -> bool:
        return self.state in (State.READY, State.DELAYED)


def ending(outcome: Outcome, now: float) -> Ending:
    """What an outcome means at `now`. Raises ValueError for a `Dropped` into a state that is not its own."""
    match outcome:
        case Completed(value, codec):
            return Ending(state=State.COMPLETED, word="completed", value=value, codec=codec)
        case Retried(delay, failure):
            return _again(now, delay, "failed", failed=True, error=failure)
        case Released(delay):
            return _again(now, delay, "released")
        case Skipped():
            return Ending(state=State.READY, word="skipped", skipped=True)
        case Rejected(failure):
            return Ending(state=State.DEAD, word="dead", failed=True, error=failure)
        case Dropped(state, reason):
            return Ending(state=dropped_to(state), word=str(state), error=Failure(str(state), reason))


CRASHED = Ending(state=State.READY, word="crashed")
"""The holder died, or outlived its lease; counts as a crash."""


def dropped_to(state: State) -> State:
    if state not in (State.EXPIRED, State.CANCELLED):
        raise ValueError(f"Dropped ends an event as expired or cancelled, not {state}")
    return state


def _again(now: float, delay: float, word: str, failed: bool = False, error: Failure | None = None) -> Ending:
    state = State.DELAYED if delay > 0 else State.READY
    return Ending(state=state, word=word, failed=failed, error=error, due=now + delay if delay > 0 else None)


def remembered(attempts: tuple[Attempt, ...], another: Attempt) -> tuple[Attempt, ...]:
    """The attempts of an event after another one."""
    return (*attempts, another)[-ATTEMPTS_KEPT:]
