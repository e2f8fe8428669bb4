"""Places of limits: which running event holds one, who waits for one, and who comes back when one is free.

A place is a slot: a lock on `slots/<digest>.<number>`, which the kernel frees with its process. An event that found
none stands in `blocked/<digest>/` of its queue. Whoever frees a place brings the first of those that it is good for
back to `ready/`. A death in between, or an error, leaves a free place and somebody who waits for it: the sweep, at
every look, brings him back.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from eventq.clock import perf_counter
from eventq.errors import StorageError
from eventq.ids import STEM_LENGTH
from eventq.model import MAX_PLACES
from eventq.storage.file import disk
from eventq.storage.file.drafts import rename_into
from eventq.storage.file.layout import BLOCKED_FILE, QueuePaths, digest, due_digits
from eventq.storage.file.names import FileSlot, Slots
from eventq.storage.file.rates import Due, Rates, Share, rate_key, rate_share, rate_slot, share_of
from eventq.storage.file.wake import wake

log: logging.Logger = logging.getLogger("eventq.storage")

MAX_SWEPT = 64
"""Folders of `blocked/` that one look visits at most, and how many expired events it brings back from each."""
MAX_SWEPT_QUEUES = 256
LONG = 64
"""A listing of more events than that is used for a while, so that listing costs at most 5 % however many wait."""
LISTING_SHARE = 20


class Place(NamedTuple):
    """A place that a running event holds."""

    slot: FileSlot
    fifo: str
    """The `wake` of the queue whose place it is; empty for a limit that events name."""


class Missing(NamedTuple):
    """A slot of which every place was held."""

    slot: str
    places: str
    """Of how many, as it stands in names: see `Share`."""


class Waiting(NamedTuple):
    """A file in `blocked/`; they sort in the order in which they come back."""

    rank: int
    """The priority, negative."""
    place: str
    """The file's name; one that holds the rest of a batch comes after those that went by themselves."""
    share: Share
    until: str
    name: str
    file: str


class Line:
    """The events that wait in a folder, the first one first; good for a while if they are many."""

    __slots__ = ("names", "shares", "until")

    def __init__(self, names: list[Waiting], until: float) -> None:
        self.names: list[Waiting] = names
        self.shares: set[Share] = {one.share for one in names}
        self.until: float = until

    @property
    def rated(self) -> bool:
        """Whether they wait for a rate."""
        return any(share.seconds for share in self.shares)


def slot_of(limit: str) -> str:
    """The slot of a limit that events name: its own kind of name, which no lock and no semaphore has."""
    return f"limit:{limit}"


def _place_of(file: str) -> str:
    return f"{file[:16]}~{file}" if len(file) == STEM_LENGTH else file


class Places:
    """The places of one store. The caller has the claims lock."""

    def __init__(self, root: str, slots: Slots, durable: bool, now: Callable[[], float]) -> None:
        self._queues = root + "/queues/"
        self._locks = root + "/slots/"
        self._slots = slots
        self._durable = durable
        self._now = now
        self._rates = Rates(root, durable, now)
        self.due: Due = Due()
        """When those come back who wait for a rate."""
        self._cursor = ("", "")
        self._lines: dict[str, Line] = {}
        self._visited: dict[str, float] = {}
        self.on_return: Callable[[str], None] = lambda _queue: None
        """Told the folder of each queue to which an event came back."""

    # ------------------------------------------------------------------ taking and freeing

    def take(self, limits: Mapping[str, int], rates: Mapping[str, tuple[int, float]]) -> list[Place] | Missing:
        """A place of each limit, and one more start of each rate; or none of them. In sorted order, so that two that
        need the same ones do not each hold what the other lacks."""
        taken: list[Place] = []
        try:
            for name in sorted(limits):
                places = min(max(limits[name], 1), MAX_PLACES)
                slot = self._slots.take(slot_of(name), places)
                if slot is None:
                    self.free(taken)
                    return Missing(slot_of(name), str(places))
                taken.append(Place(slot, ""))
            if rates:
                shares = {name: rate_share(*rates[name]) for name in rates}
                full = self._rates.take(shares)
                if full is not None:
                    self.free(taken)
                    return Missing(rate_slot(full), shares[full].text())
        except (OSError, StorageError):
            self.free(taken)
            raise
        return taken

    def started(self, rates: Mapping[str, tuple[int, float]], at: float) -> None:
        """The event for which `take` took rates was started then."""
        self._rates.confirm(at)
        for name in rates:
            self.due.started(rate_key(name), at)

    def give_up(self, places: Sequence[Place]) -> None:
        """The event for which `take` took places was not started after all."""
        self._rates.undo()
        self.free(places)

    def take_of_queue(self, paths: QueuePaths, places: int) -> Place | None:
        """A place of a queue's own limit."""
        slot = self._slots.take(f"queue:{paths.name}", places)
        return None if slot is None else Place(slot, paths.wake)

    def free(self, places: Sequence[Place]) -> None:
        """Give places up, and bring back who waits for them. Never fails: what does not work now, the sweep does."""
        for place in places:
            place.slot.release()
            if place.fifo:
                wake(place.fifo)
                continue
            key, _, number = place.slot.path.rpartition("/")[2].partition(".")
            try:
                for queue in disk.list_if_any(self._queues):
                    self._bring_back(queue, key, [int(number)])
            except OSError as error:
                log.warning("who waits for a free place comes back at the next look: %s", error)

    def look_again(self, paths: QueuePaths, missing: Missing) -> None:
        """Close the gap between a place that was not there and the rename into `blocked/`.

        Whoever freed it in between found nobody to bring back, and nobody else would.
        """
        key, share = digest(missing.slot), share_of(missing.places)
        try:
            if share.seconds:
                room, at = self._rates.room(key, share)
                if room:
                    self._bring_back_rated(paths.encoded, key)
                else:
                    self.due.add(paths.encoded, key, at)
                return
            free = self._free_numbers(key, share.places, 1)
            if free:
                self._bring_back(paths.encoded, key, free)
        except OSError as error:
            log.warning("an event that waits for a place comes back at the next look: %s", error)

    def _free_numbers(self, key: str, places: int, wanted: int) -> list[int]:
        """The lowest numbers that nobody holds, as many as are wanted."""
        free: list[int] = []
        for number in range(places):
            if not disk.is_held(f"{self._locks}{key}.{number}"):
                free.append(number)
                if len(free) == wanted:
                    break
        return free

    # ------------------------------------------------------------------ coming back

    def _list(self, folder: str) -> Line:
        before = perf_counter()
        names = sorted(
            Waiting(-int(match[3]), _place_of(match[4]), share_of(match[1]), match[2], name, match[4])
            for name in disk.list_if_any(folder)
            if (match := BLOCKED_FILE.match(name)) is not None
        )
        after = perf_counter()
        return Line(names, after + LISTING_SHARE * (after - before) if len(names) > LONG else 0.0)

    def _bring_back(self, queue: str, key: str, free: Sequence[int]) -> None:
        """For each free place, the first event of a queue that may have it."""
        folder = f"{self._queues}{queue}/blocked/{key}/"
        line = self._lines.pop(folder, None)
        fresh = line is None or perf_counter() >= line.until
        if line is None or fresh:
            line = self._list(folder)
        some = bool(line.names)
        for number in free:
            if not self._return_first(queue, folder, line.names, number) and not fresh:
                line, fresh = self._list(folder), True  # who came since may be whom this place is good for
                self._return_first(queue, folder, line.names, number)
        if len(line.names) > LONG:
            self._lines[folder] = line
        elif some and not line.names:
            self._remove(folder)

    def _return_first(self, queue: str, folder: str, names: list[Waiting], number: int) -> bool:
        """Let the first of those that wait for a place with this number come back; whether there was one."""
        at = 0
        while at < len(names):
            if names[at].share.places <= number:
                at += 1
            elif self._return(queue, folder, names.pop(at)):
                return True
        return False

    def _return(self, queue: str, folder: str, one: Waiting) -> bool:
        """Rename an event back to `ready/`; whether it was there."""
        source = folder + one.name
        ready = f"{self._queues}{queue}/ready/{-one.rank}/"
        try:
            disk.rename(source, ready + one.file)
        except FileNotFoundError:
            if not disk.exists(source):
                return False  # somebody else was faster, or its queue was dropped
            rename_into(source, ready, one.file, self._durable)
        self.on_return(queue)
        wake(f"{self._queues}{queue}/wake")
        return True

    def _remove(self, folder: str) -> None:
        try:
            disk.rmdir(folder)
        except OSError:
            return  # another event came to wait

    # ------------------------------------------------------------------ coming back to a rate

    def ahead(
        self, paths: QueuePaths, rates: Mapping[str, tuple[int, float]], priority: int, name: str
    ) -> Missing | None:
        """The rate for which an event that comes first waits already: its time has come, or comes first, too."""
        for rate in sorted(rates):
            folder = f"{paths.blocked}{rate_key(rate)}/"
            if not disk.exists(folder) or not (names := self._line(folder)[0].names):
                continue
            first, share = names[0], rate_share(*rates[rate])
            if first.share == share and (first.rank, first.place[:16]) < (-priority, name[:16]):
                return Missing(rate_slot(rate), share.text())
        return None

    def _line(self, folder: str) -> tuple[Line, bool]:
        """Who waits in a folder, and whether that was listed just now, or a while ago if they are many."""
        line = self._lines.get(folder)
        if line is not None and perf_counter() < line.until:
            return line, False
        line = self._list(folder)
        if line.until:
            self._lines[folder] = line
        else:
            self._lines.pop(folder, None)
        return line, True

    def _bring_back_rated(self, queue: str, key: str) -> None:
        """Let as many of a queue's events come back as may start now; and know when the next one may."""
        folder = f"{self._queues}{queue}/blocked/{key}/"
        line, fresh = self._line(folder)
        room = {share: self._rates.room(key, share) for share in line.shares}
        kept: list[Waiting] = []
        names = iter(line.names)
        returned, gone = 0, False
        for one in names:
            if room[one.share][0] <= returned:
                kept.append(one)
                if all(count <= returned for count, _ in room.values()):
                    break
            elif self._return(queue, folder, one) or fresh:
                returned += 1  # or somebody else was faster, just now
            else:
                gone = True
        line.names = [*kept, *names]
        if gone:
            del self._lines[folder]
            self.due.add(queue, key, 0.0)  # who came since may start
        elif line.names:
            self.due.add(queue, key, min((at for count, at in room.values() if not count), default=None))
        else:
            self._lines.pop(folder, None)
            self._remove(folder)

    def return_due(self) -> None:
        """Let those come back whose time has come."""
        for queue, key in self.due.take(self._now(), MAX_SWEPT):
            self._bring_back_rated(queue, key)

    # ------------------------------------------------------------------ the sweep

    def sweep(self, now: float, everything: bool) -> None:
        """Bring back who waits for a place that is free: its holder died, or nobody told.

        A few folders at each look, in turn; all of them after a death. Expired events come back as well, so that
        the next claimer ends them, however long their places are held.
        """
        today = due_digits(now)
        self._rates.prune()
        for number, (queue, key) in enumerate(self._in_turn(everything)):
            self._visit(queue, key, today, everything)
            if number + 1 >= MAX_SWEPT and not everything:
                self._cursor = (queue, key)
                return

    def _in_turn(self, everything: bool) -> Iterator[tuple[str, str]]:
        """The folders of `blocked/` of all queues, from where the last look ended."""
        queues = [name for name in disk.list_if_any(self._queues) if not name.startswith(".")]
        first, after = self._cursor
        start = bisect_left(queues, first)
        order = queues[start:] + queues[:start]
        if not everything:
            order = order[:MAX_SWEPT_QUEUES]
        for queue in order:
            for key in disk.list_if_any(f"{self._queues}{queue}/blocked"):
                if queue != first or key > after:
                    yield queue, key
            self._cursor = (queue + "\0", "")  # what comes next after it
        if everything and first in queues:
            for key in disk.list_if_any(f"{self._queues}{first}/blocked"):
                if key <= after:
                    yield first, key

    def _visit(self, queue: str, key: str, today: str, everything: bool) -> None:
        folder = f"{self._queues}{queue}/blocked/{key}/"
        if perf_counter() < self._visited.get(folder, 0.0) and not everything:
            return
        self._visited.pop(folder, None)
        line = self._list(folder)
        if not line.names:
            self._remove(folder)
            return
        if line.until:
            self._visited[folder] = line.until
        for one in [one for one in line.names if one.until <= today][:MAX_SWEPT]:
            self._return(queue, folder, one)
        if line.rated:
            self._bring_back_rated(queue, key)
            return
        free = self._free_numbers(key, max(share.places for share in line.shares), len(line.names))
        if free:
            self._bring_back(queue, key, free)
