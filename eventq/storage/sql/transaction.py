"""One transaction of one worker, and what is told when it is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from eventq.storage.sql.database import NOTHING
from eventq.storage.sql.rows import FROM_ENDED, FROM_EVENTS, StoredEvent
from eventq.storage.sql.schema import stored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from eventq.model import Settings
    from eventq.storage.sql.database import Cursor, Row

T = TypeVar("T")
TRIES = 3


class Run(Protocol):
    """Does some work in a transaction, and commits it; what it returned."""

    def __call__(self, work: Callable[[Transaction], T], now: float | None = None) -> T: ...


class Transaction:
    """A cursor, and who acts when. Whatever changes events is a function that is given one."""

    __slots__ = ("again", "cursor", "now", "settings", "worker")

    def __init__(
        self, cursor: Cursor, again: bool, worker: str, now: float, settings: Callable[[str], Settings]
    ) -> None:
        self.cursor: Cursor = cursor
        self.again: bool = again
        """Whether this very work may have been committed already."""
        self.worker: str = worker
        self.now: float = now
        self.settings: Callable[[str], Settings] = settings
        """The settings of a queue, by its name."""

    def rows(self, statement: str, values: Mapping[str, Any] = NOTHING) -> list[Row]:
        return self.cursor.execute(statement, values)

    def change(self, statement: str, values: Mapping[str, Any] = NOTHING) -> int:
        return self.cursor.change(statement, values)

    # ------------------------------------------------------------------ events

    def open_event(self, id: str) -> StoredEvent | None:
        """An open event, which nobody else changes until the end of this transaction."""
        rows = self.rows(f"{FROM_EVENTS} WHERE id = :id {{lock}}", {"id": id})
        return StoredEvent(rows[0]) if rows else None

    def event(self, id: str) -> StoredEvent | None:
        """An event, open or over, likewise."""
        for _ in range(TRIES):  # between two looks it may go from one table to the other
            if (event := self.open_event(id)) is not None:
                return event
            rows = self.rows(f"{FROM_ENDED} WHERE id = :id {{lock}}", {"id": id})
            if rows:
                return StoredEvent(rows[0])
        return None

    # ------------------------------------------------------------------ words

    def ring(self, queue: str, everybody: bool = False) -> None:
        """Tell a watch of a queue, or all, that it is worth looking. Each is told once until it registers again."""
        for worker, number in self.rows(TAKE_WAITERS if everybody else TAKE_WAITER, {"queue": stored(queue)}):
            self.cursor.tell(worker, f"queue {number} {stored(queue)}")

    def tell_watchers(self, id: str, forget: bool) -> None:
        """Tell who watches an event of a note, or of its end: then nothing more will come."""
        statement = "SELECT worker FROM {p}watchers WHERE id = :id"
        for (worker,) in self.rows(statement, {"id": id}):
            self.cursor.tell(worker, f"event {id}")
        if forget:
            self.change("DELETE FROM {p}watchers WHERE id = :id", {"id": id})

    def delete_notes(self, ids: Sequence[str]) -> None:
        if ids:
            self.cursor.many("DELETE FROM {p}notes WHERE id = :id", [{"id": id} for id in ids])


TAKE_WAITER = """DELETE FROM {p}waiters WHERE (queue, worker, number) IN (
    SELECT queue, worker, number FROM {p}waiters WHERE queue = :queue LIMIT 1 {skip}) RETURNING worker, number"""
TAKE_WAITERS = "DELETE FROM {p}waiters WHERE queue = :queue RETURNING worker, number"
