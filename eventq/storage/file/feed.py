"""Finding and claiming the files of one queue, and starting their events in order.

A file is claimed by renaming it into this worker's `claims/`: only one worker can win. All its events are then ours,
and a producer that still has it open finds its name gone. Files are found by listing `ready/`; a listing is used for
at most 20 times as long as it took, so that listing costs at most 5 % whatever the backlog.
"""

from __future__ import annotations

import logging
import stat as stat_bits
from bisect import insort
from collections.abc import Callable

import msgspec

from eventq.clock import perf_counter
from eventq.errors import StorageError
from eventq.model import Claimed, Dropped, Failure, Rejected, Settings, State
from eventq.retry import before_start, is_suspect
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.file import disk, line
from eventq.storage.file.adopt import Adoption, adopt, claim_foreign
from eventq.storage.file.corrupt import set_aside, set_lines_aside
from eventq.storage.file.due import find_due
from eventq.storage.file.gate import Gate
from eventq.storage.file.held import GONE, WAITING, Entry, Held, Holder
from eventq.storage.file.kept import keep_of_values
from eventq.storage.file.keys import release_key
from eventq.storage.file.layout import DELAYED_FILE, EVENT_FILE, PRIORITY, QueuePaths, due_digits
from eventq.storage.file.line import EventLine, RecordLine
from eventq.storage.file.listing import Listing
from eventq.storage.file.places import Place
from eventq.storage.file.settings import SettingsFile
from eventq.storage.file.wake import wake

log: logging.Logger = logging.getLogger("eventq.storage")

LOOK_AGAIN = 0.001
"""Seconds for which a listing is used at least; also how soon higher priorities and due events are seen."""
LISTING_SHARE = 20
MAX_FILE_BYTES = 192 << 20
MAX_HINTS = 64


class Feed:
    """What this worker knows of one queue's waiting files. The caller has the claims lock."""

    def __init__(
        self, holder: Holder, paths: QueuePaths, settings: SettingsFile, own_file: Callable[[str], int]
    ) -> None:
        self.paths: QueuePaths = paths
        self.next_due: float | None = None
        """When the earliest event known to be delayed becomes due."""
        self._holder = holder
        self._own_file = own_file
        self._settings_file = settings
        self._gate = Gate(holder, paths)
        self._use(settings.read())
        self._settings_until = 0.0
        self._buffer: list[Entry] = []
        self._listings: list[Listing] = []
        self._hints: list[tuple[int, str]] = []
        self._fresh_until = 0.0
        self._look_at = 0.0
        self._aside: list[tuple[str, int, str]] = []
        self._passed_over: set[str] = set()
        self._returned = False
        self._adoptions: list[Adoption] = []

    # ------------------------------------------------------------------ claiming

    def claim(self, limit: int) -> list[Claimed]:
        """Start up to `limit` events; see `Storage.claim`."""
        if limit == 1 and (plain := self._claim_plain()) is not None:
            return [plain]
        started: list[Claimed] = []
        try:
            while len(started) < limit and (claimed := self._claim_one()) is not None:
                started.append(claimed)
                if self._gate.place is not None:
                    self._gate.passed(claimed)
        except (OSError, StorageError) as error:
            if not started:
                raise
            log.warning("%d of %d events were claimed, then: %s", len(started), limit, error)
        finally:
            if self._gate.place is not None:
                self._leave_gate()
        return started

    def _leave_gate(self) -> None:
        """A place of the queue was not used. Who was turned away meanwhile, and had the wake of a put, sleeps: pass
        the wake on if there is something to do after all."""
        self._gate.close()
        if any(self._list(listing.folder) for listing in self._ready_listings()):
            wake(self.paths.wake)

    def _claim_plain(self) -> Claimed | None:
        """The next event if it is at hand, its payload is all that is to be known of it, and nothing is to be looked at
        or asked before: so it is with most, and this is all that they need of `_claim_one`."""
        if self._gated or not self._buffer or perf_counter() >= self._look_at:
            return None
        entry = self._buffer[-1]
        holder = self._holder
        if entry.plain is None or entry.state != WAITING or holder.suspect is not None or holder.waits is not None:
            return None
        return self._start_plain(entry, entry.plain)

    def _claim_one(self) -> Claimed | None:
        holder = self._holder
        while holder.suspect is None and not self._must_rest():
            now = perf_counter()
            if now >= self._look_at:
                self._look(now)
            if (self._gated and not self._may_start()) or not (self._buffer or self._fetch(now)):
                return None
            entry = self._buffer[-1]  # it stays there until it is started, whatever fails
            if entry.state == GONE:
                self._buffer.pop()  # its file was taken over, with all that is in it
                continue
            if entry.plain is not None:
                return self._start_plain(entry, entry.plain)
            event, past = self._event_of(entry), entry.past
            if event is None:
                continue
            crashes = event.crashes if past is None else past.crashes
            if self._refuse(entry, event, crashes):
                continue
            suspect = is_suspect(crashes, event.max_crashes)
            if suspect and holder.running:
                holder.waits = entry  # a suspect runs alone, so that bystanders are spared
                return None
            places = self._gate.admit(entry, event)
            if places is None:
                self._buffer.pop()
                continue
            claimed = self._start(entry, event, crashes, places)
            if event.key is not None and event.unique == "waiting":
                self._free_key(event.key, entry.id)
            if suspect:
                holder.suspect = entry
            return claimed
        return None

    def _must_rest(self) -> bool:
        """Whether a suspect, of whatever queue, waits for what this worker runs to end."""
        holder = self._holder
        if holder.waits is not None and (not holder.running or holder.waits.state != WAITING):
            holder.waits = None
        return holder.waits is not None

    def _free_key(self, key: str, id: str) -> None:
        """A key that is held until its event is started. If it cannot be freed, the next put finds that it is."""
        try:
            release_key(self.paths, key, id)
        except OSError as error:
            log.warning("the key of event %s stays until it is put again: %s", id, error)

    def _event_of(self, entry: Entry) -> EventLine | None:
        """An event, decoded; None if its line is whole and yet no event: then it is set aside."""
        try:
            return entry.event()
        except msgspec.MsgspecError as error:
            held = entry.held
            log.error("line %d of %s is no event: %s", entry.index, held.path, error)
            set_lines_aside(self._holder.root, held.name, [held.folded.lines[entry.index]])
            entry.line = EventLine(f"{held.stem}.{entry.index:05x}")
            self._buffer.pop()
            self._holder.complete(entry)
            return None

    def _start_plain(self, entry: Entry, payload: bytes) -> Claimed:
        """Start an event of which its id and payload are all that there is."""
        self._holder.start(entry)
        self._buffer.pop()
        entry.claimed = claimed = Claimed(
            line.id_in(entry.head), self.paths.name, payload, "json", {}, 0, 0, 0, None, None, entry
        )
        return claimed

    def _start(self, entry: Entry, event: EventLine, crashes: int, places: list[Place]) -> Claimed:
        try:
            self._holder.start(entry)
        except BaseException:
            self._holder.places.give_up(places)
            raise
        entry.places = places
        if event.rates:
            self._holder.places.started(event.rates, entry.started)
        self._buffer.pop()
        payload = bytes(event.payload) if event.data is None else line.payload_of(event)
        failures = event.failures if entry.past is None else entry.past.failures
        entry.claimed = claimed = Claimed(
            event.born or event.id, self.paths.name, payload, event.codec, event.headers or {}, entry.held.priority,
            failures, crashes, event.max_attempts, event.keep, entry,
        )  # fmt: skip
        return claimed

    def _refuse(self, entry: Entry, event: EventLine, crashes: int) -> bool:
        """End an event that must not be started any more; whether it was one."""
        now = self._holder.clock.now()
        revived = entry.past is not None and entry.past.revived  # its expiry was for the life that ended
        expires = None if revived else event.expires
        verdict = before_start(now, expires, crashes, event.max_crashes, self.settings)
        if verdict is None:
            return False
        if isinstance(verdict, Rejected):
            state, error = State.DEAD, verdict.failure
        else:
            assert isinstance(verdict, Dropped)
            state, error = verdict.state, Failure(verdict.state.value, verdict.reason)
        record = RecordLine(f"{entry.held.stem}.{entry.index:05x}", "settled", now, error=error, outcome=state.value)
        self._holder.bury(entry, state, record)
        self._buffer.pop()
        return True

    # ------------------------------------------------------------------ looking

    def _look(self, now: float) -> None:
        """See what changed: settings, a pause, higher priorities, due events."""
        self._look_at = now + LOOK_AGAIN
        if now >= self._settings_until:
            self.refresh_settings(now)
        current = self._buffer[-1].held.priority if self._buffer else self._listed_priority()
        if current is None:
            return  # nothing at hand: the next step lists everything anyway
        self._look_at_due()
        spent = perf_counter() - now  # many events that wait to be due make a long list
        self._look_at = now + spent + min(LOOK_INTERVAL, max(LOOK_AGAIN, LISTING_SHARE * spent))
        for listing in self._ready_listings():
            if listing.priority > current:
                listing.names = self._list(listing.folder)
                if listing.names:
                    self._push(listing)
        if self._buffer and self._listings and self._listings[-1].priority > current:
            self._take_next(above=current)
        elif self._returned and self._buffer:
            self._returned = False
            self._take_older(self._buffer[-1].held)

    def _take_older(self, held: Held) -> None:
        """A dead worker's files came back: what is older than the file at hand comes first, however much is in it."""
        folder = self.paths.ready_at(held.priority)
        for name in self._list(folder):
            if name < held.name:
                self._take(held.priority, folder, name)

    def see_returned(self) -> None:
        """Files of the dead came back: look at them before going on."""
        self._returned = True
        self.forget_listing()

    def refresh_settings(self, now: float) -> None:
        """Read the settings again; a pause gives back what waits here."""
        self._settings_until = now + LOOK_INTERVAL
        self._use(self._settings_file.read())
        self._buffer += self._gate.kept()
        if self.settings.paused and self._is_paused():
            self.give_back()

    def _use(self, settings: Settings) -> None:
        self.settings: Settings = settings
        self._gated = settings.paused or settings.concurrency is not None

    def _may_start(self) -> bool:
        """Whether the settings let another event of the queue start."""
        return not (self.settings.paused and self._is_paused()) and self._gate.opens(self.settings)

    def _is_paused(self) -> bool:
        until = self.settings.paused_until
        return until is None or self._holder.clock.now() < until

    def forget_listing(self) -> None:
        """List anew at the next claim."""
        self._fresh_until = self._look_at = self._settings_until = 0.0

    def _listed_priority(self) -> int | None:
        while self._listings and self._listings[-1].names == []:
            self._listings.pop()
        return self._listings[-1].priority if self._listings else None

    def _push(self, listing: Listing) -> None:
        """Add a listing, in the place of an older one of the same events."""
        self._listings = [
            other for other in self._listings if other.folder != listing.folder or other.priority != listing.priority
        ]
        insort(self._listings, listing)

    def _ready_listings(self) -> list[Listing]:
        return sorted(
            Listing(int(name), f"{self.paths.ready}{name}/", None)
            for name in disk.list_if_any(self.paths.ready)
            if PRIORITY.match(name)
        )

    def _list(self, folder: str) -> list[str]:
        """The claimable names of a folder, the first one last."""
        names = [name for name in disk.list_if_any(folder) if name[0] != "."]
        names.reverse()
        if self._passed_over:
            self._passed_over.intersection_update(names)
            names = [name for name in names if name not in self._passed_over]
        return names

    def _look_at_due(self) -> None:
        """Take up events whose time has come."""
        now = due_digits(self._holder.clock.now())
        if self.next_due is not None and self.next_due > int(now, 16) / 1e9 and perf_counter() < self._fresh_until:
            return
        listings, self.next_due = find_due(self.paths, now, self._passed_over)
        for listing in listings:
            self._push(listing)

    # ------------------------------------------------------------------ fetching

    def _fetch(self, now: float) -> bool:
        """Claim the next file that has something to do."""
        if (self._aside or self._adoptions) and self._fetch_aside():
            return True
        if now < self._fresh_until and (self._take_next() or self._take_hint()):
            return True
        before = perf_counter()
        self._hints = []
        self._listings = self._ready_listings()
        self.next_due = None
        self._look_at_due()
        found = self._take_next()
        after = perf_counter()
        self._fresh_until = after + max(LOOK_AGAIN, LISTING_SHARE * (after - before))
        return found

    def _fetch_aside(self) -> bool:
        """Try again what could not be read; it does not stop the others."""
        for adoption in list(self._adoptions):
            try:
                if self._adopt(adoption):
                    return True
            except OSError as error:
                log.error("%s cannot be adopted yet: %s", adoption.path, error)
        waiting, self._aside = self._aside, []
        while waiting:
            path, priority, name = waiting.pop(0)
            try:
                if self._load(path, priority, name, patient=False):
                    self._aside += waiting
                    return True
            except OSError as error:
                log.error("%s cannot be read, and is tried again: %s", path, error)
        return False

    def expect(self, due: float) -> None:
        """An event was put, or put back, that is due then: what is listed by now holds all the same."""
        self.next_due = due if self.next_due is None else min(due, self.next_due)

    def hint(self, priority: int, name: str) -> None:
        """This process has just put a file: no need to list the folder to find it. Called without the claims lock,
        so it only appends, and a hint that is lost in between is found by the next listing."""
        if "~" in name:  # a due time stands before it
            self.expect(int(name[:16], 16) / 1e9)
            return
        if len(self._hints) < MAX_HINTS:
            self._hints.append((priority, name))
        buffer, listings = self._buffer, self._listings
        if (buffer and priority > buffer[-1].held.priority) or (listings and priority > listings[-1].priority):
            self._look_at = 0.0

    def _take_hint(self) -> bool:
        if not self._hints:
            return False
        hints, self._hints = self._hints, []
        hints.sort(key=lambda hint: (-hint[0], hint[1]), reverse=True)
        while hints:
            priority, name = hints.pop()
            if self._take(priority, self.paths.ready_at(priority), name):
                self._hints = hints
                return True
        return False

    def _take_next(self, above: int | None = None) -> bool:
        """Claim from the listings, the highest priority first."""
        while self._listings:
            listing = self._listings[-1]
            if above is not None and listing.priority <= above:
                return False
            if len(self._listings) > 1 and self._listings[-2].priority == listing.priority:
                listing = self._earliest(listing.priority)
            elif listing.names is None:
                listing.names = self._list(listing.folder)
            if not listing.names:
                self._listings.remove(listing)
            elif self._take(listing.priority, listing.folder, listing.names.pop()):
                return True
        return False

    def _earliest(self, priority: int) -> Listing:
        """Of several listings of one priority (ready, and due), the one whose next event is the oldest: a due event's
        place is the time when it became due."""
        same = [listing for listing in self._listings if listing.priority == priority]
        for listing in same:
            if listing.names is None:
                listing.names = self._list(listing.folder)
            if not listing.names:
                return listing
        return min(same, key=lambda listing: (listing.names or [""])[-1][:16])

    def _take(self, priority: int, folder: str, filename: str) -> bool:
        name = filename
        if EVENT_FILE.match(filename) is None:
            match = DELAYED_FILE.match(filename)
            if match is None:
                return self._take_foreign(priority, folder, filename)
            name = match[3]
        path = self._holder.room.claims + self.paths.claim_name(priority, name)
        try:
            disk.rename(folder + filename, path)
        except FileNotFoundError:
            return False
        return self._load(path, priority, name)

    def _take_foreign(self, priority: int, folder: str, filename: str) -> bool:
        adoption = claim_foreign(self._holder, self.paths, priority, folder, filename)
        if adoption is None:
            return False
        self._adoptions.append(adoption)
        return self._adopt(adoption)

    def _adopt(self, adoption: Adoption) -> bool:
        path = adopt(self._holder, self.paths, adoption)
        self._adoptions.remove(adoption)
        return path is not None and self._load(path, adoption.priority, adoption.stem)

    def _load(self, path: str, priority: int, name: str, patient: bool = True) -> bool:
        """Read a claimed file and line its open events up; whether there are any.

        What cannot be read now stays in `claims/` and is tried again at the next look: it may hold good events.
        """
        fd = self._own_file(name)
        own = fd >= 0
        try:
            if not own:
                fd = disk.open_file(path)
            held = self._read(fd, path, priority, name, patient, own)
        except FileNotFoundError:
            return False
        except OSError:
            if fd >= 0:
                disk.close(fd)
            if not stat_bits.S_ISREG(disk.stat(path).st_mode):
                set_aside(self._holder.root, path, "is not a regular file")
                return False
            self._aside.append((path, priority, name))
            raise
        if held is None:
            disk.close(fd)
            return False
        return self._line_up(held)

    def _read(self, fd: int, path: str, priority: int, name: str, patient: bool, own: bool) -> Held | None:
        """A claimed file's content, under its lock: what a producer began to append before our rename is in it. Of our
        `own` newest file we know that nothing is being appended."""
        if not own and not (disk.lock_soon(fd) if patient else disk.try_lock(fd)):
            self._aside.append((path, priority, name))  # its producer was stopped within a put: look again later
            return None
        try:
            size = disk.fstat(fd).st_size
            if size > MAX_FILE_BYTES:
                set_aside(self._holder.root, path, "is too large")
                return None
            data = disk.read_bytes(fd, size)
            folded = line.fold(data, name[:38])
            if folded.tail:
                # torn by a death in the middle of a write: never acknowledged, and in the way of the next record
                disk.pwrite(fd, b" " * (len(data) - folded.end), folded.end)
        finally:
            if not own:
                disk.unlock(fd)
        if folded.bad:
            set_lines_aside(self._holder.root, name, folded.bad)
        return Held(fd, path, self.paths, priority, name, folded, len(data), self.settings.lease is not None)

    def _line_up(self, held: Held) -> bool:
        holder, folded = self._holder, held.folded
        if held.leased:
            for other in [other for other in holder.files if other.path == held.path]:
                holder.lost(other)  # this worker's own, taken over and come back
        indexes = folded.open_indexes()
        lines, pasts, plain_payload = folded.lines, folded.pasts, line.plain_payload
        held.open = len(indexes)
        holder.files.add(held)
        mine: list[Entry] = []
        others: list[Entry] = []
        for index in reversed(indexes):
            past = pasts.get(index)
            if past is None:
                plain = plain_payload(lines[index])
                skipped = plain is None and line.tells_of_skip(lines[index], holder.room.worker)
                (others if skipped else mine).append(Entry(held, index, None, plain))
                continue
            past.crash()
            (others if holder.room.worker in past.skipped_by else mine).append(Entry(held, index, past))
        held.entries = mine + others
        if pasts:
            self._conclude(held)
        if others:
            self.pass_over(others)
        if not held.open:
            if held in holder.files and not held.owed:
                holder.finish(held)
            return False
        self._buffer.extend(mine)
        holder.on_load(len(self._buffer) > 1)
        return bool(mine)

    def _conclude(self, held: Held) -> None:
        """Do what a death left undone between an event's last record and its file's last step."""
        folded = held.folded
        held.keep = keep_of_values(folded, self.settings.keep)
        for index, past in folded.pasts.items():
            if past.settled is None or folded.is_moved(index):
                continue
            event = folded.event(index)
            if past.settled.outcome != State.COMPLETED:
                entry = Entry(held, index, past)
                held.open += 1
                held.entries.append(entry)
                self._holder.bury(entry, State(past.settled.outcome), past.settled)
            elif event.key is not None and event.unique == "open":
                release_key(held.paths, event.key, event.born or event.id)

    # ------------------------------------------------------------------ giving back

    def pass_over(self, entries: list[Entry]) -> None:
        """Put events that are not for this worker back, and do not take them again."""
        for entry in entries:
            name = self._holder.put_back(entry, b"", None)
            self._passed_over.add(name)

    def skip(self, entry: Entry, text: bytes) -> None:
        """Give an event back that its handler skipped."""
        self._passed_over.add(self._holder.put_back(entry, text, None))
        wake(self.paths.wake)

    def take_back(self, entry: Entry, text: bytes) -> bool:
        """Let a released event wait here again, where it was before, if others of its file do."""
        if not any(other.held is entry.held for other in self._buffer):
            return False
        self._holder.release(entry, text)
        place = len(self._buffer)
        while place and self._buffer[place - 1].held is entry.held and self._buffer[place - 1].index < entry.index:
            place -= 1
        self._buffer.insert(place, entry)
        wake(self.paths.wake)
        return True

    @property
    def hoards(self) -> bool:
        """Whether unstarted events wait here, which an idle claimer elsewhere could run."""
        return bool(self._buffer)

    def share(self) -> None:
        """If somebody waits at the queue's FIFO, give the later half of the oldest file's unstarted events away."""
        self._forget_gone()
        if not self.hoards or not wake(self.paths.wake):
            return
        held = self._buffer[0].held
        mine = [entry for entry in self._buffer if entry.held is held]
        away = mine[: max(1, len(mine) // 2)]
        self._holder.share(away[::-1])
        self._buffer = [entry for entry in self._buffer if entry.state != GONE]
        wake(self.paths.wake)

    def give_back(self) -> None:
        """Return every unstarted event."""
        self._buffer += self._gate.kept()
        if not self._buffer:
            return
        self._forget_gone()
        while self._buffer:
            held = self._buffer[0].held
            mine = [entry for entry in self._buffer if entry.held is held]
            self._holder.share(mine[::-1])
            self._buffer = [entry for entry in self._buffer if entry.state != GONE]
            wake(self.paths.wake)
        self._listings = []
        self._fresh_until = 0.0

    def _forget_gone(self) -> None:
        """Events whose file was taken over are somebody else's."""
        self._buffer = [entry for entry in self._buffer if entry.state != GONE]

    def forget_entry(self, entry: Entry) -> None:
        """An unstarted event leaves this worker's hands by an edit."""
        self._buffer = [other for other in self._buffer if other is not entry]
        self._gate.forget(entry)
