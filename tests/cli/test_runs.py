"""`eventq runs`: what a store knows of the runs of workflows, without the program's code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from eventq import App
from eventq.workflow.state import RunState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Run


class Program:
    """A program with a workflow, on the store that the commands look at."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.broken = False

        @app.task(name="shop.load", max_attempts=1)
        def load(name: str) -> str:
            if self.broken:
                raise OSError("no \x1b disk")
            return name

        @app.task(name="shop.save")
        def save(name: str) -> int:
            return len(name)

        self.flow = app.chain((load, "a.txt"), save)

    def work(self) -> None:
        self.app.worker(["default"], concurrency=1).run(burst=True)


@pytest.fixture
def program(store: str) -> Iterator[Program]:
    with App(store, sync=False) as app:
        yield Program(app)


def test_a_store_without_runs(run: Run, program: Program) -> None:
    assert run("runs").out == "no runs\n"
    assert run("runs", "--json").json == []


def test_listing_and_showing(run: Run, program: Program) -> None:
    one = program.flow.start()
    program.work()
    two = program.flow.start()
    lines = run("runs").lines
    assert lines[0].split() == ["ID", "WORKFLOW", "STATUS", "STEPS", "AGE"]
    assert lines[1].split()[:4] == [one.id, "chain", "completed", "2"]
    assert lines[2].split()[:4] == [two.id, "chain", "running", "2"]
    listed = run("runs", "--json").json
    assert [(each["id"], each["status"], each["steps"]) for each in listed] == [
        (one.id, "completed", 2),
        (two.id, "running", 2),
    ]
    shown = run("runs", "show", one.id, "--json").json
    assert shown["name"] == "chain"
    assert [(each["name"], each["task"], each["state"]) for each in shown["steps"]] == [
        ("load", "shop.load", "completed"),
        ("save", "shop.save", "completed"),
    ]
    assert program.app.handle(shown["steps"][1]["event"]).result(0) == 5
    lines = run("runs", "show", two.id).lines
    assert lines[0] == "chain: running"
    assert lines[-1].split() == ["save", "shop.save", "waiting", "-"]
    assert run("runs", "mermaid", two.id).out == two.mermaid()
    assert run("runs", "mermaid", two.id, "--json").json["mermaid"] == two.mermaid()
    assert run("runs", "svg", two.id).out == two.svg()
    assert run("runs", "svg", two.id, "--json").json["svg"] == two.svg()


def test_a_list_rebuilds_no_run(run: Run, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took seconds for a few large runs."""
    program.flow.start()
    monkeypatch.setattr(RunState, "__init__", None)
    assert len(run("runs").lines) == 2


def test_runs_within_runs_are_listed_when_asked_for(run: Run, program: Program) -> None:
    flow = program.app.workflow("outer")
    flow.step(program.flow)
    outer = flow.start()
    below = outer.node("chain").below()
    assert below is not None
    assert [each["id"] for each in run("runs", "--json").json] == [outer.id]
    listed = run("runs", "--all", "--json").json
    assert [(each["id"], each.get("parent"), each.get("step")) for each in listed] == [
        (outer.id, None, None),
        (below.id, outer.id, "chain"),
    ]
    assert run("runs", "show", outer.id).lines[-1].split() == ["chain", "workflow", "chain", "running", below.id]
    assert run("runs", "show", below.id).lines[0] == "chain: running"


def test_a_run_is_followed(run: Run, program: Program) -> None:
    done = program.flow.start()
    program.work()
    followed = run("runs", "follow", done.id)
    assert (followed.code, followed.lines) == (0, ["load completed", "save completed"])
    program.broken = True
    failed = program.flow.start()
    program.work()
    followed = run("runs", "follow", failed.id, "--json")
    assert followed.code == 1
    assert [json.loads(line) for line in followed.lines] == [
        {"name": "load", "state": "dead", "progress": None},
        {"name": "save", "state": "skipped", "progress": None},
    ]


def test_a_failed_run_is_resumed(run: Run, program: Program) -> None:
    program.broken = True
    failed = program.flow.start()
    assert run("runs", "resume", failed.id).code == 1
    program.work()
    lines = run("runs", "show", failed.id).lines
    assert lines[0] == "chain: dead"
    assert "step 'load' of workflow 'chain' is dead (OSError: no \\x1b disk)" in lines[1]
    program.broken = False
    assert run("runs", "resume", failed.id, "--json").json == {"id": failed.id, "resume": True}
    program.work()
    assert failed.result(0) == 5
    assert "only one that failed or was cancelled" in run("runs", "resume", failed.id).err


def test_a_run_is_cancelled(run: Run, program: Program) -> None:
    waiting = program.flow.start()
    done = run("runs", "cancel", waiting.id, "--reason", "no tea")
    assert done.code == 0
    assert "is being cancelled" in done.out
    program.work()
    assert waiting.status() == "cancelled"
    assert "no tea" in run("runs", "show", waiting.id).lines[1]
    assert "too late" in run("runs", "cancel", waiting.id).err


@pytest.mark.parametrize("by_queue", [False, True])
def test_cancelling_the_event_of_a_run_cancels_the_run(by_queue: bool, run: Run, program: Program) -> None:
    waiting = program.flow.start()
    done = run("cancel", *(["--queue", "workflows"] if by_queue else [waiting.id]), "--reason", "no tea")
    assert (done.code, done.lines) == (0, [f"{waiting.id}  requested"])
    program.work()
    assert waiting.status() == "cancelled"
    assert set(waiting.states().values()) == {"cancelled"}
    assert "no tea" in run("runs", "show", waiting.id).lines[1]


def test_wrong_use(run: Run, program: Program) -> None:
    assert run("runs", "show").code == 2
    assert run("runs", "list", "x").code == 2
    assert run("runs", "resume", "x", "--reason", "y").code == 2
    assert run("runs", "resume", "x", "--all").code == 2
    assert run("runs", "show", "x").code == 1
    id = program.app.queue("q").put(1)
    done = run("runs", "show", id)
    assert (done.code, done.out) == (1, "")
    assert "no record of a run" in done.err
