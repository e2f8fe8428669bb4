"""Runs of children as a worker has them, for the tests of both sides. The functions stand in processes_sample.py."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from eventq.child import Order, Raised, Returned
from eventq.clock import SYSTEM, sleep
from eventq.process import Answer, Children, Oversight

PATIENCE = 60.0
RUNNER = "processes_sample:carry_out"


def order(function: str, *args: Any, **rest: Any) -> Order:
    target = function if ":" in function else f"processes_sample:{function}"
    payload = msgspec.json.encode(args)
    return Order(target, task=function, payload=payload, codec="json", id="e.0", queue="default", **rest)


class Heard:
    """What a run said, for others to wait for."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, Any]] = []
        self.texts: dict[str, str] = defaultdict(str)
        self.began = threading.Event()
        self.cancel = threading.Event()

    def on_note(self, kind: str, data: bytes) -> None:
        self.notes.append((kind, msgspec.json.decode(data)))
        if kind == "began":
            self.began.set()

    def on_output(self, stream: str, text: str) -> None:
        self.texts[stream] += text

    def oversight(self, seconds: float | None = None, **rest: Any) -> Oversight:
        deadline = None if seconds is None else SYSTEM.monotonic() + seconds
        return Oversight(deadline, self.cancel.is_set, self.on_note, self.on_output, **rest)


def run(children: Children, function: str, *args: Any, heard: Heard | None = None, **rest: Any) -> Answer:
    return children.run(order(function, *args, **rest), (heard or Heard()).oversight(PATIENCE))


def value(answer: Answer) -> Any:
    assert isinstance(answer, Returned), answer
    assert answer.value is not None
    return msgspec.json.decode(answer.value)


def raised(answer: Answer) -> Raised:
    assert isinstance(answer, Raised), answer
    return answer


def wait_until_gone(*pids: int) -> None:
    until = SYSTEM.monotonic() + PATIENCE
    for pid in pids:
        while is_there(pid):
            assert SYSTEM.monotonic() < until, f"process {pid} is still there"
            sleep(0.005)


def is_there(pid: int) -> bool:
    """Whether there is such a process. A zombie counts, unless it is an orphan, which only `init` can reap."""
    try:
        os.kill(pid, 0)
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # gone meanwhile; or a system without /proc, where `kill` must do
        return not os.path.isdir("/proc/self")
    return (state, parent) != ("Z", "1")


class Background:
    """One run in a thread of its own."""

    def __init__(self, children: Children, asked: Order, oversight: Oversight) -> None:
        self._answers: list[Answer] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(children.run(asked, oversight)))
        self._thread.start()

    def answer(self) -> Answer:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self._answers[0]
