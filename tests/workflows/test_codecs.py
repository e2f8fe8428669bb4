"""Runs whose payloads and results are not JSON, from the inputs to the result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventq import App, Codec, PayloadError
from workflows.conftest import Tasks, left, work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.workflow import Workflow


class Backwards(Codec):
    """JSON, written from its end: no other codec reads it."""

    name = "backwards"

    def encode(self, obj: Any) -> bytes:
        return msgspec.json.encode(obj)[::-1]

    def decode(self, data: bytes, type: Any = Any) -> Any:
        return msgspec.json.decode(data[::-1], type=type)


CODECS: dict[str, tuple[Any, Any]] = {"msgpack": ("msgpack", b"\x00\xff"), "own": (Backwards(), "tea")}
"""Each with a value that it can carry."""


@pytest.fixture(params=CODECS)
def value(request: pytest.FixtureRequest) -> Any:
    return CODECS[request.param][1]


@pytest.fixture
def app(url: str, request: pytest.FixtureRequest, value: Any) -> Iterator[App]:
    config: dict[str, Any] = {} if "://" in url else {"sync": False}
    codec = next(codec for codec, each in CODECS.values() if each == value)
    with App(url, codec=codec, **config) as app:
        yield app


def nested(app: App, tasks: Tasks, value: Any) -> Workflow:
    """An input goes through a run within a run, and chooses the way."""
    inner = app.workflow("inner")
    inner.step(tasks.one, inner.step(tasks.one, inner.input("x")))
    flow = app.workflow("w")
    first = flow.step(inner, x=flow.input("x", value))
    kept = flow.step(tasks.one, [first, {"deep": first}]).named("kept")
    flow.returns([first, kept])
    return flow


def test_values_come_through(app: App, value: Any) -> None:
    tasks = Tasks(app)
    flow = nested(app, tasks, value)
    again = app.workflow_from(json.loads(json.dumps(flow.to_dict())))
    runs = [flow.start(), flow.start(x=value * 2), again.start(x=value)]
    work(app)
    expected = [[each, [each, {"deep": each}]] for each in (value, value * 2, value)]
    assert [run.result(0) for run in runs] == expected
    assert runs[0].node("inner").result(0) == value
    assert runs[0].node("kept").result(0) == expected[0][1]
    assert app.workflows.summaries()[0].name == "w"
    assert not left(app)


def test_results_are_read_while_the_run_goes_on_and_choose_ways(app: App, value: Any) -> None:
    tasks = Tasks(app)
    flow = app.workflow("w")
    first = flow.step(tasks.one, value)
    ways = [flow.step(tasks.one, 1).named("left"), flow.step(tasks.one, 2).named("right")]
    flow.step(tasks.one, first).named("check").route({"tea": ways[0]}, otherwise=ways[1])
    run = flow.start()
    app.worker(["default"], concurrency=1, max_tasks=1).run()
    assert run.node("one").result(0) == value
    work(app)
    assert run.result(0) == ({"left": 1} if value == "tea" else {"right": 2})


def test_a_failed_run_is_resumed_with_what_it_had(app: App, value: Any) -> None:
    tasks = Tasks(app)
    tasks.broken = {value}
    run = app.chain((tasks.one, value), tasks.fragile, tasks.one).start()
    work(app)
    assert run.status() == "dead"
    tasks.broken, tasks.ran = set(), []
    assert run.resume()
    work(app)
    assert run.result(0) == value
    assert tasks.ran == [("fragile", value), ("one", value)]


def test_a_process_that_writes_json_reads_them(app: App, url: str, value: Any) -> None:
    run = nested(app, Tasks(app), value).start()
    work(app)
    with App(url, codecs=[Backwards()]) as other:
        assert other.workflows.run(run.id).result(0)[0] == value
        assert other.workflows.run(run.id).node("inner").result(0) == value
    with App(url) as stranger:
        if value == "tea":
            with pytest.raises(PayloadError, match="backwards"):
                stranger.workflows.run(run.id).result(0)
        else:
            assert stranger.workflows.run(run.id).result(0)[0] == value
