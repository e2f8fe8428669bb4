"""`eventq call`: enqueue a call of a task, by its name."""

from __future__ import annotations

import argparse
import math
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.arguments import Call
from eventq.cli.command import Command, Exit, header, opened_app, seconds, usage
from eventq.cli.console import print_json, printable
from eventq.cli.put import decoded
from eventq.cli.results import print_result, warnings_shown
from eventq.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.app import App
    from eventq.task import Task

SCALARS = (bool, int, float, type(None))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK", help="its name, such as shop.thumbnail")
    parser.add_argument("arguments", nargs="*", metavar="ARG", help="JSON if it is JSON, else text")
    parser.add_argument("--kw", type=_keyword, action="append", default=[], metavar="NAME=VALUE", help="by name")
    parser.add_argument("--json-args", metavar="JSON", help="further arguments: an array, or by name in an object")
    parser.add_argument("--app", metavar="APP", help="shop:app, as for 'eventq worker': checks the arguments")
    parser.add_argument("--queue", metavar="QUEUE", help="default: what the task says, else 'default'")
    parser.add_argument(
        "--worker", metavar="ID", help="only this worker runs it; cancelled if that goes before the end"
    )
    parser.add_argument("--broadcast", action="store_true", help="every living worker that knows the task runs it")
    parser.add_argument("--priority", type=int, metavar="N", help="-100 to 100; higher first")
    parser.add_argument("--delay", type=seconds, metavar="TIME", help="not before 5 (seconds), 10m, 2h, ...")
    parser.add_argument("--expires", type=seconds, metavar="TIME", help="unless started within 10s, ..., it expires")
    parser.add_argument("--key", metavar="K", help="put nothing if an open event has this key; prints that one's id")
    parser.add_argument(
        "--header", type=header, action="append", default=[], metavar="K=V", help="a header (K:=V: V is JSON)"
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        nargs="?",
        const=math.inf,
        metavar="TIME",
        help="wait for the result and print it, instead of the id; with a time, no longer than that",
    )


def _keyword(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is no argument by name; write NAME=VALUE")
    return name, value


def _run(args: argparse.Namespace) -> int:
    if args.broadcast and (args.wait is not None or args.worker or args.queue):
        usage("--broadcast goes to all workers, and puts several events; leave --worker, --queue and --wait out")
    options = {name: getattr(args, name) for name in ("queue", "worker", "priority", "delay", "expires", "key")}
    options = {name: value for name, value in options.items() if value is not None}
    if args.header:
        options["headers"] = dict(args.header)
    with warnings_shown(), _app_of(args) as app:
        if args.app and args.task not in app.tasks:
            known = ", ".join(sorted(app.tasks)) or "none"
            usage(f"{args.app} has no task {args.task!r}; there are: {known}")
        task = app.task_named(args.task, **options)
        call = _call(task, args)
        if args.broadcast:
            return _broadcast(task, call, args)
        id = task.put(call.args, call.kwargs)
        if args.wait is not None:
            return print_result(app.handle(id), args.wait)
    if args.json:
        print_json({"queue": task.options.queue, "id": id})
    else:
        print(id)
    return Exit.OK


def _broadcast(task: Task[..., Any], call: Call, args: argparse.Namespace) -> int:
    """Print the ids of the events, one a line."""
    ids = [handle.id for handle in task.broadcast(*call.args, **call.kwargs)]
    if args.json:
        print_json({"ids": ids})
    elif ids:
        print("\n".join(ids))
    else:
        print(f"no living worker knows the task {printable(task.name)}", file=sys.stderr)
    return Exit.OK if ids else Exit.FAILED


@contextmanager
def _app_of(args: argparse.Namespace) -> Iterator[App]:
    """The app that was named; else one that knows no tasks."""
    if args.app is None:
        with opened_app(args) as app:
            yield app
    else:
        from eventq.cli.apps import loaded_app

        with loaded_app(args, args.app) as app:
            yield app


# ---------------------------------------------------------------- the arguments


def _call(task: Task[..., Any], args: argparse.Namespace) -> Call:
    texts = Call(task.name, list(args.arguments), dict(args.kw))
    call = Call(task.name, [_value(text) for text in texts.args], {k: _value(text) for k, text in texts.kwargs.items()})
    for each in (call, texts):
        _add_json(each, args.json_args)
    if task.arguments is not None:
        call = _fitting(task, call, _scalars_as_text(call, texts))
    return call


def _value(text: str) -> Any:
    """What was typed: JSON if it is, else text."""
    try:
        return msgspec.json.decode(text.encode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return text


def _add_json(call: Call, text: str | None) -> None:
    if text is None:
        return
    more = decoded(text.encode("utf-8", "surrogateescape"), text=False, where="--json-args")
    if isinstance(more, list):
        call.args.extend(more)
    elif isinstance(more, dict):
        call.kwargs.update(more)
    else:
        usage("--json-args takes an array, or an object with arguments by name")


def _scalars_as_text(call: Call, texts: Call) -> Call:
    """The call with numbers and the like as they were typed: a text that looks like a number is one, if the function
    wants a text."""
    args = [text if isinstance(value, SCALARS) else value for value, text in zip(call.args, texts.args, strict=True)]
    kwargs = {name: texts.kwargs[name] if isinstance(value, SCALARS) else value for name, value in call.kwargs.items()}
    return Call(call.task, args, kwargs)


def _fitting(task: Task[..., Any], *calls: Call) -> Call:
    """The first of the calls that the function takes, with the arguments by its hints."""
    arguments, store = task.arguments, task.app.store
    assert arguments is not None
    errors: list[Exception] = []
    for call in calls:
        try:
            found: Call = store.load(arguments.pack_text(call.args, call.kwargs), store.codec.name, Call)
            return found
        except (TypeError, PayloadError) as error:
            errors.append(error)
    return usage(f"{errors[0]}; the task is {task.name}{arguments.signature}")


COMMANDS = {
    "call": Command(
        _options,
        _run,
        "Enqueue a call of a task and print the id of its event; a worker that knows the task runs it. The task's\n"
        "code is not needed here, and nothing is checked. With --app it is imported: arguments are checked by the\n"
        "function's signature, and converted to what it takes; and the options said in the code hold.",
        "examples:\n"
        "  eventq call shop.thumbnail cat.png 64\n"
        "  eventq call shop.thumbnail --kw path=cat.png --kw width=64 --delay 10m --key cat\n"
        '  eventq call shop.order --json-args \'[{"id": 42, "items": [1, 2]}]\'\n'
        "  eventq call shop.total 3 4 --app shop:app --wait 30\n"
        "  eventq call shop.forget_prices --broadcast\n\n"
        "exit codes: 0 it is stored; 1 no such worker is there, or with --broadcast none that knows the task; 2 the\n"
        "function cannot be called so (with --app); with --wait those of 'eventq result'.",
    )
}
