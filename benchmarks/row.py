"""What a row is: a function that is run in a fresh process on a fresh folder. It answers

value   the figure of the row, in the row's unit
more    further figures
check   how many were put, and how many of those never came, came twice, or were left unread (no time)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.measured import Measured
    from benchmarks.sizes import Size

Outcome = dict[str, Any]
M = TypeVar("M", bound="Measured")

READ_BACK = 5.0
"""Seconds to read back what a row has put."""


@dataclass(frozen=True)
class Cell(Generic[M]):
    """One system in a fresh folder."""

    system: type[M]
    folder: Path
    size: Size

    def open(self) -> M:
        return self.system(self.folder)

    def make(self) -> None:
        """Create the queue, so that the processes of the row open an existing one."""
        self.open().close()


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What eventq should reach: so many times the figure of another system, or of its own in another row."""

    times: float
    system: str | None = None
    row: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    title: str
    unit: str
    run: Callable[[Cell[Any]], Outcome]
    mode: str = "relaxed"
    less: bool = False
    """Less is better."""
    needs: str | None = None
    """The quality that a system must have."""
    full: bool = False
    """Only with --full."""
    plotted: bool = False
    compared: bool = True
    """A ratio says something: not so for what is near zero."""
    goals: tuple[Goal, ...] = ()

    def refusal(self, system: type[Measured]) -> str | None:
        """Why a system cannot do this row; None if it can."""
        if self.needs == "batches" and not system.batches:
            return "has no batches"
        if self.needs == "keeps" and not system.keeps:
            return "keeps nothing of what is done"
        if self.needs == "recovers" and not system.recovers:
            return "a killed claimer's event does not move on by itself"
        return None


def check(put: int, numbers: Sequence[int], *, left: bool = False) -> Outcome:
    counts = Counter(numbers)
    absent = sum(number not in counts for number in range(put))
    foreign = sum(number >= put or number < 0 for number in counts)
    return {
        "put": put,
        "lost": 0 if left else absent,
        "unread": absent if left else 0,
        "repeated": sum(counts.values()) - len(counts) + foreign,
    }


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
