"""A store in a SQLite database passes the suite that ships in `eventq.testing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventq.storage.sql.sqlite import SQLiteStorage
from eventq.testing import FakeClock, StorageConformance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventq.storage.base import Storage


class TestSQLite(StorageConformance):
    """With `synchronous=normal`: the same code but for the call that makes it durable, which no test here could see."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def open_worker(self, clock: FakeClock, tmp_path: Path) -> Callable[[], Storage]:
        return lambda: SQLiteStorage(f"sqlite:///{tmp_path}/store.db?synchronous=normal", clock=clock)

    @pytest.fixture
    def kill(self) -> Callable[[SQLiteStorage], None]:
        return SQLiteStorage.abandon
