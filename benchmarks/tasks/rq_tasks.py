"""The tasks in RQ: plain functions."""

from __future__ import annotations

from typing import Any

from redis import Redis
from rq import Queue

from benchmarks.tasks.work import REDIS, bare, brief, burn, nothing

__all__ = ["bare", "brief", "burn", "nothing", "queue"]

queue: Any = Queue(connection=Redis.from_url(REDIS))
