"""The outcomes of a run: medians, ratios to the baseline, and whether each payload came exactly once."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks.row import Goal, Row
from benchmarks.rows import ROWS
from benchmarks.sizes import PAYLOAD, Size
from benchmarks.systems import BASELINE, SYSTEMS, Measured


@dataclass
class Figures:
    """All repetitions of one cell."""

    values: list[float] = field(default_factory=list)
    more: dict[str, list[float]] = field(default_factory=dict)
    check: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    refusal: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    def extra(self, name: str) -> float | None:
        return statistics.median(self.more[name]) if name in self.more else None


class Results:
    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], Figures] = {}

    def add(self, row: Row, system: type[Measured], outcome: dict[str, Any]) -> None:
        figures = self.cells.setdefault((row.name, system.name), Figures())
        if "error" in outcome:
            figures.errors.append(outcome["error"])
            return
        figures.values.append(outcome["value"])
        for name, value in outcome.get("more", {}).items():
            figures.more.setdefault(name, []).append(value)
        for name, count in outcome.get("check", {}).items():
            figures.check[name] = figures.check.get(name, 0) + count

    def refuse(self, row: Row, system: type[Measured], reason: str) -> None:
        self.cells[row.name, system.name] = Figures(refusal=reason)

    def rows(self) -> list[Row]:
        return [row for row in ROWS.values() if any(name == row.name for name, _ in self.cells)]

    def systems(self, row: Row) -> list[type[Measured]]:
        return [system for system in SYSTEMS.values() if (row.name, system.name) in self.cells]

    def of(self, row: Row, system: type[Measured]) -> Figures:
        return self.cells[row.name, system.name]

    def family(self, row: Row, family: str) -> type[Measured] | None:
        """How a project runs in this row's mode."""
        return next((system for system in self.systems(row) if system.family == family), None)

    def base(self, row: Row) -> type[Measured] | None:
        """What the row's ratios are taken against; None if it was not measured."""
        system = SYSTEMS[BASELINE[row.mode]]
        return system if (row.name, system.name) in self.cells else None

    def ratio(self, row: Row, system: type[Measured]) -> float | None:
        """How many times better than the baseline; None where one of the two has no figure above zero."""
        base = self.base(row)
        ours, theirs = self.of(row, system).median, self.of(row, base).median if base else None
        if not row.compared or ours is None or theirs is None or ours <= 0 or theirs <= 0:
            return None
        return theirs / ours if row.less else ours / theirs

    def reached(self, row: Row, goal: Goal) -> float | None:
        """How many times the figure of a goal eventq has; None where one of the two has none above zero."""
        ours = self.family(row, "eventq")
        if ours is None:
            return None
        other = self.cells.get((goal.row or row.name, goal.system or ours.name))
        mine, theirs = self.of(row, ours).median, other.median if other else None
        if mine is None or theirs is None or mine <= 0 or theirs <= 0:
            return None
        return theirs / mine if row.less else mine / theirs

    def best_peer(self, row: Row, *others: str) -> type[Measured] | None:
        """The best of those that are neither eventq nor SQLite nor in the given families."""
        peers = [
            system
            for system in self.systems(row)
            if system.family not in ("eventq", "SQLite", *others) and self.of(row, system).values
        ]
        if not peers:
            return None
        return (min if row.less else max)(peers, key=lambda system: self.of(row, system).median or 0.0)

    def fault(self, row: Row, system: type[Measured]) -> str:
        """What went wrong in a cell, in a few words; empty if nothing did."""
        figures = self.of(row, system)
        words = []
        if figures.errors:
            words.append(f"failed: {figures.errors[0]}")
        if lost := figures.check.get("lost"):
            words.append(f"lost {lost:,}")
        if repeated := figures.check.get("repeated"):
            words.append(f"delivered {repeated:,} twice")
        if wrong := figures.check.get("wrong"):
            words.append(f"{wrong:,} wrong results")
        return ", ".join(words)

    def broken(self) -> bool:
        """eventq failed, or did not deliver exactly once."""
        return any(
            self.fault(row, system) for row in self.rows() for system in self.systems(row) if system.family == "eventq"
        )

    def line(self, row: Row, system: type[Measured]) -> str:
        """The newest outcome of a cell, for the progress on the terminal."""
        figures = self.of(row, system)
        fault = self.fault(row, system)
        value = f"{figures.values[-1]:,.4g} {row.unit}" if figures.values else ""
        return f"{row.name} {system.name} {value} {fault}".rstrip()

    def json(self, machine: dict[str, Any], absent: dict[str, str], size: Size, repeat: int) -> str:
        """Everything, with all raw values."""
        rows = {
            row.name: {
                "title": row.title,
                "unit": row.unit,
                "better": "less" if row.less else "more",
                "ratio_to": BASELINE[row.mode],
                "goals": [{**dataclasses.asdict(goal), "reached": self.reached(row, goal)} for goal in row.goals],
                "systems": {system.name: self._cell(row, system) for system in self.systems(row)},
            }
            for row in self.rows()
        }
        record = {
            "machine": machine,
            "payload_bytes": PAYLOAD,
            "size": dataclasses.asdict(size),
            "repeat": repeat,
            "not_installed": absent,
            "systems": {
                system.name: {
                    "family": system.family,
                    "note": system.note,
                    "at_most_once": system.at_most_once,
                }
                for system in SYSTEMS.values()
                if system.name not in absent
            },
            "rows": rows,
        }
        return json.dumps(record, indent=1) + "\n"

    def _cell(self, row: Row, system: type[Measured]) -> dict[str, Any]:
        figures = self.of(row, system)
        if figures.refusal:
            return {"not_measured": figures.refusal}
        cell: dict[str, Any] = {"values": figures.values, "more": figures.more, "check": figures.check}
        if figures.values:
            cell |= {"min": min(figures.values), "median": figures.median, "max": max(figures.values)}
            cell["ratio"] = self.ratio(row, system)
        if figures.errors:
            cell["errors"] = figures.errors
        return cell
