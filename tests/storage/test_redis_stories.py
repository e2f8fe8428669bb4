"""The Redis storage and the memory storage live the same life, and must tell the same story."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from redis_server import remove, shared_url
from test_state_machine import TwoWorlds

from eventq.storage.redis import RedisStorage

if TYPE_CHECKING:
    from eventq.testing import FakeClock

pytestmark = pytest.mark.server


class RedisAndMemory(TwoWorlds):
    def __init__(self) -> None:
        super().__init__()
        self.server = shared_url()
        self.namespace = f"story-{uuid4().hex}"

    def open_real(self, folder: str, clock: FakeClock) -> RedisStorage:
        return RedisStorage(f"{self.server}?namespace={self.namespace}", clock=clock)

    def kill_real(self, worker: RedisStorage) -> None:
        worker.abandon()

    def look(self) -> None:
        """Long enough to see that somebody's connection is gone, and stays so."""
        super().look()
        super().look()

    def teardown(self) -> None:
        super().teardown()
        remove(self.server, self.namespace)


def test_redis_and_memory_tell_the_same_story() -> None:
    run_state_machine_as_test(RedisAndMemory, settings=settings(max_examples=5, stateful_step_count=40))


@pytest.mark.exhaustive
def test_redis_and_memory_tell_the_same_story_for_long() -> None:
    run_state_machine_as_test(RedisAndMemory, settings=settings(max_examples=40, stateful_step_count=60))
