"""Notifications: what users are told, mostly that what they asked for has ended; kept for each until it is read.

record   what one is in the store; how it is put before what it tells of is settled
"""

from __future__ import annotations

import builtins
import heapq
import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

from eventq.clock import aware
from eventq.config import at_least_one
from eventq.errors import PayloadError
from eventq.model import Cancel, Delete, Filter, Requeue, State
from eventq.notifications.record import HEADER, Told, box_of, is_box, own_told, put_notification

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventq.model import Edit, Record
    from eventq.notifications.aio import AsyncNotifications
    from eventq.store import Store

__all__ = ["Notification", "Notifications", "Told", "put_notification"]

log: logging.Logger = logging.getLogger("eventq.notifications")

UNREAD, READ = State.READY, State.CANCELLED
PAGE = 1000
MARKED = {HEADER: True}
MOST_UNREAD = 10_000
"""Unread notifications of one user that pruning leaves: the newest."""


class Notification(Told, frozen=True, kw_only=True, omit_defaults=True):
    """A notification as the store has it: what `app.notifications.list` gives. Changing it changes nothing."""

    id: str
    """Its own id, which stays whether it is read or not."""
    at: datetime
    """When it was put."""
    unread: bool
    """Whether nobody has marked it as read."""
    read_at: datetime | None = None
    """When it was read; None while it is unread."""


class Notifications:
    """What users are told: `app.notifications`. May be used by many threads.

    A task that has `notify="ada"`, and a run that was started so, tells that user how it has ended; a program tells
    what it likes by `put`. A notification is kept for `keep_notifications` seconds (30 days) from when it was put, as
    the configuration says, and of those of one user the newest 10,000 unread ones; one that was read goes 14 days after
    that, if that is sooner (`keep_dead` of the queue `notifications-<user>`). Workers see to that now and then, and
    `prune` at once.

    Whoever has the store may read all of it: whose notifications somebody may ask for is the program's to decide.
    """

    __slots__ = ("_keep", "_store")

    def __init__(self, store: Store, keep: float) -> None:
        self._store = store
        self._keep = keep

    @property
    def store(self) -> Store:
        """The opened store that they are in."""
        return self._store

    @property
    def aio(self) -> AsyncNotifications:
        """The same, awaitable."""
        from eventq.notifications.aio import AsyncNotifications

        return AsyncNotifications(self)

    # ------------------------------------------------------------------ telling

    def put(self, user: str, message: str, /, **data: Any) -> str:
        """Tell a user something: a line of text, and what else belongs to it, by name. Durable when it returns; the id
        of the notification.

        Within a task or `with claim`, it says of which event. Raises TypeError, ConfigError for what is no user or no
        message; PayloadError for data that would not come back equal, or takes more than 64 KiB; StorageError.
        """
        return put_notification(self._store, own_told(self._store, user, message, data), None)

    # ------------------------------------------------------------------ reading

    def count(self, user: str, unread: bool | None = True) -> int:
        """How many there are for a user: unread ones, with False those that were read, with None all. Costs a look at
        each."""
        return sum(1 for _ in self._kept(box_of(user), unread))

    def read(self, user: str, *ids: str) -> int:
        """Mark notifications of a user as read; how many of these were unread. An id of anybody else's, or of none, is
        passed over."""
        return self._edited(user, ids, UNREAD, Cancel("read"), "cancelled")

    def read_all(self, user: str) -> int:
        """Mark all that a user has now as read; how many were unread."""
        return self._edited_all(box_of(user), self._kept(box_of(user), True), Cancel("read"), "cancelled")

    def unread(self, user: str, *ids: str) -> int:
        """Mark notifications of a user as unread again; how many of these were read. They keep their id, and their
        place in the list."""
        return self._edited(user, ids, READ, Requeue(), None)

    def remove(self, user: str, *ids: str) -> int:
        """Remove notifications of a user for good, read or not; how many there were."""
        return self._edited(user, ids, None, Delete(), "deleted")

    def prune(self, user: str | None = None) -> int:
        """Remove what is past its time, of one user, or of all, now; how many that were. Otherwise workers do it, now
        and then."""
        storage = self._store.storage
        boxes = [queue for queue in storage.queues() if is_box(queue)]
        return sum(self.prune_box(queue) for queue in boxes if user is None or queue == box_of(user))

    def list(self, user: str, unread: bool | None = None, limit: int = 50) -> builtins.list[Notification]:
        """The newest notifications of a user, the newest first; only unread ones, or only those that were read, if that
        is said. Costs a look at each that the user has."""
        at_least_one(limit)
        kept = {record.id: record for record in self._kept(box_of(user), unread)}
        return [self._shown(user, kept[id]) for id in heapq.nlargest(limit, kept)]

    # ------------------------------------------------------------------ what the layers above build on

    def prune_box(self, queue: str) -> int:
        """Remove what is past its time from the queue of one user; how many that were."""
        oldest, storage = self._oldest(), self._store.storage
        gone = storage.prune(queue)
        for state in (UNREAD, READ):
            old = self._scanned(queue, state, Filter(created_to=oldest, headers=MARKED))
            gone += self._edited_all(queue, old, Delete(), "deleted")
        unread = storage.stats(queue).ready
        if unread > MOST_UNREAD:
            ids = sorted(record.id for record in self._scanned(queue, UNREAD, Filter(headers=MARKED)))
            gone += self._edited_ids(queue, ids[:-MOST_UNREAD], Delete(), "deleted")
        return gone

    # ------------------------------------------------------------------ records

    def _oldest(self) -> float:
        """From when on they are kept."""
        return self._store.clock.now() - self._keep

    def _kept(self, queue: str, unread: bool | None) -> Iterator[Record]:
        states = (UNREAD, READ) if unread is None else (UNREAD,) if unread else (READ,)
        for state in states:
            yield from self._scanned(queue, state, Filter(created_from=self._oldest(), headers=MARKED))

    def _scanned(self, queue: str, state: State, filter: Filter) -> Iterator[Record]:
        cursor: str | None = None
        while True:
            page = self._store.storage.scan(queue, state, filter, cursor, PAGE)
            yield from page.records
            cursor = page.cursor
            if cursor is None:
                return

    def _shown(self, user: str, record: Record) -> Notification:
        at, is_unread = aware(record.created), record.state is UNREAD
        read_at = None if is_unread or record.settled is None else aware(record.settled)
        try:
            told: Told = self._store.load(record.payload, record.codec, Told)
        except PayloadError as error:  # put by hand, or with a codec that is unknown here: it must not hide the others
            told = Told(user=user, message="a notification that cannot be read here", left_out=str(error))
        said = {name: getattr(told, name) for name in Told.__struct_fields__}
        return Notification(id=record.id, at=at, unread=is_unread, read_at=read_at, **said)

    # ------------------------------------------------------------------ changing

    def _edited(self, user: str, ids: Sequence[str], state: State | None, edit: Edit, word: str | None) -> int:
        """Edit those of the ids that are this user's: to a storage, a queue is only a hint where to look."""
        queue, storage = box_of(user), self._store.storage
        records = [storage.get(id) for id in dict.fromkeys(ids)]
        own = [each for each in records if each is not None and _is_one(each, queue) and state in (None, each.state)]
        return self._edited_ids(queue, [each.id for each in own], edit, word)

    def _edited_all(self, queue: str, records: Iterator[Record], edit: Edit, word: str | None) -> int:
        return self._edited_ids(queue, [record.id for record in records], edit, word)

    def _edited_ids(self, queue: str, ids: Sequence[str], edit: Edit, word: str | None) -> int:
        """Edit them; how many were answered with this word, or else with their own id."""
        done = 0
        for start in range(0, len(ids), PAGE):
            part = ids[start : start + PAGE]
            answers = self._store.storage.edit(queue, part, edit)
            done += sum(answer == (word or id) for id, answer in zip(part, answers, strict=True))
        return done


def _is_one(record: Record, queue: str) -> bool:
    """Whether an event is a notification in this queue."""
    return record.queue == queue and HEADER in record.headers
