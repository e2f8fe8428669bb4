"""The connections of one process to a database file: one that writes, for all threads, and some that read.

Threads that want to write while another one does are served together, in one transaction, by the next of them: so they
share what makes it durable. Each has a savepoint of its own, and what it wrote is gone if it raises. A thread that
writes alone pays for none of this: its statement is its transaction.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from eventq.clock import SYSTEM, sleep
from eventq.errors import StorageClosed
from eventq.storage.sql.sqlite.errors import failure, is_busy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from eventq.storage.sql.database import Row
    from eventq.storage.sql.sqlite.url import Target

T = TypeVar("T")

READERS = 4
"""Connections that are kept for reading."""
TOGETHER = 64
"""Threads that are served in one transaction, at most."""
PAGE = 2048
"""Bytes of a page, in a database that is made here. What a commit costs is nearly all in the bytes of the pages that it
writes whole: half of SQLite's own 4096 makes small events cheaper by a sixth, and large ones no dearer; half of that
would put events of a few hundred bytes into two pages each."""
CHECKPOINT = 4000
"""Pages in the log after which a commit moves them into the database."""
LOG = CHECKPOINT * (PAGE + 24) + (64 << 10)
"""Bytes that the log has until then. A commit that makes its file longer has the file system write what it knows of
the file as well, and takes half as long again: so it has this length at once. On a full disk that is room."""
BRIEF = 16
"""Commits after which a process is no longer brief, and the log is given its length; likewise for a thread that writes
alone."""
LOG_KEPT = 32 << 20
"""Bytes of the log file that stay when a burst has made it longer."""
FIRST_PAUSE = 0.0001
LONGEST_PAUSE = 0.0005
"""Seconds between two attempts to get the turn to write: of several processes that wait each gets it soon, at whatever
pace the others write. SQLite's own pauses grow to 0.1 s, in which one that never sleeps takes turn after turn."""


class Job(Generic[T]):
    """What one thread wants to write."""

    __slots__ = ("alone", "done", "error", "lasting", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], T], alone: bool, lasting: bool) -> None:
        self.work: Callable[[sqlite3.Connection], T] = work
        self.alone: bool = alone
        """Whether it is a single statement, which is a transaction of its own if nobody else writes with it."""
        self.lasting: bool = lasting
        """Whether it must survive a power cut."""
        self.done: bool = False
        self.result: T | None = None
        self.error: BaseException | None = None


class Connections:
    """All connections of a process. Raises StorageClosed once closed, StorageError for what SQLite refuses."""

    def __init__(self, target: Target, closed: bool = False) -> None:
        self._target = target
        self.closed: bool = closed
        self._writing = threading.Lock()
        self._waiting: deque[Job[Any]] = deque()
        self._lasting: sqlite3.Connection | None = None
        """The connection for what must survive a power cut, once something did."""
        self._begun = 0
        """How many turns there were to write with it."""
        self._light: sqlite3.Connection | None = None
        """That for the rest."""
        self._thread = 0
        """The thread that wrote last, for itself or for several."""
        self._turns = 0
        """How often it did so for itself alone, in a row. Who did so often does not wait for others; of several threads
        none may, for they would take their turns one by one, and never be served together."""
        self._committed = False
        """Whether what several threads wrote together was committed; an interrupt may come right after that."""
        self._readers: deque[sqlite3.Connection] = deque()
        self._all: list[sqlite3.Connection] = []

    def _connect(self, synchronous: str, timeout: float) -> sqlite3.Connection:
        path = self._target.path
        try:
            connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise failure(path, error) from error
        self._all.append(connection)
        try:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
            connection.execute(f"PRAGMA journal_size_limit = {LOG_KEPT}")
        except sqlite3.Error as error:
            self._drop(connection)
            raise failure(path, error) from error
        return connection

    def use_log(self) -> None:
        """Readers and the writer do not wait for each other in WAL mode. A database keeps it, and its size of pages."""
        with self.reader() as connection:
            ((mode,),) = connection.execute("PRAGMA journal_mode").fetchall()
            if mode != "wal":
                connection.execute(f"PRAGMA page_size = {PAGE}")
                self._insist(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchall())

    # ------------------------------------------------------------------ reading

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for one thread."""
        if self.closed:
            raise StorageClosed("this store was closed; open a new one")
        try:
            connection = self._readers.popleft()
        except IndexError:
            connection = self._connect("normal", self._target.busy_timeout)
        try:
            yield connection
        except sqlite3.Error as error:
            raise failure(self._target.path, error) from error
        finally:
            if len(self._readers) < READERS and not self.closed:
                self._readers.appendleft(connection)
            else:
                self._drop(connection)

    def _drop(self, connection: sqlite3.Connection) -> None:
        if connection in self._all:
            self._all.remove(connection)
        connection.close()

    # ------------------------------------------------------------------ writing

    def write_one(self, statement: str, values: Mapping[str, Any] | Row, lasting: bool = True) -> list[Row]:
        """What a single statement returns, once what it wrote is committed."""
        lasting = lasting or self._target.synchronous == "normal"
        lone = self._turns >= BRIEF and self._thread == threading.get_ident()
        if lone and not self._waiting and not self._writing.locked():
            with self._writing:
                if (connection := self._lasting if lasting else self._light) is not None:
                    try:
                        return connection.execute(statement, values).fetchall()
                    except sqlite3.Error as error:
                        if not is_busy(error):
                            raise failure(self._target.path, error) from error
        return self.write(lambda connection: connection.execute(statement, values).fetchall(), True, lasting)

    def write(self, work: Callable[[sqlite3.Connection], T], alone: bool = False, lasting: bool = True) -> T:
        """What `work` returns, once what it wrote is committed. `alone`: it is one statement."""
        job = Job(work, alone, lasting)
        self._waiting.append(job)
        with self._writing:
            if not job.done:
                self._serve(job)
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]

    def _serve(self, own: Job[Any]) -> None:
        """Do what waits; the caller's own job is among it, for who served last has left it."""
        jobs = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
        try:
            self._do_all(jobs)
        except sqlite3.Error as error:
            for job in jobs:
                job.error = failure(self._target.path, error)
                job.error.__cause__ = error
        except Exception as error:  # noqa: BLE001 - each thread raises it for itself
            for job in jobs:
                job.error = error
        except BaseException:  # this thread was interrupted; unless all is committed, the others do theirs themselves
            others = [job for job in jobs if job is not own]
            if self._committed:
                for job in others:
                    job.done = True
            else:
                self._waiting.extendleft(reversed(others))
            raise
        for job in jobs:
            job.done = True

    def _do_all(self, jobs: Sequence[Job[Any]]) -> None:
        if self.closed:
            raise StorageClosed("this store was closed; open a new one")
        connection = self._writer(any(job.lasting for job in jobs))
        thread = threading.get_ident()
        self._turns = self._turns + 1 if len(jobs) == 1 and thread == self._thread else 0
        self._thread = thread
        self._committed = False
        try:
            if len(jobs) > 1:
                self._do_together(connection, jobs)
            else:
                self._do(connection, jobs[0])
        finally:
            if connection.in_transaction:
                self._committed = False
                connection.execute("ROLLBACK")

    def _do(self, connection: sqlite3.Connection, job: Job[Any]) -> None:
        if job.alone:
            job.result = self._insist(lambda: job.work(connection))
            return
        self._insist(lambda: connection.execute("BEGIN IMMEDIATE"))
        result = job.work(connection)
        connection.execute("COMMIT")
        job.result = result

    def _do_together(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> None:
        self._insist(lambda: connection.execute("BEGIN IMMEDIATE"))
        for job in jobs:
            connection.execute("SAVEPOINT one")
            try:
                job.result = job.work(connection)
            except Exception as error:
                job.error = failure(self._target.path, error) if isinstance(error, sqlite3.Error) else error
                if not connection.in_transaction:
                    raise  # the disk is full, or worse: SQLite has given up all of it
                connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
        self._committed = True  # unless it is still open afterwards
        connection.execute("COMMIT")

    def _writer(self, lasting: bool) -> sqlite3.Connection:
        """The connection that writes. It does not wait for other processes: see `_insist`."""
        if lasting or self._target.synchronous == "normal":
            if self._lasting is None:
                self._lasting = self._connect(self._target.synchronous, 0.0)
            self._begun += 1
            if self._begun == BRIEF and self._target.synchronous == "full":
                self._lengthen_log(self._lasting)
            return self._lasting
        if self._light is None:
            self._light = self._connect("normal", 0.0)
        return self._light

    def _lengthen_log(self, connection: sqlite3.Connection) -> None:
        """Give the log the length that it will have. SQLite reads no further than to what is no frame of its own."""
        self._insist(lambda: connection.execute("BEGIN IMMEDIATE"))  # nobody else writes to it, or makes it shorter
        try:
            with open(self._target.path + "-wal", "r+b", buffering=0) as log:
                size = log.seek(0, os.SEEK_END)
                missing = max(0, LOG - size)
                if log.write(bytes(missing)) < missing:
                    log.truncate(size)
                os.fsync(log.fileno())
        except OSError:
            return  # the disk is nearly full, or somebody wants another kind of log: it is slower, no more
        finally:
            connection.execute("ROLLBACK")

    def _insist(self, attempt: Callable[[], T]) -> T:
        """What an attempt returns once it does not meet another process that writes. Raises sqlite3.Error."""
        deadline = None
        pause = FIRST_PAUSE
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                now = SYSTEM.monotonic()
                deadline = now + self._target.busy_timeout if deadline is None else deadline
                if not is_busy(error) or now >= deadline:
                    raise
            sleep(pause * (0.5 + random.random()))  # noqa: S311 - so that those who wait do not wake together
            pause = min(2 * pause, LONGEST_PAUSE)

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """Close all, once nobody writes; harmless when repeated. A reader in use is closed when it comes back."""
        with self._writing:
            self.closed = True
            for connection in (self._lasting, self._light, *self._readers):
                if connection is not None:
                    self._drop(connection)
            self._lasting = self._light = None
            self._readers.clear()

    def inherited(self) -> list[sqlite3.Connection]:
        """What a forked child has of its parent's, and must neither use nor close."""
        return self._all
