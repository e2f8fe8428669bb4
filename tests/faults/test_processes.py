"""Real processes: killed, stopped, forked, starved; the total-queue check of Jepsen over what they logged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from eventq.clock import SYSTEM, sleep
from eventq.model import Completed, Filter, PutOptions, State
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.file import FileStorage
from eventq.testing import FakeClock
from faults.check import check_fsck, check_litter

T = TypeVar("T")
PATIENCE = 30.0
TESTS = Path(__file__).parent.parent


class Crew:
    """The processes of one test, each with its log."""

    def __init__(self, folder: Path, server: subprocess.Popen[str]) -> None:
        self._server = server
        self.store = folder / "store"
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.killed: set[str] = set()
        self._pids: dict[str, int] = {}

    def start(self, role: str, *args: object) -> str:
        """Start a process; its name."""
        name = f"{len(self._pids)}-{role}"
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(self.logs / name, role, self.store, *args, file=self._server.stdin, flush=True)
        self._pids[name] = int(self._server.stdout.readline())
        return name

    def kill(self, name: str) -> None:
        """kill -9, and wait until it is dead."""
        if not self.has(name, "ended"):
            self.killed.add(name)
            self.signal(name, signal.SIGKILL)
            self.join(name)

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self._pids[name], number)

    def tell(self, name: str) -> None:
        """Let it go on that waits for it."""
        (self.logs / f"{name}.go").touch()

    def has(self, name: str, what: str) -> bool:
        """Whether it has `ended` or was `stopped`."""
        return (self.logs / f"{name}.{what}").exists()

    def join(self, name: str) -> int:
        """Wait for its end; its exit code."""
        wait_until(lambda: self.has(name, "ended"))
        return int((self.logs / f"{name}.ended").read_text())

    def names(self) -> list[str]:
        return list(self._pids)

    def lines(self, name: str) -> list[list[str]]:
        path = self.logs / name
        if not path.exists():
            return []
        return [line.split() for line in path.read_text().split("\n")[:-1]]

    def wait_for(self, name: str, word: str) -> list[str]:
        """The first line of a log that begins with a word."""

        def found() -> list[str] | None:
            return next((line for line in self.lines(name) if line[0] == word), None)

        return wait_until(found)

    def end(self) -> None:
        for name in self._pids:
            self.kill(name)


def wait_until(fact: Callable[[], T | None]) -> T:
    deadline = SYSTEM.monotonic() + PATIENCE
    while not (found := fact()):
        assert SYSTEM.monotonic() < deadline, "did not come true"
        sleep(0.005)
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    """Forks the processes of all tests of this module."""
    with subprocess.Popen(
        [sys.executable, "-m", "faults.actors"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    ) as server:
        yield server


@pytest.fixture
def crew(tmp_path: Path, server: subprocess.Popen[str]) -> Iterator[Crew]:
    crew = Crew(tmp_path, server)
    yield crew
    crew.end()


def put(store: FileStorage, *payloads: str, **options: object) -> list[str]:
    return [store.put("q", [msgspec.json.encode(payload)], PutOptions(**options))[0] for payload in payloads]  # type: ignore[arg-type]


def total_queue(crew: Crew, before: list[str] | None = None) -> Counter[str]:
    """Check what went in against what came out; how often each event was delivered.

    Lost: acknowledged, and never delivered. Unexpected: delivered, and never put. Abandoned: delivered to a process
    that lives, or to none but the killed and never again, though its settle was not seen (then at least its file
    must be gone, which the drain before this has shown). After the end: delivered again though a settle returned.
    """
    tried, acknowledged = set(before or ()), set(before or ())
    got: dict[str, list[str]] = defaultdict(list)
    done: dict[str, list[str]] = defaultdict(list)
    for name in crew.names():
        for word, *rest in crew.lines(name):
            if word == "try":
                tried.add(rest[0])
            elif word == "ok":
                acknowledged.add(rest[0])
            elif word == "got":
                got[rest[0]].append(name)
            elif word == "done":
                done[rest[0]].append(name)
    lost = acknowledged - set(got)
    unexpected = set(got) - tried
    twice = {payload for payload, names in got.items() if sum(name not in crew.killed for name in names) > 1}
    ended_twice = {payload for payload, names in done.items() if len(names) > 1}
    unsettled = {
        payload
        for payload, names in got.items()
        if not done[payload] and not all(name in crew.killed for name in names)
    }
    assert not lost, f"lost: {sorted(lost)[:10]} of {len(acknowledged)}"
    assert not unexpected, f"never put: {sorted(unexpected)[:10]}"
    assert not twice, f"delivered twice, and nobody died: {sorted(twice)[:10]}"
    assert not ended_twice, f"settled twice: {sorted(ended_twice)[:10]}"
    assert not unsettled, f"never settled by a living worker: {sorted(unsettled)[:10]}"
    return Counter({payload: len(names) for payload, names in got.items()})


def finish(crew: Crew) -> None:
    """Drain what is left, and look at what remains."""
    name = crew.start("drainer", 4)
    assert crew.join(name) == 0
    with FileStorage(crew.store) as last:
        assert last.claim("q") == []  # takes away what holds no open event
        stats = last.stats("q")
        assert (stats.ready, stats.delayed, stats.claimed) == (0, 0, 0), stats
    check_litter(crew.store)
    check_fsck(crew.store)


# ---------------------------------------------------------------------------- killing


def torture(crew: Crew, kills: int, seed: int, sync: bool) -> None:
    """Kill producers and claimers at random moments of their work, and start others in their place."""
    FileStorage(crew.store, sync=sync).close()
    chance = random.Random(seed)
    serial = iter(range(1_000_000))

    def start(role: str) -> str:
        number = next(serial)
        return crew.start("producer", f"p{number}", 1_000_000) if role == "p" else crew.start("claimer", 1 + number % 4)

    places = {place: start(place[0]) for place in ("p1", "p2", "c1", "c2", "c3")}
    for _ in range(kills):
        place = chance.choice(sorted(places))
        lines = chance.randrange(1, 60)
        wait_until(lambda name=places[place], lines=lines: len(crew.lines(name)) > lines)  # type: ignore[misc]
        crew.kill(places[place])
        places[place] = start(place[0])
    for name in places.values():
        crew.kill(name)
    finish(crew)
    delivered = total_queue(crew)
    assert len(delivered) > 100, "the attack was over before anything was done"


@pytest.mark.parametrize("sync", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_kills_at_random_lose_nothing(crew: Crew, sync: bool) -> None:
    torture(crew, 6, seed=1, sync=sync)


@pytest.mark.exhaustive
@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("seed", [11, 12])
def test_kills_at_random_for_long_lose_nothing(crew: Crew, sync: bool, seed: int) -> None:
    torture(crew, 35, seed, sync)


def test_a_killed_workers_event_runs_elsewhere_with_the_next_look(crew: Crew, clock: FakeClock) -> None:
    """Hence within a quarter of a second."""
    with FileStorage(crew.store, clock=clock) as store:
        put(store, "a")
        name = crew.start("hold")
        crew.wait_for(name, "got")
        store.recover()
        assert store.claim("q") == []
        crew.kill(name)
        clock.advance(LOOK_INTERVAL)
        store.recover()
        assert len(store.claim("q")) == 1


def test_a_killed_workers_places_are_free_with_the_next_look(crew: Crew, clock: FakeClock) -> None:
    with FileStorage(crew.store, clock=clock) as store:
        put(store, "a", "b", limits={"c": 1})
        store.put("other", [b'"c"'], PutOptions(limits={"c": 1}))
        store.configure("full", {"concurrency": 1})
        name = crew.start("hold")
        crew.wait_for(name, "got")
        store.recover()
        assert store.claim("q", 9) == store.claim("other") == []
        crew.kill(name)
        clock.advance(LOOK_INTERVAL)
        store.recover()
        (first,) = store.claim("q", 9)
        assert store.claim("other") == []
        store.settle(first, Completed())
        clock.advance(LOOK_INTERVAL)
        store.recover()
        assert len([*store.claim("q"), *store.claim("other")]) == 1


@pytest.mark.parametrize("count", [40, pytest.param(100, marks=pytest.mark.exhaustive)])
def test_one_at_a_time_is_one_at_a_time(crew: Crew, count: int) -> None:
    """Each process fails if it finds another at work."""
    events = [f"e{number}" for number in range(count)]
    with FileStorage(crew.store, sync=False) as store:
        for event in events:
            put(store, event, limits={"c": 1, "d": 2})
    names = [crew.start("exclusive") for _ in range(4)]
    for name in names:
        assert crew.join(name) == 0
    assert total_queue(crew, events) == Counter(events)
    check_litter(crew.store)
    check_fsck(crew.store)


def test_poison_is_found_and_innocents_are_spared(crew: Crew) -> None:
    innocents = [f"innocent-{number}" for number in range(7)]
    with FileStorage(crew.store) as store:
        put(store, *innocents[:3], "poison", *innocents[3:])
    for _ in range(20):
        name = crew.start("poisoned")
        crew.join(name)
        crew.killed.add(name)
        with FileStorage(crew.store) as store:
            store.recover()
            dead = [msgspec.json.decode(record.payload) for record in store.scan("q", State.DEAD, Filter()).records]
            stats = store.stats("q")
        if dead and stats.ready == stats.claimed == 0:
            break
    assert dead == ["poison"]
    done = [line[1] for name in crew.names() for line in crew.lines(name) if line[0] == "done"]
    assert sorted(done) == innocents
    check_fsck(crew.store)


# ---------------------------------------------------------------------------- stopping


def test_a_stopped_worker_keeps_its_claim_over_many_looks(crew: Crew) -> None:
    clock = FakeClock(SYSTEM.now())
    with FileStorage(crew.store, clock=clock) as store:
        (id,) = put(store, "a")
        name = crew.start("hold")
        crew.wait_for(name, "got")
        crew.signal(name, signal.SIGSTOP)
        for _ in range(200):
            clock.advance(LOOK_INTERVAL)
            store.recover()
            assert store.claim("q") == []
        crew.signal(name, signal.SIGCONT)
        crew.tell(name)
        assert crew.join(name) == 0
        record = store.get(id)
        assert record is not None
        assert (record.state, record.value, record.crashes) == (State.COMPLETED, b'"late"', 0)


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
def test_a_producer_stopped_within_a_put_stops_nobody(crew: Crew, end: signal.Signals) -> None:
    clock = FakeClock(SYSTEM.now())
    with FileStorage(crew.store, clock=clock) as store:
        store.configure("q", {})
        name = crew.start("stop_within_put")
        crew.wait_for(name, "stopping")
        wait_until(lambda: crew.has(name, "stopped"))
        put(store, "other")
        delivered = []
        for _ in range(5):  # its file is locked: it is passed over, and nobody waits
            for claimed in store.claim("q"):
                delivered.append(msgspec.json.decode(claimed.payload))
                store.settle(claimed, Completed())
            clock.advance(LOOK_INTERVAL)
            store.recover()
        assert delivered == ["other"]
        crew.signal(name, end)
        crew.join(name)
        delivered.clear()
        for _ in range(5):
            for claimed in store.claim("q"):
                delivered.append(msgspec.json.decode(claimed.payload))
                store.settle(claimed, Completed())
            clock.advance(LOOK_INTERVAL)
            store.recover()
        assert delivered == (["first", "second"] if end == signal.SIGCONT else ["first"])
    check_litter(crew.store)
    check_fsck(crew.store)


def test_a_child_that_outlives_its_parent_keeps_none_of_its_claims(crew: Crew, clock: FakeClock) -> None:
    with FileStorage(crew.store, clock=clock) as store:
        put(store, "a")
        name = crew.start("fork")
        crew.wait_for(name, "child")
        crew.kill(name)
        clock.advance(LOOK_INTERVAL)
        store.recover()
        found = [msgspec.json.decode(claimed.payload) for claimed in (*store.claim("q"), *store.claim("q"))]
        assert sorted(found) == ["a", "before"]
        crew.tell(name)  # its child
        crew.wait_for(name, "joined")
        (claimed,) = wait_until(lambda: store.claim("q"))
        assert msgspec.json.decode(claimed.payload) == "after"
        (_, _, parent, _), (_, child) = crew.wait_for(name, "parent"), crew.wait_for(name, "joined")
        assert child != parent


# ---------------------------------------------------------------------------- many


def contend(crew: Crew, processes: int, count: int) -> None:
    with FileStorage(crew.store, sync=False) as store:
        payloads = [f"e{number}" for number in range(count)]
        for at in range(0, count, 100):
            store.put("q", [msgspec.json.encode(payload) for payload in payloads[at : at + 50]], PutOptions())
            put(store, *payloads[at + 50 : at + 100])
    names = [crew.start("drainer", 1 + number % 4) for number in range(processes)]
    for name in names:
        assert crew.join(name) == 0
    delivered = total_queue(crew, payloads)
    assert delivered == Counter(payloads)
    check_litter(crew.store)
    check_fsck(crew.store)


def test_contenders_get_each_event_once(crew: Crew) -> None:
    contend(crew, 4, 1000)


@pytest.mark.exhaustive
def test_eight_contenders_get_each_of_ten_thousand_events_once(crew: Crew) -> None:
    contend(crew, 8, 10_000)


@pytest.mark.exhaustive
def test_a_burst_through_fresh_processes_survives_a_restart(crew: Crew) -> None:
    FileStorage(crew.store).close()
    names = [crew.start("producer", f"p{number}", 100) for number in range(20)]
    for name in names:
        assert crew.join(name) == 0
    names = [crew.start("drainer", 3) for _ in range(3)]
    for name in names:
        assert crew.join(name) == 0
    delivered = total_queue(crew)
    assert len(delivered) == 20 * (98 + 2 * 10)
    assert set(delivered.values()) == {1}
    finish(crew)


# ---------------------------------------------------------------------------- starving


def test_without_descriptors_calls_fail_cleanly_and_lose_nothing(crew: Crew) -> None:
    name = crew.start("starved")
    assert crew.join(name) == 0
    assert int(crew.wait_for(name, "refused")[1]) > 0
    assert int(crew.wait_for(name, "succeeded")[1]) > 0
    acknowledged = {line[1] for line in crew.lines(name) if line[0] == "ok"}
    settled = {line[1] for line in crew.lines(name) if line[0] == "settled"}
    clock = FakeClock(SYSTEM.now())
    with FileStorage(crew.store, clock=clock) as store:
        left = []
        for _ in range(3):
            clock.advance(LOOK_INTERVAL)
            store.recover()
            while claimed := store.claim("q"):
                left.append(msgspec.json.decode(claimed[0].payload))
                store.settle(claimed[0], Completed())
        kept = {msgspec.json.decode(one.payload) for one in store.scan("q", State.COMPLETED, Filter()).records}
    assert len(left) == len(set(left)), "delivered twice"
    assert not settled & set(left), "delivered after its settle had returned"
    assert acknowledged - {"warm"} <= set(left) | kept, "lost"
    check_litter(crew.store)
    check_fsck(crew.store)
