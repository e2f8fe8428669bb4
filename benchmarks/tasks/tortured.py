"""The tasks of the torture (`benchmarks/torture.py`). Each run notes its begin and its end, where no kill undoes it."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import eventq
from benchmarks.tasks.app import open_app
from benchmarks.tasks.base import VARIABLE
from benchmarks.tasks.notes import Notes, value_of
from eventq import Context

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(os.environ[VARIABLE])
FAILS = 2
"""How often a `flaky` one fails before it succeeds, and a `doomed` one before it is a dead letter."""
PLACES = 2
"""How many `limited` ones run at once."""

OPENING = 20.0
"""Seconds for which a store is waited for whose server is away."""

app = open_app(FOLDER, OPENING)
note = Notes(FOLDER)


@contextmanager
def noted(context: Context, kind: str, number: str) -> Iterator[None]:
    """Note the begin, and the end unless it raises."""
    note("begin", context.id, context.attempt, kind, number)
    yield
    note("end", context.id, context.attempt)


@app.task(name="quick", bind=True)
def quick(context: Context, number: str) -> str:
    with noted(context, "quick", number):
        print(number)
        return value_of("quick", number)


@app.task(name="bare", bind=True, result=False)
def bare(context: Context, number: str) -> None:
    with noted(context, "bare", number):
        """Nothing is left of it but its notes."""


@app.task(name="flaky", bind=True, retry_delay=0.1, backoff="constant")
def flaky(context: Context, number: str) -> str:
    with noted(context, "flaky", number):
        if context.attempt <= FAILS:
            raise ValueError(f"attempt {context.attempt}")
        return value_of("flaky", number)


@app.task(name="doomed", bind=True, retry_delay=0.05, max_attempts=FAILS)
def doomed(context: Context, number: str) -> str:
    with noted(context, "doomed", number):
        raise ValueError("as always")


@app.task(name="slow", bind=True, queue="slow")
def slow(context: Context, number: str) -> str:
    """For 50 to 300 ms."""
    with noted(context, "slow", number):
        for step in range(3):
            context.progress(step, 3)
            time.sleep((50 + sum(number.encode()) % 250) / 3000)
        return value_of("slow", number)


@app.task(name="on_loop", bind=True)
async def on_loop(context: Context, number: str) -> str:
    with noted(context, "on_loop", number):
        await asyncio.sleep(sum(number.encode()) % 50 / 1000)
        return value_of("on_loop", number)


@app.task(name="apart", bind=True, queue="slow", executor="process", concurrency=4, max_attempts=1000, retry_delay=0.1)
def apart(context: Context, number: str) -> str:
    """In a process of its own, which is killed, too: that is a failure, not a crash of the worker."""
    with noted(context, "apart", number):
        time.sleep(0.02)
        return value_of("apart", number)


@app.task(name="keyed", bind=True)
def keyed(context: Context, number: str) -> str:
    """Of all that have the same key, one is open at a time. The key is what its number begins with."""
    with noted(context, "keyed", number):
        time.sleep(0.02)
        return value_of("keyed", number)


@app.task(name="limited", bind=True, queue="slow", concurrency=PLACES)
def limited(context: Context, number: str) -> str:
    with noted(context, "limited", number):
        time.sleep(0.02)
        return value_of("limited", number)


@app.task(name="chain", bind=True)
def chain(context: Context, number: str, left: int) -> str:
    """Has its follow-up put before it ends; its number says how many are left."""
    with noted(context, "chain", f"{number}/{left}"):
        if left:
            put_chain(number, left - 1)
        return value_of("chain", f"{number}/{left}")


# ---------------------------------------------------------------- putting them


def put(kind: str, number: str, delay: float | None = None, priority: int = 0) -> eventq.Handle[str]:
    """Enqueue one, and note before that it is tried, afterwards that it was acknowledged."""
    note("try", kind, number, priority)
    options = {"key": number.partition(":")[0]} if kind == "keyed" else {}
    task = app.tasks[kind].using(delay=delay, priority=priority, **options)  # type: ignore[arg-type]
    handle: eventq.Handle[str] = task.enqueue(number)
    note("put", handle.id, kind, number)
    return handle


def put_chain(number: str, left: int) -> eventq.Handle[str]:
    """One link of a chain. Its key spares most of the doubles that a run makes which is repeated."""
    name = f"{number}/{left}"
    note("try", "chain", name, 0)
    handle = chain.using(key=f"chain {name}").enqueue(number, left)
    note("put", handle.id, "chain", name)
    return handle
