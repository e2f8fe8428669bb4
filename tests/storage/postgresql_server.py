"""PostgreSQL for tests: a server that is there, or one of their own that they may kill.

The one that is there: `TEST_POSTGRESQL_URL` (a URL), else `postgresql://127.0.0.1/test`. Without one the tests are
skipped, but fail where `TEST_SERVERS=required`. Each process of pytest has a schema there, made once and emptied
for each test. Their own server is made with initdb in a temporary folder, and runs on a free port of this machine.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from eventq.clock import SYSTEM, sleep
from eventq.storage.sql import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

CANDIDATES = ("postgresql://127.0.0.1/test", "postgresql://postgres@127.0.0.1/test")
LAZY = "options=-csynchronous_commit%3Doff"
"""The same code but for the wait until a commit is on the disk, which no test here could see."""
PATIENCE = 30.0
MEMORY = "/dev/shm"


def lacking(words: str) -> None:
    """There is no server: skip, or fail where one is required."""
    advice = f"no PostgreSQL {words}: start one, or set TEST_POSTGRESQL_URL"
    if os.environ.get("TEST_SERVERS") == "required":
        pytest.fail(advice)
    pytest.skip(advice)


@functools.cache
def found() -> str | None:
    """The URL of a server that lets us in."""
    said = os.environ.get("TEST_POSTGRESQL_URL")
    for url in (said,) if said else CANDIDATES:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(url, connect_timeout=5).close()
            return url
    return None


def server_url() -> str:
    """The URL of the server that is there."""
    url = found()
    if url is None:
        lacking(f"at {os.environ.get('TEST_POSTGRESQL_URL') or ' or '.join(CANDIDATES)}")
    assert url is not None
    return url


def with_options(url: str, *options: str) -> str:
    return "?".join([url, "&".join(options)]) if "?" not in url else "&".join([url, *options])


# ---------------------------------------------------------------- a schema on the server that is there


class Namespace:
    """A schema of this process, with the tables of a store; `url` is the store's."""

    def __init__(self, server: str, number: int) -> None:
        self.name: str = f"eventq_test_{os.getpid()}_{number}"
        self.url: str = with_options(server, LAZY, f"namespace={self.name}")
        self._connection = psycopg.connect(server, autocommit=True)
        self._drop()
        migrate(self.url)
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename <> 'schema'"
        names = [row[0] for row in self._connection.execute(tables, [self.name])]
        self._empty = "; ".join(f'DELETE FROM "{self.name}".{name}' for name in names)

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the server says; `{p}` stands for the schema."""
        cursor = self._connection.execute(statement.replace("{p}", f'"{self.name}".'), values)
        return cursor.fetchall() if cursor.description is not None else []

    def empty(self) -> None:
        """As it was made. TRUNCATE takes a hundred times as long."""
        self._connection.execute(self._empty)

    def close(self) -> None:
        self._drop()
        self._connection.close()

    def _drop(self) -> None:
        self._connection.execute(f'DROP SCHEMA IF EXISTS "{self.name}" CASCADE')


# ---------------------------------------------------------------- a server of one's own


def programs() -> str:
    """The folder of initdb and postgres."""
    folders = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    on_path = shutil.which("initdb")
    if on_path is not None:
        folders.insert(0, os.path.dirname(on_path))
    for folder in folders:
        if os.access(f"{folder}/initdb", os.X_OK):
            return folder
    lacking("programs (initdb) on this machine")
    raise AssertionError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PrivateServer:
    """A server that a test may kill, stop and start. Its superuser is `postgres`, everybody is trusted."""

    def __init__(self) -> None:
        self._programs = programs()
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        base = MEMORY if os.access(MEMORY, os.W_OK) else tempfile.gettempdir()
        self._folder = tempfile.mkdtemp(prefix="eventq-postgresql-", dir=base)
        self._process: subprocess.Popen[bytes] | None = None
        self.port: int = free_port()
        if os.geteuid() == 0:
            os.chown(self._folder, pwd.getpwnam(self._user).pw_uid, pwd.getpwnam(self._user).pw_gid)
        command = [f"{self._programs}/initdb", "-D", f"{self._folder}/data", "-U", "postgres", "-A", "trust"]
        self._as_user([*command, "--no-sync", "--encoding=UTF8", "--locale=C"]).wait(PATIENCE)
        self.start()

    def _as_user(self, command: list[str]) -> subprocess.Popen[bytes]:
        with open(f"{self._folder}/log", "ab") as log:
            who: dict[str, Any] = {"user": self._user, "extra_groups": []} if os.geteuid() == 0 else {}
            if who:
                who["group"] = pwd.getpwnam(self._user).pw_gid
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, **who)

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it lets somebody in."""
        settings = {
            "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self._folder,
            "fsync": "off", "max_connections": 50, "shared_buffers": "16MB", "lc_messages": "C",
        }  # fmt: skip
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        deadline = SYSTEM.monotonic() + PATIENCE
        while True:
            if self._process is None or self._process.poll() is not None:
                # after a kill -9, until the last of the old processes is gone, it ends at once
                self._process = self._as_user([f"{self._programs}/postgres", "-D", f"{self._folder}/data", *options])
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            assert SYSTEM.monotonic() < deadline, Path(f"{self._folder}/log").read_text("utf-8", "replace")[-2000:]
            sleep(0.02)

    def kill(self) -> None:
        """Kill -9 all of it."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)  # it would start others in the place of those that we kill
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text("ascii").split()
        for pid in [*map(int, children), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE)

    def stop(self) -> None:
        """Shut it down; whoever is connected is told."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE)

    def demand_passwords(self, yes: bool = True) -> None:
        """Whether a password is asked of who comes from now on."""
        method = "scram-sha-256" if yes else "trust"
        Path(f"{self._folder}/data/pg_hba.conf").write_text(
            f"local all all trust\nhost all all 127.0.0.1/32 {method}\n"
        )
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


# ---------------------------------------------------------------- for the tests


_free: list[Namespace] = []
_count = itertools.count(1)


@contextlib.contextmanager
def empty_store() -> Iterator[Namespace]:
    """An empty store on the server that is there, for nobody else meanwhile."""
    server = server_url()
    if _free:
        made = _free.pop()
        made.empty()
    else:
        made = Namespace(server, next(_count))
        atexit.register(made.close)
    yield made
    _free.append(made)


@contextlib.contextmanager
def postgresql_store() -> Iterator[str]:
    """The URL of one."""
    with empty_store() as made:
        yield made.url


@pytest.fixture
def store() -> Iterator[Namespace]:
    with empty_store() as made:
        yield made


@pytest.fixture(scope="session")
def private_server() -> Iterator[PrivateServer]:
    """A server of this process of pytest. Whoever has stopped it starts it again."""
    server = PrivateServer()
    yield server
    server.close()
