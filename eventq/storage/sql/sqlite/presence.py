"""Who is alive on this machine, and a word to them: a FIFO for each worker, beside the database file.

A FIFO whose read end nobody holds cannot be opened for writing without waiting: so the death of a process is seen at
once, whatever killed it, and no clock takes part. A stopped or busy process still holds it. What is written into it is
a word for its worker, a line of JSON.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from typing import TYPE_CHECKING

import msgspec

from eventq.errors import StorageError
from eventq.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

NEW = ".new"
"""At the end of the name of a FIFO that is not held yet."""
MAX_WORD = 4000
"""Bytes that are written into a pipe at once, never in parts."""


class Doors:
    """The folder of the FIFOs of a database."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def make(self, worker: str) -> int:
        """The read end of a new FIFO, which others find."""
        path = os.path.join(self._folder, worker)
        while True:
            try:
                os.makedirs(self._folder, exist_ok=True)
                self._remove(path + NEW)
                os.mkfifo(path + NEW)
                # for writing as well, so that the last writer's going is not the end of the file
                end = os.open(path + NEW, os.O_RDWR | os.O_NONBLOCK)
            except FileNotFoundError:
                continue  # the last worker left, or somebody tidied up, in this moment
            except OSError as error:
                raise StorageError(f"cannot make a FIFO in {self._folder}: {error}") from error
            try:
                os.rename(path + NEW, path)
            except FileNotFoundError:
                os.close(end)
                continue
            return end

    def is_held(self, worker: str) -> bool:
        """Whether a worker is alive. The FIFO of a dead one goes."""
        end = self._open(worker)
        if end is not None:
            os.close(end)
        return end is not None

    def say(self, worker: str, word: str) -> None:
        """Write a word, if the worker is alive and has room for it."""
        end = self._open(worker)
        if end is None:
            return
        try:
            os.write(end, msgspec.json.encode(word) + b"\n")
        except (BlockingIOError, BrokenPipeError):
            return  # it has more to read than it needs to look again; or it has just died
        finally:
            os.close(end)

    def _open(self, worker: str) -> int | None:
        path = os.path.join(self._folder, worker)
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise StorageError(f"cannot tell whether a worker is alive: {error}") from error
            self._remove(path)
            return None

    def remove(self, worker: str) -> None:
        """Take a FIFO away, and the folder with the last one; those of the dead go as well."""
        self._remove(os.path.join(self._folder, worker))
        try:
            for name in os.listdir(self._folder):
                self.is_held(name)
            os.rmdir(self._folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
                raise StorageError(f"cannot tidy up {self._folder}: {error}") from error

    def _remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return


class Listener:
    """This process's own FIFO, and the thread that hears what is said to it."""

    def __init__(self, doors: Doors, worker: str, hear: Callable[[str], None]) -> None:
        self._doors = doors
        self._worker = worker
        self._hear = hear
        self._end = doors.make(worker)
        self._stop = Wakeup()
        self._stopped = False
        self._thread = threading.Thread(target=self._listen, name="eventq-listener", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        poller = select.poll()
        poller.register(self._end, select.POLLIN)
        poller.register(self._stop.fileno(), select.POLLIN)
        heard = b""
        while not self._stopped:
            poller.poll()
            try:
                heard += os.read(self._end, 1 << 16)
            except BlockingIOError:
                continue
            *lines, heard = heard.split(b"\n")
            for line in lines:
                self._hear(msgspec.json.decode(line, type=str))

    def stop(self) -> None:
        """Be dead for all who look, and end the thread."""
        self._stopped = True
        self._stop.ring()
        if self._thread is not threading.current_thread():
            self._thread.join()
        os.close(self._end)
        self._stop.close()

    def leave(self) -> None:
        self.stop()
        self._doors.remove(self._worker)

    def be_forgotten(self) -> None:
        """In a child made by fork: this is its parent's, whose death others must be able to see."""
        os.close(self._end)
        self._stop.close()
