"""A store in SQLite and one in memory live the same life."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from storage.test_state_machine import TwoWorlds

from eventq.storage.sql.sqlite import SQLiteStorage

if TYPE_CHECKING:
    from eventq.testing import FakeClock


class SQLiteAndMemory(TwoWorlds):
    def open_real(self, folder: str, clock: FakeClock) -> SQLiteStorage:
        return SQLiteStorage(f"sqlite:///{folder}/store.db?synchronous=normal", clock=clock)

    def kill_real(self, worker: SQLiteStorage) -> None:
        worker.abandon()


def test_sqlite_and_memory_tell_the_same_story() -> None:
    run_state_machine_as_test(SQLiteAndMemory, settings=settings(max_examples=5, stateful_step_count=40))


@pytest.mark.exhaustive
def test_sqlite_and_memory_tell_the_same_story_for_long() -> None:
    run_state_machine_as_test(
        SQLiteAndMemory, settings=settings(max_examples=80, stateful_step_count=60, deadline=None)
    )
