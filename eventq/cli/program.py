"""A shell command that runs for one event, and dies with the worker that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

from eventq.model import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

TAIL_BYTES = 4096
"""So much of the end of stderr is kept with a failure."""

LIFELINE = """\
if [ -e /dev/fd/{fd} ]; then
  ( read -r end </dev/fd/{fd} || kill -9 -$$ ) </dev/null >/dev/null 2>&1 &
fi
exec /bin/sh -c "$1"
"""
"""The shell leads a process group of its own. In it, a second shell waits at a pipe whose other end only the
worker has. A worker that is done with the command writes a line there; one that was killed with -9 cannot, the
pipe closes, and the whole group is killed, before the event can run a second time beside the first for long."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    """The exit code; minus the signal that killed it."""
    output: bytes
    errors: str
    """The end of its stderr."""
    killed: bool
    """It was killed because this worker stops, which says nothing about the event."""
    late: float | None
    """It was killed after so many seconds."""

    def reason(self) -> str:
        """On one line, for people."""
        last = self.errors.strip().rpartition("\n")[2]
        return self._ending() + (f": {last}" if last else "")

    def failure(self) -> Failure:
        """For the event's record."""
        return Failure("CommandFailed", self._ending(), self.errors)

    def _ending(self) -> str:
        if self.late is not None:
            return f"killed after the timeout of {self.late:g} s"
        if self.code >= 0:
            return f"exit {self.code}"
        try:
            return f"killed by {signal.Signals(-self.code).name}"
        except ValueError:
            return f"killed by signal {-self.code}"


class Program:
    """One run of a command. `finish` feeds it and waits; `kill` may come from another thread at any time."""

    def __init__(self, command: str, environment: Mapping[str, str], *, capture: bool) -> None:
        self._lock = threading.Lock()
        self._killed = False
        self._reaped = False
        reader, self._lifeline = os.pipe()
        errors, stderr = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user named the command
                ["/bin/sh", "-c", LIFELINE.format(fd=reader), "sh", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if capture else None,
                stderr=stderr,
                env=environment,
                pass_fds=(reader,),
                start_new_session=True,  # Ctrl-C is for the worker, which lets its commands finish
            )
        except BaseException:
            os.close(self._lifeline)
            os.close(errors)
            raise
        finally:
            os.close(reader)
            os.close(stderr)
        self._tail = b""
        self._pump = threading.Thread(target=self._copy_errors, args=(errors,), daemon=True)
        self._pump.start()

    def finish(self, payload: bytes, timeout: float | None) -> Ended:
        """Give it the payload, wait for its end."""
        late = None
        try:
            try:
                output, _ = self._process.communicate(payload, timeout)
            except subprocess.TimeoutExpired:
                late = timeout
                self._signal_group()
                output, _ = self._process.communicate()
        finally:
            with self._lock:
                self._reaped = True
            self._let_go()
        self._pump.join(1.0)  # what the command left behind in the background may hold its stderr for ever
        code = self._process.returncode
        killed = self._killed and code == -signal.SIGKILL  # else it ended by itself just before
        return Ended(code, output or b"", self._tail.decode(errors="replace"), killed, late)

    def kill(self) -> None:
        """Kill it with everything it started; harmless when repeated, or when it has ended."""
        with self._lock:
            if not self._reaped:
                self._killed = True
                self._signal_group()

    def _signal_group(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it ended by itself a moment ago

    def _let_go(self) -> None:
        try:
            os.write(self._lifeline, b"\n")
        except BrokenPipeError:
            return  # the group was killed, the waiting shell with it
        finally:
            os.close(self._lifeline)

    def _copy_errors(self, fd: int) -> None:
        echo = True
        try:
            while data := os.read(fd, 65536):
                self._tail = (self._tail + data)[-TAIL_BYTES:]
                echo = echo and _echo(data)
        finally:
            os.close(fd)


def _echo(data: bytes) -> bool:
    """Show it on this process's stderr; False once nobody reads that, which must not stop the command."""
    try:
        sys.stderr.write(data.decode(errors="replace"))
        sys.stderr.flush()
    except OSError:
        return False
    return True
