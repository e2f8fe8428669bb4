"""`eventq result` and `eventq wait`: what becomes of events."""

from __future__ import annotations

import logging
import math
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eventq import clock
from eventq.cli.command import (
    Command,
    CommandError,
    Exit,
    event_id,
    opened_app,
    require_store,
    seconds,
    store_url,
)
from eventq.cli.console import print_json, printable, styled
from eventq.cli.record import STATE_STYLES, failure_text
from eventq.errors import ResultTimeout, TaskFailed
from eventq.model import State

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from eventq.app import App
    from eventq.handle import Handle


@contextmanager
def existing_app(args: argparse.Namespace) -> Iterator[App]:
    """The store as an `App`, whose warnings are shown; ends the command with exit code 1 if it does not exist."""
    require_store(store_url(args))
    with warnings_shown(), opened_app(args) as app:
        yield app


@contextmanager
def warnings_shown() -> Iterator[None]:
    """What eventq warns of meanwhile goes to stderr: that nobody serves a queue, for one."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(Warned())
    root = logging.getLogger("eventq")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class Warned(logging.Formatter):
    """A warning in one line, as errors are shown."""

    def format(self, record: logging.LogRecord) -> str:
        return f"eventq: {printable(record.getMessage())}"


# ---------------------------------------------------------------- result


def _result_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", type=event_id, metavar="ID")
    parser.add_argument("--timeout", type=seconds, metavar="TIME", help="wait at most so long (default: for ever)")


def _result(args: argparse.Namespace) -> int:
    with existing_app(args) as app:
        return print_result(app.handle(args.id), args.timeout)


def print_result(handle: Handle[Any], timeout: float | None) -> int:
    """Print the result as JSON, or say on stderr why there is none; the exit code."""
    try:
        value = handle.result(timeout)
    except ResultTimeout as error:
        raise CommandError(str(error), Exit.TIMEOUT) from error
    except TaskFailed as error:
        _print_failure(error)
        return Exit.FAILED
    print_json(value)
    return Exit.OK


def _print_failure(error: TaskFailed) -> None:
    if error.failure is not None and error.failure.traceback:
        for line in error.failure.traceback.rstrip().splitlines():
            print(printable(line), file=sys.stderr)
    why = failure_text(error.failure) or "no reason was recorded"
    print(f"eventq: event {error.id} is a dead letter ({printable(why)})", file=sys.stderr)


# ---------------------------------------------------------------- wait


def _wait_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", type=event_id, metavar="ID")
    parser.add_argument("--timeout", type=seconds, metavar="TIME", help="wait at most so long for all of them")


def _wait(args: argparse.Namespace) -> int:
    deadline = math.inf if args.timeout is None else clock.SYSTEM.monotonic() + args.timeout
    ends: list[dict[str, str | None]] = []
    with existing_app(args) as app:
        for id in args.ids:
            left = None if deadline == math.inf else max(0.0, deadline - clock.SYSTEM.monotonic())
            ends.append({"id": id, "state": _end_of(app.handle(id), left)})
            if not args.json:
                _print_end(id, ends[-1]["state"])
    if args.json:
        print_json(ends)
    states = [end["state"] for end in ends]
    if any(state in OPEN_NAMES for state in states):
        return Exit.TIMEOUT
    return Exit.OK if all(state == State.COMPLETED for state in states) else Exit.FAILED


OPEN_NAMES = (State.READY.value, State.DELAYED.value, State.CLAIMED.value)


def _end_of(handle: Handle[Any], timeout: float | None) -> str | None:
    """The state in which the event has ended; or in which it is when the time is over. None: there is no record."""
    known = handle.status()
    handle.wait(timeout)
    state = handle.status()
    if state is None and known in OPEN_NAMES:
        return State.COMPLETED.value  # without a value, it leaves no record
    return None if state is None else state.value


def _print_end(id: str, state: str | None) -> None:
    if state is None:
        print(f"{id}  no record: completed without a result, deleted, pruned, or never put")
    else:
        style = STATE_STYLES.get(State(state))
        print(f"{id}  {styled(state, style) if style else state}", flush=True)


COMMANDS = {
    "result": Command(
        _result_options,
        _result,
        "Wait until an event has ended, and print its result as JSON. If it failed, the traceback of its last\n"
        "attempt goes to stderr. After three seconds without a live worker for its queue, stderr says so.",
        "examples:\n"
        "  eventq result 18ea0184bd2f4700714f1543ee2de643000001.00000 --timeout 30\n"
        "  eventq result $(eventq call shop.total 3 4)\n\n"
        "exit codes: 0 there is a result; 1 it failed, was cancelled, has expired, or no result is kept; 124 the\n"
        "time is over.",
    ),
    "wait": Command(
        _wait_options,
        _wait,
        "Wait until all of these events have ended, and print how each did.",
        "examples:\n"
        "  eventq wait $A $B --timeout 10m && echo both are done\n\n"
        "exit codes: 0 all are completed; 1 some ended otherwise, or there is no record of them; 124 the time is\n"
        "over.",
    ),
}
