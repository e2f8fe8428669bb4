"""What is measured of queues, one function per row; and all rows, those of task queues among them."""

from __future__ import annotations

import math
import os
import resource
import select
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.process import FOREVER, Claimer, answers, claimers, filled, payloads, put_for
from benchmarks.row import READ_BACK, Cell, Goal, Outcome, Row, check, quantile
from benchmarks.sizes import PAYLOAD
from benchmarks.tasks.rows import STORE_TASK_ROWS, TASK_ROWS
from benchmarks.tasks.workflow_rows import WORKFLOW_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.systems import System


# ---- what came


def read_back(cell: Cell[System], put: int, seen: Sequence[Any] = ()) -> Outcome:
    """Deliver what is left, untimed, and compare everything with what was put."""
    came, end = list(seen), time.monotonic() + READ_BACK
    left = False

    def sink(payload: Any) -> bool:
        nonlocal left
        came.append(payload)
        left = time.monotonic() > end
        return left

    queue = cell.open()
    queue.deliver(sink)
    queue.close()
    return check(put, [int(payload[:12]) for payload in came], left=left)


# ---- rates


def put_row(cell: Cell[System]) -> Outcome:
    queue, size = cell.open(), cell.size
    put_for(queue, 0, 1, 1)  # the first put makes folders and caches
    done, spent = put_for(queue, 1, size.events, size.seconds)
    queue.close()
    return {"value": done / spent, "check": read_back(cell, done + 1)}


def durable_put_row(cell: Cell[System], threads: int = 1) -> Outcome:
    queue, size = cell.open(), cell.size
    put_for(queue, 0, 1, 1)
    share, done = size.durable // threads, [0] * threads

    def work(thread: int) -> None:
        done[thread], _ = put_for(queue, 1 + thread * share, share, size.seconds)

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    spent = time.perf_counter() - start
    queue.close()
    return {"value": sum(done) / spent, "check": _of_threads(cell, share, done)}


def _of_threads(cell: Cell[System], share: int, done: list[int]) -> Outcome:
    """The same check where each thread had its own range of numbers and may not have come to its end."""
    skipped = [1 + thread * share + at for thread, count in enumerate(done) for at in range(count, share)]
    fill = payloads(cell.system, 0, 1 + len(done) * share)
    return read_back(cell, 1 + len(done) * share, [fill[number] for number in skipped])


def batch_row(cell: Cell[System], batch: int, events: int) -> Outcome:
    queue, spent, done = cell.open(), 0.0, 1
    put_for(queue, 0, 1, 1)
    while done <= events and spent < cell.size.seconds:
        chunk = payloads(cell.system, done, batch)
        start = time.perf_counter()
        queue.put_many(chunk)
        spent += time.perf_counter() - start
        done += batch
    queue.close()
    return {"value": (done - 1) / spent, "check": read_back(cell, done)}


def durable_batch_row(cell: Cell[System]) -> Outcome:
    return batch_row(cell, 100, cell.size.durable * 10)


def put_many_row(cell: Cell[System]) -> Outcome:
    return batch_row(cell, cell.size.many, cell.size.many * 10)


def drain_row(cell: Cell[System], history: int = 0) -> Outcome:
    """Of a store that has so many events done and kept already."""
    size = cell.size
    cell.make()
    if history:
        remember(cell, max(1, int(history * size.backlog)))
    put = filled(cell.system, cell.folder, 0, size.events, size.seconds)
    came: list[Any] = []
    append, clock, queue = came.append, time.perf_counter, cell.open()

    def sink(payload: Any) -> bool:
        append(payload)
        return clock() > end

    start = clock()
    end = start + size.seconds
    queue.deliver(sink)
    spent = clock() - start
    queue.close()
    return {"value": len(came) / spent, "check": read_back(cell, put, came)}


def remember(cell: Cell[System], count: int) -> None:
    """What is done is stored by a process of its own, and written, before the drain is timed."""
    Claimer("remember", cell.system, cell.folder, count).answer()
    os.sync()


def backlog_row(cell: Cell[System], backlog: int) -> Outcome:
    size = cell.size
    backlog = max(1, int(backlog * size.backlog))
    first = min(size.first, backlog)
    cell.make()
    queue, spent, put = cell.open(), 0.0, 0
    came: list[Any] = []
    for _ in range(max(1, size.first // backlog)):  # a small one is over too soon to be timed
        put += filled(cell.system, cell.folder, put, backlog, size.fill_seconds)
        if put % backlog:
            raise RuntimeError(f"could not put {backlog:,} events in {size.fill_seconds:.0f} s")
        enough, end = len(came) + first, 0.0
        start = time.perf_counter()

        def sink(payload: Any, enough: int = enough, limit: float = start + size.seconds * 5) -> bool:
            nonlocal end
            came.append(payload)
            end = time.perf_counter()
            return len(came) >= enough or end > limit

        queue.deliver(sink)
        spent += end - start
    queue.close()
    return {"value": len(came) / spent, "more": {"drained": len(came)}, "check": read_back(cell, put, came)}


def end_to_end_row(cell: Cell[System], count: int) -> Outcome:
    size = cell.size
    cell.make()
    started = claimers(count, "claim", cell.system, cell.folder, size.patience, 0)
    queue = cell.open()
    start = time.monotonic_ns()
    done, _ = put_for(queue, 0, size.events, size.seconds)
    reports = answers(started)
    queue.close()
    spent = (max(report["last"] for report in reports) - start) / 1e9
    shares = sorted(len(report["numbers"]) for report in reports)
    numbers = [number for report in reports for number in report["numbers"]]
    return {
        "value": done / spent,
        "more": {"smallest_share": shares[0] / done},
        "check": check(done, numbers),
    }


def in_turn(queue: System, first: int, count: int, seconds: float) -> Outcome:
    """Put one, claim it, settle it, and again."""
    put, take, settle = queue.put, queue.take, queue.settle
    came: list[int] = []
    spent, done = 0.0, 0
    while done < count and spent < seconds:
        chunk, seen = payloads(type(queue), first + done, min(500, count - done)), []
        start = time.perf_counter()
        for payload in chunk:
            put(payload)
            taken = take()
            assert taken is not None, "an event that was just put cannot be claimed"
            settle(taken[0])
            seen.append(taken[1])
        spent += time.perf_counter() - start
        done += len(chunk)
        came.extend(int(payload[:12]) - first for payload in seen)
    return {"value": done / spent, "check": check(done, came)}


def turn_row(cell: Cell[System]) -> Outcome:
    queue = cell.open()
    in_turn(queue, 0, 1, 1)
    outcome = in_turn(queue, 1, cell.size.events, cell.size.seconds)
    queue.close()
    return outcome


# ---- waiting, idling


def wake_row(cell: Cell[System]) -> Outcome:
    size, warm = cell.size, 5
    cell.make()
    (claimer,) = claimers(1, "wake", cell.system, cell.folder, size.patience)
    queue = cell.open()
    for number in range(size.wakes + warm):
        time.sleep(0.01)
        text = f"{number:012d}{time.monotonic_ns():020d}".ljust(PAYLOAD, "x")
        queue.put(text.encode() if cell.system.binary else text)
    (answer,) = answers([claimer])
    queue.close()
    delays = [delay / 1e3 for delay in answer["delays"][warm:]]
    return {
        "value": statistics.median(delays),
        "more": {"p99": quantile(delays, 0.99), "worst": max(delays)},
        "check": check(size.wakes + warm, answer["numbers"]),
    }


def _wakeups(pid: int) -> tuple[int, float]:
    """Voluntary context switches and CPU seconds of all threads so far."""
    switches = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for line in (thread / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                switches += int(line.split()[1])
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return switches, (int(fields[11]) + int(fields[12])) / 100


def idle_row(cell: Cell[System]) -> Outcome:
    cell.make()
    (claimer,) = claimers(1, "claim", cell.system, cell.folder, FOREVER, 0)
    time.sleep(0.2)
    switches, cpu = _wakeups(claimer.pid)
    start = time.monotonic()
    time.sleep(cell.size.idle_seconds)
    after, cpu_after = _wakeups(claimer.pid)
    spent = time.monotonic() - start
    claimer.kill()
    return {"value": (after - switches) / spent, "more": {"cpu_percent": 100 * (cpu_after - cpu) / spent}}


def idle_claim_row(cell: Cell[System]) -> Outcome:
    queue = cell.open()

    def idle_claim() -> float:
        times = []
        for _ in range(200):
            start = time.perf_counter()
            taken = queue.take()
            times.append(time.perf_counter() - start)
            assert taken is None, "the queue should be empty"
        return statistics.median(times) * 1e6

    in_turn(queue, 0, 1, 1)
    fresh = idle_claim()
    outcome = in_turn(queue, 1, cell.size.history, cell.size.seconds * 4)
    value = idle_claim()
    queue.close()
    return {"value": value, "more": {"fresh": fresh}, "check": outcome["check"]}


# ---- sharing, dying


def hoard_row(cell: Cell[System], *, many: bool, workers: int = 4) -> Outcome:
    size = cell.size
    cell.make()
    started = claimers(workers, "claim", cell.system, cell.folder, size.patience, size.nap)
    queue, chunk = cell.open(), payloads(cell.system, 0, size.hoard)
    start = time.monotonic_ns()
    if many:
        queue.put_many(chunk)
    else:
        for payload in chunk:
            queue.put(payload)
    reports = answers(started)
    queue.close()
    spent = (max(report["last"] for report in reports) - start) / 1e9
    ideal = math.ceil(size.hoard / workers) * size.nap
    numbers = [number for report in reports for number in report["numbers"]]
    return {
        "value": spent - ideal,
        "more": {"ideal": ideal, "most": max(len(report["numbers"]) for report in reports)},
        "check": check(size.hoard, numbers),
    }


def kill_row(cell: Cell[System]) -> Outcome:
    """Two claimers; whoever gets the event is killed; the other one reports when it got it."""
    cell.make()
    live = claimers(2, "hold", cell.system, cell.folder)
    queue, delays, numbers = cell.open(), [], []
    for payload in payloads(cell.system, 0, cell.size.kills):
        queue.put(payload)
        victim = _first_to_speak(live)
        victim.line()
        live.remove(victim)
        time.sleep(0.05)  # a claimer that has been working for a while
        killed = time.monotonic_ns()
        victim.kill()
        _, at, number = live[0].line().split()
        delays.append((int(at) - killed) / 1e9)
        numbers.append(int(number))
        live[0].tell("done")
        live += claimers(1, "hold", cell.system, cell.folder)
    for claimer in live:
        claimer.kill()
    queue.close()
    return {
        "value": statistics.median(delays),
        "more": {"worst": max(delays), "kills": len(delays)},
        "check": check(cell.size.kills, numbers),
    }


def _first_to_speak(live: list[Claimer]) -> Claimer:
    ready, _, _ = select.select([claimer.output for claimer in live], [], [], 30)
    if not ready:
        raise RuntimeError("nobody claimed the event within 30 s")
    return next(claimer for claimer in live if claimer.output in ready)


# ---- starting, growing


def import_row(cell: Cell[System]) -> Outcome:
    code = "\n".join(
        (
            "import time",
            cell.system.preloads,
            "start = time.perf_counter()",
            cell.system.imports,
            "print(time.perf_counter() - start)",
        )
    )
    # compiled once, as when installed, whatever the environment says about byte code
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(cell.folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def once() -> float:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return float(done.stdout) * 1e3

    once()
    times = [once() for _ in range(cell.size.imports)]
    return {"value": statistics.median(times), "more": {"best": min(times)}}


def open_row(cell: Cell[System]) -> Outcome:
    cell.make()
    times = []
    for payload in payloads(cell.system, 0, cell.size.opens):
        start = time.perf_counter()
        queue = cell.open()
        queue.put(payload)
        queue.close()
        times.append((time.perf_counter() - start) * 1e3)
    return {
        "value": statistics.median(times),
        "more": {"worst": max(times)},
        "check": read_back(cell, cell.size.opens),
    }


def memory_row(cell: Cell[System]) -> Outcome:
    page, count = resource.getpagesize() / 1024, cell.size.memory
    queue, left, put, sizes = cell.open(), cell.size.seconds * 10, 0, []
    total = Counter[str]()
    while put < count and left > 0:  # in pieces: what the measurement itself keeps must not count
        begun = time.monotonic()
        outcome = in_turn(queue, put, min(count // 20, 5_000), left)
        left -= time.monotonic() - begun
        total.update(outcome["check"])
        put = total["put"]
        sizes.append((put, int(Path("/proc/self/statm").read_text().split()[1]) * page))
    queue.close()
    early = next(kib for done, kib in sizes if done >= put / 5)
    return {
        "value": sizes[-1][1] - early,
        "more": {"events": put, "rss_kib": sizes[-1][1]},
        "check": dict(total),
    }


def _rate(name: str, title: str, run: Callable[[Cell[System]], Outcome], **more: Any) -> Row:
    return Row(name=name, title=title, unit="events/s", run=run, **more)


def _less(name: str, title: str, unit: str, run: Callable[[Cell[System]], Outcome], **more: Any) -> Row:
    return Row(name=name, title=title, unit=unit, run=run, less=True, **more)


def _flat(store: str, title: str) -> tuple[Row, ...]:
    """Drain of stores with more and more that is done: goes no slower."""
    goal = Goal(times=0.8, row=f"{store}-history-1k")

    def row(name: str, words: str, history: int, **more: Any) -> Row:
        run = partial(drain_row, history=history)
        return _rate(f"{store}-history-{name}", f"{title}: drain, {words} done", run, mode=store, needs="keeps", **more)

    return (
        row("1k", "1 k", 1_000),
        row("100k", "100 k", 100_000, goals=(goal,)),
        row("1m", "1 M", 1_000_000, goals=(goal,), full=True),
    )


def _level(mode: str, title: str, system: str) -> tuple[Row, ...]:
    """Put, and claim and settle, over a kind of store and by hand in the same."""
    goals = (Goal(times=1, system=system),)
    return (
        _rate(f"{mode}-put", f"{title}: put one by one", put_row, mode=mode, goals=goals),
        _rate(f"{mode}-drain", f"{title}: claim and settle, drain", drain_row, mode=mode, goals=goals),
    )


STORE_ROWS: tuple[Row, ...] = (
    *_level("sqlite", "SQLite, normal", "sqlite-normal"),
    *_level("sqlite-full", "SQLite, full", "sqlite-full"),
    *_flat("sqlite", "SQLite"),
    _rate("redis-put", "Redis: put one by one", put_row, mode="redis", goals=(Goal(times=0.8, system="redis-loop"),)),
    _rate("redis-drain", "Redis: claim and settle, drain", drain_row, mode="redis",
          goals=(Goal(times=1, system="redis-loop"),)),
    _rate("redis-put-many", "Redis: batches of 10,000", put_many_row, mode="redis",
          goals=(Goal(times=10, row="redis-put"),)),
    *_level("postgresql", "PostgreSQL", "postgresql-table"),
    *_level("postgresql-off", "PostgreSQL, commit off", "postgresql-table-off"),
    *_flat("postgresql", "PostgreSQL"),
)  # fmt: skip

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        _rate("put", "put one by one", put_row, plotted=True),
        _rate("drain", "claim and settle, drain", drain_row, plotted=True),
        _rate("e2e-1", "end to end, 1 claimer", partial(end_to_end_row, count=1), plotted=True),
        _rate("e2e-2", "end to end, 2 claimers", partial(end_to_end_row, count=2), plotted=True),
        _rate("e2e-4", "end to end, 4 claimers", partial(end_to_end_row, count=4), plotted=True),
        _rate("turn", "put, claim, settle in turn", turn_row, plotted=True),
        _rate("durable-put", "durable put one by one", durable_put_row, mode="durable", plotted=True),
        _rate("durable-put-4", "durable put, 4 threads", partial(durable_put_row, threads=4), mode="durable",
              plotted=True),
        _rate("durable-batch", "durable batches of 100", durable_batch_row, mode="durable", needs="batches",
              plotted=True),
        _rate("put-many", "batches of 10,000", put_many_row, needs="batches", plotted=True),
        _less("wake", "idle claimer wakes, p50", "us", wake_row, plotted=True),
        _rate("backlog-1k", "drain at a backlog of 1 k", partial(backlog_row, backlog=1_000)),
        _rate("backlog-100k", "drain at a backlog of 100 k", partial(backlog_row, backlog=100_000)),
        _rate("backlog-1m", "drain at a backlog of 1 M", partial(backlog_row, backlog=1_000_000), full=True),
        _less("idle", "wakeups of an idle claimer", "per s", idle_row),
        _less("idle-claim", "an idle claim after history", "us", idle_claim_row),
        _less("hoard-one", "slow events, put one by one: over ideal", "s", partial(hoard_row, many=False),
              compared=False),
        _less("hoard-many", "slow events, one batch: over ideal", "s", partial(hoard_row, many=True),
              needs="batches", compared=False),
        _less("kill", "kill -9 to started elsewhere, median", "s", kill_row, needs="recovers"),
        _less("import", "import", "ms", import_row),
        _less("open", "open, one durable put, close", "ms", open_row, mode="durable"),
        _less("memory", "memory growth over many events", "KiB", memory_row, compared=False),
        *TASK_ROWS,
        *WORKFLOW_ROWS,
        *STORE_ROWS,
        *STORE_TASK_ROWS,
    )
}  # fmt: skip
