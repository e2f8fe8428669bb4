"""The pictures of a run: for each kind of work, how many times the baseline's figure eventq and the others reach."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from benchmarks.table import TASK_MODES, quantity

if TYPE_CHECKING:
    from benchmarks.measured import Measured
    from benchmarks.results import Results
    from benchmarks.row import Row

WIDTH, LEFT, RIGHT, TOP = 840, 210, 150, 74
BAR, STEP, GAP = 13, 16, 14
STEPS = (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100)

STYLE = """
 text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
 .halo { stroke: #ffffff; stroke-width: 4px; stroke-linejoin: round }
 .title { font-size: 16px; font-weight: 600 }  .quiet { fill: #59636e; font-size: 11px }
 .paper { fill: #ffffff }  .grid { stroke: #d1d9e0 }  .one { stroke: #1f2328; stroke-width: 1.5 }
 .eventq { fill: #0969da }  .peer { fill: #8c959f }  .redis { fill: #c4cbd2 }
 @media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }  .quiet { fill: #9198a1 }  .paper { fill: #0d1117 }  .grid { stroke: #3d444d }
  .one { stroke: #f0f6fc }  .halo { stroke: #0d1117 }
  .eventq { fill: #4493f8 }  .peer { fill: #656c76 }  .redis { fill: #3d444d }
 }
"""


@dataclass(frozen=True)
class Picture:
    """One picture: the rows of some modes."""

    title: str
    base: str
    """What the line at 1 is called."""
    modes: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]


QUEUES = Picture(
    title="Times SQLite in the same run (higher is better)",
    base="SQLite",
    modes=("relaxed", "durable"),
    legend=(
        ("eventq", "eventq"),
        ("peer", "best other embedded queue (†: at most once)"),
        ("redis", "Redis list"),
    ),
)
TASKS = Picture(
    title="Tasks: times huey on SQLite, coroutines: times saq, in the same run (higher is better)",
    base="huey, saq",
    modes=TASK_MODES,
    legend=(("eventq", "eventq"), ("peer", "best other task queue")),
)


def svg(results: Results, where: dict[str, Any], picture: Picture) -> str:
    """Bars from zero on a linear scale; the line at 1 is the baseline: in the same durability, of the same kind."""
    rows = [row for row in results.rows() if row.plotted and row.mode in picture.modes]
    groups = [(row, bars) for row in rows if (bars := _bars(results, row))]
    top = max([ratio for _, bars in groups for _, _, ratio in bars], default=1.0) * 1.02
    top = max(top, 1.5)
    height = TOP + sum(len(bars) * STEP + GAP for _, bars in groups) + 62
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"',
        f' viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title">',
        f'<title id="title">eventq and others. {escape(picture.title)}</title>',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
        _text(20, 30, picture.title, "title"),
        *_legend(picture),
        *_grid(top, height, picture.base),
    ]
    y = TOP + 8
    for row, bars in groups:
        parts.append(_text(LEFT - 12, y + (len(bars) * STEP) / 2 + 3, row.title, anchor="end"))
        for system, kind, ratio in bars:
            parts += _bar(results, row, system, kind, ratio, y, top)
            y += STEP
        y += GAP
    hardware, software = machine.lines(where)
    parts += [_text(20, height - 26, hardware, "quiet"), _text(20, height - 10, software, "quiet")]
    return "\n".join(parts) + "\n</svg>\n"


def _bars(results: Results, row: Row) -> list[tuple[type[Measured], str, float]]:
    """eventq, the best other system, and the Redis list, as far as they have a ratio."""
    base = results.base(row)
    chosen = [
        (results.family(row, "eventq"), "eventq"),
        (results.best_peer(row, "Redis", base.family if base else ""), "peer"),
        (results.family(row, "Redis"), "redis"),
    ]
    return [(system, kind, ratio) for system, kind in chosen if system and (ratio := results.ratio(row, system))]


def _x(ratio: float, top: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * ratio / top


def _grid(top: float, height: int, base: str) -> list[str]:
    bottom, parts = height - 56, []
    spread = (WIDTH - LEFT - RIGHT) / top
    for step in STEPS:
        if step != 1 and (step > top or step * spread < 40 or abs(step - 1) * spread < 30 or step < 0.5 < spread / 90):
            continue
        kind, x = ("one" if step == 1 else "grid"), _x(step, top)
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(_text(x, TOP - 6, base if step == 1 else f"{step:g}x", "quiet", "middle"))
    return parts


def _bar(
    results: Results, row: Row, system: type[Measured], kind: str, ratio: float, y: float, top: float
) -> list[str]:
    end = _x(ratio, top)
    median = results.of(row, system).median
    assert median is not None
    name = "" if kind == "eventq" else f"{system.name}{'†' if system.at_most_once else ''}  "
    look = "" if kind == "eventq" else " quiet"
    label = f"{name}{ratio:.1f}x, {quantity(median, row.unit)}"
    return [
        f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{max(end - LEFT, 1):.1f}" height="{BAR}" rx="2"/>',
        _text(end + 5, y + BAR - 3, label, f"halo{look}"),  # keeps the line of SQLite off the words
        _text(end + 5, y + BAR - 3, label, look),
    ]


def _legend(picture: Picture) -> list[str]:
    parts, x = [], 20
    for kind, label in picture.legend:
        parts.append(f'<rect class="{kind}" x="{x}" y="40" width="12" height="12" rx="2"/>')
        parts.append(_text(x + 18, 50, label, "quiet"))
        x += 40 + round(len(label) * 6.2)
    return parts


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
