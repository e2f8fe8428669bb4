"""A record as JSON, for programs, and as text, for people. One form for all commands."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec

from eventq import clock
from eventq.cli.console import duration, json_text, printable, styled, timestamp
from eventq.model import Attempt, Failure, Filter, Note, Record, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from eventq.storage.base import Storage

PAGE = 500
STATE_STYLES = {State.CLAIMED: "yellow", State.COMPLETED: "green", State.DEAD: "red"}


def scan(storage: Storage, queue: str, states: Iterable[State], filter: Filter) -> Iterator[Record]:
    """Every record of a queue in the given states, a page at a time."""
    for state in states:
        cursor: str | None = None
        while True:
            page = storage.scan(queue, state, filter, cursor, PAGE)
            yield from page.records
            cursor = page.cursor
            if cursor is None:
                break


def data_document(name: str, data: bytes, codec: str) -> dict[str, Any]:
    """A payload or value: JSON under its name, anything else as `<name>_codec` and `<name>_base64`."""
    if codec == "json" and _is_json(data):
        return {name: msgspec.Raw(data)}
    return {f"{name}_codec": codec, f"{name}_base64": base64.b64encode(data).decode()}


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return False
    return True


def document(record: Record) -> dict[str, Any]:
    """A record for `--json` and `export`: absent fields are left out, times are ISO 8601 in UTC."""
    found: dict[str, Any] = {
        "id": record.id,
        "queue": record.queue,
        "state": record.state.value,
        **data_document("payload", record.payload, record.codec),
        "priority": record.priority,
        "created": timestamp(record.created),
        "due": timestamp(record.due),
        "expires": timestamp(record.expires),
        "key": record.key,
        "unique": None if record.unique == "open" else record.unique,
        "max_attempts": record.max_attempts,
        "max_crashes": record.max_crashes,
        "keep": record.keep,
        "headers": record.headers or None,
        "limits": record.limits or None,
        "rates": record.rates or None,
        "worker": record.worker,
        "failures": record.failures,
        "crashes": record.crashes,
        "attempts": [_attempt_document(attempt) for attempt in record.attempts],
        "settled": timestamp(record.settled),
        "run_time": None if record.run_time is None else round(record.run_time, 6),
        "exit_code": record.exit_code,
        "failure": record.failure,
    }
    if record.value is not None:
        found |= data_document("value", record.value, record.value_codec)
    return {name: value for name, value in found.items() if value is not None}


def _attempt_document(attempt: Attempt) -> dict[str, Any]:
    found = {
        "worker": attempt.worker,
        "started": timestamp(attempt.started),
        "ended": timestamp(attempt.ended),
        "outcome": attempt.outcome,
        "error": attempt.error,
    }
    return {name: value for name, value in found.items() if value is not None}


def note_document(note: Note) -> dict[str, Any]:
    """A note for `--json`."""
    return {"at": timestamp(note.at), "kind": note.kind, "data": note.data}


def data_text(data: bytes, codec: str) -> str:
    """A payload or value on one line."""
    if codec == "json":
        try:
            return json_text(data)
        except UnicodeDecodeError:
            pass  # a record that something else wrote; shown like any other bytes
    return f"{codec}, {len(data):,} bytes"


def failure_text(failure: Failure | None) -> str:
    """Why it failed, on one line."""
    if failure is None:
        return ""
    return f"{failure.type}: {failure.message}" if failure.message else failure.type


def row(record: Record) -> list[str]:
    """The columns of `eventq list`, without the payload."""
    now = clock.SYSTEM.now()
    attempts = record.failures + record.crashes
    return [
        record.id,
        record.state.value,
        duration(now - record.created),
        str(record.priority),
        str(attempts),
    ]


def print_record(record: Record, notes: Sequence[Note]) -> None:
    """All of it, for `eventq show`."""
    now = clock.SYSTEM.now()
    print(styled(record.id, "bold"))
    _line("queue", record.queue)
    _line("state", record.state.value, STATE_STYLES.get(record.state))
    _line("created", _moment(record.created, now))
    _line("due", _moment(record.due, now))
    _line("expires", _moment(record.expires, now))
    _line("priority", str(record.priority) if record.priority else None)
    _line("key", record.key)
    for name, places in record.limits.items():
        _line("limit", f"{name} = {places}")
    for name, (number, period) in record.rates.items():
        _line("rate", f"{name} = {number} in {period:.10g}s")
    _line("worker", record.worker)
    for name, value in record.headers.items():
        _line("header", f"{name} = {json_text(msgspec.json.encode(value))}")
    _line("payload", data_text(record.payload, record.codec))
    _line("settled", _moment(record.settled, now))
    if record.value is not None:
        _line("value", data_text(record.value, record.value_codec))
    _line("reason" if record.settled else "failure", failure_text(record.failure) or None, "red")
    if record.failures or record.crashes:
        _line("attempts", f"{record.failures} failed, {record.crashes} crashed")
    for attempt in record.attempts:
        _print_attempt(attempt, now)
    for note in notes:
        _line(f"{note.kind}", json_text(bytes(note.data)))


def _print_attempt(attempt: Attempt, now: float) -> None:
    took = duration((now if attempt.ended is None else attempt.ended) - attempt.started)
    error = f"  {failure_text(attempt.error)}" if attempt.error else ""
    _line("attempt", f"{timestamp(attempt.started)}  {attempt.outcome} after {took}  by {attempt.worker}{error}")
    if attempt.error and attempt.error.traceback:
        for line in attempt.error.traceback.rstrip().splitlines():
            print(f"            {printable(line)}")


def _line(name: str, value: str | None, style: str | None = None) -> None:
    if value is not None:
        text = printable(value)
        print(f"  {printable(name):<8}  {styled(text, style) if style else text}")


def _moment(at: float | None, now: float) -> str | None:
    if at is None:
        return None
    distance = f"{duration(now - at)} ago" if at <= now else f"in {duration(at - now)}"
    return f"{timestamp(at) or at}  ({distance})"
