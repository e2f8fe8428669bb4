"""What an event must pass before it is started: a place of its queue, and a place of each limit that it names."""

from __future__ import annotations

import logging

import msgspec

from eventq.errors import StorageError
from eventq.model import Claimed, Settings
from eventq.storage.file.held import GONE, WAITING, Entry, Holder
from eventq.storage.file.layout import QueuePaths
from eventq.storage.file.line import EventLine
from eventq.storage.file.places import Missing, Place

log: logging.Logger = logging.getLogger("eventq.storage")

ALONE = 16
"""So many events of one file are blocked each by itself, or a 64th of them if that is more; then the rest at once."""
SHARE = 64


class Gate:
    """The way into one queue's running events, for one worker. The caller has the claims lock."""

    __slots__ = ("_holder", "_kept", "_paths", "_run", "place")

    def __init__(self, holder: Holder, paths: QueuePaths) -> None:
        self._holder = holder
        self._paths = paths
        self._kept: list[Entry] = []
        self._run: tuple[str, int] | None = None
        """The path of the file of which events were blocked last, and how many more of it may be, each by itself."""
        self.place: Place | None = None
        """A place of the queue, for the event that is started next."""

    # ------------------------------------------------------------------ the queue's own limit

    def opens(self, settings: Settings) -> bool:
        """Whether another event of the queue may run; if so, its place is taken."""
        if settings.concurrency is None:
            return True
        if self.place is None:
            self.place = self._holder.places.take_of_queue(self._paths, settings.concurrency)
        return self.place is not None

    def passed(self, claimed: Claimed) -> None:
        """An event was started: the place is its."""
        assert self.place is not None
        entry: Entry = claimed.token
        entry.places = [self.place, *(entry.places or ())]
        self.place = None

    def close(self) -> None:
        """Nothing was started: the place is free again. Wakes nobody, or two idle claimers would keep each other
        awake; whoever was turned away meanwhile is the caller's to think of."""
        if self.place is not None:
            self.place.slot.release()
            self.place = None

    # ------------------------------------------------------------------ what events name

    def admit(self, entry: Entry, event: EventLine) -> list[Place] | None:
        """The places that an event needs; None if one is missing: then it is not in this worker's hands any more.

        On a full disk it stays here, and is tried again at the next look: it must not stop those behind it.
        """
        if not event.limits and not event.rates:
            return []
        holder, held = self._holder, entry.held
        try:
            found: list[Place] | Missing | None = None
            if event.rates and not held.name.endswith("+"):  # new: those who were here before it come first
                found = holder.places.ahead(self._paths, event.rates, held.priority, held.name)
            if found is None:
                found = holder.places.take(event.limits or {}, event.rates or {})
            if not isinstance(found, Missing):
                return found
            self._block(entry, event, found)
        except (OSError, StorageError) as error:
            if entry.state != GONE:
                log.warning("event %s waits here, and is tried again at the next look: %s", entry.id, error)
                self._kept.append(entry)
            return None
        holder.places.look_again(self._paths, found)
        return None

    def _block(self, entry: Entry, event: EventLine, missing: Missing) -> None:
        """Let an event wait, and after so many of one file the rest of them, together: or the first claim of a large
        batch would take as long as all its events need to be moved one by one."""
        held = entry.held
        if self._run is None or self._run[0] != held.path:
            self._run = (held.path, max(ALONE, held.open // SHARE))
        left = self._run[1]
        self._run = (held.path, left - 1)
        if left <= 0:
            rest = [
                other
                for other in reversed(held.entries)
                if other.state == WAITING and other.plain is None and _needs_of(other) == (event.limits, event.rates)
            ]
            if len(rest) > 1:
                self._run = None
                self._holder.block_together(rest, missing)
                return
        self._holder.block(entry, missing)

    def kept(self) -> list[Entry]:
        """What had to stay here, to be tried again."""
        kept, self._kept = self._kept, []
        return [entry for entry in kept if entry.state != GONE]

    def forget(self, entry: Entry) -> None:
        """An event leaves this worker's hands by an edit."""
        self._kept = [other for other in self._kept if other is not entry]


def _needs_of(entry: Entry) -> tuple[dict[str, int] | None, dict[str, tuple[int, float]] | None] | None:
    """What an event names; None if its line is no event, which whoever would start it says."""
    try:
        return entry.event().limits, entry.event().rates
    except msgspec.MsgspecError:
        return None
