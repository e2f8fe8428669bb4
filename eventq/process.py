"""Child processes that run tasks apart from the worker: `executor="process"`.

For what needs a processor to itself, must be ended on time whatever it does, or may crash. The worker has one thread
for each running event; such a thread borrows a child, sends it one order, passes on what it says, and gets an answer.

Starting a child imports what it runs (and, as multiprocessing does it, the script that the worker was started with,
which therefore needs its `if __name__ == "__main__":`); a call in a child that is up costs about a tenth of a
millisecond. Children come from a fork server and inherit no descriptor of the worker's: no lock and no store.
"""

from __future__ import annotations

import codecs
import logging
import math
import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING

import msgspec

from eventq import clock
from eventq.child import CHUNK, RUNNER, Messages, Noted, Order, Raised, Returned, Said, message, serve
from eventq.config import at_least_one
from eventq.storage.base import LOOK_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext, SpawnContext
    from multiprocessing.process import BaseProcess

log: logging.Logger = logging.getLogger("eventq.process")

GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL."""
UNKILLABLE = 10.0
"""Seconds after which a child that survives SIGKILL (it hangs in the kernel) is left to the fork server."""
STARTS = 2
"""A child that dies before it takes the order has not run it, so another one is started; but not for ever."""
LEFT_OVER = 1 << 20
"""Bytes of output that are still read after the answer. A pipe holds less, so this is all that the run wrote; what a
thread or subprocess that it left behind goes on writing must not keep the worker."""

_processes = threading.Lock()
"""Held to start and to reap: multiprocessing looks at all its processes then, and two threads would take the same
exit code away from each other."""


# ---------------------------------------------------------------- how a run ends


class Died(msgspec.Struct, frozen=True):
    """The child died while it ran the function."""

    how: str
    """`killed by SIGKILL`, `exit code 3`."""
    began: bool = True
    """False: it died while it started, and the function was not called."""


class TimedOut(msgspec.Struct, frozen=True):
    """The deadline passed; the child was killed."""


class Cancelled(msgspec.Struct, frozen=True):
    """The run was cancelled; the child was killed."""


class Stopped(msgspec.Struct, frozen=True):
    """The children were stopped before the run had ended, or begun."""


Answer = Returned | Raised | Died | TimedOut | Cancelled | Stopped


def _never() -> bool:
    return False


def _ignored(kind: str, data: object) -> None:
    """Nobody listens."""


class Oversight(msgspec.Struct, frozen=True):
    """How a worker watches over one run. The functions are called in the thread that waits for it."""

    deadline: float | None = None
    """When it has to be over, on the monotonic clock; that it waits for a child and for its start counts."""
    cancelled: Callable[[], bool] = _never
    """Asked four times a second."""
    on_note: Callable[[str, bytes], object] = _ignored
    """Gets kind and data (JSON) of each note."""
    on_output: Callable[[str, str], object] = _ignored
    """Gets `stdout` or `stderr` and a piece of text, in the order in which that stream was written."""
    grace: float = GRACE
    """Seconds between SIGTERM and SIGKILL."""

    def ended(self) -> TimedOut | Cancelled | None:
        """Why the run must not go on; None: it may."""
        if self.cancelled():
            return Cancelled()
        if self.deadline is not None and clock.SYSTEM.monotonic() >= self.deadline:
            return TimedOut()
        return None

    def pause(self) -> float:
        """Seconds until it is time to look again."""
        if self.deadline is None:
            return LOOK_INTERVAL
        return min(LOOK_INTERVAL, max(0.0, self.deadline - clock.SYSTEM.monotonic()))


def in_script_again() -> bool:
    """Whether the script that was started as `__main__` is running again, imported by a child that is starting.

    A worker that is run by then would claim events inside the child; so it refuses, and names the missing
    `if __name__ == "__main__":`.
    """
    process = sys.modules.get("multiprocessing.process")
    return process is not None and bool(getattr(process.current_process(), "_inheriting", False))


# ---------------------------------------------------------------- one child


class Output:
    """The text of one run's streams, passed on as it comes. Bytes may be cut anywhere; what is no UTF-8 is replaced."""

    __slots__ = ("_decoders", "_listener")

    def __init__(self, listener: Callable[[str, str], object]) -> None:
        self._listener = listener
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    def of(self, stream: str, data: bytes, *, last: bool = False) -> None:
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
        if text := decoder.decode(data, last):
            self._listener(stream, text)

    def end(self) -> None:
        for stream in self._decoders:
            self.of(stream, b"", last=True)


class Child:
    """A child process, as the thread sees it that has borrowed it. Only `kill` is for others, too.

    Reads and writes never block: what the child does or leaves undone cannot keep the worker past a deadline.
    """

    def __init__(self, context: ForkServerContext | SpawnContext, runner: str) -> None:
        """Start it. Raises OSError or EOFError if the system gives no process or no descriptors."""
        self._process, (line, stdout, stderr) = _started(context, runner)
        self._ends = (line, stdout, stderr)
        self._line: int = line.fileno()
        self._sentinel: int = self._process.sentinel
        self._streams: dict[int, str] = {stdout.fileno(): "stdout", stderr.fileno(): "stderr"}
        self.pid: int | None = self._process.pid
        """None once it has ended."""
        self.calls: int = 0
        self.peak: int = 0
        """The most memory that it has had, in bytes, as it said last."""
        self._ready = False
        self._hung_up = False
        self._how = ""
        self._unsent = memoryview(b"")
        self._output: Output | None = None
        """Whose output it is; that from between two runs belongs to none, and is dropped."""
        self._messages: Messages[Said] = Messages(msgspec.msgpack.Decoder(Said))
        self._poll = select.poll()
        self._poll.register(self._sentinel, select.POLLIN)
        for descriptor in (self._line, *self._streams):
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)

    def is_idle(self) -> bool:
        """Whether it lives and waits for an order."""
        ready = self._look(0.0)
        self._relay(ready)
        return not ready & {self._line, self._sentinel}

    def call(self, order: bytes, oversight: Oversight) -> Answer:
        """Have an order carried out. After any answer but `Returned` and `Raised` the child has ended.

        Raises only what the functions of the oversight raise; then it has ended as well.
        """
        self.calls += 1
        self._output = output = Output(oversight.on_output)
        self._unsent = memoryview(order)
        answer: Answer | None = None
        try:
            self._send()
            while answer is None and (answer := oversight.ended()) is None:
                answer = self._turn(oversight.pause(), oversight)
            if isinstance(answer, TimedOut | Cancelled):
                self._force(oversight)
            output.end()
        except BaseException:
            self._output = None
            self.end(0.0)
            raise
        self._output = None
        return answer

    # ------------------------------------------------------------------ its end

    def dismiss(self) -> None:
        """Hang up: it ends once it has nothing to do. `end` waits for that."""
        if not self._hung_up:
            self._hung_up = True
            self._unsent = memoryview(b"")
            self._poll.unregister(self._line)
            self._ends[0].close()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to it and to what it has started; harmless if it has ended. Any thread may do it."""
        with _processes:
            if self.pid is None:
                return
            for send in (os.killpg, os.kill):  # in its first milliseconds it has no group of its own yet
                try:
                    send(self.pid, number)
                    return
                except (ProcessLookupError, PermissionError):  # gone; of a zombie's group, macOS says the latter
                    continue

    def end(self, grace: float = GRACE) -> None:
        """Dismiss it, kill it if it is not gone after the grace, and free what it occupies here."""
        if self.pid is None:
            return
        self.dismiss()
        if not self._gone_within(grace):
            self.kill()
            if not self._gone_within(UNKILLABLE):
                log.error("child process %d survives SIGKILL, it hangs in the system; left to its fate", self.pid)
        self._relay(self._streams, LEFT_OVER)
        with _processes:
            self._process.join(0.05)  # the sentinel has told of its end; its exit code is there, or about to be
            code = self._process.exitcode
            self._how = how(code)
            self.pid = None
            if code is not None:
                self._process.close()
        _close(self._ends)

    def _force(self, oversight: Oversight) -> None:
        """SIGTERM, SIGKILL after the grace. What the function notes and prints meanwhile still counts."""
        self.kill(signal.SIGTERM)
        until = clock.SYSTEM.monotonic() + oversight.grace
        while (left := until - clock.SYSTEM.monotonic()) > 0:
            if self._turn(left, oversight) is not None:
                break  # gone; or the function caught the signal, and came to its end
        self.kill()
        self.end(0.0)

    def _gone_within(self, seconds: float) -> bool:
        until = clock.SYSTEM.monotonic() + seconds
        while self._sentinel not in (ready := self._look(max(0.0, until - clock.SYSTEM.monotonic()))):
            if clock.SYSTEM.monotonic() >= until:
                return False
            self._relay(ready)  # it may still be writing, and must not wait for us
        return True

    # ------------------------------------------------------------------ talking with it

    def _turn(self, seconds: float, oversight: Oversight) -> Returned | Raised | Died | None:
        """Wait until it says something, for some seconds at most, and pass that on. Its answer, if there is one."""
        ready = self._look(seconds)
        if self._unsent:
            self._send()
        gone = self._sentinel in ready
        answer = self._hear(oversight, to_the_end=gone) if gone or self._line in ready else None
        if answer is not None:
            self.peak = answer.peak
            self._relay(self._streams, LEFT_OVER)  # all that was written before the answer
            return answer
        if gone or self._hung_up:  # it is dead, or about to be: its descriptors are closed first
            self.end(oversight.grace)
            return Died(self._how, began=self._ready)
        self._relay(ready)
        return None

    def _look(self, seconds: float) -> set[int]:
        """The descriptors that have something to tell, as soon as there are any."""
        return {descriptor for descriptor, _ in self._poll.poll(math.ceil(seconds * 1000))}

    def _send(self) -> None:
        """Go on sending the order, as far as the child takes it now."""
        try:
            sent = os.write(self._line, self._unsent)
        except BlockingIOError:
            sent = 0
        except ConnectionError:  # it is dead, which the next look tells
            sent = len(self._unsent)
        self._unsent = self._unsent[sent:]
        self._poll.modify(self._line, select.POLLIN | (select.POLLOUT if self._unsent else 0))

    def _hear(self, oversight: Oversight, *, to_the_end: bool) -> Returned | Raised | None:
        """Pass on its notes; its answer, if it comes. One read a turn: no flood of notes outruns the deadline."""
        while not self._hung_up and (data := _read(self._line)) is not None:
            if not data:
                self.dismiss()
            for said in self._messages.of(data):
                if isinstance(said, Returned | Raised):
                    return said
                if isinstance(said, Noted):
                    oversight.on_note(said.kind, said.data)
                else:
                    self._ready = True
            if not to_the_end:
                break
        return None

    def _relay(self, descriptors: Iterable[int], limit: int = CHUNK) -> None:
        """Pass on what stands in its pipes, up to a limit for each."""
        for descriptor in [each for each in descriptors if each in self._streams]:
            left = limit
            while left > 0 and (data := _read(descriptor)) is not None:
                if not data:  # closed by the child; poll would tell of it for ever
                    self._poll.unregister(descriptor)
                    del self._streams[descriptor]
                    break
                left -= len(data)
                if self._output is not None:
                    self._output.of(self._streams[descriptor], data)


def _started(
    context: ForkServerContext | SpawnContext, runner: str
) -> tuple[BaseProcess, tuple[Connection, Connection, Connection]]:
    """A new process, and our ends of its line, its stdout and its stderr."""
    ends: list[Connection] = []
    try:
        for duplex in (True, False, False):
            ends += context.Pipe(duplex)
        process = context.Process(target=serve, args=(*ends[1::2], runner), name="eventq-child", daemon=True)
        with _processes:
            process.start()
    except BaseException:
        _close(ends)
        raise
    _close(ends[1::2])
    return process, (ends[0], ends[2], ends[4])


def _close(ends: Iterable[Connection]) -> None:
    for end in ends:
        end.close()  # harmless when repeated


def _read(descriptor: int) -> bytes | None:
    """What stands there; empty at its end, None if there is nothing yet."""
    try:
        return os.read(descriptor, CHUNK)
    except BlockingIOError:
        return None
    except ConnectionError:  # a socket whose other end died with something unread
        return b""


def how(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "hangs in the system"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-code}"


# ---------------------------------------------------------------- all of a worker's


class Children:
    """The child processes of one worker, started as they are needed, up to a limit. Any thread may use it.

    A child is kept for the next run; it is replaced when it had to be killed, has died, has run `recycle_after`
    orders, or has had more than `recycle_bytes` of memory at once. What a run leaves in its process (modules,
    globals, the working directory, threads) is there for the next one.

    A new child imports eventq and the task's module, which `multiprocessing.set_forkserver_preload(["shop"])` spares it
    if called before the first one is started. Environment variables are those of the time when the fork server was.
    """

    def __init__(
        self,
        limit: int,
        *,
        runner: str = RUNNER,
        recycle_after: int | None = None,
        recycle_bytes: int | None = None,
    ) -> None:
        import multiprocessing

        self._context: ForkServerContext | SpawnContext
        if "forkserver" in multiprocessing.get_all_start_methods():
            self._context = multiprocessing.get_context("forkserver")
        else:
            self._context = multiprocessing.get_context("spawn")
        self._limit = at_least_one(limit)
        self._runner = runner
        self._recycle_after = math.inf if recycle_after is None else recycle_after
        self._recycle_bytes = math.inf if recycle_bytes is None else recycle_bytes
        self._changed = threading.Condition()
        self._idle: list[Child] = []
        self._busy: list[Child] = []
        self._places = 0
        self._stopped = self._killed = False

    def warm(self) -> None:
        """Start the fork server now, so that the first run does not wait for it."""
        if self._context.get_start_method() == "forkserver":
            from multiprocessing import forkserver

            with _processes:
                forkserver.ensure_running()

    def pids(self) -> list[int]:
        """The processes that there are now, idle or not."""
        with self._changed:
            return [child.pid for child in (*self._idle, *self._busy) if child.pid is not None]

    def run(self, order: Order, oversight: Oversight) -> Answer:
        """Have a child carry out an order; blocks until there is an answer, whatever the function does.

        Waits for a child if all of them are busy. Raises only what the functions of the oversight raise (then the
        child is killed), and what msgspec raises if the headers cannot be encoded.
        """
        data = message(order)
        refusal = self._take_place(oversight)
        if refusal is not None:
            return refusal
        try:
            answer = self._run(data, oversight)
        finally:
            with self._changed:
                self._places -= 1
                self._changed.notify_all()
        return Stopped() if self._killed and isinstance(answer, Died) else answer

    def stop(self, kill: bool = False) -> None:
        """End all children, and wait until they are gone. Further runs are answered with `Stopped`.

        Waits until the runs that have begun have ended; with `kill` they are killed, and answered with `Stopped`.
        Harmless when repeated, also to kill what another thread waits for.
        """
        with self._changed:
            self._stopped = True
            self._killed = self._killed or kill
            idle, self._idle = self._idle, []
            if kill:
                for child in self._busy:
                    child.kill()
            self._changed.notify_all()
        for child in idle:
            child.dismiss()  # all of them first: they end side by side
        for child in idle:
            child.end()
        with self._changed:
            self._changed.wait_for(lambda: self._places == 0)

    # ------------------------------------------------------------------ borrowing

    def _take_place(self, oversight: Oversight) -> TimedOut | Cancelled | Stopped | None:
        """Wait until a child may be used; or why there is no point in it any more."""
        with self._changed:
            while not self._stopped:
                ended = oversight.ended()
                if ended is not None:
                    return ended
                if self._places < self._limit:
                    self._places += 1
                    return None
                self._changed.wait(oversight.pause())
            return Stopped()

    def _run(self, order: bytes, oversight: Oversight) -> Answer:
        answer: Answer = Stopped()
        for _ in range(STARTS):
            try:
                child = self._borrowed()
            except (OSError, EOFError) as error:
                return Died(f"could not be started: {error}", began=False)
            try:
                answer = child.call(order, oversight)
            finally:
                self._give_back(child)
            if not isinstance(answer, Died) or answer.began:
                return answer
        if isinstance(answer, Died):
            hint = 'a script needs its `if __name__ == "__main__":`; the worker\'s stderr has the error'
            return Died(f"{answer.how} while it started ({hint})", began=False)
        return answer

    def _borrowed(self) -> Child:
        """A child that waits for an order, or a new one."""
        while True:
            with self._changed:
                child = self._idle.pop() if self._idle else None  # the last one used: its caches are warm
            if child is None:
                child = Child(self._context, self._runner)
            elif not child.is_idle():  # died between two runs
                child.end()
                continue
            with self._changed:
                self._busy.append(child)
                if self._killed:
                    child.kill()
            return child

    def _give_back(self, child: Child) -> None:
        worn = child.calls >= self._recycle_after or child.peak > self._recycle_bytes
        with self._changed:
            self._busy.remove(child)
            if child.pid is not None and not worn and not self._stopped:
                self._idle.append(child)
                return
        child.end()
