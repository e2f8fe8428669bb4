"""Puts in a transaction of the caller's: they exist once it is committed, and never if it is rolled back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq import ids
from eventq.errors import QueueFull
from eventq.storage.checks import check_key, check_key_of_several, check_name, check_sizes, encode_headers
from eventq.storage.sql import puts, reading
from eventq.storage.sql.schema import stored
from eventq.storage.sql.settings import MAKE
from eventq.storage.sql.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventq.clock import Clock
    from eventq.model import PutOptions
    from eventq.storage.sql.database import Cursor
    from eventq.storage.sql.settings import QueueSettings


class Within:
    """What `Storage.within` gives. Not for several threads at once, as its connection is not."""

    def __init__(
        self, cursor: Cursor, queues: QueueSettings, stem: Callable[[], str], clock: Clock, worker: str
    ) -> None:
        self._cursor = cursor
        self._queues = queues
        self._stem = stem
        self._clock = clock
        self._worker = worker

    def put(self, queue: str, payloads: Sequence[bytes], options: PutOptions) -> list[str]:
        """As `Storage.put`, once the caller commits."""
        if options.key is not None:
            check_key_of_several(options)
        check_name(queue)
        headers = encode_headers(options)
        with self._cursor.whole():
            tx = self._begin(queue, payloads)
            if not payloads:
                return []
            if options.key is not None:
                return ids.of_same_put(self._put_key(tx, queue, payloads, headers, options)[0], len(payloads))
            self._admit(tx, queue, len(payloads))
            rows = puts.new_rows(queue, payloads, headers, options, self._stem(), tx.now)
            puts.insert(tx, queue, rows)
            return [row[0] for row in rows]

    def put_key(self, queue: str, payload: bytes, options: PutOptions) -> tuple[str, bool]:
        """As `Storage.put_key`, once the caller commits."""
        check_key(options)
        check_name(queue)
        headers = encode_headers(options)
        with self._cursor.whole():
            return self._put_key(self._begin(queue, [payload]), queue, [payload], headers, options)

    def _put_key(
        self, tx: Transaction, queue: str, payloads: Sequence[bytes], headers: bytes, options: PutOptions
    ) -> tuple[str, bool]:
        put = puts.KeyedPut(queue, payloads, headers, options, self._stem())
        try:
            return put.run(tx, tx.settings(queue).maxsize is None)
        except puts.NeedsRoom:
            self._admit(tx, queue, len(payloads))
            return put.run(tx, True)

    def _begin(self, queue: str, payloads: Sequence[bytes]) -> Transaction:
        cursor = self._cursor
        known = self._queues.known(queue, cursor)
        check_sizes(payloads, known.settings.max_bytes)
        if payloads and not known.exists:
            cursor.change(MAKE, {"name": stored(queue)})
        return Transaction(
            cursor, False, self._worker, self._clock.now(), lambda name: self._queues.known(name, cursor).settings
        )

    def _admit(self, tx: Transaction, queue: str, count: int) -> None:
        """Raises QueueFull. What the caller's transaction has put counts, as it sees it."""
        maxsize = tx.settings(queue).maxsize
        if maxsize is not None and reading.waiting(tx.cursor, queue) + count > maxsize:
            raise QueueFull(queue, maxsize, count)
