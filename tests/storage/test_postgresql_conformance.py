"""PostgreSQL passes the suite that ships in `eventq.testing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from storage.postgresql_server import store  # noqa: F401 - a fixture

from eventq.storage.sql.postgresql import PostgreSQLStorage
from eventq.testing import FakeClock, StorageConformance

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.postgresql_server import Namespace

    from eventq.storage.base import Storage

pytestmark = pytest.mark.server


class TestPostgreSQL(StorageConformance):
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def open_worker(self, clock: FakeClock, store: Namespace) -> Callable[[], Storage]:  # noqa: F811 - it
        return lambda: PostgreSQLStorage(store.url, clock=clock)

    @pytest.fixture
    def kill(self) -> Callable[[PostgreSQLStorage], None]:
        return PostgreSQLStorage.abandon
