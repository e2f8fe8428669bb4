"""What is over does not stay for ever: by its age, and by how many there are; some at a time, or all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq.errors import StorageError
from eventq.model import State
from eventq.storage.sql import keys
from eventq.storage.sql.claims import PROMOTE
from eventq.storage.sql.rows import FETCHED, FROM_EVENTS, STARTED, StoredEvent
from eventq.storage.sql.schema import named, stored
from eventq.storage.sql.settling import KEPT, shelf

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.model import Settings
    from eventq.storage.sql.database import Database
    from eventq.storage.sql.transaction import Run, Transaction

COUNT_SPARES = 600.0
"""A completed event younger than this (seconds) is never given up for `keep_count`."""
STEP = 500
"""Records that go in one transaction, at most: others wait for it."""
STEPS = 4
"""Such transactions in one look, at most."""

SHELVES = """WITH RECURSIVE found (shelf) AS (
    SELECT min(shelf) FROM {p}ended
    UNION ALL SELECT (SELECT min(shelf) FROM {p}ended WHERE shelf > found.shelf) FROM found
    WHERE found.shelf IS NOT NULL)
    SELECT shelf, (SELECT min(lapses) FROM {p}ended AS ended WHERE ended.shelf = found.shelf),
    (SELECT max(lapses) FROM {p}ended AS ended WHERE ended.shelf = found.shelf) FROM found WHERE shelf IS NOT NULL"""
MANY = "SELECT count(*) FROM (SELECT 1 FROM {p}ended WHERE shelf = :shelf LIMIT :most) AS counted"
LAPSED = """DELETE FROM {p}ended WHERE id IN (
    SELECT id FROM {p}ended WHERE shelf = :shelf AND lapses <= :until ORDER BY lapses LIMIT :most {skip})
    RETURNING id, notes"""


class Retention:
    """Gives up what lapses, for one process: it remembers which shelves have not changed since it counted them."""

    def __init__(self, database: Database, run: Run, settings: Callable[[str], Settings]) -> None:
        self._database = database
        self._run = run
        self._settings = settings
        self._counted: dict[str, tuple[float, int]] = {}
        """For each shelf, its newest record and its bound when it was found to hold no more than that."""

    def look(self, now: float) -> None:
        """Give up some of what has lapsed, in all queues."""
        before, self._counted = self._counted, {}
        for name, oldest, newest in self._database.execute(SHELVES):
            self._tidy(name, oldest, newest, before.get(name), now)

    def _tidy(self, name: str, oldest: float, newest: float, counted: tuple[float, int] | None, now: float) -> None:
        word, _, queue = name.partition(" ")
        until, most = self._rule(word, named(queue), now)
        if oldest <= until:
            for _ in range(STEPS):
                if self._give_up(name, until, STEP) < STEP:
                    break
        if most is None:
            return
        over = 0 if counted == (newest, most) else self._over(name, most)
        if over:
            self._give_up(name, _spared(word, now), over)
        else:
            self._counted[name] = newest, most

    def _rule(self, word: str, queue: str, now: float) -> tuple[float, int | None]:
        """What was on a shelf before this instant lapses, and what is more than so many."""
        settings = self._settings(queue)
        if word == KEPT:
            return now, None
        if word == State.COMPLETED:
            return now - settings.keep, settings.keep_count
        return now - settings.keep_dead, settings.keep_dead_count

    def _over(self, name: str, most: int) -> int:
        """How many more are on a shelf, up to what goes at once."""
        ((count,),) = self._database.execute(MANY, {"shelf": name, "most": most + STEP})
        return max(0, int(count) - most)

    def _give_up(self, name: str, until: float, most: int) -> int:
        def work(tx: Transaction) -> list[str]:
            gone = tx.rows(LAPSED, {"shelf": name, "until": until, "most": most})
            tx.delete_notes([id for id, notes in gone if notes])
            return [row[0] for row in gone]

        return self._run(Deletion(work).run)

    def prune(self, queue: str, now: float) -> int:
        """Give up all that has lapsed in one queue; how many records went."""
        count = 0
        for word in (KEPT, State.COMPLETED, State.DEAD, State.EXPIRED, State.CANCELLED):
            name = shelf(word, queue)
            until, most = self._rule(word, queue, now)
            while gone := self._give_up(name, until, STEP):
                count += gone
            while most is not None and (over := self._over(name, most)):
                gone = self._give_up(name, _spared(word, now), over)
                count += gone
                if not gone:
                    break
        return count


class Deletion:
    """One deletion of some events, which deletes no more however often its transaction is repeated."""

    def __init__(self, work: Callable[[Transaction], list[str]]) -> None:
        self._work = work
        """Deletes, and tells the ids."""
        self._gone: list[str] = []
        """What the last transaction deleted, which may have been committed."""

    def run(self, tx: Transaction) -> int:
        """How many went."""
        if not (tx.again and self._gone and tx.event(self._gone[0]) is None):
            self._gone = self._work(tx)
        return len(self._gone)


def _spared(word: str, now: float) -> float:
    """What is on a shelf since this instant, or before, may go if there are too many."""
    return now - COUNT_SPARES if word == State.COMPLETED else now


# ---------------------------------------------------------------- by hand


def purge_open(tx: Transaction, queue: str, state: State) -> list[str]:
    """Delete some waiting events of a state; which went."""
    tx.change(PROMOTE, {"queue": stored(queue), "now": tx.now})
    which = f"(state = 'ready' OR ({FETCHED}))" if state is State.READY else "state = 'delayed'"
    statement = f"{FROM_EVENTS} WHERE queue = :queue AND {which} LIMIT :most {{skip}}"
    events = [StoredEvent(row) for row in tx.rows(statement, {"queue": stored(queue), "most": STEP})]
    for event in events:
        keys.free(tx, event)
        if event.awaited:
            tx.tell_watchers(event.id, forget=True)
    if events:
        tx.cursor.many("DELETE FROM {p}events WHERE id = :id", [{"id": event.id} for event in events])
        tx.delete_notes([event.id for event in events if event.notes])
    return [event.id for event in events]


def purge_ended(tx: Transaction, queue: str, state: State) -> list[str]:
    """Delete some records of a final state; which went."""
    gone = tx.rows(PURGED, {"queue": stored(queue), "state": str(state), "most": STEP})
    tx.delete_notes([id for id, notes in gone if notes])
    return [row[0] for row in gone]


PURGED = """DELETE FROM {p}ended WHERE id IN (
    SELECT id FROM {p}ended WHERE queue = :queue AND state = :state ORDER BY id LIMIT :most {skip})
    RETURNING id, notes"""


def drop(tx: Transaction, queue: str) -> int:
    """Delete a queue with everything in it, unless events of it are claimed: how many."""
    name = {"queue": stored(queue)}
    ((claimed,),) = tx.rows(CLAIMED, name)
    if claimed:
        return int(claimed)
    for (id,) in tx.rows("SELECT id FROM {p}events WHERE queue = :queue AND awaited = 1", name):
        tx.tell_watchers(id, forget=True)
    for statement in DROP:
        tx.change(statement, name)
    ((claimed,),) = tx.rows(CLAIMED, name)
    if claimed:
        raise StorageError(f"an event of queue {queue!r} was claimed in this moment; drop it later")
    return 0


CLAIMED = f"SELECT count(*) FROM {{p}}events WHERE queue = :queue AND {STARTED}"
DROP = (
    "DELETE FROM {p}notes WHERE id IN (SELECT id FROM {p}events WHERE queue = :queue AND notes > 0)",
    "DELETE FROM {p}notes WHERE id IN (SELECT id FROM {p}ended WHERE queue = :queue AND notes > 0)",
    f"DELETE FROM {{p}}events WHERE queue = :queue AND (state IN ('ready', 'delayed') OR ({FETCHED}))",
    "DELETE FROM {p}ended WHERE queue = :queue",
    "DELETE FROM {p}keys WHERE queue = :queue",
    "DELETE FROM {p}blocked WHERE queue = :queue",
    "DELETE FROM {p}queues WHERE name = :queue",
)
