"""Places and rates: what an event with needs must have before it is started, over all queues and workers.

Who wants to start such events holds the names that they give, in order, until its transaction ends: so several never
wait for each other in a circle, and what was free when it looked is free when it takes it. Who ends one only deletes
rows, and needs no name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq.model import MAX_PLACES
from eventq.storage.sql.schema import digest, named, stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventq.storage.sql.database import Cursor, Database
    from eventq.storage.sql.rows import Options, StoredEvent
    from eventq.storage.sql.transaction import Transaction

RATES_STEP = 64
"""Names of which no start counts any more that one look forgets at most."""


def hold_names(tx: Transaction, needs: list[Options]) -> None:
    """Nobody else takes places or counts starts of these names until the end of the transaction."""
    names = {"place " + digest(name) for options in needs for name in options.limits}
    names |= {"rate " + digest(name) for options in needs for name in options.rates}
    for name in sorted(names):
        tx.cursor.serialize(name)


# ---------------------------------------------------------------- places


def free_places(tx: Transaction, limits: Mapping[str, int]) -> dict[str, int] | None:
    """The lowest free place of each name; None, and who waits is remembered, if there is none of one."""
    free = {}
    for name, places in limits.items():
        held = {
            row[0] for row in tx.rows("SELECT place FROM {p}places WHERE digest = :digest", {"digest": digest(name)})
        }
        place = next((place for place in range(places) if place not in held), None)
        if place is None:
            return None
        free[name] = place
    return free


HELD = "SELECT place FROM {p}places WHERE digest = :digest"


def wait_for_places(tx: Transaction, queue: str, limits: Mapping[str, int]) -> None:
    """Whoever frees a place of these names wakes a claimer of this queue."""
    for name in limits:
        values = {"digest": digest(name), "queue": stored(queue)}
        tx.change("INSERT INTO {p}blocked (digest, queue) VALUES (:digest, :queue) ON CONFLICT DO NOTHING", values)


def take_places(tx: Transaction, id: str, free: Mapping[str, int]) -> None:
    for name, place in free.items():
        values = {"digest": digest(name), "place": place, "id": id}
        tx.change("INSERT INTO {p}places (digest, place, id) VALUES (:digest, :place, :id)", values)


def free(tx: Transaction, event: StoredEvent) -> None:
    """A claimed event runs no more: its places are free, and who waits for them, or for its turn in a queue that
    lets only so many run, hears of it."""
    if event.options.limits:
        for (name,) in tx.rows("DELETE FROM {p}places WHERE id = :id RETURNING digest", {"id": event.id}):
            for (queue,) in tx.rows("DELETE FROM {p}blocked WHERE digest = :digest RETURNING queue", {"digest": name}):
                tx.ring(named(queue))
    if tx.settings(event.queue).concurrency is not None:
        tx.ring(event.queue)


# ---------------------------------------------------------------- rates


def free_at(cursor: Cursor | Database, rates: Mapping[str, tuple[int, float]], now: float) -> float:
    """When all of these rates let another event start."""
    return max(_free_at(cursor, digest(name), *rate, now) for name, rate in rates.items())


def _free_at(cursor: Cursor | Database, name: str, places: int, seconds: float, now: float) -> float:
    rows = cursor.execute(NTH_LAST, {"digest": name, "back": places - 1})
    if not rows:
        return 0.0
    # what was started later than now: the clock was set back, or it would count until the clock is there again
    return float(min(rows[0][0], now) + seconds)


NTH_LAST = """SELECT starts.at FROM {p}starts AS starts, {p}rates AS rates
    WHERE rates.digest = :digest AND starts.digest = :digest AND starts.number = rates.last - :back"""


def are_ahead(cursor: Cursor | Database, rates: Mapping[str, tuple[int, float]], now: float) -> bool:
    """Whether something was started later than now: the clock was set back."""
    return any(cursor.execute(AHEAD, {"digest": digest(name), "now": now}) for name in rates)


def set_back(tx: Transaction, rates: Mapping[str, tuple[int, float]]) -> None:
    """What was started later than now counts as started now, for ever."""
    for name in rates:
        values = {"digest": digest(name), "now": tx.now}
        if tx.rows(AHEAD, values):
            tx.change("UPDATE {p}starts SET at = :now WHERE digest = :digest AND at > :now", values)
            tx.change("UPDATE {p}rates SET ends = :now + seconds WHERE digest = :digest", values)


AHEAD = "SELECT 1 FROM {p}rates WHERE digest = :digest AND ends - seconds > :now"


def count_start(tx: Transaction, rates: Mapping[str, tuple[int, float]]) -> None:
    """An event with these rates is started now."""
    for name, (_, seconds) in rates.items():
        values = {"digest": digest(name), "now": tx.now, "seconds": float(seconds), "ends": tx.now + seconds}
        ((number,),) = tx.rows(COUNT, values)
        values = {"digest": values["digest"], "number": number, "now": tx.now, "past": number - MAX_PLACES}
        tx.change("INSERT INTO {p}starts (digest, number, at) VALUES (:digest, :number, :now)", values)
        tx.change("DELETE FROM {p}starts WHERE digest = :digest AND number = :past", values)


COUNT = """INSERT INTO {p}rates AS rates (digest, last, seconds, ends) VALUES (:digest, 1, :seconds, :ends)
    ON CONFLICT (digest) DO UPDATE SET last = rates.last + 1,
    seconds = CASE WHEN rates.seconds > :seconds THEN rates.seconds ELSE :seconds END,
    ends = :now + CASE WHEN rates.seconds > :seconds THEN rates.seconds ELSE :seconds END RETURNING last"""


def forget_starts(database: Database, now: float) -> None:
    """Forget names of which no start counts any more."""
    statement = "SELECT digest FROM {p}rates WHERE ends <= :now LIMIT :step"
    for (name,) in database.execute(statement, {"now": now, "step": RATES_STEP}):

        def work(cursor: Cursor, _again: bool, name: str = name) -> None:
            cursor.serialize("rate " + name)
            if cursor.change("DELETE FROM {p}rates WHERE digest = :name AND ends <= :now", {"name": name, "now": now}):
                cursor.change("DELETE FROM {p}starts WHERE digest = :name", {"name": name})

        database.run(work)
