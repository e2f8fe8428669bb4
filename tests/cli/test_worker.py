"""`eventq worker`, in this process and as real ones; `eventq workers`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Ran, Run, ended
from shop_source import shop, until

from eventq import App, clock, supervisor, worker
from eventq.cli import command_parser, load, queues
from eventq.cli.apps import loaded_app, reloaded_files
from eventq.cli.worker import app_module, command_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def program(tmp_path: Path) -> Iterator[Path]:
    with shop(tmp_path) as path:
        yield path


@contextmanager
def running(start: Start, run: Run, *options: str, number: int = 1) -> Iterator[subprocess.Popen[str]]:
    """A worker process of which so many workers serve the store; killed if the test leaves it behind."""
    process = start("worker", "shop:app", *options)
    try:
        until(lambda: len(serving(run)) == number or process.poll() is not None, f"{number} workers serve")
        assert process.poll() is None, ended(process)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def serving(run: Run) -> list[dict[str, Any]]:
    listed = run("workers", "--json")
    return [each for each in listed.json if each["serves"]] if listed.code == 0 else []


def call(run: Run, *args: str) -> str:
    done = run("call", *args)
    assert done.code == 0, done
    return done.out.strip()


def stopped(process: subprocess.Popen[str]) -> Ran:
    process.send_signal(signal.SIGTERM)
    return ended(process)


# ---------------------------------------------------------------- which app


@pytest.mark.parametrize("named", ["shop:app", "shop", "shop.py", "./shop.py:app"])
def test_every_way_to_name_an_app(run: Run, named: str) -> None:
    id = call(run, "shop.total", "3", "4")
    assert run("worker", named, "--burst").code == 0
    assert run("result", id).out == "7\n"


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("nosuch:app", "there is no module 'nosuch'"),
        ("nosuch.py:app", "there is no file"),
        ("shop:nosuch", "did you mean shop:app?"),
        ("shop:total", "of type Task, not an eventq.App"),
        ("not a module", "names no module"),
        ("os:path", "not an eventq.App"),
        ("json", "has no eventq.App in it"),
    ],
)
def test_an_app_that_is_not_there(run: Run, named: str, says: str) -> None:
    done = run("worker", named, "--burst")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert says in done.err


def test_two_apps_have_to_be_told_apart(run: Run, program: Path) -> None:
    program.write_text(program.read_text() + "\nother = eventq.App()\n")
    done = run("worker", "shop", "--burst")
    assert done.code == 2
    assert "shop:app, shop:other" in done.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nosuch_thing", "ModuleNotFoundError: No module named 'nosuch_thing'"),
        ("x = 1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError"),
    ],
)
def test_a_module_that_fails(run: Run, program: Path, text: str, says: str) -> None:
    (program.parent / "broken.py").write_text(f"\n{text}\n")
    done = run("worker", "broken:app", "--burst")
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert says in done.err
    assert "broken.py, line 2" in done.err


def test_a_module_of_another_name_is_not_taken_for_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("app = 1")
    done = run("worker", "./json.py:app", "--burst")
    assert done.code == 2
    assert "rename the file" in done.err


def test_a_store_that_is_not_the_apps_own(run: Run, program: Path, tmp_path: Path) -> None:
    program.write_text(program.read_text().replace("App()", f"App('{tmp_path}/own')"))
    done = run("worker", "shop:app", "--burst")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "leave --store out, or the URL in the code" in done.err
    assert "EVENTQ_URL" not in os.environ


@pytest.mark.parametrize(
    "options",
    [
        ["--queues", "a,b=2"], ["--queues", "a,,b"], ["--queues", "a=0"], ["--concurrency", "0"], ["--max-tasks", "-1"],
        ["--executor", "fibre"], ["--stop-timeout", "soon"], ["--log-level", "loud"], ["--ready-file", "/no/such/file"],
    ],
)  # fmt: skip
def test_wrong_options(run: Run, options: list[str]) -> None:
    done = run("worker", "shop:app", "--burst", *options)
    assert (done.code, done.out) == (2, "")


def test_workers_of_their_own_need_a_store_of_their_own(eventq: Run) -> None:
    done = eventq("--store", "memory://only-here", "worker", "shop:app", "--processes", "2")
    assert done.code == 2
    assert "use a directory" in done.err


def test_a_memory_store_of_this_process(eventq: Run) -> None:
    with App("memory://shop-worker") as app:
        handle = app.task_named("shop.total").enqueue(1, 2)
        assert eventq("--store", "memory://shop-worker", "worker", "shop:app", "--burst").code == 0
        assert handle.result(0) == 3


# ---------------------------------------------------------------- what it does


def test_queues_in_order_and_by_weight(run: Run, start: Start) -> None:
    first = call(run, "shop.total", "1", "--queue", "a")
    second = call(run, "shop.total", "2", "--queue", "b")
    assert ended(start("worker", "shop:app", "--queues", "a", "--burst")).code == 0
    assert run("wait", first, second, "--timeout", "0", "--json").json == [
        {"id": first, "state": "completed"}, {"id": second, "state": "ready"},
    ]  # fmt: skip
    done = ended(start("worker", "shop:app", "--queues", "a=3,b=1", "--burst"))
    assert done.code == 0
    assert "serves a=3, b=1" in done.err
    assert run("wait", second, "--timeout", "0").code == 0


@pytest.mark.exhaustive
def test_child_processes_find_the_app(run: Run, start: Start) -> None:
    id = call(run, "shop.apart", "21")
    assert ended(start("worker", "./shop.py", "--burst")).code == 0
    assert run("result", id, "--timeout", "0").out == "42\n"


def test_an_idle_worker_stops_at_once(run: Run, start: Start) -> None:
    with running(start, run) as process:
        began = clock.SYSTEM.monotonic()
        done = stopped(process)
        took = clock.SYSTEM.monotonic() - began
    assert (done.code, done.out) == (0, "")
    first, last = done.err.splitlines()
    assert "serves default, slow; its tasks: shop.apart, shop.fail, shop.greet" in first
    assert last.endswith("has stopped: ran 0, left 0 unfinished")
    assert first.split()[2] == "info"
    assert "\x1b" not in done.err
    assert took < 1.0, "below 0.2 s on a machine with nothing else to do"
    assert run("workers", "--json").json == []


def test_json_lines_and_levels(run: Run, start: Start) -> None:
    id = call(run, "shop.fail", "--app", "shop:app")
    done = ended(start("worker", "shop:app", "--burst", "--json", "--log-level", "error"))
    (line,) = [Ran(0, text, "").json for text in done.err.splitlines()]
    assert (line["level"], line["logger"]) == ("error", "eventq.task")
    assert "no such picture" in line["message"]
    assert line["event"] == line["correlation_id"] == id


def test_the_second_signal_hands_back(run: Run, start: Start, tmp_path: Path) -> None:
    with running(start, run) as process:
        id = call(run, "shop.until_there", str(tmp_path / "never"), "--queue", "slow")
        until(lambda: run("show", id, "--json").json["state"] == "claimed", "it runs")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        done = ended(process)
    assert done.code == 130
    assert run("show", id, "--json").json["state"] == "ready"


# ---------------------------------------------------------------- several processes


def test_a_killed_process_is_replaced(run: Run, start: Start) -> None:
    with running(start, run, "--processes", "2", number=2) as process:
        before = {each["pid"] for each in serving(run)}
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        until(lambda: len({each["pid"] for each in serving(run)} - {killed}) == 2, "another in its place")
        assert process.pid not in {each["pid"] for each in serving(run)}
        done = stopped(process)
    assert done.code == 0
    assert "was killed by SIGKILL" in done.err
    assert run("workers", "--json").json == []


@pytest.mark.exhaustive
def test_a_process_is_replaced_after_so_many_runs(run: Run, start: Start) -> None:
    with running(start, run, "--max-tasks", "1", "--concurrency", "1", "--json") as process:
        first = run("result", call(run, "shop.pid"), "--timeout", "20").json
        until(lambda: [each for each in serving(run) if each["pid"] != first], "a fresh process without further runs")
        second = run("result", call(run, "shop.pid"), "--timeout", "20").json
        assert len({process.pid, first, second}) == 3
        done = stopped(process)
    assert done.code == 0
    assert done.err.count("has run 1, and stops for a successor") >= 1


@pytest.mark.exhaustive
def test_a_process_is_replaced_when_it_takes_too_much_memory(run: Run, start: Start) -> None:
    with running(start, run, "--max-bytes", "1000") as process:
        first = run("result", call(run, "shop.pid"), "--timeout", "20").json
        until(lambda: [each for each in serving(run) if each["pid"] != first], "a fresh process")
        done = stopped(process)
    assert done.code == 0
    assert "MiB of memory, and stops for a successor" in done.err


@pytest.mark.exhaustive
def test_burst_in_several_processes_ends(run: Run, start: Start) -> None:
    ids = [call(run, "shop.total", str(number)) for number in range(5)]
    assert ended(start("worker", "shop:app", "--processes", "2", "--burst")).code == 0
    assert run("wait", *ids, "--timeout", "0").code == 0


@pytest.mark.exhaustive
def test_a_changed_program_is_run_anew(run: Run, start: Start, program: Path) -> None:
    with running(start, run, "--reload") as process:
        (old,) = [each["id"] for each in serving(run)]
        program.write_text(program.read_text().replace("hello", "good morning"))
        until(lambda: [each for each in serving(run) if each["id"] != old], "a worker of the new program")
        id = call(run, "shop.greet", "ada")
        assert run("result", id, "--timeout", "20").json == "good morning ada"
        assert stopped(process).code == 0


@pytest.mark.exhaustive
def test_when_the_supervisor_dies_its_workers_stop(run: Run, start: Start) -> None:
    with running(start, run, "--processes", "2", number=2) as process:
        process.kill()
        assert ended(process).code == -signal.SIGKILL
        assert not serving(run), "what the workers wrote to has ended, and so have they"


def test_the_recycle_code_is_the_supervisors() -> None:
    assert worker.RECYCLED == supervisor.RECYCLED


def test_the_children_get_what_was_said() -> None:
    parser = command_parser("worker", load("worker"))

    def parsed(*line: str) -> argparse.Namespace:
        return parser.parse_intermixed_args(line, argparse.Namespace(store=None, json=False))

    said = parsed(
        "shop:app", "--queues=a=3,b=1", "--concurrency=4", "--executor=inline", "--stop-timeout=2m", "--max-tasks=9",
        "--max-bytes=10", "--ready-file=ready file", "--log-level=debug", "--burst", "--json", "--store=file:///q",
        "--processes=3", "--reload",
    )  # fmt: skip
    word, *line = command_line(said)
    assert word == "worker"
    again = parsed(*line)
    assert vars(again) == {**vars(said), "processes": None, "reload": False}
    assert parsed(*command_line(parsed("shop", "--queues=a,b"))[1:]).queues == ["a", "b"]


def test_what_is_looked_at_for_changes(store: str, program: Path) -> None:
    package = program.parent / "tools"
    package.mkdir()
    (package / "__init__.py").touch()
    program.write_text("import tools\n" + program.read_text())
    with loaded_app(argparse.Namespace(store=store), "shop.py"):
        assert reloaded_files(app_module("./shop.py:app")) == [str(program), str(package)]


# ---------------------------------------------------------------- health


@pytest.mark.exhaustive
@pytest.mark.parametrize("options", [[], ["--processes", "2"]])
def test_the_file_is_there_while_it_is_ready(run: Run, start: Start, tmp_path: Path, options: list[str]) -> None:
    file = tmp_path / "ready"
    with running(start, run, *options, "--ready-file", str(file), number=2 if options else 1) as process:
        until(file.exists, "the file")
        assert stopped(process).code == 0
    assert not file.exists()


def test_workers_shows_what_they_serve_and_run(run: Run, start: Start, tmp_path: Path) -> None:
    with running(start, run) as process:
        go = tmp_path / "go"
        id = call(run, "shop.until_there", str(go), "--queue", "slow")
        until(lambda: serving(run)[0]["runs"], "it runs")
        (found,) = serving(run)
        assert found["serves"] == ["default", "slow"]
        assert "shop.until_there" in found["tasks"]
        (shown,) = found["runs"]
        assert (shown["id"], shown["task"], shown["queue"]) == (id, "shop.until_there", "slow")
        assert shown["since"]
        assert f"shop.until_there {id} (" in run("workers").out
        assert [run("workers", "--check", name) for name in ("slow", "shop.total")] == [Ran(0, "", "")] * 2
        assert run("workers", "--check", "nosuch").code == 1
        go.touch()
        assert stopped(process).code == 0
    assert run("workers", "--check", "slow").code == 1


# ---------------------------------------------------------------- asked and stopped


def test_a_worker_is_asked_how_it_is(run: Run, start: Start, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "PATIENCE", 20.0)
    with running(start, run) as process, App(store) as client:
        assert run("result", call(run, "shop.total", "1"), "--timeout", "20").out == "1\n"
        client.queue("q").put(1)  # it has joined, and runs no tasks: nobody asks it
        told = {each["pid"] if each["serves"] else "client": each for each in run("workers", "--ping", "--json").json}
        assert set(told) == {process.pid, "client"}
        assert (told["client"]["silent"], told["client"]["stats"]) == (False, None)
        stats = told[process.pid]["stats"]
        assert (stats["ran"], stats["failed"], stats["runs"], stats["concurrency"]) == (1, 0, [], 8)
        assert stats["since"].startswith("20")
        header, *lines = run("workers", "--ping").lines
        assert header.split()[-5:] == ["ANSWER", "BUSY", "RAN", "FAILED", "MEMORY"]
        words = {line.split()[0]: line.split() for line in lines}
        assert words[client.store.storage.worker][-5:] == ["-", "-", "-", "-", "-"]
        assert words[stats["id"]][-9:-2] == ["-", "well", "0", "of", "8", "1", "0"]
        assert stopped(process).code == 0


def test_a_worker_that_does_not_answer(run: Run, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "PATIENCE", 0.01)
    with App(store) as frozen:
        frozen.store.storage.introduce(["slow"], [])
        (told,) = run("workers", "--ping", "--json").json
        assert (told["id"], told["silent"], told["stats"]) == (frozen.store.storage.worker, True, None)
        assert run("workers", "--ping").lines[1].split()[-5:] == ["silent", "-", "-", "-", "-"]


def test_a_worker_is_stopped_from_elsewhere(run: Run, start: Start) -> None:
    with running(start, run) as process:
        (worker,) = serving(run)
        assert run("workers", "--stop", worker["id"]).out == f"asked worker {worker['id']} to stop\n"
        assert ended(process).code == 0
    done = run("workers", "--stop", worker["id"])
    assert (done.code, done.out) == (1, "")
    assert "no living worker" in done.err
    assert run("workers", "--force").code == 2


def test_a_worker_is_stopped_by_force(run: Run, start: Start, tmp_path: Path) -> None:
    with running(start, run) as process:
        id = call(run, "shop.until_there", str(tmp_path / "never"), "--queue", "slow")
        until(lambda: run("show", id, "--json").json["state"] == "claimed", "it runs")
        (worker,) = serving(run)
        done = run("workers", "--stop", worker["id"], "--force", "--json")
        assert done.json == {"worker": worker["id"], "asked": "force"}
        assert ended(process).code == 130
    assert run("show", id, "--json").json["state"] == "ready"


def test_an_empty_inbox_is_not_shown(run: Run, start: Start, store: str) -> None:
    with running(start, run, "--concurrency", "1") as process, App(store) as app:
        inbox = f"worker-{serving(run)[0]['id']}"
        mine = app.task_named("shop.total", worker=inbox.removeprefix("worker-"))
        assert mine.enqueue(4).result(20) == 4
        (shown,) = [each for each in run("status", "--json").json["queues"] if each["queue"] == inbox]
        assert (shown["completed"], shown["workers"]) == (1, 1)
        until(lambda: app.queue(inbox).purge("completed") == 1, "the worker has put the event away")
        assert [each for each in run("status", "--json").json["queues"] if each["queue"] == inbox] == []
        assert stopped(process).code == 0
