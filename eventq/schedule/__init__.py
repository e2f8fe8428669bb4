"""Schedules: calls of tasks at given times, put by whichever worker notices first that one is due.

times        when: cron, intervals, instants; computing alone
definition   what a program says of a schedule, checked
record       what the store knows of one, and how it changes
ticks        the next time of each as a delayed event, and what is done when it is due
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import msgspec

from eventq import clock
from eventq.arguments import Call
from eventq.config import text
from eventq.errors import ConfigError, DuplicateName, EventqError, StorageError, UnknownSchedule
from eventq.handle import Handle
from eventq.model import State
from eventq.schedule import ticks
from eventq.schedule.definition import MAX_NAME, OF_JOB, Scheduled, ScheduleOptions, definition_of, digest
from eventq.schedule.record import SCHEDULES, Definition, Entry, LastRun, new_chain
from eventq.schedule.ticks import Firing, OpenTick, Tick
from eventq.schedule.times import after

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Unpack

    from eventq.app import App
    from eventq.schedule.aio import AsyncSchedules
    from eventq.schedule.times import Missed
    from eventq.store import Store
    from eventq.task import Task

log: logging.Logger = logging.getLogger("eventq.schedule")

Change = Callable[[Entry | None], Entry]
"""What makes of the entry that counts, if there is one, the one to succeed it; the same one for no change."""

BEFORE = 1e-6
"""Seconds before a time from which on it is still to come."""
LOOKS = 3
"""How often one looks before it is believed that a schedule has no tick."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as the store has it: what `app.schedules.get` and `.all` give. Changing it changes nothing."""

    name: str
    task: str
    """The name of its task; `eventq.workflow` for a workflow."""
    queue: str
    """Where its runs are put."""
    args: list[Any]
    """What the task is called with, as plain data."""
    kwargs: dict[str, Any]
    workflow: str | None = None
    """The name of the workflow, if it starts one. Its runs are `app.workflows.run(last_id)`."""
    cron: str | None = None
    """When: one of `cron`, `every` and `at` is not None."""
    tz: str | None = None
    every: float | None = None
    at: datetime | None = None
    missed: Missed = "once"
    missed_limit: int = 100
    grace: float | None = None
    overlap: bool = True
    declared: bool = False
    """Whether a program's code has declared it: then it comes back when it is removed."""
    paused: bool = False
    next: datetime | None = None
    """When it is due next; None if it is paused, or has had its last run."""
    last: datetime | None = None
    """The time for which its last run was put; None if there was none yet."""
    last_id: str | None = None
    """The id of that run's event: `app.handle(last_id)`."""
    last_state: State | None = None
    """What has become of it; None once no record of it is kept."""


class Schedules:
    """The schedules of a store: `app.schedules`. All that changes one holds for every process, and stays.

    Adding one costs the same however many there are; changing one, and `get`, a look at the next times of all, which
    takes half a second with 10,000 schedules on files. Of two changes at the same time one comes first, and the other
    one is made of what that has left.
    """

    __slots__ = ("_app", "declared")

    queue: str = ticks.QUEUE
    """The queue that holds the next time of each, as a delayed event. Pausing it pauses them all."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.declared: dict[str, Definition] = {}
        """What the program has declared by `App.schedule`; a worker stores it when it starts."""

    @property
    def store(self) -> Store:
        """The opened store that they are in."""
        return self._app.store

    @property
    def aio(self) -> AsyncSchedules:
        """The same, awaitable."""
        from eventq.schedule.aio import AsyncSchedules

        return AsyncSchedules(self)

    # ------------------------------------------------------------------ reading

    def all(self) -> list[Schedule]:
        """All of them, by name. What killed processes have left half done is put right on the way. One that is changed
        at this very moment may be missing; one that this version cannot read is, and the log says so."""
        entries = SCHEDULES.all(self.store.storage)
        found = self._with_ticks(entries) if entries else {}
        return [self._about(name, entry, found.get(entry.chain)) for name, entry in sorted(entries.items())]

    def get(self, name: str) -> Schedule | None:
        """One of them; None if there is none of this name. Raises ConfigError for what this version cannot read."""
        entry = SCHEDULES.get(self.store.storage, _checked(name))
        return None if entry is None else self._about(name, entry, self._tick(name, entry))

    # ------------------------------------------------------------------ changing

    @overload
    def add(
        self, name: str, cron: str, task: Task[..., Any], /, *args: Any, **options: Unpack[ScheduleOptions]
    ) -> Schedule: ...
    @overload
    def add(self, name: str, task: Task[..., Any], /, *args: Any, **options: Unpack[ScheduleOptions]) -> Schedule: ...
    @overload
    def add(self, name: str, cron: str, flow: Scheduled, /, **options: Unpack[ScheduleOptions]) -> Schedule: ...
    @overload
    def add(self, name: str, flow: Scheduled, /, **options: Unpack[ScheduleOptions]) -> Schedule: ...
    def add(self, name: str, /, *given: Any, **options: Any) -> Schedule:
        """Add a schedule now, or change the one of this name, as `App.schedule` declares one. It counts from now on;
        one that is paused stays so.

        Raises ConfigError also for an `at=` that has passed; StorageError. A schedule of a single time goes once that
        is over.
        """
        definition = definition_of(self._app, given, options)
        now = self.store.clock.now()
        at = definition.when.at
        if at is not None and at <= now:
            raise ConfigError(f"at={clock.aware(at).isoformat()} has passed; enqueue() the task, or give a later time")
        entry = self._change(_own(name), lambda old: _defined(old, definition, now))
        return self._about(name, entry, None)

    def keep(self, name: str, what: Scheduled, paused: bool, **options: Unpack[ScheduleOptions]) -> None:
        """Have a schedule be as it is said here, paused or not: as `add`, but if it is so already, nothing changes."""
        definition, now = definition_of(self._app, (what,), options), self.store.clock.now()

        def kept(old: Entry | None) -> Entry:
            new = _defined(old, definition, now)
            if old is not None and (digest(old.definition), old.paused) == (digest(definition), paused):
                return old
            since = now if old is not None and old.paused and not paused else new.since
            return msgspec.structs.replace(new, paused=paused, since=since)

        self._change(_checked(name), kept)

    def pause(self, name: str) -> None:
        """Put no more runs until `resume`. What was put already runs. Harmless when repeated. Raises
        UnknownSchedule."""

        def paused(old: Entry | None) -> Entry:
            entry = _there(name, old)
            return entry if entry.paused else msgspec.structs.replace(entry, paused=True)

        self._change(name, paused)

    def resume(self, name: str) -> None:
        """End a pause: the times that come count, not those that passed. Harmless when repeated. Raises
        UnknownSchedule."""
        now = self.store.clock.now()

        def resumed(old: Entry | None) -> Entry:
            entry = _there(name, old)
            return msgspec.structs.replace(entry, paused=False, since=now) if entry.paused else entry

        self._change(name, resumed)

    def run(self, name: str) -> Handle[Any]:
        """Put a run now, whether it is due, paused, or still runs, and return the handle of its event. It is the last
        run from then on; the times that it is due stay. Of a workflow, `app.workflows.run(handle.id)` is the run.

        Raises UnknownSchedule, QueueFull, StorageError.
        """
        entry = _there(name, SCHEDULES.get(self.store.storage, _checked(name)))
        now = self.store.clock.now()
        id = ticks.put_run(self.store, name, entry.definition, now, None)
        try:
            self._change(name, lambda old: msgspec.structs.replace(_there(name, old), last=LastRun(now, id)))
        except UnknownSchedule:
            log.info("schedule %s was removed while its run was put", name)
        return Handle(self.store, id, Any)

    def remove(self, name: str) -> bool:
        """Remove a schedule; False if there was none. What was put already runs.

        One that a program's code declares comes back with the next worker of that program: pause it instead.
        """
        storage = self.store.storage
        removed = SCHEDULES.remove(storage, _checked(name))
        found = ticks.open_ticks(storage, name)
        added = SCHEDULES.get(storage, name) if found else None  # by others, meanwhile
        ticks.delete(storage, [each for chain, each in found.items() if added is None or chain != added.chain])
        return removed

    # ------------------------------------------------------------------ declaring

    def declare(self, name: str, given: tuple[Any, ...], options: dict[str, Any]) -> None:
        """What `App.schedule` does."""
        definition = definition_of(self._app, given, options)
        if digest(self.declared.setdefault(_own(name), definition)) != digest(definition):
            raise DuplicateName(
                f"there is a schedule {name!r} already, which says something else; give it another name"
            )

    def reconcile(self) -> None:
        """Store what the program declares, where that is new or has changed, and put right what killed processes have
        left half done. A worker does this when it starts.

        What was changed at run time stays until the program declares something else. Raises StorageError.
        """
        if not self.declared and self.queue not in self.store.storage.queues():
            return
        entries = SCHEDULES.all(self.store.storage)
        now, found = self.store.clock.now(), self._with_ticks(entries)
        for name, definition in self.declared.items():
            said = digest(definition)
            if name not in entries or entries[name].declared != said:
                self._store_declared(name, functools.partial(_declared, definition, said, now), found)

    def _store_declared(self, name: str, change: Change, found: dict[str, OpenTick]) -> None:
        try:
            self._change(name, change, found)
        except StorageError:
            raise
        except EventqError as error:
            log.error("schedule %s cannot be stored: %s", name, error)
        else:
            log.info("schedule %s is as declared: %s", name, self.declared[name].when)

    def firing(self) -> Firing:
        """What a worker does about schedules that are due."""
        return Firing(self.store)

    # ------------------------------------------------------------------ records

    def _tick(self, name: str, entry: Entry) -> OpenTick | None:
        """The open tick of a schedule. A look may miss the moment at which one follows the other: then, once more."""
        for _ in range(1 if entry.paused else LOOKS):
            if found := ticks.open_ticks(self.store.storage, name).get(entry.chain):
                return found
        return None

    def _with_ticks(self, entries: dict[str, Entry]) -> dict[str, OpenTick]:
        """The open ticks by chain; a schedule that lacks one, since somebody has purged their queue, gets it."""
        storage, now = self.store.storage, self.store.clock.now()
        found = ticks.open_ticks(storage)
        running = {name: entry for name, entry in entries.items() if not entry.paused}
        if any(entry.chain not in found for entry in running.values()):
            found |= ticks.open_ticks(storage)  # a look may miss the moment at which one follows the other
        for name, entry in running.items():
            if entry.chain in found:
                continue
            following = after(entry.definition.when, entry.start, max(now, entry.since))
            if following is not None:
                tick = Tick(name=name, chain=entry.chain, at=following, last=entry.last)
                found[entry.chain] = OpenTick(ticks.put_tick(storage, tick), tick)
        return found

    def _change(self, name: str, change: Change, found: dict[str, OpenTick] | None = None) -> Entry:
        """Change the entry as it stands, and have another chain of ticks begin. With the open ticks, if all are known.

        What begins the chain if we are killed is put before; but of one among many that are new, nothing is: that one
        is left without a tick then, and gets it from the next worker that starts.
        """
        storage, chain, now = self.store.storage, new_chain(), self.store.clock.now()
        begins: list[OpenTick] = []
        ended: OpenTick | None = None

        def changed(old: Entry | None) -> Entry:
            nonlocal ended
            standing, ended = old, None
            if old is not None:
                ended = (found or {}).get(old.chain) or self._tick(name, old)
                standing = _as_it_stands(old, None if ended is None else ended.tick, now)
            new = change(standing)
            if old is not None and new is standing:
                return old
            if not begins and (old is not None or found is None):
                tick = Tick(name=name, chain=chain)
                begins.append(OpenTick(ticks.put_beginning(storage, tick, now), tick))
            return msgspec.structs.replace(new, chain=chain)

        entry = SCHEDULES.change(storage, _checked(name), changed)
        assert entry is not None
        if entry.chain == chain:
            ticks.begin(storage, Tick(name=name, chain=chain), entry)
            ticks.delete(storage, [] if ended is None else [ended])
        ticks.delete(storage, begins)
        return entry

    # ------------------------------------------------------------------ telling

    def _about(self, name: str, entry: Entry, found: OpenTick | None) -> Schedule:
        definition, store = entry.definition, self.store
        when, call = definition.when, Call(definition.task)
        if definition.workflow is None:
            call = store.load(definition.payload, definition.codec, Call)
        tick = Tick(name=name, chain=entry.chain) if found is None else found.tick
        following = tick.at
        if following is None and not entry.paused:
            following = after(when, entry.start, max(entry.since, store.clock.now()))
        last = tick.last or entry.last
        run = None if last is None else store.storage.get(last.id)
        return Schedule(
            name=name, task=definition.task, queue=definition.queue, args=call.args, kwargs=call.kwargs,
            workflow=definition.workflow,
            cron=when.cron, tz=when.tz if when.cron is not None else None, every=when.every,
            at=None if when.at is None else clock.aware(when.at),
            missed=definition.late.missed, missed_limit=definition.late.limit, grace=definition.late.grace,
            overlap=definition.overlap, declared=entry.declared is not None, paused=entry.paused,
            next=None if following is None else clock.aware(following),
            last=None if last is None else clock.aware(last.at), last_id=None if last is None else last.id,
            last_state=None if run is None else run.state,
        )  # fmt: skip


def _checked(name: str) -> str:
    """The name of a schedule. Raises TypeError, ConfigError."""
    if len(text("the name of a schedule", name)) > MAX_NAME:
        raise ConfigError(f"the name of a schedule has {len(name)} characters, at most {MAX_NAME}: {name[:40]!r}...")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the name of a schedule is not valid Unicode text: {error}") from error
    return name


def _own(name: str) -> str:
    """The name of a schedule of the program. Raises TypeError, ConfigError."""
    if _checked(name).startswith(OF_JOB):
        raise ConfigError(f"names that begin with {OF_JOB!r} are for the schedules of jobs; {name!r} is to be another")
    return name


def _there(name: str, entry: Entry | None) -> Entry:
    if entry is None:
        raise UnknownSchedule(f"there is no schedule {name!r}; app.schedules.all() and 'eventq schedules' list them")
    return entry


def _defined(old: Entry | None, definition: Definition, now: float) -> Entry:
    """The entry with another definition. An interval that stays as long goes on as it did."""
    if old is None:
        return Entry(definition=definition, chain="", start=now, since=now)
    same = definition.when == old.definition.when
    start = old.start if same else now
    return msgspec.structs.replace(old, definition=definition, start=start, since=old.since if same else now)


def _as_it_stands(entry: Entry, tick: Tick | None, now: float) -> Entry:
    """The entry with what its chain has come to: its last run, and from when on times are still to come."""
    if tick is None or tick.at is None:
        return msgspec.structs.replace(entry, since=max(entry.since, now))
    return msgspec.structs.replace(entry, since=tick.at - BEFORE, last=tick.last or entry.last)


def _declared(definition: Definition, said: str, now: float, old: Entry | None) -> Entry:
    if old is not None and old.declared == said:
        return old
    return msgspec.structs.replace(_defined(old, definition, now), declared=said)


__all__ = ["Schedule", "ScheduleOptions", "Schedules"]
