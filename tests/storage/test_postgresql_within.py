"""Puts in a transaction of the application's own: all of it happens, or nothing."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psycopg
import pytest
from storage.postgresql_server import PrivateServer, private_server, server_url, store  # noqa: F401 - fixtures
from storage.test_postgresql_outage import until, wakes

from eventq.errors import QueueFull, StorageError
from eventq.model import PutOptions
from eventq.storage.sql.postgresql import PostgreSQLStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.postgresql_server import Namespace

pytestmark = pytest.mark.server
PLAIN = PutOptions()


@pytest.fixture
def storage(store: Namespace) -> Iterator[PostgreSQLStorage]:  # noqa: F811 - it
    with PostgreSQLStorage(store.url) as storage:
        yield storage


@pytest.fixture
def connection() -> Iterator[psycopg.Connection]:
    with psycopg.connect(server_url()) as connection:
        connection.execute("CREATE TEMPORARY TABLE orders (id int)")
        connection.commit()
        yield connection


def payloads(storage: PostgreSQLStorage) -> list[bytes]:
    return [claimed.payload for claimed in storage.claim("q", 10)]


def test_what_is_put_exists_with_the_commit(storage: PostgreSQLStorage, connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO orders VALUES (1)")
    puts = storage.within(connection)
    ids = puts.put("q", [b"1", b"2"], PLAIN)
    id, new = puts.put_key("q", b"3", PutOptions(key="k"))
    assert new
    assert payloads(storage) == []
    assert storage.get(ids[0]) is None
    connection.commit()
    assert [claimed.id for claimed in storage.claim("q", 10)] == [*ids, id]


def test_what_is_rolled_back_was_never_put(storage: PostgreSQLStorage, connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO orders VALUES (1)")
    storage.within(connection).put("q", [b"1"], PLAIN)
    storage.within(connection).put_key("q", b"2", PutOptions(key="k"))
    connection.rollback()
    assert payloads(storage) == []
    assert storage.put_key("q", b"3", PutOptions(key="k"))[1]
    storage.within(connection).put("q", [b"4"], PLAIN)
    connection.commit()
    assert payloads(storage) == [b"3", b"4"]


def test_a_connection_in_autocommit_puts_at_once(storage: PostgreSQLStorage, connection: psycopg.Connection) -> None:
    connection.autocommit = True
    storage.within(connection).put("q", [b"1", b"2"], PLAIN)
    assert payloads(storage) == [b"1", b"2"]
    with connection.transaction():
        storage.within(connection).put("q", [b"3"], PLAIN)
        assert payloads(storage) == []
    assert payloads(storage) == [b"3"]


def test_a_waiting_worker_is_woken_by_the_commit(storage: PostgreSQLStorage, connection: psycopg.Connection) -> None:
    storage.claim("q")
    watch = storage.watch("q")
    storage.within(connection).put("q", [b"1"], PLAIN)
    assert not wakes(watch.fileno())
    connection.commit()
    until(lambda: wakes(watch.fileno()))
    watch.close()


def test_a_key_that_another_transaction_holds_is_waited_for(
    storage: PostgreSQLStorage, connection: psycopg.Connection
) -> None:
    storage.within(connection).put_key("q", b"1", PutOptions(key="k"))
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(storage.put_key("q", b"2", PutOptions(key="k"))[1]))
    thread.start()
    thread.join(0.2)
    assert answers == []
    connection.rollback()
    thread.join(20)
    assert answers == [True]


def test_a_full_queue_is_full_for_it_too(storage: PostgreSQLStorage, connection: psycopg.Connection) -> None:
    storage.configure("q", {"maxsize": 2})
    puts = storage.within(connection)
    puts.put("q", [b"1"], PLAIN)
    with pytest.raises(QueueFull):
        puts.put("q", [b"2", b"3"], PLAIN)
    puts.put("q", [b"2"], PLAIN)
    connection.commit()
    assert storage.stats("q").ready == 2


def test_an_error_of_the_database_is_a_storage_error_and_the_transactions_end(
    storage: PostgreSQLStorage, connection: psycopg.Connection
) -> None:
    puts = storage.within(connection)
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM nowhere")
    with pytest.raises(StorageError, match="current transaction is aborted"):
        puts.put("q", [b"1"], PLAIN)
    connection.rollback()
    assert storage.stats("q").ready == 0


def test_the_connections_own_ways_stay_as_they_are(storage: PostgreSQLStorage, connection: psycopg.Connection) -> None:
    connection.row_factory = psycopg.rows.dict_row  # type: ignore[assignment]
    storage.within(connection).put("q", [b"1"], PLAIN)
    assert connection.execute("SELECT 1 AS one, pg_typeof(%s)::text AS type", [1]).fetchone() == {
        "one": 1,
        "type": "smallint",
    }
    connection.commit()
    assert payloads(storage) == [b"1"]


def test_sqlalchemys_connection_will_do(storage: PostgreSQLStorage, connection: psycopg.Connection) -> None:
    """Only its shape: `Connection.connection` is the pool's, and that one's `driver_connection` is psycopg's."""
    shaped = SimpleNamespace(connection=SimpleNamespace(driver_connection=connection))
    storage.within(shaped).put("q", [b"1"], PLAIN)
    connection.commit()
    assert payloads(storage) == [b"1"]


def test_other_connections_are_refused(
    storage: PostgreSQLStorage,
    private_server: PrivateServer,  # noqa: F811 - it
) -> None:
    with pytest.raises(TypeError, match=r"psycopg\.Connection, not a str"):
        storage.within("postgresql://h/db")
    for url in (private_server.url(), server_url().rpartition("/")[0] + "/postgres"):
        with psycopg.connect(url) as other, pytest.raises(TypeError, match="another database"):
            storage.within(other)

    async def with_async() -> None:
        async with await psycopg.AsyncConnection.connect(server_url()) as other:
            with pytest.raises(TypeError, match="not an AsyncConnection"):
                storage.within(other)

    asyncio.run(with_async())
    assert storage.queues() == []
