"""What is measured of workflows: steps per second of one worker process, from the start of a run to its result."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.row import Cell, Goal, Outcome, Row
from benchmarks.tasks.ledger import Ledger
from benchmarks.tasks.rows import checked
from benchmarks.tasks.workers import START, working

if TYPE_CHECKING:
    from eventq.workflow import Workflow

WorkflowCell = Cell["EventqWorkflows"]


def run_row(cell: WorkflowCell, share: int, *, wide: bool) -> Outcome:
    """One run with a share of the size's tasks as steps, each of which does nothing: all in turn, or all at once and
    then one that takes their results."""
    steps = max(2, cell.size.tasks // share)
    ledger = Ledger.create(cell.folder, steps + 1)
    queue = cell.open()
    with working(cell.system, cell.folder) as workers:
        queue.enqueue_for("nothing", 0, 1, START)
        workers.begin(ledger)
        flow = chord(queue.tasks, steps) if wide else chain(queue.tasks, steps)
        start = time.perf_counter()
        run = flow.start()
        value = run.result(timeout=cell.size.limit / 2)
        spent = time.perf_counter() - start
        wrong = int(value != (sum(range(1, steps + 1)) if wide else steps))
    queue.close()
    return {"value": steps / spent, "check": {**checked(steps + 1, ledger, left=False), "wrong": wrong}}


def chain(tasks: Any, steps: int) -> Workflow:
    """Each step waits for the one before."""
    flow: Workflow = tasks.app.workflow("chain")
    before = flow.step(tasks.nothing, 1)
    for number in range(2, steps + 1):
        before = flow.step(tasks.nothing, number).after(before)
    return flow


def chord(tasks: Any, steps: int) -> Workflow:
    """All steps at once, and then their sum."""
    flow: Workflow = tasks.app.chord([(tasks.nothing, number) for number in range(1, steps + 1)], tasks.total)
    return flow


def _row(name: str, title: str, share: int, *, wide: bool, goals: tuple[Goal, ...] = ()) -> Row:
    run = partial(run_row, share=share, wide=wide)
    return Row(name=name, title=title, unit="tasks/s", run=run, mode="workflows", goals=goals)


WORKFLOW_ROWS: tuple[Row, ...] = (
    _row("chain", "chain of 1,000 no-op steps", 20, wide=False),
    _row("chord-1k", "chord of 1,000 no-op steps", 20, wide=True),
    _row("chord", "chord of 10,000 no-op steps", 2, wide=True, goals=(Goal(times=0.8, row="chord-1k"),)),
)
