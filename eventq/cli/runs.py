"""`eventq runs`: list the runs of workflows in a store, show one, draw it, cancel and resume it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventq.cli.command import Command, CommandError, Exit, existing_store, usage
from eventq.cli.console import duration, print_json, print_table, printable
from eventq.clock import SYSTEM
from eventq.errors import EventqError, UnknownEvent
from eventq.model import State

if TYPE_CHECKING:
    import argparse

    from eventq.model import Progress
    from eventq.workflow import Run, RunSummary

ACTIONS = ("list", "show", "follow", "mermaid", "svg", "cancel", "resume")


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("id", nargs="?", metavar="ID", help="the run (not with list)")
    parser.add_argument("--all", action="store_true", help="list: also the runs that are steps of others")
    parser.add_argument("--reason", metavar="TEXT", help="cancel: why, for those who wait")


def _run(args: argparse.Namespace) -> int:
    from eventq.app import App

    if args.reason is not None and args.action != "cancel":
        usage("--reason goes with cancel")
    if args.all and args.action != "list":
        usage("--all goes with list")
    if (args.action == "list") is not (args.id is None):
        usage("list takes no id" if args.id else f"which one? write: eventq runs {args.action} ID")
    with existing_store(args) as storage, App(storage=storage) as app:
        if args.action == "list":
            return _list(app.workflows.summaries(), args)
        try:
            return _act(app.workflows.run(args.id), args)
        except UnknownEvent as error:
            raise CommandError(str(error)) from error


def _act(run: Run, args: argparse.Namespace) -> int:
    if args.action in ("mermaid", "svg"):
        return _draw(run, args.action, args.json)
    if args.action == "follow":
        return _follow(run, args.json)
    if args.action == "show":
        return _show(run, args.json)
    done = run.cancel(args.reason or "") if args.action == "cancel" else run.resume()
    if not done:
        raise CommandError(f"run {run.id} is {run.status()}; {TOO_LATE[args.action]}")
    if args.json:
        print_json({"id": run.id, args.action: True})
    else:
        print(f"{run.id} {DONE[args.action]}")
    return Exit.OK


def _draw(run: Run, kind: str, as_json: bool) -> int:
    text = run.svg() if kind == "svg" else run.mermaid()
    if as_json:
        print_json({"id": run.id, kind: text})
        return Exit.OK
    for line in text.splitlines():
        print(printable(line))
    return Exit.OK


def _follow(run: Run, as_json: bool) -> int:
    """Say what changes, until the run has ended; the exit code says how."""
    for change in run.follow():
        if as_json:
            print_json(change)
        else:
            print(printable(" ".join(filter(None, (change.name, change.state, _said(change.progress))))), flush=True)
    return Exit.OK if run.status() == State.COMPLETED else Exit.FAILED


def _said(progress: Progress | None) -> str:
    """How far a step is, in words."""
    if progress is None:
        return ""
    share = f"{progress.done:g}" if progress.total is None else f"{progress.done:g}/{progress.total:g}"
    return f"{share} {progress.note}".rstrip()


TOO_LATE = {"cancel": "it is too late to cancel it", "resume": "only one that failed or was cancelled can be resumed"}
DONE = {"cancel": "is being cancelled: what waits never runs, what runs was asked to end", "resume": "goes on"}


def _list(runs: list[RunSummary], args: argparse.Namespace) -> int:
    found = [_document(each) for each in runs if args.all or each.parent is None]
    if args.json:
        print_json(found)
        return Exit.OK
    if not found:
        print("no runs")
        return Exit.OK
    rows = [[each["id"], each["name"], each["status"], str(each["steps"]), duration(each["age"])] for each in found]
    print_table(["ID", "WORKFLOW", "STATUS", "STEPS", "AGE"], rows)
    return Exit.OK


def _document(run: RunSummary) -> dict[str, Any]:
    about: dict[str, Any] = {"id": run.id, "name": run.name, "status": run.status, "steps": run.steps}
    within = {} if run.parent is None else {"parent": run.parent, "step": run.step}
    return {**about, "age": max(0.0, SYSTEM.now() - run.created), **within}


def _show(run: Run, as_json: bool) -> int:
    from eventq.workflow.graph import Graph

    definition, states = run.definition(), run.states()
    tasks = {name: node.runs for name, node in Graph(definition).nodes.items()}
    ids = run.ids()
    error: EventqError | None = run.exception()
    steps = [
        {"name": name, "task": tasks[name], "state": state, "event": ids.get(name)} for name, state in states.items()
    ]
    if as_json:
        said = None if error is None else str(error)
        about = {"id": run.id, "name": definition.name, "status": run.status(), "error": said}
        print_json({**about, "steps": steps})
        return Exit.OK
    print(f"{printable(definition.name)}: {run.status()}")
    if error is not None:
        print(printable(str(error).partition("\n")[0]))
    rows = [[each["name"], each["task"], each["state"], each["event"] or "-"] for each in steps]
    print_table(["STEP", "TASK", "STATE", "EVENT"], rows)
    return Exit.OK


COMMANDS = {
    "runs": Command(
        _options,
        _run,
        "List the runs of workflows in a store, and how they stand. The other actions are for one run: show\n"
        "(each step with its task, state and event), follow (each change of a step as it comes, until the run has\n"
        "ended; 1 if it did not complete), mermaid and svg (the graph with its states, as text or as a picture),\n"
        "cancel, and resume (one that failed or was cancelled: what is completed stays, the rest runs again). The\n"
        "code of the tasks is not needed.",
        "examples:\n"
        "  eventq runs\n"
        "  eventq runs show ID\n"
        "  eventq runs mermaid ID > run.mmd\n"
        "  eventq runs svg ID > run.svg\n"
        "  eventq runs --json | jq -r '.[] | select(.status == \"dead\").id' | xargs -n1 eventq runs resume",
    )
}
