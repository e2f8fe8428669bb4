"""The awaitable twins: they wait on the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tasks.running import working

from eventq import App, ResultTimeout, TaskFailed
from workflows.conftest import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def app(url: str) -> Iterator[App]:
    """On the machine's own clock."""
    config: dict[str, Any] = {} if "://" in url else {"sync": False}
    with App(url, **config) as app:
        yield app


def test_many_more_waiters_than_threads(app: App) -> None:
    tasks = Tasks(app)

    async def main() -> list[Any]:
        flows = [app.chain((tasks.one, number), tasks.add) for number in range(12)]
        runs = [await flow.aio.start() for flow in flows]
        steps = [await run.aio.node("add") for run in runs]
        waiting = [asyncio.ensure_future(each.aio.result(60)) for each in (*runs, *steps)]
        with pytest.raises(ResultTimeout):
            await runs[0].aio.result(0)
        with working(app, ["default"]):
            results = await asyncio.gather(*waiting)
        assert [await run.aio.status() for run in runs] == ["completed"] * 12
        assert await runs[0].aio.states() == {"one": "completed", "add": "completed"}
        assert await runs[0].aio.ids() == runs[0].ids()
        assert await runs[0].aio.mermaid() == runs[0].mermaid()
        assert len(await app.workflows.aio.runs()) == 12
        return results

    assert asyncio.run(main()) == list(range(1, 13)) * 2


def test_following_cancelling_and_resuming(app: App) -> None:
    tasks = Tasks(app)
    tasks.broken = {1}

    async def main() -> None:
        run = await app.chain((tasks.fragile, 1), tasks.add).aio.start()
        with working(app, ["default"]):
            seen = [(change.name, change.state) async for change in run.aio.follow(60)]
            assert dict(seen) == {"fragile": "dead", "add": "skipped"}, seen
            with pytest.raises(TaskFailed):
                await run.aio.result()
            assert isinstance(await run.aio.exception(), TaskFailed)
            assert not await run.aio.cancel()
            tasks.broken = set()
            assert await run.aio.resume()
            assert await run.aio.result(60) == 2
            assert await run.aio.ready()
            assert (await run.aio.definition()).name == "chain"
            assert await (await run.aio.node("add")).aio.status() == "completed"

    asyncio.run(main())
