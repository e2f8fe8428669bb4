"""What is decided about the runs of jobs: whether one may begin, what its stages are put with, and what its end leads
to. Each step is repeated by whoever looks after the run if its worker is killed, and changes nothing then.

1. The run's event comes first; then the job's record says that this is its run; then it begins. Whoever finds the
   event of a run that has not begun does the second, if whoever put it was killed. Of several runs of one job the
   first gets in, the others end as cancelled.
2. A run that failed and may go on: the record says when, before anything is put; then its next generation begins.
3. A run that ends: the record says how, then the next job is started, with a key that is of this run; only then is the
   run's event settled.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.arguments import Call, encode_call
from eventq.claim import failure_of
from eventq.errors import PayloadError, TemplateError
from eventq.ids import created_of
from eventq.job.record import ABORTED, FAILED, FINISHED, JOBS, Current, Entry, is_open
from eventq.job.report import reports_of
from eventq.job.template import template
from eventq.model import Completed, Dropped, Released, State
from eventq.task import RUN_HEADER
from eventq.workflow.engine import FIRST_LOOK
from eventq.workflow.graph import NOTHING
from eventq.workflow.inbox import put_arrival, put_run_once
from eventq.workflow.state import Arrival

if TYPE_CHECKING:
    from eventq.model import Claimed, Failure, Outcome
    from eventq.store import Store
    from eventq.workflow import Workflows
    from eventq.workflow.graph import Node
    from eventq.workflow.staged import Staged
    from eventq.workflow.state import RunState

log: logging.Logger = logging.getLogger("eventq.job")

DEADLINE = "deadline"
"""The header of a stage's event: when the run has to be over, in seconds since the epoch."""
CANCELLED = "it was cancelled"
TOO_LATE = "its deadline has passed"
KNOWN_DEADLINES = 1000


class Keeper:
    """A process's part in the runs of jobs: the `Owner` that the engine of workflows asks. For many threads."""

    def __init__(self, store: Store, workflows: Workflows) -> None:
        self._store = store
        self._workflows = workflows
        self._deadlines: OrderedDict[tuple[str, int], float | None] = OrderedDict()
        self._lock = threading.Lock()

    # ------------------------------------------------------------------ beginning

    def refused(self, run: str, staged: Staged) -> str:
        """Let a run in, unless the job has another one, is disabled or gone: why not. See `Owner.refused`."""
        storage, name, why = self._store.storage, staged.job, ""

        def let_in(old: Entry | None) -> Entry | None:
            nonlocal why
            why = ""
            if old is None:
                why = f"there is no job {name!r} any more"
            elif old.current is not None and old.current.id == run:
                return old
            elif old.current is not None and is_open(storage, old.current):
                why = f"job {name!r} runs already: run {old.current.id}"
            elif not old.enabled:
                why = f"job {name!r} is disabled"
            else:
                return msgspec.structs.replace(old, current=Current(id=run, queued=self._store.clock.now()))
            return old

        JOBS.change(storage, name, let_in)
        return why

    # ------------------------------------------------------------------ going on

    def cut_short(self, run: str, staged: Staged) -> tuple[str, float | None]:
        """See `Owner.cut_short`: its deadline has passed, or it was aborted, or removed."""
        current = self._current(run, staged)
        if current is None:
            return f"job {staged.job!r} was removed, or has another run", None
        if current.aborted is not None:
            return current.aborted, None
        deadline = _deadline(current.queued, staged)
        late = deadline is not None and self._store.clock.now() >= deadline
        return TOO_LATE if late else "", deadline

    def filled(self, run: str, state: RunState, node: Node) -> Node:
        """See `Owner.filled`: templates are filled, and the deadline is told, and is that of the call."""
        staged = state.graph.definition.staged
        assert staged is not None
        call = self._call(state, staged, node)
        headers, expires = node.headers, node.expires
        deadline = self._deadline_of(run, state.generation, staged)
        if deadline is not None:
            left = max(0.001, deadline - self._store.clock.now())
            said = dict(headers.get(RUN_HEADER) or {})
            said["timeout"] = left if said.get("timeout") is None else min(left, said["timeout"])
            headers = {**headers, RUN_HEADER: said, DEADLINE: deadline}
            begins = left - (node.delay or 0.0)
            expires = max(0.0, begins if expires is None else min(begins, expires))
        plain = node.codec == "json"
        return msgspec.structs.replace(
            node,
            call=msgspec.Raw(call if plain else NOTHING),
            data=None if plain else call,
            headers=headers,
            expires=expires,
        )

    def _call(self, state: RunState, staged: Staged, node: Node) -> bytes:
        """The call of a step, its templates filled. Raises TemplateError."""
        if not node.fills:
            return node.payload
        call: Call = self._store.load(node.payload, node.codec, Call)
        values: dict[str, Any] = {}

        def lookup(name: str) -> Any:
            if name in staged.keywords:
                return staged.keywords[name]
            if name not in values:
                stage = staged.stages.index(name) if name in staged.stages else int(name)
                values[name] = state.stage_value(stage)
            return values[name]

        for fill in node.fills:
            read = template(fill.template)
            assert read is not None
            inner: Any = {"args": call.args, "kwargs": call.kwargs}
            for key in fill.path[:-1]:
                inner = inner[key]
            inner[fill.path[-1]] = read.filled(lookup)
        try:
            data = encode_call(self._store.codec_named(node.codec), call)
        except PayloadError as error:
            raise TemplateError(f"what the templates of stage {node.name!r} come to is no payload: {error}") from error
        if len(data) > (most := self._store.storage.settings(node.queue).max_bytes):
            raise TemplateError(f"the templates of stage {node.name!r} come to {len(data)} bytes, at most {most}")
        return data

    def _deadline_of(self, run: str, generation: int, staged: Staged) -> float | None:
        """The deadline of a run; it changes only with a restart, which is another generation."""
        if staged.deadline is None:
            return None
        with self._lock:
            if (run, generation) in self._deadlines:
                return self._deadlines[run, generation]
        current = self._current(run, staged)
        deadline = _deadline(created_of(run) if current is None else current.queued, staged)
        with self._lock:
            self._deadlines[run, generation] = deadline
            while len(self._deadlines) > KNOWN_DEADLINES:
                self._deadlines.popitem(last=False)
        return deadline

    # ------------------------------------------------------------------ ending

    def ended(self, claimed: Claimed, state: RunState, outcome: Outcome) -> Outcome:
        """See `Owner.ended`: a run that failed goes on, if it may; else the job's record says how it ended, and the
        next job is started. (Who asked to be told is told by the engine, behind this.)"""
        run, staged = claimed.id, state.graph.definition.staged
        assert staged is not None
        entry, current = self._standing(run, staged.job)
        if entry is not None and current is not None and current.ended is None:
            code, error = self._how(state, staged, current, outcome)
            if code == FAILED and (again := self._again(run, state, entry, current, error)) is not None:
                return again
            current = self._report(run, state, current, code, error)
        if current is not None and current.exit_code == ABORTED and current.error is not None:
            outcome = Dropped(State.CANCELLED, current.error.message)
        if isinstance(outcome, Completed) and staged.next is not None:
            self._start_next(run, staged.job, staged.next)
        return outcome

    def _how(self, state: RunState, staged: Staged, current: Current, outcome: Outcome) -> tuple[int, Failure | None]:
        """The exit code of a run, and why it has failed."""
        if isinstance(outcome, Completed):
            return FINISHED, None
        if current.aborted is not None or state.cancelled:
            return ABORTED, failure_of(current.aborted or state.reason or CANCELLED, "Aborted")
        assert state.failed is not None
        arrival, deadline = state.arrived[state.failed], _deadline(current.queued, staged)
        cut = arrival.state is State.EXPIRED or (
            arrival.failure is not None and arrival.failure.type.rpartition(".")[2] == "TaskTimeout"
        )
        late = deadline is not None and self._store.clock.now() >= deadline
        return (ABORTED, failure_of(TOO_LATE, "Aborted")) if cut and late else (FAILED, arrival.failure)

    def _again(
        self, run: str, state: RunState, entry: Entry, current: Current, error: Failure | None
    ) -> Outcome | None:
        """What the event of a run leads to that failed and goes on by itself; None if it does not."""
        staged, now = state.graph.definition.staged, self._store.clock.now()
        assert staged is not None
        if not entry.enabled:
            return None
        if current.failed == state.generation and current.retry_at is not None:
            if now < current.retry_at:
                return Released(current.retry_at - now)
            put_arrival(self._store.storage, run, Arrival(kind="begin", generation=state.generation + 1))
            return Released()
        at, deadline = now + staged.retry_delay, _deadline(current.queued, staged)
        if current.retries >= staged.max_retries or (deadline is not None and at >= deadline):
            return None
        again = msgspec.structs.replace(
            current,
            retries=current.retries + 1,
            failed=state.generation,
            retry_at=at,
            error=error,
            stages=reports_of(self._store.storage, state, current),
        )
        self._replace(staged.job, current, again)
        log.info("run %s of job %s failed, and goes on in %g s", run, staged.job, staged.retry_delay)
        return Released(staged.retry_delay)

    def _report(self, run: str, state: RunState, current: Current, code: int, error: Failure | None) -> Current:
        staged = state.graph.definition.staged
        assert staged is not None
        ended = msgspec.structs.replace(
            current,
            retry_at=None,
            ended=self._store.clock.now(),
            exit_code=code,
            error=error,
            stages=reports_of(self._store.storage, state, current),
        )
        self._replace(staged.job, current, ended)
        log.info("run %s of job %s has ended with exit code %d", run, staged.job, code)
        return ended

    def _start_next(self, run: str, job: str, following: str) -> None:
        """Start the next job, once for each run of the one before. If it is disabled, gone, or runs, it is not."""
        entry, storage = self._entry(following), self._store.storage
        if entry is None or not entry.enabled or is_open(storage, entry.current):
            log.info("job %s is not started behind %s: it is gone, disabled, or runs", following, job)
            return
        spec, due = entry.spec, self._store.clock.now() + FIRST_LOOK
        id, is_new = put_run_once(storage, spec.definition, due, spec.notify, f"eventq.job/{run}")
        if is_new and spec.definition.staged is not None and not self.refused(id, spec.definition.staged):
            self._workflows.begin(id)

    # ------------------------------------------------------------------ the record

    def _entry(self, job: str) -> Entry | None:
        return JOBS.get(self._store.storage, job)

    def _standing(self, run: str, job: str) -> tuple[Entry | None, Current | None]:
        """The record of a job, and what it says of a run; None if it says nothing of it."""
        entry = self._entry(job)
        current = None if entry is None else entry.current
        return entry, current if current is not None and current.id == run else None

    def _current(self, run: str, staged: Staged) -> Current | None:
        return self._standing(run, staged.job)[1]

    def _replace(self, job: str, current: Current, by: Current) -> None:
        """Let the record say something else of a run, unless it says something else by now. Who asked to abort it
        meanwhile is heard all the same."""

        def replaced(old: Entry | None) -> Entry | None:
            if old is None or old.current is None or (old.current.id, old.current.ended) != (current.id, None):
                return old
            return msgspec.structs.replace(old, current=msgspec.structs.replace(by, aborted=old.current.aborted))

        JOBS.change(self._store.storage, job, replaced)


def _deadline(queued: float, staged: Staged) -> float | None:
    return None if staged.deadline is None else queued + staged.deadline
