"""Several processes of one command: those that die are replaced, and all of them stop together.

What is asked of a supervisor comes as signals:

    SIGTERM, SIGINT    the children get SIGTERM and `stop_timeout` seconds; a second signal kills them at once
    SIGHUP             the children are replaced, one after the other: a new release, without a gap

A child that dies is replaced at once; one that again and again dies within seconds of its start, after pauses that grow
to 30 s. A child that wants to be replaced, because it has done its number of tasks, exits with `RECYCLED`.

The children lead process groups of their own, so that Ctrl-C in a terminal reaches the supervisor alone. Each has the
one end of a pipe, of which the supervisor has the other: `stop_with_supervisor` tells a child when that has closed,
which it does however the supervisor ends.
"""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import threading
from typing import TYPE_CHECKING

from eventq import clock as clocks
from eventq.config import seconds
from eventq.errors import ConfigError
from eventq.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from eventq.clock import Clock

log: logging.Logger = logging.getLogger("eventq.supervisor")

RECYCLED = 86
"""The exit code of a child that asks for a successor. Neither shells, nor `sysexits.h`, nor eventq use it otherwise."""
USAGE = 2
"""The exit code of a child whose command line is wrong: before any child has run for a while, that is hopeless."""
FORCED = 130
"""The exit code of a supervisor that had to kill."""
VARIABLE = "EVENTQ_SUPERVISOR"
"""Tells a child the descriptor of its pipe and, so that nobody else's is taken for it, the inode."""

QUICK = 5.0
"""A child that dies within so many seconds of its start has died quickly."""
FIRST_PAUSE = 0.5
LAST_PAUSE = 30.0
STEADY = 1.0
"""In a rolling restart, a new child must have lived for so many seconds before the next old one is stopped. A broken
release so ends with the first child."""
LOOK_INTERVAL = 0.5
"""Seconds between two looks at the source files."""

NEVER = float("inf")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def pause(deaths: int) -> float:
    """Seconds before a child is replaced, after so many quick deaths in a row: 0, 0.5, 1, 2, 4 ... 30."""
    return 0.0 if deaths <= 1 else min(FIRST_PAUSE * 2.0 ** min(deaths - 2, 60), LAST_PAUSE)


class Child:
    """One of the children: a process, and after its end the next one."""

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.process: subprocess.Popen[bytes] | None = None
        self.started: float = 0.0
        self.due: float = 0.0
        """Without a process: when to start the next one."""
        self.deaths: int = 0
        """Quick ones, in a row."""
        self.kill_at: float | None = None
        """It was asked to stop, and has until then."""
        self.stale: bool = False
        """A rolling restart has yet to replace it."""
        self.done: bool = False
        """It has ended, and needs no successor."""
        self._lifeline = -1

    def start(self, command: Sequence[str], now: float) -> None:
        """Start a process. Raises OSError if there is no such program, or the system has no room."""
        theirs, ours = os.pipe()
        try:
            self.process = subprocess.Popen(  # noqa: S603 - the command is the user's
                command,
                stdin=subprocess.DEVNULL,
                env={**os.environ, VARIABLE: f"{theirs}:{os.fstat(theirs).st_ino}"},
                pass_fds=(theirs,),
                process_group=0,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._lifeline, self.started = ours, now

    def ended(self) -> int | None:
        """The exit code of a process that has just ended (minus the signal that killed it), once; else None."""
        code = None if self.process is None else self.process.poll()
        if code is not None:
            self.process, self.kill_at, self.stale = None, None, False
            self.let_go()
        return code

    def stop(self, until: float) -> None:
        """Ask the process to stop, until when it will be killed."""
        if self.process is not None and self.kill_at is None:
            self.kill_at = until
            self.process.terminate()

    def kill(self) -> None:
        """Kill the process, and those of its group that it has started."""
        if self.process is not None and self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # the latter on macOS, for one that ended just now
                log.debug("%s has ended by itself", self)

    def is_well(self, now: float) -> bool:
        """Whether a rolling restart may go on: it has ended for good, or runs and shows no sign of ending."""
        if self.process is None or self.kill_at is not None:
            return self.done
        return self.stale or self.started + STEADY <= now

    def let_go(self) -> None:
        """Close the pipe: a process that still runs stops by itself."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
        self._lifeline = -1

    def __str__(self) -> str:
        return f"worker {self.number}" + ("" if self.process is None else f" (pid {self.process.pid})")


class Supervisor:
    """Runs `processes` children of a command, until it is told to stop; see the module for how.

    `stop_timeout`: seconds between SIGTERM and SIGKILL; give it a few more than the children give their own work.
    `burst`: a child that exits by itself is done, and so is the supervisor once all of them are; one that is killed is
    replaced all the same. `reload`: files, and folders with Python files, that are looked at twice a second; when one
    of them changes, all children are replaced.
    """

    def __init__(
        self,
        command: Sequence[str],
        processes: int = 1,
        *,
        stop_timeout: float = 10.0,
        burst: bool = False,
        reload: Iterable[str | os.PathLike[str]] = (),
        clock: Clock = clocks.SYSTEM,
    ) -> None:
        if processes < 1:
            raise ConfigError(f"processes={processes}; at least 1")
        self.command: list[str] = list(command)
        self.children: list[Child] = [Child(number) for number in range(1, processes + 1)]
        self._stop_timeout = seconds("stop_timeout", stop_timeout)
        self._burst = burst
        self._files = SourceFiles(reload)
        self._clock = clock
        self._stopping = False
        self._code = 0
        """With which it will exit."""
        self._proven = False
        """A child was started, and ended neither quickly nor as one whose command is wrong."""
        self._started = False
        self._now = clock.monotonic()
        """One instant for all decisions of a turn: what is not yet due then is waited for."""
        self._next_look = self._now
        self._terminal = False

    def run(self) -> int:
        """Run the children until they have stopped, in the main thread; the exit code.

        0: stopped in order, or with `burst` all done. 130: it had to kill. 1: the command cannot be started, or its
        command line is wrong; with `burst`, a child failed.
        """
        self._terminal = has_terminal()
        try:
            with Wakeup() as wakeup, wakeup.hearing(SIGNALS):
                while not self._turn():
                    for number in wakeup.wait(self._patience()):
                        self._obey(number)
            return self._code
        finally:
            for child in self.children:
                child.let_go()

    def _turn(self) -> bool:
        """Do whatever is due. True once nothing runs, and nothing will."""
        self._now = self._clock.monotonic()
        self._reap()
        if not self._stopping:
            self._reload()
            self._roll()
            self._start()
        self._kill_the_late()
        if self._stopping:
            return all(child.process is None for child in self.children)
        return all(child.done for child in self.children)

    def _patience(self) -> float | None:
        """Seconds until something is due; None: until a signal comes."""
        dues = [child.kill_at for child in self.children if child.kill_at is not None]
        if not self._stopping:
            dues += [child.due for child in self.children if child.process is None and not child.done]
            if any(child.stale for child in self.children):
                dues += [child.started + STEADY for child in self.children if not child.stale and child.process]
            if self._files:
                dues.append(self._next_look)
        ahead = [due for due in dues if self._now < due < NEVER]
        return max(0.0, min(ahead) - self._clock.monotonic()) if ahead else None

    # ------------------------------------------------------------------ what it is told

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._hang_up()
        elif number != signal.SIGCHLD:
            name = signal.Signals(number).name
            if self._stopping:
                log.warning("%s: killing what still runs", name)
                self._force()
            else:
                log.info("%s: stopping, within %g s; a second signal kills", name, self._stop_timeout)
                self._stop()

    def _hang_up(self) -> None:
        """Replace the children, unless SIGHUP means what it is named for: then nobody is there to stop them later."""
        if self._stopping:
            return
        if self._terminal and not has_terminal():
            log.info("SIGHUP: the terminal was closed: stopping, within %g s", self._stop_timeout)
            self._stop()
            return
        log.info("SIGHUP: replacing the workers one after the other")
        for child in self.children:
            child.stale = child.process is not None

    def _stop(self) -> None:
        self._stopping = True
        for child in self.children:
            child.stop(self._clock.monotonic() + self._stop_timeout)

    def _force(self) -> None:
        for child in self.children:
            if child.process is not None:
                self._code = FORCED
                child.kill()

    # ------------------------------------------------------------------ what happens to children

    def _reap(self) -> None:
        for child in self.children:
            name, asked = str(child), child.kill_at is not None
            code = child.ended()
            if code is not None and not self._stopping:
                self._succeed(child, name, code, asked)

    def _succeed(self, child: Child, name: str, code: int, asked: bool) -> None:
        """Decide when a child that has ended gets a successor."""
        lived = self._now - child.started
        child.due = self._now
        if asked or code == RECYCLED:
            child.deaths = 0
            self._proven = True
            log.debug("%s is replaced", name)
        elif self._burst and code >= 0:
            child.done = True
            self._code = self._code or int(code != 0)
        elif code == USAGE and not self._proven and lived < QUICK:
            log.error("%s exited with %d: its command line is wrong, so no other is started", name, code)
            self._code = 1
            self._stop()
        else:
            self._proven = self._proven or lived >= QUICK
            child.deaths = child.deaths + 1 if lived < QUICK else 1
            child.due += pause(child.deaths)
            how = f"was killed by {signal_name(-code)}" if code < 0 else f"exited with {code}"
            log.warning("%s %s after %.1f s; replaced in %g s", name, how, lived, pause(child.deaths))

    def _start(self) -> None:
        for child in self.children:
            if child.process is not None or child.done or child.due > self._now:
                continue
            try:
                child.start(self.command, self._now)
            except OSError as error:
                if not self._started:
                    log.error("cannot start %s: %s", self.command[0], error.strerror)
                    self._code = 1
                    self._stop()
                    return
                child.deaths += 1
                wait = pause(max(2, child.deaths))
                child.due = self._now + wait
                log.error("cannot start %s: %s; trying again in %g s", child, error.strerror, wait)
            else:
                self._started = True
                log.debug("%s is started", child)

    def _kill_the_late(self) -> None:
        for child in self.children:
            if child.kill_at is not None and child.kill_at <= self._now:
                log.warning("%s has not stopped within %g s: killed", child, self._stop_timeout)
                child.kill_at = NEVER  # again
                child.kill()
                self._code = FORCED if self._stopping else self._code

    # ------------------------------------------------------------------ replacing children that are well

    def _roll(self) -> None:
        """Stop the next old child, if all that were replaced are well."""
        stale = [child for child in self.children if child.stale]
        if stale and all(child.is_well(self._now) for child in self.children):
            stale[0].stop(self._now + self._stop_timeout)

    def _reload(self) -> None:
        """Stop all children if a source file has changed."""
        if not self._files or self._now < self._next_look:
            return
        self._next_look = self._now + LOOK_INTERVAL
        if changed := self._files.changed():
            log.info("%s changed: replacing the workers", ", ".join(changed[:3]) + (" ..." if changed[3:] else ""))
            for child in self.children:
                child.deaths, child.due = 0, self._now
                child.stop(self._now + self._stop_timeout)


class SourceFiles:
    """Source files, and when each was changed. Folders stand for the Python files in them, at any depth."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self._paths = [os.fspath(path) for path in paths]
        self._seen = dict(self._look())

    def __bool__(self) -> bool:
        return bool(self._paths)

    def changed(self) -> list[str]:
        """The files that were changed, made or removed since the last look."""
        seen, self._seen = self._seen, dict(self._look())
        return sorted({path for path, _ in seen.items() ^ self._seen.items()})

    def _look(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for path in self._files():
            try:
                found = os.stat(path)
            except OSError:
                continue  # as good as removed
            yield path, (found.st_mtime_ns, found.st_size)

    def _files(self) -> Iterator[str]:
        for path in self._paths:
            if not os.path.isdir(path):
                yield path
            for folder, folders, names in os.walk(path):
                folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
                yield from (os.path.join(folder, name) for name in names if name.endswith(".py"))


# ---------------------------------------------------------------- in a child


def stop_with_supervisor(stop: Callable[[], object], environ: Mapping[str, str] | None = None) -> bool:
    """In a child: call `stop`, in a thread of its own, once the supervisor has ended. False if there is none."""
    number, _, inode = (os.environ if environ is None else environ).get(VARIABLE, "").partition(":")
    if not number.isdecimal() or not inode.isdecimal():
        return False
    lifeline = int(number)
    try:
        found = os.fstat(lifeline)
    except OSError:
        return False  # a child's child, which got the variable and not the pipe
    if not stat.S_ISFIFO(found.st_mode) or found.st_ino != int(inode):
        return False
    os.set_inheritable(lifeline, False)

    def watch() -> None:
        os.read(lifeline, 1)  # nobody ever writes
        log.warning("the supervisor has ended: stopping")
        stop()

    threading.Thread(target=watch, name="eventq-supervisor", daemon=True).start()
    return True


# ---------------------------------------------------------------- signals


def signal_name(number: int) -> str:
    """Its name, if it has one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def has_terminal() -> bool:
    """Whether standard input is the terminal that this process belongs to. No longer, once that was closed."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True
