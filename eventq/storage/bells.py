"""Waking who waits in this process: a byte in a pipe is one wake for one waiter.

A storage in memory rings them itself; one behind a server has a thread that listens and rings. The caller of `Bell`
and of `Bells` holds the lock that the bells were made with.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import RLock


class Bell:
    """The pipe of one queue, or of one event, shared by its watches."""

    __slots__ = ("_into", "_wakes", "out", "watches")

    def __init__(self) -> None:
        reader, self._into = os.pipe()
        self.out: int = reader
        os.set_blocking(self.out, False)
        os.set_blocking(self._into, False)
        self.watches: int = 0
        self._wakes = 0

    def ring(self, everybody: bool = False) -> None:
        """Wake one watch, or all; never more wakes than watches, so those of a busy time do not pile up."""
        missing = self.watches - self._wakes
        count = missing if everybody else min(1, missing)
        if count > 0:
            self._wakes += os.write(self._into, b"!" * count)

    def take(self) -> None:
        """Take one wake, if there is one."""
        if self._wakes:
            os.read(self.out, 1)
            self._wakes -= 1

    def close(self) -> None:
        os.close(self.out)
        os.close(self._into)


class PipeWatch:
    """A descriptor of its own for a shared pipe: one event loop may have several watches of a queue."""

    __slots__ = ("_bell", "_fd", "_lock", "_on_close")

    def __init__(self, bell: Bell, lock: RLock, on_close: Callable[[PipeWatch], None]) -> None:
        self._bell = bell
        self._lock = lock
        self._on_close: Callable[[PipeWatch], None] | None = on_close
        self._fd = os.dup(bell.out)
        bell.watches += 1

    def fileno(self) -> int:
        """Readable when there is a wake; -1 once closed."""
        return self._fd

    def clear(self) -> None:
        with self._lock:
            if self._on_close is not None:
                self._bell.take()

    def close(self) -> None:
        """Stop watching; harmless when repeated."""
        with self._lock:
            on_close, self._on_close = self._on_close, None
            if on_close is None:
                return
            os.close(self._fd)
            self._fd = -1
            self._bell.watches -= 1
            on_close(self)


class Bells:
    """The bells of a process, by what they announce: a kind (`"queue"`, `"event"`) and a name."""

    def __init__(self, lock: RLock) -> None:
        self._lock = lock
        self._bells: dict[tuple[str, str], Bell] = {}

    def __contains__(self, what: tuple[str, str]) -> bool:
        """Whether anybody here waits for it."""
        return what in self._bells

    def names(self, kind: str) -> list[str]:
        """Of which queues, or events, somebody here waits for news."""
        return [name for found, name in self._bells if found == kind]

    def ring(self, kind: str, name: str, everybody: bool = False) -> None:
        """Wake one who waits for this, or all; nothing if there is none."""
        bell = self._bells.get((kind, name))
        if bell is not None:
            bell.ring(everybody)

    def watch(self, kind: str, name: str, on_close: Callable[[PipeWatch], None]) -> PipeWatch:
        """A new watch; the pipe is closed with its last watch. `on_close` is called with the lock held."""
        bell = self._bells.get((kind, name))
        if bell is None:
            bell = self._bells[kind, name] = Bell()

        def closed(watch: PipeWatch) -> None:
            if not bell.watches:
                del self._bells[kind, name]
                bell.close()
            on_close(watch)

        return PipeWatch(bell, self._lock, closed)
