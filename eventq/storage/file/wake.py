"""Waking: a FIFO per queue for idle claimers, a FIFO per room for those who wait for results and notes.

A wake is only a hint. Whoever makes a file visible opens the FIFO write-only and non-blocking: without a reader that
is an error after three microseconds, and there is nothing to do. An idle claimer opens it read-write (read-only it
would be readable for ever once a writer has closed), looks once more, then polls, and reads one byte per wake: who
drained it would take another idle claimer's wake. Appending to a file wakes nobody, since nobody has claimed it yet.
"""

from __future__ import annotations

import threading

from eventq.errors import StorageClosed
from eventq.ids import ID_LENGTH
from eventq.storage.file import disk
from eventq.storage.file.presence import CLOSED


def wake(fifo: str, data: bytes = b"\n") -> bool:
    """Write to a FIFO if somebody waits there; whether somebody does."""
    try:
        fd = disk.open_fifo_writer(fifo)
    except OSError:
        return False
    try:
        disk.write(fd, data)
    except OSError:
        return True  # full: its readers have wakes enough
    finally:
        disk.close(fd)
    return True


class QueueWatch:
    """Readable when there may be something to claim in a queue."""

    __slots__ = ("_fd",)

    def __init__(self, fifo: str) -> None:
        self._fd = disk.open_fifo(fifo)

    def fileno(self) -> int:
        return self._fd

    def clear(self) -> None:
        try:
            disk.read(self._fd, 1)
        except BlockingIOError:
            return

    def close(self) -> None:
        if self._fd >= 0:
            disk.close(self._fd)
            self._fd = -1


class ResultWatch:
    """Readable when an event was noted upon, or ended with a record."""

    __slots__ = ("_board", "_reader", "_rung", "_writer", "id")

    def __init__(self, board: ResultBoard, id: str) -> None:
        self._board = board
        self.id: str = id
        self._reader, self._writer = disk.pipe()
        self._rung = False

    def fileno(self) -> int:
        return self._reader

    def clear(self) -> None:
        self._rung = False  # before the byte goes: who rings in between adds one, and none is lost
        try:
            disk.read(self._reader, 1)
        except BlockingIOError:
            return

    def ring(self) -> None:
        """Wake its one waiter, once for however many notes came since it was awake."""
        if self._rung:
            return
        self._rung = True
        try:
            disk.write(self._writer, b"\n")
        except OSError:
            return  # full, or just closed: nobody needs it

    def close(self) -> None:
        if self._board.forget(self):
            disk.close(self._reader)
            disk.close(self._writer)


class ResultBoard:
    """Hands the ids that settlers write into this room's FIFO to the watches that wait for them.

    One thread reads the FIFO, started with the first watch: several readers would take each other's ids.
    """

    def __init__(self, fifo: str) -> None:
        self._fifo = fifo
        self._lock = threading.Lock()
        self._watches: dict[str, list[ResultWatch]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, id: str) -> ResultWatch:
        with self._lock:
            if self._closed:
                raise StorageClosed(CLOSED)
            if self._thread is None:
                disk.make_fifo(self._fifo)
                fd = disk.open_fifo(self._fifo)
                disk.set_blocking(fd)
                self._thread = threading.Thread(target=self._read, args=(fd,), name="eventq-results", daemon=True)
                self._thread.start()
            watch = ResultWatch(self, id)
            self._watches.setdefault(id, []).append(watch)
        return watch

    def forget(self, watch: ResultWatch) -> bool:
        """Take a watch off the board; False if it was off."""
        with self._lock:
            watches = self._watches.get(watch.id)
            if watches is None or watch not in watches:
                return False
            watches.remove(watch)
            if not watches:
                del self._watches[watch.id]
            return True

    def ring(self, id: str) -> None:
        """Wake who waits for this event."""
        if id in self._watches:  # only a hint: who has just begun to wait looks for itself
            with self._lock:
                for watch in self._watches.get(id, ()):
                    watch.ring()

    def close(self) -> None:
        """Stop the thread."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            wake(self._fifo)
            thread.join(timeout=5)

    def _read(self, fd: int) -> None:
        rest = b""
        try:
            while not self._closed:
                *lines, rest = (rest + disk.read(fd, 4096)).split(b"\n")
                for line in lines:
                    if len(line) == ID_LENGTH:
                        self.ring(line.decode())
        finally:
            disk.close(fd)
