"""SIGTERM and SIGINT in real processes, and their exit codes (W11)."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest

from eventq import App
from eventq.model import State
from tasks.programs import INT, TERM, ended, started, wait_for_file, write
from tasks.running import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

SHOP = """
import asyncio, os, sys, threading, time
import eventq

app = eventq.App("store", sync=False)

def until_go():
    open("running", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.005)
    return "finished"

@app.task
def waits():
    return until_go()

@app.task
async def waits_async():
    open("running", "w").close()
    while not os.path.exists("go"):
        await asyncio.sleep(0.005)
    return "finished"

@app.task
def quick(number):
    return number

if __name__ == "__main__":
    if sys.argv[1] == "put":
        print(app.tasks["shop." + sys.argv[2]].enqueue().id)
    else:
        sys.exit(app.worker(stop_timeout=float(sys.argv[2])).run())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "shop.py", SHOP)
    return tmp_path


def put(folder: Path, task: str) -> str:
    with App(str(folder / "store"), sync=False) as app:
        return app.task_named(f"shop.{task}").enqueue().id


def state_of(folder: Path, id: str) -> State | None:
    with App(str(folder / "store")) as app:
        return app.handle(id).status()


@pytest.mark.parametrize("number", [TERM, INT], ids=["term", "int"])
@pytest.mark.parametrize("task", ["waits", "waits_async"])
def test_the_first_one_stops_gracefully(folder: Path, number: signal.Signals, task: str) -> None:
    id = put(folder, task)
    with started(folder, "shop.py", "work", "60") as process:
        wait_for_file(folder / "running", process)
        process.send_signal(number)
        (folder / "go").touch()
        code, _, err = ended(process)
    assert (code, "Traceback" in err) == (0, False), err
    assert state_of(folder, id) is State.COMPLETED


@pytest.mark.parametrize("number", [TERM, INT], ids=["term", "int"])
def test_an_idle_worker_ends_at_once(folder: Path, number: signal.Signals) -> None:
    with App(str(folder / "store"), sync=False) as app, started(folder, "shop.py", "work", "60") as process:
        handle = app.task_named("shop.quick").enqueue(1)
        assert handle.result(PATIENCE) == 1
        process.send_signal(number)
        assert ended(process)[0] == 0


@pytest.mark.parametrize("task", ["waits", "waits_async"])
def test_the_second_one_forces(folder: Path, task: str) -> None:
    id = put(folder, task)
    with started(folder, "shop.py", "work", "600") as process:
        wait_for_file(folder / "running", process)
        process.send_signal(TERM)
        with App(str(folder / "store")) as app:  # the first one was heard once nothing more is claimed
            pause = threading.Event()
            for _ in range(1000):
                handle = app.task_named("shop.quick").enqueue(1)
                if not handle.wait(0.2):
                    break
                pause.wait(0.01)
            else:
                pytest.fail("it goes on claiming")
        process.send_signal(INT)
        code, _, err = ended(process)
    assert code == 130, err
    assert state_of(folder, id) is State.READY


@pytest.mark.exhaustive
def test_what_does_not_finish_in_time_is_handed_back(folder: Path) -> None:
    id = put(folder, "waits")
    with started(folder, "shop.py", "work", "0.1") as process:
        wait_for_file(folder / "running", process)
        process.send_signal(TERM)
        assert ended(process)[0] == 130
    assert state_of(folder, id) is State.READY


MEMORY = """
import os, signal, sys, threading
import eventq

app = eventq.App("memory://")

@app.task
def stops(number):
    os.kill(os.getpid(), signal.SIGTERM)
    return number

handle = stops.enqueue(7)
code = app.worker().run()
print(code, handle.result(0), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""


def test_over_memory(tmp_path: Path) -> None:
    write(tmp_path, "program.py", MEMORY)
    with started(tmp_path, "program.py") as process:
        code, out, err = ended(process)
    assert (code, out) == (0, "0 7 True\n"), err
