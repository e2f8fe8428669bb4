"""What every command shares: its shape, the exit codes, the global options, how it opens the store."""

from __future__ import annotations

import argparse
import enum
import math
import sys
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec

from eventq import clock
from eventq.errors import ConfigError, EventqError, MissingExtra, PayloadError, StorageError
from eventq.ids import is_event_id
from eventq.model import Filter, State
from eventq.storage import DEFAULT_URL, open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.app import App
    from eventq.storage.base import Storage

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Exit(enum.IntEnum):
    """The exit codes of `eventq`; `eventq --help` prints the table."""

    OK = 0
    FAILED = 1
    USAGE = 2
    STORAGE = 3
    TIMEOUT = 124
    INTERRUPTED = 130
    PIPE = 141


class Command(NamedTuple):
    """One command: adds its options to a parser, and runs with what was parsed."""

    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    description: str
    epilog: str = ""


class CommandError(Exception):
    """Ends a command with one line on stderr and an exit code."""

    def __init__(self, message: str, code: int = Exit.FAILED) -> None:
        super().__init__(message)
        self.code: int = code


def usage(message: str) -> NoReturn:
    """End the command for wrong use."""
    raise CommandError(message, Exit.USAGE)


def exit_code(error: EventqError) -> int:
    """The exit code that an error of eventq leads to."""
    if isinstance(error, StorageError):
        return Exit.STORAGE
    if isinstance(error, ConfigError | PayloadError | MissingExtra):
        return Exit.USAGE
    return Exit.FAILED


# ---- options


def add_global_options(parser: argparse.ArgumentParser, *, defaults: bool = False) -> None:
    """`--store` and `--json`; without defaults they leave alone what stood before the command's name."""
    parser.add_argument(
        "--store",
        metavar="URL",
        default=None if defaults else argparse.SUPPRESS,
        help=f"the store: a path, file:///path, or another URL (default: $EVENTQ_URL, pyproject.toml, ./{DEFAULT_URL})",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        default=False if defaults else argparse.SUPPRESS,
        help="print JSON instead of text",
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """The options that choose among the events of a queue; `filter_of` reads them."""
    group = parser.add_argument_group("filters")
    group.add_argument("--since", type=instant, metavar="WHEN", help="put at or after: 2026-01-31T12:00Z, or 10m (ago)")
    group.add_argument("--until", type=instant, metavar="WHEN", help="put before")
    group.add_argument(
        "--header",
        type=header,
        action="append",
        default=[],
        metavar="K=V",
        help="with this header (K:=V: V is JSON)",
    )
    group.add_argument("--worker", metavar="ID", help="held, or last attempted, by this worker")
    group.add_argument("--settled-since", type=instant, metavar="WHEN", help="ended at or after")
    group.add_argument("--settled-until", type=instant, metavar="WHEN", help="ended before")
    group.add_argument("--slower-than", type=seconds, metavar="S", help="whose last attempt took so long, or longer")
    group.add_argument("--faster-than", type=seconds, metavar="S", help="whose last attempt took less")
    group.add_argument("--exit-code", type=int, choices=(0, 1, 130), help="0 completed, 1 failed, 130 aborted")


def filter_of(args: argparse.Namespace) -> Filter:
    """The filter that the options of `add_filters` describe."""
    return Filter(
        created_from=args.since,
        created_to=args.until,
        headers=dict(args.header),
        worker=args.worker,
        settled_from=args.settled_since,
        settled_to=args.settled_until,
        run_time_from=args.slower_than,
        run_time_to=args.faster_than,
        exit_code=args.exit_code,
    )


def seconds(text: str) -> float:
    """A duration: `5`, `0.5`, `250ms`, `10m`, `2h`, `7d`."""
    number = text.rstrip("dhms")
    unit = text[len(number) :] or "s"
    known = unit in UNITS and number.isascii() and number.replace(".", "", 1).isdigit()
    value = float(number) * UNITS[unit] if known else math.inf
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write seconds, or 250ms, 10m, 2h, 7d")
    return value


def instant(text: str) -> float:
    """An instant: ISO 8601 (local time if it has no zone), or a duration before now."""
    try:
        return clock.SYSTEM.now() - seconds(text)
    except argparse.ArgumentTypeError:
        pass  # not a duration: read as a date below, whose error names both forms
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a time such as 2026-01-31T12:00Z nor an age such as 10m"
        ) from error


def header(text: str) -> tuple[str, Any]:
    """A header: `K=text`, or `K:=JSON`."""
    name, separator, value = text.partition("=")
    if not separator or not name.rstrip(":"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a header; write NAME=TEXT, or NAME:=JSON")
    if not name.endswith(":"):
        return name, value
    try:
        return name[:-1], msgspec.json.decode(value)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"the value of {text!r} is not JSON ({error}); write NAME=TEXT") from error


def count(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def event_id(text: str) -> str:
    """An event id, by its form."""
    if not is_event_id(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an event id; 'eventq list QUEUE' shows them")
    return text


STATE_NAMES = [str(state) for state in State]


# ---- the store


def store_url(args: argparse.Namespace) -> str:
    """The URL of the store that this command works on."""
    if args.store:
        return str(args.store)
    from eventq.sources import read_config

    return read_config().url


def store_path(url: str) -> str | None:
    """The directory of a file store, or None for another kind of store."""
    from eventq.storage import file_path

    scheme, separator, _ = url.partition("://")
    return file_path(url) if not separator or scheme == "file" else None


def require_store(url: str) -> None:
    """End the command if a store of files does not exist; looking must not make one."""
    if url.startswith("sqlite://"):
        from eventq.storage.sql.sqlite.url import file_of

        path, exists = file_of(url)
    else:
        folder = store_path(url)
        if folder is None:
            return
        from eventq.storage.file.probe import is_store

        path, exists = folder, is_store(folder)
    if not exists:
        raise CommandError(f"there is no store at {path}; 'eventq put QUEUE PAYLOAD' makes one, --store names another")


@contextmanager
def existing_store(args: argparse.Namespace) -> Iterator[Storage]:
    """The store, opened; ends the command with exit code 1 if it does not exist."""
    url = store_url(args)
    require_store(url)
    with open_storage(url) as storage:
        yield storage


@contextmanager
def opened_app(args: argparse.Namespace) -> Iterator[App]:
    """The store as an `App`, made if need be."""
    from eventq.app import App

    with App(store_url(args)) as app:
        yield app


def require_queue(storage: Storage, name: str) -> str:
    """The queue's name; ends the command with exit code 1 if the store has no such queue."""
    queues = storage.queues()
    if name not in queues:
        known = ", ".join(queues[:10]) + (", ..." if len(queues) > 10 else "")
        raise CommandError(f"no queue named {name!r}; " + (f"there are: {known}" if queues else "the store has none"))
    return name


def stdin_lines() -> Iterator[bytes]:
    """The lines of standard input, as bytes."""
    yield from sys.stdin.buffer
