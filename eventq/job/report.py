"""How a run of a job stands: the reports of its stages, and what they come to. Looks, and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventq.job.record import StageReport, is_open
from eventq.model import FINAL_STATES, OPEN_STATES, Failure, State
from eventq.workflow.inbox import node_of
from eventq.workflow.state import OPEN, SKIPPED, WAITING
from eventq.workflow.view import graph_of, seen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventq.job.record import Current, JobState
    from eventq.model import Record
    from eventq.storage.base import Storage
    from eventq.store import Store
    from eventq.workflow.state import RunState

WORST_FIRST = ("dead", "expired", "cancelled", "claimed", "delayed", "ready", WAITING, SKIPPED, "completed")
"""The states of calls, in the order in which one speaks for its batch."""
INTERRUPTED = ("crashed", "released")
"""How an attempt ends whose worker died, or stopped."""


def reports_of(storage: Storage, state: RunState, current: Current) -> tuple[StageReport, ...]:
    """The reports of all stages of a run, which take up those of its last try, if that failed."""
    staged = state.graph.definition.staged
    assert staged is not None
    earlier = {each.name: each for each in current.stages}
    reports = []
    for name, steps in zip(staged.stages, state.graph.stages, strict=True):
        known = earlier.get(name)
        if known is not None and known.state == State.COMPLETED and staged.restart == "current":
            reports.append(known)
            continue
        report = _report(storage, state, name, steps, current.failed)
        if known is not None:
            report = msgspec.structs.replace(report, attempts=report.attempts + known.attempts)
        reports.append(report)
    return tuple(reports)


def _report(storage: Storage, state: RunState, name: str, steps: list[str], failed: int) -> StageReport:
    """The report of a stage, without attempts that were counted when a generation has failed."""
    states, errors, records = [], [], []
    for step in steps:
        status, arrival = str(state.status[step]), state.arrived.get(step)
        record = storage.get(state.ids[step]) if state.ids.get(step) else None
        if record is not None:
            records.append(record)
        if status == OPEN:
            status = State.READY if record is None or record.state in FINAL_STATES else record.state
        states.append(str(status))
        if arrival is not None and arrival.failure is not None:
            errors.append(arrival.failure)
        elif record is not None and record.failure is not None and status != State.COMPLETED:
            errors.append(record.failure)
    worst = min(states, key=WORST_FIRST.index)
    return _timed(name, worst, failed, records, errors)


def _timed(name: str, state: str, failed: int, records: list[Record], errors: list[Failure]) -> StageReport:
    attempts = [attempt for record in records for attempt in record.attempts]
    last = max(attempts, key=lambda each: each.started, default=None)
    ends = [record.settled for record in records if record.settled is not None]
    return StageReport(
        name=name,
        state=state,
        attempts=sum(_attempts(each) for each in records if _generation(each) > failed),
        worker=None if last is None else last.worker,
        started=min((each.started for each in attempts), default=None),
        ended=max(ends, default=None) if state in (*FINAL_STATES, SKIPPED) else None,
        error=errors[0] if errors else None,
    )


def _attempts(record: Record) -> int:
    return max(len(record.attempts), record.failures + record.crashes)  # of many the oldest are not kept


def _generation(record: Record) -> int:
    node = node_of(record.headers)
    return 0 if node is None else node.generation


class Standing:
    """How the last run of a job stands now."""

    __slots__ = ("stages", "state")

    def __init__(self, store: Store, current: Current | None) -> None:
        self.state: JobState = "idle"
        """In one word."""
        self.stages: tuple[StageReport, ...] = ()
        """The reports of its stages."""
        if current is None:
            return
        self.stages = current.stages
        if not is_open(store.storage, current):
            self.state = "finished" if current.exit_code == 0 else "failed"
            return
        run = seen(store, current.id, graph_of(store, current.id)).state
        if run is None:  # it has ended this moment, and is completed
            self.state = "finished"
            return
        self.stages = reports_of(store.storage, run, current)
        if run.over and current.failed == run.generation:
            self.state = "queued"  # it failed, and goes on in a moment
        else:
            self.state = _state(store.storage, run, self.stages)


def _state(storage: Storage, run: RunState, stages: Sequence[StageReport]) -> JobState:
    """Of a run that goes on: whether anything of it was started, and whether anything is now."""
    if not any(each.attempts for each in stages):
        return "queued"
    records = [record for name in run.open if (record := storage.get(run.ids.get(name, ""))) is not None]
    waiting = [record for record in records if record.state in OPEN_STATES]
    if any(record.state is State.CLAIMED for record in waiting) or not any(map(_is_interrupted, waiting)):
        return "running"
    return "suspended"


def _is_interrupted(record: Record) -> bool:
    """Whether whoever had it last has died or stopped."""
    return bool(record.attempts) and record.attempts[-1].outcome in INTERRUPTED
