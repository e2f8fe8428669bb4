"""The tasks in dramatiq, with its results in Redis."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware.asyncio import AsyncIO
from dramatiq.results import Results
from dramatiq.results.backends.redis import RedisBackend

from benchmarks.tasks import work

broker: Any = RedisBroker(url=work.REDIS)
broker.add_middleware(Results(backend=RedisBackend(url=work.REDIS)))
broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def nothing(number: int) -> int:
    return work.nothing(number)


@dramatiq.actor(store_results=True, result_ttl=1000)
def brief(number: int) -> int:
    return work.nothing(number)


@dramatiq.actor
def bare(number: int) -> None:
    work.bare(number)


@dramatiq.actor(store_results=True)
async def nothing_async(number: int) -> int:
    return work.nothing(number)


@dramatiq.actor
async def bare_async(number: int) -> None:
    work.bare(number)


@dramatiq.actor(store_results=True)
def burn(number: int) -> int:
    return work.burn(number)
