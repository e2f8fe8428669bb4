"""The processes of a cell: `python -m benchmarks.process ROLE SYSTEM FOLDER ...`, one role a process.

- `cell ROW SIZE` runs one row once; its last line is the outcome as JSON.
- `fill FIRST COUNT SECONDS` puts payloads; answers how many.
- `remember COUNT` stores events that are done.
- `claim IDLE NAP` says `ready`, delivers until told and idle; answers what came, and when the last did.
- `wake IDLE` does the same; answers how old each payload was when it came.
- `hold` says `ready`, then `got` and the time for each event, and holds it until told.

They answer on standard output.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sizes import PAYLOAD, SIZES
from benchmarks.systems import SYSTEMS, System

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.systems.base import Sink

ROOT = Path(__file__).resolve().parent.parent
FOREVER = 3600.0


def payloads(system: type[System], first: int, count: int) -> list[Any]:
    """Payloads that carry their number, so that each can be missed."""
    texts = [f"{number:012d}".ljust(PAYLOAD, "x") for number in range(first, first + count)]
    return [text.encode() for text in texts] if system.binary else texts


def put_for(queue: System, first: int, count: int, seconds: float) -> tuple[int, float]:
    """Put one by one until the count or the time is reached: how many, and the seconds it took."""
    put, done, spent = queue.put, 0, 0.0
    while done < count and spent < seconds:
        chunk = payloads(type(queue), first + done, min(500, count - done))  # made outside the timed part
        start = time.perf_counter()
        for payload in chunk:
            put(payload)
        spent += time.perf_counter() - start
        done += len(chunk)
    return done, spent


# ---- starting a role, from within a cell


class Claimer:
    """A claiming process of its own."""

    def __init__(self, role: str, system: type[System], folder: Path, *arguments: float) -> None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.process",
            role,
            system.name,
            str(folder),
            *map(str, arguments),
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT
        )
        self.pid = self.process.pid
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.output, self.input = self.process.stdout, self.process.stdin

    def line(self) -> str:
        """The next line that it says; an error if it died first."""
        line = self.output.readline()
        if not line:
            raise RuntimeError(f"a claimer of this cell died: exit status {self.process.wait()}")
        return line.strip()

    def tell(self, line: str) -> None:
        self.input.write(line + "\n")
        self.input.flush()

    def answer(self) -> dict[str, Any]:
        """What it reports at its end."""
        answer: dict[str, Any] = json.loads(self.line())
        self.process.wait()
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.input.close()
        self.output.close()


def claimers(count: int, role: str, system: type[System], folder: Path, *arguments: float) -> list[Claimer]:
    """Claimers that have opened the queue and wait for events."""
    started = [Claimer(role, system, folder, *arguments) for _ in range(count)]
    for claimer in started:
        if claimer.line() != "ready":
            raise RuntimeError("a claimer did not start")
    time.sleep(0.1)  # not timed: lets them go from "ready" to waiting
    return started


def answers(started: list[Claimer]) -> list[dict[str, Any]]:
    """Tell claimers that no more will be put, and collect what they report."""
    for claimer in started:
        claimer.tell("end")
    return [claimer.answer() for claimer in started]


def filled(system: type[System], folder: Path, first: int, count: int, seconds: float) -> int:
    """Put from a process of its own, as in life: how many were put."""
    filler = Claimer("fill", system, folder, first, count, seconds)
    return int(filler.answer()["put"])


# ---- the roles


def fill(system: type[System], folder: Path, first: str, count: str, seconds: str) -> None:
    queue = system(folder)
    done, _ = put_for(queue, int(first), int(count), float(seconds))
    queue.close()
    print(json.dumps({"put": done}), flush=True)


def remember(system: type[System], folder: Path, count: str) -> None:
    queue = system(folder)
    queue.remember(int(count))
    queue.close()
    print(json.dumps({}), flush=True)


def deliver_until_told(queue: System, sink: Sink, idle: float) -> None:
    """Deliver until standard input says that no more will be put, and then until idle."""
    told = False
    while True:
        queue.deliver(sink, idle)
        if told:
            return
        told = bool(select.select([sys.stdin], [], [], 0)[0])


def claim(system: type[System], folder: Path, idle: str, nap: str) -> None:
    queue, pause = system(folder), float(nap)
    came: list[Any] = []
    append, clock, last = came.append, time.monotonic_ns, 0

    def sink(payload: Any) -> None:
        nonlocal last
        if pause:
            time.sleep(pause)
        append(payload)
        last = clock()

    print("ready", flush=True)
    deliver_until_told(queue, sink, float(idle))
    queue.close()
    print(json.dumps({"numbers": [int(payload[:12]) for payload in came], "last": last}), flush=True)


def wake(system: type[System], folder: Path, idle: str) -> None:
    queue = system(folder)
    came: list[tuple[int, Any]] = []

    def sink(payload: Any) -> None:
        came.append((time.monotonic_ns(), payload))

    print("ready", flush=True)
    deliver_until_told(queue, sink, float(idle))
    queue.close()
    delays = [at - int(payload[12:32]) for at, payload in came]
    print(json.dumps({"numbers": [int(payload[:12]) for _, payload in came], "delays": delays}), flush=True)


def hold(system: type[System], folder: Path) -> None:
    queue = system(folder)

    def sink(payload: Any) -> None:
        print(f"got {time.monotonic_ns()} {int(payload[:12])}", flush=True)
        sys.stdin.readline()

    print("ready", flush=True)
    queue.deliver(sink, FOREVER)


def cell(system: type[System], folder: Path, row: str, size: str) -> None:
    from benchmarks.row import Cell
    from benchmarks.rows import ROWS

    with system.server(folder):
        outcome = ROWS[row].run(Cell(system, folder, SIZES[size]))
    print(json.dumps(outcome), flush=True)


ROLES: dict[str, Callable[..., None]] = {
    "cell": cell,
    "fill": fill,
    "remember": remember,
    "claim": claim,
    "wake": wake,
    "hold": hold,
}

if __name__ == "__main__":
    role, name, where, *rest = sys.argv[1:]
    ROLES[role](SYSTEMS[name], Path(where), *rest)
