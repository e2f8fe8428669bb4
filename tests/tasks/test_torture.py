"""Workers, supervisors, producers and waiters that are killed all the time lose, double and block nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import postgresql_server, redis_server, stores  # noqa: E402
from benchmarks.tasks.notes import Kept, Ledger, Notes, value_of  # noqa: E402
from benchmarks.torture import complaints, listens  # noqa: E402
from eventq import ConfigError  # noqa: E402

SECOND = 1_000_000_000
DEAD, ALIVE, WAITER = 1, 2, 3


linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds its victims in /proc: Linux only")


def tortured(folder: Path, *arguments: str, seconds: int = 8) -> str:
    """What a run says that found no fault and left nothing behind."""
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.torture", "--seconds", str(seconds), "--dir", str(folder)]
    done = subprocess.run(
        [*command, "--seed", "7", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0, doubled 0, stuck 0" in done.stdout
    figures = {word: int(number.replace(",", "")) for word, number in re.findall(r"(\w+) +([\d,]+)", done.stdout)}
    assert all(figures[word] for word in ("tasks", "kills", "recovered", "waiters")), done.stdout
    assert list(folder.iterdir()) == []
    return done.stdout


@linux
@pytest.mark.exhaustive
@pytest.mark.parametrize("store", ["store", "sqlite:///store.db"], ids=["files", "sqlite"])
def test_torture(store: str, tmp_path: Path) -> None:
    tortured(tmp_path / "run", "--store", store)


def need(kind: str) -> None:
    """Skip a test whose server or driver is not here; fail if the environment says that it must be."""
    driver = {"redis": "redis", "postgresql": "psycopg"}[kind]
    reason = {"redis": redis_server, "postgresql": postgresql_server}[kind].missing()
    if reason is None and importlib.util.find_spec(driver) is None:
        reason = f"not installed: pip install {driver}"
    if reason is not None and os.environ.get("TEST_SERVERS") == "required":
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)


@linux
@pytest.mark.server
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_torture_over_a_server(kind: str, tmp_path: Path) -> None:
    need(kind)
    (tmp_path / "server").mkdir()
    with stores.server_behind(f"{kind}://", tmp_path / "server") as server:
        tortured(tmp_path / "run", "--store", server.url)


@linux
@pytest.mark.server
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_torture_of_the_server_too(kind: str, tmp_path: Path) -> None:
    need(kind)
    said = tortured(tmp_path / "run", "--store", f"{kind}://", "--server-kills", seconds=14)
    assert re.search(r"the server killed [1-9]", said), said


# ---------------------------------------------------------------------------- where the store is


def test_what_processes_do_not_share_is_no_store_to_torture(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no store that processes share"):
        stores.place("memory://", tmp_path)


def test_no_server_is_killed_but_one_that_was_started_for_it(tmp_path: Path) -> None:
    assert stores.server_behind("redis://somewhere:6379/0", tmp_path).folder == tmp_path
    with pytest.raises(ConfigError, match="no server to kill"):
        stores.server_behind("store", tmp_path)


@pytest.mark.parametrize("url", ["mine", "sqlite:///mine"])
def test_a_store_that_is_there_already_is_left_alone(url: str, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ConfigError, match="exists"):
        stores.place(url, tmp_path)


def test_each_torture_has_a_namespace_of_its_own() -> None:
    one, other = (stores.place("redis://u:secret@h/0?namespace=shop&patience=3", Path()) for _ in range(2))
    assert one.url.startswith("redis://u:secret@h/0?namespace=shop_")
    assert one.url.endswith("&patience=3")
    assert one.url != other.url
    assert "secret" not in one.shown


def test_a_relative_path_is_below_the_folder_of_the_run(tmp_path: Path) -> None:
    place = stores.place("sqlite:///a.db?synchronous=normal", tmp_path)
    assert place.url == f"sqlite:///{tmp_path}/a.db?synchronous=normal"
    assert stores.place("files", tmp_path).url == str(tmp_path / "files")


# ---------------------------------------------------------------------------- the check itself can fail


def ledger(*lines: str, kind: str = "quick") -> Ledger:
    """The notes of event `a` of one kind, number `n`, whose producer was killed after the put."""
    noted = Ledger(killed={DEAD: 0})
    for at, line in enumerate((f"{DEAD} try {kind} n 5", f"{DEAD} put a {kind} n", *lines)):
        pid, word, *rest = line.format(kind=kind).split()
        noted.add(int(pid), at * SECOND, word, rest)
    return noted


RAN = (f"{ALIVE} begin a 1 {{kind}} n", f"{ALIVE} end a 1")
AGAIN = (f"{DEAD} begin a 1 {{kind}} n", f"{ALIVE} begin a 2 {{kind}} n", f"{ALIVE} end a 2")
DONE = Kept("a", "completed", value=value_of("quick", "n"))
RECOVERED = Kept("a", "completed", crashes=1, value=value_of("quick", "n"))


def words(faults: list[str]) -> list[str]:
    return [fault.partition(":")[0] for fault in faults]


def test_what_is_as_it_should_be_is_no_fault() -> None:
    assert ledger(*RAN).faults([DONE], 2) == []
    assert ledger(*AGAIN).faults([RECOVERED], 2) == []
    assert ledger(*AGAIN, kind="bare").faults([], 2) == []
    waited = (f"{WAITER} wait w a", f"{WAITER} got w a value quick n", f"{DEAD} wait v a")
    assert ledger(*RAN, *waited).faults([DONE], 2) == []
    doomed = (f"{ALIVE} begin a 1 doomed n", f"{ALIVE} begin a 2 doomed n", f"{WAITER} wait w a")
    dead = Kept("a", "dead", failures=2)
    assert ledger(*doomed, f"{WAITER} got w a TaskFailed", kind="doomed").faults([dead], 2) == []


@pytest.mark.parametrize(
    ("word", "lines", "kept"),
    [
        pytest.param("lost", (), [], id="never-ran"),
        pytest.param("lost", RAN, [], id="no-result"),
        pytest.param("lost", AGAIN[:2], [RECOVERED], id="never-ended"),
        pytest.param("lost", RAN, [Kept("a", "dead")], id="dead"),
        pytest.param("stuck", (), [Kept("a", "ready")], id="ready"),
        pytest.param("stuck", AGAIN[:1], [Kept("a", "claimed")], id="claimed"),
        pytest.param("doubled", RAN, [DONE, Kept("a", "dead")], id="completed-and-dead"),
        pytest.param("doubled", (*RAN, *RAN), [DONE], id="attempt-twice"),
        pytest.param("doubled", AGAIN, [DONE], id="twice-without-a-crash"),
        pytest.param("doubled", (*RAN, *AGAIN[1:]), [RECOVERED], id="twice-though-it-lives"),
        pytest.param("mixed up", RAN, [Kept("a", "completed", value="quick m")], id="wrong-value"),
        pytest.param("mixed up", (*RAN, f"{DEAD} put a quick m"), [DONE], id="put-as-another"),
        pytest.param("unexpected", RAN, [DONE, Kept("b", "completed")], id="from-nowhere"),
        pytest.param("stuck", (*RAN, f"{WAITER} wait w a"), [DONE], id="unanswered"),
        pytest.param("mixed up", (*RAN, f"{WAITER} wait w a", f"{WAITER} got w a ResultTimeout"), [DONE], id="told"),
    ],
)
def test_a_fault_is_seen(word: str, lines: tuple[str, ...], kept: list[Kept]) -> None:
    assert word in words(ledger(*lines).faults(kept, 2))


def test_how_long_a_killed_process_delayed_what_it_ran_is_told() -> None:
    noted = ledger(*AGAIN)
    noted.killed[DEAD] = int(2.5 * SECOND)  # its run began at 2 s, the next one at 3 s
    assert noted.recoveries() == [0.5]
    assert ledger(*RAN).recoveries() == []


def events(kind: str, *lines: str) -> Ledger:
    """The notes of runs: event, number, begin, end."""
    noted = Ledger()
    for line in lines:
        id, number, begun, ended = line.split()
        noted.add(DEAD, 0, "try", [kind, number, "0"])
        noted.add(ALIVE, int(begun), "begin", [id, "1", kind, number])
        noted.add(ALIVE, int(ended), "end", [id, "1"])
    return noted


def records(kind: str, *numbers: str) -> list[Kept]:
    return [Kept(id, "completed", value=value_of(kind, number)) for id, number in zip("abc", numbers, strict=False)]


def test_what_must_not_overlap_is_seen() -> None:
    keyed = events("keyed", "a k1:x 1 3", "b k1:y 4 6", "c k2:z 2 5")
    assert keyed.faults(records("keyed", "k1:x", "k1:y", "k2:z"), 2) == []
    keyed = events("keyed", "a k1:x 1 4", "b k1:y 3 6")
    assert words(keyed.faults(records("keyed", "k1:x", "k1:y"), 2)) == ["doubled"]
    limited = events("limited", "a x 1 4", "b y 2 5", "c z 3 6")
    assert words(limited.faults(records("limited", "x", "y", "z"), 2)) == ["doubled"]
    assert limited.faults(records("limited", "x", "y", "z"), 3) == []


def test_a_chain_that_ends_early_is_lost() -> None:
    whole = events("chain", "a x/1 1 2", "b x/0 3 4")
    assert whole.faults(records("chain", "x/1", "x/0"), 2) == []
    assert words(events("chain", "a x/1 1 2").faults(records("chain", "x/1"), 2)) == ["lost"]


def test_notes_are_read_as_they_were_written_but_for_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    note = Notes(tmp_path)
    note("try", "quick", "n", 0)
    note("put", "a", "quick", "n")
    note("begin", "a", 1, "quick", "n")
    note("end", "a", 1)
    (file,) = (tmp_path / "notes").iterdir()
    with file.open("a") as lines:
        lines.write("12 begin a 2 qui")
    noted = Ledger()
    noted.read(tmp_path)
    assert noted.faults([DONE], 2) == []


def test_what_workers_complain_of_is_a_fault(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '{"level":"warning","message":"task flaky failed"}\n{"level":"error","message":"task w is a dead letter"}\n'
        '{"level":"error","message":"cannot claim"}\nTraceback (most recent call last):\n'
        '{"level":"warning","message":"the connection to redis://h/0 was lost"}\n'
    )
    assert [fault.partition(" ")[0] for fault in complaints(log)] == ["logged:", "logged:"]


ORPHANED = """Traceback (most recent call last):
  File "<string>", line 1, in <module>
  File "/usr/lib/python3.11/multiprocessing/forkserver.py", line 258, in main
    fds = reduction.recvfds(s, MAXFDS_TO_SEND + 1)
          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/usr/lib/python3.11/multiprocessing/reduction.py", line 159, in recvfds
    raise EOFError
EOFError
"""


def test_what_a_fork_server_says_of_its_killed_worker_is_part_of_the_game(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = ORPHANED.splitlines(keepends=True)
    log.write_text("".join([*lines[:3], '{"level":"warning","message":"task flaky failed"}\n', *lines[3:]]) + ORPHANED)
    assert complaints(log) == []
    log.write_text("Traceback (most recent call last):\n  File x\nEOFError\n" + ORPHANED)
    assert len(complaints(log)) == 3
    log.write_text(ORPHANED.replace("forkserver", "worker"))
    assert len(complaints(log)) == len(lines)


@linux
def test_a_worker_that_is_still_starting_is_not_told_to_stop_yet() -> None:
    code = "import signal; input(); signal.signal(signal.SIGTERM, lambda *_: None); print('on', flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdin is not None and one.stdout is not None
        assert not listens(one.pid)
        print(file=one.stdin, flush=True)
        assert one.stdout.readline() == "on\n"
        assert listens(one.pid)
        print(file=one.stdin, flush=True)
    assert listens(one.pid), "nothing to wait for: it has ended"
