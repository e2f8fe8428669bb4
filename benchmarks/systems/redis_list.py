"""A Redis list through redis-py, on a private server with a Unix socket: LMOVE to take, LREM to settle."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from benchmarks import redis_server
from benchmarks.systems.base import System

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class RedisList(redis_server.OnRedis, System):
    name = "redis-list"
    family = "Redis"
    note = "LPUSH, LMOVE, LREM; nothing written to disk"
    requires = "redis"
    imports = "import redis"
    binary = True

    def __init__(self, folder: Path) -> None:
        redis = importlib.import_module("redis")
        self.client = redis.Redis(unix_socket_path=str(redis_server.socket(folder)), socket_timeout=None)
        self.taken = f"taken-{os.getpid()}-{id(self)}"

    def put(self, payload: Any) -> None:
        self.client.lpush("events", payload)

    def put_many(self, payloads: Sequence[Any]) -> None:
        self.client.lpush("events", *payloads)

    def take(self) -> tuple[Any, Any] | None:
        payload = self.client.lmove("events", self.taken, "RIGHT", "LEFT")
        return None if payload is None else (payload, payload)

    def wait(self, timeout: float) -> tuple[Any, Any] | None:
        payload = self.client.blmove("events", self.taken, timeout, "RIGHT", "LEFT")
        return None if payload is None else (payload, payload)

    def settle(self, token: Any) -> None:
        self.client.lrem(self.taken, 1, token)

    def close(self) -> None:
        self.client.close()

    @classmethod
    def version(cls) -> str:
        return f"{redis_server.version()} with redis-py {super().version()}"


class RedisListDurable(RedisList):
    name = "redis-list-aof"
    note = "the same, appendfsync always"
    modes = frozenset({"durable"})
    server_options = ("--appendonly", "yes", "--appendfsync", "always")


class RedisLoop(RedisList):
    """What a store on Redis is compared with: nothing but the commands, over TCP as it is."""

    name = "redis-loop"
    note = "redis-py over TCP: RPUSH; LMOVE, LREM; nothing written to disk"
    modes = frozenset({"redis"})

    def __init__(self, folder: Path) -> None:
        redis = importlib.import_module("redis")
        self.client = redis.Redis.from_url(redis_server.url(folder))
        self.taken = f"taken-{os.getpid()}-{id(self)}"

    def put(self, payload: Any) -> None:
        self.client.rpush("events", payload)

    def put_many(self, payloads: Sequence[Any]) -> None:
        self.client.rpush("events", *payloads)

    def take(self) -> tuple[Any, Any] | None:
        payload = self.client.lmove("events", self.taken, "LEFT", "RIGHT")
        return None if payload is None else (payload, payload)
