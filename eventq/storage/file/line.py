"""What stands in an event file: JSON Lines, one per event, then one per step of its life.

Every line begins with `{"id":"<stem>.<index>"` and ends with `"crc":"<8 hex>"}` and a newline. A line of another stem
(what a recycled file held before), one whose checksum is wrong, or one without its newline is not there. The
checksum is CRC-32 (RFC 1952) of all bytes of the line before `,"crc"`.

`fold` reads a file: which of its events are open, and what has happened to them.
"""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64, crc32
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from eventq.ids import STEM_LENGTH
from eventq.model import Attempt, Failure, PutOptions, Record, State

TAIL = 18
"""Length of `,"crc":"xxxxxxxx"}`."""
_FRAME = b',"crc":""}'
"""What that is without its digits."""
ID = 7
"""Where a line's id begins, after `{"id":"`."""
INDEX = ID + STEM_LENGTH + 1
"""Where a line's index stands, after `{"id":"<stem>.`; a moved record has `*` there."""
ID_END = INDEX + 5
"""Where a line's id ends: all lines about one event are the same up to there."""
KIND = INDEX + 8
"""Where a line's second member begins. In a record that is `is`; no member of an event begins with an `i`."""
_PLAIN = b'","payload":'
PAYLOAD = ID_END + len(_PLAIN)
"""Where the payload of such a plain event begins; it goes up to the checksum."""
_SKIPPED = b'"outcome":"skipped"'
_RECORD, _STAR = b"i*"
_INDEXES = {b"%05x" % number: number for number in range(4096)}
KEPT_ATTEMPTS = 20
MAX_TRACEBACK = 16 << 10

OTHER_HEAD = re.compile(rb'\{"id":"[0-9a-f]{38}\.')
"""How an event file begins."""

_encode = msgspec.json.Encoder().encode


NO_VALUE = msgspec.Raw(b"")


class EventLine(msgspec.Struct, omit_defaults=True, gc=False):
    """A line that holds an event."""

    id: str
    headers: dict[str, Any] | None = None
    priority: int = 0
    expires: float | None = None
    key: str | None = None
    unique: str | float = "open"
    max_attempts: int | None = None
    max_crashes: int | None = None
    keep: float | None = None
    limits: dict[str, int] | None = None
    rates: dict[str, tuple[int, float]] | None = None
    born: str | None = None
    """The event's id, if it was put in another file."""
    failures: int = 0
    crashes: int = 0
    attempts: tuple[Attempt, ...] = ()
    """What happened before it was moved to this file."""
    codec: str = "json"
    payload: msgspec.Raw = msgspec.Raw(b"null")
    data: str | None = None
    """The payload in base64, for any codec but JSON."""


class RecordLine(msgspec.Struct, omit_defaults=True):
    """A line that tells a step of an event's life."""

    id: str
    step: str = msgspec.field(name="is")
    at: float = 0.0
    worker: str = ""
    error: Failure | None = None
    outcome: str = ""
    value: msgspec.Raw = NO_VALUE
    codec: str = "json"
    data: str | None = None
    keep: float | None = None
    """Seconds for which the value is kept, if not as the event says."""
    of: tuple[int, ...] = ()
    to: str = ""

    def has_value(self) -> bool:
        """Whether it settles an event with a value (which may be null)."""
        return self.value is not NO_VALUE or self.data is not None


decode_event: Callable[[bytes], EventLine] = msgspec.json.Decoder(EventLine).decode
decode_record: Callable[[bytes], RecordLine] = msgspec.json.Decoder(RecordLine).decode


def seal(body: bytes) -> bytes:
    """Close a line: `body` is a JSON object without its closing brace."""
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


def is_sealed(raw: bytes) -> bool:
    """Whether a line (without its newline) is whole."""
    try:
        return int(raw[-10:-2], 16) == crc32(raw[:-TAIL]) and raw[-TAIL:-10] + raw[-2:] == _FRAME
    except ValueError:
        return False


def one_line(document: bytes) -> bytes:
    """The same JSON document without newlines, which can only stand between its tokens."""
    return document.replace(b"\n", b" ") if b"\n" in document else document


# ---------------------------------------------------------------------------- events


def event_options(options: PutOptions) -> bytes:
    """What stands before the payload in every event line of one put: nothing, if nothing was said."""
    fields: dict[str, Any] = {}
    if options.headers:
        fields["headers"] = options.headers
    if options.key is not None:
        fields["key"] = options.key
        if options.unique != "open":
            fields["unique"] = options.unique
    if options.priority:
        fields["priority"] = options.priority
    for name in ("expires", "max_attempts", "max_crashes", "keep"):
        if (value := getattr(options, name)) is not None:
            fields[name] = value
    if options.limits:
        fields["limits"] = options.limits
    if options.rates:
        fields["rates"] = options.rates
    return _encode(fields)[1:-1] + b"," if fields else b""


def event_line(head: bytes, index: int, payload: bytes, codec: str, options: bytes) -> bytes:
    """One event as it is put. The payload comes last, so that an event without options shows it at a known place."""
    if codec == "json":
        body = b'%b%05x",%b"payload":%b' % (head, index, options, one_line(payload))
    else:
        text = b2a_base64(payload, newline=False)
        body = b'%b%05x",%b"codec":%b,"data":"%b"' % (head, index, options, _encode(codec), text)
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


def event_lines(stem: str, payloads: Sequence[bytes], codec: str, options: bytes) -> bytes:
    """The events of one put, in one file."""
    head = head_of(stem)
    if codec != "json":
        return b"".join([event_line(head, index, payload, codec, options) for index, payload in enumerate(payloads)])
    lines = []
    for index, payload in enumerate(payloads):
        body = b'%b%05x",%b"payload":%b' % (head, index, options, one_line(payload))
        lines.append(b'%b,"crc":"%08x"}\n' % (body, crc32(body)))
    return b"".join(lines)


def moved_line(line: EventLine, id: str, born: str, past: Past) -> bytes:
    """An event as it goes on in another file, with what has happened to it."""
    line.id = id
    line.born = None if born == id else born
    if past.revived:
        line.expires = None
    line.failures, line.crashes, line.attempts = past.failures, past.crashes, tuple(past.attempts[-KEPT_ATTEMPTS:])
    return seal(_encode(line)[:-1])


def copied_line(record: Record, id: str) -> bytes:
    """An event of another store, with what has happened to it there; `id` is its line's."""
    event = EventLine(
        id, record.headers or None, record.priority, record.expires, record.key, record.unique, record.max_attempts,
        record.max_crashes, record.keep, record.limits or None, record.rates or None,
        None if id == record.id else record.id, record.failures, record.crashes, record.attempts, record.codec,
    )  # fmt: skip
    if record.codec == "json":
        event.payload = msgspec.Raw(one_line(record.payload))
    else:
        event.data = b2a_base64(record.payload, newline=False).decode()
    return seal(_encode(event)[:-1])


def ended_line(record: Record) -> bytes:
    """The settled record of an event that ended in another store."""
    at, id = record.settled or 0.0, record.id
    if record.value is not None:
        return value_line(id[:STEM_LENGTH], int(id[STEM_LENGTH + 1 :], 16), at, record.value, record.value_codec)
    return record_line(RecordLine(id, "settled", at, error=record.failure, outcome=record.state.value))


def plain_payload(raw: bytes) -> bytes | None:
    """The payload of an event about which nothing else was said, and to which nothing has happened; None for others.

    Found at its place, without decoding the line: most events are like this.
    """
    return raw[PAYLOAD:-TAIL] if raw[ID_END:PAYLOAD] == _PLAIN else None


def tells_of_skip(raw: bytes, worker: str) -> bool:
    """Whether an event's line tells that this worker has skipped it: before it was moved, with all that had happened to
    it."""
    if _SKIPPED not in raw:
        return False
    try:
        return worker in Past(decode_event(raw)).skipped_by
    except msgspec.MsgspecError:
        return False  # seen when it is to be started


def id_in(head: bytes) -> str:
    """The id in the beginning that all lines about one event share."""
    return head[ID:].decode()


def payload_of(line: EventLine) -> bytes:
    """The payload's own bytes."""
    return bytes(line.payload) if line.data is None else a2b_base64(line.data)


# ---------------------------------------------------------------------------- records


def head_of(stem: str) -> bytes:
    """How every line of a file begins."""
    return b'{"id":"%b.' % stem.encode()


def started_step(at: bytes, worker: bytes) -> bytes:
    """What follows the id in the record of a start."""
    return b'","is":"started","at":%b,"worker":"%b"' % (at, worker)


def completed_step(at: bytes) -> bytes:
    """What follows the id in the record of an end without a value."""
    return b'","is":"settled","at":%b,"outcome":"completed"' % at


def record_line(record: RecordLine) -> bytes:
    return seal(_encode(record)[:-1])


def value_line(stem: str, index: int, at: float, value: bytes, codec: str, keep: float | None = None) -> bytes:
    """The settled record of a completed event with a value; `keep` if it is another one than the event says."""
    record = RecordLine(f"{stem}.{index:05x}", "settled", at, outcome=State.COMPLETED.value, keep=keep)
    if codec == "json":
        record.value = msgspec.Raw(one_line(value))
    else:
        record.codec, record.data = codec, b2a_base64(value, newline=False).decode()
    return record_line(record)


def moved_record(stem: str, indexes: Sequence[int], to: str, at: float) -> bytes:
    """Says that these events go on in another file: from here on the move is owed, whatever happens."""
    return record_line(RecordLine(f"{stem}.*", "moved", at, of=tuple(indexes), to=to))


def clip(failure: Failure | None) -> Failure | None:
    """A failure of bounded size: the end of a long traceback says more than its beginning."""
    if failure is None or len(failure.traceback) + len(failure.message) <= MAX_TRACEBACK:
        return failure
    return Failure(failure.type[:200], failure.message[:4096], failure.traceback[-MAX_TRACEBACK:])


# ---------------------------------------------------------------------------- reading a file


class Past:
    """What has happened to one event."""

    __slots__ = ("attempts", "crashes", "expires", "failures", "keep", "revived", "running", "settled", "skipped_by")

    def __init__(self, line: EventLine) -> None:
        self.failures: int = line.failures
        self.keep: float | None = line.keep
        self.expires: float | None = line.expires
        self.crashes: int = line.crashes
        self.attempts: list[Attempt] = list(line.attempts)
        self.running: Attempt | None = None
        self.settled: RecordLine | None = None
        self.revived: bool = False
        """Whether it was requeued after its expiry, which was for the life that ended then."""
        self.skipped_by: set[str] = {attempt.worker for attempt in self.attempts if attempt.outcome == "skipped"}

    def end(self, at: float, outcome: str, error: Failure | None = None) -> None:
        """The running attempt ended."""
        if (run := self.running) is not None:
            self.attempts.append(Attempt(run.worker, run.started, at, outcome, error))
            self.running = None

    def crash(self) -> None:
        """The running attempt never ended: its worker died."""
        if self.running is not None:
            self.crashes += 1
            self.end(0.0, "crashed")

    def take(self, record: RecordLine) -> None:
        """One more step."""
        step = record.step
        if step == "started":
            self.crash()
            self.settled = None
            self.running = Attempt(record.worker, record.at)
        elif step == "released":
            self.end(record.at, "released")
        elif step == "skipped":
            self.end(record.at, "skipped")
            self.skipped_by.add(record.worker)
        elif step == "failed":
            self.failures += 1
            self.end(record.at, "failed", record.error)
        elif step == "settled":
            if self.running is not None and record.outcome != State.COMPLETED and record.worker != self.running.worker:
                self.crash()  # it was ended by who found it: its worker had died
            if record.outcome == State.DEAD and self.running is not None:
                self.failures += 1
            self.end(record.at, record.outcome, record.error)
            self.settled = record
            if record.keep is not None:
                self.keep = record.keep
        elif step == "requeued":
            self.settled = None
            if self.expires is not None and self.expires <= record.at:
                self.revived = True
            self.failures = self.crashes = 0

    def last_failure(self) -> Failure | None:
        """Why it stands where it stands, if anything failed."""
        if self.settled is not None and self.settled.error is not None:
            return self.settled.error
        for attempt in reversed(self.attempts):
            if attempt.error is not None:
                return attempt.error
        return None


class Folded:
    """A file's content, read: its events' lines by index, their pasts, and what was unreadable."""

    __slots__ = ("bad", "end", "lines", "moves", "pasts", "tail")

    def __init__(self) -> None:
        self.lines: dict[int, bytes] = {}
        self.pasts: dict[int, Past] = {}
        self.moves: list[RecordLine] = []
        self.bad: list[bytes] = []
        self.end: int = 0
        """Where the next record goes: after the last newline."""
        self.tail: int = 0
        """How many bytes after it are not blank: a torn line."""

    def event(self, index: int) -> EventLine:
        return decode_event(self.lines[index])

    def past(self, index: int) -> Past:
        past = self.pasts.get(index)
        if past is None:
            past = self.pasts[index] = Past(self.event(index))
        return past

    def tell(self, index: int, record: RecordLine) -> None:
        """One more step in the life of an event."""
        if index not in self.lines:
            return
        try:
            self.past(index).take(record)
        except msgspec.MsgspecError:  # its line is whole, and yet no event
            self.bad.append(self.lines.pop(index))

    def is_moved(self, index: int) -> bool:
        return any(index in move.of for move in self.moves)

    def open_indexes(self) -> list[int]:
        """The events that are neither settled nor moved, in order."""
        if not self.pasts and not self.moves:
            return list(self.lines)
        moved = {index for move in self.moves for index in move.of}
        return [
            index
            for index in self.lines
            if index not in moved and ((past := self.pasts.get(index)) is None or past.settled is None)
        ]

    def has_values(self) -> bool:
        """Whether an event here completed with a value, so that the file is kept."""
        return any(past.settled is not None and past.settled.has_value() for past in self.pasts.values())


def fold(data: bytes, stem: str) -> Folded:
    """Read a file's content, taking only the whole lines of its own stem."""
    folded = Folded()
    folded.end = data.rfind(b"\n") + 1
    rest = data[folded.end :]
    if rest != b" " * len(rest):  # which a comparison tells much sooner than `rstrip`
        folded.tail = len(rest.rstrip(b" "))
    tag = head_of(stem)
    lines = folded.lines
    records: list[tuple[int, RecordLine]] = []
    for raw in data[: folded.end].split(b"\n"):
        if not raw.startswith(tag):
            if raw and not raw.isspace() and not is_sealed(raw.strip(b" ")):
                folded.bad.append(raw)
            continue
        try:
            if int(raw[-10:-2], 16) != crc32(raw[:-TAIL]) or raw[-TAIL:-10] + raw[-2:] != _FRAME:
                folded.bad.append(raw)
                continue
            if raw[INDEX] == _STAR:
                folded.moves.append(decode_record(raw))
            elif raw[KIND] != _RECORD:
                text = raw[INDEX:ID_END]
                index = _INDEXES.get(text)
                lines[int(text, 16) if index is None else index] = raw
            else:
                records.append((int(raw[INDEX:ID_END], 16), decode_record(raw)))
        except (ValueError, IndexError, msgspec.MsgspecError):
            folded.bad.append(raw)
    for index, record in records:
        folded.tell(index, record)
    if folded.bad and not data.startswith(tag) and OTHER_HEAD.match(data):
        folded.bad.clear()  # a finished file whose worker died while it made its next draft of it: nobody's remains
    return folded


def lines_of(data: bytes, id: str) -> bytes:
    """The lines of a file that concern one event: its own, and the moves."""
    lines = []
    for needle in (b'{"id":"%b"' % id.encode(), b'{"id":"%b.*"' % id[:STEM_LENGTH].encode()):
        at = data.find(needle)
        while at >= 0:
            end = data.find(b"\n", at)
            if end < 0:
                break
            if at == 0 or data[at - 1] in b"\n ":
                lines.append(data[at : end + 1])
            at = data.find(needle, end)
    return b"".join(lines)


def record_of(folded: Folded, index: int, queue: str, priority: int, state: State, due: float | None) -> Record:
    """An event as a reader sees it."""
    line, past = folded.event(index), folded.past(index)
    if state is not State.CLAIMED:
        past.crash()  # a start without an end, and nobody holds it
    running, settled = past.running, past.settled
    id = line.born or line.id
    attempts = (*past.attempts, running) if running is not None else tuple(past.attempts)
    value = None
    if settled is not None and settled.has_value():
        value = bytes(settled.value) if settled.data is None else a2b_base64(settled.data)
    return Record(
        id=id,
        queue=queue,
        state=state,
        payload=payload_of(line),
        codec=line.codec,
        headers=line.headers or {},
        priority=line.priority or priority,
        created=int(id[:16], 16) / 1e9,
        due=due,
        expires=None if past.revived else line.expires,
        key=line.key,
        worker=running.worker if running is not None and state is State.CLAIMED else None,
        failures=past.failures,
        crashes=past.crashes,
        attempts=attempts[-KEPT_ATTEMPTS:],
        settled=settled.at if settled is not None else None,
        value=value,
        value_codec=settled.codec if settled is not None else "json",
        failure=None if state is State.COMPLETED else past.last_failure(),
        limits=line.limits or {},
        rates=line.rates or {},
        unique=line.unique,
        max_attempts=line.max_attempts,
        max_crashes=line.max_crashes,
        keep=past.keep,
    )
