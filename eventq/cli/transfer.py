"""`eventq export` and `import`: events as JSON lines."""

from __future__ import annotations

import base64
import binascii
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from eventq.cli.command import (
    STATE_NAMES,
    Command,
    CommandError,
    Exit,
    add_filters,
    existing_store,
    filter_of,
    require_queue,
    store_url,
    usage,
)
from eventq.cli.console import Progress, json_text, print_json
from eventq.cli.record import document, scan
from eventq.model import MAX_PLACES, MAX_SECONDS, OPEN_STATES, AtLeastOne, PutOptions, Seconds, State
from eventq.storage import open_storage

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from eventq.storage.base import Storage

Places = Annotated[int, msgspec.Meta(ge=1, le=MAX_PLACES)]
Period = Annotated[float, msgspec.Meta(gt=0, le=MAX_SECONDS)]

BATCH_EVENTS = 1000
BATCH_BYTES = 4 << 20


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queues", nargs="*", metavar="QUEUE", help="only these queues (default: all)")
    parser.add_argument(
        "--state",
        action="append",
        choices=STATE_NAMES,
        help="only this state; may be repeated (default: all)",
    )
    add_filters(parser)


def _export(args: argparse.Namespace) -> int:
    states = [state for state in State if args.state is None or state.value in args.state]
    done = 0
    progress = Progress("exported")
    with existing_store(args) as storage:
        for queue in [require_queue(storage, name) for name in args.queues] or storage.queues():
            for record in scan(storage, queue, states, filter_of(args)):
                print(json_text(msgspec.json.encode(document(record))))
                done += 1
                progress.at(done, queue)
    progress.close()
    print(f"exported {done:,} events", file=sys.stderr)
    return Exit.OK if done else Exit.FAILED


class Line(msgspec.Struct, frozen=True):
    """What `import` reads of an exported line; the rest (id, attempts, result) belongs to the old store."""

    queue: str
    state: State = State.READY
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payload_codec: str = "json"
    payload_base64: str = ""
    priority: int = 0
    due: datetime | None = None
    expires: datetime | None = None
    headers: dict[str, Any] = {}
    key: str | None = None
    limits: dict[str, Places] = {}
    rates: dict[str, tuple[Places, Period]] = {}
    unique: Literal["open", "waiting"] | Period = "open"
    max_attempts: AtLeastOne | None = None
    max_crashes: AtLeastOne | None = None
    keep: Seconds | None = None


class Arrival(NamedTuple):
    """An event to put."""

    queue: str
    payload: bytes
    options: PutOptions


def _import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="what 'eventq export' wrote (default: stdin)")
    parser.add_argument(
        "--state",
        action="append",
        choices=STATE_NAMES,
        help="events that were in this state; may be repeated (default: ready, delayed and claimed)",
    )
    parser.add_argument("--to", metavar="QUEUE", help="put them all into this queue")


def _import(args: argparse.Namespace) -> int:
    if args.file is None:
        return _import_lines(sys.stdin.buffer, args)
    try:
        with open(args.file, "rb") as file:
            return _import_lines(file, args)
    except OSError as error:
        raise CommandError(f"cannot read {args.file}: {error.strerror}") from error


def _import_lines(lines: Iterable[bytes], args: argparse.Namespace) -> int:
    wanted = {State(name) for name in args.state} if args.state else set(OPEN_STATES)
    counts = {"imported": 0, "skipped": 0, "held_keys": 0}
    progress = Progress("imported")
    try:
        with open_storage(store_url(args)) as storage:
            for batch in _batches(_arrivals(lines, wanted, args.to, counts)):
                _put(storage, batch, counts)
                progress.at(counts["imported"])
    except CommandError as error:
        raise CommandError(f"{error} [{counts['imported']:,} events were imported before]", error.code) from error
    finally:
        progress.close()
    if args.json:
        print_json(counts)
    else:
        print(f"imported {counts['imported']:,} events under new ids")
        if counts["skipped"]:
            print(f"skipped {counts['skipped']:,} in other states (--state chooses)", file=sys.stderr)
        if counts["held_keys"]:
            print(f"left out {counts['held_keys']:,} whose key an open event holds here", file=sys.stderr)
    return Exit.OK if counts["imported"] else Exit.FAILED


def _arrivals(lines: Iterable[bytes], wanted: set[State], to: str | None, counts: dict[str, int]) -> Iterator[Arrival]:
    decoder = msgspec.json.Decoder(Line)
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = decoder.decode(text)
            arrival = _arrival(line, to)
        except (ValueError, RecursionError, binascii.Error) as error:
            usage(f"line {number} is not an exported event: {error}")
        if line.state in wanted:
            yield arrival
        else:
            counts["skipped"] += 1


def _arrival(line: Line, to: str | None) -> Arrival:
    if isinstance(line.payload, msgspec.UnsetType):
        payload = base64.b64decode(line.payload_base64, validate=True)
    else:
        payload = bytes(line.payload)
        msgspec.json.decode(payload)  # raw parts were only skipped over so far
    open_as_delayed = line.state is State.DELAYED
    options = PutOptions(
        codec=line.payload_codec,
        priority=line.priority,
        due=line.due.timestamp() if line.due and open_as_delayed else None,
        expires=line.expires.timestamp() if line.expires and line.state in OPEN_STATES else None,
        headers=line.headers,
        key=line.key,
        limits=line.limits,
        rates=line.rates,
        unique=line.unique,
        max_attempts=line.max_attempts,
        max_crashes=line.max_crashes,
        keep=line.keep,
    )
    return Arrival(to or line.queue, payload, options)


def _batches(arrivals: Iterator[Arrival]) -> Iterator[list[Arrival]]:
    """Neighbours that can be put together: same queue, same options, no key."""
    batch: list[Arrival] = []
    size = 0
    for arrival in arrivals:
        fits = (
            batch
            and arrival.queue == batch[0].queue
            and arrival.options == batch[0].options
            and arrival.options.key is None
            and len(batch) < BATCH_EVENTS
            and size + len(arrival.payload) < BATCH_BYTES
        )
        if batch and not fits:
            yield batch
            batch, size = [], 0
        batch.append(arrival)
        size += len(arrival.payload)
    if batch:
        yield batch


def _put(storage: Storage, batch: list[Arrival], counts: dict[str, int]) -> None:
    queue, payload, options = batch[0]
    if options.key is None:
        storage.put(queue, [arrival.payload for arrival in batch], options)
        counts["imported"] += len(batch)
        return
    _, new = storage.put_key(queue, payload, options)
    counts["imported" if new else "held_keys"] += 1


COMMANDS = {
    "export": Command(
        _export_options,
        _export,
        "Write events as JSON lines, each with everything known of it: state, headers, priority, due time,\n"
        "attempts, result. Nothing is claimed or changed. Events that change state meanwhile may be\n"
        "missing or appear twice; for an exact copy pause the queues and stop the workers.",
        "example:\n  eventq --store old export | eventq --store new import",
    ),
    "import": Command(
        _import_options,
        _import,
        "Put exported events into a store, under new ids, with their queue, payload, headers, priority,\n"
        "key, limits, rates, due time, expiry and numbers of attempts. Claimed ones become ready. Attempts and\n"
        "results stay behind: an ended event is put only when --state names its state, and then it waits to run again.",
    ),
}
