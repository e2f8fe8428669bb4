"""What the processes of the torture note while they live, and what can be told from it once they are dead."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FOLDER = "notes"

AT_ONCE = frozenset({"quick", "bare", "slow", "on_loop"})
"""Kinds of tasks that wait for nothing but a worker."""
FAIL_BY_THEMSELVES = frozenset({"flaky", "doomed", "apart"})
"""Kinds of tasks that run again though no worker died."""


def value_of(kind: str, number: str) -> str:
    """What a task returns."""
    return f"{kind} {number}"


class Notes:
    """Writes lines into a file of this process, each with one call: what is written outlives a kill -9.

    `try kind number priority`, `put id kind number`: before an event is enqueued, and once that has returned.
    `begin id attempt kind number`, `end id attempt`: a run. `wait name id`, `got name id outcome`: a waiter.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._opened: tuple[int, int] = (0, -1)

    def __call__(self, *words: object) -> None:
        pid, file = self._opened
        if pid != os.getpid():  # the first note of this process, which may be a fork
            pid = os.getpid()
            file = os.open(self._folder / str(pid), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._opened = pid, file
        line = " ".join(map(str, (time.monotonic_ns(), *words)))
        os.write(file, line.encode() + b"\n")


@dataclass(frozen=True)
class Run:
    pid: int
    attempt: int
    begun: int
    """Monotonic nanoseconds; likewise its end."""


@dataclass
class Event:
    """What was noted of one event."""

    id: str
    kind: str = ""
    number: str = ""
    """As its runs say."""
    put_as: set[str] = field(default_factory=set)
    """The numbers for which an enqueue returned this event."""
    runs: list[Run] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    """When which attempt ended."""

    @property
    def span(self) -> tuple[int, int]:
        """From the begin of its first run to the end of its last."""
        return min(run.begun for run in self.runs), max(self.ends.values(), default=self.runs[0].begun)


@dataclass(frozen=True)
class Kept:
    """What the store says of an event in the end."""

    id: str
    state: str
    crashes: int = 0
    failures: int = 0
    released: int = 0
    value: str | None = None
    why: str = ""


@dataclass
class Ledger:
    """All notes, and who was killed when (monotonic nanoseconds)."""

    killed: dict[int, int] = field(default_factory=dict)
    events: dict[str, Event] = field(default_factory=dict)
    tried: set[tuple[str, str]] = field(default_factory=set)
    urgent: set[tuple[str, str]] = field(default_factory=set)
    """Of these, what stands before all others."""
    waits: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Of each wait the process and the event."""
    outcomes: dict[str, str] = field(default_factory=dict)

    def read(self, folder: Path) -> None:
        for path in sorted((folder / FOLDER).iterdir()):
            for line in path.read_text("utf-8").split("\n")[:-1]:
                at, word, *rest = line.split(" ")
                self.add(int(path.name), int(at), word, rest)

    def add(self, pid: int, at: int, word: str, rest: list[str]) -> None:
        """One note."""
        if word == "try":
            self.tried.add((rest[0], rest[1]))
            if int(rest[2]) > 0:
                self.urgent.add((rest[0], rest[1]))
        elif word == "wait":
            self.waits[rest[0]] = pid, rest[1]
        elif word == "got":
            self.outcomes[rest[0]] = " ".join(rest[2:])
        else:
            event = self.events.setdefault(rest[0], Event(rest[0]))
            if word == "put":
                event.kind = rest[1]
                event.put_as.add(rest[2])
            elif word == "begin":
                event.kind, event.number = rest[2], rest[3]
                event.runs.append(Run(pid, int(rest[1]), at))
            else:
                event.ends[int(rest[1])] = at

    def recoveries(self) -> list[float]:
        """Seconds from the kill of a process until an urgent task that it ran was begun again, by another."""
        found = []
        for event in self.events.values():
            if event.kind not in AT_ONCE or (event.kind, event.number) not in self.urgent:
                continue
            for run, after in pairwise(sorted(event.runs, key=lambda run: run.attempt)):
                if (killed := self.killed.get(run.pid)) is not None:
                    found.append(max(0, after.begun - killed) / 1e9)
        return sorted(found)

    # ------------------------------------------------------------------ what is wrong

    def faults(self, kept: Iterable[Kept], places: int) -> list[str]:
        """Everything that must not be, once all has come to rest; `places` is how many `limited` ones may overlap."""
        records: dict[str, Kept] = {}
        found = []
        for record in kept:
            if (twice := records.get(record.id)) is not None:
                found.append(f"doubled: event {record.id} is both {twice.state} and {record.state}")
            records[record.id] = record
        for event in self.events.values():
            found += self._faults_of(event, records.get(event.id))
        found += [f"unexpected: event {id} was never put or run" for id in records if id not in self.events]
        return [*found, *self._broken_chains(), *self._overlapping(places), *self._faults_of_waiters()]

    def _faults_of(self, event: Event, record: Kept | None) -> Iterator[str]:
        about = f"{event.kind} event {event.id} ({event.number or ', '.join(sorted(event.put_as))})"
        if record is not None and record.state in ("ready", "delayed", "claimed"):
            yield f"stuck: {about} is {record.state}"
            return
        yield from self._repeated(event, record, about)
        if event.number and (event.kind, event.number) not in self.tried:
            yield f"unexpected: {about} ran and was never put"
        if event.kind != "keyed" and event.number and event.put_as - {event.number}:
            yield f"mixed up: {about} was put as {sorted(event.put_as)}"
        if event.kind == "doomed":
            if record is None or record.state != "dead" or not event.runs:
                yield f"lost: {about} is no dead letter but {record}"
        elif not event.ends:
            yield f"lost: {about} never ran to its end: {record}"
        elif event.kind == "bare":
            if record is not None:
                yield f"doubled: {about} has ended, and there is {record}"
        elif record is None or record.state != "completed":
            yield f"lost: {about} ran and is not completed but {record}"
        elif record.value != value_of(event.kind, event.number):
            yield f"mixed up: {about} was completed with {record.value!r}"

    def _repeated(self, event: Event, record: Kept | None, about: str) -> Iterator[str]:
        """Runs that have no reason: every attempt is begun once, and another one only if its process was killed."""
        released = record.released if record is not None else 0
        for attempt, times in Counter(run.attempt for run in event.runs).items():
            if times > 1 + released:
                yield f"doubled: attempt {attempt} of {about} began {times} times"
        last = max((run.attempt for run in event.runs), default=0)
        if event.kind in FAIL_BY_THEMSELVES:
            if record is not None and not record.crashes and len(event.runs) > record.failures + 1 + released:
                yield f"doubled: {about} ran {len(event.runs)} times, and no worker died"
            return
        if record is not None and not record.crashes and len(event.runs) > 1 + released:
            yield f"doubled: {about} ran {len(event.runs)} times without a crash"
        for run in event.runs:
            if run.attempt < last and run.pid not in self.killed:
                yield f"doubled: attempt {run.attempt} of {about} ran in process {run.pid}, which lives, and not last"

    def _broken_chains(self) -> Iterator[str]:
        ended = {event.number for event in self.events.values() if event.kind == "chain" and event.ends}
        for number in sorted(ended):
            name, _, left = number.partition("/")
            if int(left) and f"{name}/{int(left) - 1}" not in ended:
                yield f"lost: chain {name} ended {left} before its end"

    def _overlapping(self, places: int) -> Iterator[str]:
        """Two events with one key that were open at once; more runs of `limited` at once than there are places."""
        spans = defaultdict(list)
        steps = []
        for event in self.events.values():
            if event.kind == "keyed" and event.runs:
                spans[event.number.partition(":")[0]].append((*event.span, event.id))
            if event.kind == "limited":
                for run in event.runs:
                    if run.attempt in event.ends:
                        steps += [(run.begun, 1), (event.ends[run.attempt], -1)]
        for key, taken in spans.items():
            ordered = sorted(taken)
            for (_, ended, first), (begun, _, second) in pairwise(ordered):
                if begun < ended:
                    yield f"doubled: key {key} was held by {first} when {second} ran"
        running = most = 0
        for _, step in sorted(steps):
            running += step
            most = max(most, running)
        if most > places:
            yield f"doubled: {most} of the limited tasks ran at once, in {places} places"

    def _faults_of_waiters(self) -> Iterator[str]:
        for name, (pid, id) in self.waits.items():
            outcome, event = self.outcomes.get(name), self.events.get(id)
            if outcome is None:
                if pid not in self.killed:
                    yield f"stuck: waiter {name} of event {id} heard nothing"
            elif event is None:
                yield f"unexpected: waiter {name} was told {outcome!r} of event {id}, which never ran"
            elif outcome != self.due(event):
                yield f"mixed up: waiter {name} was told {outcome!r} of {event.kind} event {id} ({event.number})"

    def due(self, event: Event) -> str:
        """What a waiter of an event is told: the value, or the name of the error."""
        errors = {"doomed": "TaskFailed", "bare": "ResultMissing"}
        return errors.get(event.kind) or "value " + value_of(event.kind, event.number)
