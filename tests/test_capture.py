"""Capture: what a run writes is kept with its event, and with no other; the streams themselves stay as they are."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, Claim, ClaimLost, StorageError
from eventq.capture import (
    BEYOND,
    KEPT,
    MOST,
    PATIENCE,
    PIECE,
    CapturedStream,
    Capturing,
    Output,
    Recording,
    Sink,
    captured,
    flush_due,
    noted,
    running,
)
from eventq.clock import SYSTEM, Clock
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def caught(sink: Sink, clock: Clock = SYSTEM) -> Iterator[Recording]:
    """A run within a worker. Not a fixture: pytest exchanges the streams between a test and its fixtures."""
    with Capturing(), captured(sink, clock) as recording:
        yield recording


class Gathered:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, str]] = []

    def __call__(self, kind: str, text: str) -> None:
        self.pieces.append((kind, text))

    def text(self, kind: str = "stdout") -> str:
        return "".join(text for each, text in self.pieces if each == kind)


@pytest.fixture
def sink() -> Gathered:
    return Gathered()


def in_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


# ---------------------------------------------------------------- what is captured, and whose it is


def test_what_a_run_writes(sink: Gathered, capsys: pytest.CaptureFixture[str]) -> None:
    with caught(sink):
        print("one", 2)
        sys.stdout.writelines(["three\n", "four\n"])
        print("trouble", file=sys.stderr)
        logging.getLogger("shop").warning("late by %d s", 5)
        print("five")
    assert sink.pieces == [
        ("stdout", "one 2\nthree\nfour\n"),
        ("stderr", "trouble\n"),
        ("log", "WARNING shop: late by 5 s\n"),
        ("stdout", "five\n"),
    ]


def test_the_real_streams_get_it_too(sink: Gathered, capsys: pytest.CaptureFixture[str]) -> None:
    with Capturing():
        print("before")
        with captured(sink):
            print("inside")
            print("wrong", file=sys.stderr)
        print("after")
    assert capsys.readouterr() == ("before\ninside\nafter\n", "wrong\n")
    assert (sink.text(), sink.text("stderr")) == ("inside\n", "wrong\n")


def test_without_an_installed_capturing_nothing_is_captured(sink: Gathered) -> None:
    with captured(sink):
        print("unseen")
    assert sink.pieces == []


def test_threads_do_not_mix() -> None:
    sinks = [Gathered() for _ in range(8)]
    barrier = threading.Barrier(8, timeout=20)

    def work(number: int) -> None:
        with caught(sinks[number]):
            barrier.wait()
            for n in range(200):
                print(f"{number}:{n}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for number, sink in enumerate(sinks):
        assert sink.text() == "".join(f"{number}:{n}\n" for n in range(200))


def test_coroutines_do_not_mix() -> None:
    sinks = [Gathered() for _ in range(5)]

    async def work(number: int) -> None:
        with caught(sinks[number]):
            for n in range(20):
                print(f"{number}:{n}")
                await asyncio.sleep(0)
            await asyncio.to_thread(print, f"{number}: in a thread that inherits the context")
            await asyncio.create_task(child(number))

    async def child(number: int) -> None:
        print(f"{number}: in a coroutine that it started")

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(5)))

    asyncio.run(main())
    for number, sink in enumerate(sinks):
        expected = "".join(f"{number}:{n}\n" for n in range(20))
        expected += f"{number}: in a thread that inherits the context\n"
        assert sink.text() == expected + f"{number}: in a coroutine that it started\n"


def test_a_thread_without_the_context_is_not_captured(sink: Gathered) -> None:
    with caught(sink):
        in_thread(lambda: print("not of the run"))
        print("of the run")
    assert sink.text() == "of the run\n"


def test_begin_and_end_in_other_contexts(sink: Gathered) -> None:
    recording = captured(sink)

    async def work() -> None:
        recording.begin()
        print("in a coroutine")

    with Capturing():
        asyncio.run(work())
        print("outside")
        recording.end()
    recording.end()
    assert sink.pieces == [("stdout", "in a coroutine\n")]
    assert running.get() is None


def test_a_run_inside_a_run(sink: Gathered) -> None:
    inner = Gathered()
    with caught(sink):
        print("a")
        with caught(inner):
            print("b")
        print("c")
    assert (sink.text(), inner.text()) == ("a\nc\n", "b\n")


@pytest.mark.parametrize("before", ["", "in time\n"])
def test_what_comes_after_the_end_is_not_kept(sink: Gathered, before: str) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def left_behind() -> None:
            await go.wait()
            print("late")

        with caught(sink):
            if before:
                print(before, end="")
            task = asyncio.create_task(left_behind())
            await asyncio.sleep(0)
        go.set()
        await task
        flush_due(SYSTEM.monotonic() + 10)

    with Capturing():  # the worker goes on
        asyncio.run(main())
    assert sink.text() == before


def test_a_forked_child_keeps_nothing(sink: Gathered, clock: FakeClock) -> None:
    """It has a copy of what was held back, and may come to the end of the run as its parent does."""
    with caught(sink, clock) as recording:
        print("before")
        child = os.fork()
        if child == 0:
            try:
                print("of the child" * PIECE, end="")
                clock.advance(PATIENCE)
                flush_due(clock.monotonic())
                recording.end()
            finally:
                os._exit(len(sink.pieces))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sink.text() == "before\n"


def test_a_forked_child_may_have_runs_of_its_own(sink: Gathered) -> None:
    with caught(sink):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                own = Gathered()
                with captured(own):
                    print("of the child")
                code = 0 if own.text() == "of the child\n" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sink.pieces == []


# ---------------------------------------------------------------- pieces


def test_little_waits_and_much_does_not(sink: Gathered) -> None:
    with caught(sink, FakeClock()):
        sys.stdout.write("x" * (PIECE - 1))
        assert sink.pieces == []
        sys.stdout.write("y")
        assert sink.pieces == [("stdout", "x" * (PIECE - 1) + "y")]
        sys.stdout.write("z")
        assert len(sink.pieces) == 1
    assert sink.pieces[1:] == [("stdout", "z")]


def test_what_has_waited_goes_with_the_next_write(sink: Gathered, clock: FakeClock) -> None:
    with caught(sink, clock):
        print("a")
        clock.advance(PATIENCE / 2)
        print("b")
        assert sink.pieces == []
        clock.advance(PATIENCE / 2)
        print("c")
        assert sink.pieces == [("stdout", "a\nb\nc")]  # print writes the end of the line by itself
        print("d")
        assert len(sink.pieces) == 1


def test_a_tick_gives_what_is_due(sink: Gathered, clock: FakeClock) -> None:
    with caught(sink, clock):
        print("a")
        Capturing().flush_due(clock.monotonic())
        assert sink.pieces == []
        clock.advance(PATIENCE)
        in_thread(lambda: flush_due(clock.monotonic()))
        assert sink.pieces == [("stdout", "a\n")]
        flush_due(clock.monotonic() + 10)
        assert len(sink.pieces) == 1


@pytest.mark.parametrize("meanwhile", [[], ["b"]])
def test_the_end_waits_for_a_tick_that_is_giving(meanwhile: list[str], clock: FakeClock) -> None:
    pieces: list[str] = []
    entered, goes_on = threading.Event(), threading.Event()

    def slow(kind: str, text: str) -> None:
        entered.set()
        assert goes_on.wait(20)
        pieces.append(text)

    with caught(slow, clock) as recording:
        print("a")
        clock.advance(PATIENCE)
        tick = threading.Thread(target=flush_due, args=(clock.monotonic(),))
        tick.start()
        assert entered.wait(20)
        sys.stdout.writelines(meanwhile)  # does not wait for the sink
        threading.Timer(0.05, goes_on.set).start()
        recording.end()
        assert pieces == ["a\n", *meanwhile]
    tick.join(20)


def test_a_run_keeps_a_bounded_amount(sink: Gathered) -> None:
    with caught(sink):
        for _ in range(100):
            print("x" * 4095)
        print("nothing any more")
    assert sink.text() == ("x" * 4095 + "\n") * (KEPT >> 12) + BEYOND
    assert "256 KiB" in BEYOND


def test_the_bound_counts_bytes_and_cuts_between_characters(sink: Gathered) -> None:
    with caught(sink):
        print("a" + "€" * KEPT)
    text = sink.text().removesuffix(BEYOND)
    assert text == "a" + "€" * ((KEPT - 1) // 3)
    assert max(len(piece) for _, piece in sink.pieces) <= MOST


def test_what_utf8_cannot_hold(sink: Gathered) -> None:
    with caught(sink) as recording:
        recording.write("stdout", os.fsdecode(b"caf\xe9"))
    assert sink.text() == "caf\\udce9"


# ---------------------------------------------------------------- trouble


def test_a_lost_claim_does_not_disturb_the_run() -> None:
    calls = []

    def lost(kind: str, text: str) -> None:
        calls.append(text)
        raise ClaimLost("gone")

    with caught(lost):
        print("x" * PIECE)
        print("y" * PIECE)
    assert calls == ["x" * PIECE]  # and no more tries


def test_a_storage_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def broken(kind: str, text: str) -> None:
        calls.append(text)
        if len(calls) == 1:
            raise StorageError("the disk is full")

    with caught(broken):
        sys.stdout.write("x" * PIECE)
        sys.stdout.write("y" * PIECE)
    assert calls == ["x" * PIECE, "y" * PIECE]
    assert "the disk is full" in caplog.text


def test_a_sink_that_writes_is_not_its_own_input() -> None:
    pieces = []

    def loud(kind: str, text: str) -> None:
        pieces.append(text)
        print("x" * PIECE)
        logging.getLogger("driver").error("keeping")

    with caught(loud):
        sys.stdout.write("a" * PIECE)
    assert pieces == ["a" * PIECE]


def test_eventqs_own_log_is_not_captured(sink: Gathered) -> None:
    with caught(sink):
        logging.getLogger("eventq.storage").error("about the run")
        logging.getLogger("eventq").error("about the run")
        logging.getLogger("eventqlike").error("of the run")
    assert sink.pieces == [("log", "ERROR eventqlike: of the run\n")]


def test_a_log_record_that_cannot_be_formatted(sink: Gathered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with caught(sink):
        record = logging.LogRecord("shop", logging.ERROR, "f", 1, "%d", ("x",), None)
        assert Capturing._handler is not None
        assert Capturing._handler.handle(record)
        print("goes on")
    assert sink.pieces == [("stdout", "goes on\n")]


def test_a_traceback_is_part_of_the_record(sink: Gathered) -> None:
    with caught(sink):
        try:
            raise LookupError("no such customer")
        except LookupError:
            logging.getLogger("shop").exception("failed")
    assert sink.text("log").startswith("ERROR shop: failed\nTraceback")
    assert "LookupError: no such customer" in sink.text("log")


def test_a_finalizer_that_prints_cannot_hang_it(sink: Gathered, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector runs them at any moment: while the run's output is made, and while it keeps a piece."""
    lines, done = ["while it is made", "while it keeps"], threading.Event()

    def make(*args: Any) -> Output:
        if len(lines) == 2:
            print(lines.pop(0))
        return Output(*args)

    class Interrupted(FakeClock):
        def monotonic(self) -> float:
            if len(lines) == 1:
                print(lines.pop())
            return 0.0

    def work() -> None:
        with caught(sink, Interrupted()):
            print("a")
        done.set()

    monkeypatch.setattr("eventq.capture.Output", make)
    threading.Thread(target=work, daemon=True).start()
    assert done.wait(20)
    assert set(sink.text().split("\n")) >= {"while it keeps", "while it is made", "a"}


# ---------------------------------------------------------------- installing


def streams() -> tuple[Any, Any, list[logging.Handler]]:
    return sys.stdout, sys.stderr, list(logging.getLogger().handlers)


def test_the_last_one_restores_what_was_there() -> None:
    before = streams()
    first, second = Capturing(), Capturing()
    first.install()
    first.install()
    installed = streams()
    assert installed[0].real is before[0]
    assert len(installed[2]) == len(before[2]) + 1
    second.install()
    assert streams() == installed
    first.uninstall()
    first.uninstall()
    assert streams() == installed
    second.uninstall()
    assert streams() == before


def test_what_others_put_before_the_streams_stays(sink: Gathered, monkeypatch: pytest.MonkeyPatch) -> None:
    capturing = Capturing()
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    capturing.install()
    mine = io.StringIO()
    sys.stdout = mine
    with Capturing(), captured(sink):  # a second worker, which finds it there
        print("hello")
    assert (mine.getvalue(), sink.text()) == ("hello\n", "hello\n")
    sys.stdout = mine
    capturing.uninstall()
    assert sys.stdout is mine


def test_a_kept_reference_works_on(capsys: pytest.CaptureFixture[str], sink: Gathered) -> None:
    with Capturing():
        kept = sys.stdout
    assert sys.stdout is not kept
    kept.write("still there\n")
    kept.flush()
    assert capsys.readouterr().out == "still there\n"


def test_it_looks_like_the_real_stream() -> None:
    real = sys.stdout
    with Capturing():
        stream: Any = sys.stdout
        assert isinstance(stream, CapturedStream)
        assert (stream.encoding, stream.isatty(), stream.errors) == (real.encoding, real.isatty(), real.errors)
        assert stream.buffer is real.buffer
        with pytest.raises(AttributeError):
            _ = stream.no_such_thing
        with pytest.raises(TypeError):
            stream.write(b"bytes")


def test_a_process_without_streams(sink: Gathered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with Capturing(), captured(sink):
        print("into the void", flush=True)
    assert sys.stdout is None
    assert sink.text() == "into the void\n"


INSTALLED_WHILE_OTHERS_PRINT = """
import sys, threading
from eventq.capture import Capturing

sys.setswitchinterval(1e-6)
done = threading.Event()

def work():
    while not done.is_set():
        print("x", "y", "z")

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(1000):
    with Capturing():
        pass
done.set()
for thread in threads:
    thread.join()
print("survived", file=sys.stderr)
"""


def test_threads_may_print_while_it_comes_and_goes() -> None:
    """A stream that is freed while a thread is in `print` crashes the process, not only the test."""
    command = [sys.executable, "-c", INSTALLED_WHILE_OTHERS_PRINT]
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "survived\n")


LAST_RESORT = """
import logging, sys
from eventq.capture import Capturing, captured

pieces = []
logging.getLogger("a").warning("before")
with Capturing():
    logging.getLogger("a").warning("installed")
    with captured(lambda kind, text: pieces.append((kind, text))):
        logging.getLogger("a").warning("in a run")
        logging.getLogger("a").info("too low")
logging.getLogger("a").warning("after")
import json
print(json.dumps(pieces))
"""


def test_unconfigured_logging_prints_as_before() -> None:
    """Without any handler Python prints warnings to stderr; that there is one now must not silence them."""
    done = subprocess.run([sys.executable, "-c", LAST_RESORT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "before\ninstalled\nin a run\nafter\n"
    assert json.loads(done.stdout) == [["log", "WARNING a: in a run\n"]]


# ---------------------------------------------------------------- notes, and what it costs


@pytest.fixture
def claim(url: str) -> Iterator[Claim[Any]]:
    with App(url) as app:
        app.queue("q").put("x")
        claim = app.queue("q").claim()
        assert claim is not None
        yield claim


def outputs(claim: Claim[Any]) -> list[dict[str, str]]:
    notes = claim.store.storage.notes(claim.id)
    assert {note.kind for note in notes} <= {"output"}
    return [json.loads(bytes(note.data)) for note in notes]


def test_output_is_noted_and_readable_at_once(claim: Claim[Any]) -> None:
    with caught(noted(claim)):
        sys.stdout.write("x" * PIECE)
        assert outputs(claim) == [{"stream": "stdout", "text": "x" * PIECE}]
        logging.getLogger("shop").error("öäü")
    assert outputs(claim)[1:] == [{"stream": "log", "text": "ERROR shop: öäü\n"}]
    claim.complete(1)
    assert len(outputs(claim)) == 2


def test_all_that_a_run_may_write_fits(claim: Claim[Any]) -> None:
    """Also if JSON needs six bytes for one of its characters, and a single call writes it."""
    with caught(noted(claim)):
        sys.stdout.write("\x01" * (MOST * 2))
    assert "".join(output["text"] for output in outputs(claim)) == "\x01" * (MOST * 2)


def test_a_claim_that_was_settled_by_the_run(claim: Claim[Any]) -> None:
    with caught(noted(claim)):
        print("before")
        claim.complete(1)
        print("after")
    assert outputs(claim) == []  # what had not been noted by then; the run goes on regardless


def test_a_silent_run_makes_no_output(sink: Gathered) -> None:
    recording: Recording = captured(sink)
    with recording:
        assert recording._output is None
    assert recording._output is None
    assert sink.pieces == []
