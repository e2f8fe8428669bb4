"""What a task enqueues carries the headers of its own event (Q13)."""

from __future__ import annotations

import asyncio
from typing import Any

from eventq import App
from tasks.running import burst


def headers_of(app: App, id: str) -> dict[str, Any]:
    record = app.get(id)
    assert record is not None
    return record.headers


def leaf() -> int:
    return 1


def test_of_a_function(app: App) -> None:
    inner = app.task(name="inner")(leaf)

    @app.task(name="outer")
    def outer() -> list[str]:
        return [inner.enqueue().id, inner.using(headers={"user": "bob", "own": 1}).enqueue().id]

    handle = outer.using(headers={"user": "ann", "trace": "t1"}).enqueue()
    burst(app)
    plain, special = (headers_of(app, id) for id in handle.result(0))
    assert plain == {"user": "ann", "trace": "t1", "correlation_id": handle.id}
    assert special == {"user": "bob", "own": 1, "trace": "t1", "correlation_id": handle.id}


def test_of_a_coroutine(app: App) -> None:
    inner = app.task(name="inner")(leaf)

    @app.task(name="outer")
    async def outer(number: int) -> str:
        await asyncio.sleep(0)
        return (await inner.aio.enqueue()).id

    handles = [outer.using(headers={"n": number}).enqueue(number) for number in range(5)]
    burst(app)
    for number, handle in enumerate(handles):
        assert headers_of(app, handle.result(0)) == {"n": number, "correlation_id": handle.id}


def test_the_correlation_id_is_that_of_the_first(app: App) -> None:
    ids: list[str] = []

    @app.task(name="countdown")
    def countdown(number: int) -> None:
        if number:
            ids.append(countdown.enqueue(number - 1).id)

    first = countdown.enqueue(3)
    burst(app)
    assert len(ids) == 3
    assert {headers_of(app, id)["correlation_id"] for id in ids} == {first.id}


def test_plain_events_too(app: App) -> None:
    @app.task(name="outer")
    def outer() -> str:
        return app.queue("plain").put(1)

    handle = outer.using(headers={"user": "ann"}).enqueue()
    burst(app)
    assert headers_of(app, handle.result(0)) == {"user": "ann", "correlation_id": handle.id}


def test_outside_of_a_run_there_is_nothing_to_carry(app: App) -> None:
    task = app.task(name="inner")(leaf)
    task.using(headers={"user": "ann"}).enqueue()
    burst(app)
    assert headers_of(app, task.enqueue().id) == {}


def test_a_coroutine_and_a_function_side_by_side_do_not_mix(app: App) -> None:
    inner = app.task(name="inner")(leaf)

    @app.task(name="a")
    async def a() -> str:
        await asyncio.sleep(0.01)
        return inner.enqueue().id

    @app.task(name="b")
    def b() -> str:
        return inner.enqueue().id

    handles = [(name, task.using(headers={"by": name}).enqueue()) for name, task in [("a", a), ("b", b)] * 10]
    burst(app)
    assert all(headers_of(app, handle.result(0))["by"] == name for name, handle in handles)
