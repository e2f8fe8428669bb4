"""The awaitable twins: what can block has one of the same name under `.aio`.

Each is one explicit view with a line per method over the sync object, which does the work on a thread of the bridge;
what would wait (for an event, a result, a lock) waits here, on the loop. Imported when `.aio` is first used.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from eventq.bridge import readable, sleep
from eventq.clock import SYSTEM
from eventq.config import at_least_one, patience
from eventq.errors import ClaimLost, QueueFull, StorageClosed
from eventq.handle import Patience, ended
from eventq.model import Released, State
from eventq.put import may_wait, several
from eventq.queue import WAITING
from eventq.retry import pauses

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from typing import Unpack

    from eventq.app import App, NamedClaim
    from eventq.claim import Claim
    from eventq.config import QueueSettings
    from eventq.disabled import DisabledTask
    from eventq.errors import EventqError
    from eventq.handle import Handle
    from eventq.lock import Semaphore
    from eventq.model import Failure, Note, Outcome, Page, Progress, Record, Settings, Stats
    from eventq.model import Worker as WorkerRecord
    from eventq.put import IfExists, Unique
    from eventq.queue import Queue
    from eventq.storage.base import Watch
    from eventq.stream import StreamHandle
    from eventq.task import Task
    from eventq.worker import Worker
    from eventq.worker.control import WorkerStats

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
Y = TypeVar("Y")

log: logging.Logger = logging.getLogger("eventq.aio")


class AsyncApp:
    """The awaitable twin of an `App`: `app.aio`."""

    __slots__ = ("_app",)

    def __init__(self, app: App) -> None:
        self._app = app

    @overload
    async def queue(self, name: type[T], **settings: Unpack[QueueSettings]) -> Queue[T]: ...
    @overload
    async def queue(self, name: str, **settings: Unpack[QueueSettings]) -> Queue[Any]: ...
    @overload
    async def queue(self, name: str, type: type[T], **settings: Unpack[QueueSettings]) -> Queue[T]: ...
    @overload
    async def queue(self, name: str, type: Any, **settings: Unpack[QueueSettings]) -> Queue[Any]: ...
    async def queue(self, name: Any, type: Any = Any, **settings: Unpack[QueueSettings]) -> Queue[Any]:
        """See `App.queue`; only with settings does it have to wait for the storage."""
        return await self._app.store.bridge.call(lambda: self._app.queue(name, type, **settings))

    async def disable(self, task: Task[..., Any] | str, reason: str = "", by: str | None = None) -> bool:
        """See `App.disable`."""
        return await self._app.store.bridge.call(self._app.disable, task, reason, by)

    async def enable(self, task: Task[..., Any] | str) -> bool:
        """See `App.enable`."""
        return await self._app.store.bridge.call(self._app.enable, task)

    async def disabled(self) -> list[DisabledTask]:
        """See `App.disabled`."""
        return await self._app.store.bridge.call(self._app.disabled)

    async def queues(self) -> list[str]:
        """See `App.queues`."""
        return await self._app.store.bridge.call(self._app.queues)

    async def workers(self) -> list[WorkerRecord]:
        """See `App.workers`."""
        return await self._app.store.bridge.call(self._app.workers)

    async def ping(self, worker: str | None = None, timeout: float = 1.0) -> list[WorkerStats]:
        """See `App.ping`."""
        from eventq.worker.control import Ping

        bridge = self._app.store.bridge
        asked = await bridge.call(Ping, self._app.store, worker, timeout)
        for handle in asked.handles:
            await handle.aio.wait(asked.left())
        return await bridge.call(asked.answers)

    async def stop_worker(self, id: str, force: bool = False) -> None:
        """See `App.stop_worker`."""
        await self._app.store.bridge.call(self._app.stop_worker, id, force)

    async def get(self, id: str) -> Record | None:
        """See `App.get`."""
        return await self._app.store.bridge.call(self._app.get, id)

    async def get_many(self, ids: Iterable[str]) -> list[Record | None]:
        """See `App.get_many`."""
        return await self._app.store.bridge.call(self._app.get_many, ids)

    async def cancel(self, id: str, reason: str = "") -> str:
        """See `App.cancel`."""
        return await self._app.store.bridge.call(self._app.cancel, id, reason)

    async def claim_name(self, name: str, data: Any = None) -> bool:
        """See `App.claim_name`."""
        return await self._app.store.bridge.call(self._app.claim_name, name, data)

    async def get_name(self, name: str) -> NamedClaim | None:
        """See `App.get_name`."""
        return await self._app.store.bridge.call(self._app.get_name, name)

    async def names(self, prefix: str = "") -> list[NamedClaim]:
        """See `App.names`."""
        return await self._app.store.bridge.call(self._app.names, prefix)

    async def release_name(self, name: str) -> bool:
        """See `App.release_name`."""
        return await self._app.store.bridge.call(self._app.release_name, name)

    async def close(self) -> None:
        """See `App.close`."""
        await self._app.store.bridge.call(self._app.close)


class AsyncQueue(Generic[T]):
    """The awaitable twin of a `Queue`: `queue.aio`."""

    __slots__ = ("_bridge", "_give_back", "_look", "_queue")

    def __init__(self, queue: Queue[T], look: Callable[[int], list[Claim[T]]], give_back: Callable[[], None]) -> None:
        self._queue = queue
        self._look = look
        self._give_back = give_back
        self._bridge = queue.store.bridge

    async def put(
        self,
        payload: T,
        *,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | None = None,
        expires: float | None = None,
        key: str | None = None,
        unique: Unique = "open",
        if_exists: IfExists = "return",
        throttle: float | None = None,
        debounce: float | None = None,
        debounce_max: float | None = None,
        limits: Mapping[str, int] | None = None,
        rates: Mapping[str, tuple[int, float]] | None = None,
        headers: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        connection: object | None = None,
    ) -> str:
        """See `Queue.put`. If the await is cancelled, the event may or may not be stored: use a key.

        The `connection` is used in another thread, so it must be one that allows that.
        """
        attempt = partial(
            self._queue.put,
            payload,
            priority=priority,
            delay=delay,
            at=at,
            expires=expires,
            key=key,
            unique=unique,
            if_exists=if_exists,
            throttle=throttle,
            debounce=debounce,
            debounce_max=debounce_max,
            limits=limits,
            rates=rates,
            headers=headers,
            timeout=0,
            connection=connection,
        )
        return await self._when_there_is_room(attempt, timeout, connection)

    async def put_many(
        self,
        payloads: Iterable[T],
        *,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | None = None,
        expires: float | None = None,
        limits: Mapping[str, int] | None = None,
        rates: Mapping[str, tuple[int, float]] | None = None,
        headers: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        connection: object | None = None,
    ) -> list[str]:
        """See `Queue.put_many`."""
        attempt = partial(
            self._queue.put_many,
            await self._bridge.call(several, payloads),  # it may be an iterator, which can be read once
            priority=priority,
            delay=delay,
            at=at,
            expires=expires,
            limits=limits,
            rates=rates,
            headers=headers,
            timeout=0,
            connection=connection,
        )
        return await self._when_there_is_room(attempt, timeout, connection)

    async def _when_there_is_room(self, put: Callable[[], R], timeout: float | None, connection: object | None) -> R:
        """`put.when_there_is_room`, with the loop to wait on."""
        if not may_wait(timeout, connection):
            return await self._bridge.call(put)
        for pause in pauses(patience(timeout)):
            try:
                return await self._bridge.call(put)
            except QueueFull as full:
                if full.never:
                    raise
            await self._bridge.call(self._queue.store.storage.recover)
            await sleep(pause)
        return await self._bridge.call(put)

    async def claim(self, timeout: float | None = 0) -> Claim[T] | None:
        """See `Queue.claim`. If the await is cancelled, what it had claimed is released."""
        claims = await self._claim(1, patience(timeout))
        return claims[0] if claims else None

    async def claim_many(self, limit: int, timeout: float | None = 0) -> list[Claim[T]]:
        """See `Queue.claim_many`. If the await is cancelled, what it had claimed is released."""
        return await self._claim(at_least_one(limit), patience(timeout))

    def claims(self, timeout: float | None = None) -> AsyncGenerator[Claim[T], None]:
        """See `Queue.claims`: `async for claim in ...`, and inside it `async with claim as event`.

        Leaving the loop gives the rest back once the generator is closed; `contextlib.aclosing` does that at once.
        """
        return self._claims(patience(timeout))

    async def get(self, id: str) -> Record | None:
        """See `Queue.get`."""
        return await self._bridge.call(self._queue.get, id)

    async def scan(
        self,
        state: State | str = State.READY,
        *,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        headers: Mapping[str, Any] | None = None,
        worker: str | None = None,
        settled_from: datetime | None = None,
        settled_to: datetime | None = None,
        run_time_from: float | None = None,
        run_time_to: float | None = None,
        exit_code: int | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """See `Queue.scan`."""
        return await self._bridge.call(
            self._queue.scan,
            state,
            created_from=created_from,
            created_to=created_to,
            headers=headers,
            worker=worker,
            settled_from=settled_from,
            settled_to=settled_to,
            run_time_from=run_time_from,
            run_time_to=run_time_to,
            exit_code=exit_code,
            cursor=cursor,
            limit=limit,
        )

    async def stats(self) -> Stats:
        """See `Queue.stats`."""
        return await self._bridge.call(self._queue.stats)

    async def settings(self) -> Settings:
        """See `Queue.settings`."""
        return await self._bridge.call(self._queue.settings)

    async def configure(self, **settings: Unpack[QueueSettings]) -> Settings:
        """See `Queue.configure`."""
        return await self._bridge.call(self._queue.configure, **settings)

    async def pause(self, for_: float | None = None) -> None:
        """See `Queue.pause`."""
        await self._bridge.call(self._queue.pause, for_)

    async def resume(self) -> None:
        """See `Queue.resume`."""
        await self._bridge.call(self._queue.resume)

    async def cancel(self, ids: str | Sequence[str], reason: str = "") -> list[str]:
        """See `Queue.cancel`."""
        return await self._bridge.call(self._queue.cancel, ids, reason)

    async def retry(self, ids: str | Sequence[str]) -> list[str]:
        """See `Queue.retry`."""
        return await self._bridge.call(self._queue.retry, ids)

    async def move(self, ids: str | Sequence[str], to: str | Queue[Any]) -> list[str]:
        """See `Queue.move`."""
        return await self._bridge.call(self._queue.move, ids, to)

    async def remove(self, ids: str | Sequence[str]) -> list[str]:
        """See `Queue.remove`."""
        return await self._bridge.call(self._queue.remove, ids)

    async def purge(self, states: State | str | Iterable[State | str] = WAITING) -> int:
        """See `Queue.purge`."""
        return await self._bridge.call(self._queue.purge, states)

    async def prune(self) -> int:
        """See `Queue.prune`."""
        return await self._bridge.call(self._queue.prune)

    async def delete(self) -> None:
        """See `Queue.delete`."""
        await self._bridge.call(self._queue.delete)

    # ------------------------------------------------------------------ waiting on the loop

    async def _claim(self, limit: int, wait: float | None) -> list[Claim[T]]:
        """`Queue._look` and `Queue._wait`, with the loop to wait on."""
        bridge, storage = self._bridge, self._queue.store.storage
        claims, pause = await bridge.take(release_all, self._look_on, limit)
        if claims or wait == 0:
            return claims
        deadline = math.inf if wait is None else SYSTEM.monotonic() + wait
        watch = await bridge.take(close_watch, storage.watch, self._queue.name)
        try:
            while True:
                claims, pause = await bridge.take(release_all, self._look_on, limit)
                left = deadline - SYSTEM.monotonic()
                if claims or left <= 0:
                    return claims
                if await readable(watch.fileno(), min(pause, left)):  # 0: something is due by now
                    watch.clear()
        finally:
            watch.close()

    def _look_on(self, limit: int) -> tuple[list[Claim[T]], float]:
        """What can be claimed now, and the seconds until the next look; one trip to a thread."""
        return self._look(limit), self._queue.store.storage.recover()

    async def _claims(self, wait: float | None) -> AsyncGenerator[Claim[T], None]:
        try:
            while claims := await self._claim(1, wait):
                yield claims[0]
        finally:
            try:
                await self._bridge.call(self._give_back)
            except StorageClosed:
                log.debug("closing the store gave back what %s had fetched ahead", self._queue.name)


class AsyncTask(Generic[P, R]):
    """The awaitable twin of a `Task`: `task.aio`."""

    __slots__ = ("_bridge", "_task")

    def __init__(self, task: Task[P, R]) -> None:
        self._task = task
        self._bridge = task.app.store.bridge

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """See `Task.enqueue`. If the await is cancelled, the event may or may not be stored: use a key."""
        return await self._bridge.call(self._task.enqueue, *args, **kwargs)

    async def enqueue_many(self, calls: Iterable[Sequence[Any]]) -> list[Handle[R]]:
        """See `Task.enqueue_many`."""
        return await self._bridge.call(self._task.enqueue_many, calls)

    async def broadcast(self, *args: P.args, **kwargs: P.kwargs) -> list[Handle[R]]:
        """See `Task.broadcast`."""
        return await self._bridge.call(self._task.broadcast, *args, **kwargs)


class AsyncWorker:
    """The awaitable twin of a `Worker`: `worker.aio`."""

    __slots__ = ("_bridge", "_worker")

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._bridge = worker.app.store.bridge

    async def run(self, burst: bool = False) -> int:
        """See `Worker.run`; it hears no signals. If the await is cancelled, the worker stops gracefully, and is waited
        for."""
        from asyncio import CancelledError, ensure_future, shield

        running = ensure_future(self._bridge.call(self._worker.run, burst))
        try:
            return await shield(running)
        except CancelledError:
            self._worker.stop()
            await running
            raise


class AsyncClaim(Generic[T]):
    """The awaitable twin of a `Claim`: `claim.aio`."""

    __slots__ = ("_bridge", "_claim")

    def __init__(self, claim: Claim[T]) -> None:
        self._claim = claim
        self._bridge = claim.store.bridge

    async def complete(self, value: Any = None) -> None:
        """See `Claim.complete`."""
        await self._bridge.call(self._claim.complete, value)

    async def retry(self, delay: float | None = None, error: BaseException | Failure | str | None = None) -> None:
        """See `Claim.retry`."""
        await self._bridge.call(self._claim.retry, delay, error)

    async def release(self) -> None:
        """See `Claim.release`."""
        await self._bridge.call(self._claim.release)

    async def reject(self, error: BaseException | Failure | str | None = None) -> None:
        """See `Claim.reject`."""
        await self._bridge.call(self._claim.reject, error)

    async def skip(self) -> None:
        """See `Claim.skip`."""
        await self._bridge.call(self._claim.skip)

    async def cancel(self, reason: str = "") -> None:
        """See `Claim.cancel`."""
        await self._bridge.call(self._claim.cancel, reason)

    async def settle(self, outcome: Outcome) -> None:
        """See `Claim.settle`."""
        await self._bridge.call(self._claim.settle, outcome)

    async def note(self, kind: str, data: Any = None) -> None:
        """See `Claim.note`."""
        await self._bridge.call(self._claim.note, kind, data)

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """See `Claim.progress`."""
        await self._bridge.call(self._claim.progress, done, total, note)


class AsyncHandle(Generic[R]):
    """The awaitable twin of a `Handle`: `handle.aio`."""

    __slots__ = ("_bridge", "_handle", "_value")

    def __init__(self, handle: Handle[R], value: Callable[[Record | None, float | None], R]) -> None:
        self._handle = handle
        self._value = value
        self._bridge = handle.store.bridge

    async def result(self, timeout: float | None = None) -> R:
        """See `Handle.result`."""
        return self._value(await self._wait(timeout), timeout)

    async def wait(self, timeout: float | None = None) -> bool:
        """See `Handle.wait`."""
        return ended(await self._wait(timeout), self._handle.store)

    async def ready(self) -> bool:
        """See `Handle.ready`."""
        return await self._bridge.call(self._handle.ready)

    async def status(self) -> State | None:
        """See `Handle.status`."""
        return await self._bridge.call(self._handle.status)

    async def exception(self) -> EventqError | None:
        """See `Handle.exception`."""
        return await self._bridge.call(self._handle.exception)

    async def cancel(self, reason: str = "") -> str:
        """See `Handle.cancel`."""
        return await self._bridge.call(self._handle.cancel, reason)

    async def notes(self, after: int = 0) -> list[Note]:
        """See `Handle.notes`."""
        return await self._bridge.call(self._handle.notes, after)

    async def progress(self) -> Progress | None:
        """See `Handle.progress`."""
        return await self._bridge.call(self._handle.progress)

    async def _wait(self, timeout: float | None) -> Record | None:
        """`Handle._wait`, with the loop to wait on."""
        handle = self._handle
        patient = Patience(handle.store, handle.id, timeout)
        record, pause = await self._bridge.call(patient.look)
        if pause <= 0:
            return record
        watch = await self._bridge.take(close_watch, handle.store.storage.watch, id=handle.id)
        try:
            while True:
                record, pause = await self._bridge.call(patient.look)
                if pause <= 0:
                    return record
                if await readable(watch.fileno(), pause):
                    watch.clear()
        finally:
            watch.close()


class AsyncStreamHandle(AsyncHandle[None], Generic[Y]):
    """The awaitable twin of a `StreamHandle`: `async for value in handle.aio`."""

    __slots__ = ("_stream",)

    def __init__(self, handle: StreamHandle[Y], value: Callable[[Record | None, float | None], None]) -> None:
        super().__init__(handle, value)
        self._stream = handle.stream

    def __aiter__(self) -> AsyncGenerator[Y, None]:
        return aiter(self._stream().aio)


class AsyncSemaphore:
    """The awaitable twin of a `Lock` or `Semaphore`: `lock.aio`."""

    __slots__ = ("_bridge", "_semaphore", "_take")

    def __init__(self, semaphore: Semaphore, take: Callable[[], bool]) -> None:
        self._semaphore = semaphore
        self._take = take
        self._bridge = semaphore.store.bridge

    async def acquire(self, timeout: float | None = None) -> bool:
        """See `Semaphore.acquire`. If the await is cancelled, a place that it had taken is given back."""
        for pause in pauses(patience(timeout)):
            if await self._bridge.take(self._undo, self._take):
                return True
            await sleep(pause)
        return await self._bridge.take(self._undo, self._take)

    async def release(self) -> None:
        """See `Semaphore.release`."""
        await self._bridge.call(self._semaphore.release)

    def _undo(self, taken: bool) -> None:
        if taken:
            self._semaphore.release()


def release_all(looked: tuple[list[Claim[T]], float]) -> None:
    """Undo a look whose await was cancelled."""
    for claim in looked[0]:
        try:
            claim.settle(Released())
        except ClaimLost:
            log.warning("event %s was lost before it could be released", claim.id)


def close_watch(watch: Watch) -> None:
    """Undo a watch whose await was cancelled."""
    watch.close()
