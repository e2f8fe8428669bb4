"""Child processes: what comes back, how they end, and that nothing of them is left behind.

The functions that they run stand in processes_sample.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import processes_sample
import pytest
from processes_worker import PATIENCE, RUNNER, Background, Heard, order, raised, run, value, wait_until_gone

import eventq
from eventq.clock import SYSTEM
from eventq.process import Cancelled, Children, Died, Oversight, Stopped, TimedOut, how, in_script_again

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = Path(__file__).parent
on_linux = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")


@pytest.fixture
def make() -> Iterator[Callable[..., Children]]:
    made: list[Children] = []

    def make(limit: int = 2, **options: Any) -> Children:
        made.append(Children(limit, **{"runner": RUNNER, **options}))
        return made[-1]

    yield make
    for each in made:
        each.stop(kill=True)


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    """For tests that leave it as good as new: starting a child takes longer than most of them."""
    children = Children(2, runner=RUNNER)
    yield children
    children.stop(kill=True)


# ---------------------------------------------------------------- calls


def test_a_child_returns_the_value(children: Children) -> None:
    assert value(run(children, "add", 2, 3)) == 5
    assert value(run(children, "pid")) != os.getpid()


def test_a_child_is_kept_for_the_next_run(make: Callable[..., Children]) -> None:
    children = make()
    assert len({value(run(children, "pid")) for _ in range(5)}) == 1
    assert children.pids() == [value(run(children, "pid"))]


def test_a_child_gets_the_whole_order(children: Children) -> None:
    given: dict[str, Any] = {
        "attempt": 3,
        "headers": {"trace": "a", "n": [1, None]},
        "deadline": 12.5,
        "url": "memory://",
        "capture": False,
    }
    seen = value(run(children, "about", **given))
    assert {name: seen[name] for name in given} == given
    assert (seen["id"], seen["queue"], seen["codec"], seen["task"]) == ("e.0", "default", "json", "about")


def test_a_target_may_be_an_attribute_of_a_class(children: Children) -> None:
    assert value(run(children, "Shelf.book")) == "found"


def test_large_payloads_and_values_pass(children: Children) -> None:
    assert value(run(children, "size_of", "x" * 5_000_000)) == 5_000_000
    assert len(value(run(children, "text_of", 5_000_000))) == 5_000_000


@pytest.mark.exhaustive
def test_many_threads_run_side_by_side(make: Callable[..., Children]) -> None:
    children = make(4)
    with ThreadPoolExecutor(4) as threads:
        sums = list(threads.map(lambda n: value(run(children, "add", n, n)), range(200)))
    assert sums == [2 * n for n in range(200)]
    assert 1 <= len(children.pids()) <= 4


def test_no_more_children_than_the_limit(make: Callable[..., Children]) -> None:
    children = make(1)
    heard = Heard()
    first = Background(children, order("tidy_up"), heard.oversight(PATIENCE))
    assert heard.began.wait(PATIENCE)
    assert isinstance(children.run(order("add", 1, 1), Heard().oversight(0.05)), TimedOut)
    cancelled = Heard()
    cancelled.cancel.set()
    assert isinstance(children.run(order("add", 1, 1), cancelled.oversight()), Cancelled)
    assert len(children.pids()) == 1
    second = Background(children, order("add", 1, 1), Heard().oversight(PATIENCE))
    os.kill(children.pids()[0], signal.SIGTERM)  # tidies up, and is done
    assert value(first.answer()) == "late"
    assert value(second.answer()) == 2


def test_a_limit_is_at_least_one() -> None:
    with pytest.raises(eventq.ConfigError, match="at least 1"):
        Children(0)


def test_a_function_may_use_multiprocessing_itself(children: Children) -> None:
    assert value(run(children, "with_a_pool", [-1, -2])) == [1, 2]


def test_a_child_does_not_import_asyncio() -> None:
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(TESTS)!r})
        from eventq.process import Children, Oversight
        from eventq.child import Order
        children = Children(1, runner={RUNNER!r})
        asked = Order("processes_sample:is_imported", "t", b'["asyncio"]', "json", "e.0", "q")
        print(children.run(asked, Oversight()).value, "asyncio" in sys.modules)
        children.stop()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TESTS.parent)
    assert done.stdout == "b'false' False\n"


# ---------------------------------------------------------------- errors


def test_an_error_comes_back_as_text(children: Children) -> None:
    answer = raised(run(children, "divide", 1, 0))
    assert answer.failure.type == "ZeroDivisionError"
    assert answer.failure.message == "division by zero"
    assert "in divide" in answer.failure.traceback
    assert answer.is_a(ArithmeticError)
    assert not answer.is_a(ValueError)
    assert answer.delay is None


def test_instructions_come_back(children: Children) -> None:
    answer = raised(run(children, "raise_", "retry"))
    assert (answer.is_a(eventq.Retry), answer.delay, answer.failure.message) == (True, 7.5, "later")
    answer = raised(run(children, "raise_", "reject"))
    assert (answer.is_a(eventq.Reject), answer.is_a(eventq.Retry), answer.failure.message) == (True, False, "never")
    answer = raised(run(children, "raise_", "custom"))
    assert answer.is_a(processes_sample.Custom)
    assert answer.is_a(LookupError)


@pytest.mark.parametrize(("code", "text"), [(3, "3"), (None, "None"), ("bye", "'bye'")])
def test_sys_exit_is_a_failure_with_its_code(children: Children, code: object, text: str) -> None:
    before = value(run(children, "pid"))
    answer = raised(run(children, "leave", code))
    assert (answer.failure.type, answer.failure.message) == ("SystemExit", f"sys.exit({text}) was called")
    assert value(run(children, "pid")) == before, "the child itself must go on"


def test_an_error_without_text(children: Children) -> None:
    assert "cannot be had" in raised(run(children, "raise_unprintable")).failure.message


@pytest.mark.parametrize(
    ("target", "kind", "text"),
    [
        ("no_such_module:f", "ModuleNotFoundError", "no_such_module"),
        ("processes_sample:no_such_name", "AttributeError", "no_such_name"),
        ("processes_sample", "ValueError", "module:name"),
    ],
)
def test_a_target_that_is_not_there(children: Children, target: str, kind: str, text: str) -> None:
    asked = msgspec.structs.replace(order("add"), target=target)
    answer = raised(children.run(asked, Heard().oversight(PATIENCE)))
    assert answer.failure.type == kind
    assert text in answer.failure.message
    assert "Traceback" in answer.failure.traceback


def test_a_module_that_fails_is_imported_again(
    make: Callable[..., Children], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    children = make(1)  # one that starts now, and so learns of the path
    module = tmp_path / "broken_at_first.py"
    module.write_text("raise RuntimeError('broken import')\n")
    answer = raised(run(children, "broken_at_first:f"))
    assert (answer.failure.type, answer.failure.message) == ("RuntimeError", "broken import")
    assert "broken_at_first.py" in answer.failure.traceback
    module.write_text("def f():\n    return 'mended, and longer than before'\n")
    assert value(run(children, "broken_at_first:f")) == "mended, and longer than before"


def test_a_runner_that_is_not_there(make: Callable[..., Children]) -> None:
    assert raised(run(make(runner="no_such_runner:f"), "add", 1, 1)).failure.type == "ModuleNotFoundError"


# ---------------------------------------------------------------- death


@pytest.mark.parametrize(
    ("call", "end"),
    [
        (("kill_self", signal.SIGKILL), "killed by SIGKILL"),
        (("kill_self", signal.SIGTERM), "killed by SIGTERM"),
        (("segfault",), "killed by SIGSEGV"),
        (("exit_at_once", 3), "exit code 3"),
        (("exit_at_once", 0), "exit code 0"),
    ],
)
def test_a_child_that_dies(children: Children, call: tuple[Any, ...], end: str) -> None:
    assert run(children, *call) == Died(end, began=True)
    assert value(run(children, "add", 1, 2)) == 3


def test_killed_from_outside_in_the_middle(children: Children) -> None:
    heard = Heard()
    running = Background(children, order("spin"), heard.oversight(PATIENCE))
    assert heard.began.wait(PATIENCE)
    os.kill(heard.notes[0][1], signal.SIGKILL)
    assert running.answer() == Died("killed by SIGKILL")
    assert value(run(children, "add", 1, 2)) == 3


def test_killed_between_two_runs(children: Children) -> None:
    pid = value(run(children, "pid"))
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    assert value(run(children, "pid")) != pid, "nobody's run has died"


@pytest.mark.exhaustive
def test_a_child_that_closes_its_line_is_ended(children: Children) -> None:
    assert isinstance(run(children, "close_everything"), Died)
    assert value(run(children, "add", 1, 2)) == 3


def test_of_a_function_that_forks_only_one_answers(children: Children) -> None:
    assert value(run(children, "fork_and_return")) == "parent"
    assert value(run(children, "add", 1, 2)) == 3


def test_the_words_for_an_end() -> None:
    assert [how(code) for code in (0, 3, -9, None)] == [
        "exit code 0", "exit code 3", "killed by SIGKILL", "hangs in the system"
    ]  # fmt: skip
    assert how(-60) == "killed by signal 60"


@pytest.mark.parametrize("function", ["spin", "hold_the_interpreter", "wait_in_kernel"])
def test_a_timeout_is_hard(children: Children, function: str) -> None:
    value(run(children, "add", 1, 1))  # it is up
    heard = Heard()
    began = SYSTEM.monotonic()
    assert isinstance(children.run(order(function), heard.oversight(0.3)), TimedOut)
    assert 0.3 <= SYSTEM.monotonic() - began < 5
    wait_until_gone(heard.notes[0][1])
    assert value(run(children, "add", 1, 2)) == 3


@pytest.mark.exhaustive
def test_who_ignores_sigterm_is_killed_after_the_grace(children: Children) -> None:
    heard = Heard()
    value(run(children, "add", 1, 1))
    assert isinstance(children.run(order("ignore_sigterm"), heard.oversight(0.2, grace=0.2)), TimedOut)
    wait_until_gone(heard.notes[0][1])


@pytest.mark.exhaustive
def test_a_flood_does_not_outrun_the_deadline(children: Children) -> None:
    assert isinstance(children.run(order("flood"), Heard().oversight(1.0)), TimedOut)


def test_a_run_is_cancelled(children: Children) -> None:
    heard = Heard()
    running = Background(children, order("spin"), heard.oversight(PATIENCE))
    assert heard.began.wait(PATIENCE)
    heard.cancel.set()
    assert isinstance(running.answer(), Cancelled)
    wait_until_gone(heard.notes[0][1])


@pytest.mark.exhaustive
def test_what_is_said_after_sigterm_still_counts(children: Children) -> None:
    heard = Heard()
    running = Background(children, order("tidy_up"), heard.oversight(PATIENCE, grace=PATIENCE))
    assert heard.began.wait(PATIENCE)
    heard.cancel.set()
    assert isinstance(running.answer(), Cancelled)
    assert ("tidied", True) in heard.notes
    assert heard.texts["stdout"] == "tidied up\n"


@pytest.mark.exhaustive
def test_subprocesses_die_with_their_child(children: Children) -> None:
    heard = Heard()
    running = Background(children, order("start_a_subprocess_and_spin"), heard.oversight(PATIENCE))
    assert heard.began.wait(PATIENCE)
    heard.cancel.set()
    assert isinstance(running.answer(), Cancelled)
    wait_until_gone(*heard.notes[0][1])


@pytest.mark.exhaustive
def test_an_error_of_the_listener_ends_the_run(children: Children) -> None:
    pids = []

    def lost(kind: str, data: bytes) -> None:
        pids.append(msgspec.json.decode(data))
        raise eventq.ClaimLost("taken over")

    with pytest.raises(eventq.ClaimLost):
        children.run(order("spin"), Oversight(on_note=lost))
    wait_until_gone(*pids)
    assert value(run(children, "add", 1, 2)) == 3


# ---------------------------------------------------------------- the process itself


def test_signals_and_group(children: Children) -> None:
    assert value(run(children, "dispositions")) == [True, True, True]


@on_linux
def test_no_descriptor_of_the_store_is_inherited(children: Children, tmp_path: Path) -> None:
    with eventq.App(str(tmp_path / "store")) as app:
        queue = app.queue("q")
        queue.put(1)
        assert queue.claim() is not None
        mine = [path for path in processes_sample.descriptors() if str(tmp_path) in path]
        assert mine, "the store holds files open here"
        theirs = value(run(children, "descriptors"))
    assert not [path for path in theirs if str(tmp_path) in path]


@pytest.mark.exhaustive
@on_linux
def test_no_descriptor_leaks(make: Callable[..., Children]) -> None:
    children = make(2, recycle_after=20)
    value(run(children, "add", 1, 1))
    before = processes_sample.descriptor_count()
    inside = value(run(children, "descriptor_count"))
    for number in range(200):
        assert value(run(children, "add", number, 1)) == number + 1
    run(children, "exit_at_once", 1)
    assert value(run(children, "descriptor_count")) <= inside
    assert processes_sample.descriptor_count() <= before


@pytest.mark.exhaustive
def test_recycled_after_some_calls(make: Callable[..., Children]) -> None:
    children = make(1, recycle_after=2)
    pids = [value(run(children, "pid")) for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    wait_until_gone(pids[0], pids[2])


@pytest.mark.exhaustive
def test_recycled_when_it_has_grown(make: Callable[..., Children]) -> None:
    children = make(1, recycle_bytes=150 << 20)
    first = value(run(children, "pid"))
    assert value(run(children, "grow", 1)) == 1 << 20
    assert value(run(children, "pid")) == first
    run(children, "grow", 200)
    assert value(run(children, "pid")) != first
    wait_until_gone(first)


def test_stop_leaves_no_child(make: Callable[..., Children]) -> None:
    children = make(3)
    heard = [Heard() for _ in range(3)]
    running = [Background(children, order("tidy_up"), each.oversight(PATIENCE)) for each in heard]
    assert all(each.began.wait(PATIENCE) for each in heard)
    pids = children.pids()
    assert len(pids) == 3
    stopping = threading.Thread(target=children.stop)
    stopping.start()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)  # they come to their end
    assert [value(each.answer()) for each in running] == ["late"] * 3
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert children.pids() == []
    wait_until_gone(*pids)
    assert isinstance(run(children, "add", 1, 1), Stopped)
    children.stop()


def test_stop_with_force_ends_what_runs(make: Callable[..., Children]) -> None:
    children = make(2)
    idle = value(run(children, "pid"))
    heard = Heard()
    running = Background(children, order("spin"), heard.oversight(PATIENCE))
    assert heard.began.wait(PATIENCE)
    children.stop(kill=True)
    assert isinstance(running.answer(), Stopped)
    wait_until_gone(idle, heard.notes[0][1])


def test_stop_answers_who_waits_for_a_child(make: Callable[..., Children]) -> None:
    children = make(1)
    heard = Heard()
    running = Background(children, order("spin"), heard.oversight(PATIENCE))
    assert heard.began.wait(PATIENCE)
    waiting = Background(children, order("add", 1, 1), Heard().oversight(PATIENCE))
    children.stop(kill=True)
    assert isinstance(waiting.answer(), Stopped)
    assert isinstance(running.answer(), Stopped)


def test_warm_starts_the_fork_server(make: Callable[..., Children]) -> None:
    children = make(1)
    children.warm()
    assert children.pids() == []
    assert value(run(children, "is_imported", "eventq.child"))


@pytest.mark.exhaustive
def test_by_spawn_where_there_is_no_fork_server(make: Callable[..., Children], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    children = make(1)
    children.warm()
    heard = Heard()
    assert value(run(children, "add", 2, 3)) == 5
    run(children, "print_in_all_ways", heard=heard)
    assert heard.texts["stdout"].startswith("1 print\n2 os.write\n3 subprocess\n")
    pid = value(run(children, "pid"))
    assert run(children, "exit_at_once", 3) == Died("exit code 3")
    wait_until_gone(pid)  # reaped, too: a zombie would still be there
    assert isinstance(children.run(order("spin"), Heard().oversight(1.0)), TimedOut)


# ---------------------------------------------------------------- scripts, and the death of a worker

SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
import eventq
from eventq.process import Children, Oversight, in_script_again
from processes_sample import add, spin
from processes_worker import order

class Own(Exception):
    pass

def own(*args):
    raise Own("mine")

def run(function, *args, capture=False):
    oversight = Oversight(on_note=lambda kind, data: print(kind, data.decode(), flush=True))
    return children.run(order(function, *args, capture=capture), oversight)

{early}
if __name__ == "__main__":
    children = Children(2, runner="processes_sample:carry_out")
{code}
    children.stop()
"""


def write_script(folder: Path, code: str, early: str = "") -> Path:
    path = folder / "shop.py"
    body = textwrap.indent(textwrap.dedent(code), "    ")
    path.write_text(SCRIPT.format(tests=str(TESTS), early=textwrap.dedent(early), code=body))
    return path


def script(code: str, early: str = "") -> subprocess.CompletedProcess[str]:
    """The output of a worker that is a script."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(write_script(Path(folder), code, early))]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True, cwd=TESTS.parent)


@pytest.mark.exhaustive
def test_a_target_in_the_script_itself() -> None:
    done = script("""
        print(run("__main__:add", 2, 3).value.decode())
        answer = run("__main__:own")
        print(answer.failure.type, answer.is_a(Own), answer.is_a(KeyError))
    """)
    assert done.stdout == "5\n__main__.Own True False\n"


@pytest.mark.exhaustive
def test_a_script_without_its_guard_is_named_as_the_reason() -> None:
    done = script(
        """
        answer = run("__main__:add", 2, 3)
        print(answer.began, answer.how)
        """,
        early="""
        if in_script_again():
            raise RuntimeError("no guard")
        """,
    )
    assert done.stdout.startswith("False exit code 1 while it started (")
    assert "__main__" in done.stdout
    assert "RuntimeError: no guard" in done.stderr
    assert not in_script_again()


@pytest.mark.exhaustive
def test_without_capture_output_goes_where_the_workers_goes() -> None:
    code = """
        run("print_", "seen")
        run("print_", "kept", capture=True)
        run("print_", "seen again")
    """
    assert script(code).stdout == "seen\nseen again\n"


@pytest.mark.exhaustive
def test_a_script_that_forgets_to_stop_ends_nevertheless() -> None:
    done = script("""
        print(run("__main__:add", 2, 3).value.decode())
        children.stop = lambda: None
    """)
    assert (done.stdout, done.stderr) == ("5\n", "")


@pytest.mark.exhaustive
@on_linux
@pytest.mark.parametrize("function", ["spin", "start_a_subprocess_and_spin"])
def test_no_child_survives_its_worker(tmp_path: Path, function: str) -> None:
    path = write_script(tmp_path, f"run('processes_sample:{function}')")
    worker = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, cwd=TESTS.parent)
    assert worker.stdout is not None
    pids = msgspec.json.decode(worker.stdout.readline().removeprefix("began "))
    family = descendants(worker.pid) | set(pids if isinstance(pids, list) else [pids])
    assert len(family) >= 3, "the fork server, its tracker, the child"
    worker.kill()
    worker.wait()
    worker.stdout.close()
    wait_until_gone(*family)


def descendants(pid: int) -> set[int]:
    children = defaultdict(list)
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{name}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # gone meanwhile
        children[int(stat.rpartition(")")[2].split()[1])].append(int(name))
    found: set[int] = set()
    unseen = [pid]
    while unseen:
        unseen += children[unseen.pop()]
        found.update(unseen)
    return found


def test_importing_does_not_import_multiprocessing() -> None:
    code = "import sys, eventq.process as p; print('multiprocessing' in sys.modules, 'asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TESTS.parent)
    assert done.stdout == "False False\n"
