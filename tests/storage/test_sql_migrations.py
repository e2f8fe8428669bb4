"""The versions of a store's tables: made, refused, and brought up to date only by who says so."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from eventq.errors import ConfigError, StorageError
from eventq.model import PutOptions
from eventq.storage.sql import migrate, schema
from eventq.storage.sql.sqlite import SQLiteStorage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    found = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    return found


def set_version(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("make", ["none", "empty", "another's"])
def test_a_database_without_tables_gets_them_when_it_is_opened(path: Path, make: str) -> None:
    if make == "empty":
        path.touch()
    elif make == "another's":
        set_version(path, "CREATE TABLE orders (name TEXT)")
    with SQLiteStorage(f"sqlite:///{path}") as store:
        store.put("q", [b"1"], PutOptions())
    found = tables(path)
    assert "orders" in found if make == "another's" else all(name.startswith("eventq_") for name in found)
    with SQLiteStorage(f"sqlite:///{path}") as store:
        assert store.stats("q").ready == 1


def test_a_migration_tells_the_versions_and_is_harmless_when_repeated(path: Path) -> None:
    assert migrate(f"sqlite:///{path}") == (0, schema.SCHEMA_VERSION)
    with SQLiteStorage(f"sqlite:///{path}") as store:
        store.put("q", [b"1"], PutOptions())
        assert migrate(f"sqlite:///{path}") == (schema.SCHEMA_VERSION, schema.SCHEMA_VERSION)
        assert store.stats("q").ready == 1


def test_an_old_store_is_refused_until_somebody_migrates_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{path}"
    migrate(url)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE {p}new (id {text} NOT NULL)",)))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
    with pytest.raises(StorageError, match=f"eventq migrate {url}"):
        SQLiteStorage(url)
    assert "eventq_new" not in tables(path)
    assert migrate(url) == (schema.SCHEMA_VERSION - 1, schema.SCHEMA_VERSION)
    assert "eventq_new" in tables(path)
    SQLiteStorage(url).close()


def test_a_newer_store_is_refused_and_left_alone(path: Path) -> None:
    url = f"sqlite:///{path}"
    migrate(url)
    set_version(path, "INSERT INTO eventq_schema VALUES (99)")
    with pytest.raises(StorageError, match="version 99"):
        SQLiteStorage(url)
    assert migrate(url) == (99, 99)


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(f"sqlite:///{path}")
    before = tables(path)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE {p}new (id {text})", "NONSENSE")))
    with pytest.raises(StorageError, match="NONSENSE"):
        migrate(f"sqlite:///{path}")
    assert tables(path) == before


def test_several_processes_migrate_at_once(path: Path) -> None:
    code = f"from eventq.storage.sql import migrate; print(migrate('sqlite:///{path}')[1])"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(4)]
    printed = [one.communicate(timeout=60)[0].strip() for one in started]
    assert printed == [b"%d" % schema.SCHEMA_VERSION] * 4


def test_what_is_no_database_with_tables_is_not_migrated() -> None:
    for url in ("memory://", "redis://localhost", "file:///tmp/x"):
        with pytest.raises(ConfigError):
            migrate(url)


def test_names_are_stored_without_nul_and_come_back() -> None:
    names = ("plain", "a\0b", "a\\0b", "\\", "\\\\0", "\0\\", "ü\n")
    assert [schema.named(schema.stored(name)) for name in names] == list(names)
    assert len({schema.stored(name) for name in names}) == len(names)
    assert not any("\0" in schema.stored(name) for name in names)
