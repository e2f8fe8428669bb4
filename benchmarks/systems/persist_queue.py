"""persist-queue's SQLiteAckQueue. It keeps SQLite's default synchronous=FULL and cannot be told otherwise."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from benchmarks.systems.base import System

if TYPE_CHECKING:
    from pathlib import Path


class PersistQueue(System):
    name = "persist-queue"
    family = "persist-queue"
    note = "SQLiteAckQueue, synchronous=FULL"
    modes = frozenset({"relaxed", "durable"})
    requires = "persistqueue"
    distribution = "persist-queue"
    imports = "import persistqueue"
    batches = False

    def __init__(self, folder: Path) -> None:
        module = importlib.import_module("persistqueue")
        self.empty = module.exceptions.Empty
        # auto_resume would give every opening process the events that others have claimed.
        self.queue = module.SQLiteAckQueue(
            str(folder / "persist"), multithreading=True, auto_commit=True, auto_resume=False, timeout=60
        )

    def put(self, payload: Any) -> None:
        self.queue.put(payload)

    def take(self) -> tuple[Any, Any] | None:
        try:
            item = self.queue.get(block=False, raw=True)
        except self.empty:
            return None
        return item["pqid"], item["data"]

    def settle(self, token: Any) -> None:
        self.queue.ack(id=token)

    def close(self) -> None:
        self.queue.close()
