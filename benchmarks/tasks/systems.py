"""The task queues that are measured, in the order of the rotation.

Each with its normal settings, and one worker process started as its users start it; all with as little logging as
they can be told to do, and Redis with nothing written to disk: on a Unix socket, but for eventq, which uses TCP.
"""

from __future__ import annotations

import importlib
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import postgresql_server, redis_server
from benchmarks.tasks.base import PATIENCE, STORE, AsyncTaskSystem, TaskSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
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


class EventqWorkflows(EventqTasks):
    name = "eventq-workflows"
    modes = frozenset({"workflows"})


class EventqRedisTasks(redis_server.OnRedis, EventqTasks):
    name = "eventq-redis-tasks"
    note = "redis://"
    modes = frozenset({"redis-tasks", "redis-asyncio"})
    driver = "redis"

    def __init__(self, folder: Path) -> None:
        os.environ[STORE] = redis_server.url(folder)
        super().__init__(folder)


class EventqPostgresqlTasks(postgresql_server.OnPostgresql, EventqTasks):
    name = "eventq-postgresql-tasks"
    note = "postgresql://"
    modes = frozenset({"postgresql-tasks"})
    driver = "psycopg"

    def __init__(self, folder: Path) -> None:
        os.environ[STORE] = postgresql_server.url(folder)
        super().__init__(folder)

    @classmethod
    def furnish(cls, folder: Path) -> None:
        from eventq.storage.sql import migrate

        migrate(postgresql_server.url(folder))


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


class RedisTasks(redis_server.OnRedis, TaskSystem):
    """A task queue on a private Redis."""

    @classmethod
    def version(cls) -> str:
        return f"{super().version()} on Redis {redis_server.version()}"


class RqTasks(RedisTasks):
    name = "rq"
    family = "RQ"
    note = "SimpleWorker, which does not fork for each task"
    modes = frozenset({"threads", "redis-tasks"})
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
    modes = BOTH | {"redis-tasks", "redis-asyncio"}
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


class ProcrastinateTasks(postgresql_server.OnPostgresql, TaskSystem):
    name = "procrastinate"
    family = "procrastinate"
    note = "30 tasks at once"
    modes = frozenset({"postgresql-tasks"})
    requires = "procrastinate"
    module = "benchmarks.tasks.procrastinate_tasks"
    concurrency = 30
    """Its default is 1; with more it is faster."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tasks.app.open()

    @classmethod
    def furnish(cls, folder: Path) -> None:
        schema: str = importlib.import_module("procrastinate.schema").SchemaManager.get_schema()
        with importlib.import_module("psycopg").connect(postgresql_server.url(folder)) as connection:
            connection.execute(schema)

    @classmethod
    def worker(cls, folder: Path) -> list[str]:
        return ["procrastinate", "--app", f"{cls.module}.app", "worker", "--concurrency", str(cls.concurrency)]

    def enqueuer(self, task: str) -> Callable[[int], Any]:
        defer = getattr(self.tasks, task).defer
        return lambda number: defer(number=number)

    def result(self, handle: Any) -> Any:
        raise NotImplementedError("it keeps no results")

    @classmethod
    def version(cls) -> str:
        return f"{super().version()} on PostgreSQL {postgresql_server.version()}"

    def close(self) -> None:
        self.tasks.app.close()


TASK_SYSTEMS: tuple[type[TaskSystem], ...] = (
    EventqTasks,
    EventqWorkflows,
    HueyTasks,
    RqTasks,
    DramatiqTasks,
    SaqTasks,
    CeleryTasks,
    EventqRedisTasks,
    EventqPostgresqlTasks,
    ProcrastinateTasks,
)
