"""The ballast: 64 KiB that a worker gives up when it must join on a full disk, and that others make again."""

from __future__ import annotations

import logging

from eventq.clock import Clock
from eventq.storage.file import disk
from eventq.storage.file.drafts import make_ballast

log: logging.Logger = logging.getLogger("eventq.storage")

INTERVAL = 60.0


class Ballast:
    """The ballast of one store, as one worker sees it."""

    def __init__(self, root: str, clock: Clock) -> None:
        self._root = root
        self._path = root + "/ballast"
        self._now = clock.monotonic
        self._next = 0.0

    def give_up(self) -> bool:
        """Make space: of recycled files first, then of the ballast; whether there was any."""
        found = False
        for name in disk.list_if_any(self._root + "/free"):
            found |= disk.unlink_if_any(f"{self._root}/free/{name}")
        return found or disk.unlink_if_any(self._path)

    def renew(self) -> None:
        """Make it again that somebody gave up; tried once a minute."""
        now = self._now()
        if now < self._next or disk.exists(self._path):
            return
        self._next = now + INTERVAL
        try:
            make_ballast(self._path)
        except OSError as error:
            log.warning("no ballast yet for workers that join on a full disk: %s", error)
