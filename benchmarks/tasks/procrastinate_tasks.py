"""The tasks in procrastinate, which keeps no results. Its worker runs the plain functions in threads."""

from __future__ import annotations

from procrastinate import App, PsycopgConnector

from benchmarks.tasks import work

app = App(connector=PsycopgConnector(conninfo=work.POSTGRESQL))


@app.task(name="bare")
def bare(number: int) -> None:
    work.bare(number)


@app.task(name="bare_async")
async def bare_async(number: int) -> None:
    work.bare(number)
