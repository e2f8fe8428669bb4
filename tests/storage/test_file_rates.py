"""Rates in files: the log of starts, who waits in `blocked/`, and four processes that share a rate."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventq.clock import SYSTEM
from eventq.errors import StorageError
from eventq.model import MAX_PLACES, Completed, Filter, PutOptions, State
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.file import FileStorage, disk, fsck, rates
from eventq.storage.file.layout import BLOCKED_FILE, NEVER, digest
from eventq.storage.file.rates import TRIM_AT, WIDTH, Log, Share, rate_share, rate_slot, share_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.storage.base import Watch
    from eventq.testing import FakeClock


def put(worker: FileStorage, *payloads: bytes, **options: Any) -> list[str]:
    return worker.put("q", list(payloads), PutOptions(**options))


def look(clock: FakeClock, worker: FileStorage) -> None:
    clock.advance(LOOK_INTERVAL)
    worker.recover()


def blocked(root: Path) -> list[Path]:
    return sorted((root / "queues/q/blocked").glob("*/*"))


def log_of(root: Path, name: str) -> Path:
    return root / "rates" / digest(rate_slot(name))


def test_the_log_tells_the_longest_time_and_each_start(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock
) -> None:
    worker = open_worker()
    start = clock.now()
    put(worker, b"1", b"2", rates={"r": (3, 60.0)})
    put(worker, b"3", rates={"r": (9, 0.25)})
    worker.claim("q", 2)
    clock.advance(1.5)
    worker.claim("q", 9)
    assert log_of(root, "r").read_text() == "".join(f"{time:018.7f}\n" for time in (60, start, start, start + 1.5))
    assert fsck.check(str(root)) == []


def test_the_name_of_who_waits_says_how_many_within_which_time(
    open_worker: Callable[[], FileStorage], root: Path
) -> None:
    worker = open_worker()
    put(worker, b"1", b"2", rates={"r": (1, 60.0)})
    worker.claim("q", 9)
    (path,) = blocked(root)
    match = BLOCKED_FILE.match(path.name)
    assert match is not None
    assert match.groups()[:3] == ("1-df8475800", NEVER, "0")
    assert path.parent.name == digest(rate_slot("r"))
    assert share_of(match[1]) == Share(1, 60.0)
    assert fsck.check(str(root)) == []


@pytest.mark.parametrize("seconds", [1e-9, 1 / 3, 0.1, 60.0, 86400.7, 1e10])
def test_a_share_is_the_same_in_a_name_and_in_hand(seconds: float) -> None:
    share = rate_share(10, seconds)
    assert share_of(share.text()) == share
    assert share.seconds == pytest.approx(seconds, abs=2e-9)


def test_nothing_is_held_while_an_event_runs(open_worker: Callable[[], FileStorage], root: Path) -> None:
    worker = open_worker()
    put(worker, b"1", rates={"r": (1, 60.0)})
    worker.claim("q")
    with log_of(root, "r").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_log_that_a_stopped_process_holds_stops_nobody_else(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock
) -> None:
    """Its events wait, and are tried at each look; those of other names go on; nobody spins."""
    worker = open_worker()
    put(worker, b"1", rates={"r": (5, 60.0)})
    worker.claim("q")
    put(worker, b"2", b"3", rates={"r": (5, 60.0)})
    put(worker, b"4", rates={"s": (5, 60.0)})
    with log_of(root, "r").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [claimed.payload for claimed in worker.claim("q", 9)] == [b"4"]
        assert 0 < worker.recover() <= LOOK_INTERVAL
        look(clock, worker)
        assert worker.claim("q", 9) == []
    look(clock, worker)
    look(clock, worker)
    assert [claimed.payload for claimed in worker.claim("q", 9)] == [b"2", b"3"]


@pytest.mark.parametrize("damage", [b"", b"x", b"\0" * 500, b"nonsense\n" * 40, b"0000000060.0000000\n17000"])
def test_a_damaged_log_holds_nobody_up(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock, damage: bytes
) -> None:
    worker = open_worker()
    put(worker, *(b"%d" % number for number in range(5)), rates={"r": (2, 60.0)})
    assert len(worker.claim("q", 9)) == 2
    log_of(root, "r").write_bytes(damage)
    look(clock, worker)
    assert len(worker.claim("q", 9)) == 2
    assert worker.claim("q", 9) == []
    clock.advance(60.0)
    worker.recover()
    assert len(worker.claim("q", 9)) == 1


def test_what_could_not_be_started_does_not_count(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = open_worker()
    put(worker, b"1", b"2", rates={"r": (2, 60.0)}, limits={"c": 1})
    (first,) = worker.claim("q")
    worker.settle(first, Completed())
    before = log_of(root, "r").read_bytes()
    real = disk.pwrite

    def fail(fd: int, data: bytes, at: int) -> int:
        if b'"started"' in data:
            raise OSError(errno.EIO, "no")
        return real(fd, data, at)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "pwrite", fail)
        with pytest.raises(StorageError, match="no"):
            worker.claim("q")
    assert log_of(root, "r").read_bytes() == before
    assert [claimed.payload for claimed in worker.claim("q")] == [b"2"]


def test_a_start_counts_from_when_it_was_recorded(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its worker was stopped for a while between counting it and recording it."""
    worker = open_worker()
    put(worker, b"1", b"2", rates={"r": (1, 60.0)})
    real = Log.add

    def slow(log: Log, now: float, seconds: float) -> None:
        real(log, now, seconds)
        clock.advance(5.0)

    monkeypatch.setattr(Log, "add", slow)
    (claimed,) = worker.claim("q")
    record = worker.get(claimed.id)
    assert record is not None
    assert float(log_of(root, "r").read_text().split()[-1]) == record.attempts[0].started
    clock.advance(59.0)
    worker.recover()
    assert worker.claim("q") == []
    clock.advance(1.0)
    worker.recover()
    assert len(worker.claim("q")) == 1


def test_a_power_cut_forgets_a_log_and_nothing_else(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock
) -> None:
    worker = open_worker()
    put(worker, b"1", b"2", rates={"r": (1, 60.0)})
    worker.claim("q", 9)
    log_of(root, "r").unlink()
    look(clock, worker)
    assert [claimed.payload for claimed in worker.claim("q", 9)] == [b"2"]


# ---------------------------------------------------------------- its size


def a_log(tmp_path: Path, times: list[float]) -> Log:
    path = tmp_path / "log"
    path.write_bytes(b"".join(map(rates.time_line, [60.0, *times])))
    return Log(os.open(path, os.O_RDWR))


@pytest.mark.parametrize(("age", "kept"), [(100.0, TRIM_AT // 2), (0.0, TRIM_AT)])
def test_the_older_half_of_a_long_log_goes_once_it_does_not_count(tmp_path: Path, age: float, kept: int) -> None:
    times = [1e9 + number / 1000 for number in range(TRIM_AT - 1)]
    log = a_log(tmp_path, times)
    log.add(1e9 + age + 1, 60.0)
    log.confirm(1e9 + age + 2)
    assert log.count == kept
    assert [log.start(index) for index in range(kept)] == [*times, 1e9 + age + 2][-kept:]
    assert disk.fstat(log.fd).st_size == (1 + kept) * WIDTH
    disk.close(log.fd)


def test_a_log_has_an_end_whatever_counts(tmp_path: Path) -> None:
    times = [1e9 + number / 1000 for number in range(20 * TRIM_AT - 1)]
    log = a_log(tmp_path, times)
    log.add(1e9 + 30, 60.0)
    log.confirm(1e9 + 30)
    assert log.count == 10 * TRIM_AT >= MAX_PLACES
    assert log.room(Share(MAX_PLACES, 60.0), 1e9 + 30) == 0
    disk.close(log.fd)


def test_logs_of_which_nothing_counts_are_removed(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "PRUNE_INTERVAL", 0.0)
    worker = open_worker()
    for number in range(200):
        put(worker, b"1", rates={f"customer:{number}": (3, 10.0)})
    put(worker, b"1", rates={"long": (3, 1000.0)})
    assert len(worker.claim("q", 999)) == 201
    for _ in range(9):
        look(clock, worker)
    assert len(os.listdir(root / "rates")) == 201
    clock.advance(10.0)
    for _ in range(9):
        look(clock, worker)
    assert os.listdir(root / "rates") == [log_of(root, "long").name]


def test_looking_at_a_rate_costs_the_same_however_many_wait(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = open_worker()
    for number in range(300):
        put(worker, b"%d" % number, rates={"r": (1, 10.0)})
        clock.advance(0.02)
    assert len(worker.claim("q", 9)) == 1
    assert len(blocked(root)) == 299
    listed: list[str] = []
    real = disk.listdir
    monkeypatch.setattr(disk, "listdir", lambda path: [listed.append(path), real(path)][1])  # type: ignore[func-returns-value]
    monkeypatch.setattr("eventq.storage.file.places.LISTING_SHARE", 1e6)
    for number in range(1, 50):
        clock.advance(10.0)
        worker.recover()
        assert [claimed.payload for claimed in worker.claim("q", 9)] == [b"%d" % number]
    assert len([path for path in listed if path.rstrip("/").endswith(digest(rate_slot("r")))]) <= 2


# ---------------------------------------------------------------- real time


def test_one_worker_keeps_the_pace(tmp_path: Path) -> None:
    """It comes when the time is there, not at the next look: 20 starts a second, though it looks four times."""
    with FileStorage(tmp_path / "store", sync=False) as worker:
        put(worker, *(b"%d" % number for number in range(11)), rates={"r": (1, 0.05)})
        began = SYSTEM.monotonic()
        starts: list[float] = []
        watch = worker.watch("q")
        while len(starts) < 11:
            if claimed := worker.claim("q"):
                starts.append(SYSTEM.now())
                worker.settle(claimed[0], Completed())
            else:
                wait(watch, worker.recover())
            assert SYSTEM.monotonic() < began + 20
        watch.close()
    assert all(later - earlier > 0.045 for earlier, later in pairwise(starts))
    assert starts[-1] - starts[0] < 2.0  # half a second, if nothing else runs; 2.5 by looks


def wait(watch: Watch, pause: float) -> None:
    if select.select([watch.fileno()], [], [], pause)[0]:
        watch.clear()


WORK = """
import json, select, sys
from eventq.clock import SYSTEM
from eventq.model import Completed
from eventq.storage.file import FileStorage

with FileStorage(sys.argv[1]) as worker:
    watches = [worker.watch(queue) for queue in ("a", "b")]
    starts, end = [], SYSTEM.monotonic() + float(sys.argv[2])
    print("ready", flush=True)
    while SYSTEM.monotonic() < end:
        claimed = worker.claim("a", 2) + worker.claim("b", 2)
        starts += [SYSTEM.now()] * len(claimed)
        for one in claimed:
            worker.settle(one, Completed(b"1"))
        if not claimed:
            for watch in select.select(watches, [], [], worker.recover())[0]:
                watch.clear()
    print(json.dumps(starts), flush=True)
"""


@pytest.mark.exhaustive
def test_four_processes_share_a_rate(tmp_path: Path) -> None:
    places, seconds, period = 20, 0.5, 3.0
    root = str(tmp_path / "store")
    with FileStorage(root, sync=False) as storage:
        ids = []
        for number in range(200):
            ids += storage.put("ab"[number % 2], [b"1", b"2"], PutOptions(rates={"r": (places, seconds)}))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORK, root, str(period)], stdout=subprocess.PIPE, text=True, env=environment
            )
            for _ in range(4)
        ]
        told = [worker.communicate(timeout=120)[0] for worker in workers]
        assert all(worker.returncode == 0 for worker in workers)
        counts = [len(json.loads(text.splitlines()[-1])) for text in told]
        starts = sorted(
            record.attempts[0].started
            for queue in "ab"
            for record in storage.scan(queue, State.COMPLETED, Filter(), limit=1000).records
        )
        assert fsck.check(root) == []
        left = sum(storage.stats(queue).ready for queue in "ab")
    assert len(starts) == sum(counts) == 400 - left
    for first, other in zip(starts, starts[places:], strict=False):
        assert other - first > seconds - 0.002, "records show milliseconds"
    assert len(starts) > places * (period / seconds - 2)  # and the rate is used
