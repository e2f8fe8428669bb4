"""What a task queue must do to be measured: a module of tasks, and a class of about twenty lines in `systems.py`."""

from __future__ import annotations

import abc
import asyncio
import importlib
import os
import time
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.measured import Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from pathlib import Path

PATIENCE = 10.0
"""Seconds within which a result that must be there is there."""

VARIABLE = "BENCHMARK_FOLDER"
"""Of the environment: the folder of the cell, for the modules of tasks."""

STORE = "BENCHMARK_STORE"
"""Of the environment: the URL of eventq's store, where it is not the folder `store` of the cell."""


class TaskSystem(Measured):
    """The producer of one task queue, in the folder where its workers work.

    Tasks are named as in the modules: `nothing`, `bare` (without a result), both also with `_async`, `brief` (its
    result goes after a second, where the system can), and `burn`. Each is called with its number.
    """

    modes = frozenset({"threads"})
    module: ClassVar[str]
    """Where its tasks are defined."""

    def __init__(self, folder: Path) -> None:
        os.environ[VARIABLE] = str(folder)
        self.tasks: Any = importlib.import_module(self.module)

    @classmethod
    @abc.abstractmethod
    def worker(cls, folder: Path) -> list[str]:
        """The arguments after `python -m` that start one worker process."""

    @abc.abstractmethod
    def enqueuer(self, task: str) -> Callable[[int], Any]:
        """Enqueues a task for a number, and answers what `result` needs."""

    @abc.abstractmethod
    def result(self, handle: Any) -> Any:
        """The result of a task, waiting for it up to PATIENCE; an error if there is none."""

    def close(self) -> None:
        """Leave the queue."""

    # ---- loops over them, as a program of the system's kind writes them

    def enqueue_for(self, task: str, first: int, count: int, seconds: float) -> list[Any]:
        """Enqueue one by one until the count or the time is reached."""
        enqueue, clock, handles = self.enqueuer(task), time.perf_counter, []
        end = clock() + seconds
        for number in range(first, first + count):
            handles.append(enqueue(number))
            if clock() > end:
                break
        return handles

    def results_for(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """The results in order, as many as the time allows."""
        result, clock, values = self.result, time.perf_counter, []
        end = clock() + seconds
        for handle in handles:
            values.append(result(handle))
            if clock() > end:
                break
        return values

    def calls_for(self, task: str, first: int, count: int, seconds: float) -> list[tuple[float, Any]]:
        """Enqueue one, wait for its result, and again: the seconds and the result of each."""
        enqueue, result, clock, calls = self.enqueuer(task), self.result, time.perf_counter, []
        end = clock() + seconds
        for number in range(first, first + count):
            start = clock()
            value = result(enqueue(number))
            now = clock()
            calls.append((now - start, value))
            if now > end:
                break
        return calls


class AsyncTaskSystem(TaskSystem):
    """One whose producer is asynchronous: the same loops on an event loop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.loop = asyncio.new_event_loop()

    @abc.abstractmethod
    def enqueuer(self, task: str) -> Callable[[int], Coroutine[Any, Any, Any]]: ...

    @abc.abstractmethod
    async def result(self, handle: Any) -> Any: ...

    def enqueue_for(self, task: str, first: int, count: int, seconds: float) -> list[Any]:
        enqueue = self.enqueuer(task)
        return self.loop.run_until_complete(_in_turn(enqueue, range(first, first + count), seconds))

    def results_for(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        return self.loop.run_until_complete(_in_turn(self.result, handles, seconds))

    def calls_for(self, task: str, first: int, count: int, seconds: float) -> list[tuple[float, Any]]:
        enqueue, result, clock = self.enqueuer(task), self.result, time.perf_counter

        async def call(number: int) -> tuple[float, Any]:
            start = clock()
            value = await result(await enqueue(number))
            return clock() - start, value

        return self.loop.run_until_complete(_in_turn(call, range(first, first + count), seconds))

    def close(self) -> None:
        self.loop.close()


async def _in_turn(step: Callable[[Any], Coroutine[Any, Any, Any]], items: Iterable[Any], seconds: float) -> list[Any]:
    clock, answers = time.perf_counter, []
    end = clock() + seconds
    for item in items:
        answers.append(await step(item))
        if clock() > end:
            break
    return answers
