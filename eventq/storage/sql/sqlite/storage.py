"""A store in a SQLite database, of the standard library: one file, which may be the application's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq.clock import SYSTEM, Clock
from eventq.config import masked
from eventq.storage.sql import ahead, schema
from eventq.storage.sql.claims import DUE, PLAIN, SPECIAL, in_order
from eventq.storage.sql.rows import PUT
from eventq.storage.sql.schema import stored
from eventq.storage.sql.settling import COMPLETE
from eventq.storage.sql.sqlite.database import SQLiteDatabase
from eventq.storage.sql.sqlite.url import target
from eventq.storage.sql.sqlite.within import cursor_within
from eventq.storage.sql.storage import SQLStorage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventq.storage.sql.database import Cursor, Row

WAITS = "SELECT EXISTS (SELECT 1 FROM {p}waiters WHERE queue = ?)"
STORE_MANY = (
    f"INSERT INTO {{p}}events ({', '.join(PUT)}) VALUES ({', '.join('?' * len(PUT))}) ON CONFLICT (id) DO NOTHING"
)
STORE = f"{STORE_MANY} RETURNING ({WAITS})"
"""Takes a row, and the queue again."""
CONDITION = f"AND needs = '' AND NOT EXISTS ({SPECIAL}) AND NOT EXISTS ({DUE})"
CLAIM = PLAIN.replace("AND needs = ''", CONDITION)
"""Claims plain events if nothing else is ready or due, in one statement."""
CLAIM_ONE = CLAIM.replace("id IN (", "id = (")
"""Claims one: without a list of those to claim it costs a tenth less."""
FETCH = ahead.FETCH.replace("AND needs = ''", CONDITION)
READY = "SELECT 1 FROM {p}events WHERE queue = :queue AND state = 'ready'"
FETCHED = f"SELECT 1 FROM {{p}}events {ahead.OTHERS}"
LOOK = f"SELECT EXISTS ({SPECIAL}) OR EXISTS ({DUE}) OR EXISTS ({READY}) OR EXISTS ({FETCHED})"


class SQLiteStorage(SQLStorage):
    """One worker's view of a store in a SQLite database; its tables are named `eventq_...`, and made in a database that
    has none. All processes that open it are on one machine, and beside it is a folder with a FIFO for each worker.

    What was put survives a power cut, unless the URL says `synchronous=normal`. On a full disk all goes on until the
    log is full, which has 8 MiB from the start. A disk that is full ends no claim: then `settle` raises as well, and
    the claim is held still. Raises ConfigError for a URL that cannot be, StorageError for
    what is no database, and for tables of another version.
    """

    def __init__(self, url: str, *, clock: Clock = SYSTEM) -> None:
        self._sqlite = SQLiteDatabase(target(url))
        self._empty: set[str] = set()
        """Queues in which the last claim found nothing: the next one looks before it writes."""
        try:
            if schema.version(self._sqlite) == 0:
                schema.migrate(self._sqlite)
            schema.check_version(self._sqlite, masked(url))
        except BaseException:
            self._sqlite.close()
            raise
        super().__init__(self._sqlite, clock)

    def _cursor_within(self, connection: object) -> Cursor:
        return cursor_within(connection, self._sqlite)

    # ------------------------------------------------------------------ hot paths

    def _put_plain(self, queue: str, rows: Sequence[Row]) -> None:
        if len(rows) > 1:
            waits = self._sqlite.write_many(STORE_MANY, rows, WAITS, (stored(queue),))
        else:
            waits = self._sqlite.write(STORE, (*rows[0], stored(queue)))
        if waits == [(1,)]:
            self._run(lambda tx: tx.ring(queue), lasting=False)

    def _claim_plain(self, queue: str, limit: int, number: int, now: float) -> list[Row] | None:
        look = {"queue": stored(queue), "now": now, "worker": self.worker}
        rows: list[Row] = []
        if queue not in self._empty:
            values = {**look, "number": number, "limit": limit}
            rows = self._sqlite.write(CLAIM_ONE if limit == 1 else CLAIM, values)
        if not rows:
            if self._sqlite.execute(LOOK, look) == [(1,)]:
                self._empty.discard(queue)
                return super()._claim_plain(queue, limit, number, now)
            self._empty.add(queue)
        return sorted(rows, key=in_order)

    def _fetch_plain(self, queue: str, limit: int, number: int, now: float) -> list[Row]:
        if queue in self._empty:
            return []
        values = {"queue": stored(queue), "now": now, "worker": self.worker, "number": number, "limit": limit}
        return sorted(self._sqlite.write(FETCH, values), key=in_order)

    def _start_plain(self, id: str, number: int, now: float) -> bool:
        values = {"id": id, "worker": self.worker, "number": number, "now": now}
        return bool(self._sqlite.write(ahead.START, values, lasting=False))

    def _settle_plain(self, id: str, number: int) -> bool:
        gone = self._sqlite.write(COMPLETE, {"id": id, "worker": self.worker, "number": number})
        if gone and gone[0][0]:
            self._run(lambda tx: tx.tell_watchers(id, forget=True), lasting=False)
        return bool(gone)
