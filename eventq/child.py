"""The inside of a child process, which runs tasks apart from the worker; and the words that both sides speak.

A child serves one worker: it waits for an order, runs it, says how it ended, and waits for the next. What it prints
goes into pipes that the worker reads. Messages are msgspec structs as msgpack, each after its length; nothing that
comes from an event is ever pickled.

A child never outlives its worker: it ends when the worker closes the line, and at once, with whatever its function
has started, when the worker dies (C code that holds the interpreter's lock delays that). It leads a process group of
its own, so Ctrl-C reaches only the worker, and whoever kills the child reaches the subprocesses of its function, too.
"""

from __future__ import annotations

import contextvars
import importlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from eventq.claim import Retry, failure_of
from eventq.config import MAIN_AGAIN, module_of
from eventq.errors import ClaimLost
from eventq.model import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    Runner = Callable[["Order", Any, "Report"], bytes | None]

M = TypeVar("M")

RUNNER = "eventq.worker.children:run_in_child"
"""What carries out an order in the child, as `module:name`; called with the order, its target and a `Report`. It
returns the encoded value, or None if none is to be kept; whatever it raises is the run's failure."""

LENGTH_BYTES = 8
CHUNK = 64 << 10
"""Bytes that are read at once: what a pipe holds; for twice as many, each read asks the system for memory."""


# ---------------------------------------------------------------- what is said


class Order(msgspec.Struct, frozen=True):
    """One call of a task, for a child to carry out."""

    target: str
    """Where the task stands: `shop:thumbnail` is `thumbnail` of the module `shop`; also `__main__:thumbnail`."""
    task: str
    payload: bytes
    """The call as the event holds it; the child decodes it."""
    codec: str
    id: str
    queue: str
    attempt: int = 1
    headers: dict[str, Any] = {}
    deadline: float | None = None
    """When the run has to be over, on the monotonic clock, which all processes of a machine share."""
    url: str = ""
    """The store."""
    capture: bool = True
    """Whether the worker gets what is written to stdout and stderr; else it goes where the worker's own goes."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The child is up and takes orders."""


class Noted(msgspec.Struct, frozen=True, tag=True):
    """A note of the run: progress, a yielded value, the function's own."""

    kind: str
    data: bytes


class Returned(msgspec.Struct, frozen=True, tag=True):
    """The function returned."""

    value: bytes | None
    """Encoded; None if none is to be kept."""
    peak: int = 0
    """The most memory that the child has had so far, in bytes."""


class Raised(msgspec.Struct, frozen=True, tag=True):
    """The function raised, or its module could not be imported."""

    failure: Failure
    bases: tuple[str, ...]
    """The names of the exception's class and of all it derives from; `is_a` compares them."""
    delay: float | None = None
    """What a `Retry` asked for."""
    peak: int = 0

    def is_a(self, cls: type[BaseException]) -> bool:
        """Whether it was an instance of this class, as far as a name tells: the object stays in the child."""
        return class_name(cls) in self.bases


Said = Ready | Noted | Returned | Raised


def class_name(cls: type) -> str:
    """The name of a class, the same in the worker and in a child, also if the script itself defines it."""
    module = module_of(cls)
    return f"{module}.{cls.__qualname__}"


def message(said: Order | Said) -> bytes:
    """As it goes over the line: its length, then its msgpack."""
    body = msgspec.msgpack.encode(said)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Messages(Generic[M]):
    """Cuts what comes over a line into messages; the pieces may come in any size."""

    __slots__ = ("_decode", "_received")

    def __init__(self, decoder: msgspec.msgpack.Decoder[M]) -> None:
        self._decode = decoder.decode
        self._received = bytearray()

    def of(self, data: bytes) -> Iterator[M]:
        """The messages that are whole now that these bytes have come."""
        received = self._received
        received += data
        while len(received) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(received[:LENGTH_BYTES], "big")
            if len(received) < end:
                return
            body = bytes(received[LENGTH_BYTES:end])
            del received[:end]
            yield self._decode(body)


class Report:
    """What a run says while it runs; ends with the run. For one run, and any of its threads."""

    __slots__ = ("_line", "_lock", "_over")

    def __init__(self, line: int) -> None:
        self._line = line
        self._lock = threading.Lock()
        self._over = False

    def note(self, kind: str, data: bytes) -> None:
        """Have the worker append a note (JSON, as bytes) to the event. Waits if the worker falls behind.

        Raises ClaimLost after the run has ended: a thread that it left behind has nothing to add to the event.
        """
        with self._lock:
            if self._over:
                raise ClaimLost("the run that this belongs to is over")
            _send(self._line, Noted(kind, data))

    def yielded(self, value: bytes) -> None:
        """Pass on a value that a generator function has yielded."""
        self.note("yielded", value)

    def end(self, answer: Returned | Raised) -> None:
        """The last word."""
        with self._lock:
            self._over = True
            _send(self._line, answer)


def _send(line: int, said: Said) -> None:
    rest = memoryview(message(said))
    while rest:
        rest = rest[os.write(line, rest) :]


# ---------------------------------------------------------------- the life of a child


def serve(connection: Connection, stdout: Connection, stderr: Connection, runner: str) -> None:
    """What a child does from its start to its end: one order after the other, until the worker closes the line."""
    _begin_life()
    line, own = connection.fileno(), os.getpid()
    streams = Streams(stdout.fileno(), stderr.fileno())
    messages = Messages(msgspec.msgpack.Decoder(Order))
    try:
        _send(line, Ready())
        while data := os.read(line, CHUNK):
            for order in messages.of(data):
                streams.lead(order.capture)
                report = Report(line)
                answer = contextvars.copy_context().run(_carry_out, order, report, runner)
                if os.getpid() != own:  # the function forked, and both came back: only one of them answers
                    os._exit(0)
                streams.flush()
                report.end(answer)
    except ConnectionError:
        return  # the worker went away without a word; so do we


def _begin_life() -> None:
    import multiprocessing

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setpgid(0, 0)
    # Started as a daemon, so that a worker that ends without stopping us is not waited for; but a function may well
    # use multiprocessing itself, which daemons must not.
    multiprocessing.current_process().daemon = False
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_die_with, args=(parent,), name="eventq-parent", daemon=True).start()


def _die_with(parent: BaseProcess) -> None:
    """Wait for the worker's death; then end, also in the middle of a run. No process id decides about that: the
    worker holds the other end of a pipe."""
    parent.join()
    os.killpg(os.getpid(), signal.SIGKILL)  # our own group, and with it what the function has started


def _carry_out(order: Order, report: Report, runner: str) -> Returned | Raised:
    try:
        carry_out: Runner = found(runner)
        value = carry_out(order, found(order.target), report)
        return Returned(value, peak_memory())
    except BaseException as error:  # noqa: BLE001 - whatever the function raises ends its run, not the child
        return raised(error)


def raised(error: BaseException) -> Raised:
    """An exception in words, for the worker."""
    failure = failure_of(error)
    assert failure is not None
    kind = failure.type.replace(MAIN_AGAIN, "__main__", 1)
    text = f"sys.exit({error.code!r}) was called" if isinstance(error, SystemExit) else failure.message
    bases = tuple(class_name(cls) for cls in type(error).__mro__[:-1])
    delay = error.delay if isinstance(error, Retry) else None
    return Raised(Failure(kind, text, failure.traceback), bases, delay, peak_memory())


_found: dict[str, Any] = {}


def found(target: str) -> Any:
    """What `module:name` names. Imported once; an import that fails is tried again with the next run.

    Raises what importing raises, and ValueError or AttributeError if there is no such thing.
    """
    known = _found.get(target)
    if known is None:
        module, colon, path = target.partition(":")
        if not colon:
            raise ValueError(f"{target!r} names no target; write module:name")
        known = importlib.import_module(module)
        for name in path.split("."):
            known = getattr(known, name)
        _found[target] = known
    return known


def peak_memory() -> int:
    """The most memory that this process has had so far, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# ---------------------------------------------------------------- what it prints


class Streams:
    """Where this process's stdout and stderr lead: into the worker's pipes, or where the worker's own lead.

    The descriptors themselves are led there, so that C code and subprocesses are captured as `print` is. A text
    stream is written out with each line, as on a terminal.
    """

    def __init__(self, stdout: int, stderr: int) -> None:
        self._pipes = (stdout, stderr)
        self._own = (os.dup(1), os.dup(2))
        self._flush_c = _c_flush()
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def lead(self, capture: bool) -> None:
        """For the next run. Done each time: the last one may have led them elsewhere."""
        stdout, stderr = self._pipes if capture else self._own
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)

    def flush(self) -> None:
        """Write out what is buffered: it belongs to the run that ends."""
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError, AttributeError):
                continue  # closed, or replaced by the function; nothing of it is left to be had
        self._flush_c()


def _c_flush() -> Callable[[], object]:
    """Writes out what C code has printed and libc still buffers."""
    try:
        import ctypes

        libc = ctypes.CDLL(None)
    except (ImportError, OSError):
        return int  # a Python without ctypes: C code has to flush by itself
    return lambda: libc.fflush(None)
