"""`python -m benchmarks.torture`: workers, producers and waiters of one store, killed at random moments.

Four worker processes, two of them under a supervisor, run tasks of many kinds while others put and wait. About five
times a second one of them all gets SIGKILL, or SIGSTOP and later SIGCONT, and is replaced. Then nobody is killed any
more, everything comes to rest, and what every process has noted is held against what the store says. Ends with status
1 if anything was lost, doubled or mixed up, is stuck, or has ended otherwise than it should.

Linux only: it finds the processes in /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.process import ROOT
from benchmarks.tasks import notes
from benchmarks.tasks.base import VARIABLE
from eventq import App, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORKER = ["eventq", "worker", "benchmarks.tasks.tortured:app", "--log-level", "warning", "--json"]
SUPERVISOR = [*WORKER, "--processes", "2"]
START = ("worker", "worker", "supervisor", "producer", "producer", "waiter", "waiter")
VICTIMS = {"worker": 30, "supervised": 10, "supervisor": 10, "producer": 20, "waiter": 15, "apart": 15}
"""How often each role is chosen. A supervisor lets one that dies again and again wait, so its own are spared a bit."""
PAUSE = (0.1, 0.3)
"""Seconds between two attacks."""
STOPPED = (0.05, 0.8)
"""Seconds that a stopped process stays so."""
KILLS = 0.7
"""The share of the attacks that kill."""
QUEUES = ("default", "slow")
BUSY = 0.8
"""The share of the attacks that spare those which have only just started."""
MAX_CRASHES = 100_000
"""Whatever runs beside a victim dies with it, and what starts slowly dies often: at this rate innocents have soon
crashed as often as poison, and a dead letter would not be a fault of anybody's."""
SETTLE = 120.0
"""Seconds after the last kill within which everything has come to rest."""
SHOWN = 50
"""Faults that are printed."""
END = 30.0
"""Seconds within which a process ends that was told to."""


@dataclass
class Report:
    """What came of a run."""

    seed: int
    seconds: float
    tasks: int = 0
    """Events that were acknowledged."""
    runs: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    stops: int = 0
    recovered: int = 0
    """Events that ended well after a worker had died with them."""
    waiters: int = 0
    """Waits that were answered; those of killed processes are not."""
    rest: float = 0.0
    """Seconds until everything had come to rest."""
    faults: list[str] = field(default_factory=list)

    def count(self, word: str) -> int:
        return sum(fault.startswith(word) for fault in self.faults)

    def lines(self) -> list[str]:
        kills = ", ".join(f"{count} {role}" for role, count in sorted(self.kills.items()))
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.kinds.items()))
        return [
            f"seed {self.seed}, {self.seconds:g} s",
            f"tasks      {self.tasks:,} in {self.runs:,} runs ({kinds})",
            f"kills      {sum(self.kills.values()):,} ({kills}), and {self.stops:,} stopped for a while",
            f"recovered  {self.recovered:,}; at rest {self.rest:.1f} s after the last attack",
            f"waiters    {self.waiters:,} answered",
            f"lost {self.count('lost')}, doubled {self.count('doubled')}, stuck {self.count('stuck')}",
            f"faults {len(self.faults)}",
        ]


class Torture:
    """One run in a folder of its own."""

    def __init__(self, folder: Path, seconds: float, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.report = Report(seed, seconds)
        self.ledger = notes.Ledger()
        self._environment = {**os.environ, VARIABLE: str(folder), "PYTHONPATH": str(ROOT)}
        self._log = folder / "workers.log"
        self._commands: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
        self._forks: dict[int, str] = {}
        self._asleep: dict[int, float] = {}
        """Stopped processes, and when they go on."""
        self._serial = 0

    def run(self) -> Report:
        (self.folder / notes.FOLDER).mkdir()
        with App(self.folder / "store", sync=False) as app:
            for name in QUEUES:
                app.queue(name, max_crashes=MAX_CRASHES)
        os.environ[VARIABLE] = str(self.folder)  # for the forks
        try:
            for role in START:
                self._start(role)
            self._attack(time.monotonic() + self.report.seconds)
            self._come_to_rest()
        finally:
            self._end_all()
        return self.report

    # ------------------------------------------------------------------ processes

    def _start(self, role: str) -> None:
        self._serial += 1
        if role in ("worker", "supervisor"):
            command = [sys.executable, "-m", *(WORKER if role == "worker" else SUPERVISOR)]
            with self._log.open("ab") as log:
                process = subprocess.Popen(
                    command, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, stderr=log,
                )  # fmt: skip
            self._commands[process.pid] = role, process
            return
        pid = os.fork()  # starting Python anew takes longer than most of them live
        if pid == 0:
            from benchmarks.tasks.tormented import play

            play(role, f"{role}{self._serial}.{self.report.seed}")
        self._forks[pid] = role

    def _reap(self) -> list[str]:
        """The roles of those that have ended since; it is a fault unless they were killed."""
        ended = []
        for pid, (role, process) in list(self._commands.items()):
            if (code := process.poll()) is not None:
                del self._commands[pid]
                ended.append((pid, role, code))
        for pid, role in list(self._forks.items()):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                del self._forks[pid]
                ended.append((pid, role, os.waitstatus_to_exitcode(status)))
        for pid, role, code in ended:
            if pid not in self.ledger.killed and (code or not self._stopping):
                self.report.faults.append(f"ended: {role} {pid} by itself, with code {code}")
        return [role for _, role, _ in ended]

    @property
    def _stopping(self) -> bool:
        return (self.folder / "stop").exists()

    def _processes(self) -> dict[str, list[int]]:
        """The living processes by role, those included that were started by workers and supervisors."""
        found: dict[str, list[int]] = {}
        for pid, role in self._forks.items():
            found.setdefault(role, []).append(pid)
        for pid, role in descendants(self.folder).items():
            found.setdefault(role, []).append(pid)
        return found

    # ------------------------------------------------------------------ attacks

    def _attack(self, until: float) -> None:
        while (now := time.monotonic()) < until:
            for role in self._reap():
                self._start(role)
            self._wake(now)
            victims = self._processes()
            roles = [role for role in VICTIMS if victims.get(role)]
            if roles:
                role = self.chance.choices(roles, [VICTIMS[role] for role in roles])[0]
                self._strike(role, self._chosen(victims[role]), now)
            time.sleep(self.chance.uniform(*PAUSE))
        self._wake(float("inf"))

    def _chosen(self, pids: list[int]) -> int:
        """One of them; mostly of those that have done something, for on a busy machine many have not yet."""
        busy = [pid for pid in pids if (self.folder / notes.FOLDER / str(pid)).exists()]
        return self.chance.choice(sorted(busy if busy and self.chance.random() < BUSY else pids))

    def _hang_up(self) -> None:
        """With a supervisor die those of its workers that are stopped, or have a stopped child: the kernel hangs up on
        process groups that it leaves as orphans, if any process of theirs is stopped."""
        for pid in self._asleep:
            with contextlib.suppress(ProcessLookupError):
                self.ledger.killed.update((pid, os.getpgid(pid)))

    def _strike(self, role: str, pid: int, now: float) -> None:
        if self.chance.random() < KILLS:
            self.ledger.killed.add(pid)  # first: what it notes from here on is the word of a dead one
            if role == "supervisor":
                self._hang_up()
            if send(pid, signal.SIGKILL):
                self.report.kills[role] = self.report.kills.get(role, 0) + 1
            self._asleep.pop(pid, None)
        elif send(pid, signal.SIGSTOP):
            self.report.stops += 1
            self._asleep[pid] = now + self.chance.uniform(*STOPPED)

    def _wake(self, now: float) -> None:
        for pid, at in list(self._asleep.items()):
            if at <= now:
                del self._asleep[pid]
                send(pid, signal.SIGCONT)

    # ------------------------------------------------------------------ the end

    def _come_to_rest(self) -> None:
        """Let producers and waiters end, the workers do what is left, and look at what is there then."""
        began = time.monotonic()
        for role in self._reap():
            if role in ("worker", "supervisor"):
                self._start(role)
        (self.folder / "stop").touch()
        if not self._until(lambda: "producer" not in self._forks.values(), END):
            self.report.faults.append("stuck: a producer does not end")
        from benchmarks.tasks.tortured import app  # no fork follows

        if not self._until(lambda: open_events(app) == 0, SETTLE):
            self.report.faults.append(f"stuck: {open_events(app)} events are open {SETTLE:.0f} s after the last attack")
        self.report.rest = time.monotonic() - began
        if not self._until(lambda: not self._forks, END):
            self.report.faults.append("stuck: a waiter does not end")
        for _, process in self._commands.values():
            process.terminate()
        if not self._until(lambda: not self._commands and not descendants(self.folder), END):
            self.report.faults.append(f"stuck: processes that do not end: {descendants(self.folder)}")
        self._judge(app)

    def _until(self, fact: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not fact():
            if time.monotonic() > end:
                return False
            self._reap()
            time.sleep(0.05)
        return True

    def _judge(self, app: App) -> None:
        report, ledger = self.report, self.ledger
        app.store.storage.recover()
        others = [worker.id for worker in app.store.storage.workers() if worker.pid != os.getpid()]
        report.faults += [f"stuck: worker {id} is in the store, and dead" for id in others]
        ledger.read(self.folder)
        kept = records(app)
        app.close()
        report.faults += ledger.faults(kept, places=2) + complaints(self._log) + fsck(self.folder / "store")
        report.tasks = sum(bool(event.put_as) for event in ledger.events.values())
        report.runs = sum(len(event.runs) for event in ledger.events.values())
        report.kinds = dict(Counter(event.kind for event in ledger.events.values()))
        report.recovered = sum(record.crashes > 0 and record.state == "completed" for record in kept)
        report.waiters = len(ledger.outcomes)

    def _end_all(self) -> None:
        """Leave nobody behind, whatever has happened."""
        for pid in [*self._forks, *self._commands, *descendants(self.folder)]:
            send(pid, signal.SIGKILL)
        for _, process in self._commands.values():
            process.wait()
        for pid in self._forks:
            os.waitpid(pid, 0)


def send(pid: int, number: signal.Signals) -> bool:
    """Signal a process; False if it has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def descendants(folder: Path) -> dict[int, str]:
    """The processes that have the folder in their environment, and their roles."""
    mark, found = f"{VARIABLE}={folder}".encode(), {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended, or is another user's
            continue
        if mark in environment:
            found[int(entry.name)] = role_of(command, environment)
    return found


def role_of(command: bytes, environment: list[bytes]) -> str:
    if b"multiprocessing" in command:
        return "apart" if b"forkserver" in command else "tracker"
    if b"--processes" in command:
        return "supervisor"
    return "supervised" if any(line.startswith(b"EVENTQ_SUPERVISOR=") for line in environment) else "worker"


# ---------------------------------------------------------------- what the store says


def open_events(app: App) -> int:
    """How many events have not ended."""
    stats = [app.queue(name).stats() for name in QUEUES]
    return sum(each.ready + each.delayed + each.claimed for each in stats)


def records(app: App) -> list[notes.Kept]:
    """All records there are."""
    found = []
    for queue in map(app.queue, QUEUES):
        for state in State:
            cursor: str | None = None
            while True:
                page = queue.scan(state, cursor=cursor, limit=500)
                found += [kept(record) for record in page.records]
                if (cursor := page.cursor) is None:
                    break
    return found


def kept(record: Any) -> notes.Kept:
    return notes.Kept(
        record.id,
        record.state.value,
        record.crashes,
        record.failures,
        sum(attempt.outcome == "released" for attempt in record.attempts),
        None if record.value is None else json.loads(record.value),
        "" if record.failure is None else record.failure.message,
    )


def complaints(log: Path) -> list[str]:
    """What the workers have logged that is no part of the game: errors, and whatever is no line of JSON."""
    found = []
    for line in log.read_text("utf-8", errors="replace").splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            found.append(f"logged: {line}")
            continue
        game = said["level"] == "warning" or "is a dead letter" in said["message"]
        if not game or "traceback" in said or "was lost" in said["message"]:
            found.append(f"logged: {line}")
    return found


def fsck(store: Path) -> list[str]:
    command = [sys.executable, "-m", "eventq", "--store", str(store), "fsck"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return [] if done.returncode == 0 else [f"fsck: {line}" for line in (done.stdout + done.stderr).splitlines()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they are attacked (60)")
    parser.add_argument("--dir", type=Path, help="an existing folder to work in: a new one below it, kept on a fault")
    parser.add_argument("--seed", type=int, default=1, help="of what is chosen at random; not of when it happens (1)")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nobody is left behind
    folder = Path(tempfile.mkdtemp(prefix="eventq-torture-", dir=options.dir)).resolve()
    report = None
    try:
        report = Torture(folder, options.seconds, options.seed).run()
    finally:
        if report is None or not report.faults:
            shutil.rmtree(folder)
    print("\n".join(report.faults[:SHOWN] + report.lines()))
    if report.faults:
        print(f"kept: {folder}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
