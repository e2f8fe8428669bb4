"""Limits in the file storage: what stands in `blocked/`, how it comes back, and what fsck says of it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from eventq.errors import ClaimLost
from eventq.model import Cancel, Completed, Failure, Filter, PutOptions, Retried, State
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.file import FileStorage, disk, fsck, places
from eventq.storage.file.gate import ALONE
from eventq.storage.file.layout import BLOCKED_FILE, NEVER, digest, due_digits
from eventq.storage.file.places import slot_of
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def put(worker: FileStorage, *payloads: bytes, queue: str = "q", **options: Any) -> list[str]:
    return worker.put(queue, list(payloads), PutOptions(**options))


def look(clock: FakeClock, worker: FileStorage) -> None:
    clock.advance(LOOK_INTERVAL)
    worker.recover()


def blocked(root: Path, queue: str = "q") -> list[Path]:
    return sorted((root / "queues" / queue / "blocked").glob("*/*"))


def test_the_name_says_when_it_comes_back(open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock) -> None:
    worker = open_worker()
    expires = clock.now() + 100
    for number, options in enumerate([{}, {"priority": -3}, {"expires": expires}]):
        put(worker, b"%d" % number, limits={"c": 1}, **options)
        clock.advance(1.0)
    put(worker, b"3", limits={"c": 2})
    assert len(worker.claim("q", 9)) == 2  # the second place is for those that count two
    assert {path.parent.name for path in blocked(root)} == {digest(slot_of("c"))}
    assert [BLOCKED_FILE.match(path.name).groups()[:3] for path in blocked(root)] == [  # type: ignore[union-attr]
        ("1", due_digits(expires), "0"),
        ("1", NEVER, "-3"),
    ]


def test_an_empty_folder_goes(open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock) -> None:
    worker = open_worker()
    put(worker, b"1", b"2", limits={"c": 1})
    (claimed,) = worker.claim("q", 9)
    worker.settle(claimed, Completed())
    assert list((root / "queues/q/blocked").iterdir()) == []
    (root / "queues/q/blocked" / digest("left")).mkdir(0o700)
    look(clock, worker)
    assert list((root / "queues/q/blocked").iterdir()) == []


def test_the_sweep_is_bounded_and_comes_round(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MAX_SWEPT", 3)
    worker = open_worker()
    for queue in "ab":
        worker.configure(queue, {})
        for number in range(5):
            (root / "queues" / queue / "blocked" / digest(f"{number}")).mkdir(0o700, parents=True)
    left = []
    for _ in range(5):
        look(clock, worker)
        left.append(sum(1 for _ in root.glob("queues/*/blocked/*")))
    assert left == [7, 4, 1, 0, 0]
    for queue in "aabab":
        (root / "queues" / queue / "blocked" / digest("0")).mkdir(0o700)
        look(clock, worker)
        assert list(root.glob("queues/*/blocked/*")) == []


def test_the_sweep_of_a_single_queue_goes_on(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock
) -> None:
    worker = open_worker()
    worker.configure("q", {})
    for _ in range(3):
        (root / "queues/q/blocked" / digest("0")).mkdir(0o700, parents=True, exist_ok=True)
        look(clock, worker)
        assert list((root / "queues/q/blocked").iterdir()) == []


def test_all_that_the_dead_held_comes_back_at_once(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MAX_SWEPT", 1)
    one, two = open_worker(), open_worker()
    for name in "abcde":
        put(one, b"1", b"2", limits={name: 1})
    assert len(one.claim("q", 99)) == 5
    assert len(blocked(root)) == 5
    assert two.worker
    one.abandon()
    look(clock, two)
    assert blocked(root) == []


def test_each_free_place_brings_one_back(open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock) -> None:
    one, two = open_worker(), open_worker()
    put(one, *(b"%d" % number for number in range(9)), limits={"c": 3})
    assert len(one.claim("q", 99)) == 3
    assert two.worker
    one.abandon()
    look(clock, two)
    assert len(blocked(root)) == 3


def test_a_large_batch_is_not_moved_one_by_one(open_worker: Callable[[], FileStorage], root: Path) -> None:
    """The first ones each by itself, then the rest; in order, though each time the rest comes back it is split."""
    worker = open_worker()
    ids = put(worker, *(b"%d" % number for number in range(50)), limits={"c": 1})
    first = worker.claim("q")
    assert worker.claim("q", 9) == []
    assert len(blocked(root)) == ALONE + 1
    assert fsck.check(str(root)) == []
    assert worker.stats("q").ready == 49
    assert [record.id for record in worker.scan("q", State.READY, Filter()).records] == ids[1:]
    assert worker.edit("q", [ids[40]], Cancel()) == ["cancelled"]
    order = []
    while first:
        order.append(int(first[0].payload))
        worker.settle(first[0], Completed())
        first = worker.claim("q")
        assert worker.claim("q") == []
    assert order == [number for number in range(50) if number != 40]
    assert blocked(root) == []


def test_what_cannot_be_put_aside_stops_nobody(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk `blocked/` cannot be made: the event stays in this worker's hands, and is tried again."""
    worker = open_worker()
    put(worker, b"1", limits={"c": 1})
    clock.advance(1.0)
    (id,) = put(worker, b"2", limits={"c": 1})
    clock.advance(1.0)
    put(worker, b"3")

    def full(path: str) -> None:
        raise OSError(errno.ENOSPC, "full", path)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "mkdir", full)
        first, plain = worker.claim("q", 9)
        assert plain.payload == b"3"
        look(clock, worker)
        assert worker.claim("q") == []
        record = worker.get(id)
        assert record is not None
        assert record.state is State.READY
    look(clock, worker)
    assert worker.claim("q") == []
    assert len(blocked(root)) == 1
    worker.settle(first, Completed())
    assert worker.claim("q")[0].id == id


def test_what_stays_in_hand_is_given_back(
    open_worker: Callable[[], FileStorage], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = open_worker(), open_worker()
    put(one, b"1", limits={"c": 1})
    clock.advance(1.0)
    put(one, b"2", limits={"c": 1})
    with monkeypatch.context() as patch:
        patch.setattr(disk, "mkdir", lambda path: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full", path)))
        (claimed,) = one.claim("q", 9)
    one.give_back("q")
    one.settle(claimed, Completed())
    assert [other.payload for other in two.claim("q")] == [b"2"]


def test_a_hung_workers_places_are_free_once_it_looks(
    open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock
) -> None:
    """Its lease passed and its claim went back; its threads still look, though its handler hangs."""
    one, two = open_worker(), open_worker()
    one.configure("q", {"lease": 5.0})
    (id,) = put(one, b"1", limits={"c": 1})
    (claimed,) = one.claim("q")
    assert two.claim("q") == []
    for _ in range(2):
        clock.advance(6.0)
        two.recover()
    one.recover()
    look(clock, two)
    (again,) = two.claim("q")
    assert again.id == id
    with pytest.raises(ClaimLost):
        one.settle(claimed, Completed())


def test_a_place_that_cannot_be_judged_is_not_kept(
    open_worker: Callable[[], FileStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = open_worker(), open_worker()
    put(one, b"1", limits={"c": 1})
    real = disk.stat

    def stat(path: str) -> Any:
        if "/slots/" in path:
            raise OSError(errno.EIO, "no", path)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "stat", stat)
        assert one.claim("q") == []
    one.give_back("q")
    assert len(two.claim("q")) == 1


# ---------------------------------------------------------------- fsck


def test_events_that_wait_are_in_order(open_worker: Callable[[], FileStorage], root: Path, clock: FakeClock) -> None:
    worker = open_worker()
    put(worker, b"1", b"2", b"3", limits={"c": 1, "d": 2})
    (claimed,) = worker.claim("q", 9)
    report = fsck.examine(str(root), clock)
    assert (report.findings, report.counts["ready"], report.counts["claimed"]) == ((), 2, 1)
    worker.settle(claimed, Retried(0.0, Failure("ValueError")))
    assert fsck.check(str(root)) == []


def test_what_does_not_belong_among_those_that_wait(open_worker: Callable[[], FileStorage], root: Path) -> None:
    worker = open_worker()
    put(worker, b"1", b"2", limits={"c": 1})
    worker.claim("q", 9)
    (path,) = blocked(root)
    stranger = path.parent.with_name("0" * 64)
    for folder in (stranger, path.parent.with_name("1" * 64)):
        folder.mkdir(0o700)
    for other in (stranger / path.name, path.with_name("x"), path.parent.with_name("y")):
        other.write_bytes(path.read_bytes())
        other.chmod(0o600)
    id = path.name.rpartition("~")[2]
    found = {(finding.path.rpartition("/")[2], finding.problem) for finding in fsck.check(str(root))}
    assert found == {
        ("x", "is no event that waits for a place"),
        ("y", "is no folder of a limit"),
        ("1" * 64, "is empty; the next look removes it"),
        (path.name, "waits for a place that its event does not need"),
        (path.name, f"event {id} is also open in {stranger.relative_to(root)}/{path.name}: it runs twice"),
    }
