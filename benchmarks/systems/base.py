"""What a queue must do to be measured: one class per system and way of running it, about thirty lines."""

from __future__ import annotations

import abc
import contextlib
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

Payload = Any
"""Text of 200 ASCII characters, or the same as bytes for a system that says `binary`."""

Sink = Callable[[Payload], Any]
"""Called with each payload between claim and settle; a true answer ends the delivery after the settle."""

POLL = 0.001
"""Seconds between two looks of a system that cannot wait by itself."""


class System(abc.ABC):
    """One opened queue of one system. Whoever opens the same folder, in any process, shares the queue."""

    name: ClassVar[str]
    """As typed after --systems."""
    family: ClassVar[str]
    """The project; its relaxed and durable ways of running share a column."""
    note: ClassVar[str] = ""
    """How it is run, in a few words."""
    modes: ClassVar[frozenset[str]] = frozenset({"relaxed"})
    """`relaxed`: a put survives its process. `durable`: it survives a power cut."""
    requires: ClassVar[str | None] = None
    """The module that must be importable, and the distribution whose version is shown."""
    distribution: ClassVar[str | None] = None
    imports: ClassVar[str] = ""
    """What a program imports to use it; `preloads` is not counted."""
    preloads: ClassVar[str] = ""
    at_most_once: ClassVar[bool] = False
    """A claimer killed between claim and settle loses the event: it does less than the others."""
    recovers: ClassVar[bool] = False
    """The event of a killed claimer moves on by itself."""
    binary: ClassVar[bool] = False
    batches: ClassVar[bool] = True
    """Has a call, or a transaction, that puts many at once."""

    @abc.abstractmethod
    def __init__(self, folder: Path) -> None: ...

    @abc.abstractmethod
    def put(self, payload: Payload) -> Any: ...

    def put_many(self, payloads: Sequence[Payload]) -> Any:
        raise NotImplementedError(f"{self.name} has no batches")

    @abc.abstractmethod
    def take(self) -> tuple[Any, Payload] | None:
        """Claim one event without waiting: what `settle` needs, and the payload."""

    @abc.abstractmethod
    def settle(self, token: Any) -> Any: ...

    @abc.abstractmethod
    def close(self) -> None: ...

    def wait(self, timeout: float) -> tuple[Any, Payload] | None:
        """Claim one event, waiting up to `timeout` seconds. Here: looks each millisecond."""
        end = time.monotonic() + timeout
        while (taken := self.take()) is None and time.monotonic() < end:
            time.sleep(POLL)
        return taken

    def deliver(self, sink: Sink, idle: float = 0.0) -> None:
        """Claim, hand to the sink, settle; until nothing came for `idle` seconds."""
        take, settle = self.take, self.settle
        while (taken := take() or (self.wait(idle) if idle else None)) is not None:
            token, payload = taken
            enough = sink(payload)
            settle(token)
            if enough:
                return

    @classmethod
    def missing(cls) -> str | None:
        """Why this system cannot be measured here; None if it can."""
        if cls.requires is None or importlib.util.find_spec(cls.requires) is not None:
            return None
        return f"not installed: pip install {cls.distribution or cls.requires}"

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version(cls.distribution or cls.requires or "")

    @classmethod
    @contextlib.contextmanager
    def server(cls, folder: Path) -> Iterator[None]:
        """Around each cell: a system with a server starts and stops a private one here."""
        yield
