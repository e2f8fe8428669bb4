"""Connections to a PostgreSQL server: made alike, a few of them, shared by the threads of a process, and none by two.

A child that was forked has copies of its parent's sockets. What it said on one would ruin the parent's session, and as
long as it keeps one the server does not see the parent's death: so right after the fork each leads nowhere.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.types.numeric import Int8BinaryDumper

from eventq.clock import sleep
from eventq.errors import StorageClosed
from eventq.storage import forks
from eventq.storage.sql.postgresql.errors import Refused
from eventq.storage.sql.postgresql.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventq.storage.sql.database import Row
    from eventq.storage.sql.postgresql.url import Target
    from eventq.storage.sql.schema import Dialect

log: logging.Logger = logging.getLogger("eventq.storage.postgresql")

MOST = 4
"""Connections of one storage beside the one that listens; a thread that finds none free waits for one."""
SESSION = {
    "default_transaction_isolation": "read committed",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "jit": "off",
}
"""What the server is told of each connection. With keepalives it notices a machine that vanished, whose transactions
would keep others waiting, within half a minute. All plans are by index, in its order: each is made once, perhaps while
a table was empty or its statistics were of an hour ago, and must do for a million rows."""
PREPARE_AFTER = 2
"""A statement that was run so often on a connection is prepared there."""

GREETING = (
    f"SELECT pid, backend_start, {', '.join(f'set_config({name!r}, %({name})s, false)' for name in SESSION)}"
    " FROM pg_stat_activity WHERE pid = pg_backend_pid()"
)
AT_WORK = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND backend_start = %s AND state <> 'idle'"


# ---------------------------------------------------------------- one connection


class Session:
    """A connection: what it is told in autocommit, and a cursor for transactions that is used again and again."""

    __slots__ = ("_poll", "_statements", "backend", "connection", "cursor")

    def __init__(self, connection: psycopg.Connection[Row], dialect: Dialect, backend: Row, prepare: bool) -> None:
        self.connection: psycopg.Connection[Row] = connection
        self.backend: Row = backend
        """Which process of the server serves it: its number, and when it began."""
        self.cursor: psycopg.Cursor[Row] = connection.cursor(binary=True)
        self._statements = Statements(connection, dialect, prepare)
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        self._poll = poll.poll

    def execute(self, statement: str, values: Mapping[str, Any]) -> list[Row]:
        """The rows that a statement returns, which is its own transaction."""
        return self._statements.execute(statement, values)

    def roll_back(self) -> None:
        """End a transaction that came to nothing. Not as psycopg does it: that has the server forget what it prepared,
        and the tables are what they were."""
        if not self.connection.closed and not self.is_idle():
            self._statements.execute("ROLLBACK", {})

    def is_at_work(self, backend: Row) -> bool:
        """Whether a process of the server whose connection was lost still does what it was told, and may commit it."""
        return bool(self.connection.execute(AT_WORK, backend, prepare=False).fetchone())

    def is_alive(self) -> bool:
        """False if the server has ended it meanwhile: what is sent would be lost, and nobody knows whether it was."""
        if self._poll(0):
            try:
                self.connection.pgconn.consume_input()
            except psycopg.Error:
                return False
        return not self.connection.closed

    def is_idle(self) -> bool:
        """Whether it is of use for the next one: open, and in no transaction."""
        return self.connection.pgconn.transaction_status == TransactionStatus.IDLE


def sever(connection: psycopg.Connection[Any]) -> None:
    """Drop a connection without a word to the server, and without an effect on who else has its socket."""
    if connection.pgconn.status != ConnStatus.BAD:
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, connection.fileno(), inheritable=False)
        os.close(nothing)
    connection.close()


# ---------------------------------------------------------------- all connections of a storage


class Contact:
    """Whether there is a server: who logs it once when it goes, and once when it is back."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._lock = threading.Lock()
        self.away: bool = False

    def lost(self, error: Exception) -> None:
        """A connection was lost, or could not be made."""
        with self._lock:
            known, self.away = self.away, True
        if not known:
            log.warning("lost %s: %s; trying again", self._shown, " ".join(str(error).split()))

    def made(self) -> None:
        """Something went well."""
        if self.away:
            with self._lock:
                known, self.away = self.away, False
            if known:
                log.info("%s is back", self._shown)


class Connections:
    """The connections of one storage: makes them, keeps at most `MOST` for statements, forgets them after a fork."""

    def __init__(self, target: Target, dialect: Dialect) -> None:
        self._target = target
        self._dialect = dialect
        self._forked()
        self.closed: bool = False
        forks.follow(self)

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.Condition(self._lock)
        self._waiting = 0
        self._idle: list[Session] = []
        self._count = 0
        self._made: set[psycopg.Connection[Any]] = set()

    def connect(self) -> Session:
        """A new connection. Raises Refused."""
        try:
            connection = self._connect()
        except psycopg.Error as error:
            raise Refused(error) from error
        connection.adapters.register_dumper(int, Int8BinaryDumper)
        try:
            row = connection.execute(GREETING, SESSION, prepare=False).fetchone()
        except psycopg.Error as error:
            self.drop(connection)
            raise Refused(error) from error
        assert row is not None
        return Session(connection, self._dialect, row[:2], self._target.prepare)

    def _connect(self) -> psycopg.Connection[Row]:
        params, prepare = self._target.params, PREPARE_AFTER if self._target.prepare else None
        while True:
            before = _forks.count
            connection = psycopg.connect(**params, autocommit=True, prepare_threshold=prepare)
            self._made.add(connection)
            if before == _forks.count:
                return connection
            self.drop(connection)  # a child that was forked meanwhile has a copy of its socket, and knows nothing of it

    def drop(self, connection: psycopg.Connection[Any]) -> None:
        """Close a connection."""
        connection.close()
        self._made.discard(connection)

    def take(self) -> Session:
        """A connection for this thread alone, until it gives it back; waits for a free one. Raises Refused."""
        with self._lock:
            while True:
                if self.closed:
                    raise StorageClosed("this store was closed; open a new one")
                if self._idle:
                    session = self._idle.pop()
                    if session.is_alive():
                        return session
                    self.drop(session.connection)
                    self._count -= 1
                elif self._count < MOST:
                    self._count += 1
                    break
                else:
                    self._wait()
        try:
            return self.connect()
        except BaseException:
            with self._lock:
                self._count -= 1
                self._free.notify()
            raise

    def _wait(self) -> None:
        self._waiting += 1
        try:
            self._free.wait()
        finally:
            self._waiting -= 1

    def give(self, session: Session) -> None:
        """It is free for others. One that is in the midst of a transaction, or broken, is not used again."""
        with self._lock:
            if session.is_idle() and not self.closed:
                self._idle.append(session)
            else:
                self._count -= 1
                self.drop(session.connection)
            if self._waiting:
                self._free.notify()

    def close(self) -> None:
        """Close what is idle now, and what is in use once it is given back."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            for session in idle:
                self.drop(session.connection)
            self._free.notify_all()

    def sever(self) -> set[int]:
        """Let go of every connection as by the death of the process; the server's numbers of them."""
        self.closed = True
        numbers = {connection.info.backend_pid for connection in self._made if not connection.closed}
        for connection in list(self._made):
            sever(connection)
        self._made.clear()
        return numbers

    def wait_for_end(self, numbers: set[int]) -> None:
        """Return when the server has ended these connections."""
        gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = ANY (%s))"
        with psycopg.connect(**self._target.params, autocommit=True) as connection:
            while connection.execute(gone, [list(numbers)]).fetchone() != (True,):
                sleep(0.002)

    def after_fork(self) -> None:
        """In the child, before anything else: nothing of the parent's is touched, and nothing of it stays open."""
        for connection in list(self._made):
            sever(connection)
        self._forked()


class _Forks:
    """How many children this process has forked so far."""

    count = 0


_forks = _Forks()


def _after_fork_in_parent() -> None:
    _forks.count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_after_fork_in_parent)
