"""Redis servers for tests: one that is there, and private ones that may be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from eventq.clock import SYSTEM, sleep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEFAULT = "redis://127.0.0.1:6379"


def until(fact: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait for a fact; what it was when it was true."""
    deadline = SYSTEM.monotonic() + seconds
    while not (found := fact()):
        assert SYSTEM.monotonic() < deadline, f"did not come true within {seconds} s"
        sleep(0.01)
    return found


def absent(why: str) -> None:
    """Skip the test, or fail it where servers must be there."""
    if os.environ.get("TEST_SERVERS") == "required":
        pytest.fail(why)
    pytest.skip(why)


def shared_url() -> str:
    """The URL of a server that answers."""
    import redis

    url = os.environ.get("TEST_REDIS_URL", DEFAULT)
    client = redis.Redis.from_url(url)
    try:
        client.ping()
    except redis.RedisError as error:
        absent(f"no Redis at {url}: start one, or set TEST_REDIS_URL ({error})")
    finally:
        client.close()
    return url


@contextlib.contextmanager
def redis_store() -> Iterator[str]:
    """The URL of a namespace of its own on the shared server; removed afterwards."""
    url = shared_url()
    name = f"test-{uuid4().hex}"
    try:
        yield f"{url}{'&' if '?' in url else '?'}namespace={name}"
    finally:
        remove(url, name)


def remove(url: str, name: str) -> None:
    """Remove all keys of a namespace."""
    import redis

    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(f"{{eventq:{name}}}:*", count=1000):
            client.delete(key)


def keys_of(url: str) -> list[str]:
    """All keys of the namespace that a URL names."""
    import redis

    base, _, name = url.partition("?namespace=")
    with redis.Redis.from_url(base) as client:
        return sorted(key.decode() for key in client.scan_iter(f"{{eventq:{name}}}:*", count=1000))


class PrivateServer:
    """A server of one test, that may be killed and started again with what it had saved."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = ["redis-server", "--port", str(self.port), "--dir", str(self._folder), "--save", "", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = SYSTEM.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as answering:
                answering.sendall(b"PING\r\n")
                if answering.recv(100):
                    return
            assert SYSTEM.monotonic() < deadline, "redis-server did not start"
            assert self._process.poll() is None, "redis-server ended"
            sleep(0.01)

    def kill(self) -> None:
        """As by kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@contextlib.contextmanager
def private(folder: Path, *options: str) -> Iterator[PrivateServer]:
    """A private server, killed at the end."""
    if shutil.which("redis-server") is None:
        absent("no redis-server on the PATH: install one")
    server = PrivateServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
