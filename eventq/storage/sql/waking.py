"""Watches: each is a row that says whom to tell, and a bell here that rings when a word comes.

A watch of a queue is told once: who puts takes its row away. It registers again when a claim finds less than was asked
for. So a busy system, in which nobody watches, pays nothing for it.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

from eventq.errors import StorageError
from eventq.storage.bells import Bells
from eventq.storage.sql.schema import named, stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.storage.bells import PipeWatch
    from eventq.storage.sql.database import Cursor, Database

WAIT = """INSERT INTO {p}waiters (queue, worker, number) VALUES (:queue, :worker, :number)
    ON CONFLICT (queue, worker, number) DO NOTHING"""
WAIT_NO_MORE = "DELETE FROM {p}waiters WHERE queue = :queue AND worker = :worker AND number = :number"
AWAIT = "UPDATE {p}events SET awaited = 1 WHERE id = :id"
WATCH = "INSERT INTO {p}watchers (id, worker) VALUES (:id, :worker) ON CONFLICT (id, worker) DO NOTHING"
WATCH_NO_MORE = "DELETE FROM {p}watchers WHERE id = :id AND worker = :worker"


class SQLWatch:
    """A watch that is forgotten in the store when it is closed."""

    def __init__(self, pipe: PipeWatch, forget: Callable[[], None]) -> None:
        self._pipe = pipe
        self._forget: Callable[[], None] | None = forget

    def fileno(self) -> int:
        """Readable when there is a wake; -1 once closed."""
        return self._pipe.fileno()

    def clear(self) -> None:
        self._pipe.clear()

    def close(self) -> None:
        """Stop watching; harmless when repeated."""
        self._pipe.close()
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()


class Waking:
    """The watches of one worker."""

    def __init__(self, database: Database, worker: str) -> None:
        self._database = database
        self._worker = worker
        self._lock = threading.RLock()
        self._bells = Bells(self._lock)
        self._registering = threading.Lock()
        """Held while rows change, so that what is registered is what the last change said."""
        self._numbers = itertools.count(1)
        self._watches: dict[str, set[int]] = {}
        """Of each queue the watches that are open here, and those of them that were not told anything since they
        registered."""
        self._registered: dict[str, set[int]] = {}
        self._open: set[SQLWatch] = set()
        self._closed = False

    def queue(self, queue: str) -> SQLWatch:
        """A new watch of a queue."""
        number = next(self._numbers)
        with self._lock:
            pipe = self._bells.watch("queue", queue, lambda _: None)
            self._watches.setdefault(queue, set()).add(number)
            watch = SQLWatch(pipe, lambda: self._forget_queue(watch, queue, number))
            self._open.add(watch)
        self.register(queue)
        return watch

    def event(self, id: str, exists: bool) -> SQLWatch:
        """A new watch of an event; it rings at once if that is over."""
        with self._lock:
            pipe = self._bells.watch("event", id, lambda _: None)
            watch = SQLWatch(pipe, lambda: self._forget_event(watch, id))
            self._open.add(watch)
        if not (exists and self._register_event(id)):
            self.hear(f"event {id}")
        return watch

    # ------------------------------------------------------------------ rows

    def register(self, queue: str) -> None:
        """The next word about a queue may be for each watch of it that is open here."""
        if queue not in self._watches:
            return
        with self._registering:
            with self._lock:
                missing = self._watches.get(queue, set()) - self._registered.get(queue, set())
                self._registered.setdefault(queue, set()).update(missing)
            if missing:
                values = [{"queue": stored(queue), "worker": self._worker, "number": number} for number in missing]
                self._database.run_lightly(lambda cursor, _: cursor.many(WAIT, values))

    def _register_event(self, id: str) -> bool:
        values = {"id": id, "worker": self._worker}

        def work(cursor: Cursor, _again: bool) -> bool:
            if not cursor.change(AWAIT, {"id": id}):
                return False
            cursor.change(WATCH, values)
            return True

        with self._registering:
            return self._database.run_lightly(work)

    def _forget_queue(self, watch: SQLWatch, queue: str, number: int) -> None:
        with self._registering:
            with self._lock:
                self._open.discard(watch)
                for numbers in (self._watches, self._registered):
                    numbers.get(queue, set()).discard(number)
                    if queue in numbers and not numbers[queue]:
                        del numbers[queue]
            self._change(WAIT_NO_MORE, {"queue": stored(queue), "worker": self._worker, "number": number})

    def _forget_event(self, watch: SQLWatch, id: str) -> None:
        with self._registering:
            with self._lock:
                self._open.discard(watch)
                others = ("event", id) in self._bells
            if not others:
                self._change(WATCH_NO_MORE, {"id": id, "worker": self._worker})

    def _change(self, statement: str, values: dict[str, object]) -> None:
        if self._closed:
            return  # all rows of this worker went at once
        try:
            self._database.run_lightly(lambda cursor, _: cursor.change(statement, values))
        except StorageError:
            return  # what is left there wakes nobody, once

    # ------------------------------------------------------------------ words

    def hear(self, word: str) -> None:
        """Ring who waits for what a word tells. An empty one: others may have been missed."""
        kind, _, rest = word.partition(" ")
        with self._lock:
            if kind == "queue":
                number, _, queue = rest.partition(" ")
                self._registered.get(named(queue), set()).discard(int(number))
                self._bells.ring("queue", named(queue))
            elif kind == "event":
                self._bells.ring("event", rest, everybody=True)
            elif not kind:
                self._registered.clear()
                for every in ("queue", "event"):
                    for name in self._bells.names(every):
                        self._bells.ring(every, name, everybody=True)

    def renew(self) -> None:
        """Register all watches anew: others may have taken this worker for dead."""
        with self._lock:
            self._registered.clear()
            queues, events = list(self._watches), self._bells.names("event")
        for queue in queues:
            self.register(queue)
        for id in events:
            if not self._register_event(id):
                self.hear(f"event {id}")

    def be_forgotten(self) -> None:
        """In a child made by fork: what is registered is its parent's, and so are the locks."""
        self._closed = True
        self._registering = threading.Lock()

    def close(self) -> None:
        """Close all watches; their rows are somebody else's to delete."""
        self._closed = True
        for watch in list(self._open):
            watch.close()
