"""`eventq retry`, `cancel`, `move` and `purge`: change events that are not claimed."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from eventq.cli.command import (
    STATE_NAMES,
    Command,
    Exit,
    add_filters,
    count,
    event_id,
    existing_store,
    filter_of,
    require_queue,
    stdin_lines,
    usage,
)
from eventq.cli.console import Progress, print_json, printable
from eventq.cli.record import scan
from eventq.model import OPEN_STATES, Cancel, Delete, Edit, Move, Requeue, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.storage.base import Storage

BATCH = 500
REFUSED = ("unknown", "too late")


class Selection(NamedTuple):
    """Which events a command changes: given ids, or what a queue holds in some states."""

    queue: str | None
    ids: list[str]
    states: list[State]


def _selection_options(parser: argparse.ArgumentParser, states: str) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="event ids; '-' reads them from stdin, one a line")
    parser.add_argument("--queue", metavar="QUEUE", help="instead of ids: the events of this queue")
    parser.add_argument(
        "--state",
        action="append",
        choices=STATE_NAMES,
        help=f"with --queue: in this state (default: {states})",
    )
    _common_options(parser)


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=count, metavar="N", help="at most so many of the queue's events")
    parser.add_argument("--dry-run", action="store_true", help="only count them")
    add_filters(parser)


def _selected(args: argparse.Namespace, default: tuple[State, ...]) -> Selection:
    if args.queue is not None:
        if args.ids:
            usage("give event ids or --queue, not both")
        states = [State(name) for name in args.state] if args.state else list(default)
        return Selection(args.queue, [], states)
    if args.state or args.limit is not None or args.since or args.until or args.header or args.worker:
        usage("--state, --limit and the filters choose among the events of a queue; add --queue")
    ids = [event_id_or_stop(text) for text in _given_ids(args.ids)]
    if not ids:
        usage("which events? Give ids, or --queue QUEUE")
    return Selection(None, ids, [])


def _given_ids(texts: list[str]) -> Iterator[str]:
    for text in texts:
        if text == "-":
            yield from (line.decode(errors="replace").strip() for line in stdin_lines() if line.strip())
        else:
            yield text


def event_id_or_stop(text: str) -> str:
    """An event id, or the end of the command."""
    try:
        return event_id(text)
    except argparse.ArgumentTypeError as error:
        usage(str(error))


def _batches(storage: Storage, selection: Selection, args: argparse.Namespace) -> Iterator[list[str]]:
    """Ids in batches. Each is read before it is changed: what leaves a state does not disturb its scan."""
    if selection.queue is None:
        for start in range(0, len(selection.ids), BATCH):
            yield selection.ids[start : start + BATCH]
        return
    left = args.limit if args.limit is not None else 1 << 62
    batch: list[str] = []
    for record in scan(storage, selection.queue, selection.states, filter_of(args)):
        if left <= 0:
            break
        left -= 1
        batch.append(record.id)
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _apply(args: argparse.Namespace, selection: Selection, edit: Edit, verb: str) -> int:
    """Apply an edit and report it. Exit code 1 if it applied to none, or not to one of the given ids."""
    words: Counter[str] = Counter()
    changed: list[dict[str, str]] = []
    progress = Progress(verb)
    with existing_store(args) as storage:
        if selection.queue is not None:
            require_queue(storage, selection.queue)
        change = _changing(storage, edit)
        for batch in _batches(storage, selection, args):
            if args.dry_run:
                words["chosen"] += len(batch)
                continue
            for id, word in zip(batch, change(selection.queue, batch), strict=True):
                kind = verb if isinstance(edit, Requeue) and word not in REFUSED else word
                words[kind] += 1
                if selection.queue is None or kind == "requested":
                    changed.append({"id": id, "outcome": kind, **({"new_id": word} if kind != word else {})})
            progress.at(sum(words.values()))
    progress.close()
    _report(args, words, changed)
    refused = sum(words[word] for word in REFUSED)
    done = sum(words.values()) - refused
    return Exit.OK if done and not (refused and selection.queue is None) else Exit.FAILED


def _changing(storage: Storage, edit: Edit) -> Callable[[str | None, list[str]], list[str]]:
    """What applies an edit to events of a queue, or of whatever queues: a word for each."""
    if isinstance(edit, Cancel):
        from eventq.app import App

        store = App(storage=storage).store  # it knows which events stand for more: for runs of workflows
        return lambda queue, ids: store.cancel(queue, ids, edit.reason)
    return lambda queue, ids: storage.edit(queue, ids, edit)


def _report(args: argparse.Namespace, words: Counter[str], changed: list[dict[str, str]]) -> None:
    if args.json:
        print_json({"counts": dict(words), "events": changed, "dry_run": args.dry_run})
        return
    for entry in changed:
        new = entry.get("new_id", entry["id"])
        print(f"{entry['id']}  {entry['outcome']}" + (f" as {printable(new)}" if new != entry["id"] else ""))
    if not words:
        print("no such events")
    elif not changed or len(words) > 1:
        print(", ".join(f"{number:,} {word}" for word, number in sorted(words.items())))


# ---- the commands


def _retry_options(parser: argparse.ArgumentParser) -> None:
    _selection_options(parser, "dead")


def _retry(args: argparse.Namespace) -> int:
    return _apply(args, _selected(args, (State.DEAD,)), Requeue(), "requeued")


def _cancel_options(parser: argparse.ArgumentParser) -> None:
    _selection_options(parser, "ready, delayed and claimed")
    parser.add_argument("--reason", default="", metavar="TEXT", help="kept with the event")


def _cancel(args: argparse.Namespace) -> int:
    return _apply(args, _selected(args, OPEN_STATES), Cancel(args.reason), "cancelled")


def _move_options(parser: argparse.ArgumentParser) -> None:
    _selection_options(parser, "ready and delayed")
    parser.add_argument("--to", required=True, metavar="QUEUE", help="where they go")


def _move(args: argparse.Namespace) -> int:
    if args.queue == args.to:
        usage(f"--queue and --to are both {args.to!r}")
    return _apply(args, _selected(args, (State.READY, State.DELAYED)), Move(args.to), "moved")


def _purge_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queue", metavar="QUEUE")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--state", action="append", choices=STATE_NAMES, help="in this state; may be repeated")
    which.add_argument("--all", action="store_true", help="in every state but claimed")
    which.add_argument("--drop", action="store_true", help="everything, and the queue itself with its settings")
    _common_options(parser)


def _purge(args: argparse.Namespace) -> int:
    if args.drop:
        return _drop(args)
    states = [State(name) for name in args.state or STATE_NAMES]
    if not args.state:
        states.remove(State.CLAIMED)
    return _apply(args, Selection(args.queue, [], states), Delete(), "deleted")


def _drop(args: argparse.Namespace) -> int:
    if args.limit is not None or args.since or args.until or args.header or args.worker:
        usage("--drop removes the whole queue; use --all with --limit or filters")
    with existing_store(args) as storage:
        stats = storage.stats(require_queue(storage, args.queue))
        number = sum(getattr(stats, state.value) for state in State)
        if not args.dry_run:
            storage.drop(args.queue)
    if args.json:
        print_json({"counts": {"deleted": number}, "events": [], "dry_run": args.dry_run})
    else:
        print(f"{'would drop' if args.dry_run else 'dropped'} {printable(args.queue)} with {number:,} events")
    return Exit.OK


COMMANDS = {
    "retry": Command(
        _retry_options,
        _retry,
        "Run events again, with their counters reset: dead, expired and cancelled ones under their own id,\n"
        "delayed ones without their delay, completed ones as new events.",
        "examples:\n  eventq retry --queue orders\n  eventq retry --queue orders --state completed --since 2h",
    ),
    "cancel": Command(
        _cancel_options,
        _cancel,
        "End waiting events as cancelled. The worker of a claimed one is asked to stop ('requested'), and with the\n"
        "event of a run of a workflow the run is cancelled.",
    ),
    "move": Command(_move_options, _move, "Move waiting events to another queue; they keep their id and their age."),
    "purge": Command(
        _purge_options,
        _purge,
        "Delete events and their records for good. Claimed events stay.",
        "examples:\n  eventq purge orders --state dead\n  eventq purge orders --all --dry-run",
    ),
}
