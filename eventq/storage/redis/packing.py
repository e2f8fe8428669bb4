"""Events as fields of hashes, and back. LAYOUT.md tells what the fields are."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import msgspec

from eventq import ids
from eventq.model import Attempt, Claimed, Copy, Failure, Note, PutOptions, Record, State
from eventq.storage.checks import encode_headers
from eventq.storage.redis.connection import Argument
from eventq.storage.redis.scripts import number
from eventq.storage.restored import holds_key, key_end, options_of, restored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

Needs = tuple[list[tuple[str, int]], list[tuple[str, int, float]]]
"""Limits, each with its number of places; rates, each with its number and seconds. Sorted: who needs the same stands in
the same line."""


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """The field `put`: what was said of an event that no script decides by."""

    codec: str = "json"
    max_attempts: int | None = None
    headers: msgspec.Raw = msgspec.Raw(b"{}")


class Token(msgspec.Struct, frozen=True):
    """The storage's own part of a `Claimed`: which call claimed it, and where."""

    call: bytes
    store: bytes
    """The name of the store at that time."""


NOTHING_SAID = Said()
encode: Callable[[Any], bytes] = msgspec.json.encode
decode_said: Callable[[bytes], Said] = msgspec.json.Decoder(Said).decode
decode_failure: Callable[[bytes], Failure] = msgspec.json.Decoder(Failure).decode
decode_attempts: Callable[[bytes], tuple[Attempt, ...]] = msgspec.json.Decoder(tuple[Attempt, ...]).decode
decode_needs: Callable[[bytes], Needs] = msgspec.json.Decoder(Needs).decode
decode_note: Callable[[bytes], Note] = msgspec.json.Decoder(Note).decode


def needs_text(limits: Mapping[str, int], rates: Mapping[str, tuple[int, float]]) -> bytes:
    """The field `needs`; empty for an event that needs nothing."""
    if not limits and not rates:
        return b""
    wanted = sorted((name, places, seconds) for name, (places, seconds) in rates.items())
    return encode((sorted(limits.items()), wanted))


def put_fields(options: PutOptions, headers: bytes) -> list[Argument]:
    """The fields of an event that differ from the defaults: names and values. Not those of its key."""
    fields: list[Argument] = []
    if options.codec != "json" or options.max_attempts is not None or headers != b"{}":
        fields += (b"put", encode(Said(options.codec, options.max_attempts, msgspec.Raw(headers))))
    if options.priority:
        fields += (b"priority", options.priority)
    for name, value in ((b"due", options.due), (b"expires", options.expires), (b"keep", options.keep)):
        if value is not None:
            fields += (name, number(value))
    if options.max_crashes is not None:
        fields += (b"max_crashes", options.max_crashes)
    if options.limits or options.rates:
        fields += (b"needs", needs_text(options.limits, options.rates))
    return fields


def place_of(seconds: float) -> str:
    """An instant as the first digits of an id show it."""
    return f"{max(0, int(seconds * 1e9)):016x}"


# ---------------------------------------------------------------- what comes back


def claimed_of(queue: str, token: Token, text: bytes, rest: bytes = b"") -> Claimed:
    """A claimed event, from what the script tells of it: `text` is its id and its payload."""
    id, payload = text[: ids.ID_LENGTH].decode(), text[ids.ID_LENGTH :]
    if not rest:
        return Claimed(id, queue, payload, "json", {}, 0, 0, 0, None, None, token)
    put, priority, failures, crashes, keep = rest.split(b"\n")
    said = decode_said(put) if put else NOTHING_SAID
    return Claimed(
        id, queue, payload, said.codec, msgspec.json.decode(said.headers), int(priority or 0),
        int(failures or 0), int(crashes or 0), said.max_attempts, float(keep) if keep else None, token,
    )  # fmt: skip


def fields_of(flat: Sequence[bytes]) -> dict[str, bytes]:
    """A hash, from names and values in turn."""
    return {flat[n].decode(): flat[n + 1] for n in range(0, len(flat), 2)}


def record_of(id: str, fields: Mapping[str, bytes]) -> Record:
    """Everything that a hash tells of an event."""
    said = decode_said(fields["put"]) if "put" in fields else NOTHING_SAID
    limits, rates = decode_needs(fields["needs"]) if "needs" in fields else ([], [])
    failure = fields.get("failure")
    return Record(
        id=id, queue=fields["queue"].decode(), state=State(fields["state"].decode()), payload=fields["payload"],
        codec=said.codec, headers=msgspec.json.decode(said.headers), priority=int(fields.get("priority", 0)),
        created=ids.created_of(id), due=_number(fields, "due"), expires=_number(fields, "expires"),
        key=_text(fields, "key"), worker=_text(fields, "worker"), failures=int(fields.get("failures", 0)),
        crashes=int(fields.get("crashes", 0)), attempts=_attempts(fields), settled=_number(fields, "settled"),
        value=fields.get("value"), value_codec=_text(fields, "value_codec") or "json",
        failure=None if failure is None else decode_failure(failure), limits=dict(limits),
        rates={name: (places, seconds) for name, places, seconds in rates}, unique=_unique(fields),
        max_attempts=said.max_attempts, max_crashes=_whole(fields, "max_crashes"), keep=_number(fields, "keep"),
    )  # fmt: skip


def _attempts(fields: Mapping[str, bytes]) -> tuple[Attempt, ...]:
    lines = fields.get("attempts")
    attempts = () if lines is None else decode_attempts(b"[" + lines.replace(b"\n", b",") + b"]")
    if "worker" in fields:
        attempts = (*attempts, Attempt(fields["worker"].decode(), float(fields["started"])))[-20:]
    return attempts


def _number(fields: Mapping[str, bytes], name: str) -> float | None:
    return float(fields[name]) if name in fields else None


def _whole(fields: Mapping[str, bytes], name: str) -> int | None:
    return int(fields[name]) if name in fields else None


def _text(fields: Mapping[str, bytes], name: str) -> str | None:
    return fields[name].decode() if name in fields else None


def _unique(fields: Mapping[str, bytes]) -> str | float:
    said = fields.get("unique", b"open").decode()
    return said if said in ("open", "waiting") else float(said)


# ---------------------------------------------------------------- notes


def note_text(at: float, kind: str, data: bytes) -> bytes:
    """A note as it is kept: its number is its place."""
    return encode(Note(at, kind, msgspec.Raw(data)))


def notes_of(first: int, texts: Sequence[bytes]) -> list[Note]:
    """Notes, the first of which has this number."""
    return [msgspec.structs.replace(decode_note(text), number=first + n) for n, text in enumerate(texts)]


# ---------------------------------------------------------------- from another store


def copy_arguments(copy: Copy, now: float) -> list[Argument]:
    """An event of another store, as `restore` takes it."""
    record = restored(copy.record)
    fields = _copied_fields(record)
    if copy.notes:
        fields += (b"notes", copy.notes[-1].number or len(copy.notes))
    texts = [note_text(note.at, note.kind, bytes(note.data)) for note in copy.notes]
    holds, end = b"1" if holds_key(copy.record, now) else b"0", key_end(record)
    ends = b"" if end is None else number(end)
    return [record.id, record.queue, str(record.state), holds, ends, len(fields), *fields, len(texts), *texts]


def _copied_fields(record: Record) -> list[Argument]:
    options = options_of(record)
    fields: list[Argument] = [b"state", str(record.state), b"payload", record.payload]
    fields += put_fields(options, encode_headers(options))
    if record.key is not None:
        fields += (b"key", record.key, b"unique", unique_text(record.unique))
    if place_of(record.due or 0.0) > record.id[:16]:
        fields += (b"place", place_of(record.due or 0.0))
    for name, count in ((b"failures", record.failures), (b"crashes", record.crashes)):
        if count:
            fields += (name, count)
    if record.attempts:
        fields += (b"attempts", b"\n".join(map(encode, record.attempts)))
    if record.failure is not None:
        fields += (b"failure", encode(record.failure))
    if record.settled is not None:
        fields += (b"settled", number(record.settled))
    if record.value is not None:
        fields += (b"value", record.value, b"value_codec", record.value_codec)
    return fields


@functools.lru_cache(256)
def unique_text(unique: str | float) -> str:
    """The field `unique`."""
    return unique if isinstance(unique, str) else number(float(unique))
