"""The one command: `python -m benchmarks`, or `python benchmarks/run.py`; eventq must be installed.

Rows one after the other; within a row the systems in rotation (A B C, A B C, ...), each cell in a fresh
process on a fresh folder; medians, and ratios to the baseline of the same run. Ends with status 1 if eventq failed,
lost an event, or delivered one twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: import the package from beside it, not its modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import machine, plot, table
from benchmarks.process import ROOT
from benchmarks.results import Results
from benchmarks.row import Row
from benchmarks.rows import ROWS
from benchmarks.sizes import SIZES, Size
from benchmarks.systems import BASELINE, SYSTEMS, Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RESULTS = Path(__file__).resolve().parent / "results"


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure eventq beside SQLite, other queues and task queues, in one run.",
        epilog=f"rows: {', '.join(ROWS)}. systems: {', '.join(SYSTEMS)}.",
    )
    parser.add_argument("--only", metavar="ROWS", type=_names(ROWS), help="rows, with commas between")
    parser.add_argument(
        "--systems",
        type=_names(SYSTEMS),
        help="systems, with commas between; what ratios are taken against is always among them",
    )
    parser.add_argument("--repeat", type=_positive, help="repetitions of each cell (3; with --size small 1)")
    parser.add_argument("--size", choices=SIZES, default="normal", help="small is a smoke test")
    parser.add_argument("--full", action="store_const", const="full", dest="size", help="the same as --size full")
    parser.add_argument(
        "--dir",
        type=Path,
        help="an existing folder to work in (a new one below it; on the disk of the current folder)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where results.json, results.md, results.svg and tasks.svg go (benchmarks/results; nowhere if the run"
        " was narrowed by --only, --systems or --size small)",
    )
    return parser.parse_args(argv)


def _names(known: dict[str, Any]) -> Any:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown) or text!r}; choose from {', '.join(known)}")
        return [name for name in known if name in names]

    return parse


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError("must be a whole number above zero")
    return int(text)


@contextlib.contextmanager
def workspace(parent: Path | None) -> Iterator[Path]:
    """A new folder on the disk of the current one, removed at the end whatever happens."""
    if parent is None:
        here, temporary = Path.cwd(), Path(tempfile.gettempdir())
        parent = temporary if temporary.stat().st_dev == here.stat().st_dev else here
    folder = Path(tempfile.mkdtemp(prefix="eventq-bench-", dir=parent.resolve()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def run_cell(row: Row, system: type[Measured], size: Size, folder: Path) -> dict[str, Any]:
    """One cell in a fresh process, whose whole process group is gone afterwards."""
    folder.mkdir()
    if size.at_once == 1:
        os.sync()  # what the cell before has left to write is not this one's to pay
    command = [
        sys.executable,
        "-m",
        "benchmarks.process",
        "cell",
        system.name,
        str(folder),
        row.name,
        size.name,
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True) as process:
        try:
            output, errors = process.communicate(timeout=size.limit)
        except subprocess.TimeoutExpired:
            return {"error": f"not done in {size.limit:.0f} s"}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what an interrupted cell had started
    if process.returncode:
        return {"error": cause(errors) or f"exit status {process.returncode}"}
    outcome: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return outcome


def cause(errors: str) -> str:
    """The first error that a cell or a process of it reported: the others follow from it."""
    named = re.search(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit|Lost|Unknown)\b.*$", errors, re.MULTILINE)
    return named.group() if named else errors.strip().rpartition("\n")[2]


def plan(options: argparse.Namespace) -> tuple[list[Row], list[type[Measured]], dict[str, str]]:
    """The rows, the systems that are here, and those that are not, with the reason."""
    rows = [
        row
        for row in ROWS.values()
        if row.name in (options.only or ROWS) and (options.only or not row.full or options.size == "full")
    ]
    modes = {row.mode for row in rows}
    wanted = set(options.systems or SYSTEMS) | {BASELINE[mode] for mode in modes}
    systems, absent = [], {}
    for name, system in SYSTEMS.items():
        if name in wanted and modes & system.modes:
            if reason := system.missing():
                absent[name] = reason
            else:
                systems.append(system)
    return rows, systems, absent


@contextlib.contextmanager
def mapping(at_once: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`, or one that does so many at the same time."""
    if at_once == 1:
        yield map
        return
    with ThreadPoolExecutor(at_once) as pool:
        try:
            yield pool.map
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # when interrupted, start no more


def measure(rows: list[Row], systems: list[type[Measured]], size: Size, repeat: int, folder: Path) -> Results:
    results = Results()
    cells = [
        (row, system)
        for row in rows
        for _ in range(repeat)
        for system in systems
        if row.mode in system.modes and row.refusal(system) is None
    ]

    def outcome_of(number: int, cell: tuple[Row, type[Measured]]) -> dict[str, Any]:
        home = folder / str(number)  # short: the path of a Unix socket has at most 107 characters
        outcome = run_cell(*cell, size, home)
        shutil.rmtree(home)
        return outcome

    start = time.monotonic()
    with mapping(size.at_once) as spread:
        outcomes = spread(outcome_of, range(1, len(cells) + 1), cells)
        for number, ((row, system), outcome) in enumerate(zip(cells, outcomes, strict=True), 1):
            results.add(row, system, outcome)
            left = (time.monotonic() - start) / number * (len(cells) - number)
            print(f"[{number}/{len(cells)}, {left / 60:.0f} min left] {results.line(row, system)}", file=sys.stderr)
    for row in rows:
        for system in systems:
            if row.mode in system.modes and (reason := row.refusal(system)):
                results.refuse(row, system, reason)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    size = SIZES[options.size]
    repeat = options.repeat or (1 if size.name == "small" else 3)
    rows, systems, absent = plan(options)
    whole = options.only is None and options.systems is None and size.name != "small"
    out = options.out or (RESULTS if whole else None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folders are removed
    with workspace(options.dir) as folder:
        where = machine.describe(folder, systems)
        print(machine.sentence(where), file=sys.stderr)
        for name, reason in absent.items():
            print(f"{name}: {reason}", file=sys.stderr)
        results = measure(rows, systems, size, repeat, folder)
    report = table.markdown(results, where, absent, size, repeat)
    print(report)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_text(results.json(where, absent, size, repeat), encoding="utf-8")
        (out / "results.md").write_text(report, encoding="utf-8")
        (out / "results.svg").write_text(plot.svg(results, where, plot.QUEUES), encoding="utf-8")
        (out / "tasks.svg").write_text(plot.svg(results, where, plot.TASKS), encoding="utf-8")
        print(f"written: {out}/results.json, results.md, results.svg, tasks.svg", file=sys.stderr)
    return 1 if results.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
