"""How long something has looked the same, as one observer saw it: what leases, and the search for the dead, rest on.

No clock of anybody else decides: what is compared are two looks of this process, and the time between them is its own
monotonic one. Who has just come, or was away, has seen nothing yet, and so has to look for the whole time again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Observed:
    """What was seen of several things at the last look, and since when each has looked so."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}

    def look(self, looks: Mapping[str, object], now: float) -> dict[str, float]:
        """For how many seconds each thing has looked as it does now; `now` is monotonic. What is not named is
        forgotten."""
        before, self._seen = self._seen, {}
        for name, look in looks.items():
            seen = before.get(name)
            self._seen[name] = seen if seen is not None and seen[0] == look else (look, now)
        return {name: now - since for name, (_, since) in self._seen.items()}

    def forget(self) -> None:
        """Begin anew, as after a time in which nothing could be seen."""
        self._seen.clear()
