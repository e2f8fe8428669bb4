"""The tasks in saq. Its worker runs the plain functions in threads."""

from __future__ import annotations

from typing import Any

from saq.queue.redis import RedisQueue

from benchmarks.tasks import work


def nothing(context: Any, *, number: int) -> int:
    return work.nothing(number)


def brief(context: Any, *, number: int) -> int:
    return work.nothing(number)


def bare(context: Any, *, number: int) -> None:
    work.bare(number)


async def nothing_async(context: Any, *, number: int) -> int:
    return work.nothing(number)


async def bare_async(context: Any, *, number: int) -> None:
    work.bare(number)


def burn(context: Any, *, number: int) -> int:
    return work.burn(number)


queue: Any = RedisQueue.from_url(work.REDIS)
settings = {"queue": queue, "functions": [nothing, brief, bare, nothing_async, bare_async, burn]}
