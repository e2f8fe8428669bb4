"""Running the command: in this process for speed, as a process of its own where that is what is tested."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pytest

from eventq.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Run(Protocol):
    def __call__(self, *args: str, stdin: bytes = b"") -> Ran: ...


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EVENTQ_URL", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def eventq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`main` in this process, without a store of its own."""

    def run(*args: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = main(args)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def run(eventq: Run, store: str) -> Run:
    """`main` in this process, on this test's store."""

    def call(*args: str, stdin: bytes = b"") -> Ran:
        return eventq("--store", store, *args, stdin=stdin)

    return call


@pytest.fixture
def start(store: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`eventq` as a process of its own; what a failed test leaves of it, running or unread, ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def call(*args: str, **options: Any) -> subprocess.Popen[str]:
        settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "eventq", *args]
        environment = {**os.environ, "EVENTQ_URL": store}
        started.append(subprocess.Popen(command, text=True, **{**settings, "env": environment, **options}))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


def ended(process: subprocess.Popen[str], timeout: float = 30) -> Ran:
    """Wait for a process, and what it printed beyond what the test has read already.

    Not by `communicate`, which passes over what an earlier `readline` has left in the buffer.
    """
    watchdog = threading.Timer(timeout, process.kill)
    watchdog.start()
    try:
        out, err = (stream.read() if stream else "" for stream in (process.stdout, process.stderr))
        code = process.wait()
    finally:
        watchdog.cancel()
        watchdog.join()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
    return Ran(code, out, err)
