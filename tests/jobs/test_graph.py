"""What makes a graph one of stages: each step waits for all of the stage before, and shares that list."""

from __future__ import annotations

from typing import Any

import pytest

from eventq import ConfigError
from eventq.workflow.graph import Definition, Graph, Node, Ref
from eventq.workflow.staged import Staged
from eventq.workflow.state import Arrival, RunState


def graph(*sizes: int, stages: int | None = None, **staged: Any) -> Graph:
    """Of stages of so many steps each; `1.0` is the first of the second stage."""
    nodes = [
        Node(name=f"{stage}.{index}", task="t", queue="q", stage=stage, batch=size > 1)
        for stage, size in enumerate(sizes)
        for index in range(size)
    ]
    names = tuple(str(number) for number in range(len(sizes) if stages is None else stages))
    return Graph(Definition(name="j", nodes=tuple(nodes), staged=Staged(job="j", stages=names, **staged)))


def test_each_stage_waits_for_the_one_before() -> None:
    made = graph(1, 3, 2)
    assert made.stages == [["0.0"], ["1.0", "1.1", "1.2"], ["2.0", "2.1"]]
    assert made.order == ["0.0", "1.0", "1.1", "1.2", "2.0", "2.1"]
    assert made.parents["2.1"] == ["1.0", "1.1", "1.2"]
    assert made.children["1.1"] == ["2.0", "2.1"]
    assert made.last == ["2.0", "2.1"]
    assert made.parents["2.0"] is made.parents["2.1"]
    assert made.children["1.0"] is made.children["1.2"]


@pytest.mark.parametrize("change", [{"stage": None}, {"stage": 2}, {"stage": -1}, {"refs": (Ref("0.0", ("args", 0)),)}])
def test_what_is_no_graph_of_stages(change: dict[str, Any]) -> None:
    nodes = (
        Node(name="0.0", task="t", queue="q", stage=0),
        Node(**({"name": "1.0", "task": "t", "queue": "q", "stage": 1} | change)),
    )
    with pytest.raises(ConfigError, match="is of no stage, or waits for more than that"):
        Graph(Definition(name="j", nodes=nodes, staged=Staged(job="j", stages=("0", "1"))))


def test_a_stage_without_steps() -> None:
    with pytest.raises(ConfigError, match="has no steps"):
        graph(1, 1, stages=3)


@pytest.mark.parametrize(("restart", "ready"), [("current", ["1.0"]), ("first", ["0.0"])])
def test_another_generation_begins_where_the_job_says_whatever_is_told_first(restart: str, ready: list[str]) -> None:
    """What comes of a generation proves that it began: also then nothing of before may be kept that was to be
    forgotten."""
    made = graph(1, 1, restart=restart)

    def failed() -> RunState:
        state = RunState(made, lambda data, codec: data)
        for arrival in (
            Arrival(kind="begin"),
            Arrival(node="0.0", id="a"),
            Arrival(node="1.0", id="b", state="dead"),  # type: ignore[arg-type]
        ):
            state.apply(arrival)
        assert state.over
        return state

    assert failed().apply(Arrival(kind="begin", generation=2)) == ready
    state = failed()
    state.apply(Arrival(node=ready[0], id="c", generation=2))
    assert state.status[ready[0]] == "completed"
    assert (state.arrived["0.0"].id == "a") is (restart == "current")
