"""The tasks in eventq."""

from __future__ import annotations

from benchmarks.tasks import work
from benchmarks.tasks.app import open_app

app = open_app(work.FOLDER)


@app.task
def nothing(number: int) -> int:
    return work.nothing(number)


@app.task(result=False)
def bare(number: int) -> None:
    work.bare(number)


@app.task(keep=1)
def brief(number: int) -> int:
    """Its result goes soon."""
    return work.nothing(number)


@app.task
def total(numbers: list[int]) -> int:
    """The body of a chord; not in the ledger."""
    return sum(numbers)


@app.task
async def nothing_async(number: int) -> int:
    return work.nothing(number)


@app.task(result=False)
async def bare_async(number: int) -> None:
    work.bare(number)


@app.task
def burn(number: int) -> int:
    return work.burn(number)
