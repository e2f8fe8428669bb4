"""What the tasks do: the same in all systems. The environment names the folder of the cell."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks import postgresql_server, redis_server
from benchmarks.tasks.base import VARIABLE
from benchmarks.tasks.ledger import Ledger

FOLDER = Path(os.environ[VARIABLE])
REDIS = f"unix://{redis_server.socket(FOLDER)}"
POSTGRESQL = postgresql_server.url(FOLDER)

BURN = 100_000
"""Rounds of a loop: about 20 ms."""

_ledger = Ledger(FOLDER)


def nothing(number: int) -> int:
    _ledger.mark(number)
    return number


def brief(number: int) -> int:
    """Its result is not kept for long, where a system can say so."""
    return nothing(number)


def bare(number: int) -> None:
    """Without a result."""
    _ledger.mark(number)


def burn(number: int) -> int:
    """Computes in pure Python."""
    total = 0
    for value in range(BURN):
        total += value * value
    _ledger.mark(number)
    return number
