"""The graph of a workflow: checked, to plain data and back, and drawn."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from eventq import ConfigError
from eventq.workflow.graph import Definition, Edge, Graph, Node, Ref, from_dict, lifted, mermaid, place, to_dict


def node(name: str, *parents: str, **fields: Any) -> Node:
    """A step that takes the results of others as its arguments."""
    call = msgspec.Raw(msgspec.json.encode({"task": "t", "args": [None] * len(parents)}))
    refs = tuple(Ref(parent, ("args", index)) for index, parent in enumerate(parents))
    return Node(name=name, task="t", queue="q", call=call, refs=refs, **fields)


def graph(*nodes: Node, **fields: Any) -> Graph:
    return Graph(Definition(name="w", nodes=nodes, **fields))


def test_each_step_stands_behind_what_it_waits_for() -> None:
    found = graph(node("d", "b", "c"), node("c", "a"), node("b", "a"), node("a"))
    assert found.order[0] == "a"
    assert found.order[-1] == "d"
    assert found.last == ["d"]
    assert found.children["a"] == ["c", "b"]


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        ((), "has no steps"),
        ((node("a"), node("a")), "two steps 'a'"),
        ((node("a", "b"),), "waits for 'b', which is no step"),
        ((node("a", "a"),), "never run: a -> a"),
        ((node("a", "c"), node("b", "a"), node("c", "b")), "wait for each other never run"),
        ((node(""),), "1 to 200 characters"),
        ((node("a", undo=node("a")),), "two steps 'a'"),
    ],
)
def test_what_is_no_graph_is_refused(nodes: tuple[Node, ...], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        graph(*nodes)


def test_the_result_must_be_that_of_a_step() -> None:
    with pytest.raises(ConfigError, match="which is no step of this workflow"):
        graph(node("a"), result=("a", "b"))


def test_plain_data_and_back() -> None:
    nodes = (
        node("a", delay=1.5, headers={"x": [1]}, limits={"l": 1}, rates={"r": (1, 2.0)}, undo=node("a.undo", "a")),
        node("b", after=(Edge("a", ("big", 1, None)), Edge("a", ("big",), unless=True)), on_failure="continue"),
        Node(name="c", task="t", queue="q", codec="msgpack", data=b"\x80\xff", keep=60.0),
    )
    definition = Definition(name="w", nodes=nodes, result=("a", "b"), codec="msgpack")
    data = json.loads(json.dumps(to_dict(definition)))
    assert to_dict(from_dict(data)) == data
    again = from_dict(data)
    assert again.nodes[1:] == nodes[1:]
    assert again.nodes[0].undo is not None
    assert again.nodes[2].payload == b"\x80\xff"


@pytest.mark.parametrize("data", [{}, {"name": "w", "nodes": [{"name": 1}]}, {"name": "w", "nodes": 7}])
def test_what_is_no_workflow_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="this is no workflow"):
        from_dict(data)


def test_a_later_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="format 2"):
        from_dict({**to_dict(Definition(name="w", nodes=(node("a"),))), "format": 2})


def test_read_data_is_checked_as_a_graph() -> None:
    with pytest.raises(ConfigError, match="never run"):
        from_dict(to_dict(Definition(name="w", nodes=(node("a", "a"),))))


@pytest.mark.parametrize(
    ("edge", "fires", "not_fires"),
    [
        (Edge("a"), [1, None, "x"], []),
        (Edge("a", ("big",)), ["big"], ["small", None, ["big"]]),
        (Edge("a", (1,)), [1, 1.0], [True, "1", 0]),
        (Edge("a", (True,)), [True], [1, "true"]),
        (Edge("a", (None, "x")), [None, "x"], [0, False]),
        (Edge("a", ("x", "y"), unless=True), ["z", None], ["x", "y"]),
    ],
)
def test_an_edge_fires_by_equality(edge: Edge, fires: list[Any], not_fires: list[Any]) -> None:
    assert [edge.fires(value) for value in fires] == [True] * len(fires)
    assert [edge.fires(value) for value in not_fires] == [False] * len(not_fires)


class Mark:
    def __init__(self, name: str) -> None:
        self.name = name


def test_results_come_to_the_places_of_their_steps() -> None:
    a, b = Mark("a"), Mark("b")
    found: list[tuple[Mark, tuple[str | int, ...]]] = []
    given = [1, [a, {"x": b, "y": (a, 2)}]]
    args = lifted(given, Mark, ("args",), found)
    assert args == [1, [None, {"x": None, "y": [None, 2]}]]
    assert given[1] == [a, {"x": b, "y": (a, 2)}]
    place(args, {}, [Ref(mark.name, path) for mark, path in found], {"a": "A"})
    assert args == [1, ["A", {"x": None, "y": ["A", 2]}]]


def test_mermaid_shows_steps_edges_and_states() -> None:
    found = graph(
        node('say "hi" <b>'),
        node("b", after=(Edge('say "hi" <b>', ("big",)), Edge('say "hi" <b>', (1,)))),
        node("c", "b", undo=node("c.undo")),
    )
    assert mermaid(found).splitlines() == [
        "flowchart TD",
        '    n0["say #quot;hi#quot; #lt;b#gt;"]',
        '    n1["b"]',
        '    n2["c"]',
        '    n0 -->|"big or 1"| n1',
        "    n1 --> n2",
    ]
    drawn = mermaid(found, {'say "hi" <b>': "completed", "b": "dead", "c": "completed", "c.undo": "claimed"})
    assert '    n1["b<br/>dead"]:::dead' in drawn.splitlines()
    assert "    n2 -.-> n3" in drawn.splitlines()
    assert "classDef completed" in drawn
    assert "classDef skipped" not in drawn
