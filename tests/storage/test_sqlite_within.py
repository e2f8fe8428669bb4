"""Puts in a transaction of the caller's, by a `sqlite3.Connection` to the same file."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from eventq.errors import QueueFull
from eventq.model import Completed, PutOptions, State
from eventq.storage.memory import MemoryStorage
from eventq.storage.sql.sqlite import SQLiteStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAIN = PutOptions()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The application's own database."""
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (name TEXT)")
    connection.close()
    return path


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(f"sqlite:///{path}?synchronous=normal&busy_timeout=0.2") as store:
        yield store


@pytest.fixture(params=["", "IMMEDIATE", None])
def connection(request: pytest.FixtureRequest, path: Path, store: SQLiteStorage) -> Iterator[sqlite3.Connection]:
    """As the caller opened it: with implicit transactions of two kinds, and without, so that it begins by itself."""
    connection = sqlite3.connect(path, isolation_level=request.param)
    if request.param is None:
        connection.execute("BEGIN")
    yield connection
    connection.close()


def order(connection: sqlite3.Connection, store: SQLiteStorage, name: str) -> str:
    connection.execute("INSERT INTO orders VALUES (?)", (name,))
    return store.within(connection).put("mail", [name.encode()], PLAIN)[0]


def test_the_events_exist_once_the_caller_commits(connection: sqlite3.Connection, store: SQLiteStorage) -> None:
    id = order(connection, store, "one")
    assert store.get(id) is None
    assert store.stats("mail").ready == 0
    connection.commit()
    (claimed,) = store.claim("mail")
    assert (claimed.id, claimed.payload) == (id, b"one")
    store.settle(claimed, Completed())
    assert store.queues() == ["mail"]


def test_a_rollback_leaves_nothing(connection: sqlite3.Connection, store: SQLiteStorage) -> None:
    id = order(connection, store, "one")
    key = store.within(connection).put_key("mail", b"2", PutOptions(key="k"))
    assert key[1]
    connection.rollback()
    assert store.get(id) is None
    assert (store.queues(), store.claim("mail", 9)) == ([], [])
    assert store.put_key("mail", b"3", PutOptions(key="k"))[1]
    assert connection.execute("SELECT * FROM orders").fetchall() == []


def test_a_connection_that_dies_leaves_nothing(connection: sqlite3.Connection, store: SQLiteStorage) -> None:
    order(connection, store, "one")
    connection.close()
    assert store.stats("mail").ready == 0


def test_a_batch_and_keys_hold_as_ever(connection: sqlite3.Connection, store: SQLiteStorage) -> None:
    store.configure("mail", {"maxsize": 3})
    held = store.put_key("mail", b"1", PutOptions(key="k"))[0]
    within = store.within(connection)
    assert within.put_key("mail", b"2", PutOptions(key="k")) == (held, False)
    assert len(within.put("mail", [b"3", b"4"], PLAIN)) == 2
    with pytest.raises(QueueFull):
        within.put("mail", [b"5"], PLAIN)
    with pytest.raises(QueueFull):
        within.put_key("mail", b"5", PutOptions(key="other"))
    connection.commit()
    assert store.stats("mail").ready == 3


def test_debounced_puts_displace_each_other_within_it(connection: sqlite3.Connection, store: SQLiteStorage) -> None:
    within, options = store.within(connection), PutOptions(key="d", debounce=60.0)
    first = within.put_key("mail", b"7", options)[0]
    last, new = within.put_key("mail", b"8", options)
    connection.commit()
    assert new
    record = store.get(first)
    assert record is not None
    assert record.state is State.CANCELLED
    assert store.stats("mail").delayed == 1
    assert store.put_key("mail", b"9", PutOptions(key="d")) == (last, False)


def test_in_autocommit_each_put_commits_by_itself(path: Path, store: SQLiteStorage) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    order(connection, store, "one")
    assert not connection.in_transaction
    assert store.stats("mail").ready == 1
    store.configure("mail", {"maxsize": 1})
    with pytest.raises(QueueFull):
        order(connection, store, "two")
    assert not connection.in_transaction
    connection.close()


@pytest.mark.parametrize("factory", [sqlite3.Row, lambda _, row: dict(enumerate(row))], ids=["Row", "dict"])
def test_what_the_connection_makes_of_rows_does_not_matter(path: Path, store: SQLiteStorage, factory: Any) -> None:
    connection = sqlite3.connect(path)
    connection.row_factory = factory
    within = store.within(connection)
    first = within.put_key("mail", b"1", PutOptions(key="k"))
    assert within.put_key("mail", b"1", PutOptions(key="k")) == (first[0], False)
    connection.commit()
    connection.close()


def test_a_link_to_the_file_leads_to_the_same_store(path: Path, store: SQLiteStorage, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(path)
    connection = sqlite3.connect(tmp_path / "link.db")
    order(connection, store, "one")
    connection.commit()
    connection.close()
    assert store.stats("mail").ready == 1


def test_other_connections_are_refused(store: SQLiteStorage, tmp_path: Path) -> None:
    for other in (":memory:", tmp_path / "other.db"):
        connection = sqlite3.connect(other)
        with pytest.raises(TypeError, match="the store is in"):
            store.within(connection)
        connection.close()
    with pytest.raises(TypeError, match=r"sqlite3\.Connection, not a MemoryStorage"):
        store.within(MemoryStorage())
