"""`eventq notifications`: list what a user was told, and mark it as read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import structs

from eventq.cli.command import Command, CommandError, Exit, count, event_id, existing_store, usage
from eventq.cli.console import print_json, print_table, shortened, timestamp

if TYPE_CHECKING:
    import argparse

    from eventq.notifications import Notification, Notifications

WIDTH = 80
"""Characters of a message that are shown in the table."""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("user", metavar="USER", help="whose")
    parser.add_argument("--unread", action="store_true", help="only what is not marked as read")
    parser.add_argument("--limit", type=count, metavar="N", help="at most so many, the newest (default: 50)")
    marking = parser.add_mutually_exclusive_group()
    marking.add_argument("--read", type=event_id, nargs="+", metavar="ID", help="mark these as read, and list nothing")
    marking.add_argument("--read-all", action="store_true", help="likewise, all that are there now")


def _run(args: argparse.Namespace) -> int:
    from eventq.app import App

    if (args.read or args.read_all) and (args.unread or args.limit is not None):
        usage("--read and --read-all list nothing; leave --unread and --limit out")
    if args.limit == 0:
        usage("--limit 0 would list nothing; give at least 1")
    with existing_store(args) as storage, App(storage=storage) as app:
        if args.read or args.read_all:
            return _mark(app.notifications, args)
        found = app.notifications.list(args.user, unread=True if args.unread else None, limit=args.limit or 50)
    if args.json:
        print_json([_document(each) for each in found])
    elif not found:
        print("no unread notifications" if args.unread else "no notifications")
    else:
        rows = [["" if each.read_at else "*", _local(each), each.id, shortened(each.message, WIDTH)] for each in found]
        print_table(["NEW", "AT", "ID", "MESSAGE"], rows)
    return Exit.OK


def _mark(notifications: Notifications, args: argparse.Namespace) -> int:
    number = notifications.read_all(args.user) if args.read_all else notifications.read(args.user, *args.read)
    if args.read and not number:
        raise CommandError(f"none of these is an unread notification of {args.user!r}")
    if args.json:
        print_json({"user": args.user, "read": number})
    else:
        print(f"{number} marked as read")
    return Exit.OK


def _local(each: Notification) -> str:
    return each.at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _document(each: Notification) -> dict[str, Any]:
    read_at = None if each.read_at is None else timestamp(each.read_at.timestamp())
    return {**structs.asdict(each), "at": timestamp(each.at.timestamp()), "read_at": read_at}


COMMANDS = {
    "notifications": Command(
        _options,
        _run,
        "List what a user was told, the newest first: how the calls and runs have ended that have notify='USER', and\n"
        "what programs have put. With --read or --read-all nothing is listed, but marked as read; it stays for\n"
        "14 days then, and what is unread for 30 days.",
        "examples:\n"
        "  eventq notifications ada --unread\n"
        "  eventq notifications ada --read ID\n"
        "  eventq notifications ada --json | jq -r '.[] | select(.status == \"dead\").error.message'\n\n"
        "exit codes: 0 done, also if there is nothing to list; 1 none of the ids given to --read is an unread\n"
        "notification of the user.",
    )
}
