"""The systems that are measured, in the order of the rotation. To add one: a class, and a line here (a task queue: a
class and a line in `benchmarks/tasks/systems.py`)."""

from __future__ import annotations

from benchmarks.measured import Measured
from benchmarks.systems.base import System
from benchmarks.systems.dirq_simple import DirqSimple
from benchmarks.systems.diskcache_deque import DiskcacheDeque, DiskcacheDequeFull
from benchmarks.systems.eventq_store import (
    Eventq,
    EventqPostgresql,
    EventqPostgresqlOff,
    EventqRedis,
    EventqSqlite,
    EventqSqliteFull,
    EventqSync,
)
from benchmarks.systems.huey_storage import HueyFile, HueySqlite, HueySqliteFull
from benchmarks.systems.kombu_files import KombuFiles
from benchmarks.systems.litequeue_table import Litequeue, LitequeueFull
from benchmarks.systems.persist_queue import PersistQueue
from benchmarks.systems.postgresql_table import PostgresqlTable, PostgresqlTableOff
from benchmarks.systems.redis_list import RedisList, RedisListDurable, RedisLoop
from benchmarks.systems.sqlite_table import SqliteFull, SqliteNormal
from benchmarks.tasks.systems import TASK_SYSTEMS, EventqWorkflows, HueyTasks, ProcrastinateTasks, RqTasks, SaqTasks

__all__ = ["BASELINE", "SYSTEMS", "Measured", "System"]

_ORDER: tuple[type[Measured], ...] = (
    Eventq,
    EventqSync,
    SqliteNormal,
    SqliteFull,
    HueySqlite,
    HueySqliteFull,
    Litequeue,
    LitequeueFull,
    DiskcacheDeque,
    DiskcacheDequeFull,
    PersistQueue,
    HueyFile,
    DirqSimple,
    KombuFiles,
    RedisList,
    RedisListDurable,
    EventqSqlite,
    EventqSqliteFull,
    EventqRedis,
    RedisLoop,
    EventqPostgresql,
    PostgresqlTable,
    EventqPostgresqlOff,
    PostgresqlTableOff,
    *TASK_SYSTEMS,
)

SYSTEMS = {system.name: system for system in _ORDER}

BASELINE = {
    "relaxed": SqliteNormal.name,
    "durable": SqliteFull.name,
    "threads": HueyTasks.name,
    "asyncio": SaqTasks.name,
    "sqlite": SqliteNormal.name,
    "sqlite-full": SqliteFull.name,
    "redis": RedisLoop.name,
    "postgresql": PostgresqlTable.name,
    "postgresql-off": PostgresqlTableOff.name,
    "redis-tasks": RqTasks.name,
    "redis-asyncio": SaqTasks.name,
    "postgresql-tasks": ProcrastinateTasks.name,
    "workflows": EventqWorkflows.name,
}
"""What ratios are taken against in each mode, in the same run."""
