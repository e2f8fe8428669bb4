"""`eventq bench`: how fast is a store on this machine and this disk? Honest medians, nothing discarded."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

from eventq import clock
from eventq.cli.command import Command, CommandError, Exit, count, store_path, store_url, usage
from eventq.cli.console import Progress, print_json, print_table, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.app import App

PAYLOAD: dict[str, Any] = {"id": 123456, "text": "x" * 172}
"""About 200 bytes of JSON."""
WAKES = 200
BATCH = 100
STOP = "stop"
QUIET = 0.005
"""Seconds between two wakes: the claimer must be idle again."""


class Measured(NamedTuple):
    """One line of the table: all runs, the median first."""

    name: str
    unit: str
    median: float
    runs: list[float]


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=_events, default=5000, metavar="N", help="per run (default 5000)")
    parser.add_argument("--runs", type=_runs, default=3, metavar="N", help="of each measurement (default 3)")
    parser.add_argument("--place", metavar="DIR", help="measure in this folder (default: beside the store)")


def _events(text: str) -> int:
    number = count(text)
    if not 100 <= number <= 100_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 100 and 100000")
    return number


def _runs(text: str) -> int:
    number = count(text)
    if not 1 <= number <= 99:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 99")
    return number


def _run(args: argparse.Namespace) -> int:
    place = os.path.abspath(args.place or _beside(args))
    try:
        folder = tempfile.mkdtemp(prefix=".eventq-bench-", dir=place)
    except OSError as error:
        raise CommandError(f"cannot measure in {place}: {error.strerror}; --place names another folder") from error
    try:
        measured = list(_measure_all(folder, args.events, args.runs))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    machine = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
    }
    if args.json:
        setup = {"place": place, "events": args.events, "runs": args.runs, "payload_bytes": 200}
        print_json({"machine": machine, "setup": setup, "results": [entry._asdict() for entry in measured]})
        return Exit.OK
    print(f"{printable(place)}: {args.events:,} events of 200 bytes, median of {args.runs}")
    rows = [[m.name, f"{m.median:,.0f} {m.unit}", f"{min(m.runs):,.0f} to {max(m.runs):,.0f}"] for m in measured]
    print_table(["MEASURED", "MEDIAN", "FROM - TO"], rows, right=(1, 2))
    return Exit.OK


def _beside(args: argparse.Namespace) -> str:
    path = store_path(store_url(args))
    if path is None:
        usage("bench measures a file store; --place names its folder")
    return os.path.dirname(os.path.abspath(path))


def _measure_all(folder: str, events: int, runs: int) -> Iterator[Measured]:
    from eventq.app import App

    progress = Progress("measured", total=7)
    with App(os.path.join(folder, "quick"), sync=False) as app:
        yield _median("put", "/s", runs, lambda n: _put(app, n, events))
        progress.at(1, "put")
        yield _median("claim and complete", "/s", runs, lambda n: _drain(app, n, events))
        progress.at(2, "drain")
        yield _median("put, claim, complete in turn", "/s", runs, lambda n: _in_turn(app, n, events // 2))
        progress.at(3, "in turn")
        yield _median("put_many", "/s", runs, lambda n: _put_many(app, n, events))
        progress.at(4, "put_many")
    with App(os.path.join(folder, "durable"), sync=True) as app:
        yield _median("durable put", "/s", runs, lambda n: _put(app, n, events // 10))
        progress.at(5, "durable put")
        yield _median(f"durable put_many of {BATCH}", "/s", runs, lambda n: _batches(app, n, events))
        progress.at(6, "durable put_many")
    yield from _wakes(os.path.join(folder, "quick"), runs)
    progress.close()


def _median(name: str, unit: str, runs: int, measure: Callable[[int], float]) -> Measured:
    found = [measure(number) for number in range(runs)]
    return Measured(name, unit, statistics.median(found), found)


def _put(app: App, run: int, events: int) -> float:
    queue = app.queue(f"put-{run}")
    started = clock.perf_counter()
    for _ in range(events):
        queue.put(PAYLOAD)
    return events / (clock.perf_counter() - started)


def _drain(app: App, run: int, events: int) -> float:
    """Empties what `_put` of the same run has put."""
    queue = app.queue(f"put-{run}")
    started = clock.perf_counter()
    done = 0
    while (claim := queue.claim()) is not None:
        claim.complete()
        done += 1
    took = clock.perf_counter() - started
    if done != events:
        raise CommandError(f"{events} events were put, but {done} came out; please run 'eventq doctor'")
    return events / took


def _in_turn(app: App, run: int, events: int) -> float:
    queue = app.queue(f"turn-{run}")
    started = clock.perf_counter()
    for _ in range(events):
        queue.put(PAYLOAD)
        claim = queue.claim()
        if claim is None:
            raise CommandError("an event that was put could not be claimed; please run 'eventq doctor'")
        claim.complete()
    return events / (clock.perf_counter() - started)


def _put_many(app: App, run: int, events: int) -> float:
    queue = app.queue(f"many-{run}")
    payloads = [PAYLOAD] * events
    started = clock.perf_counter()
    queue.put_many(payloads)
    return events / (clock.perf_counter() - started)


def _batches(app: App, run: int, events: int) -> float:
    queue = app.queue(f"batches-{run}")
    payloads = [PAYLOAD] * BATCH
    started = clock.perf_counter()
    for _ in range(events // BATCH):
        queue.put_many(payloads)
    return events // BATCH * BATCH / (clock.perf_counter() - started)


# ---- waking: from before a put here to a claim in another, idle process


def _wakes(store: str, runs: int) -> Iterator[Measured]:
    from eventq.app import App

    claimer = subprocess.Popen([sys.executable, "-m", "eventq.cli.bench", store])  # noqa: S603 - this module
    try:
        with App(store) as app:
            _wake(app)  # the first waits for the process to start
            found = [[_wake(app) for _ in range(WAKES)] for _ in range(runs)]
            app.queue("wake").put(STOP)
        claimer.wait(30)
    finally:
        claimer.kill()
        claimer.wait()
    for name, cut in (("an idle process wakes, half within", 50), ("99 of 100 within", 99)):
        values = [statistics.quantiles(samples, n=100)[cut - 1] * 1e6 for samples in found]
        yield Measured(name, "us", statistics.median(values), values)


def _wake(app: App) -> float:
    clock.sleep(QUIET)
    started = clock.perf_counter()
    claimed: Any = app.handle(app.queue("wake").put(PAYLOAD)).result(timeout=30)
    return float(claimed) - started


def answer(store: str) -> None:
    """The other process: says when it got each event. The clock is one for the whole machine."""
    from eventq.app import App

    with App(store) as app:
        for claim in app.queue("wake").claims(timeout=60):
            now = clock.perf_counter()
            claim.complete(now)
            if claim.event.payload == STOP:
                return


COMMANDS = {
    "bench": Command(
        _options,
        _run,
        "Measure a file store on this machine's disk, in a temporary folder beside the store, removed at\n"
        "the end: the first four without fsync (sync=False), the next two with. Takes some seconds.\n"
        "Rates depend on the machine: compare them only with others of the same machine.",
    )
}

if __name__ == "__main__":
    answer(sys.argv[1])
