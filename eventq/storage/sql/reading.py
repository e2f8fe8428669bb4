"""Reading without claiming: records, scans, counts, notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventq import ids
from eventq.model import OPEN_STATES, Filter, Page, Record, State, Stats
from eventq.storage.sql.rows import FETCHED, FROM_ENDED, FROM_EVENTS, STARTED, StoredEvent
from eventq.storage.sql.schema import named, stored

if TYPE_CHECKING:
    from eventq.storage.sql.database import Cursor, Database

GET = f"{FROM_EVENTS} WHERE id = :id UNION ALL {FROM_ENDED} WHERE id = :id"
QUEUES = """WITH RECURSIVE
    ready (queue) AS (SELECT min(queue) FROM {p}events WHERE state = 'ready' UNION ALL
        SELECT (SELECT min(queue) FROM {p}events WHERE state = 'ready' AND queue > ready.queue)
        FROM ready WHERE ready.queue IS NOT NULL),
    delayed (queue) AS (SELECT min(queue) FROM {p}events WHERE state = 'delayed' UNION ALL
        SELECT (SELECT min(queue) FROM {p}events WHERE state = 'delayed' AND queue > delayed.queue)
        FROM delayed WHERE delayed.queue IS NOT NULL),
    ended (queue) AS (SELECT min(queue) FROM {p}ended UNION ALL
        SELECT (SELECT min(queue) FROM {p}ended WHERE queue > ended.queue) FROM ended WHERE ended.queue IS NOT NULL)
    SELECT name FROM {p}queues UNION SELECT queue FROM {p}events WHERE state = 'claimed'
    UNION SELECT queue FROM ready WHERE queue IS NOT NULL UNION SELECT queue FROM delayed WHERE queue IS NOT NULL
    UNION SELECT queue FROM ended WHERE queue IS NOT NULL"""
"""Also those of which only events are there: a put that came while the queue was dropped."""
WAITING = f"""SELECT (SELECT count(*) FROM {{p}}events WHERE state = 'ready' AND queue = :queue)
    + (SELECT count(*) FROM {{p}}events WHERE {FETCHED} AND queue = :queue)
    + (SELECT count(*) FROM {{p}}events WHERE state = 'delayed' AND queue = :queue)"""
COUNTS = f"""SELECT
    (SELECT count(*) FROM {{p}}events WHERE state = 'ready' AND queue = :queue),
    (SELECT count(*) FROM {{p}}events WHERE state = 'delayed' AND queue = :queue),
    (SELECT count(*) FROM {{p}}events WHERE state = 'delayed' AND queue = :queue AND due <= :now),
    (SELECT count(*) FROM {{p}}events WHERE {FETCHED} AND queue = :queue),
    (SELECT count(*) FROM {{p}}events WHERE {STARTED} AND queue = :queue),
    (SELECT count(*) FROM {{p}}ended WHERE queue = :queue AND state = 'completed'),
    (SELECT count(*) FROM {{p}}ended WHERE queue = :queue AND state = 'dead'),
    (SELECT count(*) FROM {{p}}ended WHERE queue = :queue AND state = 'expired'),
    (SELECT count(*) FROM {{p}}ended WHERE queue = :queue AND state = 'cancelled'),
    (SELECT min(place) FROM {{p}}events WHERE state = 'ready' AND queue = :queue),
    (SELECT min(place) FROM {{p}}events WHERE {FETCHED} AND queue = :queue),
    (SELECT min(place) FROM {{p}}events WHERE state = 'delayed' AND queue = :queue AND due <= :now)"""
SCANS = {
    State.READY: f"(state = 'ready' OR (state = 'delayed' AND due <= :now) OR ({FETCHED}))",
    State.DELAYED: "state = 'delayed' AND due > :now",
    State.CLAIMED: STARTED,
}
PAGE = 500
"""Rows that are read at once, while a filter passes few."""


def get(database: Database, id: str, now: float) -> Record | None:
    rows = database.execute(GET, {"id": id}) if ids.is_event_id(id) else []
    return StoredEvent(rows[0]).record(now) if rows else None


def queues(database: Database) -> list[str]:
    return sorted(named(row[0]) for row in database.execute(QUEUES))


def waiting(cursor: Cursor | Database, queue: str) -> int:
    """How many events of a queue are ready or delayed."""
    return int(cursor.execute(WAITING, {"queue": stored(queue)})[0][0])


def stats(database: Database, queue: str, now: float) -> Stats:
    ((ready, delayed, due, fetched, claimed, completed, dead, expired, cancelled, *places),) = database.execute(
        COUNTS, {"queue": stored(queue), "now": now}
    )
    oldest = min((place for place in places if place is not None), default=None)
    return Stats(
        ready=ready + fetched + due, delayed=delayed - due, claimed=claimed, completed=completed, dead=dead,
        expired=expired, cancelled=cancelled, oldest_ready=None if oldest is None else max(0.0, now - oldest / 1e9),
    )  # fmt: skip


def scan(
    database: Database, queue: str, state: State, filter: Filter, cursor: str | None, limit: int, now: float
) -> Page:
    """A page of records in id order. What is open is read along the primary key of `events`, where nothing else is."""
    if state in OPEN_STATES:
        select, where = FROM_EVENTS, SCANS[state]
    else:
        select, where = FROM_ENDED, "state = :state"
    statement = f"{select} WHERE queue = :queue AND {where} AND id > :after ORDER BY id LIMIT :most"
    after = _first(filter, cursor)
    found: list[Record] = []
    while True:
        most = limit + 1 if filter == EVERYTHING else max(limit + 1, PAGE)
        values: dict[str, Any] = {"queue": stored(queue), "after": after, "most": most}
        values |= {"now": now} if state in (State.READY, State.DELAYED) else {}
        values |= {"state": str(state)} if state not in OPEN_STATES else {}
        rows = database.execute(statement, values)
        records = (StoredEvent(row).record(now) for row in rows)
        found += [record for record in records if filter.matches(record)]
        if len(found) > limit:
            return Page(tuple(found[:limit]), found[limit - 1].id)
        if len(rows) < most:
            return Page(tuple(found))
        after = rows[-1][0]


EVERYTHING = Filter()


def _first(filter: Filter, cursor: str | None) -> str:
    """The id after which a scan begins: ids tell when they were made."""
    made = "" if filter.created_from is None else f"{max(0, int(filter.created_from * 1e9) - 1000):016x}"
    return max(cursor or "", made)
