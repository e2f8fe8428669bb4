"""What the store knows of a schedule: one entry under its name.

Each change begins another chain of ticks, by a random id: those of the chain before find that it is over.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.entries import Entries
from eventq.schedule.times import Lateness, When

if TYPE_CHECKING:
    from eventq.storage.base import Storage


NOTHING = b"null"


class LastRun(msgspec.Struct, frozen=True):
    """The last run that a schedule has put."""

    at: float
    """The time for which it was put."""
    id: str
    """Of its event."""


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be run, when, and how: a call of a task with what a put says about its event."""

    when: When
    late: Lateness = Lateness()
    overlap: bool = True
    workflow: str | None = None
    """The name of what it runs, if that is no task."""
    task: str
    queue: str
    call: msgspec.Raw = msgspec.Raw(NOTHING)
    """The call, if it is written as JSON; else it is in `data`."""
    data: bytes | None = None
    codec: str = "json"
    priority: int = 0
    expires: float | None = None
    """Seconds after each put."""
    headers: dict[str, Any] = {}
    limits: dict[str, int] = {}
    rates: dict[str, tuple[int, float]] = {}
    max_attempts: int | None = None
    max_crashes: int | None = None
    keep: float | None = None

    @property
    def payload(self) -> bytes:
        """The call as the payload of an event."""
        return bytes(self.call) if self.data is None else self.data


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of a schedule."""

    definition: Definition
    chain: str
    start: float
    """From which an interval counts."""
    since: float
    """Only later times are this chain's."""
    paused: bool = False
    declared: str | None = None
    """A digest of the definition that a program's code has given; None if none has."""
    last: LastRun | None = None
    """The last run before this chain began."""


SCHEDULES: Entries[Entry] = Entries("schedule", Entry)
"""The records of schedules, in any store."""


def new_chain() -> str:
    """A random id for a chain of ticks."""
    return secrets.token_hex(8)


def current(storage: Storage, name: str, chain: str) -> Entry | None:
    """The entry of this name, if it still has this chain."""
    entry = SCHEDULES.get(storage, name)
    return entry if entry is not None and entry.chain == chain else None
