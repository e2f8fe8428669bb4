"""The Redis storage passes the suite that ships in `eventq.testing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis_server

from eventq.storage.redis import RedisStorage
from eventq.testing import FakeClock, StorageConformance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.storage.base import Storage

pytestmark = pytest.mark.server


class TestRedis(StorageConformance):
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def open_worker(self, clock: FakeClock) -> Iterator[Callable[[], Storage]]:
        with redis_server.redis_store() as url:
            yield lambda: RedisStorage(url, clock=clock)

    @pytest.fixture
    def kill(self) -> Callable[[RedisStorage], None]:
        return RedisStorage.abandon
