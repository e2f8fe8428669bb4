"""A Redis list through redis-py, on a private server with a Unix socket: LMOVE to take, LREM to settle."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.systems.base import System

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class RedisList(System):
    name = "redis-list"
    family = "Redis"
    note = "LPUSH, LMOVE, LREM; nothing written to disk"
    requires = "redis"
    imports = "import redis"
    binary = True
    options: ClassVar[tuple[str, ...]] = ("--appendonly", "no")

    def __init__(self, folder: Path) -> None:
        redis = importlib.import_module("redis")
        self.client = redis.Redis(unix_socket_path=str(folder / "redis.sock"), socket_timeout=None)
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
    def missing(cls) -> str | None:
        if shutil.which("redis-server") is None:
            return "not installed: redis-server is not on the PATH"
        return super().missing()

    @classmethod
    def version(cls) -> str:
        answer = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"v=(\S+)", answer)
        return f"{found.group(1) if found else 'server'} with redis-py {super().version()}"

    @classmethod
    @contextlib.contextmanager
    def server(cls, folder: Path) -> Iterator[None]:
        socket = folder / "redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
        process = subprocess.Popen([*command, "--save", "", *cls.options], stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 10
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("redis-server did not start")
                time.sleep(0.01)
            yield
        finally:
            process.kill()
            process.wait()


class RedisListDurable(RedisList):
    name = "redis-list-aof"
    note = "the same, appendfsync always"
    modes = frozenset({"durable"})
    options = ("--appendonly", "yes", "--appendfsync", "always")
