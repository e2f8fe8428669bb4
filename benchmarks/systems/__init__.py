"""The systems that are measured, in the order of the rotation. To add one: a class, and a line here."""

from __future__ import annotations

from benchmarks.systems.base import System
from benchmarks.systems.dirq_simple import DirqSimple
from benchmarks.systems.diskcache_deque import DiskcacheDeque, DiskcacheDequeFull
from benchmarks.systems.eventq_store import Eventq, EventqSync
from benchmarks.systems.huey_storage import HueyFile, HueySqlite, HueySqliteFull
from benchmarks.systems.kombu_files import KombuFiles
from benchmarks.systems.litequeue_table import Litequeue, LitequeueFull
from benchmarks.systems.persist_queue import PersistQueue
from benchmarks.systems.redis_list import RedisList, RedisListDurable
from benchmarks.systems.sqlite_table import SqliteFull, SqliteNormal

__all__ = ["BASELINE", "SYSTEMS", "System"]

SYSTEMS: dict[str, type[System]] = {
    system.name: system
    for system in (
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
    )
}

BASELINE = {"relaxed": SqliteNormal.name, "durable": SqliteFull.name}
"""What ratios are taken against, in the same run."""
