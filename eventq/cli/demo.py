"""`eventq demo`: the main job, for real. Every number it prints was measured, and its exit code tells."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventq import clock
from eventq.cli.command import Command, CommandError, Exit, count, usage
from eventq.cli.console import Progress, print_json, print_table, styled
from eventq.cli.survey import QUEUE, Survey, library, survey
from eventq.errors import EventqError
from eventq.model import Filter, State

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    from eventq.app import App
    from eventq.model import Worker
    from eventq.queue import Queue

WORKERS = 3
LOOK = 0.2
"""Seconds between two counts."""
LIMIT = 120.0
"""Seconds after which the demo gives up: it takes a few."""
BATCH = 16
"""Events put at once: one batch is claimed as a whole, and three workers share better what comes in small ones."""
KILL_AFTER = 0.25
"""The share of the files after which a worker is killed."""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=count, metavar="N", help="only so many files (at least 50)")
    parser.add_argument("--keep", action="store_true", help="keep the store, to look around in it")


class Death(NamedTuple):
    """What was known when a worker was killed."""

    worker: str
    pid: int
    held: tuple[str, ...]
    at: float


class Totals(NamedTuple):
    """What the workers' results add up to, beside what they should."""

    results: dict[str, Survey]
    lost: int
    stuck: int
    ended: Counter[str]


class Demo:
    """One run: a store, its workers, and the story that it tells on the way."""

    def __init__(self, app: App, store: str, files: list[str], root: Path, tell: Callable[[str, str], None]) -> None:
        self.app: App = app
        self.queue: Queue[Any] = app.queue(QUEUE)
        self.store: str = store
        self.files: list[str] = files
        self.root: Path = root
        self.tell: Callable[[str, str], None] = tell
        self.ids: list[str] = []
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._deadline = clock.SYSTEM.monotonic() + LIMIT

    def put(self) -> None:
        """One event for each file, all of them on the disk before the first is worked on."""
        started = clock.perf_counter()
        for start in range(0, len(self.files), BATCH):
            self.ids += self.queue.put_many(self.files[start : start + BATCH])
        took = clock.perf_counter() - started
        self.tell("put", f"{len(self.ids):,} events, one for each file, durable after {took * 1000:.0f} ms")

    def start(self) -> None:
        """The workers: processes of their own, which know nothing but the store."""
        for _ in range(WORKERS):
            command = [sys.executable, "-m", "eventq.cli.survey", self.store]
            process = subprocess.Popen(command)  # noqa: S603 - our own module
            self.processes[process.pid] = process
        self.tell(
            "work",
            f"{WORKERS} processes ({', '.join(map(str, self.processes))}): lines, functions, ... by ast",
        )

    def stop(self) -> None:
        """End the workers that are left."""
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)  # one may have been stopped for a look when something failed
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self) -> tuple[Death, float]:
        """Follow the workers to the end, and kill one on the way: its death, and the seconds to its recovery."""
        total = len(self.files)
        started = clock.perf_counter()
        progress = Progress("  files", total, eager=True)
        death: Death | None = None
        recovered: float | None = None
        while (done := self._done()) < total or death is None:
            self._watch_over(death)
            progress.at(done)
            if death is None and done >= total * KILL_AFTER:
                death = self._kill()
                if death is not None:
                    progress.close()
                    self.tell("kill -9", f"process {death.pid}, which was at {self._file(death.held[0])}")
                elif done == total:
                    raise CommandError("the workers were done before one could be killed; run it with more files")
            next_count = clock.SYSTEM.monotonic() + (LOOK if death is not None else 0)
            while death is not None and recovered is None and clock.SYSTEM.monotonic() < next_count:
                clock.sleep(0.01)
                recovered = self._tell_recovery(death, progress)
            clock.sleep(max(next_count - clock.SYSTEM.monotonic(), 0.01))
        assert death is not None  # the loop ends with a death
        if recovered is None:
            recovered = self._tell_recovery(death, progress)
        progress.close()
        if recovered is None:
            raise CommandError(f"event {death.held[0]} of the killed worker was not started elsewhere")
        self.tell("done", f"{total:,} results after {clock.perf_counter() - started:.1f} s")
        return death, recovered

    def _done(self) -> int:
        return self.app.store.storage.stats(QUEUE).completed

    def _watch_over(self, death: Death | None) -> None:
        for pid, process in self.processes.items():
            if process.poll() is not None and (death is None or pid != death.pid):
                raise CommandError(f"worker {pid} ended by itself with exit code {process.returncode}")
        if clock.SYSTEM.monotonic() > self._deadline:
            raise CommandError(f"not done after {LIMIT:.0f} s")

    def _file(self, id: str) -> str:
        return self.files[self.ids.index(id)]

    # ---- the death

    def _kill(self) -> Death | None:
        """Kill a worker that verifiably holds a claim; None if none could be caught with one just now."""
        for worker in self.app.store.storage.workers():
            if worker.pid in self.processes and worker.claims and self._freeze(worker.pid):
                held = self._held(worker)
                if held:
                    at = clock.SYSTEM.now()
                    os.kill(worker.pid, signal.SIGKILL)
                    self.processes[worker.pid].wait()
                    return Death(worker.id, worker.pid, held, at)
                os.kill(worker.pid, signal.SIGCONT)
        return None

    def _freeze(self, pid: int) -> bool:
        """Stop a process where it is, so that what is seen of it next still holds when it is killed."""
        os.kill(pid, signal.SIGSTOP)
        ended, status = os.waitpid(pid, os.WUNTRACED)
        return ended == pid and os.WIFSTOPPED(status)

    def _held(self, frozen: Worker) -> tuple[str, ...]:
        """The events that a stopped worker holds, by its room and by the events' own records."""
        claims = next((worker.claims for worker in self.app.store.storage.workers() if worker.id == frozen.id), ())
        records = [self.app.store.storage.get(id) for id in claims]
        return tuple(r.id for r in records if r and r.state is State.CLAIMED and r.worker == frozen.id)

    def _tell_recovery(self, death: Death, progress: Progress) -> float | None:
        """Seconds until the last event that the dead worker held was started by another; None: not yet."""
        starts: list[float] = []
        for id in death.held:
            record = self.app.store.storage.get(id)
            later = [a for a in record.attempts if a.worker != death.worker and a.started >= death.at] if record else []
            if not later:
                return None
            starts.append(later[0].started - death.at)
        progress.close()
        self.tell("recover", f"it was started again by another process {max(starts) * 1000:.0f} ms later")
        return max(starts)

    # ---- the proof

    def totals(self) -> Totals:
        """What came back, read through handles; and what the store says of all events."""
        results: dict[str, Survey] = {}
        for id, file in zip(self.ids, self.files, strict=True):
            try:
                results[file] = msgspec.convert(self.app.handle(id).result(timeout=5), Survey)
            except EventqError as error:
                self.tell("lost", f"{file}: {type(error).__name__}: {error}")
        stats = self.app.store.storage.stats(QUEUE)
        ended = Counter({state.value: getattr(stats, state.value) for state in State})
        kept = set(self._completed())
        lost = sum(id not in kept for id in self.ids) + len(kept - set(self.ids)) + len(self.files) - len(results)
        return Totals(results, lost, stats.ready + stats.delayed + stats.claimed, ended)

    def _completed(self) -> list[str]:
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = self.app.store.storage.scan(QUEUE, State.COMPLETED, Filter(), cursor, 500)
            found += [record.id for record in page.records]
            cursor = page.cursor
            if cursor is None:
                return found

    def plain_loop(self) -> dict[str, Survey]:
        """The same work without any queue, in this process."""
        progress = Progress("  files", len(self.files), eager=True)
        started = clock.perf_counter()
        found = {}
        for number, file in enumerate(self.files):
            progress.at(number)
            found[file] = survey(self.root / file)
        progress.close()
        self.tell("check", f"a plain loop over the same files, here: {clock.perf_counter() - started:.1f} s")
        return found


def _run(args: argparse.Namespace) -> int:
    if args.store is not None:
        usage("the demo makes a store of its own, in a temporary folder; leave --store out")
    root, files = library()
    files = files[: args.files] if args.files is not None else files
    if len(files) < 50:
        raise CommandError(f"only {len(files)} Python files in {root}; the demo needs at least 50")
    out = sys.stderr if args.json else sys.stdout

    def tell(word: str, text: str) -> None:
        print(f"  {styled(f'{word:<8}', 'bold', out)} {text}", file=out, flush=True)

    print(
        f"eventq demo: survey Python's standard library ({len(files):,} files) with {WORKERS} processes,",
        file=out,
    )
    print("kill one of them in the middle of its work, and see whether anything is lost.\n", file=out)
    store = tempfile.mkdtemp(prefix="eventq-demo-")
    try:
        return _story(args, store, files, root, tell)
    finally:
        if args.keep:
            print(f"the store is kept: eventq --store {store} status", file=out)
        else:
            shutil.rmtree(store, ignore_errors=True)


def _story(args: argparse.Namespace, store: str, files: list[str], root: Path, tell: Callable[[str, str], None]) -> int:
    from eventq.app import App

    tell("store", f"{store}, a directory; no server")
    with App(store) as app:
        demo = Demo(app, store, files, root, tell)
        demo.put()
        try:
            demo.start()
            death, recovered = demo.run()
            totals = demo.totals()
        finally:
            demo.stop()
    expected = demo.plain_loop()
    differing = sum(totals.results.get(file) != expected[file] for file in files)
    report: dict[str, Any] = {
        "files": len(files),
        "eventq": sum(totals.results.values(), Survey()),
        "plain_loop": sum(expected.values(), Survey()),
        "differing": differing,
        "lost": totals.lost,
        "stuck": totals.stuck,
        "recovered": len(death.held),
        "recovery_ms": round(recovered * 1000, 1),
        "states": dict(totals.ended),
    }
    good = not differing and not totals.lost and not totals.stuck and totals.ended["completed"] == len(files)
    _report(args, report, good)
    return Exit.OK if good else Exit.FAILED


def _report(args: argparse.Namespace, report: dict[str, Any], good: bool) -> None:
    if args.json:
        print_json({**report, "ok": good})
        return
    fields = Survey.__struct_fields__
    print()
    print_table(
        ["", *(field.upper() for field in fields)],
        [
            [name, *(f"{number:,}" for number in msgspec.structs.astuple(report[key]))]
            for name, key in (("three processes, one killed", "eventq"), ("plain loop", "plain_loop"))
        ],
        right=range(1, len(fields) + 1),
    )
    print()
    if report["differing"]:
        print(styled(f"{report['differing']:,} files differ from the plain loop", "red"))
    if report["states"]["completed"] != report["files"]:
        print(styled(f"the events ended as {report['states']}", "red"))
    summary = (
        f"lost {report['lost']}, stuck {report['stuck']}, "
        f"recovered {report['recovered']} in {report['recovery_ms']:.0f} ms"
    )
    print(styled(summary, "green" if good else "red"))
    if good:
        print("\nyours:  eventq put hello '\"world\"'  and  eventq work hello --exec cat --burst")


COMMANDS = {
    "demo": Command(
        _options,
        _run,
        "Survey every file of this Python's standard library (up to 16 KiB each) with three processes that\n"
        "share a durable store in a temporary folder; kill one of them with -9 while it holds an event;\n"
        "compare the results with a plain loop. Exit code 1 if anything was lost, is stuck or differs. A\n"
        "self-test, too.",
    )
}
