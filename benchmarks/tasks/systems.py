"""The task queues that are measured, in the order of the rotation.

Each with its normal settings, and one worker process started as its users start it; all with as little logging as
they can be told to do, and Redis on a Unix socket with nothing written to disk.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import redis_server
from benchmarks.tasks.base import PATIENCE, AsyncTaskSystem, TaskSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractContextManager
    from pathlib import Path

LOOK_AGAIN = 1.0
"""Seconds."""

BOTH = frozenset({"threads", "asyncio"})


class EventqTasks(TaskSystem):
    name = "eventq-tasks"
    family = "eventq"
    note = "sync=False"
    modes = BOTH
    requires = "eventq"
    module = "benchmarks.tasks.eventq_tasks"

    @classmethod
    def worker(cls, folder: Path) -> list[str]:
        return ["eventq", "worker", f"{cls.module}:app", "--log-level", "warning"]

    def enqueuer(self, task: str) -> Callable[[int], Any]:
        enqueue: Callable[[int], Any] = getattr(self.tasks, task).enqueue
        return enqueue

    def result(self, handle: Any) -> Any:
        return handle.result(timeout=PATIENCE)

    def close(self) -> None:
        self.tasks.app.close()


class HueyTasks(TaskSystem):
    name = "huey-tasks"
    family = "huey"
    note = "SqliteHuey, fsync=False, one worker thread; worker and waiter look every 0.1 s or more"
    requires = "huey"
    module = "benchmarks.tasks.huey_tasks"

    @classmethod
    def worker(cls, folder: Path) -> list[str]:
        return ["huey.bin.huey_consumer", f"{cls.module}.huey", "--quiet"]

    def enqueuer(self, task: str) -> Callable[[int], Any]:
        enqueue: Callable[[int], Any] = getattr(self.tasks, task)
        return enqueue

    def result(self, handle: Any) -> Any:
        return handle.get(blocking=True, timeout=PATIENCE)


class RedisTasks(TaskSystem):
    """A task queue on a private Redis."""

    @classmethod
    def missing(cls) -> str | None:
        return redis_server.missing() or super().missing()

    @classmethod
    def version(cls) -> str:
        return f"{super().version()} on Redis {redis_server.version()}"

    @classmethod
    def server(cls, folder: Path) -> AbstractContextManager[None]:
        return redis_server.running(folder)


class RqTasks(RedisTasks):
    name = "rq"
    family = "RQ"
    note = "SimpleWorker, which does not fork for each task"
    requires = "rq"
    module = "benchmarks.tasks.rq_tasks"

    @classmethod
    def worker(cls, folder: Path) -> list[str]:
        url = f"unix://{redis_server.socket(folder)}"
        return ["rq.cli", "worker", "--worker-class", "rq.SimpleWorker", "--url", url, "--quiet"]

    def enqueuer(self, task: str) -> Callable[[int], Any]:
        options = {"result_ttl": ttl} if (ttl := {"bare": 0, "brief": 1}.get(task)) is not None else {}
        return partial(self.tasks.queue.enqueue, getattr(self.tasks, task), **options)

    def result(self, handle: Any) -> Any:
        return handle.latest_result(timeout=int(PATIENCE)).return_value


class DramatiqTasks(RedisTasks):
    name = "dramatiq"
    family = "dramatiq"
    note = "one process, 8 threads; coroutines through its AsyncIO middleware"
    modes = BOTH
    requires = "dramatiq"
    module = "benchmarks.tasks.dramatiq_tasks"

    @classmethod
    def worker(cls, folder: Path) -> list[str]:
        return ["dramatiq", cls.module, "--processes", "1"]

    def enqueuer(self, task: str) -> Callable[[int], Any]:
        enqueue: Callable[[int], Any] = getattr(self.tasks, task).send
        return enqueue

    def result(self, handle: Any) -> Any:
        return handle.get_result(block=True, timeout=int(PATIENCE * 1000))


class SaqTasks(RedisTasks, AsyncTaskSystem):
    name = "saq"
    family = "saq"
    note = "10 tasks at once; asynchronous producer"
    modes = BOTH
    requires = "saq"
    module = "benchmarks.tasks.saq_tasks"

    @classmethod
    def worker(cls, folder: Path) -> list[str]:
        return ["saq", f"{cls.module}.settings"]

    def enqueuer(self, task: str) -> Callable[[int], Coroutine[Any, Any, Any]]:
        options = {"ttl": -1} if task.startswith("bare") else {"ttl": 1} if task == "brief" else {}

        def enqueue(number: int) -> Coroutine[Any, Any, Any]:
            job: Coroutine[Any, Any, Any] = self.tasks.queue.enqueue(task, number=number, **options)
            return job

        return enqueue

    async def result(self, handle: Any) -> Any:
        end = time.monotonic() + PATIENCE
        while True:  # it misses a result that comes between its look and its listening: then look again
            try:
                await handle.refresh(until_complete=LOOK_AGAIN)
            except TimeoutError:
                if time.monotonic() < end:
                    continue
                raise
            return handle.result

    def close(self) -> None:
        self.loop.run_until_complete(self.tasks.queue.disconnect())
        super().close()


class CeleryTasks(RedisTasks):
    name = "celery"
    family = "Celery"
    note = "one process, pool of threads"
    requires = "celery"
    module = "benchmarks.tasks.celery_tasks"

    @classmethod
    def worker(cls, folder: Path) -> list[str]:
        return ["celery", "--quiet", "--app", cls.module, "worker", "--pool", "threads"]

    def enqueuer(self, task: str) -> Callable[[int], Any]:
        enqueue: Callable[[int], Any] = getattr(self.tasks, task).delay
        return enqueue

    def result(self, handle: Any) -> Any:
        return handle.get(timeout=PATIENCE)


TASK_SYSTEMS: tuple[type[TaskSystem], ...] = (EventqTasks, HueyTasks, RqTasks, DramatiqTasks, SaqTasks, CeleryTasks)
