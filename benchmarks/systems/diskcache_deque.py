"""diskcache's Deque: SQLite below, and popleft deletes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.systems.base import System

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class DiskcacheDeque(System):
    name = "diskcache"
    family = "diskcache"
    note = "Deque, synchronous=NORMAL"
    requires = "diskcache"
    imports = "import diskcache"
    at_most_once = True
    synchronous: ClassVar[int] = 1

    def __init__(self, folder: Path) -> None:
        module = importlib.import_module("diskcache")
        self.cache = module.Cache(
            str(folder / "deque"), eviction_policy="none", timeout=60, sqlite_synchronous=self.synchronous
        )
        self.deque = module.Deque.fromcache(self.cache)

    def put(self, payload: Any) -> None:
        self.deque.append(payload)

    def put_many(self, payloads: Sequence[Any]) -> None:
        with self.deque.transact():
            self.deque.extend(payloads)

    def take(self) -> tuple[Any, Any] | None:
        try:
            return None, self.deque.popleft()
        except IndexError:
            return None

    def settle(self, token: Any) -> None: ...

    def close(self) -> None:
        self.cache.close()


class DiskcacheDequeFull(DiskcacheDeque):
    name = "diskcache-full"
    note = "Deque, synchronous=FULL"
    modes = frozenset({"durable"})
    synchronous = 2
