"""litequeue: a SQLite table. It keeps done rows, and sorts all ready ones for each claim."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.systems.base import System

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Litequeue(System):
    name = "litequeue"
    family = "litequeue"
    note = "WAL, synchronous=NORMAL"
    requires = "litequeue"
    imports = "import litequeue"
    synchronous: ClassVar[str] = "NORMAL"

    def __init__(self, folder: Path) -> None:
        self.queue = importlib.import_module("litequeue").LiteQueue(str(folder / "lite.db"), timeout=60)
        self.queue.conn.execute(f"PRAGMA synchronous = {self.synchronous}")

    def put(self, payload: Any) -> None:
        self.queue.put(payload)

    def put_many(self, payloads: Sequence[Any]) -> None:
        with self.queue.transaction(mode="IMMEDIATE"):
            for payload in payloads:
                self.queue.put(payload)

    def take(self) -> tuple[Any, Any] | None:
        claimed = self.queue.pop()
        return None if claimed is None else (claimed.message_id, claimed.data)

    def settle(self, token: Any) -> None:
        self.queue.done(token)

    def close(self) -> None:
        self.queue.conn.close()


class LitequeueFull(Litequeue):
    name = "litequeue-full"
    note = "WAL, synchronous=FULL"
    modes = frozenset({"durable"})
    synchronous = "FULL"
