"""The tasks in eventq."""

from __future__ import annotations

import eventq
from benchmarks.tasks import work

app = eventq.App(str(work.FOLDER / "store"), sync=False)


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
async def nothing_async(number: int) -> int:
    return work.nothing(number)


@app.task(result=False)
async def bare_async(number: int) -> None:
    work.bare(number)


@app.task
def burn(number: int) -> int:
    return work.burn(number)
