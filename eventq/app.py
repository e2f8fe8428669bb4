"""The app: a program's way into a store."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from eventq import clock
from eventq.codec import JSON, choose, packer
from eventq.config import AppConfig, QueueSettings, known, text, type_name
from eventq.errors import ConfigError
from eventq.handle import Handle
from eventq.lock import Lock, Semaphore
from eventq.model import Cancel
from eventq.queue import Queue
from eventq.storage import DEFAULT_URL, Storage, open_storage
from eventq.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from types import TracebackType
    from typing import Self, Unpack

    from eventq.aio import AsyncApp
    from eventq.model import Name, Record, Worker

T = TypeVar("T")

log: logging.Logger = logging.getLogger("eventq.app")

pack_data: Callable[[Any], bytes] = packer(JSON)


class NamedClaim(msgspec.Struct, frozen=True):
    """A name that was taken: by which worker, when, and what it said about it."""

    name: str
    worker: str
    at: datetime
    data: Any


class App:
    """A program's way into a store: its queues, handles, names and locks. `with App() as app:` closes it.

    `url` is a directory (`"./.eventq"`, `"file:///srv/q"`), `"memory://"`, or another storage's URL; without one the
    environment's EVENTQ_URL, read now, else `./.eventq`. The store is opened (and made, if need be) at once, so that
    what is wrong with it is said here.

    `sync` belongs to a file store and is fixed when that is made, True unless said: then what was put survives a power
    cut, not only the death of processes. `storage` is an opened storage instead of a URL; the app closes it. `codec` is
    how payloads are written: `"json"`, `"msgpack"`, or an object; `codecs` are further ones to read; `clock` is for
    tests.

    An app may be used by many threads, and after a fork. Raises ConfigError, StorageError; TypeError for an unknown
    option.
    """

    __slots__ = ("store",)

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        sync: bool | None = None,
        storage: Storage | None = None,
        **config: Unpack[AppConfig],
    ) -> None:
        options = known(config, AppConfig, "App")
        time = options.get("clock", clock.SYSTEM)
        codec, codecs = choose(options.get("codec", "json"), options.get("codecs", ()))
        if storage is None:
            if url is None:
                url = os.environ.get("EVENTQ_URL") or DEFAULT_URL
            storage = open_storage(os.fspath(url), sync=sync, clock=time)
        elif url is not None or sync is not None:
            raise ConfigError("storage= is open already; leave out url and sync=")
        self.store: Store = Store(storage, codec=codec, codecs=codecs, clock=time)
        """The opened store, on which the layers above build."""

    @property
    def aio(self) -> AsyncApp:
        """The same, awaitable."""
        from eventq.aio import AsyncApp

        return AsyncApp(self)

    def close(self) -> None:
        """Give back what is claimed and leave the store; harmless when repeated. Use after it: StorageClosed."""
        self.store.storage.close()
        self.store.bridge.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<App on {type(self.store.storage).__name__}, worker {self.store.storage.worker}>"

    # ------------------------------------------------------------------ queues and events

    @overload
    def queue(self, name: type[T], **settings: Unpack[QueueSettings]) -> Queue[T]: ...
    @overload
    def queue(self, name: str, **settings: Unpack[QueueSettings]) -> Queue[Any]: ...
    @overload
    def queue(self, name: str, type: type[T], **settings: Unpack[QueueSettings]) -> Queue[T]: ...
    @overload
    def queue(self, name: str, type: Any, **settings: Unpack[QueueSettings]) -> Queue[Any]: ...
    def queue(self, name: Any, type: Any = Any, **settings: Unpack[QueueSettings]) -> Queue[Any]:
        """A queue by its name, or by the class of its payloads, whose name then includes its module.

        With a type, payloads are checked when put and decoded to it when claimed. Settings that are given and differ
        are stored for every process (see `Queue.configure`); those not given stay as they are. A queue exists once
        something was put or set.
        """
        if not isinstance(name, str):
            if type is not Any:
                raise TypeError("a queue is named by a text or by its type, not by two types")
            name, type = type_name(name), name
        queue: Queue[Any] = Queue(self.store, name, type)
        if settings:
            queue.configure(**settings)
        return queue

    def queues(self) -> list[str]:
        """The names of all queues, sorted."""
        return self.store.storage.queues()

    def workers(self) -> list[Worker]:
        """The living processes that have joined the store, and what they run."""
        return self.store.storage.workers()

    def get(self, id: str) -> Record | None:
        """Everything known of an event, in whatever queue; None if there is no such record (any more)."""
        return self.store.storage.get(id)

    def get_many(self, ids: Iterable[str]) -> list[Record | None]:
        """The records of many events, in order; None for each that there is none of."""
        return [self.store.storage.get(id) for id in ids]

    @overload
    def handle(self, id: str) -> Handle[Any]: ...
    @overload
    def handle(self, id: str, type: type[T]) -> Handle[T]: ...
    @overload
    def handle(self, id: str, type: Any) -> Handle[Any]: ...
    def handle(self, id: str, type: Any = Any) -> Handle[Any]:
        """The waiter's side of an event: its result, decoded to a type if one is given, or how it ended.

        Raises UnknownEvent for what is not an id. Whether there is such an event shows when it is asked.
        """
        return Handle(self.store, id, type)

    def cancel(self, id: str, reason: str = "") -> str:
        """Cancel an event: `"cancelled"`, `"requested"` (it runs, and its worker was asked) or `"too late"`.

        `"unknown"` means that there is no record of it (any more).
        """
        return self.store.storage.edit(None, [id], Cancel(reason))[0]

    # ------------------------------------------------------------------ names

    def claim_name(self, name: str, data: Any = None) -> bool:
        """Take a name for ever: True for exactly one caller over all processes, until the name is released.

        For what must happen once: `if app.claim_name("report-2026-11"): make_report()`. `data`, any JSON value, is kept
        with it for all to read. It outlives its process: for what must heal when that dies, take a `lock`.
        """
        return self.store.storage.take_name(text("a name", name), pack_data(data))[1]

    def get_name(self, name: str) -> NamedClaim | None:
        """Who took a name, when, and with what data; None if it is free."""
        found = [taken for taken in self.store.storage.names(text("a name", name)) if taken.name == name]
        return _named(found[0]) if found else None

    def names(self, prefix: str = "") -> list[NamedClaim]:
        """The taken names that begin with a prefix, sorted."""
        return [_named(taken) for taken in self.store.storage.names(prefix)]

    def release_name(self, name: str) -> bool:
        """Free a name, whoever took it; False if it was free."""
        return self.store.storage.release_name(text("a name", name))

    # ------------------------------------------------------------------ locks

    def lock(self, name: str) -> Lock:
        """A lock over all processes: `with app.lock("import"):`. It is free at once when its holder dies."""
        return Lock(self.store, name)

    def semaphore(self, name: str, limit: int) -> Semaphore:
        """A semaphore over all processes: at most `limit` hold it, and a dead holder's place is free at once."""
        return Semaphore(self.store, name, limit)


def _named(taken: Name) -> NamedClaim:
    return NamedClaim(taken.name, taken.worker, clock.aware(taken.at), JSON.decode(bytes(taken.data)))
