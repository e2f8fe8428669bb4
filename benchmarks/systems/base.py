"""What a queue must do to be measured: one class per system and way of running it, about thirty lines."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measured import Measured

Payload = Any
"""Text of 200 ASCII characters, or the same as bytes for a system that says `binary`."""

Sink = Callable[[Payload], Any]
"""Called with each payload between claim and settle; a true answer ends the delivery after the settle."""

POLL = 0.001
"""Seconds between two looks of a system that cannot wait by itself."""


class System(Measured):
    """One opened queue of one system. Whoever opens the same folder, in any process, shares the queue."""

    @abc.abstractmethod
    def put(self, payload: Payload) -> Any: ...

    def put_many(self, payloads: Sequence[Payload]) -> Any:
        raise NotImplementedError(f"{self.name} has no batches")

    def remember(self, count: int) -> None:
        """Have so many events in the store that are done, each with a value that is kept."""
        raise NotImplementedError(f"{self.name} keeps nothing of what is done")

    @abc.abstractmethod
    def take(self) -> tuple[Any, Payload] | None:
        """Claim one event without waiting: what `settle` needs, and the payload."""

    @abc.abstractmethod
    def settle(self, token: Any) -> Any: ...

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
