"""The tasks in huey. One that returns None stores nothing."""

from __future__ import annotations

from typing import Any

from huey import SqliteHuey

from benchmarks.tasks import work

huey: Any = SqliteHuey(filename=str(work.FOLDER / "huey.db"), fsync=False)


@huey.task()
def nothing(number: int) -> int:
    return work.nothing(number)


@huey.task()
def brief(number: int) -> int:
    return work.nothing(number)


@huey.task()
def bare(number: int) -> None:
    work.bare(number)


@huey.task()
def burn(number: int) -> int:
    return work.burn(number)
