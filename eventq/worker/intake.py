"""Where a worker's events come from: its inbox, then its queues, strictly in order or by weight; the wait for more."""

from __future__ import annotations

import math
import select
from collections.abc import Mapping
from typing import TYPE_CHECKING

from eventq.clock import perf_counter
from eventq.config import text
from eventq.errors import ConfigError
from eventq.storage.base import LOOK_INTERVAL
from eventq.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventq.model import Claimed
    from eventq.storage.base import Storage, Watch
    from eventq.worker.control import Control

EMPTY_FOR = 0.002
"""Seconds for which a queue that was found empty is not asked again, while others have something."""
INBOX_INTERVAL = 0.05
"""Likewise for the inbox."""


def weights_of(queues: Iterable[str] | Mapping[str, int]) -> dict[str, int]:
    """The queues with their weights; 0 for all of them means strict order. Raises TypeError, ConfigError."""
    if isinstance(queues, str):
        raise TypeError(f"queues= takes several names; write [{queues!r}]")
    if not isinstance(queues, Mapping):
        return dict.fromkeys([text("the name of a queue", name) for name in queues], 0)
    for name, weight in queues.items():
        text("the name of a queue", name)
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
            raise ConfigError(f"queues={{{name!r}: {weight!r}}}; a weight is a whole number of 1 or more")
    return dict(queues)


class Intake:
    """Claims events one by one from a worker's inbox and its queues. For one thread at a time, but for `wake`."""

    def __init__(self, storage: Storage, queues: Mapping[str, int], control: Control) -> None:
        self._storage = storage
        self._control = control
        self._claim = storage.claim
        self._queues = list(queues)
        self._weights = queues if any(queues.values()) else None
        self._credits = dict.fromkeys(queues, 0)
        self._empty_until = dict.fromkeys(queues, 0.0)
        self._wakeup = Wakeup()
        self._ask_inbox_at = 0.0

    def next(self, fresh: bool = True) -> Claimed | None:
        """The next event, without waiting; with `fresh`, queues that were empty a moment ago are asked as well."""
        if self._control.called and (fresh or perf_counter() >= self._ask_inbox_at):
            if found := self._claim(self._control.inbox, 1):
                return found[0]
            self._ask_inbox_at = perf_counter() + INBOX_INTERVAL
        return self._from_queues(fresh)

    def _from_queues(self, fresh: bool) -> Claimed | None:
        if len(self._queues) == 1:
            found = self._claim(self._queues[0], 1)
            return found[0] if found else None
        now = perf_counter()
        for queue in self._queues if self._weights is None else self._by_weight():
            if not fresh and now < self._empty_until[queue]:
                continue
            if found := self._claim(queue, 1):
                return found[0]
            self._empty_until[queue] = now + EMPTY_FOR
        return None

    def _by_weight(self) -> list[str]:
        """The queues, the one whose turn it is first (smooth weighted round-robin, as nginx has it since 1.3.1)."""
        weights, credits = self._weights, self._credits
        assert weights is not None
        for queue, weight in weights.items():
            credits[queue] += weight
        order = sorted(self._queues, key=lambda queue: -credits[queue])
        credits[order[0]] -= sum(weights.values())
        return order

    def wait(self) -> Claimed | None:
        """The next event, as soon as there is one; None once `wake` is called, or there are further queues to watch.

        The watches are open only meanwhile: an open one tells busy workers that somebody here is idle. What came before
        them is found by looking again.
        """
        watches: list[Watch] = []
        control, beside = self._control, self._control.beside
        try:
            for queue in (*beside, *self._queues):
                watches.append(self._storage.watch(queue=queue))  # noqa: PERF401 - if one fails, the others are closed
            poller = select.poll()
            poller.register(self._wakeup, select.POLLIN)
            by_number = {watch.fileno(): watch for watch in watches}
            for number in by_number:
                poller.register(number, select.POLLIN)
            while (found := self.next()) is None:
                if control.look() or control.beside != beside:  # nobody else may be awake
                    return None
                for number, _ in poller.poll(math.ceil(self._storage.recover() * 1000)):
                    if number == self._wakeup.fileno():
                        self._wakeup.clear()
                        return None
                    by_number[number].clear()
            return found
        finally:
            for watch in watches:
                watch.close()

    def others_run(self) -> bool:
        """Whether anything is claimed in the queues; for who runs nothing itself, by others."""
        return any(self._storage.stats(queue).claimed for queue in self._queues)

    def look(self) -> bool:
        """Look at once for what is asked of the worker, for calls to it alone, and for schedules that are due; whether
        there are more of these."""
        return self._control.look(at_once=True)

    def wait_for_wake(self, seconds: float = LOOK_INTERVAL) -> None:
        """Wait until `wake` is called, or the time is over; claims nothing."""
        self._wakeup.wait(seconds)

    def wake(self) -> None:
        """End the wait, from any thread: something else than a new event needs attention."""
        self._wakeup.ring()

    def give_back(self) -> None:
        """Return what the storage has fetched ahead of its start."""
        for queue in (self._control.inbox, *self._queues):
            self._storage.give_back(queue)

    def close(self) -> None:
        """Close what it has open. Nobody may wait or wake any more."""
        self._wakeup.close()
