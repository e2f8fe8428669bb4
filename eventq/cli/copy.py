"""`eventq copy`: a live store moves to another storage."""

from __future__ import annotations

import os.path
import shlex
from typing import TYPE_CHECKING

from eventq.cli.command import Command, CommandError, Exit, require_store, seconds, store_path, usage
from eventq.cli.compared import COMPARED, GROUPS
from eventq.cli.console import Progress, print_json, print_table, printable, timestamp
from eventq.cli.copying import copy_store
from eventq.config import masked
from eventq.storage import open_storage

if TYPE_CHECKING:
    import argparse

    from eventq.cli.copying import Report


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="the store to copy: a path, or a URL")
    parser.add_argument("target", metavar="DST", help="where to: a path, or a URL; made if need be")
    parser.add_argument(
        "--wait", type=seconds, default=30.0, metavar="TIME", help="for what runs in SRC to end (default: 30s)"
    )
    parser.add_argument(
        "--claimed", action="store_true", help="then copy as ready what still runs, which so runs in both"
    )
    parser.add_argument(
        "--restart", action="store_true", help="remove first what an unfinished copy of SRC has left in DST"
    )


def _copy(args: argparse.Namespace) -> int:
    if args.store is not None:
        usage("eventq copy is told both its stores: eventq copy SRC DST, without --store")
    source, target = args.source, args.target
    if _place(source) == _place(target):
        usage(f"{masked(source)} and {masked(target)} are the same store")
    require_store(source)
    report = _copied(args)
    if args.json:
        print_json({"source": masked(source), "target": masked(target), **_document(report)})
    elif report.done_before is not None:
        _tell_done_before(report, masked(source), masked(target))
    else:
        _tell(report, masked(source), masked(target))
    return Exit.FAILED if report.since else Exit.OK


def _copied(args: argparse.Namespace) -> Report:
    progress = Progress("copied")
    with open_storage(args.source) as source:
        if not source.queues() and not source.names():
            raise CommandError(f"the store {masked(args.source)} is empty; is it the one that you mean?")
        if args.target == "memory://":
            raise CommandError("memory:// is a store of this process alone, which ends with it")
        with open_storage(args.target) as target:
            try:
                return copy_store(
                    source, target, wait=args.wait, claimed=args.claimed, restart=args.restart, told=progress.at
                )
            finally:
                progress.close()


def _place(url: str) -> str:
    path = store_path(url)
    return url if path is None else os.path.abspath(path)


def _document(report: Report) -> dict[str, object]:
    return {
        "queues": report.queues,
        "copied": report.copied,
        "names": report.names,
        "passes": report.passes,
        "checksum": f"sha256:{report.checksum}" if report.checksum else None,
        "compared": COMPARED,
        "to_resume": report.to_resume,
        "done_before": timestamp(report.done_before),
        "since": report.since,
    }


def _tell(report: Report, source: str, target: str) -> None:
    if report.queues:
        rows = [[queue, *counts.values()] for queue, counts in report.queues.items()]
        print_table(["QUEUE", *(group.upper() for group in GROUPS)], rows, right=range(1, len(GROUPS) + 1))
    print(f"copied {report.copied:,} events and {report.names:,} names, and found both stores alike")
    print(f"sha256 of either: {report.checksum}")
    print(f"{printable(target)} is in use from now on; {printable(source)} stays paused, so that nothing runs twice.")
    if report.to_resume:
        print("Only if you go back to it:")
    for queue in report.to_resume:
        print(f"  eventq --store {_quoted(source)} resume {_quoted(queue)}")


def _tell_done_before(report: Report, source: str, target: str) -> None:
    print(f"{printable(source)} was copied to {printable(target)} at {timestamp(report.done_before)}; nothing was done")
    if report.since:
        print(f"since then {report.since:,} events or more were put into {printable(source)}; let their producers put "
              "into the other store, and bring these by:")  # fmt: skip
        print(
            f"  eventq --store {_quoted(source)} export --since {timestamp(report.done_before)} --state ready "
            f"--state delayed | eventq --store {_quoted(target)} import"
        )


def _quoted(text: str) -> str:
    return shlex.quote(printable(text))


COMMANDS = {
    "copy": Command(
        _options,
        _copy,
        "Move a live store to another storage: all events in whatever state, with their ids, places in the\n"
        "order, attempts, keys, results and notes; settings; and named claims (schedules are among these).\n"
        "\n"
        "SRC is paused; once nothing runs there its events are copied, in passes that compare both stores\n"
        "until nothing differs; only then may workers start what is in DST. Producers may go on to put into\n"
        "SRC meanwhile. In the end SRC stays paused: let producers and workers use DST. What is put into SRC\n"
        "after that stays there; the same command again says so, and how to bring it.\n"
        "\n"
        "If it fails (exit code 1) SRC goes on as before, and DST is not to be used; if it is killed SRC stays\n"
        "paused. Either way it may be repeated. Not copied: the inboxes of workers, which stay behind; keys\n"
        "held for a time whose events left no record; starts that count for rates; which workers skipped an\n"
        "event. A debounced event that waits holds its key until it is started.",
        "example:\n  eventq copy ./.eventq sqlite:///srv/shop.db",
    ),
}
