"""How far a run is, and what changes in it while somebody looks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from eventq.handle import Handle
from eventq.model import Progress, State
from eventq.workflow.state import RUNNING
from eventq.workflow.view import ENDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.workflow.handle import Run


class Change(msgspec.Struct, frozen=True):
    """What has changed of a step of a run."""

    name: str
    """The step."""
    state: str
    """Where it stands, as in `Run.states`."""
    progress: Progress | None = None
    """How far it said it is, last; None if it has said nothing (yet)."""


class RunProgress(msgspec.Struct, frozen=True):
    """How far a run is."""

    done: int
    """Steps that have ended, or never run."""
    total: int
    """All steps."""
    states: dict[str, int]
    """How many steps are in each state, of those in which some are."""
    fraction: float
    """How much of the whole is done, from 0 to 1: each step counts as one, and one that runs as much of one as it says
    that it has done."""


def progress_of(run: Run) -> RunProgress:
    """How far a run is. Raises UnknownEvent."""
    steps = {name: stands for name, stands in run._stands().items() if name in run._shape().parents}  # noqa: SLF001 - as below, for a run
    states = Counter(state for state, _ in steps.values())
    done = sum(count for state, count in states.items() if state in ENDS)
    begun = [(state, id) for state, id in steps.values() if state in (State.CLAIMED, RUNNING) and id is not None]
    parts = sum(
        run._beside(id).progress().fraction if state == RUNNING else share(Handle(run.store, id).progress())  # noqa: SLF001
        for state, id in begun
    )
    return RunProgress(done, len(steps), dict(states), (done + parts) / len(steps))


def share(progress: Progress | None) -> float:
    """How much of a step is done by its own word, from 0 to 1."""
    if progress is None or not progress.total:
        return 0.0
    return min(1.0, max(0.0, progress.done / progress.total))


class Following:
    """What was told of a run so far."""

    __slots__ = ("_notes", "_run", "_told", "over")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._told: dict[str, Change] = {}
        self._notes: dict[str, int] = {}
        """The number of the last note that was read, by event."""
        self.over: bool = False
        """Whether all was told."""

    def changes(self) -> Iterator[Change]:
        """What has changed since it was asked last."""
        over = self._run.ready()  # first: what changes meanwhile is told
        for name, (state, id) in self._run._stands().items():  # noqa: SLF001
            before = self._told.get(name)
            change = Change(name, state, self._progress(id, state, before))
            if change != before:
                self._told[name] = change
                yield change
        self.over = over

    def _progress(self, id: str | None, state: str, before: Change | None) -> Progress | None:
        """What a step said last of how far it is. Once it has ended, that does not change."""
        known = None if before is None else before.progress
        if id is None or (before is not None and before.state == state and state not in (State.CLAIMED, RUNNING)):
            return known
        if state == RUNNING:
            below = self._run._beside(id).progress()  # noqa: SLF001
            return Progress(below.done, below.total)
        notes = self._run.store.storage.notes(id, self._notes.get(id, 0))
        if notes:
            self._notes[id] = notes[-1].number
        said = [note for note in notes if note.kind == "progress"]
        return msgspec.convert(said[-1].value, Progress) if said else known
