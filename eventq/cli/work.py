"""`eventq work`: run a shell command for each event of a queue. Any language can be a worker."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from eventq import clock
from eventq.cli.command import Command, CommandError, Exit, count, opened_app, seconds, store_path, store_url
from eventq.cli.console import print_json, printable
from eventq.cli.program import Ended, Program
from eventq.errors import ClaimLost, PayloadError
from eventq.model import Failure, Released

if TYPE_CHECKING:
    from types import FrameType

    from eventq.app import App
    from eventq.claim import Claim
    from eventq.queue import Queue
    from eventq.storage.base import Storage

REJECT = os.EX_DATAERR
"""65: this event will never work."""
LATER = os.EX_TEMPFAIL
"""75: this event is fine, but not now."""
LOOK = 0.25
"""Seconds after which an idle thread looks whether it should stop."""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument(
        "--exec",
        dest="command",
        required=True,
        metavar="CMD",
        help="run by /bin/sh; gets the payload on stdin",
    )
    parser.add_argument("--concurrency", type=_positive, default=1, metavar="N", help="run up to N at once (default 1)")
    parser.add_argument("--burst", action="store_true", help="end when nothing is left to claim")
    parser.add_argument(
        "--result",
        choices=("none", "text", "json"),
        default="none",
        help="keep the command's stdout as the result",
    )
    parser.add_argument("--raw", action="store_true", help="give a payload that is a JSON string as its bare text")
    parser.add_argument("--timeout", type=seconds, metavar="TIME", help="kill a command that runs longer: a failure")
    parser.add_argument(
        "--grace",
        type=seconds,
        default=10.0,
        metavar="TIME",
        help="after the first signal, wait so long (default 10)",
    )


def _positive(text: str) -> int:
    number = count(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 1000")
    return number


class Work:
    """Threads that claim, run and settle, until they are stopped or (in a burst) find nothing."""

    def __init__(self, args: argparse.Namespace, app: App) -> None:
        self.args: argparse.Namespace = args
        self.queue: Queue[Any] = app.queue(args.queue)
        self.storage: Storage = app.store.storage
        self.counts: Counter[str] = Counter()
        self.error: BaseException | None = None
        self.stopping: bool = False
        self.killing: bool = False
        self._environment = _environment(args)
        self._lock = threading.Lock()
        self._begun = 0
        """Commands that run, or are being started: they count, though nobody could kill them yet."""
        self._running: set[Program] = set()
        self._threads = [
            threading.Thread(target=self._loop, name=f"eventq-work-{number}") for number in range(args.concurrency)
        ]

    def run(self) -> int:
        """Work until the end, then return the exit code. Signals are handled in this, the main, thread."""
        handlers = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for thread in self._threads:
                thread.start()
            self._wait()
        except BaseException:
            self.stopping = True  # or the threads would keep the process alive
            self._wait()
            raise
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self.error is not None:
            raise self.error
        if self.killing:
            return Exit.INTERRUPTED
        return Exit.FAILED if self.args.burst and self.counts["failed"] + self.counts["rejected"] else Exit.OK

    def _wait(self) -> None:
        deadline = None
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.1)
                if not self.stopping:
                    self.storage.recover()  # slow commands must not hide that another worker died
                if self.stopping and deadline is None:
                    deadline = clock.SYSTEM.monotonic() + self.args.grace
                    self._announce()
                if deadline is not None and clock.SYSTEM.monotonic() >= deadline:
                    self.killing = True
                if self.killing:
                    self._kill_all()

    def _announce(self) -> None:
        with self._lock:
            number = self._begun
        if number and not self.killing:
            text = f"stopping: {number} running, {self.args.grace:g} s to finish; a second signal kills"
            print(f"eventq work: {text}", file=sys.stderr, flush=True)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.stopping:
            self.killing = True
        self.stopping = True

    def _kill_all(self) -> None:
        with self._lock:
            for program in self._running:
                program.kill()

    def _loop(self) -> None:
        try:
            while not self.stopping:
                for claim in self.queue.claims(timeout=0 if self.args.burst else LOOK):
                    self._handle(claim)
                    if self.stopping:
                        break
                if self.args.burst:
                    return
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            self.error = self.error or error
            self.stopping = True

    def _begin(self) -> bool:
        """Whether another command may begin. Who announces the stop looks under the same lock, and counts it if so."""
        with self._lock:
            begins = not self.stopping
            self._begun += begins
        return begins

    def _handle(self, claim: Claim[Any]) -> None:
        if not self._begin():
            claim.release()  # claimed in the instant of the signal
            return
        try:
            ended = self._execute(claim)
        except BaseException as error:
            if isinstance(error, OSError) and error.errno == errno.E2BIG:
                reason = "its headers are too large for an environment variable"
                claim.reject(Failure("CommandFailed", reason))  # released, it would stop the next worker as well
                self._say(claim, "rejected", reason)
                return
            claim.release()
            raise
        try:
            self._settle(claim, ended)
        except ClaimLost:
            self._say(claim, "lost", "another worker took it over; its outcome here does not count")
        except PayloadError as error:
            claim.reject(Failure("BadResult", str(error)))
            self._say(claim, "rejected", f"its result cannot be kept: {error}")

    def _execute(self, claim: Claim[Any]) -> Ended:
        event = claim.event
        environment = {
            **self._environment,
            "EVENTQ_ID": event.id,
            "EVENTQ_ATTEMPT": str(event.attempt),
            "EVENTQ_QUEUE": event.queue,
            "EVENTQ_HEADERS": msgspec.json.encode(event.headers).decode(),
        }
        program = None
        try:
            program = Program(self.args.command, environment, capture=self.args.result != "none")
            with self._lock:
                self._running.add(program)
            return program.finish(_stdin(event.payload, self.args.raw), self.args.timeout)
        finally:
            with self._lock:
                self._begun -= 1
                if program is not None:
                    self._running.discard(program)

    def _settle(self, claim: Claim[Any], ended: Ended) -> None:
        if ended.killed:
            claim.release()
            self._say(claim, "released", "its command was stopped")
        elif ended.code == 0:
            self._complete(claim, ended)
        elif ended.code == REJECT:
            claim.reject(ended.failure())
            self._say(claim, "rejected", ended.reason())
        elif ended.code == LATER:
            claim.settle(Released(self.queue.settings().retry_delay))
            self._say(claim, "put off", ended.reason())
        else:
            claim.retry(error=ended.failure())
            self._say(claim, "failed", ended.reason())

    def _complete(self, claim: Claim[Any], ended: Ended) -> None:
        if self.args.result == "none":
            claim.complete()
        elif self.args.result == "text":
            claim.complete(ended.output.decode(errors="replace"))
        else:
            try:
                value = msgspec.json.decode(ended.output)
            except (ValueError, RecursionError) as error:
                failure = Failure("BadResult", f"exit 0, but what it printed is not JSON: {error}")
                claim.retry(error=failure)
                self._say(claim, "failed", failure.message)
                return
            claim.complete(value)
        with self._lock:
            self.counts["completed"] += 1

    def _say(self, claim: Claim[Any], word: str, reason: str) -> None:
        with self._lock:
            self.counts[word] += 1
        print(f"eventq work: {claim.event.id} {word}: {printable(reason)}", file=sys.stderr, flush=True)


def _stdin(payload: Any, raw: bool) -> bytes:
    if raw and isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, bytes):
        return payload
    return msgspec.json.encode(payload) + b"\n"


def _environment(args: argparse.Namespace) -> dict[str, str]:
    """The commands' environment: this one's, and the store, so that a command can put follow-ups."""
    path = store_path(store_url(args))
    return {**os.environ, "EVENTQ_URL": store_url(args) if path is None else os.path.abspath(path)}


def _run(args: argparse.Namespace) -> int:
    if not args.command.strip():
        raise CommandError("--exec is empty; give it the command to run, e.g. --exec 'cat'", Exit.USAGE)
    with opened_app(args) as app:
        work = Work(args, app)
        code = work.run()
    if args.json:
        print_json(dict(work.counts))
    else:
        words = ", ".join(f"{number:,} {word}" for word, number in sorted(work.counts.items()))
        print(f"eventq work: {words or 'nothing to do'}", file=sys.stderr)
    return code


COMMANDS = {
    "work": Command(
        _options,
        _run,
        "Run a shell command for each event of a queue. The command gets the payload on stdin, as one line of\n"
        "JSON, and in its environment EVENTQ_ID, EVENTQ_ATTEMPT (1 is the first), EVENTQ_QUEUE, EVENTQ_HEADERS\n"
        "(JSON) and EVENTQ_URL. Its exit code decides:\n\n"
        "     0  completed (with --result, what it printed is the result)\n"
        f"    {REJECT}  rejected: a dead letter at once (EX_DATAERR: this input will never work)\n"
        f"    {LATER}  put off: runs again after the queue's retry_delay, which counts no attempt\n"
        "        (EX_TEMPFAIL: not this event's fault)\n"
        "  else  failed (as is death by a signal): runs again as the queue's settings say, then a dead letter",
        "SIGTERM or Ctrl-C: claims nothing more, gives a running command --grace to finish, then kills it and\n"
        "gives its event back, which counts no attempt. A second signal kills at once. Killed with -9, the worker\n"
        "takes its commands with it, and other workers go on with its events within a second.\n\n"
        "exit codes: 0 stopped or done; 1 with --burst when an event failed or was rejected; 130 when commands\n"
        "were killed; otherwise as 'eventq --help' says.",
    )
}
