"""A wait that ends when another thread rings, or a signal comes.

A wait on a lock or an event is not enough for signals: Python runs their handlers between two steps of the main thread,
and a signal that comes in the instant before it goes to sleep, or reaches another thread, is handled after that sleep.
What the interpreter writes into a descriptor (`signal.set_wakeup_fd`) is there at once.
"""

from __future__ import annotations

import math
import os
import select
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

RING = b"\0"
"""No signal has this number."""


class Wakeup:
    """One thread waits, any thread rings. A ring before the wait ends it at once; none is lost."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Wakeup:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Readable once somebody has rung; for a poll with other descriptors."""
        return self._read

    def ring(self) -> None:
        """End the wait. Not for signal handlers: those have written already. Nothing once it is closed."""
        with self._lock:
            if not self._closed:
                try:
                    os.write(self._write, RING)
                except BlockingIOError:
                    return  # it is full of rings

    def wait(self, seconds: float | None) -> bytes:
        """Wait for a ring, a signal, or for some seconds (None: for ever); then as `clear`."""
        poller = select.poll()
        poller.register(self._read, select.POLLIN)
        return self.clear() if poller.poll(None if seconds is None else math.ceil(seconds * 1000)) else b""

    def clear(self) -> bytes:
        """Forget the rings until now. The numbers of the signals that came, and a 0 for each ring."""
        try:
            return os.read(self._read, 4096)
        except BlockingIOError:
            return b""

    @contextmanager
    def hearing(self, numbers: Iterable[int], hear: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Signals of these numbers end the wait, and `hear` is called for each. In the main thread only."""
        before = {number: signal.signal(number, lambda *_: hear()) for number in numbers}
        outer = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(outer)
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Close it. Nobody may wait any more."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._read)
                os.close(self._write)
