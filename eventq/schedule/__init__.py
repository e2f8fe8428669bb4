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
from eventq.revisions import LOOKS, TRIES, Held, newest
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

    Changing one costs a look at the names that are taken in the store; that of 10,000 schedules takes a tenth of a
    second on files. Of two changes at the same time the later one counts.
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
        at this very moment may be missing."""
        entries = self._tidied(SCHEDULES.held(self.store.storage))
        found = self._with_ticks(entries) if entries else {}
        return [self._about(name, entry, found.get(entry.chain)) for name, (_, entry) in sorted(entries.items())]

    def get(self, name: str) -> Schedule | None:
        """One of them; None if there is none of this name."""
        found = newest(self._held(_checked(name)))
        if found is None:
            return None
        return self._about(name, found[1], self._tick(name, found[1]))

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
        entry = self._change(_own(name), lambda old: _defined(old, definition, now), looks=1)
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
        found = newest(self._held(_checked(name)))
        entry = _there(name, None if found is None else found[1])
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
        storage, removed = self.store.storage, False
        for _ in range(TRIES):
            revisions = self._held(_checked(name))
            if not revisions:
                return removed
            for each in revisions:  # the one that counts last: the others must not come to count meanwhile
                storage.release_name(SCHEDULES.name_of(name, each.revision))
                removed = removed or not each.is_empty
            ticks.delete(storage, list(ticks.open_ticks(storage, name).values()))
        raise StorageError(f"the schedule {name!r} is added faster than it can be removed; try again")

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
        storage, now = self.store.storage, self.store.clock.now()
        held = SCHEDULES.held(storage)
        entries = self._tidied(held)
        found, added = self._with_ticks(entries), False
        for name, definition in self.declared.items():
            said = digest(definition)
            is_new = name not in entries
            added = added or is_new
            if is_new or entries[name][1].declared != said:
                change = functools.partial(_declared, definition, said, now)
                self._store_declared(name, held.get(name, []), found, change)
        if added:
            self._tidied(SCHEDULES.held(storage))  # others may have added the same, and changed it, at the same time

    def _store_declared(
        self, name: str, revisions: list[Held[Entry]], found: dict[str, OpenTick], change: Change
    ) -> None:
        try:
            if self._changed(name, revisions, found, change) is None:
                self._change(name, change)
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

    def _held(self, name: str, looks: int = LOOKS) -> list[Held[Entry]]:
        return SCHEDULES.held_of(self.store.storage, name, looks)

    def _tick(self, name: str, entry: Entry) -> OpenTick | None:
        """The open tick of a schedule. A look may miss the moment at which one follows the other: then, once more."""
        for _ in range(1 if entry.paused else LOOKS):
            if found := ticks.open_ticks(self.store.storage, name).get(entry.chain):
                return found
        return None

    def _tidied(self, held: dict[str, list[Held[Entry]]]) -> dict[str, tuple[int, Entry]]:
        return SCHEDULES.tidied(self.store.storage, held)

    def _with_ticks(self, entries: dict[str, tuple[int, Entry]]) -> dict[str, OpenTick]:
        """The open ticks by chain; a schedule that lacks one, since somebody has purged their queue, gets it."""
        storage, now = self.store.storage, self.store.clock.now()
        found = ticks.open_ticks(storage)
        running = [(name, revision, entry) for name, (revision, entry) in entries.items() if not entry.paused]
        if any(entry.chain not in found for _, _, entry in running):
            found |= ticks.open_ticks(storage)  # a look may miss the moment at which one follows the other
        for name, revision, entry in running:
            if entry.chain in found:
                continue
            following = after(entry.definition.when, entry.start, max(now, entry.since))
            if following is not None:
                tick = Tick(name=name, revision=revision, chain=entry.chain, at=following, last=entry.last)
                found[entry.chain] = OpenTick(ticks.put_tick(storage, tick), tick)
        return found

    def _change(self, name: str, change: Change, looks: int = LOOKS) -> Entry:
        """Put what `change` makes of the entry in its place, however often others are faster. One look will do for who
        adds it if there is none: whether that was so is seen again afterwards."""
        for _ in range(TRIES):
            new = self._changed(_checked(name), self._held(name, looks), None, change)
            if new is not None:
                return new
        raise StorageError(f"the schedule {name!r} is changed faster than it can be read; try again")

    def _changed(
        self, name: str, revisions: list[Held[Entry]], found: dict[str, OpenTick] | None, change: Change
    ) -> Entry | None:
        """Change what the revisions say, with the open ticks if they are known; None if others were faster."""
        standing = newest(revisions)
        old, tick = None, None
        if standing is not None:
            tick = self._tick(name, standing[1]) if found is None else found.get(standing[1].chain)
            old = _as_it_stands(standing[1], None if tick is None else tick.tick, self.store.clock.now())
        new = change(old)
        if new is old:
            return new
        new = msgspec.structs.replace(new, chain=new_chain())
        revision = revisions[-1].revision + 1 if revisions else 1
        if not self._take(name, revision, new, [each.revision for each in revisions], alone=found is None):
            return None
        if tick is not None:
            ticks.delete(self.store.storage, [tick])
        return new

    def _take(self, name: str, revision: int, entry: Entry, replaced: list[int], *, alone: bool) -> bool:
        """Take the next revision, release what it replaces, and put its first tick; False if others were faster.

        Of one among many that are new, nothing is put before: who is killed then leaves a record without a tick, which
        the next worker gives one when it starts.
        """
        storage, beginning = self.store.storage, []
        tick = Tick(name=name, revision=revision, chain=entry.chain, replaced=tuple(replaced))
        if replaced or alone:
            beginning = [OpenTick(ticks.put_beginning(storage, tick, self.store.clock.now()), tick)]
        taken = SCHEDULES.take(storage, name, revision, entry)
        if taken and not SCHEDULES.release(storage, name, tick.replaced) and (replaced or alone):
            taken = SCHEDULES.is_newest(storage, name, revision)
        if taken:
            ticks.begin(storage, tick, entry)
        ticks.delete(storage, beginning)
        return taken

    # ------------------------------------------------------------------ telling

    def _about(self, name: str, entry: Entry, found: OpenTick | None) -> Schedule:
        definition, store = entry.definition, self.store
        when, call = definition.when, Call(definition.task)
        if definition.workflow is None:
            call = store.load(definition.payload, definition.codec, Call)
        tick = Tick(name=name, revision=0, chain=entry.chain) if found is None else found.tick
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
