"""How long completed events are kept, and where: as long as their queue says in `completed/`, else in a folder for
about that time, `completed~<seconds>/`. So whoever prunes finds what is due without reading what is not.

The folders' seconds have two digits that count, so there are few of them, however many different times are asked for;
an event goes when its own time is over, within the folder that is for at least as long.
"""

from __future__ import annotations

import math
import re

from eventq.storage.file import disk
from eventq.storage.file.layout import QueuePaths
from eventq.storage.file.line import Folded

AS_QUEUE = -1.0
"""The time that the queue says, whatever that will be."""
KEPT = re.compile(r"completed~([1-9]\d?0*)\Z")


def longer(kept: float, own: float | None, queue: float) -> float:
    """The longer one of two times (each 0, in seconds, or `AS_QUEUE`), if the queue's is that long; `own` None is the
    queue's."""
    seconds = max(queue if kept == AS_QUEUE else kept, queue if own is None else own)
    return AS_QUEUE if seconds == queue else seconds


def keep_of_values(folded: Folded, queue: float) -> float:
    """How long the values in a file are kept, at most; 0 if it has none."""
    kept = 0.0
    for past in folded.pasts.values():
        if past.settled is not None and past.settled.has_value():
            kept = longer(kept, past.keep, queue)
    return kept


def kept_folder(paths: QueuePaths, keep: float) -> str:
    """Where a completed event stands that is kept so long."""
    return paths.completed if keep == AS_QUEUE else f"{paths.root}completed~{upper(keep)}/"


def upper(keep: float) -> int:
    """The whole seconds with two digits that count which are at least as long."""
    seconds = max(1, math.ceil(keep))
    unit: int = 10 ** max(0, len(str(seconds)) - 2)
    return -(-seconds // unit) * unit


def lower(seconds: int) -> int:
    """What is kept in the folder of so many seconds is kept for longer than this."""
    unit: int = 10 ** max(0, len(str(seconds - 1)) - 2)
    return seconds - unit


def kept_folders(paths: QueuePaths) -> dict[str, int]:
    """The folders of completed events that are kept for a time of their own, each with its seconds."""
    return {
        f"{paths.root}{name}/": int(match[1])
        for name in disk.list_if_any(paths.root)
        if (match := KEPT.match(name)) is not None
    }
