"""The inbox of a worker: a queue from which that worker alone claims, for the calls that are addressed to it.

A worker may have two queues of its own, which are there once something was put into them: it looks for them four times
a second, whatever runs. `worker-<id>` holds calls; it claims them before all others, as it has room. `control-<id>`
holds what is asked of the worker itself (a ping, a stop), which must not wait behind calls nor for room. To the storage
both are queues like others.

A worker that has gone leaves them behind. What waits there is then cancelled, by whichever worker looks next, by the
sender if it comes too late, or by who waits for the result; a queue goes once nothing is left in it.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from eventq.errors import StorageError, UnknownWorker
from eventq.model import Cancel, Filter, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.model import Stats, Worker
    from eventq.storage.base import Storage

log: logging.Logger = logging.getLogger("eventq.inbox")

OWN_QUEUE = re.compile(r"(?:worker|control)-([0-9a-f]{16})\Z")
"""Only what a worker's id follows: `worker-mails` is anybody's."""
RUN_INBOX = re.compile(r"run-[0-9a-f]{38}\.[0-9a-f]{5}\Z")
"""The queue of what happens to one run of a workflow: see `eventq.workflow.inbox`."""
PAGE = 1000


def inbox_of(worker: str) -> str:
    """The name of the queue for calls that this worker alone runs."""
    return f"worker-{worker}"


def control_of(worker: str) -> str:
    """The name of the queue for what is asked of the worker itself."""
    return f"control-{worker}"


def addressee_of(queue: str) -> str | None:
    """The id of the worker whose own a queue is; None for every other queue."""
    found = OWN_QUEUE.match(queue)
    return None if found is None else found[1]


def serving(storage: Storage) -> list[Worker]:
    """The living workers that run tasks, by their own word, and so look into their inbox."""
    return [worker for worker in storage.workers() if worker.serves]


def is_serving(storage: Storage, id: str) -> bool:
    """Whether there is a living worker of this id that runs tasks."""
    return any(worker.id == id for worker in serving(storage))


def unknown(id: str) -> UnknownWorker:
    """The error for an id of which there is no living worker."""
    return UnknownWorker(f"there is no living worker {id!r} that runs tasks; 'eventq workers' lists them")


def why_gone(id: str) -> str:
    """The reason with which ends what was addressed to a worker that has gone."""
    return f"worker {id} has gone"


def put_addressed(storage: Storage, id: str, put: Callable[[], str]) -> str:
    """Put a call into the inbox of a living worker; the id of its event. Raises UnknownWorker if there is none."""
    if not is_serving(storage, id):
        raise unknown(id)
    event = put()
    if came_too_late(storage, {id: event}):
        raise unknown(id)
    return event


def came_too_late(storage: Storage, put: dict[str, str]) -> list[str]:
    """Look again after something was put for some workers (their ids with those of the events). Those that have gone
    meanwhile may have been cleared up after already: what was put for them is cancelled here. Of whom it was removed
    with the inbox, so that nothing is stored, the ids are returned."""
    try:
        living = {worker.id for worker in serving(storage)}
        gone = [id for id in put if id not in living]
        return [id for id in gone if _cancelled(storage, id, put[id]) == "unknown"]
    except StorageError as error:
        log.warning("what was put for a worker is stored, but whether that has gone meanwhile is not known: %s", error)
        return []


def _cancelled(storage: Storage, id: str, event: str) -> str:
    return storage.edit(inbox_of(id), [event], Cancel(why_gone(id)))[0]


def clear(storage: Storage, id: str) -> Stats | None:
    """Cancel what waits for a worker that has gone, and remove its queues if nothing is in them.

    Returns what is left in its inbox: results and other ends, until they are pruned, and what it ran, until that is
    brought back; None if nothing is. Raises StorageError.
    """
    inbox, there = inbox_of(id), storage.queues()
    left = _clear_inbox(storage, inbox, why_gone(id)) if inbox in there else None
    if control_of(id) in there:
        storage.drop(control_of(id))  # nobody waits for an answer any more
    return left


def _clear_inbox(storage: Storage, inbox: str, reason: str) -> Stats | None:
    for state in (State.READY, State.DELAYED):
        cursor: str | None = None
        while True:
            page = storage.scan(inbox, state, Filter(), cursor, PAGE)
            storage.edit(inbox, [record.id for record in page.records], Cancel(reason))
            cursor = page.cursor
            if cursor is None:
                break
    left = storage.stats(inbox)
    if holds_anything(left):
        return left
    storage.drop(inbox)
    return None


def holds_anything(stats: Stats) -> bool:
    """Whether a queue has a record of any event."""
    return any(getattr(stats, state.value) for state in State)


def is_shown(storage: Storage, queue: str) -> bool:
    """Whether a queue is one to tell people of: all are but for those of the workers' own that hold no calls, and
    for the inboxes of runs."""
    if RUN_INBOX.match(queue):
        return False
    id = addressee_of(queue)
    return id is None or (queue == inbox_of(id) and holds_anything(storage.stats(queue)))
