"""A private PostgreSQL server for one cell: its cluster is in the cell's folder; no password.

The server refuses to run as root; then it runs as the user `postgres`, with the one right of root's that lets it into
the folders of this run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from benchmarks.measured import Measured
from benchmarks.server import Server, sockets_of

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "postgres"
PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")
"""Where its programs are if they are not on the PATH."""
AS_USER = ("setpriv", "--reuid", USER, "--regid", USER, "--clear-groups")
DROP_TEMPLATES = """UPDATE pg_database SET datistemplate = false
DROP DATABASE template0
DROP DATABASE template1
"""
"""What new databases would be made of: none is, and each cell copies their files, two thirds of all."""
ENTER = ("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")


def url(folder: Path) -> str:
    return f"postgresql://{USER}@/postgres?host={quote(str(sockets_of(folder)), safe='')}"


def programs() -> Path | None:
    """The folder of its programs; of several the newest."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    folders = [path for place in PLACES for path in Path("/").glob(place[1:]) if (path / "initdb").exists()]
    return max(folders, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], default=None)


def missing() -> str | None:
    if programs() is None:
        return "not installed: PostgreSQL's initdb is neither on the PATH nor where packages put it"
    if os.geteuid() == 0 and shutil.which(AS_USER[0]) is None:
        return "as root it needs setpriv, of util-linux"
    return None


def version() -> str:
    answer = subprocess.run([_program("postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    return answer.split()[2]


def _program(name: str) -> str:
    folder = programs()
    assert folder is not None, "a system without its server is not measured"
    return str(folder / name)


def _command(name: str) -> list[str]:
    """A program of the server's, as a user whom it accepts."""
    return [*AS_USER, *ENTER, "--", _program(name)] if os.geteuid() == 0 else [_program(name)]


class PostgresqlServer(Server):
    """As it is installed, unless the settings (`fsync=off`) say something else."""

    def __init__(self, folder: Path, *settings: str, template: Path | None = None) -> None:
        """A template is a cluster that is made once and copied by each server of a run."""
        super().__init__(folder)
        self._settings = settings
        self._template = template

    @property
    def url(self) -> str:
        return url(self.folder)

    def prepare(self) -> None:
        data = self.folder / "data"
        if self._template is None:
            _make_cluster(data)
            return
        if not self._template.exists():
            _make_cluster(data)
            with contextlib.suppress(OSError):  # another cell was faster
                data.rename(self._template)
            shutil.rmtree(data, ignore_errors=True)
        # not shutil.copytree: as root, the copy must belong to the server's user as well
        subprocess.run(["cp", "-a", str(self._template), str(data)], check=True)

    def command(self) -> list[str]:
        settings = ("listen_addresses=", f"unix_socket_directories={sockets_of(self.folder)}", *self._settings)
        options = [word for setting in settings for word in ("-c", setting)]
        return [*_command("postgres"), "-D", str(self.folder / "data"), *options]

    def answers(self) -> bool:
        ready = [_program("pg_isready"), "--quiet", "--host", str(sockets_of(self.folder))]
        return subprocess.run(ready, check=False).returncode == 0

    def stop(self) -> None:
        """At once, but by a signal that it can answer: a killed one leaves its shared memory behind."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None


def _make_cluster(data: Path) -> None:
    options = ["--username", USER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
    _run([*_command("initdb"), "-D", str(data), *options])
    _run([*_command("postgres"), "--single", "-D", str(data), "postgres"], DROP_TEMPLATES)


def _run(command: list[str], words: str = "") -> None:
    done = subprocess.run(command, input=words, capture_output=True, text=True, check=False)
    if done.returncode or "ERROR:" in done.stderr:
        raise RuntimeError(f"{command[-1]}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


class OnPostgresql(Measured):
    """What is measured on a private PostgreSQL."""

    server_settings: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def missing(cls) -> str | None:
        return missing() or super().missing()

    @classmethod
    @contextlib.contextmanager
    def server(cls, folder: Path) -> Iterator[None]:
        """All cells of a run copy the one cluster that is beside them."""
        with PostgresqlServer(folder, *cls.server_settings, template=folder.parent / "postgresql"):
            cls.furnish(folder)
            yield

    @classmethod
    def furnish(cls, folder: Path) -> None:
        """Make the tables that opening does not make."""
