"""The graph of a workflow as an SVG picture, coloured by the states of a run: text that every browser draws."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from eventq.workflow.graph import COLOURS, words_of
from eventq.workflow.layout import HEIGHT, Layout, laid_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventq.workflow.graph import Graph

LONGEST = 26
"""Characters of a name that are shown; all of it is said to who points at it."""
LETTER = 7.4
"""Pixels of a letter, about."""
NARROWEST = 76.0
STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328; text-anchor: middle; }
.state { font-size: 11px; fill: #57606a; }
.label { font-size: 11px; fill: #57606a; }
.halo { font-size: 11px; stroke: #ffffff; stroke-width: 4px; }
.way { fill: none; stroke: #8c959f; stroke-width: 1.3; }
.undo { stroke-dasharray: 5 4; }
.box { stroke: #57606a; stroke-width: 1.2; }"""
ARROW = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0.8 L8 4 L0 7.2 z" fill="#8c959f"/></marker>'
)


def svg(graph: Graph, states: Mapping[str, str] | None = None) -> str:
    """The graph as SVG text; with the states of a run, coloured by them. Names are escaped: any text may be one."""
    states = states or {}
    shown = [name for name in graph.places if name in graph.parents or name in states]
    ways = [(parent, name) for name in shown for parent in graph.parents.get(name, ())]
    undoes = [(of, undo) for undo, of in graph.undoes.items() if undo in shown]
    widths = {name: max(NARROWEST, LETTER * len(_short(name)) + 24) for name in shown}
    layout = laid_out(widths, [*ways, *undoes])
    wide, high = f"{layout.width:.0f}", f"{layout.height:.0f}"
    size = f'viewBox="0 0 {wide} {high}" width="{wide}" height="{high}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{_text(graph.definition.name)}</title>",
        f"<style>\n{STYLE}\n</style>",
        f"<defs>{ARROW}</defs>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *(_way(layout, way, way in undoes) for way in layout.ways),
        *(_label(graph, layout, way) for way in ways if way in graph.edges),
        *(line for name in shown for line in _step(graph, layout, name, states.get(name))),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _way(layout: Layout, way: tuple[str, str], undo: bool) -> str:
    """A way from a box to another: upright where it leaves, passes and enters a layer."""
    points = layout.ways[way]
    path = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x, y), (to_x, to_y) in pairwise(points):
        if x == to_x:
            path.append(f"V{to_y:.1f}")
        else:
            half = (y + to_y) / 2
            path.append(f"C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y:.1f}")
    style = "way undo" if undo else "way"
    return f'<path class="{style}" d="{" ".join(path)}" marker-end="url(#arrow)"/>'


def _label(graph: Graph, layout: Layout, way: tuple[str, str]) -> str:
    """For which results a way is gone, just above where it leads to."""
    points = layout.ways[way]
    (x, y), (to_x, to_y) = points[-2:]
    place = f'x="{(x + 3 * to_x) / 4:.1f}" y="{(y + 2 * to_y) / 3:.1f}"'
    words = _text(_short(words_of(graph.edges[way])))
    return f'<text class="halo" {place}>{words}</text><text class="label" {place}>{words}</text>'


def _step(graph: Graph, layout: Layout, name: str, state: str | None) -> list[str]:
    box, node = layout.boxes[name], graph.nodes[name]
    fill = COLOURS.get(state or "", "#ffffff")
    left, said = box.x - box.width / 2, f"{name}: {node.runs}" + ("" if state is None else f", {state}")
    middle = box.y + HEIGHT / 2
    place = f'x="{left:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{HEIGHT:.0f}" rx="7"'
    lines = [f"<g><title>{_text(said)}</title>", f'<rect class="box" {place} fill="{fill}"/>']
    if node.sub is not None:
        inner = f'x="{left + 3:.1f}" y="{box.y + 3:.1f}" width="{box.width - 6:.1f}" height="{HEIGHT - 6:.0f}" rx="5"'
        lines.append(f'<rect class="box" {inner} fill="none"/>')
    if state is None:
        lines.append(f'<text x="{box.x:.1f}" y="{middle + 4.5:.1f}">{_text(_short(name))}</text>')
    else:
        lines.append(f'<text x="{box.x:.1f}" y="{middle - 3:.1f}">{_text(_short(name))}</text>')
        lines.append(f'<text class="state" x="{box.x:.1f}" y="{middle + 12.5:.1f}">{_text(state)}</text>')
    return [*lines, "</g>"]


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _text(text: str) -> str:
    """Text as it may stand in XML, which has no control characters."""
    return escape("".join(each if each.isprintable() else " " for each in text), quote=False)
