"""The supervisor, with real processes: what it starts, replaces, stops and leaves behind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import eventq
from eventq import ConfigError, clock
from eventq.supervisor import (
    FORCED,
    LAST_PAUSE,
    QUICK,
    RECYCLED,
    STEADY,
    USAGE,
    VARIABLE,
    Child,
    SourceFiles,
    Supervisor,
    pause,
    stop_with_supervisor,
)
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PYTHON = [sys.executable, "-S", "-E"]

CHILD = """
import os, signal, subprocess, sys, time
log, mode_file = sys.argv[1:]

def say(word):
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{word} {os.getpid()} {time.monotonic()}\\n".encode())
    os.close(file)

def stop(*_):
    say("term")
    sys.exit(0)

mode = open(mode_file).read()
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in mode else stop)
if "parent" in mode:
    say(f"grandchild:{subprocess.Popen(['sleep', '1000']).pid}")
if "speaks" in mode:
    print("from the child", flush=True)
    print("and its trouble", file=sys.stderr, flush=True)
if "watched" in mode:
    sys.path[:0] = mode.split()[1:]
    from eventq.supervisor import stop_with_supervisor
    assert stop_with_supervisor(lambda: (say("alone"), os.kill(os.getpid(), signal.SIGTERM)))
say("start")
if "exit" in mode:
    sys.exit(int(mode.split()[1]))
while True:
    signal.pause()
"""
"""Says in a log what happens to it, and does what a file says."""

DRIVER = """
import json, logging, sys
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(message)s")
from eventq import supervisor
command, processes, options = json.loads(sys.argv[1])
supervisor.STEADY = options.pop("steady", supervisor.STEADY)
sys.exit(supervisor.Supervisor(command, processes, **options).run())
"""


class Line(NamedTuple):
    word: str
    pid: int
    at: float


def until(fact: Callable[[], Any], what: str, limit: float = 30.0) -> Any:
    """What a fact comes to, once it is true; waits at most so long."""
    deadline = clock.SYSTEM.monotonic() + limit
    while not (found := fact()):
        assert clock.SYSTEM.monotonic() < deadline, f"not within {limit} s: {what}"
        clock.sleep(0.005)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has buried does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # it ended in between, or this system has no /proc
        return not Path("/proc/self").exists()


class Stage:
    """A supervisor in a process of its own, and what its children say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.said = folder / "stderr"
        self.child = folder / "child.py"
        self.child.write_text(CHILD)
        self.command = [*PYTHON, str(self.child), str(self.log), str(folder / "mode")]
        self.process: subprocess.Popen[bytes]
        self.do("steady")

    def do(self, mode: str) -> None:
        """What children that start from now on do."""
        path = self.folder / "new-mode"
        path.write_text(mode)
        path.rename(self.folder / "mode")

    def run(self, processes: int = 1, *, command: list[str] | None = None, **options: Any) -> Stage:
        given = json.dumps([command or self.command, processes, {"stop_timeout": 60.0, **options}])
        with self.said.open("wb") as errors, (self.folder / "stdout").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, given],
                stdout=output,
                stderr=errors,
                cwd=Path(eventq.__file__).parents[1],
                process_group=0,
            )
        return self

    def lines(self, word: str = "") -> list[Line]:
        if not self.log.exists():
            return []
        parts = [line.split() for line in self.log.read_text().split("\n")[:-1]]
        return [Line(each, int(pid), float(at)) for each, pid, at in parts if each.startswith(word)]

    def wait_for(self, word: str, count: int = 1) -> list[Line]:
        """The lines of that word, once there are so many."""

        def enough() -> bool:
            return len(self.lines(word)) >= count

        until(enough, f"{count} times {word!r}; there is {self.lines()}")
        return self.lines(word)

    def wait_said(self, text: str) -> str:
        """What the supervisor has logged, once that has this text."""
        until(lambda: text in self.said.read_text(), f"{text!r} in its log")
        return self.said.read_text()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Its exit code."""
        return self.process.wait(30)

    def nobody_is_left(self) -> None:
        for line in self.lines():
            until(lambda pid=line.pid: not alive(pid), f"the end of {line}")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    if hasattr(stage, "process") and stage.process.poll() is None:
        stage.process.kill()
        stage.process.wait(30)
    for pid in {line.pid for line in stage.lines()}:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


# ---------------------------------------------------------------- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_children_in_order(stage: Stage, number: signal.Signals) -> None:
    stage.run(3)
    started = {line.pid for line in stage.wait_for("start", 3)}
    assert len(started) == 3
    stage.send(number)
    assert stage.end() == 0
    assert {line.pid for line in stage.lines("term")} == started
    stage.nobody_is_left()


def test_a_second_signal_kills(stage: Stage) -> None:
    stage.do("stubborn")
    stage.run(2).wait_for("start", 2)
    stage.send(signal.SIGTERM)
    stage.wait_said("a second signal kills")
    assert stage.process.poll() is None
    stage.send(signal.SIGINT)
    assert stage.end() == FORCED == 130
    assert stage.lines("term") == []
    stage.nobody_is_left()


@pytest.mark.exhaustive
def test_the_end_of_the_grace_kills_with_all_that_was_started(stage: Stage) -> None:
    stage.do("stubborn parent")
    stage.run(1, stop_timeout=0.2).wait_for("start")
    (line,) = stage.lines("grandchild")
    grandchild = int(line.word.partition(":")[2])
    assert alive(grandchild)
    stage.send(signal.SIGTERM)
    assert stage.end() == FORCED
    until(lambda: not alive(grandchild), "the end of the child's child")


def test_children_lead_their_own_groups_and_keep_the_output(stage: Stage) -> None:
    stage.do("speaks")
    (line,) = stage.run().wait_for("start")
    assert os.getpgid(line.pid) == line.pid  # Ctrl-C in a terminal does not reach them
    stage.wait_said("and its trouble")
    assert (stage.folder / "stdout").read_text() == "from the child\n"
    stage.send(signal.SIGTERM)
    assert stage.end() == 0


@pytest.mark.exhaustive
def test_children_stop_when_the_supervisor_was_killed(stage: Stage) -> None:
    stage.do(f"watched {' '.join(sys.path)}")
    started = {line.pid for line in stage.run(2).wait_for("start", 2)}
    stage.send(signal.SIGKILL)
    assert stage.end() == -signal.SIGKILL
    assert {line.pid for line in stage.wait_for("alone", 2)} == started
    assert {line.pid for line in stage.wait_for("term", 2)} == started
    stage.nobody_is_left()


def test_a_closed_terminal_stops(stage: Stage) -> None:
    """SIGHUP as the kernel sends it; nobody could reach a supervisor that took it for a restart."""
    terminal, its_end = pty.openpty()
    real = subprocess.Popen

    def with_terminal(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(its_end, termios.TIOCSCTTY, 0)

        return real(*args, **{**options, "stdin": its_end, "preexec_fn": take_terminal, "process_group": None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", with_terminal)
        stage.run(2)
    os.close(its_end)
    stage.wait_for("start", 2)
    os.close(terminal)
    assert stage.end() == 0
    assert len(stage.lines("term")) == 2
    assert "the terminal was closed" in stage.said.read_text()


# ---------------------------------------------------------------- replacing the dead


def test_a_killed_child_is_replaced_at_once(stage: Stage) -> None:
    first, other = stage.run(2).wait_for("start", 2)
    os.kill(first.pid, signal.SIGKILL)
    pids = {line.pid for line in stage.wait_for("start", 3)}
    assert len(pids) == 3
    assert alive(other.pid)
    assert "was killed by SIGKILL" in stage.wait_said("replaced in 0 s")
    stage.send(signal.SIGTERM)
    assert stage.end() == 0
    assert {line.pid for line in stage.lines("term")} == pids - {first.pid}


@pytest.mark.exhaustive
def test_a_child_that_always_dies_is_replaced_ever_more_slowly(stage: Stage) -> None:
    stage.do("exit 1")
    stage.run()
    said = stage.wait_said("replaced in 1 s")
    delays = [line.rpartition("replaced in ")[2] for line in said.splitlines() if "replaced in" in line]
    assert delays == ["0 s", "0.5 s", "1 s"]
    starts = [line.at for line in stage.lines("start")]
    assert len(starts) == 3
    assert starts[2] - starts[1] >= 0.5
    stage.send(signal.SIGTERM)  # ends the pause, too
    assert stage.end() == 0
    assert len(stage.lines("start")) == 3


@pytest.mark.exhaustive
def test_a_child_that_recycles_is_replaced_silently(stage: Stage) -> None:
    stage.do(f"exit {RECYCLED}")
    stage.run().wait_for("start", 8)  # with pauses, that would take more than half a minute
    stage.do("steady")
    stage.wait_for("start", len(stage.lines("start")) + 1)
    stage.send(signal.SIGTERM)
    assert stage.end() == 0
    assert "WARNING" not in stage.said.read_text()


def test_a_command_that_cannot_be_started(stage: Stage) -> None:
    assert stage.run(2, command=["/no/such/program"]).end() == 1
    assert "cannot start /no/such/program: No such file or directory" in stage.said.read_text()


def test_a_wrong_command_line_is_hopeless(stage: Stage) -> None:
    stage.do(f"exit {USAGE}")
    assert stage.run().end() == 1
    assert len(stage.lines("start")) == 1
    assert "its command line is wrong" in stage.said.read_text()


@pytest.mark.exhaustive
def test_a_program_that_is_missing_for_a_while(stage: Stage) -> None:
    program = stage.folder / "program"
    program.write_text(f"#!/bin/sh\nexec {' '.join(stage.command)}\n")
    program.chmod(0o755)
    (first,) = stage.run(command=[str(program)]).wait_for("start")
    program.rename(stage.folder / "away")
    os.kill(first.pid, signal.SIGKILL)
    stage.wait_said("trying again in 0.5 s")
    (stage.folder / "away").rename(program)
    stage.wait_for("start", 2)
    stage.send(signal.SIGTERM)
    assert stage.end() == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize(("mode", "code"), [("exit 0", 0), ("exit 1", 1)])
def test_a_burst_ends_with_its_children(stage: Stage, mode: str, code: int) -> None:
    stage.do(mode)
    assert stage.run(3, burst=True).end() == code
    assert len(stage.lines("start")) == 3


def test_a_killed_child_of_a_burst_is_replaced(stage: Stage) -> None:
    (first,) = stage.run(1, burst=True).wait_for("start")
    stage.do("exit 0")
    os.kill(first.pid, signal.SIGKILL)
    assert stage.end() == 0
    assert len(stage.lines("start")) == 2


# ---------------------------------------------------------------- replacing the living


@pytest.mark.exhaustive
def test_a_rolling_restart_replaces_one_after_the_other(stage: Stage) -> None:
    old = {line.pid for line in stage.run(2, steady=0.1).wait_for("start", 2)}
    stage.send(signal.SIGHUP)
    stage.wait_for("start", 4)
    did = [line.split() for line in stage.said.read_text().splitlines() if line.startswith("DEBUG")]
    assert [f"{words[2]} {words[-1]}" for words in did] == [
        "1 started", "2 started", "1 replaced", "1 started", "2 replaced", "2 started",
    ]  # fmt: skip
    assert {line.pid for line in stage.lines("term")} == old
    stage.send(signal.SIGTERM)
    assert stage.end() == 0
    assert "WARNING" not in stage.said.read_text()


@pytest.mark.exhaustive
def test_a_broken_release_stops_at_the_first_child(stage: Stage) -> None:
    old = {line.pid for line in stage.run(3, steady=30.0).wait_for("start", 3)}
    stage.do("exit 1")
    stage.send(signal.SIGHUP)
    stage.wait_said("replaced in 1 s")
    (ended,) = stage.lines("term")
    assert all(alive(pid) for pid in old - {ended.pid})


@pytest.mark.exhaustive
def test_reload_replaces_all_when_a_file_changes(stage: Stage) -> None:
    package = stage.folder / "shop"
    package.mkdir()
    (package / "tasks.py").write_text("a = 1")
    stage.run(2, reload=[str(package)]).wait_for("start", 2)
    (package / "tasks.py").write_text("a = 10")
    stage.wait_for("start", 4)
    assert "shop/tasks.py changed" in stage.said.read_text()
    (package / "new.py").write_text("")
    stage.wait_for("start", 6)
    assert len(stage.lines("term")) == 4
    stage.send(signal.SIGTERM)
    assert stage.end() == 0


def test_reload_ends_the_pauses(tmp_path: Path) -> None:
    source = tmp_path / "tasks.py"
    source.write_text("broken")
    time = FakeClock()
    supervisor = Supervisor(["false"], clock=time, reload=[source])
    (child,) = supervisor.children
    child.deaths, child.due = 7, 16.0
    supervisor._reload()
    assert (child.deaths, child.due) == (7, 16.0)
    source.write_text("repaired")
    supervisor._reload()  # half a second later, not before
    assert child.due == 16.0
    time.advance(0.5)
    supervisor._now = time.monotonic()
    supervisor._reload()
    assert (child.deaths, child.due) == (0, 0.5)


def test_source_files(tmp_path: Path) -> None:
    (tmp_path / "shop" / "__pycache__").mkdir(parents=True)
    (tmp_path / "shop" / ".hidden").mkdir()
    (tmp_path / "single.py").write_text("1")
    files = SourceFiles([tmp_path / "shop", str(tmp_path / "single.py"), tmp_path / "later.py"])
    assert files
    assert not SourceFiles([])
    assert files.changed() == []
    for path in ("shop/a.py", "shop/a.txt", "shop/__pycache__/a.py", "shop/.hidden/a.py", "later.py", "other.py"):
        (tmp_path / path).write_text("1")
    assert files.changed() == [str(tmp_path / "later.py"), str(tmp_path / "shop" / "a.py")]
    assert files.changed() == []
    (tmp_path / "single.py").write_text("10")
    (tmp_path / "shop" / "a.py").unlink()
    assert {Path(path).name for path in files.changed()} == {"single.py", "a.py"}
    os.utime(tmp_path / "single.py", (1, 1))
    assert files.changed() == [str(tmp_path / "single.py")]


# ---------------------------------------------------------------- its rules, by themselves


def test_the_pauses_grow_to_half_a_minute() -> None:
    assert [pause(deaths) for deaths in range(10)] == [0, 0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert pause(10**6) == LAST_PAUSE == 30


def test_a_child_that_lived_for_a_while_is_forgiven() -> None:
    time = FakeClock()
    supervisor = Supervisor(["false"], clock=time)
    (child,) = supervisor.children

    def die_after(seconds: float, code: int = 1, *, asked: bool = False) -> float:
        """How long the supervisor then waits."""
        child.started = time.monotonic()
        time.advance(seconds)
        supervisor._now = time.monotonic()
        supervisor._succeed(child, "it", code, asked)
        return child.due - time.monotonic()

    assert [die_after(1) for _ in range(4)] == [0, 0.5, 1, 2]
    assert die_after(QUICK) == 0
    assert [die_after(QUICK - 0.1, -9) for _ in range(2)] == [0.5, 1]
    assert die_after(0, RECYCLED) == 0
    assert [die_after(1, USAGE) for _ in range(2)] == [0, 0.5]  # others have run: the line was right once
    assert die_after(1, 0, asked=True) == 0


def test_a_rolling_restart_waits_until_a_new_child_is_steady() -> None:
    child = Child(1)
    assert not child.is_well(0.0)
    child.start(["sleep", "1000"], 5.0)
    try:
        assert not child.is_well(5.0 + STEADY - 0.1)
        assert child.is_well(5.0 + STEADY)
        child.stale = True
        assert child.is_well(5.0)  # an old one, which was well before
        child.stop(60.0)
        assert not child.is_well(50.0)
        assert until(child.ended, "its end") == -signal.SIGTERM
        assert not child.is_well(50.0)
        assert child.ended() is None
        child.done = True
        assert child.is_well(50.0)
    finally:
        child.kill()


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Supervisor(["true"], 0)
    with pytest.raises(ConfigError, match="stop_timeout"):
        Supervisor(["true"], stop_timeout=-1)


def test_it_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    handlers = [signal.getsignal(number) for number in numbers]
    free = os.dup(0)
    os.close(free)
    assert Supervisor(["true"], 3, burst=True).run() == 0
    assert [signal.getsignal(number) for number in numbers] == handlers
    assert signal.set_wakeup_fd(-1) == -1
    again = os.dup(0)
    os.close(again)
    assert again == free


# ---------------------------------------------------------------- the child's side


def test_a_child_hears_of_the_end() -> None:
    ours, theirs = os.pipe()
    heard = threading.Event()
    environ = {VARIABLE: f"{ours}:{os.fstat(ours).st_ino}"}
    os.set_inheritable(ours, True)
    assert stop_with_supervisor(heard.set, environ)
    assert not os.get_inheritable(ours)
    assert not heard.is_set()
    os.close(theirs)
    assert heard.wait(20)
    os.close(ours)


def test_what_is_not_its_pipe_is_left_alone(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    with (tmp_path / "file").open("w") as file:
        for text in ("", "5", f"{ours}:1", f"x:{os.fstat(ours).st_ino}", f"99999:{os.fstat(ours).st_ino}",
                     f"{file.fileno()}:{os.fstat(file.fileno()).st_ino}"):  # fmt: skip
            assert not stop_with_supervisor(pytest.fail, {VARIABLE: text})
    assert not stop_with_supervisor(pytest.fail, {})
    assert stat.S_ISFIFO(os.fstat(theirs).st_mode)
    os.close(ours)
    os.close(theirs)
