"""What the store knows of a job: one entry under its name. It says what the job is, and how its last run stands.

Whether a run goes on is not said by the record alone: its own event must be open as well. So neither a death between
two writes, nor somebody who removes that event by hand, leaves a job that runs for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from eventq.entries import Entries
from eventq.model import OPEN_STATES, Failure
from eventq.workflow.graph import Definition

if TYPE_CHECKING:
    from eventq.storage.base import Storage

JobState = Literal["idle", "queued", "running", "suspended", "finished", "failed"]
FINISHED, FAILED, ABORTED = 0, 1, 130
"""How a run ends, as a program would say it."""


class StageReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a stage of a run stands, or has ended."""

    name: str
    state: str = "waiting"
    """`waiting` for the stage before, `skipped` since that one failed, or the state of its event (`ready`, `delayed`,
    `claimed`, `completed`, `dead`, `expired`, `cancelled`); of a batch, that of the call that is furthest from a good
    end."""
    attempts: int = 0
    """How often it was started, over all tries of the run; of a batch, its calls together."""
    worker: str | None = None
    """The id of the worker that has it, or had it last."""
    started: float | None = None
    """When it was first started in the last try, in seconds since the epoch."""
    ended: float | None = None
    """When it had ended; None if it has not."""
    error: Failure | None = None
    """Why it failed, or failed last."""


class Current(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last run of a job."""

    id: str
    queued: float
    """When it was let in, or was restarted; its deadline counts from then."""
    retries: int = 0
    """How often it has gone on by itself after a failure."""
    failed: int = 0
    """The generation that failed last, if it is to go on."""
    retry_at: float | None = None
    """When it does."""
    aborted: str | None = None
    """Why it was aborted; None if it was not."""
    ended: float | None = None
    """When it ended; None if it goes on, as far as the record knows."""
    exit_code: int | None = None
    error: Failure | None = None
    """Why it failed, or failed last."""
    stages: tuple[StageReport, ...] = ()
    """As they were when it ended, or failed last."""


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job is, checked, as plain data."""

    definition: Definition
    """Of its runs."""
    cron: str | None = None
    tz: str | None = None
    user: str | None = None
    description: str = ""
    meta: dict[str, Any] = {}
    notify: str | None = None
    """The user who is told how a run ends."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of a job."""

    spec: Spec
    enabled: bool = True
    declared: str | None = None
    """A digest of what a program's code has said; None if none has."""
    current: Current | None = None
    """Its last run; None if there was none, or it was reset."""


JOBS: Entries[Entry] = Entries("job", Entry)
"""The records of jobs, in any store."""


def is_open(storage: Storage, current: Current | None) -> bool:
    """Whether a run goes on."""
    if current is None or current.ended is not None:
        return False
    record = storage.get(current.id)
    return record is not None and record.state in OPEN_STATES
