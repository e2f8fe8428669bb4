"""The command `eventq`: look at a store, feed it, work it and keep it well, from a shell.

`main` reads the global options, finds the command and imports only that command's module, so that a one-line
`eventq put` does not pay for the others.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import sys
from typing import TYPE_CHECKING

from eventq.cli.command import Command, CommandError, Exit, add_global_options, exit_code
from eventq.errors import EventqError

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "start here": {
        "demo": ("demo", "run a real job on three processes, kill one, lose nothing (about 6 s)"),
        "put": ("put", "put an event, or one per line of stdin, into a queue"),
        "work": ("work", "run a shell command for each event of a queue"),
        "worker": ("worker", "run the tasks of a Python app"),
        "call": ("call", "enqueue a call of a task by its name"),
    },
    "look": {
        "status": ("queues", "count the events of each queue by state"),
        "list": ("events", "list the events of a queue"),
        "show": ("events", "show everything known of one event"),
        "why": ("why", "explain why an event does not run, or how it ended"),
        "result": ("results", "wait for the result of an event and print it"),
        "wait": ("results", "wait until events have ended"),
        "logs": ("logs", "print what the runs of an event have written"),
        "tail": ("tail", "follow what arrives in a queue and how it ends"),
        "workers": ("queues", "list the living workers and what they hold"),
        "schedules": ("schedules", "list what runs at given times; add, pause, resume, run, remove"),
        "notifications": ("notifications", "list what a user was told, and mark it as read"),
        "jobs": ("jobs", "list staged jobs; show, start, abort, restart, enable, disable, reset, remove"),
        "runs": ("runs", "list the runs of workflows; show, draw, cancel and resume them"),
    },
    "change": {
        "retry": ("edits", "run dead, expired, cancelled or completed events again"),
        "cancel": ("edits", "cancel waiting events, ask the workers of running ones"),
        "move": ("edits", "move waiting events to another queue"),
        "purge": ("edits", "delete the events of a queue"),
        "pause": ("queues", "stop all workers from claiming from a queue"),
        "resume": ("queues", "end a pause"),
        "disable": ("tasks", "switch a task off, for all workers; list those that are off"),
        "enable": ("tasks", "switch a task on again"),
        "prune": ("queues", "remove ended events that are past their retention"),
    },
    "care": {
        "doctor": ("doctor", "test what this machine and file system promise to a store"),
        "fsck": ("doctor", "check every file of a store against the protocol"),
        "export": ("transfer", "write events as JSON lines"),
        "import": ("transfer", "put exported events into a store"),
        "copy": ("copy", "move a live store to another storage, and verify it"),
        "migrate": ("migrate", "make or migrate the tables of a store in a database"),
        "bench": ("bench", "measure this machine's store"),
        "version": ("version", "print the versions in use"),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}

EXIT_TABLE = """\
exit codes:
    0  done
    1  it failed, or there was nothing to find (no such store, queue, event; a finding of doctor or fsck)
    2  wrong use: an unknown option, a payload that is not JSON, a setting that cannot be
    3  the storage failed
  124  the time to wait was over (call, result, wait)
  130  interrupted (Ctrl-C), or stopped by force
  141  the reader of the output went away (`eventq list q | head -1`)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a payload must not fail for the terminal's encoding
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _complain("interrupted", Exit.INTERRUPTED)
    except BrokenPipeError:
        return _reader_left()
    except CommandError as error:
        return _complain(str(error), error.code)
    except EventqError as error:
        return _complain(str(error) or type(error).__name__, exit_code(error))
    except OSError as error:
        return _complain(str(error), Exit.FAILED)
    except SystemExit as end:  # argparse has printed its message or its help
        return end.code if isinstance(end.code, int) else Exit.OK


def _dispatch(arguments: list[str]) -> int:
    top = _top_parser()
    first = top.parse_args(arguments)
    if not first.command:
        top.print_help()
        return Exit.OK
    name, rest = first.command[0], first.command[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        top.error(f"no command {name!r}{hint} ('eventq --help' lists them)")
    command = load(name)
    parser = command_parser(name, command)
    namespace = argparse.Namespace(store=first.store, json=first.json)
    return command.run(parser.parse_intermixed_args(rest, namespace))  # `put q --text hello` as well


def load(name: str) -> Command:
    """A command, from its module."""
    module = importlib.import_module(f"eventq.cli.{COMMANDS[name][0]}")
    commands: dict[str, Command] = module.COMMANDS
    return commands[name]


def command_parser(name: str, command: Command) -> argparse.ArgumentParser:
    """The parser of one command; `--store` and `--json` may stand before or after the command's name."""
    parser = argparse.ArgumentParser(
        prog=f"eventq {name}",
        description=command.description,
        epilog=command.epilog or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviation that works today is another option's name tomorrow
    )
    command.options(parser)
    add_global_options(parser)
    return parser


def _top_parser() -> argparse.ArgumentParser:
    listing = "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {name:<13} {text}" for name, (_, text) in group.items())
        for title, group in GROUPS.items()
    )
    parser = argparse.ArgumentParser(
        prog="eventq",
        usage="eventq [--store URL] [--json] COMMAND ...",
        description="eventq: the SQLite of queues. A directory, no server.",
        epilog=f"{listing}\n\n'eventq COMMAND --help' explains a command.\n\n{EXIT_TABLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_global_options(parser, defaults=True)
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _version() -> str:
    from eventq import __version__

    return f"eventq {__version__}"


def _complain(message: str, code: int) -> int:
    from eventq.cli.console import printable

    try:
        print(f"eventq: {printable(message)}", file=sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    return code


def _reader_left() -> int:
    """End silently: what is still buffered has no reader, and the interpreter must not try again at its exit."""
    sys.stdout = io.StringIO()
    return Exit.PIPE
