"""huey's storage layer. Its dequeue deletes: at most once, and one transaction fewer than with a settle."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.systems.base import System

if TYPE_CHECKING:
    from pathlib import Path


class HueySqlite(System):
    name = "huey-sqlite-off"
    family = "huey"
    note = "SqliteStorage, fsync=False"
    requires = "huey"
    imports = "import huey"
    at_most_once = True
    binary = True
    batches = False
    fsync: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        storage = importlib.import_module("huey.storage")
        self.storage = storage.SqliteStorage("events", filename=str(folder / "huey.db"), fsync=self.fsync, timeout=60)

    def put(self, payload: Any) -> None:
        self.storage.enqueue(payload)

    def take(self) -> tuple[Any, Any] | None:
        payload = self.storage.dequeue()
        return None if payload is None else (None, payload)

    def settle(self, token: Any) -> None: ...

    def close(self) -> None:
        self.storage.close()


class HueySqliteFull(HueySqlite):
    name = "huey-sqlite-full"
    note = "SqliteStorage, fsync=True"
    modes = frozenset({"durable"})
    fsync = True


class HueyFile(HueySqlite):
    name = "huey-file"
    note = "FileStorage"

    def __init__(self, folder: Path) -> None:
        path = folder / "huey"
        path.mkdir(exist_ok=True)
        self.storage = importlib.import_module("huey.storage").FileStorage("events", str(path))

    def close(self) -> None: ...
