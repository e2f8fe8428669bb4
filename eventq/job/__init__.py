"""Staged jobs: stages of calls, one after the other, with a record that stays: what it is, and how it stands.

template    texts with places for values; computing alone
definition  what a program says of a job, checked
record      what the store knows of one
report      how its last run stands
keeper      what is decided about its runs: beginning, deadline, end

A run of a job is a run of a workflow, and goes on as these do, whatever dies.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from eventq import clock
from eventq.errors import ConfigError, DuplicateName, EventqError, JobDisabled, JobRunning, StorageError, UnknownJob
from eventq.job.definition import JobOptions, Stage, checked_name, digest, spec_of, with_keywords
from eventq.job.keeper import Keeper
from eventq.job.record import FINISHED, JOBS, Current, Entry, JobState, Spec, StageReport, is_open
from eventq.job.report import Standing
from eventq.model import Cancel, Failure, Requeue
from eventq.notifications.record import checked_user
from eventq.schedule.definition import OF_JOB
from eventq.workflow import Run, Workflows
from eventq.workflow.engine import FIRST_LOOK
from eventq.workflow.inbox import QUEUE, put_arrival, put_run, run_fields
from eventq.workflow.state import Arrival
from eventq.workflow.view import graph_of, seen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from typing import Unpack

    from eventq.app import App
    from eventq.job.aio import AsyncJob, AsyncJobs
    from eventq.store import Store
    from eventq.workflow.staged import Restart

__all__ = ["Job", "JobOptions", "JobReport", "JobStatus", "Jobs", "Stage", "StageReport"]

log: logging.Logger = logging.getLogger("eventq.job")

ABORTED = "it was aborted"


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """How the last run of a job stands, or has ended."""

    id: str
    """Of the run: `app.workflows.run(id)`; its stages' events have it as their correlation id."""
    state: JobState
    exit_code: int | None = None
    """0: finished; 1: failed; 130: aborted, cancelled, or past its deadline; None while it goes on."""
    error: Failure | None = None
    """Why it failed, or failed last."""
    retries: int = 0
    """How often it has gone on by itself after a failure."""
    queued: datetime
    """When it was let in, or was restarted."""
    retry_at: datetime | None = None
    """When it goes on by itself."""
    ended: datetime | None = None
    stages: tuple[StageReport, ...] = ()
    """In order. Empty if the run has ended without a word: its event was removed by hand."""


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the store has it: what `app.jobs.get` and `.all` give. Changing it changes nothing."""

    name: str
    state: JobState
    """`idle` (never started, or reset), `queued` (nothing of the run has started yet, or it is to go on after a
    failure), `running` (also between two stages, whoever is there to run the next), `suspended` (whoever ran a stage
    has died or stopped in the middle of it, and nobody has gone on yet), `finished` or `failed`."""
    enabled: bool
    stages: tuple[str, ...]
    """Their names, in order."""
    keywords: dict[str, Any]
    restart: Restart
    max_retries: int
    retry_delay: float
    deadline: float | None
    next: str | None
    cron: str | None
    tz: str | None
    next_run: datetime | None
    """When it is started by itself next."""
    user: str | None
    description: str
    meta: dict[str, Any]
    notify: bool
    declared: bool
    """Whether a program's code has declared it: then it comes back when it is removed."""
    report: JobReport | None
    """How its last run stands; None if there was none, or it was reset."""


class Job:
    """The handle of a job, by its name; made by `app.job(...)` and `app.jobs.job(name)`."""

    __slots__ = ("_jobs", "name")

    def __init__(self, jobs: Jobs, name: str) -> None:
        self._jobs = jobs
        self.name: str = checked_name(name)
        """The name of the job."""

    @property
    def store(self) -> Store:
        """The opened store that it is in."""
        return self._jobs.store

    @property
    def aio(self) -> AsyncJob:
        """The same, awaitable."""
        from eventq.job.aio import AsyncJob

        return AsyncJob(self)

    def start(self, **keywords: Any) -> Run:
        """Start it: see `Jobs.start`."""
        return self._jobs.start(self.name, **keywords)

    def status(self) -> JobState:
        """Where it stands, in one word: see `JobStatus.state`. Raises UnknownJob."""
        return self._there().state

    def report(self) -> JobReport | None:
        """How its last run stands; None if there was none, or it was reset. Raises UnknownJob."""
        return self._there().report

    def run(self) -> Run | None:
        """The handle of its last run; None if there was none, or it was reset. Raises UnknownJob."""
        report = self.report()
        return None if report is None else Run(self._jobs.workflows, report.id)

    def _there(self) -> JobStatus:
        found = self._jobs.get(self.name)
        if found is None:
            raise _unknown(self.name)
        return found

    def __repr__(self) -> str:
        return f"<Job {self.name!r}>"


class Jobs:
    """The jobs of a store: `app.jobs`. All that changes one holds for every process, and stays. Of two changes at the
    same time one comes first, and the other one is made of what that has left."""

    __slots__ = ("_app", "_keeper", "declared", "workflows")

    def __init__(self, app: App) -> None:
        self._app = app
        self._keeper = Keeper(app.store, app.workflows)
        self.workflows: Workflows = app.workflows
        """The runs of workflows, of which those of jobs are some."""
        self.workflows.engine.owner = self._keeper
        self.declared: dict[str, Entry] = {}
        """What the program has declared by `App.job`; stored when a worker starts, or the job is started."""

    @property
    def store(self) -> Store:
        """The opened store that they are in."""
        return self._app.store

    @property
    def aio(self) -> AsyncJobs:
        """The same, awaitable."""
        from eventq.job.aio import AsyncJobs

        return AsyncJobs(self)

    # ------------------------------------------------------------------ reading

    def job(self, name: str) -> Job:
        """The handle of a job. Whether there is such a job shows when it is asked."""
        return Job(self, name)

    def get(self, name: str) -> JobStatus | None:
        """One of them; None if there is none of this name."""
        entry = self._entry(checked_name(name))
        return None if entry is None else self._about(name, entry)

    def all(self, user: str | None = None) -> list[JobStatus]:
        """All of them, or those of a user, by name. One that is changed at this very moment may be missing."""
        entries = JOBS.all(self.store.storage)
        wanted = None if user is None else checked_user(user)
        return [
            self._about(name, entry)
            for name, entry in sorted(entries.items())
            if wanted is None or entry.spec.user == wanted
        ]

    # ------------------------------------------------------------------ changing what it is

    def add(self, name: str, stages: Any, **options: Unpack[JobOptions]) -> JobStatus:
        """Add a job now, or change the one of this name, as `App.job` declares one. A run that goes on stays as it
        began. Raises TypeError, ConfigError, TemplateError, PayloadError, MissingExtra; StorageError."""
        new = msgspec.structs.replace(_made(self._app, checked_name(name), stages, options), declared=None)
        cron = new.spec.cron is not None
        entry = self._change(
            name, lambda old: new if old is None else msgspec.structs.replace(old, spec=new.spec), cron
        )
        return self._about(name, entry)

    def enable(self, name: str) -> None:
        """Let it be started, as jobs are unless disabled. Harmless when repeated. Raises UnknownJob."""
        self._change(name, lambda old: msgspec.structs.replace(_there(name, old), enabled=True))

    def disable(self, name: str) -> None:
        """Have it not be started, restarted or retried, by whomever, until `enable`. A run that goes on does so, to its
        end or its first failure. Harmless when repeated. Raises UnknownJob."""
        self._change(name, lambda old: msgspec.structs.replace(_there(name, old), enabled=False))

    def remove(self, name: str) -> bool:
        """Remove a job, and cancel its run if it goes on; False if there was none. One that a program's code declares
        comes back with the next worker of that program, or its next start: disable it instead."""
        storage, entry = self.store.storage, None
        try:
            entry = self._entry(checked_name(name))
        except ConfigError as error:
            log.warning("%s; it is removed all the same", error)
        self._app.schedules.remove(schedule_of(name))
        removed = JOBS.remove(storage, name)
        if entry is not None and entry.current is not None and is_open(storage, entry.current):
            Run(self.workflows, entry.current.id).cancel(f"job {name!r} was removed")
        return removed

    # ------------------------------------------------------------------ running

    def start(self, name: str, /, **keywords: Any) -> Run:
        """Start a run of a job, with other values for some of its keywords, and return its handle: its result is the
        list of those of the stages. Durable when it returns.

        Raises UnknownJob; JobRunning if it has a run that goes on; JobDisabled; TypeError for a keyword that the job
        does not have; StorageError.
        """
        entry = self._startable(checked_name(name))
        storage, spec = self.store.storage, entry.spec
        definition = with_keywords(spec.definition, keywords) if keywords else spec.definition
        assert definition.staged is not None
        run = put_run(storage, definition, self.store.clock.now() + FIRST_LOOK, spec.notify)
        why = self._keeper.refused(run, definition.staged)
        if why and (storage.edit(QUEUE, [run], Cancel(why))[0] == "cancelled" or not self._is_run_of(name, run)):
            self._startable(name)  # says which of the reasons it is
            raise StorageError(f"{why}; try again")
        self.workflows.begin(run)
        return Run(self.workflows, run)

    def restart(self, name: str) -> Run:
        """Go on with the last run of a job, which has failed or was aborted: at the stage that failed, or at the first,
        as its `restart` says, with its deadline and its retries counted anew.

        Raises UnknownJob, JobRunning, JobDisabled; ConfigError if there is no run that failed; UnknownEvent if there is
        no record of its steps any more.
        """
        entry = self._startable(checked_name(name))
        current = entry.current
        if current is None or current.exit_code == FINISHED:
            raise ConfigError(f"job {name!r} has no run that failed; start() starts one")
        state = seen(self.store, current.id, graph_of(self.store, current.id)).state
        if state is None:
            raise ConfigError(f"run {current.id} of job {name!r} is completed; start() starts another one")

        def again(old: Entry | None) -> Entry:
            if (old := _there(name, old)).current != current:
                raise StorageError(f"job {name!r} was changed meanwhile; look at it, and try again")
            queued, failed = self.store.clock.now(), state.generation
            anew = Current(id=current.id, queued=queued, failed=failed, stages=current.stages)
            return msgspec.structs.replace(old, current=anew)

        self._change(name, again)
        if state.over or state.generation == 0:
            put_arrival(self.store.storage, current.id, Arrival(kind="begin", generation=state.generation + 1))
        self.store.storage.edit(QUEUE, [current.id], Requeue())
        self.workflows.go_on(current.id)
        return Run(self.workflows, current.id)

    def abort(self, name: str, reason: str = "") -> bool:
        """Abort the run of a job: what waits of it never runs, what runs is asked to end, and then the job has failed
        with exit code 130. Whether it was not too late. Raises UnknownJob."""
        storage = self.store.storage

        def aborted(old: Entry | None) -> Entry:
            current = _there(name, old).current
            if current is None or not is_open(storage, current):
                return _there(name, old)
            return msgspec.structs.replace(
                _there(name, old), current=msgspec.structs.replace(current, aborted=reason or ABORTED)
            )

        entry = self._change(name, aborted)
        if entry.current is None or entry.current.aborted is None or not is_open(storage, entry.current):
            return False
        if not Run(self.workflows, entry.current.id).cancel(entry.current.aborted):
            storage.edit(QUEUE, [entry.current.id], Requeue())  # it waits to go on after a failure: look at once
        return True

    def reset(self, name: str) -> bool:
        """Forget the last run of a job, with its results, errors and retries: it is idle then. False if it was. Raises
        UnknownJob; JobRunning for one that runs: abort it first."""
        had = False

        def reset(old: Entry | None) -> Entry:
            nonlocal had
            entry = _there(name, old)
            had = entry.current is not None
            if entry.current is not None and is_open(self.store.storage, entry.current):
                raise JobRunning(name, entry.current.id)
            return msgspec.structs.replace(entry, current=None) if had else entry

        self._change(name, reset)
        return had

    # ------------------------------------------------------------------ declaring

    def declare(self, name: str, stages: Any, options: dict[str, Any]) -> Job:
        """What `App.job` does."""
        entry = _made(self._app, checked_name(name), stages, options)
        if digest(self.declared.setdefault(name, entry).spec) != digest(entry.spec):
            raise DuplicateName(f"there is a job {name!r} already, which says something else; give it another name")
        return Job(self, name)

    def reconcile(self) -> None:
        """Store what the program declares, where that is new or has changed, and put right what killed processes have
        left half done. A worker does this when it starts.

        What was changed at run time stays until the program declares something else. Raises StorageError.
        """
        storage = self.store.storage
        entries = JOBS.all(storage)
        for name, declared in self.declared.items():
            try:
                entries[name] = self._declared(name, declared, entries.get(name))
            except StorageError:
                raise
            except EventqError as error:
                log.error("job %s cannot be stored: %s", name, error)
        for name, entry in entries.items():
            if entry.spec.cron is not None:
                self._schedule(name, entry)

    def _declared(self, name: str, new: Entry, old: Entry | None) -> Entry:
        if old is not None and old.declared == new.declared:
            return old
        log.info("job %s is as declared", name)
        return self._change(
            name,
            lambda old: new if old is None else msgspec.structs.replace(old, spec=new.spec, declared=new.declared),
            cron=new.spec.cron is not None,
        )

    # ------------------------------------------------------------------ records

    def _entry(self, name: str) -> Entry | None:
        return JOBS.get(self.store.storage, name)

    def _startable(self, name: str) -> Entry:
        """A job that may be started now, as it is declared here if it is."""
        entry = self._entry(name)
        if name in self.declared:
            entry = self._declared(name, self.declared[name], entry)
        entry = _there(name, entry)
        if entry.current is not None and is_open(self.store.storage, entry.current):
            raise JobRunning(name, entry.current.id)
        if not entry.enabled:
            raise JobDisabled(f"job {name!r} is disabled; app.jobs.enable({name!r}) enables it")
        return entry

    def _is_run_of(self, name: str, run: str) -> bool:
        entry = self._entry(name)
        return entry is not None and entry.current is not None and entry.current.id == run

    def _change(self, name: str, change: Callable[[Entry | None], Entry], cron: bool = True) -> Entry:
        """Change a record, and its schedule with it. A schedule that the record is not to have any more goes first: so
        whoever is killed in between leaves one too few, which the next worker that starts makes, and never one too
        many."""

        def changed(old: Entry | None) -> Entry:
            new = change(old)
            return old if old is not None and new == old else new

        before = self._entry(checked_name(name))
        had_cron = before is not None and before.spec.cron is not None
        if had_cron and not cron:
            self._app.schedules.remove(schedule_of(name))
        entry = JOBS.change(self.store.storage, name, changed)
        assert entry is not None
        if had_cron or entry.spec.cron is not None:
            self._schedule(name, entry)
        return entry

    def _schedule(self, name: str, entry: Entry) -> None:
        """Have the schedule of a job be as its record says."""
        schedules, schedule = self._app.schedules, schedule_of(name)
        if entry.spec.cron is None:
            schedules.remove(schedule)
            return
        spec = entry.spec
        schedules.keep(
            schedule, Runs(self._app, name, spec), not entry.enabled, cron=spec.cron, tz=spec.tz, overlap=False
        )

    def _about(self, name: str, entry: Entry) -> JobStatus:
        spec, staged, standing = entry.spec, entry.spec.definition.staged, Standing(self.store, entry.current)
        assert staged is not None
        schedule = None if spec.cron is None else self._app.schedules.get(schedule_of(name))
        return JobStatus(
            name=name,
            state=standing.state,
            enabled=entry.enabled,
            stages=staged.stages,
            keywords=staged.keywords,
            restart=staged.restart,
            max_retries=staged.max_retries,
            retry_delay=staged.retry_delay,
            deadline=staged.deadline,
            next=staged.next,
            cron=spec.cron,
            tz=spec.tz,
            next_run=None if schedule is None else schedule.next,
            user=spec.user,
            description=spec.description,
            meta=spec.meta,
            notify=spec.notify is not None,
            declared=entry.declared is not None,
            report=None if entry.current is None else _report(entry.current, standing),
        )


class Runs:
    """What the schedule of a job runs: runs of it."""

    def __init__(self, app: App, name: str, spec: Spec) -> None:
        self.app: App = app
        self.name: str = name
        self._spec = spec

    def scheduled(self, _inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the schedule says of the event of each run; a job takes no inputs."""
        return run_fields(self._spec.definition, self._spec.notify)


def schedule_of(job: str) -> str:
    """The name of a job's schedule."""
    return OF_JOB + job


def _made(app: App, name: str, stages: Any, options: Any) -> Entry:
    spec = spec_of(app, name, stages, options)
    return Entry(spec=spec, enabled=options.get("enabled", True), declared=digest(spec))


def _report(current: Current, standing: Standing) -> JobReport:
    return JobReport(
        id=current.id,
        state=standing.state,
        exit_code=current.exit_code,
        error=current.error,
        retries=current.retries,
        queued=clock.aware(current.queued),
        retry_at=None if current.retry_at is None else clock.aware(current.retry_at),
        ended=None if current.ended is None else clock.aware(current.ended),
        stages=standing.stages,
    )


def _there(name: str, entry: Entry | None) -> Entry:
    if entry is None:
        raise _unknown(name)
    return entry


def _unknown(name: str) -> UnknownJob:
    return UnknownJob(f"there is no job {name!r}; app.jobs.all() and 'eventq jobs' list them")
