"""Several processes on one SQLite database: killed, stopped, forked, and all at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from eventq.clock import SYSTEM, sleep
from eventq.errors import ClaimLost
from eventq.model import Completed, PutOptions, State
from eventq.storage.sql.sqlite import SQLiteStorage
from eventq.testing.conformance.scene import fires

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PLAIN = PutOptions()
BEGIN = """
import sys, os, signal
from eventq.storage.sql.sqlite import SQLiteStorage
from eventq.model import PutOptions, Completed
store = SQLiteStorage(sys.argv[1])
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db?synchronous=normal"


@pytest.fixture
def store(url: str) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(url) as store:
        yield store


@pytest.fixture
def start(url: str) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Runs code in a process that has the store open as `store`."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", BEGIN + code, url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def until(fact: Callable[[], object], store: SQLiteStorage, seconds: float = 20.0) -> float:
    """The seconds until a fact holds, while a worker looks after the store."""
    began = SYSTEM.monotonic()
    while not fact():
        assert SYSTEM.monotonic() - began < seconds, "did not come true"
        sleep(min(store.recover(), 0.02))
    return SYSTEM.monotonic() - began


HOLD = """
claimed = store.claim("q", 2)
slot = store.take_slot("lock")
print(store.worker, len(claimed), flush=True)
sys.stdin.read()
"""


def test_what_a_killed_worker_held_is_claimable_within_a_second(
    store: SQLiteStorage, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    store.put("q", [b"1", b"2"], PutOptions(limits={"c": 2}))
    store.claim("other")
    victim = start(HOLD)
    worker, count = said(victim).split()
    assert count == "2"
    assert worker in {found.id for found in store.workers()}
    assert store.take_slot("lock") is None
    victim.kill()
    victim.wait()
    assert until(lambda: store.stats("q").claimed == 0, store) < 1.0
    assert [claimed.crashes for claimed in store.claim("q", 2)] == [1, 1]
    assert store.take_slot("lock") is not None
    assert worker not in {found.id for found in store.workers()}


def test_a_stopped_worker_keeps_its_claims(store: SQLiteStorage, start: Callable[[str], subprocess.Popen[str]]) -> None:
    store.put("q", [b"1", b"2"], PLAIN)
    sleeper = start(HOLD + "[store.settle(one, Completed(b'1')) for one in claimed]; print('settled', flush=True)")
    said(sleeper)
    os.kill(sleeper.pid, signal.SIGSTOP)
    for _ in range(6):
        sleep(0.26)
        store.recover()
    assert store.stats("q").claimed == 2
    os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.communicate("")
    assert store.stats("q").completed == 2


def test_a_watch_is_woken_by_another_process(
    store: SQLiteStorage, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    watch = store.watch("q\n queue")
    other = start("id, = store.put('q\\n queue', [b'1'], PutOptions()); print(id, flush=True)")
    id = said(other)
    assert fires(watch, 5.0)
    watch.close()
    end = store.watch(id=id)
    start("one, = store.claim('q\\n queue'); store.settle(one, Completed(b'1')); print('done', flush=True)")
    assert fires(end, 10.0)
    end.close()
    record = store.get(id)
    assert record is not None
    assert record.state is State.COMPLETED


WORK = """
number = int(sys.stdin.readline())
for turn in range(150):
    store.put("q", [b"%d %d" % (number, turn)], PutOptions())
    for one in store.claim("q", 2):
        print(one.payload.decode())
        store.settle(one, Completed())
while claimed := store.claim("q", 5):
    for one in claimed:
        print(one.payload.decode())
        store.settle(one, Completed())
"""


def test_several_processes_fill_and_drain_a_queue(
    store: SQLiteStorage, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    processes = [start(WORK) for _ in range(4)]
    for number, process in enumerate(processes):
        assert process.stdin is not None
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
    found = Counter(line for process in processes for line in process.communicate(timeout=60)[0].split("\n") if line)
    assert found == Counter(f"{number} {turn}" for number in range(4) for turn in range(150))
    assert store.stats("q").ready == 0


KILLED = """
import itertools, random, threading
threading.Timer(random.uniform(0.05, 0.4), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
for number in itertools.count():
    (id,) = store.put("q", [b"1"], PutOptions())
    os.write(1, b"put %s\\n" % id.encode())
    for one in store.claim("q"):
        store.settle(one, Completed(b"1"))
        os.write(1, b"settled %s\\n" % one.id.encode())
"""


def test_killed_at_any_moment_nothing_acknowledged_is_lost(
    store: SQLiteStorage, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    store.claim("other")
    processes = [start(KILLED) for _ in range(3)]
    lines = [line.split() for process in processes for line in process.communicate(timeout=60)[0].splitlines()]
    put = {id for word, id in lines if word == "put"}
    settled = [id for word, id in lines if word == "settled"]
    assert put
    assert len(settled) == len(set(settled))
    until(lambda: store.stats("q").claimed == 0, store)
    records = {id: store.get(id) for id in put}
    assert all(record is not None for record in records.values())
    assert all(record is not None and record.state is State.COMPLETED for record in map(store.get, settled))


def in_child(work: Callable[[], object]) -> int:
    """The exit code of a forked child that does some work: 0 if it raised nothing."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_child_is_a_worker_of_its_own(store: SQLiteStorage) -> None:
    store.put("q", [b"1", b"2"], PLAIN)
    (mine,) = store.claim("q")
    parent = store.worker

    def child() -> None:
        assert store.worker != parent
        (claimed,) = store.claim("q")
        assert claimed.payload == b"2"
        with pytest.raises(ClaimLost):
            store.settle(mine, Completed())
        assert {worker.id for worker in store.workers()} == {parent, store.worker}
        store.settle(claimed, Completed())
        store.close()

    assert in_child(child) == 0
    assert [worker.id for worker in store.workers()] == [parent]
    store.recover()
    store.settle(mine, Completed())
    assert store.stats("q").claimed == 0
    assert store.put("q", [b"3"], PLAIN)


@pytest.mark.filterwarnings("ignore:This process")
def test_a_child_that_lives_on_does_not_hide_its_parents_death(
    store: SQLiteStorage, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    store.put("q", [b"1"], PLAIN)
    store.claim("other")
    family = start("""
claimed = store.claim("q")
pid = os.fork()
if not pid:
    sys.stdin.read()
    os._exit(0)
print(pid, flush=True)
sys.stdin.read()
""")
    child = int(said(family))
    try:
        assert store.stats("q").claimed == 1
        family.kill()
        assert until(lambda: store.stats("q").ready == 1, store) < 1.0
    finally:
        os.kill(child, signal.SIGKILL)
