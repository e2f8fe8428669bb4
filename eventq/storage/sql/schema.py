"""The tables of a store, and how those of an older version become today's.

Statements are written once. `{p}` stands before the name of each table; the types and clauses in braces are what the
two databases say differently (`Dialect`). All texts compare bytewise.

    queues      a queue, once something was put or configured: its settings
    events      what is open: ready, delayed or claimed
    ended       what is over and kept: the same event, with how it ended. What is claimed never depends on its size
    keys        who holds which key, and until when if that is a time
    notes       the notes of events, open or over
    places      the places of limits that claimed events hold
    rates       the names of rates: the number of the last start, and when none counts any more
    starts      the instant of each of them, by number
    blocked     which queues have events that wait for a place of a name
    workers     who has joined; what is here and not present is dead
    waiters     a row for each watch of a queue that has not been told anything since
    watchers    who watches an event
    names       named claims
    slots       the slots that are held
    schema      the version

A key, a name and what an event needs can be of any length, and an index cannot: tables know them by `digest`.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import msgspec

from eventq.errors import StorageError

if TYPE_CHECKING:
    from eventq.storage.sql.database import Cursor, Database


class Dialect(msgspec.Struct, frozen=True):
    """What a database calls things; each field is a word in braces."""

    p: str
    """What stands before the name of a table: `eventq_`, or `"schema".`."""
    i: str
    """What stands before the name of an index."""
    text: str
    bigint: str
    double: str
    blob: str
    hot: str = ""
    """What follows the definition of a table whose rows come and go all the time."""
    rowless: str = ""
    """What follows the definition of a table that is only its primary key and little more."""
    covering: str = ""
    """What ends the columns of an index that has a condition: the column of that, where it is looked at again."""
    lock: str = ""
    """At the end of a SELECT: wait for its rows, and keep others from changing them."""
    skip: str = ""
    """At the end of a SELECT: likewise, but leave out those that another transaction changes."""
    before: tuple[str, ...] = ()
    """What is run before the first table is made."""
    find: str = ""
    """A SELECT that gives a row with 1 if there is a table `schema`, else none."""


def stored(name: str) -> str:
    """A queue's name, or another one, as a text that every database takes: without NUL."""
    return name.replace("\\", "\\\\").replace("\0", "\\0") if "\0" in name or "\\" in name else name


def named(text: str) -> str:
    """The name again, from what `stored` made of it."""
    return _ESCAPED.sub(lambda found: "\0" if found[0] == "\\0" else "\\", text) if "\\" in text else text


_ESCAPED = re.compile(r"\\[0\\]")


def spelled(statement: str, dialect: Dialect) -> str:
    """A statement as a database understands it; `:name` is left as it is."""
    return statement.format_map(msgspec.structs.asdict(dialect))


def digest(*parts: str | bytes) -> str:
    """A text of any length, or several, as one of 32 hexadecimal digits that no other ones have."""
    digested = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digested.update(b"%d:" % len(data) + data)
    return digested.hexdigest()


# ---------------------------------------------------------------- the tables

_EVENT = """
    id {text} NOT NULL PRIMARY KEY,
    queue {text} NOT NULL,
    state {text} NOT NULL,
    priority {bigint} NOT NULL DEFAULT 0,
    place {bigint} NOT NULL,
    due {double},
    expires {double},
    key {blob},
    options {text} NOT NULL DEFAULT '',
    history {text} NOT NULL DEFAULT '',
    notes INTEGER NOT NULL DEFAULT 0,
    note_bytes INTEGER NOT NULL DEFAULT 0,
    awaited INTEGER NOT NULL DEFAULT 0,"""

FIRST: tuple[str, ...] = (
    "CREATE TABLE {p}queues (name {text} NOT NULL PRIMARY KEY, settings {text} NOT NULL)",
    f"""CREATE TABLE {{p}}events ({_EVENT}
    needs {{text}} NOT NULL DEFAULT '',
    worker {{text}},
    token {{bigint}},
    started {{double}},
    progress INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    payload {{blob}} NOT NULL) {{hot}}""",
    # What may be claimed, in the order of claims, one group of equal needs after the other: '' is the plain one.
    "CREATE INDEX {i}ready ON {p}events (queue, needs, priority DESC, place, id{covering}) WHERE state = 'ready'",
    "CREATE INDEX {i}delayed ON {p}events (queue, due{covering}) WHERE state = 'delayed'",
    "CREATE INDEX {i}claimed ON {p}events (worker, queue, token{covering}) WHERE state = 'claimed'",
    # What waits for a place or a rate, and may be past its expiry before it gets one.
    "CREATE INDEX {i}expiring ON {p}events (queue, expires) WHERE state = 'ready' AND needs > '~'",
    f"""CREATE TABLE {{p}}ended ({_EVENT}
    settled {{double}} NOT NULL,
    shelf {{text}} NOT NULL,
    lapses {{double}} NOT NULL,
    value {{blob}},
    payload {{blob}} NOT NULL)""",
    "CREATE INDEX {i}ended_by_id ON {p}ended (queue, state, id)",
    "CREATE INDEX {i}lapsing ON {p}ended (shelf, lapses)",
    """CREATE TABLE {p}keys (queue {text} NOT NULL, digest {text} NOT NULL, id {text} NOT NULL, ends {double},
    PRIMARY KEY (queue, digest)) {rowless}""",
    "CREATE INDEX {i}keys_by_end ON {p}keys (ends) WHERE ends IS NOT NULL",
    """CREATE TABLE {p}notes (id {text} NOT NULL, number INTEGER NOT NULL, at {double} NOT NULL, kind {text} NOT NULL,
    data {blob} NOT NULL, PRIMARY KEY (id, number))""",
    """CREATE TABLE {p}places (digest {text} NOT NULL, place INTEGER NOT NULL, id {text} NOT NULL,
    PRIMARY KEY (digest, place)) {rowless}""",
    "CREATE INDEX {i}places_by_id ON {p}places (id)",
    """CREATE TABLE {p}rates (digest {text} NOT NULL PRIMARY KEY, last {bigint} NOT NULL, seconds {double} NOT NULL,
    ends {double} NOT NULL) {rowless}""",
    "CREATE INDEX {i}rates_by_end ON {p}rates (ends)",
    """CREATE TABLE {p}starts (digest {text} NOT NULL, number {bigint} NOT NULL, at {double} NOT NULL,
    PRIMARY KEY (digest, number)) {rowless}""",
    """CREATE TABLE {p}blocked (digest {text} NOT NULL, queue {text} NOT NULL,
    PRIMARY KEY (digest, queue)) {rowless}""",
    """CREATE TABLE {p}workers (worker {text} NOT NULL PRIMARY KEY, pid INTEGER NOT NULL, host {text} NOT NULL,
    since {double} NOT NULL, incarnation {text} NOT NULL, introduction {text} NOT NULL)""",
    """CREATE TABLE {p}waiters (queue {text} NOT NULL, worker {text} NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (queue, worker, number)) {rowless}""",
    """CREATE TABLE {p}watchers (id {text} NOT NULL, worker {text} NOT NULL,
    PRIMARY KEY (id, worker)) {rowless}""",
    "CREATE INDEX {i}watchers_by_worker ON {p}watchers (worker)",
    """CREATE TABLE {p}names (digest {text} NOT NULL PRIMARY KEY, start {blob} NOT NULL, name {blob} NOT NULL,
    worker {text} NOT NULL, at {double} NOT NULL, data {blob} NOT NULL)""",
    "CREATE INDEX {i}names_by_start ON {p}names (start)",
    """CREATE TABLE {p}slots (digest {text} NOT NULL, worker {text} NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (digest, worker, number)) {rowless}""",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (FIRST,)
"""What makes each version of the one before it; the first of nothing. Never changed once it was published."""

SCHEMA_VERSION = len(MIGRATIONS)


# ---------------------------------------------------------------- versions


def version(database: Database) -> int:
    """The version of a store's tables; 0 if there are none."""
    if not database.execute(database.dialect.find):
        return 0
    return max((int(row[0]) for row in database.execute("SELECT version FROM {p}schema")), default=0)


def check_version(database: Database, url: str) -> None:
    """StorageError if this store has no tables, or those of another version than this program's; `url` is masked."""
    found = version(database)
    if found == SCHEMA_VERSION:
        return
    if found > SCHEMA_VERSION:
        raise StorageError(
            f"the store {url} has tables of version {found}, and this eventq knows {SCHEMA_VERSION}: "
            "it was migrated by a newer one; use that"
        )
    have = f"tables of version {found}" if found else "no tables"
    raise StorageError(
        f"the store {url} has {have}, and this eventq needs version {SCHEMA_VERSION}: run `eventq migrate {url}`"
    )


def migrate(database: Database) -> tuple[int, int]:
    """Make the tables what this version needs, in one transaction: the version before (0: there were none) and after.

    Harmless when repeated, or done by several at once. A store of a newer version is left alone.
    """

    def work(cursor: Cursor, _again: bool) -> tuple[int, int]:
        cursor.serialize("migrate")
        for statement in database.dialect.before:
            cursor.change(statement)
        cursor.change("CREATE TABLE IF NOT EXISTS {p}schema (version INTEGER NOT NULL PRIMARY KEY)")
        before = max((int(row[0]) for row in cursor.execute("SELECT version FROM {p}schema")), default=0)
        for number, statements in enumerate(MIGRATIONS[before:], before + 1):
            for statement in statements:
                cursor.change(statement)
            cursor.change("INSERT INTO {p}schema (version) VALUES (:number)", {"number": number})
        return before, max(before, SCHEMA_VERSION)

    return database.run(work)
