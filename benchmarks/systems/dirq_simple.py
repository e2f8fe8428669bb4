"""dirq's QueueSimple: a file per event, claimed by a hard link, removed when settled."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from benchmarks.systems.base import System

if TYPE_CHECKING:
    from pathlib import Path


class DirqSimple(System):
    name = "dirq"
    family = "dirq"
    note = "QueueSimple"
    requires = "dirq"
    imports = "import dirq.QueueSimple"
    binary = True
    batches = False

    def __init__(self, folder: Path) -> None:
        self.queue = importlib.import_module("dirq.QueueSimple").QueueSimple(str(folder / "dirq"))

    def put(self, payload: Any) -> None:
        self.queue.add(payload)

    def take(self) -> tuple[Any, Any] | None:
        name = self.queue.next() or self.queue.first()  # `first` lists the folders anew
        while name and not self.queue.lock(name):
            name = self.queue.next()
        return (name, self.queue.get(name)) if name else None

    def settle(self, token: Any) -> None:
        self.queue.remove(token)

    def close(self) -> None: ...
