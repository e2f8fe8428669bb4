"""The benchmarks run, check what was delivered and leave nothing behind. No figure is ever asserted."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import plot, postgresql_server, redis_server, run, stores, table  # noqa: E402
from benchmarks.results import Results  # noqa: E402
from benchmarks.row import check  # noqa: E402
from benchmarks.rows import ROWS  # noqa: E402
from benchmarks.server import Server, sockets_of  # noqa: E402
from benchmarks.sizes import SIZES  # noqa: E402
from benchmarks.systems import SYSTEMS, System  # noqa: E402
from benchmarks.tasks.ledger import Ledger  # noqa: E402
from benchmarks.tasks.rows import checked, rate_of_all  # noqa: E402

SMALL = SIZES["small"]
OURS = [name for name, system in SYSTEMS.items() if system.family == "eventq"]
MACHINE = {
    "processor": "a <processor>",
    "cores": 2,
    "memory_gib": 4.0,
    "system": "Linux",
    "file_system": "ext4",
    "python": "CPython",
    "sqlite": "3",
    "date": "today",
    "versions": {"eventq": "1", "SQLite": "3", "huey": "2", "RQ": "2", "dramatiq": "1", "saq": "1", "Redis": "7"},
}


def measured(folder: Path, *arguments: str) -> dict[str, Any]:
    """The record of a small run that found nothing wrong and left nothing behind."""
    work, out = folder / "work", folder / "out"
    work.mkdir()
    command = [sys.executable, "benchmarks/run.py", "--size", "small", "--systems", ",".join(OURS)]
    done = subprocess.run(
        [*command, *arguments, "--dir", str(work), "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(work.iterdir()) == []
    assert (out / "results.md").read_text() == done.stdout[:-1]
    ET.parse(out / "results.svg")
    ET.parse(out / "tasks.svg")
    record: dict[str, Any] = json.loads((out / "results.json").read_text())
    for name, row in record["rows"].items():
        for system, cell in row["systems"].items():
            if SYSTEMS[system].family not in ("eventq", "SQLite"):
                continue  # another project that ratios are taken against: its faults are its own
            assert "errors" not in cell, (name, system, cell)
            assert "not_measured" in cell or len(cell["values"]) == 1, (name, system, cell)
            faults = {word: cell.get("check", {}).get(word, 0) for word in ("lost", "repeated", "unread", "wrong")}
            assert not any(faults.values()), (name, system, faults)
    return record


@pytest.mark.exhaustive
def test_a_small_run_delivers_exactly_once_and_cleans_up(tmp_path: Path) -> None:
    record = measured(tmp_path, "--only", "put,drain,wake")
    assert list(record["rows"]) == ["put", "drain", "wake"]


@pytest.mark.exhaustive
def test_a_small_run_of_everything(tmp_path: Path) -> None:
    here = [system for system in SYSTEMS.values() if system.family == "eventq" and not system.missing()]
    rows = [row.name for row in ROWS.values() if not row.full and any(row.mode in system.modes for system in here)]
    assert list(measured(tmp_path)["rows"]) == rows


def test_every_row_is_in_one_table_and_in_the_description() -> None:
    grouped = [name for names in table.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(ROWS)
    described = (ROOT / "benchmarks" / "README.md").read_text()
    quoted = set(re.findall("`([^`\n]+)`", described))
    assert [row for row in ROWS if not {row, row.removeprefix("backlog")} & quoted] == []


def test_a_payload_that_is_lost_repeated_or_unknown_is_counted() -> None:
    assert check(3, [0, 1, 2]) == {"put": 3, "lost": 0, "unread": 0, "repeated": 0}
    assert check(3, [0, 2, 2]) == {"put": 3, "lost": 1, "unread": 0, "repeated": 1}
    assert check(3, [0, 1, 2, 7])["repeated"] == 1
    assert check(3, [0], left=True) == {"put": 3, "lost": 0, "unread": 2, "repeated": 0}


def test_the_ledger_counts_each_run_in_all_processes(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, 4)
    again = Ledger(tmp_path)
    for number in (2, 0, 2):
        again.mark(number)
    assert ledger.numbers() == [0, 2, 2]
    assert (ledger.done(), ledger.done(1)) == (2, 1)
    assert [process for _, process in ledger.times()] == [os.getpid()] * 2
    assert ledger.times() == sorted(ledger.times())


def test_a_task_that_is_lost_run_twice_or_answered_wrongly_is_counted(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, 4)
    for number in (0, 1, 1, 3):
        ledger.mark(number)
    outcome = checked(3, ledger, left=False, pairs=[(0, 0), (1, None)])
    assert outcome == {"put": 3, "lost": 1, "unread": 0, "repeated": 2, "wrong": 1}
    assert checked(3, ledger, left=True)["unread"] == 1


def test_workers_that_start_one_after_the_other_are_rated_from_the_last_start() -> None:
    second = 1_000_000_000
    alone, both = [(at * second, 1) for at in (1, 2, 3)], [(3 * second, 2), (4 * second, 1), (4 * second, 2)]
    assert rate_of_all(sorted(alone + both)) == 2


def filled(**values: dict[str, float]) -> Results:
    results = Results()
    for row, systems in ((row.replace("_", "-"), systems) for row, systems in values.items()):
        for system, value in systems.items():
            for factor in (3, 1, 1):
                outcome = {"value": value * factor, "check": {"put": 1, "lost": 0, "repeated": 0}}
                results.add(ROWS[row], SYSTEMS[system.replace("_", "-")], outcome)
    return results


def test_a_worker_that_came_for_the_last_run_does_not_spoil_the_rate() -> None:
    second = 1_000_000_000
    assert rate_of_all([(0, 1), (second, 1), (2 * second, 2)]) == 1.0
    assert rate_of_all([(5, 1)]) > 0


def test_ratios_are_of_medians_and_above_one_is_always_better() -> None:
    results = filled(put={"eventq": 200.0, "sqlite_normal": 100.0}, wake={"eventq": 50.0, "sqlite_normal": 500.0})
    assert results.ratio(ROWS["put"], SYSTEMS["eventq"]) == 2
    assert results.ratio(ROWS["wake"], SYSTEMS["eventq"]) == 10


def test_a_goal_is_of_another_system_or_of_another_row() -> None:
    put, many = ROWS["redis-put"], ROWS["redis-put-many"]
    results = filled(redis_put={"eventq_redis": 700.0, "redis_loop": 1_000.0}, redis_put_many={"eventq_redis": 9_000.0})
    assert results.reached(put, put.goals[0]) == 0.7
    assert round(results.reached(many, many.goals[0]) or 0, 2) == 12.86
    text = table.markdown(results, MACHINE, {}, SMALL, 3)
    assert "| 700/s | 1.00 k/s redis-loop | **0.70x** | 0.8x | missed |" in text
    assert "| 9.00 k/s | 700/s its own redis-put | **12.9x** | 10x | ok |" in text


def test_a_goal_whose_other_side_is_missing_is_neither_reached_nor_missed() -> None:
    results = filled(redis_put={"eventq_redis": 700.0})
    assert results.reached(ROWS["redis-put"], ROWS["redis-put"].goals[0]) is None
    assert "| Redis: put one by one | 700/s | redis-loop |  | 0.8x |  |" in table.markdown(
        results, MACHINE, {}, SMALL, 3
    )


def test_every_goal_names_what_there_is() -> None:
    for row in ROWS.values():
        for goal in row.goals:
            assert goal.row is None or not ROWS[goal.row].full
            assert goal.system is None or row.mode in SYSTEMS[goal.system].modes
            assert goal.times > 0


@pytest.mark.server
@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_a_private_server_that_is_killed_comes_back_with_what_it_acknowledged(kind: str, tmp_path: Path) -> None:
    servers = {"redis": redis_server, "postgresql": postgresql_server}
    if reason := servers[kind].missing():
        pytest.skip(reason)
    with stores.server_behind(f"{kind}://", tmp_path) as server:
        said(server, "SET kept 1" if kind == "redis" else "CREATE TABLE kept ()")
        server.kill()
        assert not server.answers()
        server.start()
        server.wait()
        assert said(server, "EXISTS kept" if kind == "redis" else "SELECT count(*) FROM kept") == (
            "1" if kind == "redis" else "0"
        )
    assert not server.answers()


def said(server: Server, words: str) -> str:
    """What a server answers to its own client."""
    if isinstance(server, redis_server.RedisServer):
        command = ["redis-cli", "-s", str(redis_server.socket(server.folder)), *words.split()]
    else:
        command = ["psql", "--no-psqlrc", "-tA", "-h", str(sockets_of(server.folder)), "-U", postgresql_server.USER]
        command += ["-c", words]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout.strip()


def test_the_best_other_is_neither_eventq_nor_sqlite() -> None:
    results = filled(put={"eventq": 9.0, "sqlite_normal": 8.0, "huey_file": 2.0, "dirq": 3.0, "redis_list": 7.0})
    best = results.best_peer(ROWS["put"], "Redis")
    assert best is SYSTEMS["dirq"]


def test_the_table_names_faults_and_what_is_not_installed() -> None:
    results = filled(put={"eventq": 2_000.0, "sqlite_normal": 1_000.0})
    huey = SYSTEMS["huey-sqlite-off"]
    results.add(ROWS["put"], huey, {"value": 5.0, "check": {"put": 9, "lost": 2, "repeated": 1}})
    results.add(ROWS["put"], huey, {"error": "OSError: no | luck"})
    text = table.markdown(results, MACHINE, {"dirq": "not installed: pip install dirq"}, SMALL, 3)
    assert "**2.00x**" in text
    assert "failed: OSError: no / luck, lost 2, delivered 1 twice" in text
    assert "- dirq: **not installed: pip install dirq**" in text
    assert not results.broken()
    results.add(ROWS["put"], SYSTEMS["eventq"], {"value": 5.0, "check": {"put": 9, "lost": 1, "repeated": 0}})
    assert results.broken()


def test_the_picture_is_valid_also_when_eventq_is_alone_or_slow() -> None:
    for value in (1.0, 100.0, 90_000.0):
        results = filled(put={"eventq": value, "sqlite_normal": 100.0, "huey_file": 1.0})
        ET.fromstring(plot.svg(results, MACHINE, plot.QUEUES))
    ET.fromstring(plot.svg(filled(put={"eventq": 1.0}), MACHINE, plot.QUEUES))


def test_the_picture_of_tasks_has_the_rows_of_tasks_and_only_those() -> None:
    rates = {"eventq_tasks": 9.0, "huey_tasks": 3.0, "rq": 1.0}
    results = filled(put={"eventq": 2.0, "sqlite_normal": 1.0}, tasks=rates)
    queues, tasks = plot.svg(results, MACHINE, plot.QUEUES), plot.svg(results, MACHINE, plot.TASKS)
    ET.fromstring(tasks)
    assert ROWS["tasks"].title in tasks
    assert "3.0x, 9/s" in tasks
    assert "rq  0.3x, 1/s" in tasks
    assert ROWS["put"].title not in tasks
    assert ROWS["tasks"].title not in queues


def test_tasks_are_compared_with_huey_and_coroutines_with_saq() -> None:
    results = filled(
        tasks={"eventq_tasks": 4_000.0, "huey_tasks": 2_000.0, "rq": 500.0, "dramatiq": 700.0},
        async_live={"eventq_tasks": 3_000.0, "saq": 1_000.0},
    )
    text = table.markdown(results, MACHINE, {}, SMALL, 3)
    assert "| 4.00 k/s | 2.00 k/s huey | **2.00x** | 700/s dramatiq |" in text
    assert "| 3.00 k/s | 1.00 k/s saq | **3.00x** |" in text
    assert "eventq : SQLite" not in text


def test_wrong_results_of_tasks_are_named_and_break_the_run() -> None:
    results = filled(tasks={"eventq_tasks": 4_000.0})
    eventq = SYSTEMS["eventq-tasks"]
    assert not results.broken()
    results.add(ROWS["tasks"], eventq, {"value": 5.0, "check": {"put": 9, "lost": 0, "repeated": 0, "wrong": 2}})
    assert results.fault(ROWS["tasks"], eventq) == "2 wrong results"
    assert results.broken()


def test_a_missing_system_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(System):
        name, family, requires, distribution = "missing", "missing", "no_such_module_here", "no-such-thing"

    monkeypatch.setitem(SYSTEMS, "missing", Missing)
    options = run.arguments(["--systems", "missing", "--only", "put,durable-put"])
    _, systems, absent = run.plan(options)
    assert absent == {"missing": "not installed: pip install no-such-thing"}
    assert {system.name for system in systems} == {"sqlite-normal", "sqlite-full"}


def test_only_systems_that_can_do_a_row_are_in_a_run() -> None:
    _, systems, absent = run.plan(run.arguments(["--systems", "eventq,eventq-tasks", "--only", "tasks"]))
    assert {system.name for system in systems} | set(absent) == {"eventq-tasks", "huey-tasks"}


@pytest.mark.parametrize("arguments", [["--only", "nonsense"], ["--systems", ","], ["--repeat", "0"], ["--fast"]])
def test_wrong_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run.arguments(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_cell_that_fails_or_takes_too_long_is_an_outcome(tmp_path: Path) -> None:
    unknown = dataclasses.replace(ROWS["put"], name="unknown")
    outcome = run.run_cell(unknown, SYSTEMS["sqlite-normal"], SMALL, tmp_path / "unknown")
    assert outcome == {"error": "KeyError: 'unknown'"}
    hasty = dataclasses.replace(SMALL, limit=0.01)
    outcome = run.run_cell(ROWS["put"], SYSTEMS["sqlite-normal"], hasty, tmp_path / "hasty")
    assert outcome == {"error": "not done in 0 s"}


def test_the_first_error_of_a_cell_is_its_cause() -> None:
    errors = "Traceback (most recent call last):\n  x\nValueError: first\n\nTraceback\nRuntimeError: second\n"
    assert run.cause(errors) == "ValueError: first"
    assert run.cause("redis-server: command not found\n") == "redis-server: command not found"
