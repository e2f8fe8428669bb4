"""Checking a store against PROTOCOL.md: every folder, every file, every line, and how they agree with each other.

Nothing is changed, and no lock is taken that a living worker could miss: only the lock of a room is tried, which a
living worker holds anyway. Files move while they are looked at, so what was found is looked for again, and only what
is found each time is reported.
"""

from __future__ import annotations

import re
import stat as stat_bits
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from eventq.clock import SYSTEM, Clock
from eventq.errors import ConfigError
from eventq.ids import ID_LENGTH, ID_PATTERN, STEM_LENGTH, index_of, stem_of
from eventq.model import Name, Settings, State
from eventq.storage.file import disk, line
from eventq.storage.file.drafts import BALLAST, MAX_FREE, MAX_RECYCLED_BYTES
from eventq.storage.file.edits import Request
from eventq.storage.file.feed import MAX_FILE_BYTES
from eventq.storage.file.finding import Finding, Findings, kind_of
from eventq.storage.file.format import FOLDERS, read_format
from eventq.storage.file.kept import KEPT
from eventq.storage.file.keys import MAX_MARKER, Marker
from eventq.storage.file.layout import (
    BLOCKED_FILE,
    BUCKET,
    CLAIM_FILE,
    DELAYED_FILE,
    EVENT_FILE,
    KEYED_DRAFT,
    NOTES_FILE,
    PRIORITY,
    bucket_of,
    decode_queue,
    digest,
)
from eventq.storage.file.line import Folded, RecordLine
from eventq.storage.file.names import MAX_RECORD_BYTES
from eventq.storage.file.notes import MAX_NOTES_BYTES
from eventq.storage.file.places import slot_of
from eventq.storage.file.presence import INNER, MAX_INFO_BYTES, Info
from eventq.storage.file.rates import MAX_LOG_BYTES, rate_slot, time_line, time_of
from eventq.storage.file.recovery import draft_name, keyed_target
from eventq.storage.file.settings import MAX_SETTINGS_BYTES

if TYPE_CHECKING:
    import os

LOOKS = 3
"""An error is one only if so many looks in a row find it; a note, if two do."""
OVERSHOOT = 64
"""How many files more than `MAX_FREE` each worker may add to `free/` before it counts again."""

WORKER = re.compile(r"[0-9a-f]{16}\Z")
STEM = re.compile(r"[0-9a-f]{38}\Z")
SHA256 = re.compile(r"[0-9a-f]{64}\Z")
SLOT = re.compile(r"[0-9a-f]{64}\.\d+\Z")
FREE = re.compile(r"[0-9a-f]{17,32}\Z")
HALF_FORMAT = re.compile(r"\.FORMAT\.[0-9a-f]{12}\Z")
PASSING_DRAFT = re.compile(
    r"([0-9a-f]{38}\.marker|settings-[0-9a-f]{38}|request-[0-9a-f]{38}\.[0-9a-f]{5}|info|name-[0-9a-f]{16})\Z"
)
"""Drafts of what holds no event: their worker asks again, or nobody does."""
TARGET = re.compile(
    r"queues/[a-z0-9_-]{1,100}/(ready/(0|-?[1-9]\d{0,2})|blocked/[0-9a-f]{64}|(delayed|completed(~\d+)?|dead|expired|cancelled)/[0-9a-f]{7})/[^/]+\Z"
)

STEPS = {"started", "released", "skipped", "failed", "settled", "requeued"}
FINAL = {state.value: state for state in (State.COMPLETED, State.DEAD, State.EXPIRED, State.CANCELLED)}


class Report(msgspec.Struct, frozen=True):
    """What a check found, and how much it looked at: `counts` by word (`queues`, `rooms`, `files`, `ready`, ...)."""

    findings: tuple[Finding, ...]
    counts: dict[str, int]


def check(path: str) -> list[Finding]:
    """What is wrong or worth knowing in the store at `path`, errors first; empty if all is as it should be.

    Works on a store in use (it takes no longer than to read everything up to three times) and on one nobody opened.
    Changes nothing. Raises OSError if the store cannot be read at all.
    """
    return list(examine(path).findings)


def examine(path: str, clock: Clock = SYSTEM) -> Report:
    """As `check`, with counts of what was looked at."""
    look = Look(path, clock)
    found = look.all()
    for number in range(2, LOOKS + 1):
        if not found or (number > 2 and not any(finding.severity == "error" for finding in found)):
            break
        look = Look(path, clock)
        again = set(look.all())
        found = [finding for finding in found if finding in again]
    found.sort(key=lambda finding: (finding.severity, finding.path, finding.problem))
    return Report(tuple(found), dict(sorted(look.counts.items())))


class Look(Findings):
    """One walk through a store."""

    def __init__(self, root: str, clock: Clock) -> None:
        super().__init__(root.rstrip("/") or "/")
        self._now = clock.now()
        self._durable = True
        self._open: dict[str, str] = {}
        """Where each open event stands, by id."""
        self._final: dict[str, str] = {}
        self._ending: set[str] = set()
        """Events whose end is recorded in a file that others keep open."""
        self._markers: list[tuple[str, Marker]] = []
        self._keyed_drafts: set[str] = set()
        self._notes: set[tuple[str, str]] = set()

    def all(self) -> list[Finding]:
        """Everything that one walk finds."""
        try:
            durable = read_format(self.root)
        except ConfigError as error:
            self.error("FORMAT", str(error))
            return list(self.found)
        if durable is None:
            self.error("FORMAT", "is missing: this is no store, or one that was half made")
            return list(self.found)
        self._durable = durable
        self.is_folder("", disk.stat(self.root))
        places = {
            "queues": self._queues, "workers": self._workers, "free": self._free, "corrupt": self._corrupt,
            "names": self._names, "slots": self._slots, "rates": self._rates,
        }  # fmt: skip
        present = set()
        for name, status in self.entries(""):
            present.add(name)
            if name in places:
                if self.is_folder(name, status):
                    places[name]()
            else:
                self._top_file(name, status)
        for name in (*FOLDERS, "ballast"):
            if name not in present:
                self.note(name, "is missing: given up on a full disk" if name == "ballast" else "is missing")
        self._compare()
        return list(self.found)

    def _top_file(self, name: str, status: os.stat_result) -> None:
        if name == "FORMAT":
            self.is_file(name, status, links=2)  # two until its maker's draft is dropped
        elif name == "ballast":
            if self.is_file(name, status) and status.st_size != BALLAST:
                self.note(name, f"has {status.st_size} bytes, not {BALLAST}")
        elif HALF_FORMAT.match(name):
            self.note(name, "is a draft of FORMAT, which the next opening of the store removes")
        else:
            self.stranger(name, name, "part of a store")

    # ------------------------------------------------------------------ queues

    def _queues(self) -> None:
        for name, status in self.entries("queues"):
            path = f"queues/{name}"
            if name.startswith("."):
                self.note(path, "is a dropped queue, half removed; the next look removes the rest")
                continue
            if not _is_queue(name):
                self.error(path, "is no folder of a queue")
            elif self.is_folder(path, status):
                self.counts["queues"] += 1
                self._queue(path)

    def _queue(self, root: str) -> None:
        for name, status in self.entries(root):
            path = f"{root}/{name}"
            if name == "wake":
                self.is_fifo(path, status)
            elif name == "settings.json":
                if self.is_file(path, status):
                    self.json(path, MAX_SETTINGS_BYTES, Settings, "so that the defaults hold")
            elif name in ("ready", "delayed", "blocked", "keys", "notes") or name in FINAL or KEPT.match(name):
                if self.is_folder(path, status):
                    self._place(name, path)
            else:
                self.stranger(path, name, "part of a queue")

    def _place(self, name: str, path: str) -> None:
        if name == "ready":
            for priority in self.folders(path, PRIORITY, "folder of a priority"):
                if not -100 <= int(priority) <= 100:
                    self.error(f"{path}/{priority}", "is not a priority from -100 to 100")
                self._ready(f"{path}/{priority}")
        elif name == "keys":
            self._keys(path)
        elif name == "blocked":
            for slot in self.folders(path, SHA256, "folder of a limit"):
                self._blocked(f"{path}/{slot}", slot)
        else:
            for bucket in self.folders(path, BUCKET, "bucket"):
                if name == "delayed":
                    self._delayed(f"{path}/{bucket}", bucket)
                elif name == "notes":
                    self._notes_of(f"{path}/{bucket}", bucket)
                else:
                    self._ended(f"{path}/{bucket}", bucket, FINAL[name.partition("~")[0]])

    def _ready(self, folder: str) -> None:
        for name, status in self.entries(folder):
            path = f"{folder}/{name}"
            if EVENT_FILE.match(name):
                if self.is_file(path, status):
                    self._open_file(path, name, "ready")
            elif not stat_bits.S_ISREG(status.st_mode):
                self.error(path, f"is {kind_of(status)}, where a file belongs")
            elif name.startswith("."):
                self.note(path, "is ignored until its publisher renames it")
            else:
                self.note(path, "is a foreign file; the next claimer adopts it")
                if status.st_mode & 0o002:
                    self.error(path, "can be changed by everybody, also after it was published")

    def _delayed(self, folder: str, bucket: str) -> None:
        for name, status in self.entries(folder):
            path = f"{folder}/{name}"
            match = DELAYED_FILE.match(name)
            if match is None:
                self.stranger(path, name, "event file")
            elif self.is_file(path, status):
                if bucket_of(match[1]) != bucket:
                    self.error(path, f"is in the wrong bucket; it belongs in {bucket_of(match[1])}")
                due = int(match[1], 16) / 1e9 > self._now
                self._open_file(path, match[3], "delayed" if due else "ready")

    def _blocked(self, folder: str, slot: str) -> None:
        empty = True
        for name, status in self.entries(folder):
            path = f"{folder}/{name}"
            match = BLOCKED_FILE.match(name)
            if match is None:
                self.stranger(path, name, "event that waits for a place")
            elif self.is_file(path, status):
                empty = False
                self._open_file(path, match[4], "ready")
                self._judge_wait(path, match[4], slot)
        if empty:
            self.note(folder, "is empty; the next look removes it")

    def _judge_wait(self, path: str, name: str, slot: str) -> None:
        """Whether the events of a file need a place of the slot for which it waits."""
        read = self._folded(path, name)
        folded = line.Folded() if read is None else read[0]
        for index in folded.open_indexes():
            try:
                event = folded.event(index)
            except msgspec.MsgspecError:
                continue  # said already
            slots = [*map(slot_of, event.limits or ()), *map(rate_slot, event.rates or ())]
            if slot not in map(digest, slots):
                self.error(path, "waits for a place that its event does not need")

    # ------------------------------------------------------------------ event files

    def _folded(self, path: str, name: str) -> tuple[Folded, list[RecordLine]] | None:
        """A file's content and its readable records; None if the file is gone."""
        data = self.read(path, MAX_FILE_BYTES)
        if data is None:
            return None
        stem = stem_of(name)
        folded = line.fold(data, stem)
        records = []
        for raw in data[: folded.end].split(b"\n"):
            if raw.startswith(line.head_of(stem)) and raw[line.KIND : line.KIND + 1] not in (b"p", b"c"):
                try:
                    records.append(line.decode_record(raw) if line.is_sealed(raw) else None)
                except msgspec.MsgspecError:
                    continue  # `fold` has counted it as unreadable
        if folded.tail:
            self.note(path, "ends in a torn line: never acknowledged, blanked by the next claimer")
        if folded.bad:
            self.note(path, f"has {len(folded.bad)} unreadable lines: set aside in corrupt/ by the next claimer")
        return folded, [record for record in records if record is not None]

    def _ids(self, path: str, folded: Folded, indexes: Iterable[int]) -> Iterator[tuple[int, str]]:
        """The ids of events of a file, as they were put."""
        for index in indexes:
            try:
                event = folded.event(index)
            except msgspec.MsgspecError as error:
                self.error(path, f"event {index} has its checksum and is no event: {error}")
                continue
            yield index, event.born or event.id

    def _open_file(self, path: str, name: str, state: str) -> list[str]:
        """A file with open events, in `ready/`, `delayed/` or a room's `claims/`; where its moved events went."""
        read = self._folded(path, name)
        if read is None:
            return []
        folded, records = read
        self._judge_records(path, folded, records)
        bare = not name.endswith("+") and state != "claimed"
        if bare and records:
            self.error(path, "holds records, but has the name of a file that nobody has claimed")
        if bare and not folded.lines:
            say = self.error if self._durable else self.note
            say(path, "holds no event that can be read")
        indexes = folded.open_indexes()
        for index, id in self._ids(path, folded, indexes):
            started = (past := folded.pasts.get(index)) is not None and past.running is not None
            self.counts[state if state != "claimed" or started else "ready"] += 1
            other = self._open.setdefault(id, path)
            if other != path:
                self.error(path, f"event {id} is also open in {other}: it runs twice")
        ended = [
            at
            for at, past in folded.pasts.items()
            if (end := past.settled) is not None
            and (end.outcome != State.COMPLETED or end.has_value())
            and not folded.is_moved(at)
        ]
        self._ending.update(id for _, id in self._ids(path, folded, ended))
        if name.endswith("+") and state != "claimed" and not indexes:
            self.note(path, "holds no open event; the next claimer finishes it")
        return [move.to for move in folded.moves]

    def _judge_records(self, path: str, folded: Folded, records: list[RecordLine]) -> None:
        for record in records:
            index = record.id[STEM_LENGTH + 1 :]
            if index == "*":
                if record.step != "moved" or not TARGET.match(record.to) or not record.of:
                    self.error(path, f"has a record of a move to nowhere: {record.to[:200]!r}")
                continue
            if record.step not in STEPS:
                self.error(path, f"has a record of an unknown step: {record.step[:40]!r}")
            elif record.step == "settled" and record.outcome not in FINAL:
                self.error(path, f"has a record of an unknown outcome: {record.outcome[:40]!r}")
            if not _is_index(index, folded):
                # what a death leaves of a kept file that was becoming a draft; elsewhere the event was damaged
                self.note(path, f"has a record of event {index[:12]}, which is not in the file")

    def _ended(self, folder: str, bucket: str, state: State) -> None:
        for name, status in self.entries(folder):
            path = f"{folder}/{name}"
            whole = state is State.COMPLETED and STEM.match(name)
            if not whole and not ID_PATTERN.match(name):
                self.stranger(path, name, "event file")
            elif self.is_file(path, status):
                if bucket_of(name) != bucket:
                    self.error(path, f"is in the wrong bucket; it belongs in {bucket_of(name)}")
                self._ended_file(path, name, state)

    def _ended_file(self, path: str, name: str, state: State) -> None:
        read = self._folded(path, name)
        if read is None:
            return
        folded, records = read
        self._judge_records(path, folded, records)
        moved = {index for move in folded.moves for index in move.of}
        own = [index_of(name)] if len(name) == ID_LENGTH else sorted(set(folded.lines) - moved)
        if not set(own) & set(folded.lines):
            if not moved:
                self.error(path, "holds no event that can be read")
            return
        for index, id in self._ids(path, folded, [index for index in own if index in folded.lines]):
            past = folded.pasts.get(index)
            settled = None if past is None else past.settled
            if settled is None:
                why = "about to be requeued" if past is not None and past.revived else "its end was not recorded"
                self.note(path, f"event {id}: {why}; its folder says what it is")
            elif settled.outcome != state.value:
                self.error(path, f"event {id} is settled as {settled.outcome!r}, which its folder denies")
            if settled is not None and state is State.COMPLETED and not settled.has_value():
                continue  # shares its file with others' values, and is gone
            self.counts[state.value] += 1
            other = self._final.setdefault(id, path)
            if other != path:
                self.error(path, f"event {id} has ended in {other} as well")

    # ------------------------------------------------------------------ keys, notes

    def _keys(self, folder: str) -> None:
        for name, status in self.entries(folder):
            path = f"{folder}/{name}"
            if not SHA256.match(name):
                self.stranger(path, name, "marker of a key")
            elif self.is_file(path, status, links=2):  # two until its draft is dropped
                marker = self.json(path, MAX_MARKER, Marker, "so that the next put replaces it", self.note)
                if marker is not None and digest(marker.key) != name:
                    self.error(path, f"is named for another key than its own, {marker.key[:80]!r}")
                elif marker is not None:
                    self._markers.append((path, marker))
                    if marker.since is not None and (marker.until is not None or not marker.waiting):
                        self.error(path, "is a debounced put's, and does not hold its key until that is started")
                    if not all(ID_PATTERN.match(id) for id in marker.over):
                        self.error(path, f"is over something that is no event: {marker.over!r:.200}")

    def _notes_of(self, folder: str, bucket: str) -> None:
        for name, status in self.entries(folder):
            path = f"{folder}/{name}"
            if not NOTES_FILE.match(name):
                self.stranger(path, name, "notes of an event")
            elif self.is_file(path, status):
                if bucket_of(name) != bucket:
                    self.error(path, f"is in the wrong bucket; it belongs in {bucket_of(name)}")
                if status.st_size > 2 * MAX_NOTES_BYTES:
                    self.error(path, f"has {status.st_size} bytes; notes end at {MAX_NOTES_BYTES}")
                self._notes.add((folder.rpartition("/")[0], name[:ID_LENGTH]))

    # ------------------------------------------------------------------ rooms

    def _workers(self) -> None:
        for name, status in self.entries("workers"):
            path = f"workers/{name}"
            if not WORKER.match(name.removeprefix(".")):
                self.stranger(path, name, "room of a worker")
            elif self.is_folder(path, status):
                if name.startswith("."):
                    self.note(path, "is a room half made; whoever looks removes it if its maker is dead")
                else:
                    self._room(path)

    def _room(self, room: str) -> None:
        inside = dict(self.entries(room))
        for name, status in inside.items():
            path = f"{room}/{name}"
            if name in INNER:
                self.is_folder(path, status)
            elif name == "wake":
                self.is_fifo(path, status)
            elif name in ("lock", "info.json"):
                self.is_file(path, status)
            else:
                self.stranger(path, name, "part of a room")
        claims = list(self.entries(room + "/claims"))
        drafts = list(self.entries(room + "/drafts"))
        requests = list(self.entries(room + "/requests"))
        if "lock" not in inside:
            if claims or drafts or requests:
                self.error(room, "has no lock, and holds something: nobody will bring it back")
            else:
                self.note(room, "has no lock: half made or half removed; whoever looks removes it")
            alive = False
        else:
            alive = disk.is_held(f"{self.root}/{room}/lock")
            self.counts["rooms"] += alive
            if not alive:
                self.note(room, f"its worker is dead: {len(claims)} claimed files come back at the next look")
        if "info.json" in inside:
            self.json(f"{room}/info.json", MAX_INFO_BYTES, Info, "so that it says nothing of its worker", self.note)
        moves = self._claims(room, claims)
        self._drafts(room, drafts, {name for name, _ in claims}, moves, alive)
        self._requests(room, requests)

    def _claims(self, room: str, claims: list[tuple[str, os.stat_result]]) -> set[str]:
        """Look at a room's claimed files; the names of the drafts that their moves owe."""
        moves: set[str] = set()
        for name, status in claims:
            path = f"{room}/claims/{name}"
            match = CLAIM_FILE.match(name)
            if match is None or not _is_queue(match[1]):
                self.error(path, "is no claimed file; the next look at a dead room sets it aside")
            elif not EVENT_FILE.match(match[3]):
                if stat_bits.S_ISREG(status.st_mode):
                    self.note(path, "is a foreign file about to be adopted")
                else:
                    self.error(path, f"is {kind_of(status)}, where a file belongs")
            elif self.is_file(path, status):
                moves.update(map(draft_name, self._open_file(path, match[3], "claimed")))
        return moves

    def _drafts(
        self, room: str, drafts: list[tuple[str, os.stat_result]], claims: set[str], moves: set[str], alive: bool
    ) -> None:
        for name, status in drafts:
            path = f"{room}/drafts/{name}"
            links = 2 if name.endswith(".marker") or name.startswith("name-") else 1
            if not self.is_file(path, status, links):
                continue
            keyed = KEYED_DRAFT.match(name)
            if keyed is not None:
                self._keyed_drafts.add(f"{keyed[4]}.00000")
            fate = self._fate(path, name, claims, moves)
            if fate is None:
                self.error(path, "is no draft")
            elif alive:
                self.note(path, "is a draft of a living worker, not finished yet")
            else:
                self.note(path, f"is a dead worker's draft, and will be {fate}")

    def _fate(self, path: str, name: str, claims: set[str], moves: set[str]) -> str | None:
        """What recovery does with a draft; None if it is none."""
        if name in moves:
            return "published: its move is recorded"
        if PASSING_DRAFT.match(name) or any(kind.match(name) for kind in (EVENT_FILE, DELAYED_FILE, BLOCKED_FILE)):
            return "dropped: nothing was promised"
        stem, equals, claim = name.partition("=")
        if equals and STEM.match(stem) and CLAIM_FILE.match(claim):
            return "dropped: the foreign file is there" if claim in claims else "published: the foreign file is gone"
        keyed = KEYED_DRAFT.match(name)
        if keyed is None or not _is_queue(keyed[1]):
            return None
        try:
            target = keyed_target(self.root, f"{self.root}/{path}", keyed.groups())
        except FileNotFoundError:
            target = None  # it moved on this instant, and will not be found again
        return "dropped: its key is not its own" if target is None else "published: its key's marker names it"

    def _requests(self, room: str, requests: list[tuple[str, os.stat_result]]) -> None:
        for name, status in requests:
            path = f"{room}/requests/{name}"
            if not ID_PATTERN.match(name):
                self.stranger(path, name, "request for an event")
            elif self.is_file(path, status):
                self.json(path, MAX_FILE_BYTES, Request, "so that its worker drops it")

    # ------------------------------------------------------------------ the rest of the store

    def _free(self) -> None:
        count = 0
        for name, status in self.entries("free"):
            path = f"free/{name}"
            count += 1
            if not FREE.match(name):
                self.stranger(path, name, "name of a recycled file")
            elif self.is_file(path, status) and status.st_size > MAX_RECYCLED_BYTES:
                self.note(path, f"has {status.st_size} bytes: too large to be used again, so the next taker removes it")
        self.counts["free"] = count
        rooms = len(disk.list_if_any(f"{self.root}/workers"))
        if count > MAX_FREE + OVERSHOOT * (rooms + 1):
            self.note("free", f"holds {count} recycled files; about {MAX_FREE} are enough, and all may be removed")

    def _corrupt(self) -> None:
        for name, status in self.entries("corrupt"):
            self.counts["corrupt"] += 1
            self.note(f"corrupt/{name}", f"was set aside ({status.st_size} bytes): look at it, then remove it")

    def _names(self) -> None:
        for name, status in self.entries("names"):
            path = f"names/{name}"
            if not SHA256.match(name):
                self.stranger(path, name, "record of a name")
            elif self.is_file(path, status, links=2):
                record = self.json(path, MAX_RECORD_BYTES, Name, "so that nobody can take it; remove it to free it")
                if record is not None and digest(record.name) != name:
                    self.error(path, f"is named for another name than its own, {record.name[:80]!r}")

    def _slots(self) -> None:
        for name, status in self.entries("slots"):
            if not SLOT.match(name):
                self.stranger(f"slots/{name}", name, "lock of a slot")
            else:
                self.is_file(f"slots/{name}", status)

    def _rates(self) -> None:
        for name, status in self.entries("rates"):
            path = f"rates/{name}"
            if not SHA256.match(name):
                self.stranger(path, name, "log of a rate")
            elif self.is_file(path, status):
                times = (self.read(path, MAX_LOG_BYTES) or b"").splitlines(keepends=True)
                if any(time_line(time_of(time)) != time for time in times):
                    self.note(path, "has lines that are no times, and count as long ago")
                elif times[1:] != sorted(times[1:]):
                    self.note(path, "has times that are not in order, so that some count too long or not at all")

    # ------------------------------------------------------------------ how the files agree

    def _compare(self) -> None:
        for id, path in self._final.items():
            if (other := self._open.get(id)) is not None:
                self.error(path, f"event {id} has ended here and is open in {other}: it runs again")
        for path, marker in self._markers:
            if marker.until is None and marker.id not in self._open and marker.id not in self._keyed_drafts:
                self.note(path, "names an event that is not open: the next put of its key replaces it")
        known = self._open.keys() | self._final.keys() | self._ending
        orphans = Counter(folder for folder, id in self._notes if id not in known)
        for folder, count in orphans.items():
            self.note(folder, f"has notes of {count} events that left no record; they go with their bucket")


def _is_queue(folder: str) -> bool:
    try:
        decode_queue(folder)
    except ValueError:
        return False
    return True


def _is_index(text: str, folded: Folded) -> bool:
    try:
        return int(text, 16) in folded.lines
    except ValueError:
        return False
