"""eventq itself, used as its README shows: the defaults, and the `claims()` loop. Over each kind of store."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks import postgresql_server, redis_server
from benchmarks.systems.base import Sink, System

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from eventq import App
    from eventq.model import Copy

AT_ONCE = 10_000
"""Events that are stored by one call."""


class Eventq(System):
    name = "eventq"
    family = "eventq"
    note = "sync=False"
    requires = "eventq"
    imports = "import eventq"
    preloads = "import filelock, msgspec"
    recovers = True
    keeps = True
    sync: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.app = self.opened(folder)
        self.queue = self.app.queue("events")

    @classmethod
    def opened(cls, folder: Path) -> App:
        import eventq

        return eventq.App(str(folder / "store"), sync=cls.sync)

    def put(self, payload: Any) -> None:
        self.queue.put(payload)

    def put_many(self, payloads: Sequence[Any]) -> None:
        self.queue.put_many(payloads)

    def remember(self, count: int) -> None:
        copies = done(count, self.app.store.storage.worker)
        while chunk := list(islice(copies, AT_ONCE)):
            self.app.store.storage.restore(chunk)

    def take(self) -> tuple[Any, Any] | None:
        claim = self.queue.claim(timeout=0)
        return None if claim is None else (claim, claim.event.payload)

    def settle(self, token: Any) -> None:
        token.complete()

    def wait(self, timeout: float) -> tuple[Any, Any] | None:
        claim = self.queue.claim(timeout=timeout)
        return None if claim is None else (claim, claim.event.payload)

    def deliver(self, sink: Sink, idle: float = 0.0) -> None:
        for claim in self.queue.claims(timeout=idle):
            with claim as event:
                enough = sink(event.payload)
            if enough:
                return

    def close(self) -> None:
        self.app.close()


class EventqSync(Eventq):
    name = "eventq-sync"
    note = "sync=True (the default)"
    modes = frozenset({"durable"})
    sync = True


class EventqOther(Eventq):
    """Over another kind of store, which a URL names."""

    @classmethod
    def opened(cls, folder: Path) -> App:
        import eventq

        return eventq.App(cls.url(folder))

    @classmethod
    def url(cls, folder: Path) -> str:
        raise NotImplementedError


class EventqRedis(redis_server.OnRedis, EventqOther):
    name = "eventq-redis"
    note = "redis://; nothing written to disk"
    modes = frozenset({"redis"})
    driver = "redis"

    @classmethod
    def url(cls, folder: Path) -> str:
        return redis_server.url(folder)


class EventqPostgresql(postgresql_server.OnPostgresql, EventqOther):
    name = "eventq-postgresql"
    note = "postgresql://, Unix socket, synchronous_commit=on"
    modes = frozenset({"postgresql"})
    driver = "psycopg"

    @classmethod
    def url(cls, folder: Path) -> str:
        return postgresql_server.url(folder)

    @classmethod
    def furnish(cls, folder: Path) -> None:
        from eventq.storage.sql import migrate

        migrate(cls.url(folder))


class EventqPostgresqlOff(EventqPostgresql):
    name = "eventq-postgresql-off"
    note = "the same, synchronous_commit=off"
    modes = frozenset({"postgresql-off"})
    server_settings = ("synchronous_commit=off",)


class EventqSqlite(EventqOther):
    name = "eventq-sqlite"
    note = "sqlite://, synchronous=normal"
    modes = frozenset({"sqlite"})
    synchronous: ClassVar[str] = "normal"

    @classmethod
    def url(cls, folder: Path) -> str:
        return f"sqlite:///{folder / 'store.db'}?synchronous={cls.synchronous}"


class EventqSqliteFull(EventqSqlite):
    name = "eventq-sqlite-full"
    note = "sqlite://, synchronous=full (the default)"
    modes = frozenset({"sqlite-full"})
    synchronous = "full"


def done(count: int, worker: str) -> Iterator[Copy]:
    """Events that ran a moment ago, each with its value."""
    from eventq import ids
    from eventq.clock import SYSTEM
    from eventq.model import Attempt, Copy, Record, State

    stamps, ended = ids.Stamps(worker, SYSTEM), SYSTEM.now()
    attempts = (Attempt(worker=worker, started=ended, ended=ended, outcome="completed"),)
    for _ in range(count):
        yield Copy(
            Record(
                id=ids.event_id(stamps.next(), 0), queue="events", state=State.COMPLETED, payload=b'"done"',
                created=ended, attempts=attempts, settled=ended, value=b"1", keep=3600.0,
            )
        )  # fmt: skip
