"""Workers, supervisors, producers and waiters that are killed all the time lose, double and block nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.tasks.notes import Kept, Ledger, Notes, value_of  # noqa: E402
from benchmarks.torture import complaints  # noqa: E402

SECOND = 1_000_000_000
DEAD, ALIVE, WAITER = 1, 2, 3


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds its victims in /proc: Linux only")
def test_torture(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.torture", "--seconds", "8", "--dir", str(tmp_path), "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0, doubled 0, stuck 0" in done.stdout
    figures = {word: int(number.replace(",", "")) for word, number in re.findall(r"(\w+) +([\d,]+)", done.stdout)}
    assert all(figures[word] for word in ("tasks", "kills", "recovered", "waiters")), done.stdout
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------- the check itself can fail


def ledger(*lines: str, kind: str = "quick") -> Ledger:
    """The notes of event `a` of one kind, number `n`, whose producer was killed after the put."""
    noted = Ledger(killed={DEAD})
    for at, line in enumerate((f"{DEAD} try {kind} n", f"{DEAD} put a {kind} n", *lines)):
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


def events(kind: str, *lines: str) -> Ledger:
    """The notes of runs: event, number, begin, end."""
    noted = Ledger()
    for line in lines:
        id, number, begun, ended = line.split()
        noted.add(DEAD, 0, "try", [kind, number])
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
    note("try", "quick", "n")
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
    )
    assert [fault.partition(" ")[0] for fault in complaints(log)] == ["logged:", "logged:"]
