"""PostgreSQL and the memory storage live the same life, step by step, and must tell the same story."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from storage.postgresql_server import empty_store
from storage.test_state_machine import TwoWorlds

from eventq.storage.sql.postgresql import PostgreSQLStorage

if TYPE_CHECKING:
    from eventq.storage.base import Storage
    from eventq.testing import FakeClock

pytestmark = pytest.mark.server


class PostgreSQLWorlds(TwoWorlds):
    def __init__(self) -> None:
        super().__init__()
        self.store = empty_store()
        self.url = self.store.__enter__().url

    def open_real(self, folder: str, clock: FakeClock) -> Storage:
        return PostgreSQLStorage(self.url, clock=clock)

    def kill_real(self, worker: Any) -> None:
        worker.abandon()

    def teardown(self) -> None:
        super().teardown()
        self.store.__exit__(None, None, None)


def test_postgresql_and_memory_tell_the_same_story() -> None:
    run_state_machine_as_test(PostgreSQLWorlds, settings=settings(max_examples=5, stateful_step_count=40))
