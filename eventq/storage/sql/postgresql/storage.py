"""PostgreSQLStorage: a store in a schema of a PostgreSQL database. What its URL may say: `url`.

url.py           what a URL means
connections.py   connections, a few, shared by threads and by no two processes
statements.py    what a connection is told, and how a statement that is said again is prepared
listener.py      the connection by which a worker is known as alive, and hears
database.py      `Database`: statements and transactions that outlast a lost connection
errors.py        what an error means, and what to do about it
within.py        puts in a transaction of the caller's
storage.py       the hot paths: a single statement each, which is its own transaction
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventq.clock import SYSTEM, Clock, sleep
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.sql import ahead
from eventq.storage.sql.claims import in_order
from eventq.storage.sql.postgresql.database import PostgreSQLDatabase
from eventq.storage.sql.postgresql.url import target
from eventq.storage.sql.postgresql.within import cursor_within
from eventq.storage.sql.rows import CLAIM, FETCHED, PUT
from eventq.storage.sql.schema import check_version, stored
from eventq.storage.sql.storage import SQLStorage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventq.storage.sql.database import Cursor, Row
    from eventq.storage.sql.postgresql.connections import Session

__all__ = ["PostgreSQLStorage"]

DUE_STEP = 1000
"""Events that have become due which one claim makes ready."""
MANY = 500
"""After so many claims of a queue without a minute's rest, its head is remembered."""
REST = 60.0

NEW = f"VALUES ({', '.join(f':{name}' for name in PUT)})"
MANY_NEW = """SELECT id, :queue, :state, :priority::bigint, :place::bigint, :due::double precision,
            :expires::double precision, :key::bytea, :options, :needs, payload
        FROM unnest(:ids::text[], :payloads::bytea[]) AS new (id, payload)"""


def store(rows: str) -> str:
    """Store new events and tell a watch. It hears with the commit. There a NOTIFY locks out every other one of the
    server: so if nobody waits, there is none."""
    return f"""
    WITH stored AS (
        INSERT INTO {{p}}events ({", ".join(PUT)}) {rows} ON CONFLICT (id) DO NOTHING
    ), waiter AS (
        DELETE FROM {{p}}waiters WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {{p}}waiters WHERE queue = :queue ORDER BY worker, number LIMIT 1 {{skip}}
        )) RETURNING worker, number
    )
    SELECT pg_notify('eventq_' || worker, 'queue ' || number || ' ' || :queue) FROM waiter"""


STORE = store(NEW)
STORE_UNHEARD = f"""
    INSERT INTO {{p}}events ({", ".join(PUT)})
    SELECT :id, :queue, :state, :priority::bigint, :place::bigint, :due::double precision, :expires::double precision,
        :key::bytea, :options, :needs, :payload::bytea
    WHERE NOT EXISTS (SELECT 1 FROM {{p}}waiters WHERE queue = :queue) RETURNING 1"""
"""The same of one event if nobody waits, as in a busy queue: the server does a seventh less. It stores nothing if
somebody does, and fails if the event is there."""
STORE_MANY = store(MANY_NEW)

NO_DUE = "NOT EXISTS (SELECT 1 FROM {p}events WHERE queue = :queue AND state = 'delayed' AND due <= :now)"
NO_ODD = "NOT EXISTS (SELECT 1 FROM {p}events WHERE queue = :queue AND state = 'ready' AND needs > '')"
NO_HIGHER = """NOT EXISTS (SELECT 1 FROM {p}events
        WHERE queue = :queue AND state = 'ready' AND needs = '' AND priority > :priority)"""
FROM_HEAD = "priority = :priority AND (place, id) > (:place, :id)"


START = ", started = :now, progress = progress + 1"


def claim_if(*conditions: str, start: str = START) -> str:
    """A claim of ready plain events, if these conditions hold. By their place in the table: what was found is locked,
    and looking for it by id again would take as long as finding it."""
    return f"""
    UPDATE {{p}}events SET state = 'claimed', worker = :worker, token = :number{start}
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {{p}}events WHERE queue = :queue AND state = 'ready' AND needs = ''
            AND {" AND ".join(conditions)}
        ORDER BY priority DESC, place, id LIMIT :limit {{skip}}
    )) RETURNING {", ".join(CLAIM)}"""


TAKE = claim_if(NO_ODD, NO_DUE)
TAKE_FROM_HEAD = claim_if(NO_ODD, NO_DUE, NO_HIGHER, FROM_HEAD)
TAKE_AFTER_DUE = claim_if(NO_ODD)
FETCH = claim_if(NO_ODD, NO_DUE, start="")
FETCH_FROM_HEAD = claim_if(NO_ODD, NO_DUE, NO_HIGHER, FROM_HEAD, start="")
TAKEN = f"""
    SELECT {", ".join(CLAIM)} FROM {{p}}events
    WHERE state = 'claimed' AND queue = :queue AND worker = :worker AND token = :number"""
TAKE_OVER = f"""
    UPDATE {{p}}events SET worker = :worker, token = :number{START} WHERE {FETCHED} AND ctid = ANY (ARRAY(
        SELECT ctid FROM {{p}}events {ahead.OTHERS} {ahead.IN_ORDER} {{skip}}
    )) RETURNING {", ".join(CLAIM)}"""
"""As an array: what is behind an IN may run several times, and each time passes over what it has locked itself."""
WHY_NONE = f"SELECT {NO_ODD}, {NO_DUE}, NOT EXISTS (SELECT 1 FROM {{p}}events {ahead.OTHERS})"
PASSED_OVER = "SELECT 1 FROM {p}events WHERE queue = :queue AND state = 'ready' AND needs = '' LIMIT 1"
PASSED_OVER_PAUSES = (0.001, 0.002, 0.004)
"""Seconds before each further look at what is ready and could not be claimed, because its row was locked. Nobody waits
for the lock itself: its holder may be a process that was stopped."""
ODD_DUE = "SELECT 1 FROM {p}events WHERE queue = :queue AND state = 'delayed' AND due <= :now AND needs > '' LIMIT 1"
COME_DUE = f"""
    UPDATE {{p}}events SET state = 'ready' WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {{p}}events WHERE queue = :queue AND state = 'delayed' AND due <= :now
        ORDER BY due LIMIT {DUE_STEP} {{skip}}))"""

SETTLE = "DELETE FROM {p}events WHERE id = :id AND worker = :worker AND token = :number AND awaited = 0 RETURNING 1"
"""Without `state = 'claimed'`, which follows from it: with it an index of the claimed ones would do as well, and a plan
that was made while that was small would take it."""
STILL_THERE = "SELECT 1 FROM {p}events WHERE id = :id"


class Head(msgspec.Struct, frozen=True):
    """Up to where this worker has found nothing more in a queue, when it looked at all of it for the last time.

    What was claimed leaves dead entries at the head of the index until the next vacuum, perhaps a minute later, and
    each claim steps over them: soon they cost more than all the rest. So a worker that claims much begins where its
    last claim ended. What has come back meanwhile to a place before that is found after `LOOK_INTERVAL` at most.
    """

    count: int
    used: float
    """The monotonic instant of the last claim."""
    looked: float
    """And of the last one from the very beginning."""
    priority: int
    place: int
    id: str

    def is_good(self, now: float) -> bool:
        """Whether a claim may begin there."""
        return self.count >= MANY and now - self.looked < LOOK_INTERVAL


class PostgreSQLStorage(SQLStorage):
    """One worker's view of a store in PostgreSQL. `eventq migrate URL` makes its tables.

    The URL is `postgresql://user:password@host:port/database`, with all that libpq understands behind the `?`, and
    `namespace=`, `patience=`, `prepare=`. Raises ConfigError for a URL that cannot be, StorageError if there is no
    connection, or no tables of this version.

    What was put survives what the server survives: a power cut, unless `synchronous_commit` is off. A call whose reply
    was lost with its connection is repeated, and happens once; but for a put whose event was claimed, completed and so
    forgotten before the repetition, a moment later: that one runs twice. A key that is held for a time prevents it.
    """

    def __init__(self, url: str, *, clock: Clock = SYSTEM) -> None:
        self._postgresql = PostgreSQLDatabase(target(url))
        self._heads: dict[str, Head] = {}
        try:
            check_version(self._postgresql, self._postgresql.shown)
        except BaseException:
            self._postgresql.close()
            raise
        super().__init__(self._postgresql, clock)

    def _cursor_within(self, connection: object) -> Cursor:
        return cursor_within(connection, self._postgresql)

    # ------------------------------------------------------------------ hot paths

    def _put_plain(self, queue: str, rows: Sequence[Row]) -> None:
        statement, values = STORE, dict(zip(PUT, rows[0], strict=True))
        if len(rows) > 1:
            alike = rows[0][1:-1]
            if any(row[1:-1] != alike for row in rows):
                super()._put_plain(queue, rows)
                return
            statement = STORE_MANY
            values |= {"ids": [row[0] for row in rows], "payloads": [row[-1] for row in rows]}

        def put(session: Session, again: bool) -> None:
            if again or statement is not STORE or not session.execute(STORE_UNHEARD, values):
                session.execute(statement, values)

        self._postgresql.on_session(put)

    def _claim_plain(self, queue: str, limit: int, number: int, now: float) -> list[Row] | None:
        values = {"queue": stored(queue), "worker": self.worker, "number": number, "now": now, "limit": limit}

        def claim(session: Session, again: bool) -> list[Row] | None:
            if again and (rows := session.execute(TAKEN, values)):
                return rows
            return self._take(session, queue, values, TAKE, TAKE_FROM_HEAD) or self._take_special(session, values)

        rows = self._postgresql.on_session(claim)
        return sorted(rows, key=in_order) if rows else rows

    def _fetch_plain(self, queue: str, limit: int, number: int, now: float) -> list[Row]:
        values = {"queue": stored(queue), "worker": self.worker, "number": number, "now": now, "limit": limit}

        def fetch(session: Session, again: bool) -> list[Row]:
            if again and (rows := session.execute(TAKEN, values)):
                return rows
            return self._take(session, queue, values, FETCH, FETCH_FROM_HEAD)

        return sorted(self._postgresql.on_session(fetch), key=in_order)

    def _start_plain(self, id: str, number: int, now: float) -> bool:
        values = {"id": id, "worker": self.worker, "number": number, "now": now}

        def start(session: Session, again: bool) -> bool:
            return bool(session.execute(ahead.START, values) or (again and session.execute(ahead.STARTED, values)))

        return self._postgresql.on_session(start)

    def _take(self, session: Session, queue: str, values: dict[str, Any], take: str, take_from_head: str) -> list[Row]:
        monotonic = SYSTEM.monotonic()
        head, limit = self._heads.get(queue), values["limit"]
        rows: list[Row] = []
        if head is not None and head.is_good(monotonic):
            begin = {"priority": head.priority, "place": head.place, "id": head.id}
            rows = session.execute(take_from_head, {**values, **begin})
        looked = len(rows) < limit
        if looked:
            rows += session.execute(take, {**values, "limit": limit - len(rows)})
        if rows:
            self._remember(queue, head, max(rows, key=in_order), len(rows), monotonic, looked)
        return rows

    def _take_special(self, session: Session, values: dict[str, Any]) -> list[Row] | None:
        """Nothing is ready, or events of another kind are, or some have become due, or others have fetched all."""
        ((no_odd, no_due, none_fetched),) = session.execute(WHY_NONE, values)
        if not no_odd or (not no_due and session.execute(ODD_DUE, values)):
            return None
        if not no_due:
            session.execute(COME_DUE, values)
            return session.execute(TAKE_AFTER_DUE, values)
        rows = [] if none_fetched else session.execute(TAKE_OVER, values)
        return rows or self._take_passed_over(session, values)

    def _take_passed_over(self, session: Session, values: dict[str, Any]) -> list[Row]:
        """What a claim passed over because another transaction had it for a moment: to claim it, or to watch it."""
        for pause in PASSED_OVER_PAUSES:
            if not session.execute(PASSED_OVER, values):
                break
            sleep(pause)
            if rows := session.execute(TAKE, values):
                return rows
        return []

    def _remember(self, queue: str, head: Head | None, last: Row, count: int, now: float, looked: bool) -> None:
        if head is not None and now - head.used < REST:
            count += head.count
        began = now if looked or head is None else head.looked
        self._heads[queue] = Head(count, now, began, last[1], last[2], last[0])

    def _settle_plain(self, id: str, number: int) -> bool:
        values = {"id": id, "worker": self.worker, "number": number}

        def settle(session: Session, again: bool) -> bool:
            return bool(session.execute(SETTLE, values)) or (again and not session.execute(STILL_THERE, values))

        return self._postgresql.on_session(settle) or super()._settle_plain(id, number)
