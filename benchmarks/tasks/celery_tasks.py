"""The tasks in Celery, with Redis for messages and results."""

from __future__ import annotations

from typing import Any

from celery import Celery

from benchmarks.tasks import work

URL = work.REDIS.replace("unix:", "redis+socket:")

app: Any = Celery("tasks", broker=URL, backend=URL)


@app.task
def nothing(number: int) -> int:
    return work.nothing(number)


@app.task
def brief(number: int) -> int:
    return work.nothing(number)


@app.task(ignore_result=True)
def bare(number: int) -> None:
    work.bare(number)


@app.task
def burn(number: int) -> int:
    return work.burn(number)
