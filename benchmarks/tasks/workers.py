"""Worker processes of a task queue, and what of their work is done."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.tasks.base import TaskSystem
    from benchmarks.tasks.ledger import Ledger

ROOT = Path(__file__).resolve().parent.parent.parent
LOOK = 0.005
"""Seconds between two looks at the ledger."""
START = 20.0
"""Seconds within which a worker has run its first task."""
STOP = 5.0
"""Seconds that a worker gets to end by itself."""


class Workers:
    def __init__(self, system: type[TaskSystem], folder: Path, count: int) -> None:
        self.system = system
        self.log = folder / "workers.log"
        command = [sys.executable, "-m", *system.worker(folder)]
        with self.log.open("ab") as log:
            self.processes = [
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                for _ in range(count)
            ]

    def until(self, ledger: Ledger, count: int, seconds: float, first: int = 0) -> bool:
        """Wait until so many tasks from a number on have run: False if the time is over before."""
        end = time.monotonic() + seconds
        while ledger.done(first) < count:
            if time.monotonic() > end:
                return False
            for process in self.processes:
                if process.poll() is not None:
                    raise RuntimeError(f"a worker ended with status {process.returncode}: {self.said()}")
            time.sleep(LOOK)
        return True

    def begin(self, ledger: Ledger, first: int = 0) -> None:
        """Wait until a task has run."""
        if not self.until(ledger, 1, START, first):
            raise RuntimeError(f"no task has run after {START:.0f} s: {self.said()}")

    def said(self) -> str:
        """The last line that the workers have logged."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing was logged"

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def working(system: type[TaskSystem], folder: Path, count: int = 1) -> Iterator[Workers]:
    """So many worker processes, started as users start them."""
    workers = Workers(system, folder, count)
    try:
        yield workers
    finally:
        workers.stop()
