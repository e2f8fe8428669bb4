"""What the SQL storages need of a database: statements, transactions, who is alive, and a word to a waiting worker.

`SQLStorage` and everything beside it speaks to a `Database`; what SQLite and PostgreSQL do differently is behind it.
Statements are written once, for both: parameters as `:name`, tables as `{p}events`, and what locks the rows that a
transaction is about to change as `{lock}` (wait for them) or `{skip}` (pass over those that another one changes).
"""

from __future__ import annotations

import abc
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventq.storage.sql.schema import Dialect

T = TypeVar("T")
Row = tuple[Any, ...]
NOTHING: Mapping[str, Any] = {}


class Cursor(abc.ABC):
    """One transaction, while it is open."""

    @abc.abstractmethod
    def execute(self, statement: str, values: Mapping[str, Any] = NOTHING) -> list[Row]:
        """Run a statement; the rows that it returns, if it returns any."""

    @abc.abstractmethod
    def change(self, statement: str, values: Mapping[str, Any] = NOTHING) -> int:
        """Run a statement that returns no rows; how many rows it changed."""

    @abc.abstractmethod
    def many(self, statement: str, values: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each of several sets of values."""

    @abc.abstractmethod
    def serialize(self, name: str) -> None:
        """Wait until no other transaction is open that has called this with the same name; held until the end."""

    @abc.abstractmethod
    def tell(self, worker: str, word: str) -> None:
        """Say something to a worker once the transaction is committed; whether it arrives is not known."""

    def whole(self) -> AbstractContextManager[object]:
        """Within it all is done together, or nothing; for a cursor on a caller's connection, which may have no
        transaction open."""
        return nullcontext()


class Database(abc.ABC):
    """One database, as one process uses it: by many threads, and after a fork anew. Opens its connections itself."""

    absence: ClassVar[float] = 0.75
    """Seconds for which a worker is seen to be absent before it is dead: it may have lost its connection only."""

    @property
    @abc.abstractmethod
    def dialect(self) -> Dialect:
        """What it calls things: how the words in braces are spelled."""

    @abc.abstractmethod
    def run(self, work: Callable[[Cursor, bool], T]) -> T:
        """Run `work` in a transaction, and commit it; what it returned. If it raises, nothing was changed.

        Where two transactions got in each other's way, `work` runs again. If the connection was lost, it runs again on
        a new one, as soon as there is one, within the database's patience; its second argument is then True from that
        moment on, for what it did before may have been committed. Raises StorageError.
        """

    def run_lightly(self, work: Callable[[Cursor, bool], T]) -> T:
        """As `run`, for what need not survive a power cut: who is there, and waits for what."""
        return self.run(work)

    @abc.abstractmethod
    def execute(self, statement: str, values: Mapping[str, Any] = NOTHING) -> list[Row]:
        """A single statement that reads, outside any transaction; repeated as in `run`."""

    @abc.abstractmethod
    def join(self, worker: str, hear: Callable[[str], None]) -> None:
        """Be known as alive from now on, under this id, and listen: `hear` is called in a thread of the database with
        each word that is told to the worker. Returns when both are so. Renewed when the connection was lost; then
        `hear("")` is called, for words may have been missed."""

    @abc.abstractmethod
    def leave(self) -> None:
        """Be no longer known as alive; harmless without `join`."""

    @abc.abstractmethod
    def present(self, workers: Iterable[str]) -> set[str]:
        """Which of these workers are known as alive at this moment. One that has lost its connection for a moment is
        not: judge by several looks."""

    @property
    @abc.abstractmethod
    def incarnation(self) -> str:
        """Another text after each restart of the server, as seen by the connection that `join` listens on; empty where
        there is no server. Who has joined another incarnation than this one may live, and not have come back yet."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close every connection; harmless when repeated. Every method raises StorageClosed from then on."""

    @abc.abstractmethod
    def abandon(self) -> None:
        """For tests: let go of everything as by kill -9."""
