"""`eventq disable` and `enable`: switch tasks off and on again, for all workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventq import disabled
from eventq.cli.command import Command, CommandError, Exit, existing_store, usage
from eventq.cli.console import print_json, print_table, printable, timestamp

if TYPE_CHECKING:
    import argparse

    from eventq.disabled import DisabledTask


def _disable_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", nargs="?", metavar="TASK", help="its name, such as shop.thumbnail; without: list")
    parser.add_argument("--reason", metavar="TEXT", help="why, for those who ask")
    parser.add_argument("--by", metavar="NAME", help="who (default: this process and its machine)")


def _disable(args: argparse.Namespace) -> int:
    if args.task is None and (args.reason is not None or args.by is not None):
        usage("--reason and --by go with a task: eventq disable TASK --reason TEXT")
    with existing_store(args) as storage:
        if args.task is None:
            return _list(disabled.disabled(storage), args.json)
        fresh = disabled.disable(storage, args.task, args.reason or "", args.by)
    if args.json:
        print_json({"task": args.task, "disabled": True, "was_disabled": not fresh})
    else:
        print(f"{printable(args.task)} {OFF if fresh else 'was off before, and stays so'}")
    return Exit.OK


OFF = "is off until 'eventq enable': its calls wait, what runs goes on"


def _list(found: list[DisabledTask], as_json: bool) -> int:
    if as_json:
        print_json([_document(each) for each in found])
    elif not found:
        print("no task is off")
    else:
        rows = [
            [each.task, each.since.astimezone().strftime("%Y-%m-%d %H:%M:%S"), each.by, each.reason or "-"]
            for each in found
        ]
        print_table(["TASK", "SINCE", "BY", "REASON"], rows)
    return Exit.OK


def _document(each: DisabledTask) -> dict[str, Any]:
    since = timestamp(each.since.timestamp())
    return {"task": each.task, "since": since, "by": each.by, "reason": each.reason}


def _enable_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK", help="its name, such as shop.thumbnail")


def _enable(args: argparse.Namespace) -> int:
    with existing_store(args) as storage:
        if not disabled.enable(storage, args.task):
            raise CommandError(f"the task {args.task!r} is not off; 'eventq disable' lists those that are")
    if args.json:
        print_json({"task": args.task, "disabled": False})
    else:
        print(f"{printable(args.task)} is on; the calls that waited come back by themselves")
    return Exit.OK


COMMANDS = {
    "disable": Command(
        _disable_options,
        _disable,
        "Switch a task off for all workers, until 'eventq enable': none starts it, also not to try it again, and no\n"
        "schedule puts runs of it. Workers know within a quarter of a second; what runs goes on. Calls are stored as\n"
        "ever, and wait. The code of the task is not needed, and its name is not checked. Without a task, list those\n"
        "that are off.",
        "examples:\n"
        "  eventq disable shop.mail --reason 'the server is being moved' --by ada\n"
        "  eventq disable --json | jq -r '.[].task' | xargs -n1 eventq enable",
    ),
    "enable": Command(
        _enable_options,
        _enable,
        "Switch a task on again that was switched off by 'eventq disable', or by a program. The calls that waited\n"
        "come back by themselves: the first within two seconds, then 100 a second for each worker that has held\n"
        "them.",
        "examples:\n  eventq enable shop.mail\n\nexit codes: 0 done; 1 it was not off.",
    ),
}
