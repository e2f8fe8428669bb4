"""SQLite itself: its URL, its errors, who else writes, threads that write together, and how long its log gets."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventq.clock import SYSTEM
from eventq.errors import ConfigError, StorageError
from eventq.model import Completed, PutOptions
from eventq.storage import open_storage
from eventq.storage.sql.sqlite import SQLiteStorage
from eventq.storage.sql.sqlite.connections import BRIEF, LOG, PAGE
from eventq.storage.sql.sqlite.url import Target, target
from eventq.testing.conformance.scene import in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN = PutOptions()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(f"sqlite:///{path}?synchronous=normal&busy_timeout=5") as store:
        yield store


# ---- the URL


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///queue.db", Target("queue.db")),
        ("sqlite:///a/queue.db", Target("a/queue.db")),
        ("sqlite:////srv/queue.db", Target("/srv/queue.db")),
        ("sqlite:///my%20queue.db?synchronous=normal", Target("my queue.db", "normal")),
        ("sqlite:///q.db?busy_timeout=0.5&synchronous=full", Target("q.db", "full", 0.5)),
    ],
)
def test_a_url_says_which_file_and_how(url: str, expected: Target) -> None:
    assert target(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://", "sqlite:///", "sqlite://host/q.db", "sqlite:///folder/", "sqlite:///:memory:", "sqlite:///q.db#x",
        "sqlite:///q.db?sync=full", "sqlite:///q.db?synchronous=off", "sqlite:///q.db?busy_timeout=-1",
        "sqlite:///q.db?busy_timeout=soon", "sqlite:///q.db?busy_timeout=nan",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        open_storage(url)


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_storage("sqlite:///q.db") as store:
        monkeypatch.chdir("/")
        store.put("q", [b"1"], PLAIN)
        assert store.stats("q").ready == 1
    assert (tmp_path / "q.db").exists()


# ---- what fails


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing/q\.db.*folder"):
        SQLiteStorage(f"sqlite:///{tmp_path}/missing/q.db")


def test_what_is_no_database_is_said_so(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="no SQLite database"):
        SQLiteStorage(f"sqlite:///{path}")


def test_a_damaged_file_is_said_so(path: Path) -> None:
    with SQLiteStorage(f"sqlite:///{path}") as store:
        store.put("q", [b"x" * 500] * 200, PLAIN)
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\xff" * (len(data) - 8192))
    with pytest.raises(StorageError, match="damaged"), SQLiteStorage(f"sqlite:///{path}") as store:
        store.claim("q", 200)


def test_a_full_disk_is_said_so_and_leaves_the_store_usable(store: SQLiteStorage) -> None:
    (id,) = store.put("q", [b"1"], PLAIN)
    connections = store._sqlite._connections
    connections.write(lambda connection: connection.execute("PRAGMA max_page_count = 60").fetchall(), alone=True)
    with pytest.raises(StorageError, match="disk is full"):
        for _ in range(100):
            store.put("q", [b"x" * 100_000], PLAIN)
    connections.write(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchall(), alone=True)
    (claimed,) = store.claim("q")
    assert claimed.id == id
    store.settle(claimed, Completed())
    assert store.put("q", [b"2"], PLAIN)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_file_is_said_so(path: Path) -> None:
    SQLiteStorage(f"sqlite:///{path}").close()
    path.chmod(0o400)
    with pytest.raises(StorageError, match="permissions"), SQLiteStorage(f"sqlite:///{path}") as store:
        store.put("q", [b"1"], PLAIN)


# ---- who else writes


def test_another_program_that_writes_for_a_while_is_waited_for(store: SQLiteStorage, path: Path) -> None:
    store.claim("q")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    began = SYSTEM.monotonic()
    timer = threading.Timer(0.7, lambda: other.execute("COMMIT"))
    timer.start()
    assert store.stats("q").ready == 0  # reading waits for nobody
    assert SYSTEM.monotonic() - began < 0.5
    store.put("q", [b"1"], PLAIN)
    assert SYSTEM.monotonic() - began >= 0.6
    timer.join()
    other.close()
    assert len(store.claim("q")) == 1


def test_who_writes_for_too_long_is_an_error_that_changes_nothing(path: Path) -> None:
    with SQLiteStorage(f"sqlite:///{path}?busy_timeout=0.1") as store:
        store.put("q", [b"1"], PLAIN)
        (claimed,) = store.claim("q")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for call in (
            lambda: store.put("q", [b"2"], PLAIN),
            lambda: store.put("q", [b"2", b"3"], PLAIN),
            lambda: store.settle(claimed, Completed()),
        ):
            with pytest.raises(StorageError, match="busy_timeout"):
                call()
        other.execute("ROLLBACK")
        other.close()
        assert (store.stats("q").ready, store.stats("q").claimed) == (0, 1)
        store.settle(claimed, Completed())


# ---- threads


def test_threads_that_write_together_fail_alone(store: SQLiteStorage) -> None:
    """While one thread writes, eight more come: their puts are one transaction, and the error of one is its own."""
    database = store._sqlite
    inside, go = threading.Event(), threading.Event()
    commits: list[str] = []

    def hold(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(lambda text: commits.append(text) if text in ("COMMIT", "ROLLBACK") else None)
        inside.set()
        assert go.wait(20)

    holder = threading.Thread(target=lambda: database._connections.write(hold))
    holder.start()
    assert inside.wait(20)
    errors: list[BaseException] = []

    def write(number: int) -> None:
        def work(connection: sqlite3.Connection) -> int:
            values = (f"name {number}",)
            connection.execute("INSERT INTO eventq_queues (name, settings) VALUES (?, '{}')", values)
            if number == 3:
                raise KeyError("mine")
            if number == 5:
                connection.execute("INSERT INTO eventq_queues (name, settings) VALUES (?, '{}')", values)
            return number

        try:
            assert database._connections.write(work) == number
        except (KeyError, StorageError) as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while len(database._connections._waiting) < 8:
        threading.Event().wait(0.001)
    go.set()
    for thread in (holder, *threads):
        thread.join(20)
    assert sorted(type(error).__name__ for error in errors) == ["KeyError", "StorageError"]
    assert store.queues() == [f"name {number}" for number in range(8) if number not in (3, 5)]
    assert commits == ["COMMIT", "COMMIT"]


def test_many_threads_put_claim_and_settle(store: SQLiteStorage) -> None:
    found: list[bytes] = []

    def work(number: int) -> None:
        for turn in range(40):
            store.put("q", [b"%d %d" % (number, turn)], PLAIN)
            for claimed in store.claim("q", 2):
                found.append(claimed.payload)
                store.settle(claimed, Completed(b"1" if turn % 3 == 0 else None))

    in_threads(8, work)
    found += [claimed.payload for claimed in store.claim("q", 1000)]
    assert sorted(found) == sorted(b"%d %d" % (number, turn) for number in range(8) for turn in range(40))


# ---- the log, and the end


def test_the_log_does_not_grow_without_end(store: SQLiteStorage, path: Path) -> None:
    for _ in range(40):
        store.put("q", [b"x" * 10_000] * 50, PLAIN)
        for claimed in store.claim("q", 50):
            store.settle(claimed, Completed())
    assert Path(f"{path}-wal").stat().st_size < 48 << 20


def test_the_log_has_its_length_long_before_it_is_full(path: Path, tmp_path: Path) -> None:
    with SQLiteStorage(f"sqlite:///{path}") as store:
        before = [store.put("q", [b"1"], PLAIN)[0] for _ in range(BRIEF + 1)]
        with SQLiteStorage(f"sqlite:///{path}") as other:
            after = [other.put("q", [b"2"], PLAIN)[0] for _ in range(BRIEF + 1)]
        assert Path(f"{path}-wal").stat().st_size == LOG
        for end in ("", "-wal"):  # as a power cut leaves it: nothing is in the database itself yet
            (tmp_path / f"copy.db{end}").write_bytes(Path(f"{path}{end}").read_bytes())
    with SQLiteStorage(f"sqlite:///{tmp_path}/copy.db") as copy:
        assert [claimed.id for claimed in copy.claim("q", 100)] == before + after


def test_a_log_that_cannot_have_its_length_costs_no_events_and_no_room(path: Path) -> None:
    script = f"""
import os, resource
from eventq.model import PutOptions
from eventq.storage.sql.sqlite import SQLiteStorage
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
with SQLiteStorage("sqlite:///{path}") as store:
    ids = [store.put("q", [b"1"], PutOptions())[0] for _ in range({BRIEF} + 20)]
    print(os.stat("{path}-wal").st_size, len(ids) == len(set(ids)) == len(store.claim("q", 100)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    size, whole = done.stdout.split()
    assert int(size) < 1 << 20
    assert whole == "True"


def test_a_store_of_its_own_has_small_pages_and_another_keeps_its_own(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as theirs:
        theirs.execute("CREATE TABLE mine (id INTEGER PRIMARY KEY)")
    for file, size in ((path, PAGE), (other, 4096)):
        with SQLiteStorage(f"sqlite:///{file}"), closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA page_size").fetchall() == [(size,)]


def test_nothing_is_left_beside_the_database(path: Path) -> None:
    stores = [SQLiteStorage(f"sqlite:///{path}") for _ in range(3)]
    stores[0].put("q", [b"1"], PLAIN)
    for store in stores:
        store.claim("q")
    assert len(os.listdir(f"{path}-workers")) == 3
    stores[2].abandon()
    for store in stores:
        store.close()
    assert os.listdir(path.parent) == ["store.db"]
