"""`python -m benchmarks.torture`: workers, producers and waiters of one store, killed at random moments.

Four worker processes, two of them under a supervisor, run tasks of many kinds while others put and wait. About five
times a second one of them all gets SIGKILL, or SIGSTOP and later SIGCONT, and is replaced. Then nobody is killed any
more, everything comes to rest, and what every process has noted is held against what the store says. Ends with status
1 if anything was lost, doubled or mixed up, is stuck, or has ended otherwise than it should.

The store is files unless `--store` names another, by a URL. With `--server-kills` it is on a private server that is
killed, too, and started again.

Linux only: it finds the processes in /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
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

from benchmarks import stores
from benchmarks.process import ROOT
from benchmarks.tasks import notes
from benchmarks.tasks.app import open_app
from benchmarks.tasks.base import STORE, VARIABLE
from eventq import ConfigError, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.server import Server
    from eventq import App

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
FIRST = (2.0, 4.0)
SERVER_PAUSE = (8.0, 12.0)
"""Seconds until the server is killed for the first time; from one time to the next."""
AWAY = (0.0, 2.0)
"""Seconds that it stays away before it is started again."""
SETTLE = 120.0
"""Seconds after the last kill within which everything has come to rest."""
SHOWN = 50
"""Faults that are printed."""
END = 30.0
"""Seconds within which a process ends that was told to."""
LOST_EVENT = re.compile("event .* was lost")
"""A warning that is none of the game: a claim that was another's when its holder wanted to end it."""
ORPHANED = re.compile(
    r"^Traceback .*\n  File \"<string>\".*\n(?:  .*\n)*?  File .*forkserver\.py\", .* in main\n(?:  .*\n)*EOFError\n",
    re.MULTILINE,
)
"""What Python's fork server prints, and nobody can keep it from that, if its worker is killed while it asks for a
child."""


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
    server_kills: int = 0
    recovered: int = 0
    """Events that ended well after a worker had died with them."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds until they were begun again, of those that no others stand before; sorted."""
    waiters: int = 0
    """Waits that were answered; those of killed processes are not."""
    rest: float = 0.0
    """Seconds until everything had come to rest."""
    faults: list[str] = field(default_factory=list)

    def count(self, word: str) -> int:
        return sum(fault.startswith(word) for fault in self.faults)

    def lines(self) -> list[str]:
        times = self.recoveries
        again = f", begun again after {times[len(times) // 2]:.2f} s, at worst {times[-1]:.2f} s" if times else ""
        server = f", the server killed {self.server_kills} times" if self.server_kills else ""
        kills = ", ".join(f"{count} {role}" for role, count in sorted(self.kills.items()))
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.kinds.items()))
        return [
            f"seed {self.seed}, {self.seconds:g} s",
            f"tasks      {self.tasks:,} in {self.runs:,} runs ({kinds})",
            f"kills      {sum(self.kills.values()):,} ({kills}), {self.stops:,} stopped for a while{server}",
            f"recovered  {self.recovered:,}{again}",
            f"at rest    {self.rest:.1f} s after the last attack",
            f"waiters    {self.waiters:,} answered",
            f"lost {self.count('lost')}, doubled {self.count('doubled')}, stuck {self.count('stuck')}",
            f"faults {len(self.faults)}",
        ]


class Torture:
    """One run in a folder of its own."""

    def __init__(
        self, folder: Path, seconds: float, seed: int, place: stores.Place, server: Server | None = None
    ) -> None:
        """A server is killed as well; it is running, and is what the store is on."""
        self.folder = folder
        self.place = place
        self.chance = random.Random(seed)
        self.report = Report(seed, seconds)
        self.ledger = notes.Ledger()
        self._marks = {VARIABLE: str(folder), STORE: place.url}
        self._environment = {**os.environ, **self._marks, "PYTHONPATH": str(ROOT)}
        self._log = folder / "workers.log"
        self._commands: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
        self._forks: dict[int, str] = {}
        self._asleep: dict[int, float] = {}
        """Stopped processes, and when they go on."""
        self._serial = 0
        self._server = server
        self._server_turn = 0.0
        """When the server is killed, or started again."""
        self._server_away = False

    def run(self) -> Report:
        (self.folder / notes.FOLDER).mkdir()
        os.environ.update(self._marks)  # for the forks
        self.place.make()
        with open_app(self.folder) as app:
            for name in QUEUES:
                app.queue(name, max_crashes=MAX_CRASHES)
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
        self._server_turn = time.monotonic() + self.chance.uniform(*FIRST)
        while (now := time.monotonic()) < until:
            for role in self._reap():
                self._start(role)
            self._wake(now)
            if self._server is not None and self._server_turn <= now:
                self._strike_server(self._server, now)
            victims = self._processes()
            roles = [role for role in VICTIMS if victims.get(role)]
            if roles:
                role = self.chance.choices(roles, [VICTIMS[role] for role in roles])[0]
                self._strike(role, self._chosen(victims[role]), now)
            time.sleep(self.chance.uniform(*PAUSE))
        self._wake(float("inf"))
        if self._server is not None and self._server_away:
            self._server.start()

    def _strike_server(self, server: Server, now: float) -> None:
        """Kill the server; or start it again, and wait for nothing: the others have to."""
        self._server_away = not self._server_away
        if self._server_away:
            server.kill()
            self.report.server_kills += 1
        else:
            server.start()
        self._server_turn = now + self.chance.uniform(*(AWAY if self._server_away else SERVER_PAUSE))

    def _chosen(self, pids: list[int]) -> int:
        """One of them; mostly of those that have done something, for on a busy machine many have not yet."""
        busy = [pid for pid in pids if (self.folder / notes.FOLDER / str(pid)).exists()]
        return self.chance.choice(sorted(busy if busy and self.chance.random() < BUSY else pids))

    def _hang_up(self) -> None:
        """With a supervisor die those of its workers that are stopped, or have a stopped child: the kernel hangs up on
        process groups that it leaves as orphans, if any process of theirs is stopped."""
        for pid in self._asleep:
            with contextlib.suppress(ProcessLookupError):
                self.ledger.killed.update(dict.fromkeys((pid, os.getpgid(pid)), time.monotonic_ns()))

    def _strike(self, role: str, pid: int, now: float) -> None:
        if self.chance.random() < KILLS:
            self.ledger.killed[pid] = time.monotonic_ns()  # first: what it notes from here on is the word of a dead one
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
        self._until(lambda: all(map(listens, self._commands)), END)  # one that has only just started would die of it
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
        buried = self.place.buried if self._server is None else stores.AFTER_SILENCE
        self._until(lambda: not others(app), buried)
        report.faults += [f"stuck: worker {id} is in the store, and dead" for id in others(app)]
        ledger.read(self.folder)
        kept = records(app)
        app.close()
        report.faults += ledger.faults(kept, places=2) + complaints(self._log) + self.place.faults()
        report.tasks = sum(bool(event.put_as) for event in ledger.events.values())
        report.runs = sum(len(event.runs) for event in ledger.events.values())
        report.kinds = dict(Counter(event.kind for event in ledger.events.values()))
        report.recovered = sum(record.crashes > 0 and record.state == "completed" for record in kept)
        report.recoveries = ledger.recoveries()
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


def listens(pid: int) -> bool:
    """Whether a process catches SIGTERM, as a worker does once it has started; or has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    caught = re.search(r"^SigCgt:\t(\w+)$", status, re.MULTILINE)
    return caught is not None and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1 == 1


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


def others(app: App) -> list[str]:
    """The workers that are in the store beside this process."""
    app.store.storage.recover()
    return [worker.id for worker in app.store.storage.workers() if worker.pid != os.getpid()]


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
    found, bare = [], ""
    for line in log.read_text("utf-8", errors="replace").splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            bare += line + "\n"
            continue
        game = said["level"] == "warning" or "is a dead letter" in said["message"]
        if not game or "traceback" in said or LOST_EVENT.match(said["message"]):
            found.append(f"logged: {line}")
    return found + [f"logged: {line}" for line in ORPHANED.sub("", bare).splitlines()]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they are attacked (60)")
    parser.add_argument("--dir", type=Path, help="an existing folder to work in: a new one below it, kept on a fault")
    parser.add_argument("--seed", type=int, default=1, help="of what is chosen at random; not of when it happens (1)")
    parser.add_argument(
        "--store",
        metavar="URL",
        default="store",
        help="a path or sqlite:///path, which is below the new folder unless it is absolute, and new; or redis://..."
        " or postgresql://..., where a namespace of its own is made and removed (files)",
    )
    parser.add_argument(
        "--server-kills",
        action="store_true",
        help="put the store on a private server, and kill that about every ten seconds; of the URL, only its kind"
        " (redis:// or postgresql://) and its options count",
    )
    return parser.parse_args(argv)


def tortured(options: argparse.Namespace, folder: Path) -> tuple[Report, stores.Place]:
    """A run in a folder, and where its store was: it is kept if there are faults."""
    with contextlib.ExitStack() as stack:
        server, report = None, None
        if options.server_kills:
            place, server = stack.enter_context(stores.with_server(options.store, folder / "server"))
        else:
            place = stores.place(options.store, folder)
        try:
            report = Torture(folder, options.seconds, options.seed, place, server).run()
        finally:
            if report is None or not report.faults:
                place.remove()
        return report, place


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nobody is left behind
    folder = Path(tempfile.mkdtemp(prefix="eventq-torture-", dir=options.dir)).resolve()
    report = None
    try:
        report, place = tortured(options, folder)
    except ConfigError as error:
        print(f"torture: {error}", file=sys.stderr)
        return 2
    finally:
        if report is None or not report.faults:
            shutil.rmtree(folder)
    print("\n".join(report.faults[:SHOWN] + report.lines()))
    if report.faults:
        print(f"kept: {folder}, and the store {place.shown}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
