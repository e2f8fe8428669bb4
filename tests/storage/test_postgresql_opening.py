"""Opening a store in PostgreSQL: what its URL may say, what is refused, and that no password is ever shown."""

from __future__ import annotations

import traceback

import psycopg
import pytest
from storage.postgresql_server import Namespace, PrivateServer, free_port, private_server, store  # noqa: F401 - fixtures

from eventq.config import masked
from eventq.errors import ConfigError, StorageError
from eventq.model import PutOptions
from eventq.storage import open_storage
from eventq.storage.sql import migrate
from eventq.storage.sql.postgresql import PostgreSQLStorage
from eventq.storage.sql.postgresql.database import dialect
from eventq.storage.sql.postgresql.statements import numbered, translated
from eventq.storage.sql.postgresql.url import target

pytestmark = pytest.mark.server
SECRET = "s3cr%40t%2Fword"


def refused(url: str) -> str:
    """What is said when a store cannot be opened, its causes included."""
    with pytest.raises((StorageError, ConfigError)) as caught:
        PostgreSQLStorage(url)
    said = "".join(traceback.format_exception(caught.value))
    assert "s3cr" not in said
    assert "s3cr" not in repr(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- URLs


def test_its_own_options_are_taken_and_the_others_are_libpqs() -> None:
    found = target(
        "postgresql://u:p%40w@a:1,b:2/db?sslmode=require&namespace=jobs&patience=2.5&prepare=no&options=-cx%3D1"
    )
    assert (found.namespace, found.patience, found.prepare) == ("jobs", 2.5, False)
    expected = {
        "user": "u", "password": "p@w", "host": "a,b", "port": "1,2", "dbname": "db", "sslmode": "require",
        "options": "-cx=1", "fallback_application_name": "eventq",
    }  # fmt: skip
    assert {name: found.params[name] for name in expected} == expected


@pytest.mark.parametrize(
    "url", ["postgresql:///db", "postgres://h", "postgresql://%2Ftmp%2Fs:5433/db", "postgresql://"]
)
def test_a_url_may_leave_out_much(url: str) -> None:
    assert target(url).namespace == "eventq"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("nonsense=1", "'nonsense'.*namespace, patience, prepare"),
        ("namespace=a-b", "letters, digits and _"),
        ("namespace=", "letters, digits and _"),
        ("patience=long", "takes seconds"),
        ("patience=-1", "takes seconds"),
        ("patience=nan", "takes seconds"),
        ("prepare=perhaps", "prepare=yes or prepare=no"),
    ],
)
def test_what_a_url_cannot_say_is_refused(options: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        target(f"postgresql://h/db?{options}")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@[h/db",
        "postgresql://u:s3cr t@h/db",
        "postgresql://u:s3cr%zz@h/db",
        "postgresql://u:s3cr@et@h/db?x=1",
        "postgresql://u:s3cr/et@h/db",
        "postgresql://h/db?password=s3cret&sslpassword=s3cr&nonsense=1",
    ],
)
def test_no_password_is_shown_of_a_wrong_url(url: str) -> None:
    refused(url)
    assert "s3cr" not in masked(url)


def test_statements_are_translated_and_literals_stay() -> None:
    statement = "SELECT ':a', 'it''s 5%', :a::text, x::int % 2 FROM {p}t WHERE b = :b AND c = :a {skip}"
    assert translated(statement, dialect("n")) == (
        b"SELECT ':a', 'it''s 5%%', %(a)s::text, x::int %% 2 FROM \"n\".t WHERE b = %(b)s AND c = %(a)s"
        b" FOR UPDATE SKIP LOCKED"
    )
    found = numbered(statement, dialect("n"))
    assert found.text == (
        b"SELECT ':a', 'it''s 5%', $1::text, x::int % 2 FROM \"n\".t WHERE b = $2 AND c = $1 FOR UPDATE SKIP LOCKED"
    )
    assert found.names == ("a", "b")


# ---------------------------------------------------------------- servers


def test_a_closed_port_is_refused_at_once() -> None:
    said = refused(f"postgresql://u:{SECRET}@127.0.0.1:{free_port()}/db?patience=60")
    assert "Connection refused" in said
    assert "is the server running, and at this port?" in said


def test_a_wrong_password_is_told_and_not_shown(private_server: PrivateServer) -> None:  # noqa: F811 - it
    url = f"postgresql://keeper:{{}}@127.0.0.1:{private_server.port}/postgres?patience=60"
    with psycopg.connect(private_server.url(), autocommit=True) as admin:
        admin.execute("CREATE ROLE keeper LOGIN PASSWORD 's3cr@t/word'")
        admin.execute("GRANT CREATE ON DATABASE postgres TO keeper")
        private_server.demand_passwords()
        try:
            assert "check the user and the password" in refused(url.format("s3cretless"))
            assert migrate(url.format(SECRET)) == (0, 1)
            with PostgreSQLStorage(url.format(SECRET)) as storage:
                storage.put("q", [b"1"], PutOptions())
        finally:
            private_server.demand_passwords(False)
            admin.execute("DROP OWNED BY keeper CASCADE")
            admin.execute("DROP ROLE keeper")


def test_an_unknown_database_or_user_is_told(private_server: PrivateServer) -> None:  # noqa: F811 - it
    for url in (private_server.url("nowhere"), private_server.url(user="nobody")):
        said = refused(url)
        assert "does not exist" in said
        assert "correct the URL" in said


def test_a_database_without_tables_is_told_what_to_run(private_server: PrivateServer) -> None:  # noqa: F811 - it
    url = f"{private_server.url()}?namespace=missing"
    assert "eventq migrate" in refused(url)
    assert migrate(url) == (0, 1)
    assert migrate(url) == (1, 1)
    open_storage(url).close()


def test_tables_of_a_newer_version_are_left_alone(private_server: PrivateServer) -> None:  # noqa: F811 - it
    url = f"{private_server.url()}?namespace=newer"
    migrate(url)
    with psycopg.connect(private_server.url(), autocommit=True) as admin:
        admin.execute("INSERT INTO newer.schema (version) VALUES (99)")
    assert "99" in refused(url)


def test_tables_that_go_while_the_store_is_open_are_told(private_server: PrivateServer) -> None:  # noqa: F811 - it
    url = f"{private_server.url()}?namespace=going"
    migrate(url)
    with PostgreSQLStorage(url) as storage, psycopg.connect(private_server.url(), autocommit=True) as admin:
        storage.put("q", [b"1"], PutOptions())
        admin.execute("DROP SCHEMA going CASCADE")
        with pytest.raises(StorageError, match="eventq migrate URL"):
            storage.put("q", [b"1"], PutOptions())
        migrate(url)
        storage.put("q", [b"1"], PutOptions())


def test_a_server_that_only_reads_is_told(private_server: PrivateServer) -> None:  # noqa: F811 - it
    url = f"{private_server.url()}?namespace=reading"
    migrate(url)
    with PostgreSQLStorage(f"{url}&options=-cdefault_transaction_read_only%3Don") as storage:
        assert storage.queues() == []
        with pytest.raises(StorageError, match="target_session_attrs=read-write"):
            storage.put("q", [b"1"], PutOptions())


def test_two_namespaces_of_a_database_know_nothing_of_each_other(private_server: PrivateServer) -> None:  # noqa: F811 - it
    urls = [f"{private_server.url()}?namespace={name}" for name in ("one", "other")]
    for url in urls:
        migrate(url)
    with PostgreSQLStorage(urls[0]) as one, PostgreSQLStorage(urls[1]) as other:
        one.put("q", [b"1"], PutOptions())
        assert other.claim("q") == []
        assert other.queues() == []
        assert [claimed.payload for claimed in one.claim("q")] == [b"1"]
        assert [worker.id for worker in other.workers()] == [other.worker]


def test_a_store_of_the_default_namespace_is_in_the_schema_eventq(private_server: PrivateServer) -> None:  # noqa: F811 - it
    migrate(private_server.url())
    with open_storage(private_server.url()) as storage:
        storage.put("q", [b"1"], PutOptions())
    with psycopg.connect(private_server.url()) as admin:
        assert admin.execute("SELECT count(*) FROM eventq.events").fetchone() == (1,)
