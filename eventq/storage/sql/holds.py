"""What this worker holds, as it knows it itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq.errors import ClaimLost
from eventq.storage.sql.rows import STARTED, Held

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventq.model import Claimed
    from eventq.storage.sql.database import Database

MINE = f"SELECT id, token, cancelled FROM {{p}}events WHERE {STARTED} AND worker = :worker"


class Holds:
    """The claims of one worker that it has not settled, by the id of the event."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self.suspect: str | None = None
        """An event that must run alone, and was met while other things ran."""

    def __bool__(self) -> bool:
        return bool(self._held)

    def add(self, held: Iterable[Held]) -> None:
        for one in held:
            self._held[one.claimed.id] = one

    def held(self, claimed: Claimed) -> Held:
        """What was claimed, if it is held still. Raises ClaimLost."""
        held = claimed.token
        if isinstance(held, Held) and self._held.get(claimed.id) is held:
            return held
        raise lost(claimed.id)

    def remove(self, held: Held) -> None:
        if self._held.get(held.claimed.id) is held:
            del self._held[held.claimed.id]

    def cancel(self, id: str) -> None:
        """Tell who runs an event that somebody asked to cancel it."""
        held = self._held.get(id)
        if held is not None:
            held.claimed.cancelled = True

    def look(self, database: Database, worker: str) -> None:
        """See which claims are to be cancelled, and which are held no more."""
        before = list(self._held.values())
        if before:
            found = {(id, token): cancelled for id, token, cancelled in database.execute(MINE, {"worker": worker})}
            for held in before:
                cancelled = found.get((held.claimed.id, held.number))
                if cancelled is None:
                    self.remove(held)
                elif cancelled:
                    held.claimed.cancelled = True

    # ------------------------------------------------------------------ suspects

    def runs_suspect(self) -> bool:
        """Whether what runs here must run alone."""
        return any(held.suspect for held in list(self._held.values()))

    def waiting_suspect(self) -> str | None:
        """The suspect that waits for the rest to end, if there is a rest."""
        if not self._held:
            self.suspect = None
        return self.suspect


def lost(id: str) -> ClaimLost:
    return ClaimLost(f"the claim of event {id} is not held here: settled already, or taken over")
