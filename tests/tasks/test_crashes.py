"""Workers that die: what runs again, and what does not (C3, C6)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, TaskFailed
from eventq.model import State
from eventq.storage.file.recovery import bury_dead
from tasks.conftest import OpenApp
from tasks.programs import KILL, ended, run, started, wait_for_file, write
from tasks.running import PATIENCE, Serving, burst, until, working

if TYPE_CHECKING:
    from pathlib import Path

    from eventq.model import Claimed

SHOP = """
import os, signal, sys, time
import eventq

app = eventq.App("store", sync=False)

def mark(name):
    with open("ran", "a") as file:
        file.write(name + "\\n")

def run(name):
    mark(name)
    if open("ran").read().split().count(name) == 1:
        open("running", "w").close()
        time.sleep(600)
    return "second"

@app.task
def late():
    return run("late")

@app.task(ack="early")
def early():
    return run("early")

@app.task
async def late_async():
    return run("late_async")

@app.task(max_crashes=3)
def deadly():
    mark("deadly")
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)

@app.task
def innocent(number):
    mark(f"innocent{number}")
    time.sleep(0.1)
    return number

if __name__ == "__main__":
    sys.exit(app.worker().run(burst=True))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "shop.py", SHOP)
    return tmp_path


@pytest.mark.parametrize("task", ["late", "late_async", "early"])
def test_kill_9_in_the_task(folder: Path, task: str) -> None:
    with App(str(folder / "store"), sync=False) as app:
        handle = app.task_named(f"shop.{task}", **({"max_crashes": 1} if task == "early" else {})).enqueue()
        with started(folder, "shop.py") as process:
            wait_for_file(folder / "running", process)
            process.send_signal(KILL)
            process.wait(PATIENCE)
        until(lambda: run(folder, "shop.py") == "" and handle.ready())
        runs = (folder / "ran").read_text().split()
        if task == "early":
            assert runs == ["early"]
            with pytest.raises(TaskFailed, match="WorkerDied"):
                handle.result(0)
        else:
            assert runs == [task, task]
            assert handle.result(0) == "second"


@pytest.mark.exhaustive
def test_early_of_the_task_itself(folder: Path) -> None:
    """As it is enqueued where the task is known."""
    id = run(folder, "-c", "import shop; print(shop.early.enqueue().id)").strip()
    with started(folder, "shop.py") as process:
        wait_for_file(folder / "running", process)
        process.send_signal(KILL)
        process.wait(PATIENCE)
    with App(str(folder / "store")) as app:
        until(lambda: run(folder, "shop.py") == "" and app.handle(id).ready())
        assert app.handle(id).status() is State.DEAD
    assert (folder / "ran").read_text().split() == ["early"]


@pytest.mark.exhaustive
def test_a_handler_that_kills_its_process_with_seven_innocents_beside_it(folder: Path) -> None:
    code = "import shop; print(shop.deadly.enqueue().id, *[shop.innocent.enqueue(n).id for n in range(7)])"
    guilty, *innocents = run(folder, "-c", code).split()
    deaths = 0
    with App(str(folder / "store")) as app:
        while not all(app.handle(id).ready() for id in (guilty, *innocents)):
            with started(folder, "shop.py") as process:
                code_of_exit = ended(process)[0]
            assert code_of_exit in (0, -KILL)
            deaths += code_of_exit == -KILL
            assert deaths <= 5, "workers die for ever"
        assert deaths == 3
        dead = app.queue("default").scan(State.DEAD).records
        assert [record.id for record in dead] == [guilty]
        assert dead[0].failure is not None
        assert "3 workers died" in dead[0].failure.message
        assert [app.handle(id).result(0) for id in innocents] == list(range(7))


def test_the_same_over_any_storage(open_app: OpenApp) -> None:
    """A worker that dies is one whose storage is abandoned: what it held is found by the others."""
    together = threading.Barrier(8)
    deaths: list[int] = []

    def define(app: App) -> dict[str, Any]:
        def guilty() -> None:
            meet()
            deaths.append(1)
            app.store.storage.abandon()  # type: ignore[attr-defined]

        def innocent(number: int) -> int:
            meet()
            return number

        def meet() -> None:
            if not deaths:
                together.wait(PATIENCE)

        return {
            "guilty": app.task(name="guilty", max_crashes=3)(guilty), "innocent": app.task(name="innocent")(innocent)
        }  # fmt: skip

    app = open_app()
    tasks = define(app)
    dead = tasks["guilty"].enqueue()
    handles = [tasks["innocent"].enqueue(number) for number in range(7)]
    for number in range(3):
        serving = Serving(app.worker(concurrency=8, stop_timeout=0), burst=False)
        serving.start()
        until(lambda: len(deaths) > number, "a death")  # noqa: B023 - it is over before the next turn
        serving.join()
        app = open_app()
        define(app)
    with working(app):
        assert app.handle(dead.id).wait(PATIENCE)
        assert all(app.handle(handle.id).wait(PATIENCE) for handle in handles)
    assert len(deaths) == 3
    assert app.handle(dead.id).status() is State.DEAD
    assert [app.handle(handle.id).result(0) for handle in handles] == list(range(7))


def test_a_burst_finds_what_a_dead_worker_left(open_app: OpenApp) -> None:
    """Or a worker that is started now and then would leave it there for ever."""
    first, second = open_app(), open_app()
    handle = first.task(name="w")(one).enqueue()
    second.task(name="w")(one)
    assert len(first.store.storage.claim("default")) == 1
    first.store.storage.abandon()  # type: ignore[attr-defined]
    burst(second)
    assert second.handle(handle.id).status() is State.COMPLETED


def test_a_burst_waits_for_what_its_other_thread_brings_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads look after the dead: who finds the other at it must not end the burst meanwhile."""
    looking, asked_again = threading.Event(), threading.Event()

    def buries(root: str, own: str, durable: bool) -> int:
        if threading.current_thread() is threading.main_thread():
            looking.set()
            asked_again.wait(0.2)  # it comes only from who does not wait for us
        return bury_dead(root, own, durable)

    monkeypatch.setattr("eventq.storage.file.storage.bury_dead", buries)
    with App(tmp_path / "store", sync=False) as first, App(tmp_path / "store", sync=False) as second:
        handle = first.task(name="w")(one).enqueue()
        second.task(name="w")(one)
        assert len(first.store.storage.claim("default")) == 1
        first.store.storage.abandon()  # type: ignore[attr-defined]
        claim, times = second.store.storage.claim, 0

        def claims(queue: str, limit: int = 1) -> list[Claimed]:
            nonlocal times
            looking.wait(PATIENCE)
            found = claim(queue, limit)
            times += 1
            if times == 2:
                asked_again.set()
            return found

        monkeypatch.setattr(second.store.storage, "claim", claims)
        assert second.worker().run(burst=True) == 0
        assert second.handle(handle.id).status() is State.COMPLETED


def one() -> int:
    return 1


@pytest.mark.parametrize("ack", ["late", "early"])
def test_ack_over_any_storage(open_app: OpenApp, ack: Any) -> None:
    runs: list[str] = []

    def work() -> int:
        runs.append("run")
        return 1

    first, second = open_app(), open_app()
    handle = first.task(name="w", ack=ack)(work).enqueue()
    second.task(name="w", ack=ack)(work)
    assert len(first.store.storage.claim("default")) == 1  # it has been started, and then:
    first.store.storage.abandon()  # type: ignore[attr-defined]
    other = second.handle(handle.id)
    with working(second):
        assert other.wait(PATIENCE)
    assert runs == ([] if ack == "early" else ["run"])
    assert other.status() is (State.DEAD if ack == "early" else State.COMPLETED)


def test_early_a_failure_is_final(app: App) -> None:
    runs: list[int] = []

    @app.task(name="w", ack="early")
    def fails() -> None:
        runs.append(1)
        raise ValueError

    handle = fails.enqueue()
    burst(app)
    assert (handle.status(), runs) == (State.DEAD, [1])
