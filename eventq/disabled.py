"""Tasks that are switched off: a name that is taken in the store for each, which every worker looks for.

The name says who has switched the task off, when, and why. Nothing else changes: calls are stored as ever, and wait.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from eventq.clock import aware
from eventq.config import text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventq.model import Name
    from eventq.storage.base import Storage

PREFIX = "eventq.disabled/"


class DisabledTask(msgspec.Struct, frozen=True):
    """A task that is switched off: since when, by whom, and why, as far as that was said."""

    task: str
    since: datetime
    by: str
    """Who has switched it off, by own word; unless said, the process and its machine."""
    reason: str


class _Said(msgspec.Struct, omit_defaults=True):
    """The data of the name."""

    by: str = ""
    reason: str = ""


def disable(storage: Storage, task: str, reason: str, by: str | None) -> bool:
    """Switch a task off; False if it was off before, and stays so with the reason given then."""
    who = f"process {os.getpid()} on {os.uname().nodename}" if by is None else text("by=", by)
    said = msgspec.json.encode(_Said(by=who, reason=reason))
    return storage.take_name(PREFIX + text("the name of a task", task), said)[1]


def enable(storage: Storage, task: str) -> bool:
    """Switch a task on again; False if it was not off."""
    return storage.release_name(PREFIX + text("the name of a task", task))


def disabled(storage: Storage) -> list[DisabledTask]:
    """All tasks that are off, by name."""
    return [_about(each) for each in storage.names(PREFIX)]


def disabled_among(storage: Storage, tasks: Iterable[str]) -> dict[str, DisabledTask]:
    """Those of these tasks that are off. Costs a look at each, however many others there are."""
    found = storage.get_names([PREFIX + task for task in tasks])
    return {about.task: about for about in map(_about, found.values())}


def _about(taken: Name) -> DisabledTask:
    try:
        said = msgspec.json.decode(taken.data, type=_Said)
    except msgspec.MsgspecError:  # of another version, or taken by hand: off all the same
        said = _Said(by=f"worker {taken.worker}")
    return DisabledTask(taken.name.removeprefix(PREFIX), aware(taken.at), said.by, said.reason)
