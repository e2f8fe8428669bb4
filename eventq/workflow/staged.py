"""What a workflow knows of staged jobs, of which some runs are: the plain data that such a run takes along, and whom
the engine asks. What is decided then is not decided here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from eventq.model import Claimed, Outcome
    from eventq.workflow.graph import Node
    from eventq.workflow.state import RunState

Restart = Literal["current", "first"]


class Staged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run of a staged job takes along, beside its graph."""

    job: str
    """The name of the job."""
    stages: tuple[str, ...]
    """The names of its stages, in order."""
    keywords: dict[str, Any] = {}
    """What templates may name beside the stages before theirs."""
    restart: Restart = "current"
    """What a run that failed goes on with: the stage that failed, or the first, with no result of before."""
    max_retries: int = 0
    """How often a run that failed goes on by itself."""
    retry_delay: float = 1.0
    """Seconds before it does."""
    deadline: float | None = None
    """Seconds for the whole run, retries included."""
    next: str | None = None
    """The job that is started when the run is completed."""


class Fill(msgspec.Struct, frozen=True, array_like=True):
    """A place in the arguments of a call that takes what a template comes to."""

    template: str
    path: tuple[str | int, ...]
    """From `{"args": [...], "kwargs": {...}}` down."""


class Owner(Protocol):
    """Who decides about the runs of staged jobs. Each is asked again after a death, and may have answered before."""

    def refused(self, run: str, staged: Staged) -> str:
        """Why a run may not begin; empty if it may, and then the job knows of it. Raises StorageError."""
        ...

    def cut_short(self, run: str, staged: Staged) -> tuple[str, float | None]:
        """Why a run that goes on is to be cancelled now, empty if it is not; and the instant at which that is to be
        asked again at the latest. Raises StorageError."""
        ...

    def filled(self, run: str, state: RunState, node: Node) -> Node:
        """A step as it is put now. Raises TemplateError, which is the failure of the step; StorageError."""
        ...

    def ended(self, claimed: Claimed, state: RunState, outcome: Outcome) -> Outcome:
        """What the event of a run that is over leads to: `outcome`, or that it goes on. Raises EventqError."""
        ...
