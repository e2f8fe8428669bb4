"""`eventq schedules`: list the schedules of a store, and add, pause, resume, run and remove them."""

from __future__ import annotations

import argparse
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msgspec import structs

from eventq import clock
from eventq.cli.call import _app_of, _call, _keyword
from eventq.cli.command import Command, CommandError, Exit, count, existing_store, instant, seconds, usage
from eventq.cli.console import duration, print_json, print_table, printable, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from eventq.app import App
    from eventq.schedule import Schedule

ACTIONS = ("list", "add", "pause", "resume", "run", "remove")
ADDING = (
    "cron", "tz", "every", "at", "missed", "missed_limit", "grace", "overlap", "kw", "json_args", "app", "queue",
    "priority", "expires",
)  # fmt: skip
"""What goes with `add` alone."""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("name", nargs="?", metavar="NAME", help="the schedule (not with list)")
    parser.add_argument("task", nargs="?", metavar="TASK", help="add: its name, such as shop.thumbnail")
    parser.add_argument("arguments", nargs="*", metavar="ARG", help="add: JSON if it is JSON, else text")
    group = parser.add_argument_group("with add")
    group.add_argument("--cron", metavar="EXPR", help="minute, hour, day, month, weekday: '0 3 * * *'")
    group.add_argument("--tz", metavar="ZONE", help="of the cron expression: Europe/Berlin (default: UTC)")
    group.add_argument("--every", type=seconds, metavar="TIME", help="instead of --cron: every 0.5 (seconds), 10m, 2h")
    group.add_argument("--at", type=_future, metavar="WHEN", help="or once: 2026-01-31T12:00Z, or 10m (from now)")
    group.add_argument(
        "--missed", choices=("skip", "once", "all"), help="what becomes of runs that were missed (default: once)"
    )
    group.add_argument("--missed-limit", type=count, metavar="N", help="with all: the last N of them (100)")
    group.add_argument("--grace", type=seconds, metavar="TIME", help="a run is missed that comes later than this")
    group.add_argument(
        "--no-overlap", dest="overlap", action="store_const", const=False, help="no run while the last one is open"
    )
    group.add_argument("--kw", type=_keyword, action="append", default=[], metavar="NAME=VALUE", help="by name")
    group.add_argument("--json-args", metavar="JSON", help="further arguments: an array, or by name in an object")
    group.add_argument("--app", metavar="APP", help="shop:app, as for 'eventq worker': checks the arguments")
    group.add_argument("--queue", metavar="QUEUE", help="default: what the task says, else 'default'")
    group.add_argument("--priority", type=int, metavar="N", help="-100 to 100; higher first")
    group.add_argument("--expires", type=seconds, metavar="TIME", help="a run that is not started within 10s, ...")


def _future(text: str) -> float:
    """An instant: ISO 8601 (local time if it has no zone), or a duration from now on."""
    try:
        return clock.SYSTEM.now() + seconds(text)
    except argparse.ArgumentTypeError:
        return instant(text)


def _run(args: argparse.Namespace) -> int:
    if args.action != "add" and (args.task is not None or any(getattr(args, n) not in (None, []) for n in ADDING)):
        usage(f"{args.action} takes nothing but a name; a task, its arguments and the options go with add")
    if args.action == "list":
        return _list(args)
    if args.name is None:
        usage(f"which one? write: eventq schedules {args.action} NAME")
    if args.action == "add":
        return _add(args)
    with _existing_app(args) as app:
        return _change(app, args)


@contextmanager
def _existing_app(args: argparse.Namespace) -> Iterator[App]:
    from eventq.app import App

    with existing_store(args) as storage, App(storage=storage) as app:
        yield app


# ---- list


def _list(args: argparse.Namespace) -> int:
    with _existing_app(args) as app:
        found = [each for each in app.schedules.all() if args.name in (None, each.name)]
    if args.name is not None and not found:
        raise CommandError(f"there is no schedule {args.name!r}")
    if args.json:
        print_json([_document(each) for each in found])
        return Exit.OK
    if not found:
        print("no schedules")
        return Exit.OK
    rows = [
        [each.name, each.workflow or each.task, _when(each), _next(each), _local(each.last), _outcome(each)]
        for each in found
    ]
    print_table(["NAME", "TASK", "WHEN", "NEXT", "LAST", "OUTCOME"], rows)
    return Exit.OK


def _when(schedule: Schedule) -> str:
    if schedule.cron is not None:
        return schedule.cron if schedule.tz == "UTC" else f"{schedule.cron} ({schedule.tz})"
    return f"every {schedule.every:g}s" if schedule.every is not None else f"at {_local(schedule.at)}"


def _next(schedule: Schedule) -> str:
    if schedule.paused:
        return "paused"
    if schedule.next is None:
        return "-"
    return f"{_local(schedule.next)} (in {duration(schedule.next.timestamp() - clock.SYSTEM.now())})"


def _local(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _outcome(schedule: Schedule) -> str:
    if schedule.last_id is None:
        return "-"
    return f"{schedule.last_state or 'ended'} {schedule.last_id}"


def _document(schedule: Schedule) -> dict[str, Any]:
    times = {
        name: None if value is None else timestamp(value.timestamp())
        for name, value in (("at", schedule.at), ("next", schedule.next), ("last", schedule.last))
    }
    return {**structs.asdict(schedule), **times}


# ---- add


def _add(args: argparse.Namespace) -> int:
    if args.task is None:
        usage("add takes a task: eventq schedules add NAME TASK [ARG ...] --cron '0 3 * * *'")
    said = {name: getattr(args, name) for name in ADDING[:8] if getattr(args, name) is not None}
    if args.at is not None:
        said["at"] = clock.aware(args.at)
    options = {name: getattr(args, name) for name in ("queue", "priority", "expires")}
    with _app_of(args) as app:
        if args.app and args.task not in app.tasks:
            known = ", ".join(sorted(app.tasks)) or "none"
            usage(f"{args.app} has no task {args.task!r}; there are: {known}")
        task = app.task_named(args.task, **{name: value for name, value in options.items() if value is not None})
        call = _call(task, args)
        added = app.schedules.add(args.name, task, *call.args, kwargs=call.kwargs, **said)
    if args.json:
        print_json(_document(added))
    else:
        print(f"{printable(args.name)} runs {printable(args.task)} {_when(added)}; next: {_next(added)}")
    return Exit.OK


# ---- pause, resume, run, remove


def _change(app: App, args: argparse.Namespace) -> int:
    name, shown = args.name, printable(args.name)
    if args.action == "run":
        id = app.schedules.run(name).id
        if args.json:
            print_json({"name": name, "id": id})
        else:
            print(id)
        return Exit.OK
    if args.action == "remove":
        if not app.schedules.remove(name):
            raise CommandError(f"there is no schedule {name!r}; 'eventq schedules' lists them")
    elif args.action == "pause":
        app.schedules.pause(name)
    else:
        app.schedules.resume(name)
    if args.json:
        print_json({"name": name, args.action: True})
    else:
        print(f"{shown} is {DONE[args.action]}")
    return Exit.OK


DONE = {
    "pause": "paused until 'eventq schedules resume'; what was put already runs",
    "resume": "not paused",
    "remove": "removed; what was put already runs",
}


COMMANDS = {
    "schedules": Command(
        _options,
        _run,
        "List the schedules of a store: when each is due, and what has become of its last run. The other actions\n"
        "change them, for all workers and for good: add (or change one of that name), pause, resume, run (now; prints\n"
        "the id of the event), remove. What a program declares by app.schedule() is stored when its worker starts;\n"
        "what is changed here stays until the program declares something else, and what is removed comes back.\n"
        "The task's code is not needed; with --app it is imported, and checks the arguments.",
        "examples:\n"
        "  eventq schedules add covers shop.thumbnail cover.png --cron '0 3 * * *' --tz Europe/Berlin\n"
        "  eventq schedules add prices shop.fetch eur --every 10m --no-overlap --app shop:app\n"
        "  eventq schedules pause covers\n"
        "  eventq logs -f $(eventq schedules run covers)\n"
        "  eventq schedules --json | jq -r '.[] | select(.paused).name'",
    )
}
