"""`eventq migrate`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from conftest import Run


@pytest.mark.parametrize("url", ["store", "file:///srv/q", "memory://", "redis://me:secret@host/1"])
def test_what_needs_no_schema_is_told_so(eventq: Run, url: str) -> None:
    done = eventq("migrate", url)
    shown = url.replace("secret", "***")
    assert (done.code, done.out) == (0, f"{shown} needs no schema; nothing to do\n")
    assert eventq("migrate", "--store", url, "--json").json == {"store": shown, "before": None, "after": None}
    assert not os.path.exists("store")


def test_the_configured_store_is_meant(eventq: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTQ_URL", "here")
    assert "here needs no schema" in eventq("migrate").out


def test_wrong_use(eventq: Run) -> None:
    for args, text in (
        (("migrate", "nosuch://x"), "no storage for nosuch://"),
        (("migrate", "a", "--store", "b"), "named twice"),
    ):
        done = eventq(*args)
        assert (done.code, text in done.err, len(done.err.splitlines())) == (2, True, 1)


def test_a_driver_that_is_missing_is_named(eventq: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    done = eventq("migrate", "postgresql://host/db")
    assert (done.code, done.err) == (2, "eventq: postgresql:// needs an extra: pip install 'eventq[sql]'\n")


def test_a_database_gets_its_tables_once(eventq: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    first = eventq("migrate", url, "--json").json
    assert (first["before"], first["after"] >= 1) == (0, True)
    again = eventq("migrate", url)
    assert (again.code, again.out) == (0, f"{url} has schema {first['after']} already; nothing to do\n")
    assert eventq("--store", url, "put", "q", "1").code == 0
