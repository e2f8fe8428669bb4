"""`eventq status`, `workers`, `pause`, `resume` and `prune`: queues as a whole."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import structs

from eventq import clock
from eventq.cli.command import (
    Command,
    Exit,
    existing_store,
    require_queue,
    seconds,
    store_url,
    usage,
)
from eventq.cli.console import Progress, duration, print_json, print_table, printable, styled, timestamp
from eventq.cli.record import scan
from eventq.config import masked
from eventq.inbox import inbox_of, is_shown
from eventq.model import FINAL_STATES, Delete, Filter, Settings, State, Stats, Worker
from eventq.schedule.ticks import QUEUE as SCHEDULES
from eventq.store import Store

if TYPE_CHECKING:
    import argparse

    from eventq.storage.base import Storage
    from eventq.worker.control import WorkerStats

PATIENCE = 1.0
"""Seconds within which a worker answers that is not silent."""

# ---- status


def _status_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queues", nargs="*", metavar="QUEUE", help="only these queues (default: all)")


def _status(args: argparse.Namespace) -> int:
    with existing_store(args) as storage:
        names = [require_queue(storage, name) for name in args.queues]
        names = names or [name for name in storage.queues() if is_shown(storage, name)]
        workers = storage.workers()
        serving = {name: sum(claims_from(worker, name) for worker in workers) for name in names}
        found = []
        progress = Progress("counted queues", len(names))
        for name in names:
            found.append((name, storage.stats(name), storage.settings(name)))
            progress.at(len(found))
        progress.close()
    if args.json:
        documents = [_status_document(*entry, serving[entry[0]]) for entry in found]
        print_json({"store": masked(store_url(args)), "workers": len(workers), "queues": documents})
        return Exit.OK
    if not found:
        print(f"no queues in {printable(masked(store_url(args)))}")
        return Exit.OK
    states = [state.value for state in State]
    rows = [
        [
            name,
            *(getattr(stats, state) for state in states),
            duration(stats.oldest_ready),
            serving[name],
            _pause(settings),
        ]
        for name, stats, settings in found
    ]
    header = ["QUEUE", *(state.upper() for state in states), "OLDEST", "WORKERS", "PAUSED"]
    print_table(header, rows, right=range(1, len(header) - 1))
    idle = [name for name, stats, settings in found if stats.ready and not serving[name] and not is_paused(settings)]
    if idle:
        print(styled(f"nobody claims from: {printable(', '.join(idle))}", "yellow"))
    return Exit.OK


def claims_from(worker: Worker, queue: str) -> bool:
    """Whether a worker claims from a queue, be it its own inbox, or the one of schedules."""
    return queue in worker.queues or (bool(worker.serves) and queue in (inbox_of(worker.id), SCHEDULES))


def is_paused(settings: Settings) -> bool:
    """Whether a queue is paused now; a pause may have ended by itself."""
    until = settings.paused_until
    return settings.paused and (until is None or clock.SYSTEM.now() < until)


def _pause(settings: Settings) -> str:
    if not is_paused(settings):
        return "-"
    until = settings.paused_until
    return "yes" if until is None else f"for {duration(until - clock.SYSTEM.now())}"


def _status_document(name: str, stats: Stats, settings: Settings, workers: int) -> dict[str, Any]:
    return {
        "queue": name,
        **{state.value: getattr(stats, state.value) for state in State},
        "oldest_ready": stats.oldest_ready,
        "paused": is_paused(settings),
        "paused_until": timestamp(settings.paused_until) if is_paused(settings) else None,
        "workers": workers,
    }


# ---- workers


def _workers_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check", metavar="NAME", help="exit with 0 if a living worker serves this queue or knows this task, else 1"
    )
    parser.add_argument(
        "--ping", action="store_true", help="ask each of them; one is silent that does not answer in 1 s"
    )
    parser.add_argument("--stop", metavar="ID", help="ask this worker to stop gracefully, as SIGTERM does")
    parser.add_argument("--force", action="store_true", help="with --stop: at once; what runs goes back to its queue")


def _workers(args: argparse.Namespace) -> int:
    if args.force and args.stop is None:
        usage("--force goes with --stop ID")
    with existing_store(args) as storage:
        if args.stop is not None:
            return _stop(storage, args)
        workers = storage.workers()
        if args.check is not None:
            served = any(args.check in (*(w.serves or w.queues), *w.tasks) for w in workers)
            return Exit.OK if served else Exit.FAILED
        running = {worker.id: [_run_of(storage, id) for id in worker.claims] for worker in workers}
        answers = _answers(storage) if args.ping else {}
    if args.json:
        documents = [{**_worker_document(worker), "runs": running[worker.id]} for worker in workers]
        if args.ping:
            documents = [{**each, **_answer_document(each, answers.get(each["id"]))} for each in documents]
        print_json(documents)
        return Exit.OK
    if not workers:
        print("no living workers")
        return Exit.OK
    now = clock.SYSTEM.now()
    rows = [
        [
            w.id,
            w.pid,
            w.host,
            duration(now - w.since),
            len(w.claims),
            ", ".join(w.serves or w.queues) or "-",
            ", ".join(map(_run_text, running[w.id])) or "-",
            *(_answer_cells(w, answers.get(w.id)) if args.ping else ()),
        ]
        for w in workers
    ]
    header = ["WORKER", "PID", "HOST", "SINCE", "RUNNING", "QUEUES", "RUNS"]
    answered = ["ANSWER", "BUSY", "RAN", "FAILED", "MEMORY"] if args.ping else []
    print_table([*header, *answered], rows, right=(1, 3, 4, *range(len(header) + 1, len(header) + len(answered))))
    return Exit.OK


def _answers(storage: Storage) -> dict[str, WorkerStats]:
    from eventq.worker.control import ping

    return {stats.id: stats for stats in ping(Store(storage), None, PATIENCE)}


def _answer_cells(worker: Worker, stats: WorkerStats | None) -> list[Any]:
    if stats is None:
        return ["silent" if worker.serves else "-", "-", "-", "-", "-"]
    answer = "stopping" if stats.stopping else "well"
    busy = f"{len(stats.runs)} of {stats.concurrency}"
    return [answer, busy, stats.ran, stats.failed, f"{stats.memory_bytes >> 20} MiB"]


def _answer_document(worker: dict[str, Any], stats: WorkerStats | None) -> dict[str, Any]:
    """Only workers that run tasks are asked; the others are not silent."""
    if stats is None:
        return {"silent": bool(worker["serves"]), "stats": None}
    runs = [{"id": run.id, "task": run.task, "seconds": run.seconds} for run in stats.runs]
    return {"silent": False, "stats": {**structs.asdict(stats), "since": timestamp(stats.since), "runs": runs}}


def _stop(storage: Storage, args: argparse.Namespace) -> int:
    from eventq.worker.control import ask_to_stop

    ask_to_stop(storage, args.stop, args.force)
    if args.json:
        print_json({"worker": args.stop, "asked": "force" if args.force else "stop"})
    else:
        print(f"asked worker {args.stop} to stop{' at once' if args.force else ''}")
    return Exit.OK


def _worker_document(worker: Worker) -> dict[str, Any]:
    return {
        "id": worker.id,
        "pid": worker.pid,
        "host": worker.host,
        "since": timestamp(worker.since),
        "queues": worker.queues,
        "serves": worker.serves,
        "tasks": worker.tasks,
        "claims": worker.claims,
    }


def _run_of(storage: Storage, id: str) -> dict[str, Any]:
    """An event that a worker runs: of which task, and since when. It may have ended meanwhile."""
    from eventq.cli.why import started_of, task_of

    record = storage.get(id)
    if record is None:
        return {"id": id}
    return {"id": id, "task": task_of(record), "queue": record.queue, "since": timestamp(started_of(record))}


def _run_text(run: dict[str, Any]) -> str:
    since = run.get("since")
    took = "" if since is None else f" ({duration(clock.SYSTEM.now() - datetime.fromisoformat(since).timestamp())})"
    return " ".join(filter(None, (run.get("task"), run["id"]))) + took


# ---- pause, resume


def _pause_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument(
        "--for", dest="period", type=seconds, metavar="TIME", help="end it by itself after 10m, 2h, ..."
    )


def _run_pause(args: argparse.Namespace) -> int:
    until = None if args.period is None else clock.SYSTEM.now() + args.period
    return _configure(args, {"paused": True, "paused_until": until})


def _resume_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queue", metavar="QUEUE")


def _run_resume(args: argparse.Namespace) -> int:
    return _configure(args, {"paused": False, "paused_until": None})


def _configure(args: argparse.Namespace, changes: dict[str, Any]) -> int:
    with existing_store(args) as storage:
        settings = storage.configure(require_queue(storage, args.queue), changes)
    if args.json:
        until = timestamp(settings.paused_until) if settings.paused else None
        print_json({"queue": args.queue, "paused": settings.paused, "paused_until": until})
    elif settings.paused:
        left = "until 'eventq resume'" if args.period is None else f"for {duration(args.period)}"
        print(f"{printable(args.queue)} is paused {left}; what runs already goes on")
    else:
        print(f"{printable(args.queue)} is not paused")
    return Exit.OK


# ---- prune


def _prune_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queues", nargs="*", metavar="QUEUE", help="only these queues (default: all)")
    parser.add_argument(
        "--state",
        action="append",
        choices=[state.value for state in FINAL_STATES],
        help="only this state; may be repeated (default: all that are an end)",
    )
    parser.add_argument(
        "--older",
        type=seconds,
        metavar="AGE",
        help="ended longer ago than 10m, 7d, ... (default: the queue's retention)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only count them")


def _prune(args: argparse.Namespace) -> int:
    states = [State(name) for name in args.state or FINAL_STATES]
    removed: dict[str, int] = {}
    progress = Progress("pruned")
    with existing_store(args) as storage:
        for name in [require_queue(storage, name) for name in args.queues] or storage.queues():
            removed[name] = 0
            for state in states:
                removed[name] += _prune_state(storage, name, state, args, progress)
    progress.close()
    if args.json:
        print_json({"pruned": removed, "dry_run": args.dry_run})
    else:
        verb = "would prune" if args.dry_run else "pruned"
        for name, number in removed.items():
            print(f"{verb} {number:,} from {printable(name)}")
    return Exit.OK


def _prune_state(storage: Storage, queue: str, state: State, args: argparse.Namespace, progress: Progress) -> int:
    settings = storage.settings(queue)
    keep = settings.keep if state is State.COMPLETED else settings.keep_dead
    before = clock.SYSTEM.now() - (keep if args.older is None else args.older)
    old: list[str] = []
    done = 0
    for record in scan(storage, queue, (state,), Filter()):
        if record.settled is not None and record.settled <= before:
            old.append(record.id)
        if len(old) >= 1000:
            done += _delete(storage, queue, old, args.dry_run)
            progress.at(done, queue)
            old = []
    return done + _delete(storage, queue, old, args.dry_run)


def _delete(storage: Storage, queue: str, ids: list[str], dry_run: bool) -> int:
    if dry_run or not ids:
        return len(ids)
    return storage.edit(queue, ids, Delete()).count("deleted")


COMMANDS = {
    "status": Command(
        _status_options,
        _status,
        "Count the events of each queue by state. OLDEST is how long the oldest ready event has waited;\n"
        "WORKERS are the living processes that claim from the queue.",
    ),
    "workers": Command(
        _workers_options,
        _workers,
        "List the living workers: since when they are there, the queues they claim from, and what they run: the\n"
        "task, the event, and for how long. --check is for health checks. --ping has each say itself how it is: one\n"
        "that runs tasks and does not answer within a second is silent: it is stopped, or hangs. --stop does not\n"
        "wait for the end; a worker with a supervisor ('eventq worker --processes 2') is replaced.",
        "examples:\n"
        "  eventq workers --json | jq -r '.[].tasks[]' | sort -u\n"
        "  eventq workers --check mails || page me\n"
        "  eventq workers --ping --json | jq -r '.[] | select(.silent).id'\n"
        "  eventq workers --stop 5d1c0f8a9b7e6d3c",
    ),
    "pause": Command(
        _pause_options,
        _run_pause,
        "Stop all workers from claiming from a queue, within a quarter of a second. Puts go on.",
    ),
    "resume": Command(_resume_options, _run_resume, "End a pause."),
    "prune": Command(
        _prune_options,
        _prune,
        "Remove ended events that are past their retention now. Workers do this by themselves, in small\n"
        "steps; this is for a store without workers, or to remove more with --older (0: all ended events).",
    ),
}
