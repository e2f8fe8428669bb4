"""The careful claim: of a queue where some events need a place, a rate, or a look before they are started.

Events wait in groups of equal needs (the column `needs`), each in the order of claims. A claim looks at the first of
each group that it may start, and takes the first of these: it costs as much as there are groups, not events.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from eventq.model import State
from eventq.retry import is_suspect
from eventq.storage.sql import ahead, keys, limits, settling
from eventq.storage.sql.rows import CLAIM, FROM_EVENTS, NEEDY, STARTED, StoredEvent
from eventq.storage.sql.schema import stored

if TYPE_CHECKING:
    from eventq.storage.sql.database import Database, Row
    from eventq.storage.sql.rows import Options
    from eventq.storage.sql.transaction import Run, Transaction

EXPIRED_STEP = 100
AT_ONCE = 32
"""Events of a group that are read at once, at most."""

PROMOTE = "UPDATE {p}events SET state = 'ready' WHERE queue = :queue AND state = 'delayed' AND due <= :now"
GROUPS = """WITH RECURSIVE found (needs) AS (
    SELECT min(needs) FROM {p}events WHERE queue = :queue AND state = 'ready'
    UNION ALL SELECT (SELECT min(needs) FROM {p}events WHERE queue = :queue AND state = 'ready' AND needs > found.needs)
    FROM found WHERE found.needs IS NOT NULL) SELECT needs FROM found WHERE needs IS NOT NULL"""
GROUPS_WITH_NEEDS = GROUPS.replace("state = 'ready'\n", "state = 'ready' AND needs > '~'\n", 1)
HEADS = (
    FROM_EVENTS
    + " WHERE queue = :queue AND state = 'ready' AND needs = :needs ORDER BY priority DESC, place, id LIMIT :most"
)
EXPIRED = """SELECT id FROM {p}events
    WHERE queue = :queue AND state = 'ready' AND needs > '~' AND expires <= :now
    ORDER BY expires LIMIT :most"""
START = """UPDATE {p}events SET state = 'claimed', worker = :worker, token = :number, started = :now,
    progress = progress + 1 WHERE id = :id"""
"""Of an event that is locked and was looked at: by its id alone, so that no plan goes by what is ready."""
MINE = FROM_EVENTS + f" WHERE {STARTED} AND worker = :worker AND queue = :queue AND token = :number"


NEXT_DUE = "SELECT min(due) FROM {p}events WHERE queue = :queue AND state = 'delayed'"
SPECIAL = """SELECT 1 FROM {p}events WHERE queue = :queue AND state = 'ready' AND needs > ''
    UNION ALL SELECT 1 FROM {p}events
    WHERE queue = :queue AND state = 'delayed' AND due <= :now AND needs > '' LIMIT 1"""
DUE = "SELECT 1 FROM {p}events WHERE queue = :queue AND state = 'delayed' AND due <= :now LIMIT 1"
PLAIN = f"""UPDATE {{p}}events SET state = 'claimed', worker = :worker, token = :number, started = :now,
    progress = progress + 1 WHERE state = 'ready' AND id IN (
        SELECT id FROM {{p}}events WHERE queue = :queue AND state = 'ready' AND needs = ''
        ORDER BY priority DESC, place, id LIMIT :limit {{skip}})
    RETURNING {", ".join(CLAIM)}"""
PLAIN_MINE = f"""SELECT {", ".join(CLAIM)} FROM {{p}}events
    WHERE state = 'claimed' AND worker = :worker AND queue = :queue AND token = :number"""


def plain(tx: Transaction, queue: str, limit: int, number: int) -> list[Row] | None:
    """Claim plain events: see `SQLStorage._claim_plain`."""
    values = {"queue": stored(queue), "worker": tx.worker, "number": number}
    rows = tx.rows(PLAIN_MINE, values) if tx.again else []
    if not rows:
        if tx.rows(SPECIAL, {"queue": stored(queue), "now": tx.now}):
            return None
        tx.change(PROMOTE, {"queue": stored(queue), "now": tx.now})
        rows = tx.rows(PLAIN, {**values, "now": tx.now, "limit": limit})
        rows = rows or ahead.take_over(tx, queue, limit, number)
    return sorted(rows, key=in_order)


def fetch_plain(tx: Transaction, queue: str, limit: int, number: int) -> list[Row]:
    """Fetch plain events, if nothing else may be claimed: see `SQLStorage._fetch_plain`."""
    look = {"queue": stored(queue), "now": tx.now}
    if tx.rows(SPECIAL, look) or tx.rows(DUE, look):
        return []
    return sorted(ahead.fetch(tx, queue, limit, number), key=in_order)


def in_order(row: Row) -> tuple[int, int, str]:
    """The order of claims, of rows with the columns of `CLAIM`."""
    return -row[1], row[2], row[0]


def careful(tx: Transaction, queue: str, limit: int, number: int, alone: bool) -> Taken:
    """Claim what may be started of a queue, one after the other."""
    return CarefulClaim(tx, queue, limit, number, alone).run()


def next_due(database: Database, run: Run, queue: str, now: float) -> float:
    """When the next event of a queue may be started that may not be now, for its time or for its rates."""
    ((due,),) = database.execute(NEXT_DUE, {"queue": stored(queue)})
    times = [] if due is None else [float(due)]
    for (needs,) in database.execute(GROUPS_WITH_NEEDS, {"queue": stored(queue)}):
        values = {"queue": stored(queue), "needs": needs, "most": 1}
        for row in database.execute(HEADS, values):
            rates = StoredEvent(row).options.rates
            if rates and limits.are_ahead(database, rates, now):
                run(functools.partial(limits.set_back, rates=rates))
            at = limits.free_at(database, rates, now) if rates else now
            times += [at] if at > now else []
    return min(times, default=math.inf)


class Taken:
    """What one claim took."""

    __slots__ = ("events", "suspect")

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []
        self.suspect: str | None = None
        """The id of an event that must run alone, and was met while other things run."""


class CarefulClaim:
    """One claim of a queue, within one transaction."""

    def __init__(self, tx: Transaction, queue: str, limit: int, number: int, alone: bool) -> None:
        self._tx = tx
        self._queue = queue
        self._limit = limit
        self._number = number
        self._alone = alone
        """Whether this worker runs nothing else."""
        self._taken = Taken()

    def run(self) -> Taken:
        tx = self._tx
        values = {"queue": stored(self._queue), "worker": tx.worker, "number": self._number}
        if tx.again and (mine := tx.rows(MINE, values)):  # what was committed before the connection was lost
            self._taken.events = sorted(map(StoredEvent, mine), key=order)
            return self._taken
        tx.change(PROMOTE, {"queue": stored(self._queue), "now": tx.now})
        self._expire()
        room = self._room()
        while len(self._taken.events) < room and (heads := self._heads(min(room - len(self._taken.events), AT_ONCE))):
            if not self._start_some(heads, room):
                break
        if not self._taken.events and room > 0:
            self._start_some(ahead.fetched_by_others(tx, self._queue, room), room)
        return self._taken

    def _expire(self) -> None:
        """End what waits for a place, or a rate, and is past its expiry: nothing else may reach it in time."""
        tx = self._tx
        values = {"queue": stored(self._queue), "now": tx.now, "most": EXPIRED_STEP}
        for (id,) in tx.rows(EXPIRED, values):
            event = tx.open_event(id)
            if event is not None and event.state is State.READY:
                settling.must_not_start(tx, event)

    def _room(self) -> int:
        """How many may be started: as asked, or what the queue's own limit leaves."""
        most = self._tx.settings(self._queue).concurrency
        if most is None:
            return self._limit
        self._tx.cursor.serialize("queue " + stored(self._queue))
        statement = f"SELECT count(*) FROM {{p}}events WHERE {STARTED} AND queue = :queue"
        ((held,),) = self._tx.rows(statement, {"queue": stored(self._queue)})
        return min(self._limit, most - int(held))

    def _start_some(self, heads: list[StoredEvent], room: int) -> bool:
        """Start what may be started; False: nothing more may be. Each look at the heads finds less to start."""
        return all(len(self._taken.events) < room and self._start(event) for event in heads)

    def _heads(self, most: int) -> list[StoredEvent]:
        """The first events of the groups that this worker may start now, in order, as far as it is known."""
        tx = self._tx
        groups: list[list[StoredEvent]] = []
        for (needs,) in tx.rows(GROUPS, {"queue": stored(self._queue)}):
            values = {"queue": stored(self._queue), "needs": needs, "most": most}
            group = [StoredEvent(row) for row in tx.rows(HEADS, values)]
            if group and tx.worker not in group[0].history.skippers and self._may_start(group[0].options):
                groups.append(group)
        limits.hold_names(tx, [group[0].options for group in groups if group[0].needs.startswith(NEEDY)])
        known = min((order(group[-1]) for group in groups if len(group) == most), default=None)
        heads = sorted((event for group in groups for event in group), key=order)
        return heads if known is None else [event for event in heads if order(event) <= known]

    def _may_start(self, options: Options) -> bool:
        tx = self._tx
        if options.rates:
            limits.set_back(tx, options.rates)
            if limits.free_at(tx.cursor, options.rates, tx.now) > tx.now:
                return False
        if options.limits and limits.free_places(tx, options.limits) is None:
            limits.wait_for_places(tx, self._queue, options.limits)
            return False
        return True

    def _start(self, event: StoredEvent) -> bool:
        """Start an event, if that may be; False: nothing else may be started. Also one that another worker fetched."""
        tx, options = self._tx, event.options
        locked = tx.open_event(event.id)
        if locked is None or locked.state is not State.READY or locked.queue != self._queue:
            return True  # another worker has it
        if settling.must_not_start(tx, locked):
            return True
        if not self._may_start(options):
            return True  # nor may the rest of its group, which is then no head
        suspect = is_suspect(locked.history.crashes, options.max_crashes)
        if suspect and not (self._alone and not self._taken.events):
            self._taken.suspect = locked.id
            return False
        limits.take_places(tx, locked.id, limits.free_places(tx, options.limits) or {})
        limits.count_start(tx, options.rates)
        if options.unique == "waiting":
            keys.free(tx, locked)
        values = {"id": locked.id, "queue": stored(self._queue), "worker": tx.worker, "number": self._number}
        tx.change(START, {**values, "now": tx.now})
        self._taken.events.append(locked)
        return not suspect


def order(event: StoredEvent) -> tuple[int, int, str]:
    """The order of claims."""
    return -event.priority, event.place, event.id
