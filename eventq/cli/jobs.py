"""`eventq jobs`: list the staged jobs of a store; show, start, restart, abort, enable, disable, reset, remove one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.cli.call import _keyword, _value
from eventq.cli.command import Command, CommandError, Exit, existing_store, usage
from eventq.cli.console import duration, print_json, print_table, printable, timestamp
from eventq.clock import SYSTEM
from eventq.errors import JobDisabled, JobRunning, UnknownJob

if TYPE_CHECKING:
    from datetime import datetime

    from eventq.app import App
    from eventq.job import JobStatus, StageReport

ACTIONS = ("list", "show", "start", "restart", "abort", "enable", "disable", "reset", "remove")


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("name", nargs="?", metavar="NAME", help="the job (not with list)")
    parser.add_argument("--user", metavar="USER", help="list: only the jobs of this user")
    parser.add_argument(
        "--kw",
        type=_keyword,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="start: a keyword, JSON if it is JSON",
    )
    parser.add_argument("--reason", metavar="TEXT", help="abort: why, for those who wait")


def _run(args: argparse.Namespace) -> int:
    from eventq.app import App

    for option, action in (("user", "list"), ("kw", "start"), ("reason", "abort")):
        if getattr(args, option) not in (None, []) and args.action != action:
            usage(f"--{option} goes with {action}")
    if (args.action == "list") is not (args.name is None):
        usage("list takes no name" if args.name else f"which one? write: eventq jobs {args.action} NAME")
    with existing_store(args) as storage, App(storage=storage) as app:
        if args.action == "list":
            return _list(app.jobs.all(args.user), args.json)
        try:
            return _show(app, args) if args.action == "show" else _act(app, args)
        except (UnknownJob, JobRunning, JobDisabled) as error:
            raise CommandError(str(error)) from error


# ---- list, show


def _list(jobs: list[JobStatus], as_json: bool) -> int:
    if as_json:
        print_json([_document(each) for each in jobs])
        return Exit.OK
    if not jobs:
        print("no jobs")
        return Exit.OK
    rows = [
        [each.name, each.state if each.enabled else f"{each.state}, disabled", _stages(each), _next(each), _ended(each)]
        for each in jobs
    ]
    print_table(["NAME", "STATE", "STAGES", "NEXT", "LAST RUN"], rows)
    return Exit.OK


def _stages(job: JobStatus) -> str:
    done = 0 if job.report is None else sum(each.state == "completed" for each in job.report.stages)
    return f"{done}/{len(job.stages)}"


def _next(job: JobStatus) -> str:
    at = job.report.retry_at if job.report is not None and job.report.retry_at is not None else job.next_run
    return "-" if at is None else f"in {duration(max(0.0, at.timestamp() - SYSTEM.now()))}"


def _ended(job: JobStatus) -> str:
    report = job.report
    if report is None:
        return "-"
    if report.ended is None:
        return report.id
    return f"exit code {report.exit_code}, {duration(max(0.0, SYSTEM.now() - report.ended.timestamp()))} ago"


def _show(app: App, args: argparse.Namespace) -> int:
    job = app.jobs.get(args.name)
    if job is None:
        raise CommandError(f"there is no job {args.name!r}; 'eventq jobs' lists them")
    if args.json:
        print_json(_document(job))
        return Exit.OK
    print(f"{printable(job.name)}: {job.state}" + ("" if job.enabled else ", disabled"))
    if job.description:
        print(printable(job.description.partition("\n")[0]))
    report = job.report
    if report is None:
        print(f"stages: {printable(', '.join(job.stages))}")
        return Exit.OK
    code = "" if report.exit_code is None else f", exit code {report.exit_code}"
    print(f"run {report.id}, retries {report.retries} of {job.max_retries}{code}")
    if report.error is not None:
        print(printable(f"{report.error.type}: {report.error.message}".partition("\n")[0]))
    rows = [[each.name, each.state, str(each.attempts), each.worker or "-", _took(each)] for each in report.stages]
    print_table(["STAGE", "STATE", "STARTED", "WORKER", "TOOK"], rows)
    return Exit.OK


def _took(stage: StageReport) -> str:
    if stage.started is None:
        return "-"
    return duration(max(0.0, (SYSTEM.now() if stage.ended is None else stage.ended) - stage.started))


def _document(job: JobStatus) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(job)
    document["next_run"] = _time(job.next_run)
    if job.report is not None:
        times = {name: _time(getattr(job.report, name)) for name in ("queued", "retry_at", "ended")}
        document["report"] |= times
    return document


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment.timestamp())


# ---- start, restart, abort, enable, disable, reset, remove


def _act(app: App, args: argparse.Namespace) -> int:
    jobs, name = app.jobs, args.name
    if args.action in ("start", "restart"):
        return _started(app, args)
    if args.action == "abort" and not jobs.abort(name, args.reason or ""):
        raise CommandError(f"job {name!r} is {jobs.job(name).status()}: there is nothing to abort")
    if args.action == "remove" and not jobs.remove(name):
        raise CommandError(f"there is no job {name!r}; 'eventq jobs' lists them")
    if args.action in ("enable", "disable", "reset"):
        getattr(jobs, args.action)(name)
    if args.json:
        print_json({"name": name, args.action: True})
    else:
        print(f"{printable(name)} {DONE[args.action]}")
    return Exit.OK


def _started(app: App, args: argparse.Namespace) -> int:
    """Print the id of the run, for `eventq runs` and `eventq wait`."""
    keywords = {name: _value(text) for name, text in args.kw}
    try:
        run = app.jobs.restart(args.name) if args.action == "restart" else app.jobs.start(args.name, **keywords)
    except TypeError as error:  # a keyword that the job does not have
        usage(str(error))
    if args.json:
        print_json({"name": args.name, "id": run.id})
    else:
        print(run.id)
    return Exit.OK


DONE = {
    "abort": "is being aborted: what waits never runs, what runs was asked to end",
    "enable": "is enabled",
    "disable": "is disabled until 'eventq jobs enable'; what runs goes on",
    "reset": "is idle",
    "remove": "is removed; its run was cancelled if it had one",
}


COMMANDS = {
    "jobs": Command(
        _options,
        _run,
        "List the staged jobs of a store, and how the last run of each stands: idle, queued, running, suspended,\n"
        "finished or failed. The other actions are for one job: show (the report of each stage), start (prints the id\n"
        "of the run), restart (go on with a run that failed), abort, enable, disable, reset, remove. What a program\n"
        "declares by app.job() is stored when its worker starts. The code of the tasks is not needed.",
        "examples:\n"
        "  eventq jobs\n"
        "  eventq wait $(eventq jobs start nightly --kw day=2026-11-22)\n"
        "  eventq jobs show nightly\n"
        "  eventq jobs abort nightly --reason 'the disk is full'\n"
        "  eventq jobs --json | jq -r '.[] | select(.state == \"failed\").name' | xargs -n1 eventq jobs restart",
    )
}
