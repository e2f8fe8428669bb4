"""Capture: what a run writes, kept with its event as notes of the kind `output`, readable live and afterwards.

In threads and coroutines these are log records, as the levels of their loggers let them through, and what `print` and
`sys.stdout.write` (or `stderr`) get. They belong to the run that wrote them, by a context variable. Everything goes
where it would have gone without, too.

What is not captured there, only in a task of its own process (`executor="process"`):

- what C code, subprocesses and `sys.stdout.buffer` write: it never passes Python's text streams;
- what threads write that the task's code starts, also those of a thread pool: they do not inherit the context. Run
  their work by `contextvars.copy_context().run(...)`, or use `asyncio.to_thread`, which does;
- eventq's own log, which is about the run, not of it.

Two things to know of `logging` while a worker runs: its root logger has a handler, so `logging.basicConfig()` does
nothing (configure before, or with `force=True`); and a log handler made during a run that writes to `sys.stderr` is
captured there as well.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TextIO, cast

from eventq.clock import SYSTEM
from eventq.errors import ClaimLost, EventqError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from eventq.claim import Claim
    from eventq.clock import Clock

Kind = Literal["stdout", "stderr", "log"]
Sink = Callable[[Kind, str], object]
"""Gets what was written, in pieces: of which kind, and the text."""

OUTPUT = "output"
"""The kind of the notes that output is kept in."""

PIECE = 8 << 10
"""Bytes of output that are noted at once, or after `PATIENCE` seconds fewer."""
PATIENCE = 0.5
KEPT = 256 << 10
"""Bytes of output that are kept of one run."""
MOST = 64 << 10
"""Characters that a sink gets at once: a note takes 512 KiB, and JSON up to six bytes for one of them."""
BEYOND = f"\n... output beyond {KEPT >> 10} KiB is not kept\n"

log: logging.Logger = logging.getLogger("eventq.capture")

ENDED = -1

running: ContextVar[Recording | None] = ContextVar("eventq_recording", default=None)
"""Where the output of this thread or coroutine goes."""

_unflushed: set[Output] = set()
"""Those that hold something back."""


_lock = threading.RLock()
"""Re-entrant, as that of `Output` is: the garbage collector may run a `__del__` that prints, at any moment."""


class Recording:
    """The output of one run; made by `captured`. A context manager, or `begin` and `end` in the run's own context.

    A run that writes nothing costs about a microsecond. Its end notes what is left; what is written later, by a
    thread or a coroutine that the run has left behind, is not kept, nor is what a forked child writes.
    """

    process: ClassVar[int] = 0
    """Counts the forks between the first process and this one."""

    __slots__ = ("_clock", "_outer", "_output", "_process", "_sink")

    def __init__(self, sink: Sink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._output: Output | None = None
        self._outer: Recording | None = None
        self._process = ENDED

    def begin(self) -> None:
        """From here on, in this context, output is the run's."""
        self._process = Recording.process
        # The outer one is kept rather than a token: a run may be ended in another context than it began in.
        self._outer = running.get()
        running.set(self)

    def end(self) -> None:
        """Note what is left. Harmless when repeated, and in another context."""
        if running.get() is self:
            running.set(self._outer)
        process, self._process = self._process, ENDED
        if self._output is not None and process == Recording.process:
            self._output.end()

    def write(self, kind: Kind, text: str) -> None:
        """Keep what was written, unless the run has ended."""
        if self._process != Recording.process:
            return  # ended, or in a forked child, whose copy is not the run's
        output = self._output
        if output is None:
            with _lock:  # the run's threads, too, write to one
                made = Output(self._sink, self._clock)
                output = self._output = self._output or made
        output.add(kind, text)

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _after_fork() -> None:
    """In the child: nothing is its own of what its parent held back, and locks may be held by threads that are gone."""
    global _lock  # noqa: PLW0603 - made anew for this process
    _lock = threading.RLock()
    Recording.process += 1
    _unflushed.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def captured(sink: Sink, clock: Clock = SYSTEM) -> Recording:
    """Give what is written inside to a sink: `with captured(noted(claim)): ...`.

    Takes effect while a `Capturing` is installed. The sink is called by whoever writes, so in a coroutine on the loop.
    What it raises of eventq's errors (a lost claim, a storage that fails) is logged and does not disturb the run.
    """
    return Recording(sink, clock)


def noted(claim: Claim[Any]) -> Sink:
    """The sink that keeps output as notes of the event."""

    def note(kind: Kind, text: str) -> None:
        claim.note(OUTPUT, {"stream": kind, "text": text})

    return note


def flush_due(now: float) -> None:
    """Give to the sinks what has waited for `PATIENCE` seconds at `now` (monotonic): of a run that writes no more."""
    for output in list(_unflushed):
        if output.is_due(now):
            output.flush()


class Output:
    """What a run has written and its sink has not got yet. Threads may share it.

    The lock is not held while the sink runs: a sink that waits for a lock (a log handler's) whose holder writes output
    would wait for ever.
    """

    __slots__ = (
        "_clock",
        "_given",
        "_giving",
        "_left",
        "_lock",
        "_open",
        "_sink",
        "_texts",
        "_waiting",
        "_waits_since",
    )

    def __init__(self, sink: Sink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._lock = threading.RLock()
        self._given = threading.Condition(self._lock)
        self._texts: list[tuple[Kind, str]] = []
        self._waiting = 0
        """The bytes of the texts."""
        self._waits_since = 0.0
        self._left = KEPT
        """The bytes that the run may still write."""
        self._open = True
        self._giving = False
        """A thread is in the sink."""

    def add(self, kind: Kind, text: str) -> None:
        """Keep a text; give what has gathered to the sink if it is time to."""
        text, size = _storable(text)
        with self._lock:
            if not self._open or not size:
                return
            now = self._clock.monotonic()
            if not self._texts:
                self._waits_since = now
                _unflushed.add(self)
            if size > self._left:
                self._open = False
                text = text.encode()[: self._left].decode(errors="ignore")
                self._texts += [(kind, text), (kind, BEYOND)]
            else:
                self._texts.append((kind, text))
            self._left -= size
            self._waiting += size
            due = self._waiting >= PIECE or now - self._waits_since >= PATIENCE
        if due:
            self.flush()

    def is_due(self, now: float) -> bool:
        """Whether something has waited long enough."""
        return bool(self._texts) and now - self._waits_since >= PATIENCE

    def flush(self) -> None:
        """Give what has gathered to the sink, unless a thread is doing that: what comes meanwhile waits its turn."""
        with self._lock:
            if self._giving or not self._texts:
                return
            self._giving = True
            texts, self._texts, self._waiting = self._texts, [], 0
            _unflushed.discard(self)
        recording = running.get()
        running.set(None)  # what the sink itself writes must not come back to it
        try:
            self._give(texts)
        finally:
            running.set(recording)
            with self._lock:
                self._giving = False
                self._given.notify_all()

    def end(self) -> None:
        """Accept no more, and return when the sink has all of it."""
        with self._lock:
            self._open = False
        while True:
            with self._lock:
                while self._giving:
                    self._given.wait()
                if not self._texts:
                    return
            self.flush()

    def _give(self, texts: Iterable[tuple[Kind, str]]) -> None:
        try:
            for kind, group in groupby(texts, itemgetter(0)):
                text = "".join(text for _, text in group)
                for start in range(0, len(text), MOST):
                    self._sink(kind, text[start : start + MOST])
        except ClaimLost as lost:
            self._open = False
            log.info("the rest of a run's output is not kept: %s", lost)
        except EventqError as error:
            log.warning("some output of a run could not be kept: %s", error)


def _storable(text: str) -> tuple[str, int]:
    """A text without lone surrogates (of file names, mostly), which UTF-8 cannot hold; and its size in bytes."""
    if text.isascii():
        return text, len(text)
    data = text.encode("utf-8", "backslashreplace")
    return data.decode(), len(data)


# ---------------------------------------------------------------- where output is caught


class Capturing:
    """Catches output in this process while it is installed: puts itself before `sys.stdout` and `sys.stderr`, and a
    handler on the root logger. Several may be installed, one per worker; the last one restores what was there.

    Outside of `captured` nothing changes but for a fraction of a microsecond per write.
    """

    _count: ClassVar[int] = 0
    """How many are installed."""
    _handler: ClassVar[LogHandler | None] = None

    __slots__ = ("_installed",)

    def __init__(self) -> None:
        self._installed = False

    def install(self) -> None:
        """Begin to catch; harmless when repeated."""
        with _lock:
            if self._installed:
                return
            self._installed = True
            Capturing._count += 1
            if not isinstance(sys.stdout, CapturedStream):  # the first one; or somebody has replaced it since
                sys.stdout = cast("TextIO", standing_for("stdout", sys.stdout))
            if not isinstance(sys.stderr, CapturedStream):
                sys.stderr = cast("TextIO", standing_for("stderr", sys.stderr))
            if Capturing._handler is None:
                Capturing._handler = LogHandler()
                logging.getLogger().addHandler(Capturing._handler)

    def uninstall(self) -> None:
        """Catch no more; harmless when repeated. What others have put before the streams meanwhile stays there."""
        with _lock:
            if not self._installed:
                return
            self._installed = False
            Capturing._count -= 1
            if Capturing._count:
                return
            if isinstance(sys.stdout, CapturedStream):
                sys.stdout = sys.stdout.real
            if isinstance(sys.stderr, CapturedStream):
                sys.stderr = sys.stderr.real
            if Capturing._handler is not None:
                logging.getLogger().removeHandler(Capturing._handler)
                Capturing._handler = None

    def flush_due(self, now: float) -> None:
        """See `flush_due`."""
        flush_due(now)

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.uninstall()


class CapturedStream:
    """Stands for `sys.stdout` or `sys.stderr`: what is written goes to the run that writes it, and to the real stream.

    Whoever has kept a reference may use it after the worker has gone.
    """

    def __init__(self, kind: Kind, real: TextIO | None) -> None:
        self._kind: Kind = kind
        self.real: TextIO | None = real
        """What it stands for; None in a process without a terminal or log."""

    def write(self, text: str) -> int:
        """As of the real stream, which also gets it; that there is none is no error."""
        recording = running.get()
        if recording is not None and isinstance(text, str):
            recording.write(self._kind, text)
        return len(text) if self.real is None else self.real.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """As of the real stream."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the real stream; what is kept with the event comes when it is due."""
        if self.real is not None:
            self.real.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __repr__(self) -> str:
        return f"<CapturedStream before {self.real!r}>"


_streams: dict[tuple[Kind, int], CapturedStream] = {}


def standing_for(kind: Kind, real: TextIO | None) -> CapturedStream:
    """The one that stands for a stream, made once and kept for good.

    `print` does not hold on to the stream that it writes to: if a thread is in it while the last reference goes, Python
    itself crashes. Each keeps its real stream as well, so that its id is not used again.
    """
    made = _streams.get((kind, id(real)))
    if made is None:
        made = _streams[kind, id(real)] = CapturedStream(kind, real)
    return made


class LogHandler(logging.Handler):
    """Gives log records to the run that writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the lock that handlers hold: a run whose record is being kept must not hold up all others."""
        recording = running.get()
        if recording is not None and record.name.partition(".")[0] != "eventq":
            self.emit(record)
        if is_alone(self, record.name):
            self._print(record, recording)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        recording = running.get()
        if recording is None:
            return
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - arguments that do not fit the message; logging says it its own way
            self.handleError(record)
        else:
            recording.write("log", text + "\n")

    def _print(self, record: logging.LogRecord, recording: Recording | None) -> None:
        """What `logging` does with a record that no handler takes: it would not be done, now that there is this one."""
        last = logging.lastResort
        if last is None or record.levelno < last.level:
            return
        running.set(None)  # it is kept already
        try:
            last.handle(record)
        finally:
            running.set(recording)


def is_alone(handler: logging.Handler, name: str) -> bool:
    """Whether no other handler gets the records of a logger."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(each is not handler for each in logger.handlers):
            return False
        logger = logger.parent if logger.propagate else None
    return True
