"""Who has joined the store, who is dead, and what is done with what the dead leave."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import msgspec

from eventq.model import Released, State, Worker
from eventq.storage.endings import ending
from eventq.storage.observed import Observed
from eventq.storage.sql import ahead, settling
from eventq.storage.sql.rows import STARTED
from eventq.storage.sql.schema import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventq.clock import Clock
    from eventq.storage.sql.database import Database
    from eventq.storage.sql.transaction import Run, Transaction

SILENCE = 15.0
"""Seconds without a sign of a worker that joined before the server was restarted; it may be on its way back."""
STEP = 100
"""Claims that go back in one transaction, at most."""

JOIN = """INSERT INTO {p}workers (worker, pid, host, since, incarnation, introduction)
    VALUES (:worker, :pid, :host, :since, :incarnation, :introduction) ON CONFLICT (worker) DO UPDATE
    SET incarnation = :incarnation, introduction = :introduction"""
KNOWN = """WITH RECURSIVE holder (worker) AS (SELECT min(worker) FROM {p}events WHERE state = 'claimed' UNION ALL
        SELECT (SELECT min(worker) FROM {p}events WHERE state = 'claimed' AND worker > holder.worker)
        FROM holder WHERE holder.worker IS NOT NULL)
    SELECT worker, incarnation FROM {p}workers
    UNION ALL SELECT worker, NULL FROM holder WHERE worker IS NOT NULL
    AND worker NOT IN (SELECT worker FROM {p}workers)"""
"""Also those that hold something and are not listed: one that was taken for dead, and died later."""
HELD = f"SELECT id FROM {{p}}events WHERE {STARTED} AND worker = :worker LIMIT :step"
LEAVE = tuple(
    f"DELETE FROM {{p}}{table} WHERE worker = :worker" for table in ("slots", "waiters", "watchers", "workers")
)


class Presence:
    """One worker's own presence, and what it knows of the others'."""

    def __init__(self, database: Database, clock: Clock, worker: str) -> None:
        self._database = database
        self._clock = clock
        self._worker = worker
        self._absent = Observed()
        self._introduction = b"[[],[]]"
        self._since = clock.now()
        self.joined: bool = False

    # ------------------------------------------------------------------ this worker

    def join(self, hear: Callable[[str], None]) -> None:
        """Be alive in the store, and listed. First alive: who is listed and not alive is dead."""
        self._database.join(self._worker, hear)
        self.be_listed()
        self.joined = True

    def be_listed(self) -> None:
        """Be listed, as it is now."""
        values = {
            "worker": self._worker, "pid": os.getpid(), "host": os.uname().nodename, "since": self._since,
            "incarnation": self._database.incarnation, "introduction": self._introduction.decode(),
        }  # fmt: skip
        self._database.run(lambda cursor, _: cursor.change(JOIN, values))

    def introduce(self, said: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
        self._introduction = msgspec.json.encode(said)

    def leave(self, run: Run) -> None:
        """Give back what this worker holds, and be gone."""
        if self.joined:
            self.joined = False
            take_back(run, self._worker, lambda tx, event: _release(tx, event, self._worker))
            self._database.leave()

    # ------------------------------------------------------------------ the others

    def dead(self) -> list[str]:
        """The workers that are dead, as far as this one can tell by now. Also lists this one again if it is not."""
        listed: dict[str, str | None] = {row[0]: row[1] for row in self._database.execute(KNOWN)}
        if self.joined and listed.pop(self._worker, None) is None:
            self.be_listed()
        others = {worker: came for worker, came in listed.items() if worker != self._worker}
        alive = self._database.present(others) if others else set()
        gone = {worker: came for worker, came in others.items() if worker not in alive}
        seconds = self._absent.look(gone, self._clock.monotonic())
        now = self._database.incarnation
        return [
            worker for worker, came in gone.items()
            if seconds[worker] >= (self._database.absence if came in (None, now) else SILENCE)
        ]  # fmt: skip

    def workers(self) -> list[Worker]:
        """All that are listed and not seen to be gone."""
        rows = self._database.execute("SELECT worker, pid, host, since, incarnation, introduction FROM {p}workers")
        alive = self._database.present([row[0] for row in rows])
        claims: dict[str, list[tuple[str, str]]] = {}
        for worker, queue, id in self._database.execute(CLAIMS):
            claims.setdefault(worker, []).append((named(queue), id))
        found = []
        for id, pid, host, since, came, introduction in rows:
            if id not in alive and came == self._database.incarnation:
                continue
            serves, tasks = msgspec.json.decode(introduction, type=tuple[tuple[str, ...], tuple[str, ...]])
            held = claims.get(id, [])
            found.append(Worker(
                id=id, pid=pid, host=host, since=since, claims=tuple(sorted(claim[1] for claim in held)),
                queues=tuple(sorted({claim[0] for claim in held})), serves=serves, tasks=tasks,
            ))  # fmt: skip
        return found


CLAIMS = f"SELECT worker, queue, id FROM {{p}}events WHERE {STARTED}"


def take_back(run: Run, worker: str, end: Callable[[Transaction, str], None]) -> int:
    """End all claims of a worker, some at a time, and forget it; how many they were."""
    count = 0

    def some(tx: Transaction) -> int:
        held = tx.rows(HELD, {"worker": worker, "step": STEP})
        for (id,) in held:
            end(tx, id)
        if len(held) < STEP:
            ahead.give_back(tx, worker)
            for statement in LEAVE:
                tx.change(statement, {"worker": worker})
        return len(held)

    while True:
        ended = run(some)
        count += ended
        if ended < STEP:
            return count


def bury(run: Run, workers: Iterable[str]) -> None:
    """Put back what dead workers held."""
    for worker in workers:
        take_back(run, worker, lambda tx, event, worker=worker: _crash(tx, event, worker))  # type: ignore[misc]


def _crash(tx: Transaction, id: str, worker: str) -> None:
    event = tx.open_event(id)
    if event is not None and event.state is State.CLAIMED and event.worker == worker:
        settling.crash(tx, event)


def _release(tx: Transaction, id: str, worker: str) -> None:
    event = tx.open_event(id)
    if event is not None and event.state is State.CLAIMED and event.worker == worker:
        settling.conclude(tx, event, ending(Released(), tx.now))


class Leases:
    """Claims of queues with a `lease`, as this worker has seen them make progress, or not."""

    def __init__(self, database: Database, run: Run, clock: Clock) -> None:
        self._database = database
        self._run = run
        self._clock = clock
        self._seen = Observed()

    def look(self, leases: dict[str, float]) -> None:
        """Take over what has made no progress for longer than its queue's lease (by stored name)."""
        looks: dict[str, tuple[object, ...]] = {}
        longest: dict[str, float] = {}
        for queue, lease in leases.items():
            for id, *look in self._database.execute(PROGRESS, {"queue": queue}):
                looks[id] = tuple(look)
                longest[id] = lease
        for id, seconds in self._seen.look(looks, self._clock.monotonic()).items():
            if seconds >= longest[id]:
                self._run(functools.partial(self._end, id=id, look=looks[id]))

    def _end(self, tx: Transaction, id: str, look: tuple[object, ...]) -> int:
        event = tx.open_event(id)
        rows = tx.rows(PROGRESS_OF, {"id": id})
        if event is None or not rows or tuple(rows[0]) != look:
            return 0
        settling.crash(tx, event)
        return 1


PROGRESS = f"SELECT id, worker, token, progress FROM {{p}}events WHERE {STARTED} AND queue = :queue"
PROGRESS_OF = f"SELECT worker, token, progress FROM {{p}}events WHERE {STARTED} AND id = :id"
