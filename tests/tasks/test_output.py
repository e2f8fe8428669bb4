"""What a run tells while it runs: progress (R7), what it prints and logs (R8)."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any

import msgspec
import pytest

from eventq import App, Context
from eventq.testing import FakeClock
from tasks.conftest import OpenApp
from tasks.running import PATIENCE, burst, until, working

log = logging.getLogger("shop")


def notes_of(app: App, id: str, kind: str) -> list[Any]:
    return [msgspec.json.decode(note.data) for note in app.handle(id).notes() if note.kind == kind]


def output_of(app: App, id: str, stream: str) -> str:
    return "".join(note["text"] for note in notes_of(app, id, "output") if note["stream"] == stream)


# ---------------------------------------------------------------- R7


def test_progress_is_seen_while_it_runs(app: App, open_app: OpenApp) -> None:
    gate = threading.Event()

    @app.task(name="long", bind=True)
    def long(context: Context) -> None:
        context.progress(1, 3, "a third")
        assert gate.wait(PATIENCE)
        context.progress(3, 3)

    elsewhere = open_app()
    with working(app):
        handle = long.enqueue()
        assert until(lambda: notes_of(elsewhere, handle.id, "progress")) == [{"done": 1, "total": 3, "note": "a third"}]
        gate.set()
        assert handle.wait(PATIENCE)
    assert [note["done"] for note in notes_of(elsewhere, handle.id, "progress")] == [1, 3]


def test_progress_of_a_coroutine(app: App) -> None:
    @app.task(name="long", bind=True)
    async def long(context: Context) -> None:
        context.progress(1)

    handle = long.enqueue()
    burst(app)
    assert notes_of(app, handle.id, "progress") == [{"done": 1, "total": None, "note": ""}]


# ---------------------------------------------------------------- R8


def speak(number: int) -> None:
    print(f"to stdout {number}")
    print(f"to stderr {number}", file=sys.stderr)
    log.warning("to the log %d", number)


async def speak_async(number: int) -> None:
    await asyncio.sleep(0)
    speak(number)


@pytest.mark.parametrize("function", [speak, speak_async])
def test_what_a_run_prints_and_logs_is_kept(app: App, function: Any) -> None:
    task = app.task(name="speak")(function)
    handles = [task.enqueue(number) for number in range(10)]
    burst(app)
    for number, handle in enumerate(handles):
        assert output_of(app, handle.id, "stdout") == f"to stdout {number}\n"
        assert output_of(app, handle.id, "stderr") == f"to stderr {number}\n"
        assert output_of(app, handle.id, "log").strip() == f"WARNING shop: to the log {number}"


@pytest.mark.exhaustive
@pytest.mark.parametrize("on_loop", [False, True])
def test_it_is_readable_live(app: App, open_app: OpenApp, on_loop: bool) -> None:
    gate = threading.Event()

    @app.task(name="sync")
    def sync() -> None:
        print("so far")
        assert gate.wait(PATIENCE)

    @app.task(name="async")
    async def on_the_loop() -> None:
        print("so far")
        await asyncio.to_thread(gate.wait, PATIENCE)

    elsewhere = open_app()
    with working(app):
        handle = (on_the_loop if on_loop else sync).enqueue()
        assert until(lambda: output_of(elsewhere, handle.id, "stdout")) == "so far\n"
        gate.set()


@pytest.mark.parametrize("function", [speak, speak_async])
def test_what_was_printed_before_a_failure_is_kept(app: App, function: Any) -> None:
    async def fails_async() -> None:
        print("last words")
        raise ValueError

    def fails() -> None:
        print("last words")
        raise ValueError

    handle = app.task(name="f", max_attempts=1)(fails if function is speak else fails_async).enqueue()
    burst(app)
    assert output_of(app, handle.id, "stdout") == "last words\n"


def test_it_goes_where_it_would_have_gone_too(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.task(name="speak")(speak).enqueue(1)
    burst(app)
    said = capsys.readouterr()
    assert "to stdout 1" in said.out
    assert "to stderr 1" in said.err


def test_it_may_be_left_out(app: App) -> None:
    handle = app.task(name="speak", capture=False)(speak).enqueue(1)
    burst(app)
    assert notes_of(app, handle.id, "output") == []


def test_what_is_printed_outside_of_runs_belongs_to_none(app: App) -> None:
    gate, running = threading.Event(), threading.Event()

    @app.task(name="quiet")
    def quiet() -> None:
        running.set()
        assert gate.wait(PATIENCE)

    with working(app):
        handle = quiet.enqueue()
        assert running.wait(PATIENCE)
        print("by the test")
        gate.set()
        assert handle.wait(PATIENCE)
    assert notes_of(app, handle.id, "output") == []


def test_the_streams_are_put_back(app: App) -> None:
    before = sys.stdout, sys.stderr, list(logging.getLogger().handlers)
    app.task(name="speak")(speak).enqueue(1)
    burst(app)
    assert (sys.stdout, sys.stderr, list(logging.getLogger().handlers)) == before


def test_output_goes_with_the_event(frozen: App, clock: FakeClock) -> None:
    handle = frozen.task(name="speak", keep=600)(speak).enqueue(1)
    burst(frozen)
    clock.advance(599)
    frozen.queue("default").prune()
    assert output_of(frozen, handle.id, "stdout") == "to stdout 1\n"
    clock.advance(2 * 86400)
    frozen.queue("default").prune()
    assert (handle.status(), notes_of(frozen, handle.id, "output")) == (None, [])
