"""The picture of a graph: what stands where, and what is written into it."""

from __future__ import annotations

import itertools
import random
from xml.etree import ElementTree as ET

from eventq.workflow.graph import Edge, Graph
from eventq.workflow.layout import BESIDE, HEIGHT, WIDEST, laid_out
from eventq.workflow.svg import svg
from workflows.test_graph import graph, node

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    return [each.text or "" for each in ET.fromstring(picture).iter(f"{SVG}text")]


def test_steps_states_and_conditions_are_written() -> None:
    found = graph(
        node('say "hi" <b> &'),
        node("b", after=(Edge('say "hi" <b> &', ("big", 1)),)),
        node("c", "b", undo=node("c.undo")),
    )
    assert texts(svg(found)) == ["big, 1", "big, 1", 'say "hi" <b> &', "b", "c"]
    drawn = svg(found, {'say "hi" <b> &': "completed", "b": "dead", "c": "completed", "c.undo": "claimed"})
    assert texts(drawn)[-4:] == ["c", "completed", "c.undo", "claimed"]
    fills = [each.get("fill") for each in ET.fromstring(drawn).iter(f"{SVG}rect")]
    assert fills == ["#ffffff", "#d1e7dd", "#f8d7da", "#d1e7dd", "#fff3cd"]
    assert [each.get("class") for each in ET.fromstring(drawn).iter(f"{SVG}path")][1:] == ["way", "way", "way undo"]


def test_names_may_be_any_text() -> None:
    name = "a\x1b\x00]]>--><script>\u2028" + "x" * 100
    picture = svg(graph(node(name)), {name: "ready"})
    assert "<script" not in picture
    assert texts(picture)[0].startswith("a  ]]>--><script> x")
    assert len(texts(picture)[0]) < 30


def grid(width: int, depth: int) -> Graph:
    random.seed(5)
    nodes = [node(f"0.{column}") for column in range(width)]
    nodes += [
        node(f"{row}.{column}", *(f"{row - 1}.{random.randrange(width)}" for _ in range(3)))
        for row in range(1, depth)
        for column in range(width)
    ]
    return graph(*nodes, node("join", *(f"{depth - 1}.{column}" for column in range(width))))


def test_a_hundred_steps_stand_apart_and_in_order() -> None:
    found = grid(11, 9)
    ways = [(parent, name) for name, parents in found.parents.items() for parent in parents]
    layout = laid_out(dict.fromkeys(found.order, 80.0), [(one, other) for one, other in ways])
    assert len(layout.boxes) == 100
    assert all(layout.boxes[one].y + HEIGHT < layout.boxes[other].y for one, other in ways)
    for row in itertools.groupby(sorted(layout.boxes.values(), key=lambda box: (box.y, box.x)), key=lambda box: box.y):
        places = [box.x for box in row[1]]
        assert len(places) <= WIDEST
        assert all(other - one >= 80 + min(BESIDE, 24) - 1e-6 for one, other in itertools.pairwise(places))
    for box in layout.boxes.values():
        assert 40 <= box.x <= layout.width - 40
        assert 0 < box.y < layout.height - HEIGHT
    for (one, other), line in layout.ways.items():
        assert line[0] == (layout.boxes[one].x, layout.boxes[one].y + HEIGHT)
        assert line[-1] == (layout.boxes[other].x, layout.boxes[other].y)
        assert [y for _, y in line] == sorted(y for _, y in line)


def test_ways_pass_between_boxes_and_not_through_them() -> None:
    found = grid(6, 6)
    ways = [(parent, name) for name, parents in found.parents.items() for parent in parents]
    layout = laid_out(dict.fromkeys(found.order, 80.0), [*ways, ("0.0", "join"), ("0.1", "4.2")])
    for line in layout.ways.values():
        for x, y in line[1:-1]:
            for box in layout.boxes.values():
                assert not (box.y <= y <= box.y + HEIGHT and abs(x - box.x) < 40)


def test_few_ways_cross() -> None:
    """Two chains whose steps are named crosswise stand side by side."""
    found = graph(*(node(f"a{each}", *([f"a{each - 1}"] if each else [])) for each in range(4)),
                  *(node(f"b{each}", *([f"b{each - 1}"] if each else [])) for each in (0, 1, 2, 3)))  # fmt: skip
    ways = [("a0", "b1"), ("b0", "a1"), ("b1", "a2"), ("a1", "b2")]
    layout = laid_out(dict.fromkeys(sorted(found.order, key=lambda name: name[1]), 80.0), ways)
    boxes = layout.boxes
    crossings = sum(
        (boxes[a].x - boxes[c].x) * (boxes[b].x - boxes[d].x) < 0
        for (a, b), (c, d) in itertools.combinations(ways, 2)
        if boxes[a].y == boxes[c].y
    )
    assert crossings == 0
