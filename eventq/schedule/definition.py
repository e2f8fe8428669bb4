"""From what is said of a schedule, in code or by a person, to its definition: checked, and as plain data."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, runtime_checkable

import msgspec

from eventq.config import at_least_one, known, seconds
from eventq.errors import ConfigError, PayloadError
from eventq.schedule.record import NOTHING, Definition
from eventq.schedule.times import Lateness, checked_when
from eventq.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from eventq.app import App
    from eventq.schedule.times import Missed

MAX_NAME = 200
OF_JOB = "job."
"""What the name of a schedule begins with that is a job's `cron`."""
"""Characters of a schedule's name, at most."""
MAX_DEFINITION = 512 << 10
"""Bytes of a definition, at most: mostly the arguments of the call."""
NOT_ITS_OWN = ("key", "unique", "if_exists", "throttle", "debounce", "debounce_max", "delay", "at")
"""Options of the task's calls that a schedule says itself: each run has the key of its time."""


@runtime_checkable
class Scheduled(Protocol):
    """What a schedule runs beside tasks: a workflow."""

    app: App
    name: str

    def scheduled(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a `Definition` that say what is put for each run, which takes these inputs."""
        ...


class ScheduleOptions(TypedDict, total=False):
    """What may be said of a schedule, beside its name, its task, and the task's positional arguments."""

    cron: str | None
    """When, as a cron expression; it may as well stand behind the name."""
    tz: str | None
    """The time zone of the cron expression, as `"Europe/Berlin"`; UTC unless said."""
    every: float | None
    """Or every so many seconds, counted from when it was added; 0.01 at least."""
    at: datetime | None
    """Or once, at this instant."""
    kwargs: Mapping[str, Any] | None
    """Arguments of the task, or inputs of the workflow, by name."""
    missed: Missed
    """What becomes of runs that were missed while no worker was there: `"once"` (the default), one run for all of them;
    `"skip"`, none; `"all"`, one for each."""
    missed_limit: int
    """With `"all"`: only the last so many of them: 100."""
    grace: float | None
    """Seconds after its time at which a run counts as missed if no worker has put it until then; unless said, as long
    as the time to the next run, but at least 1 and at most 60."""
    overlap: bool
    """Whether a run is put while the last one has not ended: True. If not, it is left out."""


def definition_of(app: App, given: tuple[Any, ...], said: Mapping[str, Any]) -> Definition:
    """The definition that `given` (perhaps a cron expression, then a task with its positional arguments, or a workflow)
    and the options make. Raises TypeError, ConfigError, PayloadError, MissingExtra."""
    options = known(said, ScheduleOptions, "a schedule")
    cron = options.get("cron")
    if given and not _can_run(given[0]):
        if cron is not None:
            raise ConfigError("the cron expression is said twice; say it behind the name, or by cron=")
        cron, *given = given  # type: ignore[assignment]
    if not given or not _can_run(given[0]):
        what = repr(given[0]) if given else "nothing"
        raise TypeError(f"a schedule runs a task, as @app.task makes it, or a workflow, not {what}")
    what, *args = given
    if what.app is not app:
        raise ConfigError(f"{what!r} belongs to another app; schedule it there")
    when = checked_when(cron, options.get("tz"), options.get("every"), options.get("at"))
    overlap = options.get("overlap", True)
    if not isinstance(overlap, bool):
        raise TypeError(f"overlap= is True or False, not {overlap!r}")
    fields = _fields(what, args, dict(options.get("kwargs") or {}))
    definition = Definition(when=when, late=_lateness(options), overlap=overlap, **fields)
    if (size := len(msgspec.json.encode(definition))) > MAX_DEFINITION:
        raise PayloadError(f"the schedule takes {size} bytes, at most {MAX_DEFINITION}; pass less to {what.name}")
    return definition


def _can_run(what: Any) -> bool:
    return isinstance(what, Task | Scheduled)


def _fields(what: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say what is put."""
    if isinstance(what, Task):
        return _call(what, args, kwargs)
    if args:
        raise TypeError(f"{what!r} takes its inputs by name: kwargs={{...}}")
    return {**what.scheduled(kwargs), "workflow": what.name}


def digest(definition: Definition) -> str:
    """A short text that is another one for another definition."""
    return hashlib.sha256(msgspec.json.encode(definition)).hexdigest()[:16]


def _lateness(options: Mapping[str, Any]) -> Lateness:
    missed, grace = options.get("missed", "once"), options.get("grace")
    if missed not in ("skip", "once", "all"):
        raise ConfigError(f"missed={missed!r}; write 'skip', 'once' or 'all'")
    limit = options.get("missed_limit")
    if limit is not None and missed != "all":
        raise ConfigError("missed_limit= says how many of all that were missed are run; it goes with missed='all'")
    return Lateness(
        missed=missed,
        limit=100 if limit is None else at_least_one(limit),
        grace=None if grace is None else seconds("grace", grace),
    )


def _call(task: Task[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are of the call. What belongs to a single one is refused."""
    why = "a schedule puts its runs at its own times, each with a key of its own"
    fields, data = task.put_later(NOT_ITS_OWN, why), task.pack(args, kwargs)
    plain = fields["codec"] == "json"
    call = {"call": msgspec.Raw(data if plain else NOTHING), "data": None if plain else data}
    return {"task": task.name, **call, **fields}
