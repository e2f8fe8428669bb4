"""Stores for one torture: made fresh, opened by all its processes, and removed when nothing was wrong with them."""

from __future__ import annotations

import abc
import secrets
import shutil
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from benchmarks import postgresql_server, redis_server
from eventq import ConfigError
from eventq.config import is_file_url, masked
from eventq.storage import file_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.server import Server

ROOT = Path(__file__).resolve().parent.parent
OWN_OPTIONS = frozenset({"namespace", "patience", "prepare"})
"""What eventq alone understands of the URL of a server."""
AT_ONCE = 1.0
SOON = 5.0
"""Seconds until who is dead is no worker any more: the kernel says so; a server has said so for a while."""
AFTER_SILENCE = 25.0
"""The same where the server was restarted: whoever had joined before is given time to come back."""


class Place(abc.ABC):
    """Where one store is."""

    buried: float = SOON
    """Seconds after which no dead worker is in the store, if anybody looks."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def shown(self) -> str:
        return masked(self.url)

    def make(self) -> None:  # noqa: B027 - of most stores, opening makes all there is
        """Make what opening does not."""

    @abc.abstractmethod
    def remove(self) -> None:
        """Leave nothing of the store behind."""

    def faults(self) -> list[str]:
        """What is wrong in the store itself, once all is at rest and closed."""
        return []


class Files(Place):
    buried = AT_ONCE

    def __init__(self, url: str, folder: Path) -> None:
        self._path = fresh(folder / file_path(url))
        super().__init__(str(self._path))

    def remove(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)

    def faults(self) -> list[str]:
        command = [sys.executable, "-m", "eventq", "--store", self.url, "fsck"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        return [] if done.returncode == 0 else [f"fsck: {line}" for line in (done.stdout + done.stderr).splitlines()]


class Database(Place):
    """A SQLite file."""

    buried = AT_ONCE

    def __init__(self, url: str, folder: Path) -> None:
        parts = urlsplit(url)
        self._path = fresh(folder / parts.path.removeprefix("/"))
        super().__init__(f"sqlite:///{self._path}" + (f"?{parts.query}" if parts.query else ""))

    def remove(self) -> None:
        for path in self._path.parent.glob(f"{self._path.name}*"):  # its log, and the folder of its workers
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def faults(self) -> list[str]:
        connection = sqlite3.connect(self._path)
        said = [word for (word,) in connection.execute("PRAGMA integrity_check")]
        connection.close()
        return [] if said == ["ok"] else [f"integrity_check: {line}" for line in said]


class Namespace(Place):
    """A part of its own of what a server has."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        self.name = f"{options.get('namespace', 'torture')}_{secrets.token_hex(4)}"
        super().__init__(with_options(url, {**options, "namespace": self.name}))
        self._plain = with_options(url, {name: text for name, text in options.items() if name not in OWN_OPTIONS})


class Keys(Namespace):
    """In Redis."""

    def remove(self) -> None:
        import redis

        client: Any = redis.Redis.from_url(self._plain)
        for key in client.scan_iter(match=f"{{eventq:{self.name}}}:*", count=1_000):
            client.unlink(key)
        client.close()


class Schema(Namespace):
    """In PostgreSQL."""

    def make(self) -> None:
        from eventq.storage.sql import migrate

        migrate(self.url)

    def remove(self) -> None:
        import psycopg

        with psycopg.connect(self._plain, autocommit=True) as connection:
            connection.execute(f'DROP SCHEMA IF EXISTS "{self.name}" CASCADE'.encode())


def place(url: str, folder: Path) -> Place:
    """The place that a URL names; a relative path is below the folder. Raises ConfigError if something is there."""
    scheme = urlsplit(url).scheme
    if is_file_url(url):
        return Files(url, folder)
    if scheme == "sqlite":
        return Database(url, folder)
    if scheme in ("redis", "rediss"):
        return Keys(url)
    if scheme in ("postgresql", "postgres"):
        return Schema(url)
    raise ConfigError(f"no store that processes share: {masked(url)}")


def server_behind(url: str, folder: Path) -> Server:
    """A private server of the kind that a URL names, in a folder of its own.

    It loses nothing that it has acknowledged when it is killed: that is what is put to the test.
    """
    scheme = urlsplit(url).scheme
    if scheme == "redis":
        return redis_server.RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always")
    if scheme in ("postgresql", "postgres"):
        return postgresql_server.PostgresqlServer(folder, "fsync=off")  # being killed is no power cut
    raise ConfigError(f"no server to kill behind {masked(url)}; write redis:// or postgresql://")


@contextmanager
def with_server(url: str, folder: Path) -> Iterator[tuple[Place, Server]]:
    """A place on a private server, which runs meanwhile; the options of the URL are kept."""
    folder.mkdir()
    with server_behind(url, folder) as server:
        options = dict(parse_qsl(urlsplit(server.url).query) + parse_qsl(urlsplit(url).query))
        yield place(with_options(server.url, options), folder), server


def with_options(url: str, options: dict[str, str]) -> str:
    address = url.partition("?")[0]
    return f"{address}?{urlencode(options)}" if options else address


def fresh(path: Path) -> Path:
    if path.exists():
        raise ConfigError(f"{path} exists; a torture makes its own store, and removes it")
    return path
