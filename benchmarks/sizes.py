"""How much is measured. A rate ends with its count or its seconds, whichever comes first."""

from __future__ import annotations

from dataclasses import dataclass

PAYLOAD = 200
"""Bytes of one payload."""


@dataclass(frozen=True, kw_only=True)
class Size:
    name: str
    events: int
    """put, drain, end to end, in turn."""
    seconds: float
    """The longest timed part of a rate."""
    durable: int
    """Durable puts, one by one; and batches of 100 times a tenth of it."""
    many: int
    """Events of one big batch."""
    backlog: float
    """The backlogs of the rows' names times this."""
    first: int
    """Drained of a backlog."""
    fill_seconds: float
    """A backlog that is not there by then is given up."""
    wakes: int
    idle_seconds: float
    patience: float
    """Claimers leave after so many idle seconds, once all is put."""
    history: int
    """Events that went through before an idle claim is timed."""
    hoard: int
    nap: float
    """Seconds each hoarded event takes."""
    kills: int
    opens: int
    imports: int
    memory: int
    tasks: int
    calls: int
    """Tasks called one at a time."""
    burns: int
    """Tasks that compute, for one and for two workers."""
    task_memory: int
    task_memory_seconds: float
    """The longest that they may take."""
    stops: int
    limit: float
    """Seconds after which a cell is given up."""
    at_once: int = 1
    """Cells that run at the same time: more than one only where figures mean nothing."""


SIZES = {
    "small": Size(
        name="small",
        events=300,
        seconds=1,
        durable=40,
        many=500,
        backlog=0.02,
        first=40,
        fill_seconds=2,
        wakes=5,
        idle_seconds=0.2,
        patience=0.2,
        history=300,
        hoard=8,
        nap=0.02,
        kills=1,
        opens=2,
        imports=1,
        memory=500,
        tasks=200,
        calls=5,
        burns=10,
        task_memory=20_000,
        task_memory_seconds=8,
        stops=2,
        limit=60,
        at_once=3,
    ),
    "normal": Size(
        name="normal",
        events=50_000,
        seconds=2,
        durable=5_000,
        many=10_000,
        backlog=1,
        first=10_000,
        fill_seconds=30,
        wakes=300,
        idle_seconds=3,
        patience=0.5,
        history=20_000,
        hoard=100,
        nap=0.2,
        kills=10,
        opens=20,
        imports=7,
        memory=100_000,
        tasks=20_000,
        calls=1_000,
        burns=150,
        task_memory=100_000,
        task_memory_seconds=20,
        stops=20,
        limit=120,
    ),
    "full": Size(
        name="full",
        events=100_000,
        seconds=5,
        durable=20_000,
        many=10_000,
        backlog=1,
        first=10_000,
        fill_seconds=150,
        wakes=1_000,
        idle_seconds=10,
        patience=0.5,
        history=100_000,
        hoard=100,
        nap=0.2,
        kills=30,
        opens=50,
        imports=15,
        memory=1_000_000,
        tasks=50_000,
        calls=5_000,
        burns=500,
        task_memory=1_000_000,
        task_memory_seconds=300,
        stops=20,
        limit=400,
    ),
}
