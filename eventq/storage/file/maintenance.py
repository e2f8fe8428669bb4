"""The thread that looks after a worker's claims while its handlers are busy.

It sleeps for good while nothing is held (waiters look for themselves), looks four times a second while something is,
and fifty times while unstarted events are hoarded, so that idle claimers elsewhere are fed.
"""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

from eventq.clock import SYSTEM
from eventq.storage.base import LOOK_INTERVAL

SHARE_INTERVAL = 0.02
LINGER = 1.0
"""Seconds for which the pace is kept after its reason went: starting and stopping costs more than a few looks."""


class Looked(Protocol):
    """What the thread looks after."""

    def maintain(self) -> tuple[bool, bool]:
        """Do what is due; whether anything is held, and whether unstarted events are hoarded."""
        ...


class Maintenance:
    """Starts with the first claim; does not keep its storage alive."""

    def __init__(self, storage: Looked) -> None:
        self._storage = weakref.ref(storage)
        self._wake = threading.Event()
        self._pace: float | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="eventq-maintenance", daemon=True)
        self._thread.start()

    def held(self) -> None:
        """Something was claimed. Cheap when the thread is awake."""
        if self._pace is None:
            self._pace = LOOK_INTERVAL
            self._wake.set()

    def hoarding(self) -> None:
        """More was fetched than was started. Cheap when the thread is at that pace."""
        if self._pace != SHARE_INTERVAL:
            self._pace = SHARE_INTERVAL
            self._wake.set()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        last_held = last_hoarded = 0.0
        while not self._stopped:
            self._wake.wait(self._pace)
            self._wake.clear()
            storage = self._storage()
            if storage is None or self._stopped:
                return
            holds, hoards = storage.maintain()
            del storage
            now = SYSTEM.monotonic()
            last_held = now if holds else last_held
            last_hoarded = now if hoards else last_hoarded
            if now - last_hoarded < LINGER:
                self._pace = SHARE_INTERVAL
            elif now - last_held < LINGER:
                self._pace = LOOK_INTERVAL
            else:
                self._pace = None
