"""For tests: a clock to move by hand, and the suite that decides whether something is a storage.

Importing this needs nothing beyond eventq; `StorageConformance` needs pytest, and is imported when first used.

    from eventq.testing import FakeClock, StorageConformance

    class TestMyStorage(StorageConformance):
        @pytest.fixture
        def open_worker(self, tmp_path):
            return lambda: MyStorage(tmp_path)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from eventq.testing.clock import FakeClock

if TYPE_CHECKING:
    from eventq.testing.conformance import StorageConformance

__all__ = ["FakeClock", "StorageConformance"]


def __getattr__(name: str) -> Any:
    if name == "StorageConformance":
        return importlib.import_module("eventq.testing.conformance").StorageConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
