"""Runs survive the death of any process at any point: real processes, killed with -9."""

from __future__ import annotations

import signal
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import pytest
from stores import kinds, new_store
from tasks.programs import started, write
from tasks.running import PATIENCE, until

from eventq import App, StorageError
from eventq.clock import sleep
from eventq.workflow import engine
from workflows.conftest import left

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = """
    import os, sys, time
    from pathlib import Path
    import eventq

    app = eventq.App()
    WIDTH, DEPTH = 11, 9

    @app.task(bind=True, name="node", max_crashes=1000)
    def node(context: eventq.Context, name: str, values: list[int]) -> int:
        time.sleep(0.005)
        with open(f"notes/{os.getpid()}", "a") as notes:
            notes.write(f"{context.headers['correlation_id']}/{name} {context.id}\\n")
        return (sum(values) + 1) % 1000

    def graph():
        flow = app.workflow("grid")
        layer = [flow.step(node, f"0.{column}", []) for column in range(WIDTH)]
        for row in range(1, DEPTH):
            layer = [
                flow.step(node, f"{row}.{column}", [layer[column - 1], layer[column], layer[(column + 3) % WIDTH]])
                for column in range(WIDTH)
            ]
        flow.step(node, "join", layer).named("join")
        return flow

    def nested():
        part = app.workflow("part")
        first = part.step(node, "first", [part.input("seed")])
        part.step(node, "join", [part.step(node, f"{column}", [first]) for column in range(3)])
        middle = app.workflow("middle")
        seed = middle.input("seed")
        middle.step(node, "join", [middle.step(part, seed=seed) for _ in range(3)])
        flow = app.workflow("outer")
        seed = flow.step(node, "seed", [])
        flow.step(node, "join", [flow.step(middle, seed=seed) for _ in range(3)])
        return flow

    if __name__ == "__main__":
        if sys.argv[1] == "start":
            while True:
                (graph if sys.argv[2] == "graph" else nested)().start()
                time.sleep(0.2)
        app.worker(concurrency=4).run()
"""


def expected() -> int:
    """What the last step of the graph comes to."""
    width, depth = 11, 9
    layer = [1] * width
    for _ in range(1, depth):
        layer = [(layer[each - 1] + layer[each] + layer[(each + 3) % width] + 1) % 1000 for each in range(width)]
    return (sum(layer) + 1) % 1000


class Graphs(NamedTuple):
    """What the program starts, and what its runs come to."""

    word: str
    runs: dict[str, int]
    """How many are run over each kind of store; over the others fewer, to save time."""
    steps: int
    """Events of tasks in each run."""
    expected: int


GRID = Graphs("graph", {"file": 20}, 100, expected())
NESTED = Graphs("nested", {"file": 8}, 2 + 3 + 9 * 5, 3 * (3 * (3 * 3 + 1) + 1) + 1)
"""A step, three runs side by side, each with three runs side by side, each with five steps; and joins."""


@pytest.fixture(params=[param for param in kinds() if "memory" not in param.values])  # type: ignore[attr-defined]
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with new_store(request.param, tmp_path) as url:
        yield url


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)


@pytest.mark.exhaustive
@pytest.mark.parametrize("graphs", [GRID, NESTED], ids=lambda graphs: graphs.word)
def test_kill_9_of_anybody_every_200_ms(
    shared_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, graphs: Graphs
) -> None:
    """Graphs of 100 steps, most of them joins, and runs within runs: all complete, and each step has one event, whoever
    put it."""
    wanted = graphs.runs.get(request.node.callspec.params["shared_url"], 4)
    monkeypatch.setenv("EVENTQ_URL", shared_url)
    (tmp_path / "notes").mkdir()
    path = str(write(tmp_path, "program.py", PROGRAM))
    with App(shared_url) as app:
        monkeypatch.setattr(engine, "SWEEP_INTERVAL", 0.0)
        kills = kill_while_running(app, tmp_path, path, graphs.word, wanted)
        runs = [app.workflows.run(each.id) for each in app.workflows.summaries() if each.parent is None]
        assert [run.result(0) for run in runs] == [graphs.expected] * len(runs)
        assert {each.status for each in app.workflows.summaries()} == {"completed"}
    ids = noted(tmp_path)
    print(f"{len(runs)} runs, {kills} kills, {len(ids)} steps")
    assert len(ids) == graphs.steps * len(runs)
    assert {name: found for name, found in ids.items() if len(found) != 1} == {}


def kill_while_running(app: App, folder: Path, path: str, word: str, wanted: int) -> int:
    """Kill a worker every 200 ms, and the starter with each run that it has started, until there are so many; how
    often. Then let the workers run until all runs have ended."""
    with ExitStack() as stack:
        starter = stack.enter_context(started(folder, path, "start", word))
        workers = [stack.enter_context(started(folder, path, "work")) for _ in range(3)]
        known, kills = 0, 0
        while kills < 24 or known < wanted:
            sleep(0.2)
            killed(workers.pop(0))
            workers.append(stack.enter_context(started(folder, path, "work")))
            kills += 1
            found = sum(each.parent is None for each in app.workflows.summaries())
            if found > known:
                killed(starter)
                known = found
                starter = stack.enter_context(started(folder, path, "start", word))
            assert kills < 400, "starters start nothing"
        killed(starter)
        for run in app.workflows.runs():
            assert run.wait(120), (run.states(), left(app))
        until(lambda: is_clear(app), "nothing is left")
    return kills


def is_clear(app: App) -> bool:
    """Whether nothing is open any more. A step whose worker died when the step had arrived, runs again, and may arrive
    once more when its run is over; if that worker is killed as well, a sweep finds what it has left."""
    try:
        app.workflows.engine.sweep(app.store.storage.queues())
    except StorageError:
        return False  # a worker is at it
    return not left(app)


def noted(folder: Path) -> dict[str, set[str]]:
    """The ids of the events under which each step of each run ran."""
    ids: dict[str, set[str]] = defaultdict(set)
    for file in (folder / "notes").iterdir():
        for line in file.read_text().splitlines():
            name, _, id = line.partition(" ")
            if id:  # who was killed may have written half of it
                ids[name].add(id)
    return ids
