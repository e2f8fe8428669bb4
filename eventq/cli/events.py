"""`eventq list` and `show`: events without claiming them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from eventq.cli.command import (
    STATE_NAMES,
    Command,
    CommandError,
    Exit,
    add_filters,
    count,
    event_id,
    existing_store,
    filter_of,
    require_queue,
    usage,
)
from eventq.cli.console import print_json, print_table, shortened
from eventq.cli.record import data_text, document, note_document, print_record, row
from eventq.model import Filter, Record, State

if TYPE_CHECKING:
    import argparse

    from eventq.storage.base import Storage

EVERYTHING = 1 << 62
PAYLOAD_WIDTH = 60


def _list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument(
        "--state",
        action="append",
        choices=STATE_NAMES,
        help="only this state; may be repeated (default: all)",
    )
    parser.add_argument("--limit", type=count, default=50, metavar="N", help="at most so many (default 50; 0: all)")
    parser.add_argument("--cursor", metavar="C", help="go on where a list ended: the cursor that it printed")
    add_filters(parser)


def _list(args: argparse.Namespace) -> int:
    states = [state for state in State if args.state is None or state.value in args.state]
    with existing_store(args) as storage:
        queue = require_queue(storage, args.queue)
        limit = args.limit or EVERYTHING
        records, cursor = page(storage, queue, states, filter_of(args), args.cursor, limit)
    if args.json:
        print_json({"events": [document(record) for record in records], "cursor": cursor})
    elif records:
        rows = [[*row(record), shortened(data_text(record.payload, record.codec), PAYLOAD_WIDTH)] for record in records]
        print_table(["ID", "STATE", "AGE", "PRIORITY", "ATTEMPTS", "PAYLOAD"], rows, right=(2, 3, 4))
        if cursor is not None:
            print(f"more: --cursor {cursor}", file=sys.stderr)
    else:
        print("no such events", file=sys.stderr)
    return Exit.OK if records else Exit.FAILED


def page(
    storage: Storage, queue: str, states: list[State], filter: Filter, cursor: str | None, limit: int
) -> tuple[list[Record], str | None]:
    """Up to `limit` records over several states, and where to go on: `<state>:<the storage's own cursor>`."""
    start, inner = _parse_cursor(cursor, states)
    found: list[Record] = []
    for number in range(start, len(states)):
        while True:
            if len(found) >= limit:
                return found, f"{states[number].value}:{inner or ''}"
            part = storage.scan(queue, states[number], filter, inner, min(limit - len(found), 500))
            found += part.records
            inner = part.cursor
            if inner is None:
                break
    return found, None


def _parse_cursor(cursor: str | None, states: list[State]) -> tuple[int, str | None]:
    if cursor is None:
        return 0, None
    name, separator, inner = cursor.partition(":")
    names = [state.value for state in states]
    if not separator or name not in names:
        usage(f"{cursor!r} is not a cursor of this list; use the printed one, with the same --state")
    return names.index(name), inner or None


def _show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", type=event_id, metavar="ID")


def _show(args: argparse.Namespace) -> int:
    with existing_store(args) as storage:
        record = storage.get(args.id)
        if record is None:
            raise CommandError(f"no event {args.id}: it ended without a record, or was pruned")
        notes = storage.notes(args.id)
    if args.json:
        print_json({**document(record), "notes": [note_document(note) for note in notes]})
    else:
        print_record(record, notes)
    return Exit.OK


COMMANDS = {
    "list": Command(
        _list_options,
        _list,
        "List the events of a queue without claiming them, by state and then by id (which is by time).\n"
        "Exit code 1 if there are none.",
    ),
    "show": Command(
        _show_options,
        _show,
        "Show everything known of one event: payload, headers, every attempt with its worker and error,\n"
        "result, notes.",
    ),
}
