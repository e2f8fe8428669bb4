"""A private Redis server for one cell: on a Unix socket, and on a free port of this machine."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket as sockets
import subprocess
from typing import TYPE_CHECKING, ClassVar

from benchmarks.measured import Measured
from benchmarks.server import Server, sockets_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def socket(folder: Path) -> Path:
    return sockets_of(folder) / "redis.sock"


def url(folder: Path) -> str:
    """Of the running server, over TCP."""
    return f"redis://127.0.0.1:{(folder / 'redis.port').read_text()}/0"


def missing() -> str | None:
    found = shutil.which("redis-server") is not None
    return None if found else "not installed: redis-server is not on the PATH"


def version() -> str:
    answer = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\S+)", answer)
    return found.group(1) if found else "server"


class RedisServer(Server):
    """Writes nothing to disk unless the options say so."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self._options = options

    @property
    def url(self) -> str:
        return url(self.folder)

    def prepare(self) -> None:
        with sockets.create_server(("127.0.0.1", 0)) as free:
            (self.folder / "redis.port").write_text(str(free.getsockname()[1]))

    def command(self) -> list[str]:
        port, path = (self.folder / "redis.port").read_text(), str(socket(self.folder))
        place = ["--bind", "127.0.0.1", "--port", port, "--unixsocket", path, "--dir", str(self.folder)]
        return ["redis-server", *place, "--save", "", *self._options]

    def answers(self) -> bool:
        with sockets.socket(sockets.AF_UNIX) as connection:
            try:
                connection.connect(str(socket(self.folder)))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")  # not while it reads what it has on disk
            except OSError:
                return False


class OnRedis(Measured):
    """What is measured on a private Redis."""

    server_options: ClassVar[tuple[str, ...]] = ("--appendonly", "no")

    @classmethod
    def missing(cls) -> str | None:
        return missing() or super().missing()

    @classmethod
    @contextlib.contextmanager
    def server(cls, folder: Path) -> Iterator[None]:
        with RedisServer(folder, *cls.server_options):
            yield
