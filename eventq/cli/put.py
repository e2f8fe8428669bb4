"""`eventq put`: one event, or one for each line of standard input."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventq.cli.command import (
    Command,
    CommandError,
    Exit,
    count,
    exit_code,
    header,
    opened_app,
    seconds,
    stdin_lines,
    usage,
)
from eventq.cli.console import Progress, print_json
from eventq.errors import EventqError
from eventq.model import MAX_PLACES, MAX_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_EVENTS = 1000
CHUNK_BYTES = 4 << 20


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument("payload", nargs="?", metavar="PAYLOAD", help="JSON (default: read from stdin)")
    parser.add_argument("--text", action="store_true", help="the payload is text, not JSON; it becomes a JSON string")
    parser.add_argument("--lines", action="store_true", help="one event for each line of stdin")
    parser.add_argument("--delay", type=seconds, metavar="TIME", help="not before 5 (seconds), 10m, 2h, ...")
    parser.add_argument("--priority", type=int, default=0, metavar="N", help="-100 to 100; higher first (default 0)")
    parser.add_argument("--key", metavar="K", help="put nothing if an open event has this key; prints that one's id")
    parser.add_argument(
        "--throttle",
        type=seconds,
        metavar="TIME",
        help="with --key: put nothing if the key was put within 10s, 5m, ...; prints that one's id",
    )
    parser.add_argument(
        "--debounce",
        type=seconds,
        metavar="TIME",
        help="with --key: cancel the one of this key that waits, and wait until none came for 2s, 1m, ...",
    )
    parser.add_argument(
        "--debounce-max", type=seconds, metavar="TIME", help="... but no longer than 30s, 10m, ... after the first"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="TIME",
        help="how long to wait for room in a queue with a maxsize (default: until there is some; 0: not at all)",
    )
    parser.add_argument(
        "--expires",
        type=seconds,
        metavar="TIME",
        help="if not started within 10s, 5m, ... (after its delay), it expires",
    )
    parser.add_argument(
        "--header", type=header, action="append", default=[], metavar="K=V", help="a header (K:=V: V is JSON)"
    )
    parser.add_argument(
        "--limit", type=_limit, action="append", default=[], metavar="NAME=N",
        help="run only while fewer than N events with this limit do; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--rate", type=_rate, action="append", default=[], metavar="NAME=N/TIME",
        help="start at most N events with this rate within 60 (seconds), 10m, 2h, ...; may be repeated",
    )  # fmt: skip


def _limit(text: str) -> tuple[str, int]:
    """A limit: `NAME=N`."""
    name, _, number = text.rpartition("=")
    if not name or not 1 <= count(number) <= MAX_PLACES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a limit; write NAME=N, with N from 1 to {MAX_PLACES}")
    return name, count(number)


def _rate(text: str) -> tuple[str, tuple[int, float]]:
    """A rate: `NAME=N/TIME`."""
    name, _, rate = text.rpartition("=")
    number, _, period = rate.partition("/")
    whole = name and number and period
    if not whole or not 1 <= count(number) <= MAX_PLACES or not 0 < seconds(period) <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a rate; write NAME=N/TIME, with N from 1 to {MAX_PLACES} and TIME as 60, 250ms or 10m"
        )
    return name, (count(number), seconds(period))


def _run(args: argparse.Namespace) -> int:
    options: dict[str, Any] = {
        "priority": args.priority, "delay": args.delay, "expires": args.expires, "timeout": args.timeout,
    }  # fmt: skip
    if args.header:
        options["headers"] = dict(args.header)
    if args.limit:
        options["limits"] = dict(args.limit)
    if args.rate:
        options["rates"] = dict(args.rate)
    keyed = {name: getattr(args, name) for name in ("key", "throttle", "debounce", "debounce_max")}
    if args.lines:
        if args.payload is not None:
            usage("--lines reads the payloads from stdin; leave PAYLOAD out")
        if any(value is not None for value in keyed.values()):
            usage("--key and what goes with it are for a single event; put keyed events one at a time")
        return _put_lines(args, options)
    if args.payload is None and sys.stdin.isatty():
        print("reading the payload from the terminal; Ctrl-D ends it", file=sys.stderr)
    # argv holds bytes that are no UTF-8 as surrogates: given back as they came, they fail as what they are
    data = sys.stdin.buffer.read() if args.payload is None else args.payload.encode("utf-8", "surrogateescape")
    payload = decoded(data, text=args.text, where="the payload")
    with opened_app(args) as app:
        id = app.queue(args.queue).put(payload, **keyed, **options)
    if args.json:
        print_json({"queue": args.queue, "id": id})
    else:
        print(id)
    return Exit.OK


def decoded(data: bytes, *, text: bool, where: str) -> Any:
    """A payload from outside; ends the command if it is not what it should be."""
    if text:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            usage(f"{where} is not UTF-8 text ({error})")
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        shown = data[:40].decode(errors="replace") + ("..." if len(data) > 40 else "")
        usage(f"{where} is not JSON: {shown!r} ({error}); --text puts it as it is")


class Lines(NamedTuple):
    """A chunk of decoded lines, and how many lines of the input it ends at."""

    payloads: list[Any]
    number: int


def _chunks(*, text: bool, most: int) -> Iterator[Lines]:
    payloads: list[Any] = []
    size = number = 0
    for number, line in enumerate(stdin_lines(), start=1):
        line = line.rstrip(b"\r\n")
        if not line and not text:
            continue  # a blank line is no JSON, and a file often ends with one
        payloads.append(decoded(line, text=text, where=f"line {number}"))
        size += len(line)
        if len(payloads) >= most or size >= CHUNK_BYTES:
            yield Lines(payloads, number)
            payloads, size = [], 0
    if payloads:
        yield Lines(payloads, number)


def _put_lines(args: argparse.Namespace, options: dict[str, Any]) -> int:
    first = last = None
    done = through = 0
    progress = Progress("put")
    try:
        with opened_app(args) as app:
            queue = app.queue(args.queue)
            most = min(CHUNK_EVENTS, queue.settings().maxsize or CHUNK_EVENTS)
            for chunk in _chunks(text=args.text, most=most):
                ids = queue.put_many(chunk.payloads, **options)
                first = first or ids[0]
                last = ids[-1]
                done += len(ids)
                through = chunk.number
                progress.at(done)
    except (CommandError, EventqError) as error:
        code = error.code if isinstance(error, CommandError) else exit_code(error)
        raise CommandError(f"{error} [{done:,} events were put, from lines 1 to {through}]", code) from error
    finally:
        progress.close()
    if args.json:
        print_json({"queue": args.queue, "put": done, "first": first, "last": last})
    else:
        print(f"put {done:,} events")
    return Exit.OK


COMMANDS = {
    "put": Command(
        _options,
        _run,
        "Put an event into a queue and print its id. When the command returns, the event is on the disk.\n"
        "The payload is JSON, from the command line or from stdin. With --lines every line of stdin is an\n"
        f"event; they are put in chunks of up to {CHUNK_EVENTS:,}, each wholly or not at all. If a queue with a\n"
        "maxsize has no room in time, the exit code is 1.",
        "examples:\n"
        "  eventq put orders '{\"id\": 42}' --delay 10m\n"
        "  eventq put index '\"page 7\"' --key page-7 --debounce 2s --debounce-max 30s\n"
        '  eventq put mails \'{"to": "ann"}\' --limit smtp=5 --rate smtp=100/60\n'
        "  echo hello | eventq put greetings --text\n"
        "  eventq put orders --lines < orders.jsonl",
    )
}
