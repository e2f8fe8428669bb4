"""A private server for one cell or one torture, in a folder of its own; it can be killed and started again."""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

START = 20.0
"""Seconds within which a server answers. One that was killed reads its log first."""
LOOK = 0.01
SOCKETS = "sockets.folder"
"""The file that names the folder of the sockets."""


def sockets_of(folder: Path) -> Path:
    """Where the Unix sockets of the server of a folder are: a socket's name has at most 107 characters, and a folder's
    may have more."""
    told = folder / SOCKETS
    return Path(told.read_text()) if told.exists() else folder


class Server(abc.ABC):
    """What it says goes to `server.log` in its folder. `with Server(folder):` runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """Its address, once it was started."""

    @abc.abstractmethod
    def command(self) -> list[str]:
        """What starts it, in the foreground."""

    @abc.abstractmethod
    def answers(self) -> bool:
        """Whether it serves at this moment."""

    @abc.abstractmethod
    def prepare(self) -> None:
        """Make what it needs before it is started for the first time."""

    def start(self) -> None:
        """Start it, without waiting until it answers."""
        environment = {"PATH": os.environ.get("PATH", os.defpath)}  # by the rest, a torture knows its own processes
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Wait until it answers. RuntimeError if it ends, or takes too long."""
        end = time.monotonic() + START
        while not self.answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > end:
                said = (self.folder / "server.log").read_text(errors="replace").strip().splitlines()
                raise RuntimeError(f"{self.command()[0]} did not start: {said[-1] if said else 'it said nothing'}")
            time.sleep(LOOK)

    def kill(self) -> None:
        """kill -9 of all its processes; returns when they are gone."""
        if self._process is None:
            return
        children = _children(self._process.pid)
        self._process.kill()
        self._process.wait()
        self._process = None
        for pid in children:
            _end(pid)

    def stop(self) -> None:
        """End it, however quickly: its data is thrown away."""
        self.kill()

    def __enter__(self) -> Self:
        sockets = tempfile.mkdtemp(prefix="eq-")
        (self.folder / SOCKETS).write_text(sockets)
        try:
            self.prepare()
            self.start()
            self.wait()
        except BaseException:
            self._finish()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()

    def _finish(self) -> None:
        self.stop()
        shutil.rmtree(sockets_of(self.folder))
        (self.folder / SOCKETS).unlink()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended; or there is no /proc, and then its children end by themselves
        return []


def _end(pid: int) -> None:
    """Kill a process that is no child of this one, and wait until it is gone: it may hold what the next one needs."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while _lives(pid):
        time.sleep(LOOK)


def _lives(pid: int) -> bool:
    """A dead one that nobody has waited for yet holds nothing any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
