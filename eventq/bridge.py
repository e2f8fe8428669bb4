"""From sync to async: calls run on a few threads of their own, waiting happens on the event loop.

There is one implementation of everything, and it is sync. Whatever can block has a twin under `.aio` that makes the
call on a thread of the bridge; storage calls are short, so a few threads serve any number of coroutines. What would
wait (for an event, for a result) must not sit on such a thread: it waits here, on the loop, for a descriptor or a time.
asyncio is imported only when one of these functions runs.
"""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from eventq.errors import StorageClosed

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable
    from concurrent.futures import Future as ThreadFuture
    from concurrent.futures import ThreadPoolExecutor

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 8
"""Enough that durable puts share their fsync; none of them ever waits for an event."""


class Bridge:
    """Runs blocking calls for coroutines. Its threads start with the first call."""

    __slots__ = ("_closed", "_lock", "_pid", "_pool")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0
        self._closed = False

    async def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns, run on a thread with the caller's context variables.

        If the await is cancelled, a call that has begun still runs to its end, and its result is dropped.
        """
        from asyncio import wrap_future

        return await wrap_future(self._submit(functools.partial(function, *args, **kwargs)))

    async def take(
        self, undo: Callable[[R], object], function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Like `call`, for what must not get lost: if the await is cancelled, `undo` gets the result."""
        from asyncio import CancelledError, wrap_future

        future = self._submit(functools.partial(function, *args, **kwargs))
        try:
            return await wrap_future(future)
        except CancelledError:
            future.add_done_callback(functools.partial(self._undo, undo))
            raise

    def close(self) -> None:
        """End the threads once their calls are done; harmless when repeated, or on one of these threads."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def _submit(self, function: Callable[[], R]) -> ThreadFuture[R]:
        with self._lock:
            if self._closed:
                raise StorageClosed("the app was closed; make a new one with eventq.App(...)")
            # A child made by fork inherits the pool without its threads: calls would wait for ever.
            if self._pool is None or self._pid != os.getpid():
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="eventq")
                self._pid = os.getpid()
            return self._pool.submit(contextvars.copy_context().run, function)

    def _undo(self, undo: Callable[[R], object], future: ThreadFuture[R]) -> None:
        if future.cancelled() or future.exception() is not None:
            return  # it took nothing
        try:
            self._submit(functools.partial(undo, future.result()))
        except StorageClosed:
            undo(future.result())


async def readable(descriptor: int, seconds: float) -> bool:
    """Wait on the loop until a descriptor can be read, or for some seconds at most; tells which."""
    from asyncio import get_running_loop

    loop = get_running_loop()
    ready: Future[bool] = loop.create_future()
    timer = loop.call_later(seconds, _finish, ready, False)
    loop.add_reader(descriptor, _finish, ready, True)
    try:
        return await ready
    finally:
        timer.cancel()
        loop.remove_reader(descriptor)


async def sleep(seconds: float) -> None:
    """Wait on the loop for some seconds."""
    from asyncio import sleep as pause

    await pause(seconds)


def _finish(future: Future[Any], value: bool) -> None:
    if not future.done():
        future.set_result(value)
