"""Fetching ahead: who claims one event right after the other takes some at once, and starts each when it is wanted.

What is fetched is ready: to all who count, read or change it, and to whoever finds nothing else to claim, who takes it
over. Only its row says that a worker thinks of starting it: it is `claimed`, by that worker, with a token, and has no
`started`. So its fetcher starts it with a statement that finds out whether it is still there; that names a row by its
id, and changes what no index has, which is half the work of a claim. What a dead worker had fetched counts no crash.
"""

from __future__ import annotations

import functools
from collections import deque
from typing import TYPE_CHECKING, Any

from eventq.storage.observed import Observed
from eventq.storage.sql.rows import CLAIM, FETCHED, FROM_EVENTS, StoredEvent
from eventq.storage.sql.schema import named, stored

if TYPE_CHECKING:
    from eventq.clock import Clock
    from eventq.storage.sql.database import Database, Row
    from eventq.storage.sql.transaction import Run, Transaction

MOST = 32
"""Events that are fetched at once, at most."""
HOLD = 0.02
"""Seconds for which a worker fetches, at its pace. Who fetched has not looked at what else is ready since."""
STALE = 2 * HOLD
"""Seconds after which what is fetched and not started goes back."""
STREAK = 50
"""Claims one right after the other, within `HOLD` of each other, before a worker fetches ahead."""

FETCH = f"""UPDATE {{p}}events SET state = 'claimed', worker = :worker, token = :number
    WHERE state = 'ready' AND id IN (
        SELECT id FROM {{p}}events WHERE queue = :queue AND state = 'ready' AND needs = ''
        ORDER BY priority DESC, place, id LIMIT :limit {{skip}})
    RETURNING {", ".join(CLAIM)}"""
MINE = f"""SELECT {", ".join(CLAIM)} FROM {{p}}events
    WHERE {FETCHED} AND worker = :worker AND queue = :queue AND token = :number"""
START = """UPDATE {p}events SET started = :now, progress = progress + 1
    WHERE id = :id AND worker = :worker AND token = :number AND started IS NULL RETURNING 1"""
STARTED = "SELECT 1 FROM {p}events WHERE id = :id AND worker = :worker AND token = :number AND started = :now"
OTHERS = f"WHERE {FETCHED} AND queue = :queue AND worker <> :worker"
IN_ORDER = "ORDER BY priority DESC, place, id LIMIT :limit"
TAKE_OVER = f"""UPDATE {{p}}events SET worker = :worker, token = :number, started = :now, progress = progress + 1
    WHERE {FETCHED} AND id IN (SELECT id FROM {{p}}events {OTHERS} {IN_ORDER} {{skip}}) RETURNING {", ".join(CLAIM)}"""
OTHERS_EVENTS = f"{FROM_EVENTS} {OTHERS} {IN_ORDER}"
GIVE_BACK = f"UPDATE {{p}}events SET state = 'ready', worker = NULL, token = NULL WHERE {FETCHED} AND worker = :worker"
HOARDS = f"SELECT worker, token, count(*) FROM {{p}}events WHERE {FETCHED} GROUP BY worker, token"


class Ahead:
    """What one worker has fetched of one queue, and how fast it claims."""

    __slots__ = ("_claimed", "_gap", "_rows", "_since", "_streak")

    def __init__(self) -> None:
        self._rows: deque[tuple[Row, int]] = deque()
        self._since = 0.0
        self._claimed = 0.0
        self._gap = HOLD
        """Seconds between two claims, as they were lately."""
        self._streak = 0

    def __bool__(self) -> bool:
        return bool(self._rows)

    def wanted(self, now: float) -> int:
        """How many to claim at this monotonic instant, when one is asked for."""
        gap = now - self._claimed
        self._claimed = now
        if gap > HOLD:
            self._gap, self._streak = HOLD, 0
        else:
            self._gap += (gap - self._gap) / 16
            self._streak += 1
        return min(MOST, int(HOLD / self._gap)) if self._streak >= STREAK else 1

    def rest(self) -> None:
        """There is no more to claim than is claimed one by one at no greater cost."""
        self._streak = 0

    def add(self, rows: list[Row], number: int, now: float) -> None:
        """What was fetched, in order, with the token `number`."""
        self._since = now
        self._rows.extend((row, number) for row in rows)

    def pop(self) -> tuple[Row, int] | None:
        """The next one, and its token."""
        try:
            return self._rows.popleft()
        except IndexError:
            return None

    def is_stale(self, now: float) -> bool:
        return bool(self._rows) and now - self._since > STALE

    def clear(self) -> None:
        """It is given back, and claimed one by one for a while: or a worker whose events fail would fetch them all
        again and again."""
        self._rows.clear()
        self.rest()


def fetch(tx: Transaction, queue: str, limit: int, number: int) -> list[Row]:
    """Fetch plain events that are ready."""
    values = {"queue": stored(queue), "worker": tx.worker, "number": number}
    rows = tx.rows(MINE, values) if tx.again else []
    return rows or tx.rows(FETCH, {**values, "limit": limit})


def start(tx: Transaction, id: str, number: int) -> bool:
    """Start what was fetched: see `SQLStorage._start_plain`."""
    values = {"id": id, "worker": tx.worker, "number": number, "now": tx.now}
    return bool(tx.rows(START, values) or (tx.again and tx.rows(STARTED, values)))


def take_over(tx: Transaction, queue: str, limit: int, number: int) -> list[Row]:
    """Start what others have fetched of a queue and not started."""
    values = {"queue": stored(queue), "worker": tx.worker, "number": number, "now": tx.now, "limit": limit}
    return tx.rows(TAKE_OVER, values)


def fetched_by_others(tx: Transaction, queue: str, limit: int) -> list[StoredEvent]:
    """What others have fetched of a queue and not started, in the order of claims."""
    values = {"queue": stored(queue), "worker": tx.worker, "limit": limit}
    return [StoredEvent(row) for row in tx.rows(OTHERS_EVENTS, values)]


def give_back(tx: Transaction, worker: str, queue: str | None = None, number: int | None = None) -> None:
    """What a worker has fetched, of a queue or of all, by one claim or by all, is for everybody again."""
    values: dict[str, Any] = {"worker": worker}
    statement = GIVE_BACK
    if queue is not None:
        statement, values["queue"] = f"{statement} AND queue = :queue", stored(queue)
    if number is not None:
        statement, values["number"] = f"{statement} AND token = :number", number
    for name in sorted({row[0] for row in tx.rows(f"{statement} RETURNING queue", values)}):
        tx.ring(named(name), everybody=True)


class Hoards:
    """What workers have fetched and do not come to start, as this one has seen it: it is given back for them."""

    def __init__(self, database: Database, run: Run, clock: Clock) -> None:
        self._database = database
        self._run = run
        self._clock = clock
        self._seen = Observed()

    def look(self) -> None:
        rows = {f"{row[0]} {row[1]}": row for row in self._database.execute(HOARDS)}
        for name, seconds in self._seen.look(rows, self._clock.monotonic()).items():
            if seconds >= STALE:
                worker, number, _ = rows[name]
                self._run(functools.partial(give_back, worker=worker, number=number))
