"""`eventq tail`: follow a queue.

It looks at the store four times a second and never waits on the queue's watch: whoever waits there takes wakes
that are meant for a worker.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from eventq import clock
from eventq.cli.command import Command, Exit, count, existing_store, require_queue, seconds
from eventq.cli.console import json_text, shortened, styled, timestamp
from eventq.cli.record import STATE_STYLES, data_text, document, failure_text, scan
from eventq.ids import created_of
from eventq.model import FINAL_STATES, OPEN_STATES, Filter, Record
from eventq.storage.base import LOOK_INTERVAL

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from eventq.storage.base import Storage

OVERLAP = 2.0
"""Seconds by which one look reaches back behind the last: puts under way and clocks differ by less."""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument("--for", dest="period", type=seconds, metavar="TIME", help="stop after 10s, 5m, ...")
    parser.add_argument("--count", type=count, metavar="N", help="stop after so many lines")


class Follower:
    """Finds out what changed in a queue since the last look."""

    def __init__(self, storage: Storage, queue: str) -> None:
        self._storage = storage
        self._queue = queue
        self._open = {record.id for record in scan(storage, queue, OPEN_STATES, Filter())}
        self._since = clock.SYSTEM.now()
        self._known = set(self._open)
        self._known.update(
            record.id for record in scan(storage, queue, FINAL_STATES, Filter(created_from=self._since - OVERLAP))
        )

    def look(self) -> Iterator[tuple[str, str, Record | None]]:
        """(what, id, record) of each change: `put`, then the state an event ended in, or `gone`."""
        now = clock.SYSTEM.now()
        still = {record.id: record for record in scan(self._storage, self._queue, OPEN_STATES, Filter())}
        recent = Filter(created_from=self._since - OVERLAP)
        for id, record in still.items():
            if id not in self._known:
                yield "put", id, record
        for record in scan(self._storage, self._queue, FINAL_STATES, recent):
            if record.id not in self._known and record.id not in still:
                yield "put", record.id, record
                yield record.state.value, record.id, record
                self._known.add(record.id)
        for id in sorted(self._open - still.keys()):
            ended = self._storage.get(id)
            if ended is None or ended.queue != self._queue:
                yield "gone", id, ended
            elif ended.state in FINAL_STATES:
                yield ended.state.value, id, ended
            else:  # between two states while the scan passed: still open
                still[id] = ended
        self._known = {id for id in self._known if created_of(id) >= now - 2 * OVERLAP} | still.keys()
        self._open = set(still)
        self._since = now


def _run(args: argparse.Namespace) -> int:
    with existing_store(args) as storage:
        follower = Follower(storage, require_queue(storage, args.queue))
        deadline = None if args.period is None else clock.SYSTEM.monotonic() + args.period
        left = args.count
        print(f"following {shortened(args.queue, 60)} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        while deadline is None or clock.SYSTEM.monotonic() < deadline:
            for what, id, record in follower.look():
                if left is not None:
                    if left <= 0:
                        return Exit.OK
                    left -= 1
                _print(what, id, record, args.json)
            sys.stdout.flush()
            if left == 0:
                return Exit.OK
            clock.sleep(LOOK_INTERVAL)
    return Exit.OK


def _print(what: str, id: str, record: Record | None, as_json: bool) -> None:
    now = clock.SYSTEM.now()
    if as_json:
        line = {"at": timestamp(now), "what": what, "id": id, "event": document(record) if record else None}
        print(json_text(msgspec.json.encode(line)))
        return
    text = ""
    if record is not None and what == "put":
        text = data_text(record.payload, record.codec)
    elif record is not None and record.failure is not None:
        text = failure_text(record.failure)
    elif record is not None and record.value is not None:
        text = data_text(record.value, record.value_codec)
    moment = clock.aware(now).astimezone().strftime("%H:%M:%S")
    style = STATE_STYLES.get(record.state) if record and what == record.state.value else None
    word = f"{what:<9}"
    print(f"{moment}  {styled(word, style) if style else word}  {id}  {shortened(text, 80)}".rstrip())


COMMANDS = {
    "tail": Command(
        _options,
        _run,
        "Follow a queue: one line for each event that is put, and one when it ends, with its payload,\n"
        "result or error. It looks four times a second, at the open events and the recent ends:\n\n"
        "  put        the event arrived\n"
        "  completed, dead, expired, cancelled\n"
        "             it ended like this\n"
        "  gone       it ended without a record (completed without a result), was deleted, or was moved\n\n"
        "An event that arrives and ends without a record between two looks is not shown. --json prints JSON\n"
        "lines.",
    ),
}
