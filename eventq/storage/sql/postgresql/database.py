"""PostgreSQL as the SQL storages need it: statements and transactions that outlast a lost connection."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import psycopg

from eventq.clock import SYSTEM
from eventq.errors import StorageClosed
from eventq.storage.sql.database import NOTHING, Cursor, Database
from eventq.storage.sql.postgresql.connections import Connections, Contact, Session
from eventq.storage.sql.postgresql.errors import Refused, Verdict, failure, is_stale, refusal, verdict
from eventq.storage.sql.postgresql.listener import INCARNATION, PRESENT, Listener, channel, number
from eventq.storage.sql.postgresql.statements import translated
from eventq.storage.sql.schema import Dialect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventq.storage.sql.database import Row
    from eventq.storage.sql.postgresql.url import Target

T = TypeVar("T")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.5
"""Seconds between two attempts to reach a server: the first is at once, then they double."""
BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
BEGIN_LIGHTLY = BEGIN + b"; SET LOCAL synchronous_commit TO off"

HOT = (
    "WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,"
    " autovacuum_analyze_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0)"
)
"""Of a table whose rows come and go: dead ones at the head of a queue are what a claim has to step over."""


def dialect(namespace: str) -> Dialect:
    """How PostgreSQL spells what differs, with the tables in a schema of their own."""
    return Dialect(
        p=f'"{namespace}".',
        i="",
        text='text COLLATE "C"',
        bigint="bigint",
        double="double precision",
        blob="bytea",
        hot=HOT,
        lock="FOR UPDATE",
        skip="FOR UPDATE SKIP LOCKED",
        before=(f'CREATE SCHEMA IF NOT EXISTS "{namespace}"',),
        find=f"SELECT 1 FROM pg_tables WHERE schemaname = '{namespace}' AND tablename = 'schema'",
    )


class PostgreSQLCursor(Cursor):
    """A transaction on a connection."""

    def __init__(self, cursor: psycopg.Cursor[Any], dialect: Dialect, namespace: str) -> None:
        self._cursor = cursor
        self._dialect = dialect
        self._namespace = namespace

    def execute(self, statement: str, values: Mapping[str, Any] = NOTHING) -> list[Row]:
        cursor = self._cursor.execute(translated(statement, self._dialect), values)
        return cursor.fetchall() if cursor.rownumber is not None else []

    def change(self, statement: str, values: Mapping[str, Any] = NOTHING) -> int:
        return self._cursor.execute(translated(statement, self._dialect), values).rowcount

    def many(self, statement: str, values: Sequence[Mapping[str, Any]]) -> None:
        if values:
            self._cursor.executemany(translated(statement, self._dialect), values)

    def serialize(self, name: str) -> None:
        self.execute("SELECT pg_advisory_xact_lock(:number)", {"number": number(self._namespace, "serial", name)})

    def tell(self, worker: str, word: str) -> None:
        self.execute("SELECT pg_notify(:channel, :word)", {"channel": channel(worker), "word": word})


class PostgreSQLDatabase(Database):
    """A schema of a PostgreSQL database, by a few connections that are made when they are needed.

    `work` and `hear` must not use the database themselves, but by the cursor they are given: all connections may be
    in use by threads that wait for another.
    """

    absence: ClassVar[float] = 0.75

    def __init__(self, target: Target) -> None:
        self.shown: str = target.shown
        """The URL without passwords."""
        self.namespace: str = target.namespace
        self._patience = target.patience
        self._dialect = dialect(target.namespace)
        self._contact = Contact(target.shown)
        self._connections = Connections(target, self._dialect)
        self._listener: Listener | None = None
        self._closing = threading.Event()
        self._opened = False

    @property
    def dialect(self) -> Dialect:
        return self._dialect

    # ------------------------------------------------------------------ statements

    def run(self, work: Callable[[Cursor, bool], T]) -> T:
        return self._transaction(BEGIN, work)

    def run_lightly(self, work: Callable[[Cursor, bool], T]) -> T:
        return self._transaction(BEGIN_LIGHTLY, work)

    def _transaction(self, begin: bytes, work: Callable[[Cursor, bool], T]) -> T:
        def transaction(session: Session, again: bool) -> T:
            session.cursor.execute(begin, prepare=False, binary=False)
            try:
                done = work(PostgreSQLCursor(session.cursor, self._dialect, self.namespace), again)
                session.cursor.execute(b"COMMIT", prepare=False)
            except BaseException:
                session.roll_back()
                raise
            return done

        return self.on_session(transaction)

    def execute(self, statement: str, values: Mapping[str, Any] = NOTHING) -> list[Row]:
        return self.on_session(lambda session, _again: session.execute(statement, values))

    def on_session(self, call: Callable[[Session, bool], T]) -> T:
        """What a call returns that is made with a connection, in autocommit; repeated as `run` says."""

        lost: list[Row] = []

        def once(again: bool) -> T:
            session = self._connections.take()
            try:
                if lost and session.is_at_work(lost[-1]):
                    raise Refused(psycopg.OperationalError("the server still does what a lost connection asked for"))
                return call(session, again)
            except psycopg.Error as error:
                if is_stale(error):
                    session.connection.close()
                if verdict(error) is Verdict.LOST:
                    lost.append(session.backend)
                raise
            finally:
                self._connections.give(session)

        return self._patiently(once)

    def _patiently(self, once: Callable[[bool], T]) -> T:
        """What a call returns. It is repeated while that may help; True once it may have been done before."""
        again, waiting = False, None
        while True:
            try:
                done = once(again)
            except Refused as refused:
                error, found = refused.error, refusal(refused.error, opening=not self._opened)
            except psycopg.Error as raised:
                error, found = raised, verdict(raised)
                again = again or found is Verdict.LOST
            else:
                self._opened = True
                if self._contact.away:
                    self._contact.made()
                return done
            waiting = waiting or Waiting(self._patience)
            self._go_on(error, found, waiting)

    def _go_on(self, error: psycopg.Error, found: Verdict, waiting: Waiting) -> None:
        """Return when it is time for another attempt; raise if there shall be none."""
        if self._closing.is_set():
            raise StorageClosed("this store was closed; open a new one") from error
        if found is Verdict.FAILED or waiting.is_over():
            raise failure(error, self.shown, self.namespace) from error
        if found is not Verdict.AGAIN:
            self._contact.lost(error)
            self._closing.wait(waiting.pause())

    # ------------------------------------------------------------------ presence

    def join(self, worker: str, hear: Callable[[str], None]) -> None:
        self.leave()
        self._listener = self._patiently(
            lambda _again: Listener(self._connections, self._contact, self.namespace, worker, hear)
        )

    def leave(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()

    def present(self, workers: Iterable[str]) -> set[str]:
        numbers = {number(self.namespace, "worker", worker): worker for worker in workers}
        if not numbers:
            return set()
        return {numbers[row[0]] for row in self.execute(PRESENT, {"numbers": list(numbers)})}

    @property
    def incarnation(self) -> str:
        if self._listener is not None and self._listener.is_ours:
            return self._listener.incarnation
        return str(self.execute(INCARNATION)[0][0])

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        self._closing.set()
        self.leave()
        self._connections.close()

    def abandon(self) -> None:
        """As `Database.abandon`, and returns when the server has noticed."""
        self._closing.set()
        numbers = self._connections.sever()
        self.leave()
        self._connections.wait_for_end(numbers)


class Waiting:
    """How long a call has been without a server, and how long it is to wait before it tries again."""

    def __init__(self, patience: float) -> None:
        self._end = SYSTEM.monotonic() + patience
        self._pause = 0.0

    def is_over(self) -> bool:
        return SYSTEM.monotonic() >= self._end

    def pause(self) -> float:
        """Seconds until the next attempt: the first is at once, then they double."""
        pause = self._pause
        self._pause = min(2 * pause, LONGEST_PAUSE) if pause else FIRST_PAUSE
        return pause
