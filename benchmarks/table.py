"""The results as Markdown: eventq beside SQLite and the best of the others, then every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import machine
from benchmarks.sizes import PAYLOAD, Size
from benchmarks.systems import SYSTEMS, Measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.results import Results
    from benchmarks.row import Row


def markdown(results: Results, where: dict[str, Any], absent: dict[str, str], size: Size, repeat: int) -> str:
    parts = ["# Benchmarks", _preface(where, size, repeat)]
    parts += [table for table in (_summary(results), _task_summary(results), _goals(results)) if table]
    for title, names in GROUPS.items():
        rows = [row for row in results.rows() if row.name in names]
        if rows:
            parts += [f"## {title}", _grid(results, rows)]
    parts += ["## Systems", _systems(results, where, absent)]
    return "\n\n".join(parts) + "\n"


QUEUE_MODES = ("relaxed", "durable")
TASK_MODES = ("threads", "asyncio")

TASKS_NOTE = (
    "Tasks: one worker process with its normal settings and little logging; one producer, another process. Redis writes"
    " nothing to disk, and is on a Unix socket, but for eventq, which speaks TCP."
)

GROUPS = {
    "Rates": ("put", "drain", "e2e-1", "e2e-2", "e2e-4", "turn", "put-many"),
    "Durable": ("durable-put", "durable-put-4", "durable-batch", "open"),
    "Backlogs": ("backlog-1k", "backlog-100k", "backlog-1m"),
    "Waiting and sharing": (
        "wake",
        "idle",
        "idle-claim",
        "hoard-one",
        "hoard-many",
        "kill",
        "import",
        "memory",
    ),
    "Tasks, functions in threads": ("enqueue", "tasks", "tasks-live", "bare", "bare-live", "call", "cpu"),
    "Tasks, worker processes": ("task-memory", "stop"),
    "Workflows": ("chain", "chord-1k", "chord"),
    "Store: SQLite": (
        "sqlite-put",
        "sqlite-drain",
        "sqlite-full-put",
        "sqlite-full-drain",
        "sqlite-history-1k",
        "sqlite-history-100k",
        "sqlite-history-1m",
    ),
    "Store: Redis": ("redis-put", "redis-drain", "redis-put-many", "redis-tasks", "redis-async"),
    "Store: PostgreSQL": (
        "postgresql-put",
        "postgresql-drain",
        "postgresql-off-put",
        "postgresql-off-drain",
        "postgresql-history-1k",
        "postgresql-history-100k",
        "postgresql-history-1m",
        "postgresql-tasks",
        "postgresql-async",
    ),
    "Tasks, coroutines": ("async", "async-live", "async-bare", "async-bare-live", "async-call"),
}


def _preface(where: dict[str, Any], size: Size, repeat: int) -> str:
    ratios = (
        "Ratios are within the run, and above 1 is better: queues to SQLite, tasks in threads to huey on SQLite,"
        " coroutines to saq; eventq over a database or a server to what a program does there by hand, or to the"
        " queues for it."
    )
    lines = [
        f"{machine.sentence(where)}.",
        f"Payloads of {PAYLOAD} bytes; medians of {repeat} in rotation, each cell in a fresh process.",
        f"{ratios} Compare figures within one run only.",
    ]
    if size.name == "small":
        lines.append("**This was a smoke test (`--size small`): its figures mean nothing.**")
    return "\n\n".join(lines)


def _summary(results: Results) -> str:
    head = ["work", "eventq", "SQLite", "eventq : SQLite", "best other", "Redis"]
    body = []
    for row in results.rows():
        if row.mode not in QUEUE_MODES:
            continue
        ours, base = results.family(row, "eventq"), results.family(row, "SQLite")
        ratio = results.ratio(row, ours) if ours else None
        peer = results.best_peer(row, "Redis")
        body.append(
            [
                row.title,
                _value(results, row, ours),
                _value(results, row, base),
                f"**{_times(ratio)}**" if ratio else "",
                f"{_value(results, row, peer)} {peer.name}" if peer else "",
                _value(results, row, results.family(row, "Redis")),
            ]
        )
    return _table(head, body) if body else ""


def _task_summary(results: Results) -> str:
    head = ["tasks", "eventq", "compared with", "eventq : that", "best other"]
    body = []
    for row in results.rows():
        if row.mode not in TASK_MODES:
            continue
        ours, base = results.family(row, "eventq"), results.base(row)
        ratio = results.ratio(row, ours) if ours else None
        peer = results.best_peer(row, base.family if base else "")
        body.append(
            [
                row.title,
                _value(results, row, ours),
                f"{_value(results, row, base)} {base.family}" if base else "",
                f"**{_times(ratio)}**" if ratio else "",
                f"{_value(results, row, peer)} {peer.name}" if peer else "",
            ]
        )
    return _table(head, body) if body else ""


def _goals(results: Results) -> str:
    """What eventq should reach over databases and servers, and whether it did."""
    head = ["store", "eventq", "compared with", "eventq : that", "goal", ""]
    body = []
    for row in results.rows():
        ours = results.family(row, "eventq")
        for goal in row.goals:
            other_row = next((each for each in results.rows() if each.name == goal.row), row)
            other = SYSTEMS[goal.system] if goal.system else ours
            known = other is not None and other in results.systems(other_row)
            name = goal.system or f"its own {goal.row}"
            ratio = results.reached(row, goal)
            body.append(
                [
                    row.title,
                    _value(results, row, ours),
                    f"{_value(results, other_row, other) if known else ''} {name}".strip(),
                    f"**{_times(ratio)}**" if ratio else "",
                    f"{goal.times:g}x",
                    "" if ratio is None else "ok" if ratio >= goal.times else "missed",
                ]
            )
    return _table(head, body) if body else ""


def _grid(results: Results, rows: list[Row]) -> str:
    systems = [system for system in SYSTEMS.values() if any(system in results.systems(row) for row in rows)]
    body = []
    for system in systems:
        cells = [system.name + ("†" if system.at_most_once else "")]
        for row in rows:
            known = system in results.systems(row)
            text = _value(results, row, system) if known else ""
            ratio = results.ratio(row, system) if known else None
            cells.append(text + (f" ({_times(ratio)})" if ratio and system is not results.base(row) else ""))
        body.append(cells)
    return _table(["", *(row.title for row in rows)], body)


def _value(results: Results, row: Row, system: type[Measured] | None) -> str:
    if system is None:
        return ""
    figures = results.of(row, system)
    if figures.refusal:
        return "-"
    text = quantity(figures.median, row.unit) if figures.median is not None else ""
    for name in ("p99", "worst"):
        if (extra := figures.extra(name)) is not None and row.unit in ("us", "s"):
            text += f", {name} {quantity(extra, row.unit)}"
    if fault := results.fault(row, system):
        text = f"{text} **{_plain(fault)}**".strip()
    return text


def quantity(value: float, unit: str) -> str:
    """A figure with three digits and its unit."""
    if unit in ("events/s", "tasks/s"):
        if value >= 1e6:
            return f"{value / 1e6:.2f} M/s"
        return f"{_digits(value / 1e3)} k/s" if value >= 1e3 else f"{value:.0f}/s"
    if unit == "us" and value >= 1e4:
        return f"{_digits(value / 1e3)} ms"
    return f"{_digits(value)} {unit}".replace(" us", " µs").replace(" per s", "/s").replace(" x", "x")


def _digits(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 99.5 else f"{value:.1f}" if size >= 9.95 else f"{value:.2f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{_digits(ratio)}x"


def _systems(results: Results, where: dict[str, Any], absent: dict[str, str]) -> str:
    lines = []
    measured = {system.name for row in results.rows() for system in results.systems(row)}
    for name, system in SYSTEMS.items():
        if name in absent:
            lines.append(f"- {name}: **{absent[name]}**")
        elif name in measured:
            once = "; † at most once: what a killed claimer had taken is lost" if system.at_most_once else ""
            lines.append(f"- {name}: {system.family} {where['versions'][system.family]}, {system.note}{once}")
    if any(row.mode not in QUEUE_MODES and row.unit != "events/s" for row in results.rows()):
        lines += ["", TASKS_NOTE]
    unread = sum(figures.check.get("unread", 0) for figures in results.cells.values())
    lines.append("")
    lines.append(
        "Each cell checked that every payload came, every task ran, exactly once; where one did not, the cell says so."
        + (f" {unread:,} of slow systems were not read back for lack of time." if unread else "")
        + " A `-` is work it has no means for."
    )
    return "\n".join(lines)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return "\n".join([line(head), line(["---"] + ["---:"] * (len(head) - 1)), *map(line, body)])


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("*", "").replace("\n", " ")[:90]
