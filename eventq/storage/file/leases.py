"""Leases: the only place where age counts, and only in queues that ask for it.

A claim file that has not changed for its queue's lease, as seen by this observer's own monotonic clock, goes back to
`ready/`, although its worker lives: for workers that hang or are stopped. A late worker learns it (`ClaimLost`),
since in such queues every record checks, under the file's lock, that the claim's name still stands.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from eventq.clock import Clock
from eventq.storage.file import disk
from eventq.storage.file.drafts import rename_into
from eventq.storage.file.feed import Feed
from eventq.storage.file.layout import CLAIM_FILE, EVENT_FILE, came_back
from eventq.storage.file.wake import wake

log: logging.Logger = logging.getLogger("eventq.storage")


class Leases:
    """What this worker has seen of others' claims, and since when they have not changed."""

    def __init__(self, root: str, clock: Clock) -> None:
        self._workers = root + "/workers/"
        self._clock = clock
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}

    def look(self, feeds: Iterable[Feed]) -> None:
        """Take over what has not changed for its lease."""
        leased = {feed.paths.encoded: feed for feed in feeds if feed.settings.lease is not None}
        if not leased:
            self._seen.clear()
            return
        now = self._clock.monotonic()
        before, self._seen = self._seen, {}
        for worker in disk.list_if_any(self._workers):
            folder = f"{self._workers}{worker}/claims/"
            for name in disk.list_if_any(folder):
                match = CLAIM_FILE.match(name)
                if match is not None and match[1] in leased and EVENT_FILE.match(match[3]):
                    self._judge(leased[match[1]], folder + name, int(match[2]), match[3], before, now)

    def _judge(
        self, feed: Feed, path: str, priority: int, name: str,
        before: dict[str, tuple[tuple[int, int], float]], now: float,
    ) -> None:  # fmt: skip
        try:
            status = disk.stat(path)
        except FileNotFoundError:
            return
        look = (status.st_mtime_ns, status.st_size)  # changes with every record: never compared with a clock
        seen = before.get(path)
        since = seen[1] if seen is not None and seen[0] == look else now
        self._seen[path] = (look, since)
        lease = feed.settings.lease
        if lease is None or now - since < lease:
            return
        try:
            rename_into(path, feed.paths.ready_at(priority), came_back(name), durable=False)
        except FileNotFoundError:
            return
        log.warning("a claim in queue %r made no progress for %g s; taken over: %s", feed.paths.name, lease, path)
        feed.forget_listing()
        wake(feed.paths.wake)
