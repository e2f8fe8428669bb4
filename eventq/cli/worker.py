"""`eventq worker`: run the tasks of an app, in one process or in several."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from eventq import clock
from eventq.claim import current
from eventq.cli.apps import loaded_app, reloaded_files
from eventq.cli.command import Command, Exit, count, exit_code, seconds, usage
from eventq.cli.console import json_text, printable, styled, timestamp
from eventq.errors import EventqError
from eventq.options import Executor
from eventq.supervisor import Supervisor, stop_with_supervisor

if TYPE_CHECKING:
    from eventq.app import App
    from eventq.config import Config
    from eventq.worker import Worker

LEVELS = ("debug", "info", "warning", "error", "critical")
MARGIN = 5.0
"""Seconds that the supervisor gives a worker beyond the worker's own time to stop."""
READY_INTERVAL = 5.0
"""Seconds after which the file that says "ready" is renewed."""

log: logging.Logger = logging.getLogger("eventq.worker")


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("app", metavar="APP", help="shop:app, or shop (the one app in it), or a path: shop.py:app")
    parser.add_argument(
        "--queues",
        type=_queues,
        metavar="NAMES",
        help="a,b: strictly in this order; a=3,b=1: by weight (default: the queues of the app's tasks)",
    )
    parser.add_argument("--concurrency", type=_positive, metavar="N", help="run up to N at once in a process (8)")
    parser.add_argument("--executor", choices=get_args(Executor), help="where sync functions run (default: thread)")
    parser.add_argument("--processes", type=_positive, metavar="N", help="run N workers; replace those that die (1)")
    parser.add_argument("--burst", action="store_true", help="end when nothing is left to claim")
    parser.add_argument(
        "--stop-timeout", type=seconds, metavar="TIME", help="after the first signal, what runs may finish so long (10)"
    )
    parser.add_argument("--max-tasks", type=_positive, metavar="N", help="replace a process after N runs")
    parser.add_argument(
        "--max-bytes", type=_positive, metavar="N", help="replace a process that took more than N bytes of memory"
    )
    parser.add_argument("--reload", action="store_true", help="replace the processes when the program's files change")
    parser.add_argument(
        "--ready-file", metavar="PATH", help=f"a file to have while it is ready; renewed every {READY_INTERVAL:g} s"
    )
    parser.add_argument("--log-level", choices=LEVELS, help="log this, and what is worse (default: info)")


def _positive(text: str) -> int:
    number = count(text)
    if not number:
        raise argparse.ArgumentTypeError("give a whole number of 1 or more")
    return number


def _queues(text: str) -> list[str] | dict[str, int]:
    """`a,b`, or with weights `a=3,b=1`."""
    parts = [part.strip() for part in text.split(",")]
    weighted = [part.rpartition("=") for part in parts]
    if all(parts) and not any(equals for _, equals, _ in weighted):
        return parts
    if not all(name and weight for name, _, weight in weighted):
        raise argparse.ArgumentTypeError(f"{text!r}: write a,b for strict order, or a weight for each: a=3,b=1")
    return {name: _positive(weight) for name, _, weight in weighted}


# ---------------------------------------------------------------- running


def _run(args: argparse.Namespace) -> int:
    stop = Stop()
    supervised = stop_with_supervisor(stop)
    with loaded_app(args, args.app) as app:
        config = _configured(args, app.config)
        _log_to_stderr(config.log_level, as_json=args.json)
        if supervised or not _needs_supervisor(args, config):
            worker = app.worker(
                args.queues,
                concurrency=config.concurrency,
                executor=config.executor,
                stop_timeout=config.stop_timeout,
                max_tasks=config.max_tasks,
                max_bytes=config.max_bytes,
            )
            stop.worker = worker
            with ReadyFile(args.ready_file, app, shared=supervised) if args.ready_file else nullcontext():
                return _serve(worker, args.burst, stop)
        if not app.store.storage.shared:
            usage("this store is of one process alone, and has no room for workers of their own; use a directory")
        app.worker(args.queues)  # whatever is wrong is said here, once
    files = reloaded_files(app_module(args.app)) if args.reload else []
    return _supervise(args, config, files)


def app_module(named: str) -> str:
    """The name of the module in `shop:app`, or of the file in `folder/shop.py:app`."""
    name = named.partition(":")[0]
    return name.rpartition("/")[2].removesuffix(".py") if "/" in name or name.endswith(".py") else name


def _configured(args: argparse.Namespace, config: Config) -> Config:
    """The app's configuration, with what the command line says on top."""
    names = ("concurrency", "executor", "processes", "stop_timeout", "max_tasks", "max_bytes", "log_level")
    said = {name: value for name in names if (value := getattr(args, name)) is not None}
    return msgspec.structs.replace(config, **said)


def _needs_supervisor(args: argparse.Namespace, config: Config) -> bool:
    return args.reload or config.processes > 1 or config.max_tasks is not None or config.max_bytes is not None


class Stop:
    """Stops the worker when the supervisor has ended, even if there is none yet."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.asked: bool = False

    def __call__(self) -> None:
        self.asked = True
        if self.worker is not None:
            self.worker.stop()


def _serve(worker: Worker, burst: bool, stop: Stop) -> int:
    """Run the worker here."""
    if stop.asked:
        return Exit.OK
    worker.app.on("worker_started", lambda started: started.stop() if stop.asked else None)
    try:
        return worker.run(burst=burst)
    except EventqError as error:
        log.error("the worker ends: %s", error)
        return exit_code(error)


def _supervise(args: argparse.Namespace, config: Config, files: list[str]) -> int:
    """Run the same command in processes of its own."""
    log.info("supervising %d worker processes of %s", config.processes, args.app)
    command = [sys.executable, "-m", "eventq", *command_line(args)]
    supervisor = Supervisor(
        command, config.processes, stop_timeout=config.stop_timeout + MARGIN, burst=args.burst, reload=files
    )
    if args.ready_file:
        check_ready_file(args.ready_file)
    try:
        code = supervisor.run()
    finally:
        if args.ready_file:
            _remove(args.ready_file)
    log.info("all worker processes have stopped")
    return code


PASSED_ON = (
    "concurrency", "executor", "stop_timeout", "max_tasks", "max_bytes", "ready_file", "log_level", "store",
)  # fmt: skip


def command_line(args: argparse.Namespace) -> list[str]:
    """The arguments that lead to these, for a single process."""
    line = ["worker", args.app]
    line += [f"--{name.replace('_', '-')}={value}" for name in PASSED_ON if (value := getattr(args, name)) is not None]
    if args.queues is not None:
        weights = args.queues.items() if isinstance(args.queues, dict) else [(name, None) for name in args.queues]
        line.append("--queues=" + ",".join(name if weight is None else f"{name}={weight}" for name, weight in weights))
    return line + [f"--{name}" for name in ("burst", "json") if getattr(args, name)]


# ---------------------------------------------------------------- the log


class LogLines(logging.Formatter):
    """Timestamp, level and message; coloured on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        moment = clock.aware(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        level = f"{record.levelname.lower():<8}"
        style = "red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else "dim"
        lines = [f"{moment}  {styled(level, style, sys.stderr)}  {printable(record.getMessage())}"]
        lines += [f"    {printable(line)}" for line in self._trace(record).splitlines()]
        return "\n".join(lines)

    def _trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class LogDocuments(LogLines):
    """The same as lines of JSON, which also tell during which event's run they were written."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if (claim := current.get()) is not None:  # whoever logs, it is about this event
            line |= {"event": claim.id, "correlation_id": claim.carried()["correlation_id"]}
        if trace := self._trace(record):
            line["traceback"] = trace
        return json_text(msgspec.json.encode(line))


def _log_to_stderr(level: str, *, as_json: bool) -> None:
    """Show what is logged in this process, unless the program has set that up itself."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogDocuments() if as_json else LogLines())
    root.addHandler(handler)
    root.setLevel(level.upper())


# ---------------------------------------------------------------- the file that says "ready"


class ReadyFile:
    """A file that is there, and young, while a worker is ready: it runs, and others see it in the store.

    With `shared` it is made and renewed here, and removed by the supervisor: others may be ready still.
    """

    def __init__(self, path: str, app: App, *, shared: bool) -> None:
        self._path = path
        self._app = app
        self._shared = shared
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="eventq-ready", daemon=True)

    def __enter__(self) -> None:
        if not self._shared:
            check_ready_file(self._path)
        self._app.on("worker_started", lambda _: self._thread.start())
        self._app.on("worker_stopped", lambda _: self._stopped.set())

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._shared:
            _remove(self._path)

    def _renew(self) -> None:
        storage = self._app.store.storage
        while not self._stopped.is_set():
            try:
                if any(worker.id == storage.worker for worker in storage.workers()):
                    _write(self._path)
            except (EventqError, OSError) as error:
                log.warning("%s was not renewed: %s", self._path, error)
            self._stopped.wait(READY_INTERVAL)


def check_ready_file(path: str) -> None:
    """End the command if the file cannot be written; what an earlier worker left is removed."""
    try:
        _write(path)
        _remove(path)
    except OSError as error:
        usage(f"--ready-file {path} cannot be written: {error.strerror}")


def _write(path: str) -> None:
    """Make the file, or make it younger."""
    from eventq.storage.file import disk

    number = disk.open_or_create(path)
    try:
        disk.write_all(number, b"ready\n")
    finally:
        disk.close(number)


def _remove(path: str) -> None:
    from eventq.storage.file import disk

    disk.unlink_if_any(path)


COMMANDS = {
    "worker": Command(
        _options,
        _run,
        "Run the tasks of a Python app. APP is imported from the current folder, or from wherever Python looks.\n"
        "What is not said here is said by the app, the environment (EVENTQ_CONCURRENCY=8), pyproject.toml\n"
        "([tool.eventq]), or the defaults in parentheses. The log goes to stderr; --json makes JSON lines of it.\n\n"
        "SIGTERM or Ctrl-C: it claims nothing more, what runs may finish within --stop-timeout, and what is left\n"
        "then goes back to its queue; a second signal does that at once. With --processes, --max-tasks,\n"
        "--max-bytes or --reload the workers run under a supervisor, which replaces those that end; SIGHUP makes\n"
        "it replace all of them, one after the other.",
        "examples:\n"
        "  eventq worker shop:app --concurrency 16\n"
        "  eventq worker shop.py --queues mail=3,bulk=1 --burst\n"
        "  eventq worker shop:app --processes 4 --max-tasks 10000 --ready-file /run/shop.ready\n"
        "  eventq worker shop:app --reload --log-level debug\n\n"
        "exit codes: 0 stopped or done; 130 if runs were left unfinished, or a process had to be killed; 1 if the\n"
        "app's module fails, 2 if there is no such app; otherwise as 'eventq --help' says.",
    )
}
