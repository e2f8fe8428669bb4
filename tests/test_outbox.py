"""Putting within the caller's own transaction: with what else it changes, or not at all."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from stores import new_store

from eventq import App, ConfigError, QueueFull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with new_store(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def app(url: str) -> Iterator[App]:
    with App(url) as app:
        yield app


@pytest.fixture
def connection(url: str, tmp_path: Path) -> Iterator[Any]:
    """Of the user's own, to the same database, with a table of the user's own."""
    if url.startswith("sqlite"):
        connection: Any = sqlite3.connect(tmp_path / "store.db")
    else:
        import psycopg

        connection = psycopg.connect(url.partition("?")[0])
    connection.execute("CREATE TABLE outbox_sales (item TEXT)")
    connection.commit()
    yield connection
    connection.rollback()
    connection.execute("DROP TABLE outbox_sales")
    connection.commit()
    connection.close()


def sales(connection: Any) -> int:
    return int(connection.execute("SELECT count(*) FROM outbox_sales").fetchone()[0])


def test_the_event_comes_with_the_commit(app: App, connection: Any) -> None:
    orders = app.queue("orders")
    connection.execute("INSERT INTO outbox_sales VALUES ('tea')")
    id = orders.put({"item": "tea"}, connection=connection)
    assert orders.stats().ready == 0
    assert app.get(id) is None
    connection.commit()
    claim = orders.claim()
    assert claim is not None
    assert (claim.event.id, claim.event.payload, sales(connection)) == (id, {"item": "tea"}, 1)
    claim.complete()


def test_a_rollback_leaves_nothing(app: App, connection: Any) -> None:
    orders = app.queue("orders")
    orders.put("there before")
    connection.execute("INSERT INTO outbox_sales VALUES ('tea')")
    ids = [orders.put(1, connection=connection), *orders.put_many([2, 3], connection=connection)]
    ids.append(orders.put(4, key="k", connection=connection))
    connection.rollback()
    assert [app.get(id) for id in ids] == [None] * 4
    assert (orders.stats().ready, sales(connection)) == (1, 0)
    assert orders.put(5, key="k") not in ids  # nobody holds the key


def test_a_key_holds_within_the_transaction_and_after_it(app: App, connection: Any) -> None:
    orders = app.queue("orders")
    first = orders.put(1, key="k", connection=connection)
    assert orders.put(2, key="k", connection=connection) == first
    connection.commit()
    assert orders.put(3, key="k") == first
    assert orders.put(4, key="k", connection=connection) == first
    connection.rollback()
    assert orders.stats().ready == 1


def test_everything_a_put_may_say_holds(app: App, connection: Any) -> None:
    orders = app.queue("orders")
    orders.put("low", connection=connection)
    orders.put("high", priority=5, headers={"user": "ann"}, connection=connection)
    orders.put("later", delay=60, connection=connection)
    connection.commit()
    assert (orders.stats().ready, orders.stats().delayed) == (2, 1)
    claim = orders.claim()
    assert claim is not None
    assert (claim.event.payload, claim.event.headers) == ("high", {"user": "ann"})


def test_a_full_queue_refuses_at_once(app: App, connection: Any) -> None:
    orders = app.queue("orders", maxsize=2)
    orders.put_many([1, 2], connection=connection)
    with pytest.raises(QueueFull):
        orders.put(3, connection=connection)
    connection.rollback()
    orders.put_many([1, 2])


def test_nothing_waits_within_a_transaction(app: App, connection: Any) -> None:
    with pytest.raises(ConfigError, match="leave timeout= out"):
        app.queue("orders").put(1, timeout=5, connection=connection)


def test_a_task_may_be_enqueued_with_it(app: App, connection: Any) -> None:
    @app.task(name="double")
    def double(number: int) -> int:
        return 2 * number

    handle = double.using(connection=connection).enqueue(21)
    handles = double.using(connection=connection).enqueue_many([(1,), (2,)])
    assert app.queue("default").stats().ready == 0
    connection.commit()
    app.worker().run(burst=True)
    assert [each.result(timeout=10) for each in (handle, *handles)] == [42, 2, 4]
    with pytest.raises(ConfigError, match="leave connection= out"):
        double.using(connection=connection, worker="0" * 16)
    with pytest.raises(ConfigError, match="leave connection= out"):
        double.using(connection=connection).broadcast(1)


def test_another_kind_of_connection_is_refused(app: App) -> None:
    with pytest.raises(TypeError, match="connection="):
        app.queue("orders").put(1, connection=object())


@pytest.mark.parametrize("kind", ["memory", "file", pytest.param("redis", marks=pytest.mark.server)])
def test_other_stores_have_no_transaction_to_share(kind: str, tmp_path: Path) -> None:
    with new_store(kind, tmp_path) as url, App(url) as app, sqlite3.connect(":memory:") as connection:
        with pytest.raises(ConfigError, match=r"postgresql:// or sqlite://"):
            app.queue("orders").put(1, connection=connection)
        assert app.queues() == []
    connection.close()
