"""What happens often is found by an index: no statement of it reads a table, or an index, from end to end."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

import pytest

from eventq.storage.sql import ahead, claims, keys, limits, notes, presence, puts, reading, retention, settling, waking
from eventq.storage.sql.rows import FROM_ENDED, FROM_EVENTS
from eventq.storage.sql.schema import spelled
from eventq.storage.sql.sqlite import storage as sqlite
from eventq.storage.sql.sqlite.database import DIALECT
from eventq.storage.sql.transaction import TAKE_WAITER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATEMENTS = {
    "put": sqlite.STORE,
    "put many": sqlite.STORE_MANY,
    "claim, plain": sqlite.CLAIM,
    "claim, one": sqlite.CLAIM_ONE,
    "fetch": sqlite.FETCH,
    "fetched, start": ahead.START,
    "fetched, of others": ahead.TAKE_OVER,
    "fetched, given back": ahead.GIVE_BACK,
    "fetched, hoards": ahead.HOARDS,
    "claim, anything there": sqlite.LOOK,
    "claim, repeated": claims.PLAIN_MINE,
    "claim, due": claims.PROMOTE,
    "claim, special": claims.SPECIAL,
    "claim, groups": claims.GROUPS,
    "claim, groups with needs": claims.GROUPS_WITH_NEEDS,
    "claim, heads": claims.HEADS,
    "claim, expired": claims.EXPIRED,
    "claim, start": claims.START,
    "claim, next due": claims.NEXT_DUE,
    "settle, plain": settling.COMPLETE,
    "settle, save": settling.SAVE,
    "open event": f"{FROM_EVENTS} WHERE id = :id",
    "ended event": f"{FROM_ENDED} WHERE id = :id",
    "get": reading.GET,
    "scan": f"{FROM_ENDED} WHERE queue = :queue AND state = :state AND id > :after ORDER BY id LIMIT :most",
    "notes": notes.READ,
    "note": notes.COUNT,
    "key": puts.keys.TAKE,
    "places": limits.HELD,
    "rate": limits.NTH_LAST,
    "waiter": TAKE_WAITER,
    "watch": waking.AWAIT,
    "claims of the dead": presence.HELD,
    "shelves": retention.SHELVES,
    "lapsed": retention.LAPSED,
    "purged": retention.PURGED,
    "counts": reading.COUNTS,
}


CLAIMED = "INDEX eventq_claimed"
"""What all workers hold at this moment may be read whole: it is as much as they do at once."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    folder: Path = tmp_path_factory.mktemp("plans")
    with sqlite.SQLiteStorage(f"sqlite:///{folder}/store.db"):
        connection = sqlite3.connect(folder / "store.db")
        yield connection
        connection.close()


def plan(database: sqlite3.Connection, statement: str) -> list[str]:
    text = spelled(statement, DIALECT)
    names = re.findall(r":([a-z_]+)", text)
    values: object = dict.fromkeys(names, 1) if names else [1] * text.count("?")
    return [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {text}", values)]


@pytest.mark.parametrize("name", STATEMENTS)
def test_what_happens_often_is_found_by_an_index(database: sqlite3.Connection, name: str) -> None:
    steps = plan(database, STATEMENTS[name])
    scans = [step for step in steps if re.match(r"SCAN (eventq_|ended|events)", step) and CLAIMED not in step]
    assert not scans, "\n".join(steps)
    sorts = [step for step in steps if "TEMP B-TREE FOR ORDER BY" in step]
    assert not sorts or any(CLAIMED in step for step in steps), "\n".join(steps)


def test_claims_read_the_index_of_what_is_ready_in_its_order(database: sqlite3.Connection) -> None:
    steps = plan(database, sqlite.CLAIM)
    assert any("USING COVERING INDEX eventq_ready (queue=? AND needs=?)" in step for step in steps), steps
    assert keys.KEYS_STEP > 0


def test_a_statement_that_reads_a_whole_table_is_seen(database: sqlite3.Connection) -> None:
    assert plan(database, "SELECT * FROM {p}events WHERE payload = :payload") == ["SCAN eventq_events"]
