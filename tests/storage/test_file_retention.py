"""Pruning: in bounded steps that get on, whatever lies in the folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventq.ids import Stamps, event_id
from eventq.model import Completed, Failure, Filter, PutOptions, Rejected, Settings, State
from eventq.storage.file import FileStorage, disk, line, retention
from eventq.storage.file.layout import QueuePaths, bucket_of
from eventq.storage.file.line import RecordLine
from eventq.storage.file.retention import Pruner

if TYPE_CHECKING:
    from eventq.testing import FakeClock

WORKER = "9f3c51d07ab2e846"


def dead_letters(root: Path, clock: FakeClock, count: int, spread: float = 0.0) -> QueuePaths:
    """A queue with so many dead letters, put `spread` seconds apart (0: all in one bucket)."""
    paths = QueuePaths(str(root), "q")
    stamps = Stamps(WORKER, clock)
    born = int(clock.now() * 1e9)
    for number in range(count):
        stem = stamps.at(born + int(number * spread * 1e9) + number)
        id = event_id(stem, 0)
        folder = Path(paths.dead + bucket_of(id))
        if not folder.exists():
            folder.mkdir(parents=True)
        end = RecordLine(id, "settled", clock.now(), outcome="dead")
        (folder / id).write_bytes(line.event_lines(stem, [b"1"], "json", b"") + line.record_line(end))
    return paths


def left(paths: QueuePaths) -> int:
    return sum(1 for path in Path(paths.dead).glob("*/*") if path.is_file())


def steps(pruner: Pruner, settings: Settings, now: float, most: int) -> list[int]:
    """How much each step removed, until nothing is due."""
    counts = []
    for _ in range(most):
        pruner._next = 0.0
        counts.append(pruner.step(settings, now))
        if not pruner._walks:
            return counts
    raise AssertionError(f"not done after {most} steps: {counts}")


def test_each_step_gets_on_however_slow_the_disk_is(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing a full bucket may take longer than a whole step; then the step still removes something, and the next
    one does not list it again."""
    paths = dead_letters(tmp_path, clock, 30)
    clock.advance(100.0)
    monkeypatch.setattr(retention, "STEP_SECONDS", 0.0)
    listed: list[str] = []
    real = disk.listdir
    monkeypatch.setattr(disk, "listdir", lambda path: listed.append(path) or real(path))
    settings = Settings(keep_dead=1.0)
    counts = steps(Pruner(paths), settings, clock.now(), 40)
    assert sum(counts) == 30
    assert max(counts) == 1
    assert left(paths) == 0
    assert len([path for path in listed if path.startswith(paths.dead) and path != paths.dead]) <= 3


def test_a_step_stops_where_the_young_begin(tmp_path: Path, clock: FakeClock) -> None:
    paths = dead_letters(tmp_path, clock, 20, spread=70.0)
    pruner = Pruner(paths)
    now = clock.now() + 10 * 70.0 + 1000.0
    # settled long ago, but put at most 1000 s ago: their bucket says that they are not due, unread
    assert sum(steps(pruner, Settings(keep_dead=1000.0), now, 5)) in (10, 11)
    assert left(paths) in (9, 10)


@pytest.mark.exhaustive
def test_a_hundred_thousand_in_one_bucket_go_in_short_steps(tmp_path: Path, clock: FakeClock) -> None:
    paths = dead_letters(tmp_path, clock, 100_000)
    clock.advance(100.0)
    counts = steps(Pruner(paths), Settings(keep_dead=1.0), clock.now(), 20_000)
    assert sum(counts) == 100_000
    assert max(counts) < 50_000
    assert left(paths) == 0


def test_the_oldest_beyond_the_count_go(tmp_path: Path, clock: FakeClock) -> None:
    paths = dead_letters(tmp_path, clock, 30, spread=10.0)
    names = sorted(path.name for path in Path(paths.dead).glob("*/*"))
    assert Pruner(paths).step(Settings(keep_dead_count=10), clock.now() + 300.0) == 20
    assert sorted(path.name for path in Path(paths.dead).glob("*/*")) == names[20:]


def test_counting_takes_a_small_share_of_the_time(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lists all that is kept, which may be two weeks' worth: not at every step."""
    paths = dead_letters(tmp_path, clock, 5, spread=70.0)
    clock.advance(100.0)
    monkeypatch.setattr(retention, "perf_counter", clock.monotonic)
    real = disk.listdir

    def slow(path: str) -> list[str]:
        clock.advance(0.1)
        return real(path)

    monkeypatch.setattr(disk, "listdir", slow)
    pruner = Pruner(paths, clock)
    now, began = clock.now(), clock.monotonic()
    pruner.step(Settings(), now)
    first = clock.monotonic() - began
    rounds = 20
    for _ in range(rounds):
        clock.advance(retention.PAUSE)
        pruner.step(Settings(), now)
    later = clock.monotonic() - began - first - rounds * retention.PAUSE
    assert later < rounds * first / 2


@pytest.mark.parametrize("state", ["completed", "dead", "notes", "delayed", "keys", "ready"])
@pytest.mark.parametrize("name", [".DS_Store", "lost+found", "zzzzzzz", "foo.txt", "--5", "²", "18ea02e"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_strange_names_stop_neither_pruning_nor_claiming(
    tmp_path: Path, clock: FakeClock, state: str, name: str, kind: str
) -> None:
    with FileStorage(tmp_path / "store", sync=False, clock=clock) as storage:
        storage.put("q", [b"1", b"2"], PutOptions())
        strange = Path(storage.root, "queues/q", state, name)
        strange.parent.mkdir(exist_ok=True)
        if kind == "file":
            strange.touch()
        else:
            strange.mkdir()
            (strange / name).touch()
        storage.settle(storage.claim("q")[0], Rejected(Failure("E", "x")))
        storage.configure("q", {"keep_dead": 0.0})
        clock.advance(1000.0)
        storage.prune("q")
        storage.recover()
        assert (storage.stats("q").dead, storage.stats("q").ready) == (0, 1)
        storage.scan("q", State.DEAD, Filter())
        (claimed,) = storage.claim("q")
        storage.settle(claimed, Completed())
        assert strange.exists() or name == "18ea02e"  # an empty bucket of that name may go


def test_a_folder_among_the_dead_stops_nothing(tmp_path: Path, clock: FakeClock) -> None:
    paths = dead_letters(tmp_path, clock, 3)
    (bucket,) = Path(paths.dead).iterdir()
    stamps = Stamps(WORKER, clock)
    stem = stamps.next()
    (bucket / event_id(stem, 1)).mkdir()
    (bucket / event_id(stem, 2)).symlink_to("/etc/passwd")
    assert Pruner(paths).step(Settings(keep_dead=0.0), clock.now() + 1000.0, force=True) == 3
    assert Path("/etc/passwd").exists()


def test_markers_whose_period_is_over_go(tmp_path: Path, clock: FakeClock) -> None:
    """A schedule's keys hold its fire times, and are never put again: nobody else would remove them."""
    with FileStorage(tmp_path / "store", sync=False, clock=clock) as storage:
        for number in range(5):
            storage.put_key("q", b"1", PutOptions(key=f"fire-{number}", unique=10.0 + number))
        storage.put_key("q", b"1", PutOptions(key="open"))
        keys = Path(storage.root, "queues/q/keys")
        clock.advance(12.5)
        storage.prune("q")
        storage.prune("q")
        assert len(list(keys.iterdir())) == 3
        assert storage.put_key("q", b"1", PutOptions(key="fire-4", unique=10.0))[1] is False
        assert storage.put_key("q", b"1", PutOptions(key="open"))[1] is False
        assert storage.put_key("q", b"1", PutOptions(key="fire-0", unique=10.0))[1] is True
