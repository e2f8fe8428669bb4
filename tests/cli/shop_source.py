"""A small program with tasks, written where a test wants it, and imported anew by each test."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eventq import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOURCE = '''
import os
import time

import eventq

app = eventq.App()


@app.task
def total(first: int, second: int = 0) -> int:
    return first + second


@app.task
def greet(name: str) -> str:
    return f"hello {name}"


@app.task(max_attempts=1)
def fail() -> None:
    raise ValueError("no such picture")


@app.task(executor="process")
def apart(number: int) -> int:
    return number * 2


@app.task(queue="slow")
def until_there(path: str) -> int:
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getpid()


@app.task
def pid() -> int:
    return os.getpid()
'''


@contextmanager
def shop(folder: Path) -> Iterator[Path]:
    """`shop.py` in a folder; what it adds to this process is gone afterwards."""
    path = folder / "shop.py"
    path.write_text(SOURCE)
    before = list(sys.path)
    try:
        yield path
    finally:
        sys.path[:] = before
        module = sys.modules.pop("shop", None)
        if module is not None:
            module.app.close()


def until(fact: Callable[[], object], what: str, limit: float = 20.0) -> None:
    """Wait for a fact, at most so long."""
    deadline = clock.SYSTEM.monotonic() + limit
    while not fact():
        assert clock.SYSTEM.monotonic() < deadline, f"not within {limit} s: {what}"
        clock.sleep(0.01)
