"""Places for the steps of a graph on a page: layers from top to bottom, few crossings, short ways. Computing alone.

After Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System Structures" (1981): each step
stands one layer below the last of those it waits for (and further down, where that layer is full); a way that passes
layers gets a place in each; each layer is sorted by the mean place of its neighbours, down and up again. At last each
is drawn towards its neighbours as far as the others of its layer let it: the least squares with these distances.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDEST = 12
"""Steps side by side, at most: what is wider is not read."""
HEIGHT, BETWEEN, BESIDE, PASSING = 42.0, 46.0, 26.0, 12.0
"""Of a box; between two layers; between two boxes; between two ways that pass a layer."""
MARGIN = 20.0
SORTINGS, PULLS = 12, 8

Place = str | tuple[str, str, int]
"""A step, or a way from one to another where it passes a layer."""
Way = tuple[str, str]


class Box(NamedTuple):
    """Where a step stands: its middle, its top, and how wide it is."""

    x: float
    y: float
    width: float


class Layout(NamedTuple):
    """Where everything is, from the upper left corner on."""

    boxes: dict[str, Box]
    ways: dict[Way, list[tuple[float, float]]]
    """From the lower edge of one box to the upper edge of another, by the points where it enters or leaves a layer."""
    width: float
    height: float


def laid_out(widths: Mapping[str, float], ways: Sequence[Way]) -> Layout:
    """Places for boxes of these widths, of which each stands behind those from which a way leads to it."""
    parents: dict[str, list[str]] = {name: [] for name in widths}
    for one, other in ways:
        parents[other].append(one)
    layer = _layers(parents)
    rows = _rows(layer, ways)
    links = _links(layer, ways)
    _sort(rows, links)
    x = _spread(rows, links, widths)
    left = min(x[each] - widths.get(_name(each), 0.0) / 2 for row in rows for each in row) - MARGIN
    right = max(x[each] + widths.get(_name(each), 0.0) / 2 for row in rows for each in row) + MARGIN
    tops = [MARGIN + number * (HEIGHT + BETWEEN) for number in range(len(rows))]
    boxes = {name: Box(x[name] - left, tops[layer[name]], widths[name]) for name in widths}
    lines = {}
    for one, other in ways:
        line = [(boxes[one].x, boxes[one].y + HEIGHT)]
        for number in range(layer[one] + 1, layer[other]):
            at = x[one, other, number] - left
            line += [(at, tops[number]), (at, tops[number] + HEIGHT)]
        lines[one, other] = [*line, (boxes[other].x, boxes[other].y)]
    return Layout(boxes, lines, right - left, tops[-1] + HEIGHT + MARGIN)


def _name(place: Place) -> str:
    return place if isinstance(place, str) else ""


def _layers(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    layer: dict[str, int] = {}
    full: Counter[int] = Counter()
    for name, waited_for in parents.items():
        at = max((layer[each] + 1 for each in waited_for), default=0)
        while full[at] >= WIDEST:
            at += 1
        layer[name] = at
        full[at] += 1
    return layer


def _rows(layer: Mapping[str, int], ways: Sequence[Way]) -> list[list[Place]]:
    rows: list[list[Place]] = [[] for _ in range(max(layer.values()) + 1)]
    for name, at in layer.items():
        rows[at].append(name)
    for one, other in ways:
        for at in range(layer[one] + 1, layer[other]):
            rows[at].append((one, other, at))
    return rows


def _links(layer: Mapping[str, int], ways: Sequence[Way]) -> tuple[dict[Place, list[Place]], dict[Place, list[Place]]]:
    """The neighbours of each place in the layer above, and in that below."""
    above: dict[Place, list[Place]] = {}
    below: dict[Place, list[Place]] = {}
    for one, other in ways:
        passed: list[Place] = [(one, other, at) for at in range(layer[one] + 1, layer[other])]
        for upper, lower in zip([one, *passed], [*passed, other], strict=True):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    return above, below


def _sort(rows: list[list[Place]], links: tuple[dict[Place, list[Place]], dict[Place, list[Place]]]) -> None:
    """Sort each layer by the mean place of the neighbours, in the layer above and below in turn."""
    at = {place: float(number) for row in rows for number, place in enumerate(row)}
    for turn in range(SORTINGS):
        neighbours = links[turn % 2]
        for row in rows if turn % 2 == 0 else reversed(rows):
            mean = {place: _mean([at[each] for each in neighbours.get(place, ())], at[place]) for place in row}
            row.sort(key=mean.__getitem__)
            at.update({place: number * 100 / max(1, len(row) - 1) for number, place in enumerate(row)})


def _spread(
    rows: list[list[Place]],
    links: tuple[dict[Place, list[Place]], dict[Place, list[Place]]],
    widths: Mapping[str, float],
) -> dict[Place, float]:
    """The middle of each place."""
    x: dict[Place, float] = {}
    for row in rows:
        x.update(_apart(row, dict.fromkeys(row, 0.0), widths))
    for turn in range(PULLS):
        for row in rows if turn % 2 == 0 else reversed(rows):
            wanted = {}
            for place in row:
                beside = [*links[0].get(place, ()), *links[1].get(place, ())]
                wanted[place] = _mean([x[each] for each in beside], x[place])
            x.update(_apart(row, wanted, widths))
    return x


def _apart(row: Sequence[Place], wanted: Mapping[Place, float], widths: Mapping[str, float]) -> dict[Place, float]:
    """Where the places of a layer come nearest to where they are wanted, in their order and at their distances. By
    pooling: neighbours that would be too near move together, to the mean of what they want."""
    offsets, offset = [], 0.0
    for before, place in zip([None, *row], row, strict=False):
        if before is not None:
            gap = BESIDE if isinstance(before, str) and isinstance(place, str) else PASSING
            offset += (widths.get(_name(before), 0.0) + widths.get(_name(place), 0.0)) / 2 + gap
        offsets.append(offset)
    pools: list[list[float]] = []  # the sum of what its members want, and how many there are
    for place, offset in zip(row, offsets, strict=True):
        pools.append([wanted[place] - offset, 1.0])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    means = [total / count for total, count in pools for _ in range(int(count))]
    return {place: mean + offset for place, mean, offset in zip(row, means, offsets, strict=True)}


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
