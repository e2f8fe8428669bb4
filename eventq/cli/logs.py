"""`eventq logs`: what an event's runs have written."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from eventq import clock
from eventq.capture import OUTPUT
from eventq.cli.command import Command, CommandError, Exit, event_id, existing_store
from eventq.cli.console import json_text, printable, styled, timestamp
from eventq.handle import ended
from eventq.storage.base import LOOK_INTERVAL
from eventq.store import Store
from eventq.stream import NoteFeed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from eventq.model import Note


class Output(msgspec.Struct, frozen=True):
    """The data of a note of the kind `output`."""

    stream: str
    text: str


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", type=event_id, metavar="ID")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the event has ended")
    parser.add_argument("--stream", action="store_true", help="begin each line with stdout, stderr or log")
    parser.add_argument("--times", action="store_true", help="begin each line with the time at which it was kept")


class Lines:
    """Makes lines of pieces of text. A piece may end within a line, which goes on in the next one of its stream."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, str]] = {}

    def of(self, at: float, output: Output) -> Iterator[tuple[float, str, str]]:
        """(time, stream, line) of each line that ends in this piece."""
        since, begun = self._begun.pop(output.stream, (at, ""))
        *lines, rest = (begun + output.text).split("\n")
        for line in lines:
            yield since, output.stream, line
            since = at
        if rest:
            self._begun[output.stream] = since, rest

    def rest(self) -> Iterator[tuple[float, str, str]]:
        """What nobody has ended."""
        for stream, (since, line) in self._begun.items():
            yield since, stream, line
        self._begun.clear()


class Printer:
    """Prints notes as the options say."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._lines = Lines()

    def print(self, note: Note) -> None:
        """Print what a note holds, if it is output."""
        if note.kind != OUTPUT:
            return
        try:
            output = msgspec.json.decode(note.data, type=Output)
        except msgspec.MsgspecError as error:
            print(f"a note of this event is of the kind {OUTPUT!r}, but holds none ({error})", file=sys.stderr)
            return
        if self._args.json:
            line = {"at": timestamp(note.at), "stream": output.stream, "text": output.text}
            print(json_text(msgspec.json.encode(line)))
            return
        for each in self._lines.of(note.at, output):
            self._print_line(*each)

    def end(self) -> None:
        """Print lines that have no end."""
        for each in self._lines.rest():
            self._print_line(*each)

    def missed(self, count: int) -> None:
        """Say that notes are missing here."""
        if count:
            notes = "1 note" if count == 1 else f"{count:,} notes"
            print(f"{notes} before this: too many to be kept", file=sys.stderr)

    def _print_line(self, at: float, stream: str, line: str) -> None:
        before = ""
        if self._args.times:
            moment = clock.aware(at).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            before += styled(moment, "dim") + "  "
        if self._args.stream:
            word = f"{printable(stream):<6}"
            before += (styled(word, "red") if stream == "stderr" else word) + "  "
        print(before + printable(line.removesuffix("\r").expandtabs()))


def _run(args: argparse.Namespace) -> int:
    with existing_store(args) as storage:
        store, feed, printer = Store(storage), NoteFeed(storage, args.id), Printer(args)
        record = storage.get(args.id)
        notes = feed.new()
        if record is None and not notes:
            raise CommandError(f"no event {args.id}: it ended without a record, or was pruned")
        while True:
            printer.missed(feed.missed)
            for note in notes:
                printer.print(note)
            if not args.follow or ended(record, store):
                break
            sys.stdout.flush()
            clock.sleep(LOOK_INTERVAL)
            record = storage.get(args.id)  # before the notes: of an event that has ended they are complete
            notes = feed.new()
        printer.end()
    return Exit.OK


COMMANDS = {
    "logs": Command(
        _options,
        _run,
        "Print what the runs of an event have written: print, sys.stdout, sys.stderr and log records of\n"
        "its task, in the order in which they were kept. All attempts are there, as long as they fit (about\n"
        "1 MiB an event, 256 KiB of one run). Output is kept at the latest at the next write after half a\n"
        "second, and when the run ends.\n\n"
        "With -f it goes on, looking four times a second, until the event has ended. --json prints JSON lines.\n"
        "Exit code 1 if there is no such event.",
    ),
}
