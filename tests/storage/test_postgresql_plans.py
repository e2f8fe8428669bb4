"""How the server does what a store asks of it: by index, whatever it knew of the tables when it made the plan."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from storage.postgresql_server import Namespace, store  # noqa: F401 - a fixture

from eventq.model import (
    Cancel,
    Completed,
    Delete,
    Dropped,
    Failure,
    Filter,
    Move,
    PutOptions,
    Rejected,
    Released,
    Requeue,
    Retried,
    Skipped,
    State,
)
from eventq.storage.sql.postgresql import PostgreSQLStorage
from eventq.storage.sql.postgresql import storage as postgresql
from eventq.storage.sql.postgresql.connections import SESSION, Session
from eventq.storage.sql.postgresql.statements import translated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.storage.base import Storage
    from eventq.storage.sql.database import Cursor

pytestmark = pytest.mark.server
BIG = ("events", "ended")
"""The tables that grow with the backlog and with the history."""


@pytest.fixture
def storage(store: Namespace) -> Iterator[PostgreSQLStorage]:  # noqa: F811 - it
    with PostgreSQLStorage(store.url) as storage:
        yield storage


def live(storage: Storage) -> None:
    """Something of everything."""
    now = 1e9
    storage.configure("q", {"keep": 1e6, "keep_count": 1, "maxsize": 1000, "lease": 60.0})
    storage.put("q", [b"1"] * 30, PutOptions(expires=4e9))
    storage.put("q", [b"1"] * 30, PutOptions())
    storage.put("q", [b"2"], PutOptions(due=now))
    for options in ({}, {"unique": "waiting"}, {"unique": 60.0}, {"debounce": 60.0}, {"debounce": 60.0}):
        storage.put_key("q", b"3", PutOptions(key=str(options), **options))  # type: ignore[arg-type]
    storage.put("q", [b"4"], PutOptions(limits={"a": 1}, rates={"b": (5, 60.0)}))
    outcomes = (
        Completed(), Completed(b"1"), Retried(0.0, Failure("E")), Retried(60.0), Released(), Skipped(), Rejected(),
        Dropped(State.CANCELLED, "no"), Completed(b"1"),
    )  # fmt: skip
    for outcome in outcomes:
        claimed = storage.claim("q", 2)
        watch = storage.watch(id=claimed[0].id)
        storage.note(claimed[0], "progress", b"1")
        storage.settle(claimed[0], outcome)
        storage.settle(claimed[1], Completed())
        storage.edit("q", [claimed[0].id], Requeue())
        storage.notes(claimed[0].id)
        watch.close()
    look(storage)


def look(storage: Storage) -> None:
    with contextlib.closing(storage.watch("q")):
        storage.claim("nothing")
    for state in State:
        page = storage.scan("q", state, Filter(), limit=1)
        storage.scan("q", state, Filter(created_from=0.0), page.cursor)
        for edit in (Move("other"), Cancel("no"), Delete()):
            storage.edit(None, [record.id for record in page.records], edit)
    storage.stats("q")
    storage.recover()
    storage.workers()
    storage.prune("q")
    storage.purge("q", State.DEAD)
    storage.replace_name(storage.take_name("n", b"1")[0], b"2")
    storage.replace_name(storage.get_names(["n"])["n"], None)
    storage.take_name("n", b"3")
    storage.names("n")
    storage.get_names(["n", "m"])
    storage.release_name("n")


def statements_of(monkeypatch: pytest.MonkeyPatch, storage: PostgreSQLStorage) -> dict[str, dict[str, Any]]:
    """What a store says to the server in its life, each with values that it was said with."""
    said: dict[str, dict[str, Any]] = {}
    execute, many, alone = psycopg.Cursor.execute, psycopg.Cursor.executemany, Session.execute

    def executed(self: psycopg.Cursor[Any], query: Any, values: Any = None, **rest: Any) -> Any:
        if isinstance(query, bytes) and isinstance(values, dict):
            said.setdefault(query.decode(), values)
        return execute(self, query, values, **rest)

    def executed_many(self: psycopg.Cursor[Any], query: Any, values: Any, **rest: Any) -> Any:
        said.setdefault(query.decode(), values[0])
        return many(self, query, values, **rest)

    def executed_alone(self: Session, statement: str, values: Any) -> Any:
        said.setdefault(translated(statement, storage._database.dialect).decode(), values)
        return alone(self, statement, values)

    monkeypatch.setattr(Session, "execute", executed_alone)
    monkeypatch.setattr(psycopg.Cursor, "execute", executed)
    monkeypatch.setattr(psycopg.Cursor, "executemany", executed_many)
    live(storage)
    monkeypatch.undo()
    return said


def plan(connection: psycopg.Connection, statement: str, values: dict[str, Any], how: str = "") -> str:
    """How a prepared statement is carried out, whatever its values."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", statement).replace("%%", "%")
    cursor = psycopg.ClientCursor(connection)
    cursor.execute(f"PREPARE planned AS {numbered}".encode())
    given = f"({', '.join('%s' for _ in names)})" if names else ""
    rows = cursor.execute(
        f"EXPLAIN {how} EXECUTE planned {given}".encode(), [values[name] for name in names]
    ).fetchall()
    cursor.execute(b"DEALLOCATE planned")
    return "\n".join(row[0] for row in rows)


def settings(connection: psycopg.Connection) -> psycopg.Connection:
    for name, value in SESSION.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    return connection


def faults(statement: str, found: str) -> list[str]:
    """What would cost more with each event in the store."""
    wrong = [f"reads all of {table}" for table in BIG if re.search(rf"(Seq Scan|Bitmap Heap Scan) on {table}\b", found)]
    for table in BIG:
        by_id = rf"(?s)(FROM|UPDATE) \"\w+\"\.{table}\b(?:%\(|[^;()])*?\bWHERE id = "
        quick = (f"using {table}_pkey on {table}", "Index Cond: ((worker = ")  # few, whatever else is claimed
        if re.search(by_id, re.sub(r"%\(\w+\)s", "$", statement)) and not any(sign in found for sign in quick):
            wrong.append(f"finds one of {table} by another index than that of ids")
    if "expires <= " in statement and "using expiring" not in found:
        wrong.append("looks for what has expired among all that waits")
    return wrong


@pytest.mark.parametrize("full", [False, True], ids=["empty", "full"])
def test_no_statement_reads_a_table_that_grows(
    store: Namespace,  # noqa: F811 - it
    storage: PostgreSQLStorage,
    monkeypatch: pytest.MonkeyPatch,
    full: bool,
) -> None:
    """Also when the plan was made while the tables were empty, or one of them was."""
    said = statements_of(monkeypatch, storage)
    hot = (postgresql.STORE_UNHEARD, postgresql.STORE_MANY, postgresql.TAKE, postgresql.SETTLE)
    assert len(said) > 40
    assert {translated(one, storage._database.dialect).decode() for one in hot} <= set(said)
    if full:
        storage.put("backlog", [b"x"] * 20_000, PutOptions())
        store.query("ANALYZE {p}events")
    wrong = []
    with psycopg.connect(store.url.partition("?")[0], autocommit=True) as connection:
        settings(connection)
        for statement, values in said.items():
            found = plan(connection, statement, values)
            wrong += [f"{fault}: {statement}\n{found}" for fault in faults(statement, found)]
    assert not wrong, "\n\n".join(wrong)


def test_a_claim_reads_as_many_events_as_it_takes(
    store: Namespace,  # noqa: F811 - it
    storage: PostgreSQLStorage,
) -> None:
    storage.put("q", [b"1"] * 5000, PutOptions())
    values = {"queue": "q", "worker": storage.worker, "number": 1, "now": 0.0, "limit": 3}
    statement = translated(postgresql.TAKE, storage._database.dialect).decode()
    with psycopg.connect(store.url.partition("?")[0], autocommit=True) as connection:
        found = plan(settings(connection), statement, values, "(ANALYZE)")
    assert re.search(r"Index Scan using ready on events .*rows=3 loops=1", found), found
    assert "Sort" not in found, found


def test_while_nobody_waits_nobody_is_told(storage: PostgreSQLStorage) -> None:
    """A NOTIFY would cost all of the server a lock."""
    row = dict.fromkeys(("due", "expires", "key"), None) | {
        "id": "0" * 38 + ".00000", "queue": "q", "state": "ready", "priority": 0, "place": 0, "options": "",
        "needs": "", "payload": b"1",
    }  # fmt: skip
    database = storage._postgresql
    assert database.on_session(lambda session, _: session.execute(postgresql.STORE, row)) == []
    storage.claim("other")
    with contextlib.closing(storage.watch("q")):
        told = database.on_session(lambda session, _: session.execute(postgresql.STORE, row))
        again = database.on_session(lambda session, _: session.execute(postgresql.STORE, row))
    assert (len(told), again) == (1, [])


def test_what_is_prepared_outlasts_a_transaction_that_fails(storage: PostgreSQLStorage) -> None:
    database, prepared = storage._postgresql, "SELECT name FROM pg_prepared_statements ORDER BY name"

    def fail(cursor: Cursor, _again: bool) -> None:
        cursor.execute("SELECT name FROM {p}queues")
        raise LookupError("on purpose")

    for _ in range(5):
        storage.put("q", [b"1"], PutOptions())
        database.run(lambda cursor, _: cursor.execute("SELECT name FROM {p}queues"))
        database.execute(prepared)
    before = database.execute(prepared)
    with pytest.raises(LookupError):
        database.run(fail)
    assert database.execute(prepared) == before
    assert len(before) >= 3
    storage.put("q", [b"1"], PutOptions())
