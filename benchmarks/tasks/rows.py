"""What is measured of task queues. The cell's own process is the producer; workers are processes of their own.

A rate is taken from the ledger: what ran between its first and last task. Every cell counts how often each task ran,
and where tasks have results, reads them all and compares them.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.row import READ_BACK, Cell, Goal, Outcome, Row, check, quantile
from benchmarks.tasks.base import TaskSystem
from benchmarks.tasks.ledger import Ledger
from benchmarks.tasks.workers import START, working

if TYPE_CHECKING:
    from collections.abc import Sequence

TaskCell = Cell[TaskSystem]
Pairs = list[tuple[int, Any]]
"""Numbers of tasks, and the results that they should be equal to."""

READ_RESULTS = 15.0
"""Seconds to read the results of a row."""

EARLY = 10_000
"""Tasks after which a worker's memory is looked at first: it has then all that it keeps for good."""

REST = 0.3
"""Seconds after its task in which a worker comes to rest, before it is stopped."""

WARM = 5
"""Tasks that run before single ones are timed."""


def checked(put: int, ledger: Ledger, *, left: bool, pairs: Pairs | None = None) -> Outcome:
    """Whether each task that was put ran exactly once, and each result that was read is its own."""
    counts = check(put, ledger.numbers(), left=left)
    return {**counts, "wrong": sum(number != value for number, value in pairs or ())}


def ahead_row(cell: TaskCell, task: str) -> Outcome:
    """Enqueued before the worker starts."""
    size, ledger = cell.size, Ledger.create(cell.folder, cell.size.tasks)
    producer = cell.open()
    handles = producer.enqueue_for(task, 0, size.tasks, size.seconds)
    with working(cell.system, cell.folder) as workers:
        workers.begin(ledger)
        finished = workers.until(ledger, len(handles), size.seconds)
        times = ledger.times()
        pairs, more = read(producer, task, handles, ledger)
    producer.close()
    rate = (len(times) - 1) / (times[-1][0] - times[0][0]) * 1e9
    return {"value": rate, "more": more, "check": checked(len(handles), ledger, left=not finished, pairs=pairs)}


def live_row(cell: TaskCell, task: str) -> Outcome:
    """Enqueued while the worker runs: from the first call to the end of the last task."""
    size, ledger = cell.size, Ledger.create(cell.folder, cell.size.tasks + 1)
    producer = cell.open()
    with working(cell.system, cell.folder) as workers:
        warm = producer.enqueue_for(task, 0, 1, 1)
        workers.begin(ledger)
        start = time.monotonic_ns()
        handles = warm + producer.enqueue_for(task, 1, size.tasks, size.seconds)
        finished = workers.until(ledger, len(handles), size.seconds)
        times = ledger.times()
        pairs, more = read(producer, task, handles, ledger)
    producer.close()
    rate = (len(times) - 1) / (times[-1][0] - start) * 1e9
    return {"value": rate, "more": more, "check": checked(len(handles), ledger, left=not finished, pairs=pairs)}


def enqueue_row(cell: TaskCell, task: str = "nothing") -> Outcome:
    """By one producer, while no worker runs."""
    size, ledger = cell.size, Ledger.create(cell.folder, cell.size.tasks + 1)
    producer = cell.open()
    producer.enqueue_for(task, 0, 1, 1)  # the first one connects and makes folders
    start = time.perf_counter()
    put = len(producer.enqueue_for(task, 1, size.tasks, size.seconds))
    spent = time.perf_counter() - start
    with working(cell.system, cell.folder) as workers:
        workers.begin(ledger)
        finished = workers.until(ledger, 1 + put, READ_BACK)
    producer.close()
    return {"value": put / spent, "check": checked(1 + put, ledger, left=not finished)}


def call_row(cell: TaskCell, task: str) -> Outcome:
    """One at a time: from the call to its result, which another process made."""
    size, ledger = cell.size, Ledger.create(cell.folder, 1 + WARM + cell.size.calls)
    producer = cell.open()
    with working(cell.system, cell.folder) as workers:
        producer.enqueue_for(task, 0, 1, 1)
        workers.begin(ledger)
        calls = producer.calls_for(task, 1, WARM, START)
        calls += producer.calls_for(task, 1 + WARM, size.calls, size.seconds * 5)
    producer.close()
    pairs = [(number, value) for number, (_, value) in enumerate(calls, 1)]
    delays = [seconds * 1e6 for seconds, _ in calls[WARM:]]
    return {
        "value": statistics.median(delays),
        "more": {"p99": quantile(delays, 0.99), "calls": len(delays)},
        "check": checked(1 + len(calls), ledger, left=False, pairs=pairs),
    }


def scaling_row(cell: TaskCell) -> Outcome:
    """Tasks that compute: the rate of two worker processes over that of one."""
    burns, limit = cell.size.burns, cell.size.limit / 3
    ledger = Ledger.create(cell.folder, burns * 2)
    producer, rates = cell.open(), []
    for count in (1, 2):
        first = burns * (count - 1)
        handles = producer.enqueue_for("burn", first, burns, limit)
        with working(cell.system, cell.folder, count) as workers:
            workers.begin(ledger, first)
            if len(handles) < burns or not workers.until(ledger, burns, limit, first):
                raise RuntimeError(f"not done in {limit:.0f} s")
        rates.append(rate_of_all(ledger.times(first)[:burns]))
    producer.close()
    one, two = rates
    return {"value": two / one, "more": {"one": one, "two": two}, "check": checked(burns * 2, ledger, left=False)}


def memory_row(cell: TaskCell) -> Outcome:
    """How much more memory of its own one worker process has after many tasks than after the first 10,000.

    A backlog stays small meanwhile, and results are kept for a second or so where the system can.
    """
    size, put = cell.size, 0
    early, step = min(EARLY, size.task_memory // 2), min(EARLY, size.task_memory // 2) // 4
    ledger, producer = Ledger.create(cell.folder, size.task_memory), cell.open()
    sizes: list[tuple[int, int]] = []
    end = time.monotonic() + size.task_memory_seconds
    finished = True
    with working(cell.system, cell.folder) as workers:
        while finished and put < size.task_memory and time.monotonic() < end:
            put += len(producer.enqueue_for("brief", put, min(step, size.task_memory - put), size.limit))
            finished = workers.until(ledger, put, max(end - time.monotonic(), READ_BACK))
            sizes.append((ledger.done(), own_memory(workers.processes[0].pid)["RssAnon"]))
        peak = own_memory(workers.processes[0].pid)["VmHWM"]
    producer.close()
    before = next((kib for done, kib in sizes if done >= early), sizes[0][1])
    return {
        "value": sizes[-1][1] - before,
        "more": {"tasks": put, "own_kib": sizes[-1][1], "peak_kib": peak},
        "check": checked(put, ledger, left=not finished),
    }


def own_memory(pid: int) -> dict[str, int]:
    """KiB of a process by name. `RssAnon` is its own, without the mapped ledger, which `VmHWM`, the peak, has in it."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1] == "kB"}


def stop_row(cell: TaskCell) -> Outcome:
    """From SIGTERM to the end of a worker process that has nothing to do."""
    ledger, producer, delays = Ledger.create(cell.folder, cell.size.stops), cell.open(), []
    for number in range(cell.size.stops):
        producer.enqueue_for("bare", number, 1, 1)
        with working(cell.system, cell.folder) as workers:
            workers.begin(ledger, number)
            time.sleep(REST)
            start = time.perf_counter()
            workers.stop()
            delays.append((time.perf_counter() - start) * 1e6)
    producer.close()
    return {
        "value": statistics.median(delays),
        "more": {"worst": max(delays), "stops": len(delays)},
        "check": checked(cell.size.stops, ledger, left=False),
    }


def rate_of_all(times: list[tuple[int, int]]) -> float:
    """Tasks per second from when each process had run one: that they do not start at once must not count. If one came
    for the very last, from the first of all."""
    firsts: dict[int, int] = {}
    for at, process in times:
        firsts.setdefault(process, at)
    end = times[-1][0]
    begun = max((at for at in firsts.values() if at < end), default=end - 1)
    return sum(at > begun for at, _ in times) / (end - begun) * 1e9


def read(producer: TaskSystem, task: str, handles: Sequence[Any], ledger: Ledger) -> tuple[Pairs, Outcome]:
    """The results of those that have run, as many as the time allows, and their rate; none of a task without."""
    if task.startswith("bare"):
        return [], {}
    ran = set(ledger.numbers())
    wanted = [(number, handle) for number, handle in enumerate(handles) if number in ran]
    start = time.perf_counter()
    values = producer.results_for([handle for _, handle in wanted], READ_RESULTS)
    rate = len(values) / (time.perf_counter() - start)
    pairs = [(number, value) for (number, _), value in zip(wanted, values, strict=False)]
    return pairs, {"results_per_s": rate, "results_unread": len(wanted) - len(values)}


def _threads(name: str, title: str, unit: str, run: Any, **more: Any) -> Row:
    return Row(name=name, title=title, unit=unit, run=run, mode="threads", **more)


def _asyncio(name: str, title: str, unit: str, run: Any, **more: Any) -> Row:
    return Row(name=name, title=title, unit=unit, run=run, mode="asyncio", **more)


RATE = "tasks/s"

TASK_ROWS: tuple[Row, ...] = (
    _threads("enqueue", "enqueue", RATE, enqueue_row, plotted=True),
    _threads("tasks", "no-op tasks, enqueued before", RATE, partial(ahead_row, task="nothing"), plotted=True),
    _threads("tasks-live", "no-op tasks, enqueued meanwhile", RATE, partial(live_row, task="nothing"), plotted=True),
    _threads("bare", "without results, before", RATE, partial(ahead_row, task="bare"), plotted=True),
    _threads("bare-live", "without results, meanwhile", RATE, partial(live_row, task="bare"), plotted=True),
    _threads("call", "call in another process, p50", "us", partial(call_row, task="nothing"), less=True),
    _threads("cpu", "2 worker processes : 1, computing", "x", scaling_row, compared=False),
    _threads("task-memory", "memory growth of a worker over many tasks", "KiB", memory_row, less=True, compared=False),
    _threads("stop", "SIGTERM to the end of an idle worker, p50", "us", stop_row, less=True),
    _asyncio("async", "async, enqueued before", RATE, partial(ahead_row, task="nothing_async"), plotted=True),
    _asyncio("async-live", "async, enqueued meanwhile", RATE, partial(live_row, task="nothing_async"), plotted=True),
    _asyncio("async-bare", "async, no results, before", RATE, partial(ahead_row, task="bare_async"), plotted=True),
    _asyncio("async-bare-live", "async, no results, meanwhile", RATE, partial(live_row, task="bare_async"),
             plotted=True),
    _asyncio("async-call", "async call, p50", "us", partial(call_row, task="nothing_async"), less=True),
)  # fmt: skip


def _stored(name: str, title: str, task: str, mode: str, *goals: Goal) -> Row:
    return Row(name=name, title=title, unit=RATE, run=partial(ahead_row, task=task), mode=mode, goals=goals)


STORE_TASK_ROWS: tuple[Row, ...] = (
    _stored("redis-tasks", "Redis: no-op tasks", "nothing", "redis-tasks", Goal(times=2, system="rq"),
            Goal(times=1, system="saq")),
    _stored("redis-async", "Redis: no-op coroutines", "nothing_async", "redis-asyncio", Goal(times=1, system="saq")),
    _stored("postgresql-tasks", "PostgreSQL: no-op tasks, no results", "bare", "postgresql-tasks",
            Goal(times=1, system="procrastinate")),
    _stored("postgresql-async", "PostgreSQL: no-op coroutines, no results", "bare_async", "postgresql-tasks",
            Goal(times=1, system="procrastinate")),
)  # fmt: skip
