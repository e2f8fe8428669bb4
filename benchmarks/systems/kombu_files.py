"""kombu's filesystem transport. Taking removes the file, the event lives on in memory only: at most once."""

from __future__ import annotations

import importlib
import tempfile
from typing import TYPE_CHECKING, Any

from benchmarks.systems.base import System

if TYPE_CHECKING:
    from pathlib import Path


class KombuFiles(System):
    name = "kombu-filesystem"
    family = "kombu"
    note = "filesystem transport, SimpleQueue"
    requires = "kombu"
    imports = "import kombu"
    at_most_once = True
    batches = False

    def __init__(self, folder: Path) -> None:
        kombu = importlib.import_module("kombu")
        data, control, taken = (folder / name for name in ("data", "control", "taken"))
        for path in (data, control, taken):
            path.mkdir(exist_ok=True)
        tempfile.tempdir = str(taken)  # where the transport moves what it takes
        self.connection = kombu.Connection(
            "filesystem://",
            transport_options={
                "data_folder_in": str(data),
                "data_folder_out": str(data),
                "control_folder": str(control),
            },
        )
        self.queue = self.connection.SimpleQueue("events")

    def put(self, payload: Any) -> None:
        self.queue.put(payload)

    def take(self) -> tuple[Any, Any] | None:
        try:
            taken = self.queue.get_nowait()
        except self.queue.Empty:
            return None
        return taken, taken.payload

    def settle(self, token: Any) -> None:
        token.ack()

    def close(self) -> None:
        self.queue.close()
        self.connection.close()
